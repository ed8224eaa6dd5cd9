"""Takes a lab down when the process that asked for it ends, however it ends.

    watch.py LAB OWNER_PID

Promise: prints its own process id once it watches, then outlives terminals and signals meant for the owner's group. Source:
design §2 ("leaves nothing behind"); pidfd_open(2).
"""

from __future__ import annotations

import os
import select
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # started as a file
from lab.api import Lab


def main() -> None:
    name, owner = sys.argv[1], int(sys.argv[2])
    handle = os.pidfd_open(owner)
    if child := os.fork():
        print(child, flush=True)
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    select.select([handle], [], [])
    Lab(name).down()


if __name__ == "__main__":
    main()
