"""A program that may run only as long as somebody permits it.

Promise: until it ends by itself, or the permission (a connection that the other side closes, or says something on) does, or it
does nothing any more; then nothing of it is left. One that is stopped is woken. Used by the forced commands that sshd runs for
rsync.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from .pulse import Pulse, group_of

REFUSED = 3
#: nothing of it moves for so long: longer than rsync itself waits for the other end (seconds)
HUNG = 60.0
LOOK = 5.0


def run(argv: Sequence[str], permission: socket.socket, ended: str) -> int:
    """Its exit status; ``ended`` is said on stderr, with ``REFUSED``, if it was the permission that ended."""
    child = subprocess.Popen(argv, process_group=0)
    end = os.pidfd_open(child.pid)
    pulse = Pulse(lambda: group_of(child.pid))
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        selector.register(permission, selectors.EVENT_READ)
        while not selector.select(LOOK) and pulse.quiet() < HUNG:
            pass
    if child.poll() is None:
        print(ended, file=sys.stderr)
        for number in (signal.SIGTERM, signal.SIGKILL):  # asked first: it keeps what it has of a large file
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
        return REFUSED
    os.close(end)
    return child.returncode if child.returncode >= 0 else REFUSED
