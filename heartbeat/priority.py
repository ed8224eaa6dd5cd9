"""Real-time priority, as early as a process can ask for it.

Promise: imports nothing but os, so that it comes before everything that takes time: a heartbeat that was killed on a busy
server has to be back within its lease, and most of its start is imports. Source: design §5 ("real-time priority if the system
allows").
"""

from __future__ import annotations

import os


def hurry(priority: int = 1, inherited: bool = True) -> str:
    """Ask for it; "" or why not. ``inherited``: by children too (a daemon detaches by forking)."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | (0 if inherited else os.SCHED_RESET_ON_FORK), os.sched_param(priority))
    except OSError as error:
        return f"no real-time priority ({error.strerror}): a busy server may be taken for dead; `realtime off` accepts that"
    return ""


def relax() -> None:
    """An ordinary process again."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
