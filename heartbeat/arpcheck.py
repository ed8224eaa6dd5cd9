"""The ping node's ARP table as a third opinion: whose address the virtual IP is, seen from the clients' network.

Promise: an answer to an echo request that was sent *from the VIP* proves that the ping node's entry pointed here when it
answered. The check tests itself while the peer is in contact, when nobody else can hold the VIP: no answer then means that it
can't be used on this network, which is an alarm, and decisions are taken as if it were not configured. Source: design §4,
"What stays impossible"; facts/safety-model.md, "The gateway's ARP table".
"""

from __future__ import annotations

from math import inf

from heartbeat.membership import Membership

#: seconds after taking or announcing the VIP in which the edge may still repeat it (``vip.ANNOUNCE_AT``)
ANNOUNCED = 6.0
#: pings whose answers are still waited for
_REMEMBERED = 64


class ArpCheck:
    """Pings from the VIP, on the running clock of ``members``."""

    def __init__(self, members: Membership) -> None:
        self._members = members
        self._sent: dict[int, float] = {}
        self._sent_at = -inf
        self._seq = 0
        #: when the newest answered ping was sent; since when pings have been sent without a gap
        self.answered_at = -inf
        self.since = inf
        #: when this server last announced the VIP: from then on the entry says nothing about who took it before
        self.announced_at = -inf
        #: what the edge says against it; what the self-test says ("": usable; None: not known yet)
        self.refused = ""
        self.tested: str | None = None

    @property
    def usable(self) -> bool:
        """The ping node is known to answer the VIP when it is here."""
        return self.tested == "" and not self.refused

    @property
    def unusable(self) -> str:
        """Why it can't be used; "" if it can, or if that is not known yet."""
        return self.refused or self.tested or ""

    @property
    def due(self) -> float:
        """Boottime of the next ping from the VIP: each keepalive, each ping period from warntime of silence on."""
        m = self._members
        period = m.timing.keepalive if m.silent_for() < m.timing.warntime else m.timing.ping_period
        return m.paused + self._sent_at + period

    def next(self) -> int:
        """The number of the ping that is due; 0: none is."""
        m = self._members
        if m.now < self.due:
            return 0
        if m.run - self._sent_at > 2 * m.timing.keepalive:
            self.since = m.run
        self._seq += 1
        self._sent_at = self._sent[self._seq] = m.run
        if len(self._sent) > _REMEMBERED:
            del self._sent[next(iter(self._sent))]
        return self._seq

    def answer(self, seq: int) -> None:
        self.answered_at = max(self.answered_at, self._sent.get(seq, -inf))

    def unanswered_for(self) -> float:
        """Seconds for which pings were sent and none of them was answered."""
        return self._members.run - max(self.answered_at, self.since)

    def test(self) -> None:
        """The self-test; to be called only while this server is active, in contact with its passive, and connected."""
        if self.answered_at >= self.since and self.unanswered_for() < self._members.timing.ping_dead:
            self.tested = ""
        elif self.unanswered_for() >= self._members.timing.deadtime:
            self.tested = "the ping node answers this server, but not what is sent from the virtual IP"
