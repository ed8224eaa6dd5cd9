"""Watching the Manager, which watches us: who died or hangs is started again by the other.

Promise: a Manager is started again only if it died (its pid file names no living process) or hangs (it does not answer
``ping``), never if it was stopped as asked, which removes its pid file. Runs in a thread of its own. Source:
docs/protocols.md ("Who watches whom").
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ha_manager.host import Host
from runtime import pidfile
from runtime.commands import run
from runtime.control import Client
from runtime.errors import HaError
from runtime.proctree import kill_tree, other_session

log = logging.getLogger(__name__)

PERIOD = 1.0
HANG_LIMIT = 5.0
START_LIMIT = 60.0
#: seconds between two attempts to start it
PAUSE = 10.0


class ManagerWatch:
    """``report`` gets an alarm's words, and "" when the Manager answers again."""

    def __init__(self, host: Callable[[], Host], report: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._host = host
        self._report = report
        self._clock = clock
        self._answered_at = clock()
        self._next_try = 0.0
        self._told = ""
        self._manager: Client | None = None
        self._wake = threading.Event()

    def end(self) -> None:
        self._wake.set()

    def run(self) -> None:
        while not self._wake.wait(PERIOD):
            try:
                self.turn()
            except (HaError, OSError) as wrong:
                log.warning("watching the Manager: %s", wrong)

    def turn(self) -> None:
        """One look; starts it again if that is needed."""
        host, now = self._host(), self._clock()
        if self._manager is not None and self._answers(host):
            self._answered_at = now
            self._tell("")
            return
        file = host.paths.manager_run / "manager.pid"
        if not file.exists():
            self._answered_at = now
            return
        found = pidfile.find(file)
        if found is not None and self._answers(host):
            self._answered_at = now
            self._tell("")
            return
        if now < self._next_try or (found is not None and now - self._answered_at < HANG_LIMIT):
            return
        self._next_try = now + PAUSE
        if found is not None:
            self._tell(f"the Manager (pid {found.pid}) has not answered for {HANG_LIMIT:g} s: it is killed and started again")
            # Its processes have sessions of their own and go on: only the Manager itself is ended.
            kill_tree(found.pid, found.start, spare=other_session(found.pid))
        else:
            self._tell("the Manager has died: it is started again")
        run([*host.commands.manager_init, "start"], timeout=START_LIMIT)
        self._answered_at = self._clock()

    def _tell(self, text: str) -> None:
        if text or self._told:
            self._report(text)
        self._told = text

    def _answers(self, host: Host) -> bool:
        """Over a connection that stays. When it breaks, the next turn makes a new one: there is time for several."""
        try:
            if self._manager is None:
                self._manager = Client(host.paths.manager_run / "control", 2.0, name="the Manager")
            self._manager.request("ping")
        except HaError:
            if self._manager is not None:
                self._manager.close()
            self._manager = None
            return False
        return True
