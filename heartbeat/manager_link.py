"""ha_manager as heartbeat sees it: one connection of the control socket, which gets wants and gives facts.

Promise: the newest want is sent at once on every change, again to a new connection, and as a sign of life with every heartbeat,
or a keepalive later; no facts for the allowance is ``ManagerLost``, once, and a restart within it goes unnoticed. Time that
heartbeat itself did not run doesn't count against ha_manager. Source: docs/protocols.md, "heartbeat"; design §4 rule 5.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import inf
from typing import Any, Protocol

from heartbeat.model import Facts, ManagerLost, Want
from heartbeat.wants import facts_from_json, want_to_json

log = logging.getLogger(__name__)


class Connection(Protocol):
    """``runtime.channel.Channel``."""

    def send(self, message: Mapping[str, Any]) -> None: ...
    def close(self, because: str = "") -> None: ...


class ManagerLink:
    def __init__(self, keepalive: float, allowance: float) -> None:
        self._keepalive = keepalive
        self._allowance = allowance
        self._connection: Connection | None = None
        self._want: Want | None = None
        self._sent_at = -inf
        self._facts_at = inf
        self._nonsense = ""
        self._greets = False
        #: CLOCK_BOOTTIME until which the role that the want stands for is good
        self.expires = 0.0
        #: the peer has not been heard for warntime
        self.silent = False

    @property
    def reporting(self) -> bool:
        """Facts come, or came within the allowance."""
        return self._facts_at < inf

    def connected(self, connection: Connection, now: float, *, greets: bool = False) -> None:
        """This connection is ha_manager from now on; an older one is closed, so that only one is believed. One that ``greets``
        is followed by another one of the same process, which is nothing to wonder at.
        """
        if self._connection is not None and self._connection is not connection:
            old, self._connection = self._connection, None
            if self._greets:
                old.close()
            else:
                log.warning("another ha_manager connected; the connection of the first one is closed")
                old.close("replaced by a newer connection of ha_manager")
        self._connection, self._greets = connection, greets
        self._send(now)

    def closed(self, connection: object) -> None:
        if connection is self._connection:
            self._connection = None

    def want(self, want: Want, now: float) -> None:
        self._want = want
        self._send(now)

    def facts(self, connection: object, document: object, now: float) -> Facts | None:
        """The facts that ha_manager sent; None, with one line in the log, if they can't be understood."""
        if connection is not self._connection:
            return None
        try:
            facts = facts_from_json(document)
        except ValueError as error:
            if str(error) != self._nonsense:
                log.error("ha_manager's report can't be used: %s", error)
            self._nonsense = str(error)
            return None
        self._nonsense = ""
        self._facts_at = now
        return facts

    def paused(self, gap: float) -> None:
        """Heartbeat did not run for ``gap`` seconds."""
        self._facts_at += gap

    @property
    def due(self) -> float:
        """When ``tick`` has something to do."""
        speaks = self._connection is not None and self._want is not None
        return min(self._sent_at + self._keepalive if speaks else inf, self._facts_at + self._allowance)

    def beat(self, now: float) -> None:
        """A heartbeat goes out: a good moment for the sign of life, which then needs no wake-up of its own."""
        if now > self._sent_at:
            self._send(now)

    def tick(self, now: float) -> ManagerLost | None:
        # The same sums as in ``due``: a difference could round to "not yet" for ever.
        if now >= self._sent_at + self._keepalive:
            self._send(now)
        if now < self._facts_at + self._allowance:
            return None
        self._facts_at = inf
        how = "its connection is closed" if self._connection is None else "it is connected but reports nothing"
        return ManagerLost(f"no report for {self._allowance * 1000:.0f} ms ({how})")

    def _send(self, now: float) -> None:
        if self._connection is not None and self._want is not None:
            self._sent_at = now
            told = {"push": "want", "want": want_to_json(self._want), "expires": round(self.expires, 3), "silent": self.silent}
            self._connection.send(told)
