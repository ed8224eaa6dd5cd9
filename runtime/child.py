"""Forking a child that has signals of its own.

Promise: a signal that is sent to the child, however early, is the child's: it never reaches the descriptor that wakes its
parent up, where it would look like one to the parent (a heartbeat that breaks off a script would take that for its own end).
"""

from __future__ import annotations

import os
import signal


def fork() -> int:
    """As ``os.fork``; the child begins with every signal blocked, and calls ``listen`` when its own handlers are set."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid == 0:
        signal.set_wakeup_fd(-1)
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def listen() -> None:
    """Take signals from now on; those that came meanwhile first."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
