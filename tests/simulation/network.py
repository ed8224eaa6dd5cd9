"""Two networks between two servers, a gateway that is the ping node, and a client; each keeps its ARP entry for the VIP.

Promise: a packet passes only while no cut covers its link and direction; it may be late, lost, doubled or overtaken.
TCP-like traffic asks ``open`` itself. Cuts are counted, so that overlapping faults don't heal each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from .engine import Engine

NODES = ("A", "B")
LINKS = ("lan", "ic")
GATEWAY, CLIENT = "gw", "client"


def other(node: str) -> str:
    return "B" if node == "A" else "A"


class Network:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: (what, from, to) → number of faults that cut it. what: a link, or "hb", "repl", "session" on every link
        self.cuts: Counter[tuple[str, str, str]] = Counter()
        #: servers whose port on the LAN is down
        self.ports: Counter[str] = Counter()
        #: servers whose interface of the virtual IP has no link, as their kernels see it
        self.no_carrier: Counter[str] = Counter()
        self.loss: dict[tuple[str, str, str], float] = {}
        #: seconds that a datagram may take longer
        self.delay: dict[tuple[str, str, str], float] = {}
        self.gateway_down = 0
        #: who the gateway and the client believe to hold the VIP: the last one announced wins
        self.arp: dict[str, str | None] = {GATEWAY: None, CLIENT: None}

    def open(self, link: str, source: str, target: str) -> bool:
        """Whether a packet put on ``link`` now would arrive, apart from random loss."""
        if self.cuts[link, source, target]:
            return False
        return not (link == "lan" and self.ports and (self.ports[source] or self.ports[target]))

    def both_ways(self, link: str, one: str, two: str, kind: str) -> bool:
        """Whether a TCP connection of ``kind`` ("repl" or "session") between the servers could make progress."""
        cuts = self.cuts
        return not (cuts[kind, one, two] or cuts[kind, two, one]) and self.open(link, one, two) and self.open(link, two, one)

    def hears(self, source: str, target: str) -> bool:
        """Whether a heartbeat of ``source`` can reach ``target`` on some link."""
        return not self.cuts["hb", source, target] and any(self.open(link, source, target) for link in LINKS)

    def sees_gateway(self, node: str) -> bool:
        return not self.gateway_down and self.open("lan", node, GATEWAY) and self.open("lan", GATEWAY, node)

    def datagram(self, link: str, source: str, target: str, deliver: Callable[..., Any], *args: Any) -> None:
        if not self.open(link, source, target):
            return
        random = self._engine.random.random
        if self.loss and random() < self.loss.get((link, source, target), 0.0):
            return
        luck = random()
        delay = 0.0002 + 0.001 * random() if luck > 0.01 else 0.001 + 0.03 * random()
        if self.delay:
            delay += self.delay.get((link, source, target), 0.0) * random()
        self._engine.after(delay, deliver, *args)
        if luck < 0.004:
            self._engine.after(delay + 0.02 * random(), deliver, *args)

    def announce(self, node: str) -> None:
        """Gratuitous ARP of ``node`` for the VIP."""
        for listener in (GATEWAY, CLIENT):
            self.datagram("lan", node, listener, self._learn, listener, node)

    def _learn(self, listener: str, node: str) -> None:
        self.arp[listener] = node
