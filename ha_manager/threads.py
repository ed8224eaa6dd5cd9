"""The threads of ha_manager, beside its main loop.

Promise: none ends unnoticed. One that a bug ended would be missed only when it is needed, so it is told and begins again. Those
whose silence costs a role, or Postgres its lease, are on time on a busy server. Source: docs/concepts.md ("On a busy server").
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

from ha_manager.punctual import Punctual
from runtime import memory

log = logging.getLogger(__name__)

#: threads whose silence costs a role, or Postgres its lease
ON_TIME = frozenset({"monitor", "lease"})
#: pause of a thread that an internal error ended (seconds)
AGAIN = 1.0
#: a thread that computes lets another one go on after so long (seconds); the main loop needs a few turns to report
SWITCH = 0.001


class Threads:
    def __init__(self, punctual: Punctual) -> None:
        self._punctual = punctual

    def be_on_time(self) -> None:
        """The main loop, in its own thread, and the whole process."""
        sys.setswitchinterval(SWITCH)
        self._punctual.join("of the main loop")
        for refused in (memory.lock("ha_manager", touched=True), self._punctual.refused):
            if refused:
                log.warning("%s", refused)

    def start(self, name: str, body: Callable[[], None]) -> None:
        threading.Thread(target=self._run, args=(name, body), name=name, daemon=True).start()

    def _run(self, name: str, body: Callable[[], None]) -> None:
        if name in ON_TIME:
            self._punctual.join(name)
        while True:
            try:
                return body()
            except Exception:
                log.exception("the thread %s ended because of an internal error; it begins again", name)
                time.sleep(AGAIN)
