"""What silence is, and what a decision that rests on it needs besides (design §4, rule 1 and "What stays impossible").

Promise: as ``rules``, of which these are the first: pure questions about a ``Core``'s state. A sign of service ends a silence,
a living host doesn't; a fence agent's success, a majority of the witnesses and the ping node's ARP entry count only for the
attempt they were asked for.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from heartbeat.arpcheck import ANNOUNCED
from heartbeat.model import Epoch, Phase, Times
from heartbeat.signs import VIP

if TYPE_CHECKING:
    from heartbeat.state import Server


class Silence:
    """Predicates over one core. Times: see ``Membership`` for the two clocks."""

    def __init__(self, core: Server) -> None:
        self.core = core
        self.members = core.members
        self.timing = core.timing

    # --- times that both servers must go by: where they are configured differently, the longer one counts

    def their_times(self) -> Times:
        p = self.members.peer
        return p.times if p is not None else Times()

    def deadtime(self) -> float:
        """The active's lease ends within its own deadtime, so a passive waits for the longer one of the two."""
        return max(self.timing.deadtime, self.their_times().deadtime)

    def stale(self) -> float:
        """As long as the active waits for it, a passive is fit; ``solo`` of both is longer than this of both."""
        return max(self.timing.stale, self.their_times().stale)

    def solo(self) -> float:
        """The active goes on alone only when the passive has known for certain that it is no longer fit."""
        return max(self.timing.solo, self.their_times().solo)

    # --- rule 1: evidence before death ----------------------------------------------------------------------------------

    def sign_of_service(self) -> float:
        """Running clock: the last sign that the peer serves; -inf without any. A living host, or a stranger, is none."""
        c = self.core
        reported = self.members.run - (c.now - c.facts_at) - c.facts.sign_age if c.facts.sign_age < inf else -inf
        return max(reported, c.signs.at(VIP))

    def served_lately(self) -> bool:
        """There was a sign of service within deadtime."""
        return self.members.run - self.sign_of_service() < self.deadtime()

    def silence_since(self) -> float:
        """Running clock: since when nothing at all was heard of the peer, this (passive) node being connected throughout."""
        return max(self.members.heard_at, self.members.unconnected_at, self.sign_of_service(), self.core.started_run)

    def silent(self) -> bool:
        """Silence on all links and no sign of service for deadtime."""
        return self.members.run - self.silence_since() >= self.deadtime()

    # --- what a decision by silence needs besides (rules 2, 6b) -----------------------------------------------------------

    def fenced(self) -> bool:
        """What is decided by silence needs the fence agent's success, if there is one."""
        attempt = self.core.attempt
        return not self.core.site.fence or (attempt is not None and attempt.fenced)

    def granted(self, new: Epoch) -> bool:
        """What is decided by silence needs a majority of the witnesses for just this epoch, if there are any."""
        attempt = self.core.attempt
        return not self.core.site.witnesses or (attempt is not None and attempt.granted == new != Epoch())

    # --- the ping node's ARP table (rules 2, 6b) ---------------------------------------------------------------------

    def asks_entry(self) -> bool:
        """The ping node's ARP entry has a say: it answers the VIP (the active found so, and told), and nobody is fenced."""
        c, p = self.core, self.members.peer
        if not c.site.arp_check or c.site.fence:
            return False
        return bool(p and p.arp) if c.phase is Phase.OPENING else not c.arp.unusable

    def entry_taken(self) -> bool:
        """Taking over by silence: the ping node answered what was sent from the VIP after it was taken and announced here."""
        return not self.asks_entry() or self.core.arp.answered_at >= self.core.takeover.vip_taken_run

    def entry_kept(self, silent_since: float) -> bool:
        """Going solo by silence: the entry still points here, later than the passive could have taken it.

        An announcement of this server's own since then, or its repeats, would have taken it back: then the entry says nothing.
        """
        arp = self.core.arp
        said_nothing_since = arp.announced_at + ANNOUNCED < silent_since
        return not self.asks_entry() or (arp.answered_at >= silent_since + self.solo() and said_nothing_since)
