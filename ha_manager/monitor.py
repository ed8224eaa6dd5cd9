"""Looking at Postgres, and letting it live: two threads that nothing else may hold up.

Promise: an observation every 100 ms, every 20 ms while something changes that no step proves, every 250 ms while nothing
does; at once when Postgres ends. A Postgres that hangs delays only the next observation, which then is old and counts as
unhealthy. The keeper's lease is renewed only while the main loop is alive and, for a primary, only as long as heartbeat's role
lease plus the restart allowance; past that, Postgres is ended. Source: design §4 rule 5.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Protocol

from ha_manager.observation import Observation
from ha_manager.outlook import Carried, Look
from runtime.errors import HaError, NotRunning

log = logging.getLogger(__name__)

PERIOD, QUICK, CALM = 0.1, 0.02, 0.25
#: the keeper is asked for so long at a time to tell of a change (seconds)
WATCH = 5.0
#: the keeper's lease is renewed so often, at least three times within what it is worth, and sooner when that failed (seconds)
RENEW, AGAIN = 0.3, 0.02
#: the main loop has answered within this time, or it counts as hung (seconds)
LOOP_LIMIT = 1.0
#: a passive's Postgres may run for so long without ha_manager
PASSIVE_TTL = 8.0
#: so may an active's, while nobody else can become active
ALONE_TTL = 30.0
#: a keeper that can't be reached for so long is in trouble
KEEPER_LIMIT = 0.5


class Observed(Protocol):
    def facts(self, limit: float = 0.3) -> Observation: ...
    def renew(self, ttl: float, limit: float = 0.2) -> None: ...
    def attach(self, limit: float = 5.0) -> str: ...
    def kill(self) -> None: ...
    def await_change(self, state: str, limit: float) -> str: ...


class Monitor:
    """Looks; hands each look to ``seen``, from its thread. ``calm``: nothing changes; ``busy``: a step is being carried out: it
    proves what it does by itself, and needs the processor.
    """

    def __init__(
        self,
        database: Observed,
        carried: Callable[[], Carried],
        seen: Callable[[Look], None],
        calm: Callable[[], bool],
        busy: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._db = database
        self._busy = busy
        self._carried = carried
        self._seen = seen
        self._calm = calm
        self._clock = clock
        self._wake = threading.Event()
        self._quick_until = -inf
        self._ended = False

    def nudge(self, seconds: float = 0.0) -> None:
        """Look at once, and for ``seconds`` more often: something changes."""
        self._wake.set()
        self.soon(seconds)

    def soon(self, seconds: float) -> None:
        """Something changes: look at once, and for ``seconds`` more often, but not before the step that goes on has ended."""
        self._quick_until = max(self._quick_until, self._clock() + seconds)
        if not self._busy():
            self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def run(self) -> None:
        while not self._ended:
            began = self._clock()
            self._wake.clear()
            self.look()
            quick = self._clock() < self._quick_until and not self._busy()
            period = QUICK if quick else CALM if self._calm() else PERIOD
            self._wake.wait(max(0.002, period - (self._clock() - began)))

    def watch(self) -> None:
        """In a thread of its own: look at once when the keeper tells that Postgres started or ended."""
        state = "unknown"
        while not self._ended:
            try:
                now = self._db.await_change(state, WATCH)
            except HaError:  # no keeper: the lease's thread starts one
                now = "unknown"
                time.sleep(PERIOD)
            if now != state:
                state = now
                self.nudge()

    def look(self) -> None:
        """One look. The serial is read before it: the observation is later than what it names."""
        carried, at = self._carried(), self._clock()
        self._seen(Look(self._db.facts(), carried.serial, carried.link, at, carried.proven))


class Lease:
    """Renews the keeper's lease. ``loop_alive``: when the main loop last turned; ``role_until``: heartbeat's role lease;
    ``alone``: nobody else can become active before this ha_manager does something, so its restart may take as long as it takes;
    ``report`` gets an alarm's words, and "" when it is over.
    """

    def __init__(
        self,
        database: Observed,
        *,
        loop_alive: Callable[[], float],
        role_until: Callable[[], float],
        allowance: Callable[[], float],
        primary: Callable[[], bool | None],
        alone: Callable[[], bool],
        report: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._db = database
        self._loop_alive = loop_alive
        self._role_until = role_until
        self._allowance = allowance
        self._primary = primary
        self._alone = alone
        self._report = report
        self._clock = clock
        self._renewed_at = clock()
        self._fenced = False
        self._told = ""
        self._wake = threading.Event()
        self._ended = False
        #: seconds until the next turn
        self.period = PERIOD
        #: what is wrong with the keeper; "" if nothing is
        self.trouble = ""

    def nudge(self) -> None:
        """What is wanted has changed: the next renewal is due now."""
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def run(self) -> None:
        while not self._ended:
            self.turn()
            self._wake.wait(self.period)
            self._wake.clear()

    def turn(self) -> None:
        """One renewal, or the reason for none."""
        now = self._clock()
        if now - self._loop_alive() > LOOP_LIMIT:
            return
        ttl, primary = PASSIVE_TTL, self._primary()
        if primary is None:
            return  # just started, nothing seen yet: what the last ha_manager granted still holds
        if primary:
            ttl = self._role_until() + self._allowance() - now
            if ttl <= 0:
                self._fence(-ttl)
                return
            if self._alone():
                ttl = ALONE_TTL
        self._fenced = False
        self.period = min(RENEW, max(QUICK, ttl / 3))
        self._renew(ttl, now)

    def _renew(self, ttl: float, now: float) -> None:
        try:
            self._db.renew(ttl)
        except HaError as wrong:
            # One that is dead is replaced at once, one that is silent after a while.
            if not isinstance(wrong, NotRunning) and now - self._renewed_at < KEEPER_LIMIT:
                self.period = AGAIN
                return
            self._end_keeper(str(wrong), now)
        else:
            self._renewed_at, self.trouble = now, ""
            self._tell("")

    def _end_keeper(self, wrong: str, now: float) -> None:
        """Dead or hung: its Postgres dies with it (PR_SET_PDEATHSIG); what is wanted is started again under a new one."""
        if not self.trouble:
            self._tell(f"the keeper of Postgres does not answer ({wrong}): it is ended and started again")
        self.trouble = wrong
        try:
            self._db.kill()
            self._db.attach()
            self._renewed_at, self.trouble = now, ""
        except (HaError, OSError) as still:
            self.trouble = str(still)

    def _tell(self, text: str) -> None:
        """An alarm, or its end."""
        if text or self._told:
            self._report(text)
        self._told = text

    def _fence(self, late: float) -> None:
        """Heartbeat is gone for longer than its allowance: nobody may find a primary here any more."""
        if self._fenced:
            return
        self._fenced = True
        self._tell(f"heartbeat's role lease ended {late * 1000:.0f} ms beyond its allowance: Postgres is stopped")
        try:
            self._db.kill()
        except HaError as wrong:
            log.error("Postgres can't be stopped: %s; the keeper does it when its own lease ends", wrong)
