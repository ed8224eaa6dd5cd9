"""Forking a child that has signals of its own, and one that hears of its parent's end.

Promise: a signal that is sent to the child, however early, is the child's: it never reaches the descriptor that wakes its
parent up, where it would look like one to the parent (a heartbeat that breaks off a script would take that for its own end).
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


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


def signal_at_parents_end(number: int) -> None:
    """The kernel sends this process ``number`` when the *thread* that started it ends (prctl(2)); a change of user undoes it. A
    parent that has ended before is not told: ask ``os.getppid`` after it. Raises OSError.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def listen() -> None:
    """Take signals from now on; those that came meanwhile first."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
