"""Starts a program as process 1 of a new set of namespaces, optionally inside those of another process.

    spawn.py [--join PID] [--channel FD] -- PROGRAM ARGUMENT...

Promise: returns as soon as the program is on its way; the program inherits the channel, a Unix socket on which it says hello,
so that whoever holds the other end learns its process id as seen from out there (SCM_CREDENTIALS). With ``--join`` it dies
with that process, whatever happens. A process of its own, because fork and unshare aren't for programs with threads. Standard
library only. Source: pid_namespaces(7).
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # started as a file, with -I -S
from lab import syscalls as sc


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--join", type=int)
    options.add_argument("--channel", type=int)
    options.add_argument("program", nargs="+")
    given = options.parse_args()
    if given.channel is not None:
        os.set_inheritable(given.channel, True)
    if given.join:
        for kind in ("pid", "mnt"):
            sc.join(given.join, kind)
    if os.fork():
        return
    os.setsid()
    sc.unshare(sc.CLONE_NEWPID | sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC)
    if os.fork():
        os._exit(0)
    os.execv(given.program[0], given.program)


if __name__ == "__main__":
    main()
