"""Process 1 of a lab: its namespaces are the switch and the machines' shared root; with its end everything of the lab ends.

    anchor.py --channel FD SPEC        (SPEC: JSON {"lower", "upper", "work", "merged"}; started by ``spawn``)

Promise: the machines' lower layer (host root + installed layer) is mounted in a mount namespace nobody else sees, so that no
mount can be left behind; every machine is a descendant of this process's pid namespace, so the kernel ends them all with it.
Says ``ready`` or ``failed: reason`` on the channel. Standard library only. Source: design §2; pid_namespaces(7), overlayfs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # started as a file, with -I -S
from lab import syscalls as sc


def prepare(spec: dict[str, str]) -> None:
    sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
    sc.mount("proc", "/proc", "proc", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    layers = f"lowerdir={spec['lower']},upperdir={spec['upper']},workdir={spec['work']}"
    sc.mount("overlay", spec["merged"], "overlay", 0, layers)


def wait_for_the_end() -> None:
    """Reap machines that end, until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    while signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) != signal.SIGTERM:
        reap()


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--channel", type=int, required=True)
    options.add_argument("--lab", required=True)
    options.add_argument("spec")
    given = options.parse_args()
    with socket.socket(fileno=given.channel) as channel:
        try:
            prepare(json.loads(given.spec))
        except OSError as wrong:
            channel.send(f"failed: {wrong}".encode())
            raise SystemExit(1) from wrong
        channel.send(b"ready")
    wait_for_the_end()


if __name__ == "__main__":
    main()
