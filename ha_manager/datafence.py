"""Heartbeat's data fence as module.xml has it: synchronous or not, solo by silence or by release only, and the maximum lag.

Promise: a level, not an edge. Whatever was interrupted when, heartbeat's own word is compared with the configuration again and
again, ha.cf written (fsync) and heartbeat made to read it, until the two agree; what stands in the way is an alarm. In which
order commits then begin or cease to wait is heartbeat's part (``heartbeat.active``). Source: design §4 rules 6, 7, §6 (SIGHUP).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Protocol

from ha_manager.config import Config
from runtime import hafiles
from runtime.errors import HaError

#: seconds between two attempts
AGAIN = 2.0


class Home(Protocol):
    """What it needs of the daemon."""

    @property
    def config(self) -> Config: ...
    def beside(self, name: str, body: Callable[[], None]) -> None:
        """In a thread: the disk may take its time."""

    def soon(self, call: Callable[[], None]) -> None:
        """Back in the main loop; from any thread."""

    def ask_heartbeat(self, do: str, then: Callable[[dict[str, Any]], None]) -> bool: ...
    def alarm(self, name: str, text: str) -> None: ...


class DataFence:
    """Runs in the main loop, but for the file."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._again_at = -inf
        #: what heartbeat was told last
        self._told: tuple[bool, str, int] | None = None

    def look(self, status: Mapping[str, Any], now: float) -> None:
        """Heartbeat has told its status."""
        configured = status.get("replication", {}).get("configured")
        if configured is None:
            return
        wanted = self._home.config.fence
        if (configured["synchronous"], configured["solo"], configured["maximum_lag"]) == wanted:
            self._home.alarm("data-fence", "")
            self._again_at = -inf
        elif now >= self._again_at or wanted != self._told:
            self._again_at, self._told = now + AGAIN, wanted
            self._home.beside("data fence", lambda: self._write(wanted))

    def _write(self, wanted: tuple[bool, str, int]) -> None:
        try:
            hafiles.set_fence(self._home.config.host.paths.heartbeat_etc, *wanted)
        except (HaError, OSError) as wrong:
            text = str(wrong)
            self._home.soon(lambda: self._failed(text))
        else:
            self._home.soon(lambda: self._tell_heartbeat())

    def _tell_heartbeat(self) -> None:
        def then(answer: dict[str, Any]) -> None:
            if not answer.get("ok"):
                self._failed(str(answer.get("error", "refused without a reason")))

        self._home.ask_heartbeat("reload", then)

    def _failed(self, because: str) -> None:
        self._home.alarm("data-fence", f"heartbeat can't be given what module.xml says of replication: {because}; tried again")
