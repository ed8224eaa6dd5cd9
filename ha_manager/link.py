"""The link to heartbeat: its wants come in, our facts go out.

Promise: connects again by itself, as long as it takes; facts go out every 100 ms and at once on every change; a want of an
earlier connection is never mistaken for one of this. A report goes with heartbeat's own sign of life where one is due about
then, so that neither process wakes up twice. Runs in the main loop. Source: docs/protocols.md ("heartbeat": ``manager``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ha_manager.orders import Facts, Want, facts_to, want_from
from runtime.control import LoopClient
from runtime.errors import ControlError
from runtime.loop import Loop, Timer

log = logging.getLogger(__name__)

PERIOD = 0.1
RECONNECT = 0.05
#: A report answers a sign of life of heartbeat's if the last one is older than this; the next one comes a little sooner then,
#: and the one after it, when another sign of life is due, a little later (parts of a period)
_DUE, _SOONER, _LATER = 0.5, 0.9, 1.15


class Listener(Protocol):
    """Who hears of heartbeat; called in the main loop."""

    def linked(self) -> None:
        """A new connection: serials begin anew."""

    def unlinked(self, because: str) -> None: ...

    def wanted(self, want: Want) -> None:
        """Another want than before on this connection."""

    def turned(self) -> None:
        """A report goes out, or would if there were a link; or heartbeat gave a sign of life."""


class HeartbeatLink:
    """``facts`` makes the report of this moment; ``period``: seconds, the least that heartbeat counts on."""

    def __init__(
        self,
        path: Path,
        loop: Loop,
        listener: Listener,
        facts: Callable[[], Facts],
        period: Callable[[], float] = lambda: PERIOD,
    ) -> None:
        self._period = period
        self._path = path
        self._loop = loop
        self._listener = listener
        self._facts = facts
        self._client: LoopClient | None = None
        self._sent: Facts | None = None
        self._sent_at = 0.0
        self._ended = False
        self._timer = Timer(lambda: None)
        self._why = ""
        #: ``want``, as it came
        self._came: object = None
        self.want: Want | None = None
        #: CLOCK_BOOTTIME until which heartbeat's role lease is valid, as it said last
        self.role_until = 0.0
        #: heartbeat has not heard the peer for warntime
        self.silent = False
        #: when anything last came over the link; 0: never
        self.heard_at = 0.0

    @property
    def connected(self) -> bool:
        return self._client is not None

    @property
    def why(self) -> str:
        """Why there is no link."""
        return self._why

    def start(self) -> None:
        self._beat_after(_LATER)
        self._connect()

    def end(self) -> None:
        self._ended = True
        if self._client is not None:
            self._client.close()

    def request(self, do: str, fields: Mapping[str, Any], then: Callable[[dict[str, Any]], None]) -> bool:
        """Ask heartbeat; False if there is no link. ``then`` may never be called if the link breaks."""
        if self._client is None:
            return False
        self._client.request(do, fields, then)
        return True

    def report(self) -> None:
        """Something changed: send the facts if they are new, or due."""
        if self._client is None:
            return
        facts, now = self._facts(), self._loop.now()
        if self._sent is not None and now - self._sent_at < self._period() * 0.9 and alike(facts, self._sent):
            return
        self._send(facts, _LATER)

    def _send(self, facts: Facts, next_after: float) -> None:
        assert self._client is not None
        self._sent, self._sent_at = facts, self._loop.now()
        self._beat_after(next_after)
        self._client.request("facts", {"facts": facts_to(facts)})

    def _beat_after(self, periods: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_after(self._period() * periods, self._beat)

    def _beat(self) -> None:
        if self._ended:
            return
        self._listener.turned()
        if self._client is None:
            self._beat_after(_LATER)
        else:
            self._send(self._facts(), _LATER)

    def _answer(self) -> None:
        """Heartbeat gave a sign of life: give one, too, unless that was just done."""
        self._listener.turned()
        if self._client is not None and self._loop.now() - self._sent_at >= self._period() * _DUE:
            self._send(self._facts(), _SOONER)

    def _connect(self) -> None:
        if self._ended:
            return
        try:
            self._client = LoopClient(self._path, self._loop.selector, on_push=self._push, on_close=self._closed)
        except ControlError as wrong:
            self._why = str(wrong)
            self._loop.call_after(RECONNECT, self._connect)
            return
        self.want, self._sent, self._why = None, None, ""
        self._listener.linked()
        self._client.request("manager", {}, self._accepted)
        self.report()

    def _accepted(self, answer: dict[str, Any]) -> None:
        if not answer.get("ok"):
            self._why = str(answer.get("error", "refused"))
            log.error("heartbeat does not take this ha_manager: %s", self._why)
            if self._client is not None:
                self._client.close()
        elif "want" in answer:
            self._push(answer | {"push": "want"})

    def _closed(self, because: str) -> None:
        self._client = None
        self._why = because or "heartbeat closed the connection"
        self._listener.unlinked(self._why)
        if not self._ended:
            self._loop.call_after(RECONNECT, self._connect)

    def _push(self, message: dict[str, Any]) -> None:
        self.heard_at = self._loop.now()
        if message.get("push") != "want":
            return
        expires = message.get("expires")
        if isinstance(expires, int | float):
            self.role_until = float(expires)
        self.silent = message.get("silent") is True
        came = message.get("want", message)
        if (came != self._came or self.want is None) and not self._take(message):
            return
        self._came = came
        self._answer()

    def _take(self, message: dict[str, Any]) -> bool:
        """A want that did not come like the one before. False if it is none."""
        try:
            want = want_from(message)
        except ValueError as wrong:
            log.error("heartbeat sent something that is no want: %s", wrong)
            return False
        if want != self.want:
            self.want = want
            self._listener.wanted(want)
        return True


def alike(one: Facts, two: Facts) -> bool:
    """Equal but for what changes all the time."""
    quiet: dict[str, Any] = {"lsn": 0, "beyond": 0, "sign_age": 0.0, "stalled": 0.0, "behind": 0}
    same = (one.stalled > 0) == (two.stalled > 0) and (one.behind < 0) == (two.behind < 0)
    return same and replace(one, **quiet) == replace(two, **quiet)
