"""Two networks between two servers, a gateway that is a ping node (there may be more), and a client; both keep an ARP entry
for the VIP.

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
#: ping nodes, each a group of which one must answer: the gateway alone, or three of which two are needed
ONE_NODE: dict[str, tuple[str, ...]] = {GATEWAY: (GATEWAY,)}
THREE_NODES = ONE_NODE | {"gw2": ("gw2",), "routers": ("r1", "r2")}


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
        #: seconds within which every datagram comes once more
        self.doubled: dict[tuple[str, str, str], float] = {}
        #: members of ping nodes that are off, by how many faults
        self.down: Counter[str] = Counter()
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

    def sees(self, node: str, target: str) -> bool:
        """Whether ``target``, on the LAN, would answer an echo request of ``node``."""
        return not self.down[target] and self.open("lan", node, target) and self.open("lan", target, node)

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
        if self.doubled and (within := self.doubled.get((link, source, target), 0.0)):
            self._engine.after(delay + within * random(), deliver, *args)
        if luck < 0.004:
            self._engine.after(delay + 0.02 * random(), deliver, *args)

    def announce(self, node: str) -> None:
        """Gratuitous ARP of ``node`` for the VIP."""
        for listener in (GATEWAY, CLIENT):
            self.datagram("lan", node, listener, self._learn, listener, node)

    def _learn(self, listener: str, node: str) -> None:
        self.arp[listener] = node
