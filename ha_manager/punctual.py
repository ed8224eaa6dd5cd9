"""The threads of ha_manager that others count on: on time on a busy server, and never a burden to it.

Promise: whoever has ``joined`` runs with a real-time priority below heartbeat's, if the system allows; what it starts, a
thread or a child, is ordinary. One that needs more than ``SHARE`` of a core over ``PERIOD`` is ordinary until it has calmed
down, and the log says so. Only threads whose silence costs a role, or Postgres its lease, belong here; those that copy,
compute or run commands don't. Source: docs/concepts.md ("On a busy server"); design §4 rule 5.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runtime.priority import LATE_REPORTER, REPORTER, hurry, relax

log = logging.getLogger(__name__)

#: of a core; a thread needs less than a hundredth of it
SHARE = 0.5
#: seconds
PERIOD = 5.0


@dataclass
class _Member:
    name: str
    #: the kernel's number, and the clock of its processor time
    number: int
    clock: int
    used: float
    hurried: bool = True


class Punctual:
    """``look`` is called now and then, by the main loop."""

    def __init__(self, clock: Callable[[], float], period: float = PERIOD) -> None:
        self._clock = clock
        self._period = period
        self._lock = threading.Lock()
        self._members: list[_Member] = []
        self._looked_at = clock()
        #: what the system refused, in words; "" if nothing
        self.refused = ""

    def join(self, name: str) -> None:
        """This thread, from now on."""
        if refused := hurry(REPORTER, inherited=False, late=LATE_REPORTER):
            self.refused = refused
            return
        clock = time.pthread_getcpuclockid(threading.get_ident())
        member = _Member(name, threading.get_native_id(), clock, time.clock_gettime(clock))
        with self._lock:
            self._members = [each for each in self._members if each.number != member.number] + [member]

    def look(self) -> None:
        now = self._clock()
        if (elapsed := now - self._looked_at) < self._period:
            return
        self._looked_at = now
        with self._lock:
            self._members = [member for member in self._members if self._judge(member, elapsed)]

    def _judge(self, member: _Member, elapsed: float) -> bool:
        """False if it is no more."""
        try:
            used = time.clock_gettime(member.clock)
        except OSError:
            return False
        share, member.used = (used - member.used) / elapsed, used
        if member.hurried and share > SHARE:
            relax(member.number)
            member.hurried = False
            log.warning("the thread %s needs %.0f %% of a core: it is an ordinary one for now", member.name, share * 100)
        elif not member.hurried and share < SHARE / 2:
            member.hurried = not hurry(REPORTER, inherited=False, thread=member.number)
        return True
