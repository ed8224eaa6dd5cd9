"""Noticing a process that lives but doesn't work: it doesn't answer ``ping`` on its control socket.

Promise: a process that doesn't answer for its limit is reported, once, at most one tick later. The limit is counted in ticks of
this Manager, so a pause of the Manager or of the whole machine counts as one tick and kills nobody. A socket that isn't there
(or refuses) gets three times as long, since that may be a process in the middle of its start or end.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.channel import Message
from runtime.control import LoopClient
from runtime.errors import ControlError
from runtime.loop import Loop, Timer

_TICKS = 8


class HangWatch:
    """Pings ``path`` until closed. ``on_hang`` gets the reason in words; nothing more comes after that."""

    def __init__(self, loop: Loop, path: str, limit: float, on_hang: Callable[[str], None]) -> None:
        self._loop = loop
        self._path = path
        self._limit = limit
        self._on_hang = on_hang
        self._client: LoopClient | None = None
        self._asked = False
        self._silent = 0
        self._unreachable = 0
        self._timer: Timer | None = None
        self._tick()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        client, self._client = self._client, None
        if client is not None and not client.closed:
            client.close()

    def _tick(self) -> None:
        self._timer = self._loop.call_after(self._limit / _TICKS, self._tick)
        if self._client is None:
            self._connect()
        elif self._asked:
            self._silent += 1
            if self._silent >= _TICKS:
                self._report(f"hangs: no answer on {self._path} for {self._limit:g} s")
        else:
            self._ask()

    def _connect(self) -> None:
        try:
            self._client = LoopClient(self._path, self._loop.selector, on_push=lambda _: None, on_close=self._closed)
        except ControlError as unreachable:
            self._unreachable += 1
            if self._unreachable >= 3 * _TICKS:
                self._report(f"can't be reached for {3 * self._limit:g} s: {unreachable}")
            return
        self._silent = 0
        self._ask()

    def _ask(self) -> None:
        if self._client is not None:
            self._asked = True
            self._silent = 0
            self._client.request("ping", then=self._answered)

    def _answered(self, answer: Message) -> None:
        self._asked = False
        self._unreachable = 0

    def _closed(self, because: str) -> None:
        self._client = None
        self._asked = False

    def _report(self, because: str) -> None:
        self.close()
        self._on_hang(because)
