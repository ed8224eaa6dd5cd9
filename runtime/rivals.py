"""Others that claim a virtual address which this server holds: told, and answered, never obeyed.

Promise: a claim from another MAC is an alarm with that MAC, and the peer's name if it is the peer's, until nobody has repeated
it for ``OVER_AFTER``, or the peer, whose claim it was, is heard to serve no more; the addresses are announced again one second
later (when two servers are active after a partition, the core decides within that second, and the one that lets go must not
have the last word), and then at most every ten seconds (RFC 5227 §2.4 c and DEFEND_INTERVAL). It never changes a role: anybody
on the network can send such a packet. Who only answers is found by asking now and then. After the last rival, and when the peer
is back in contact and not serving, everybody is told once more where the addresses are. Pure.
Source: RFC 5227 §2.4; facts/linux-ha-heartbeat.md ("stale ARP after failover or heal").
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

#: seconds: between questions while nobody claims, and while somebody does
ASK_PERIOD, ASK_RIVAL_PERIOD = 10.0, 2.0
#: seconds without a further claim after which a rival is gone
OVER_AFTER = 7.0
DEFEND_DELAY, DEFEND_INTERVAL = 1.0, 10.0


@dataclass(frozen=True)
class Ask:
    """Ask who has each of the addresses."""


@dataclass(frozen=True)
class Announce:
    """Tell everybody where the addresses are."""

    because: str


@dataclass(frozen=True)
class Told:
    """The alarm about one address; "": nobody claims it any more."""

    address: str
    text: str


Order = Ask | Announce | Told


@dataclass
class Rival:
    mac: str
    seen: float
    #: it is the other server
    peer: bool = False


class Rivals:
    """Who claims what, while this server holds the addresses."""

    def __init__(self) -> None:
        self.rivals: dict[str, Rival] = {}
        self._held = False
        self._alone = True
        self._ask_at = inf
        self._defend_at = inf
        self._defended = -inf

    def held(self, held: bool, now: float) -> list[Order]:
        """Whether this server holds the addresses; to be told at every turn."""
        if held is self._held:
            return []
        self._held = held
        self._ask_at = now if held else inf
        self._defend_at = inf
        gone = [Told(address, "") for address in self.rivals]
        self.rivals = {}
        return list(gone)

    def claimed(self, address: str, mac: str, now: float, peer: str = "") -> list[Order]:
        """Another MAC than this server's speaks for ``address``; ``peer``: the other server's name, if it is its MAC."""
        if not self._held:
            return []
        known = self.rivals.get(address)
        self.rivals[address] = Rival(mac, now, bool(peer))
        if self._defend_at == inf:
            self._defend_at = max(now + DEFEND_DELAY, self._defended + DEFEND_INTERVAL)
        self._ask_at = min(self._ask_at, now + ASK_RIVAL_PERIOD)
        if known and known.mac == mac:
            return []
        who = f"{peer} ({mac})" if peer else mac
        return [Told(address, f"{who} claims the virtual address {address}, which this server holds")]

    def peer(self, serving_too: bool, in_contact: bool, now: float) -> list[Order]:
        """How the peer is heard; to be told at every turn. Back, and not a rival: what its side of a cut knew may be stale, and
        what it claimed until then it has let go.
        """
        alone = not in_contact or serving_too
        back = self._alone and not alone
        self._alone = alone
        if not back or not self._held:
            return []
        gone = [address for address, rival in self.rivals.items() if rival.peer]
        for address in gone:
            del self.rivals[address]
        return [*(Told(address, "") for address in gone), Announce("the other server is heard again")]

    def deadline(self) -> float:
        return min(self._ask_at, self._defend_at)

    def tick(self, now: float) -> list[Order]:
        orders: list[Order] = []
        if now >= self._ask_at:
            orders += self._over(now)
            self._ask_at = now + (ASK_RIVAL_PERIOD if self.rivals else ASK_PERIOD)
            orders.append(Ask())
        if now >= self._defend_at:
            self._defend_at, self._defended = inf, now
            orders.append(Announce("another one claims the virtual address"))
        return orders

    def _over(self, now: float) -> list[Order]:
        gone = [address for address, rival in self.rivals.items() if now - rival.seen >= OVER_AFTER]
        for address in gone:
            del self.rivals[address]
        told: list[Order] = [Told(address, "") for address in gone]
        return [*told, Announce("nobody else claims the virtual address any more")] if gone else []
