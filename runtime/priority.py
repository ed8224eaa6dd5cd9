"""Real-time priority for the few threads that others count on, as early as a process can ask for it.

Promise: it is asked for and not needed: what the system refuses is returned in words, to be logged once. Unless it is to be
``inherited``, whatever such a thread starts, a child or another thread, is ordinary again; the kernel sees to that
(SCHED_RESET_ON_FORK). Imports nothing but os, so that it comes before everything that takes time: a heartbeat that was killed
on a busy server has to be back within its lease, and most of its start is imports. Source: design §5 ("real-time priority if
the system allows"); sched(7).
"""

from __future__ import annotations

import os

#: heartbeat's, unless ha.cf says otherwise (``rtprio``), and that of whoever must never be in its way: those who report to it,
#: and the director, whose silence costs a second, not the role of a database
HEARTBEAT, REPORTER = 2, 1
DIRECTOR = REPORTER
#: what comes of it in heartbeat; and in ha_manager, which has no such setting
LATE_HEARTBEAT = "a busy server may be taken for dead; `realtime off` accepts that"
LATE_REPORTER = "a busy server may be taken for one whose ha_manager hangs"


def hurry(priority: int = HEARTBEAT, inherited: bool = True, *, thread: int = 0, late: str = LATE_HEARTBEAT) -> str:
    """Ask for it, for this thread or the one with that number in the kernel; "" or why not. ``inherited``: by children too (a
    daemon detaches by forking).
    """
    # Round robin among equals below heartbeat: none of them waits for ever for one that doesn't end.
    policy = os.SCHED_FIFO if priority > REPORTER else os.SCHED_RR
    try:
        os.sched_setscheduler(thread, policy | (0 if inherited else os.SCHED_RESET_ON_FORK), os.sched_param(priority))
    except OSError as error:
        return f"no real-time priority ({error.strerror}): {late}"
    return ""


def relax(thread: int = 0) -> None:
    """An ordinary thread again; ``thread``: its number in the kernel, 0: this one."""
    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
