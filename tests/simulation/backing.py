"""What stands beside the pair: what a silent peer still shows, the ping node's ARP entry, fence devices, witnesses.

Promise: a MAC answers for the VIP exactly while its server would answer a client; an echo request from the VIP is answered to
whom the gateway's ARP entry names when it arrives; a fenced server is without power before the agent says so; a witness grants
what safety-model.md says, once, and keeps it over its own crashes. Source: design §4; facts/safety-model.md, "The gateway's ARP
table" and "Witnesses".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heartbeat.model import (
    ArpAnswer,
    AskGrant,
    Epoch,
    Event,
    Fence,
    Fenced,
    Granted,
    PingFromVip,
    Probe,
    Sign,
)

from .network import GATEWAY, LINKS

if TYPE_CHECKING:
    from .server import Server
    from .world import World

#: seconds after which a witness that says nothing is given up
WITNESS_LIMIT = 0.3


class Backing:
    """One for the world; everything that it does for a server ends with that server's heartbeat."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine = world.engine
        self.witnesses = [Epoch()] * world.setting.witnesses
        #: faults: a stranger answers for the VIP; fence devices that fail; witnesses that can't be reached (by number)
        self.strangers = 0
        self.unfenced: Counter[str] = Counter()
        self.unreached: Counter[int] = Counter()

    def carry_out(self, server: Server, effect: Probe | PingFromVip | Fence | AskGrant) -> None:
        match effect:
            case Probe():
                self._probe(server)
            case PingFromVip(seq):
                if server.answers() and self.world.network.open("lan", server.name, GATEWAY):
                    self._later(server, 0.0005, self._at_gateway, server, seq)
            case Fence(because):
                server.trace(f"fences {server.peer.name}: {because}")
                self._later(server, self.engine.between(0.2, 4.0), self._fence, server)
            case AskGrant(have, new):
                self._ask(server, have, new)

    def _later(self, server: Server, delay: float, call: Callable[..., Any], *args: Any) -> None:
        server.later(delay, self._fire, server, server.heartbeat.life, call, args)

    @staticmethod
    def _fire(server: Server, life: int, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if life == server.heartbeat.life:
            call(*args)

    def _feed(self, server: Server, event: Event) -> None:
        server.heartbeat.feed(event)

    # --- signs (rule 1) -------------------------------------------------------------------------------------------------

    def _probe(self, server: Server) -> None:
        network, peer = self.world.network, server.peer
        if self.strangers:
            self._later(server, 0.001, self._feed, server, Sign("stranger", "lan", "02:00:00:00:00:99 answers for the VIP"))
        if not peer.alive or peer.paused:
            return
        for link in LINKS:
            if network.open(link, server.name, peer.name) and network.open(link, peer.name, server.name):
                self._later(server, 0.001, self._feed, server, Sign("host", link, f"{peer.name} answers ping"))
                if link == "lan" and peer.answers():
                    self._later(server, 0.001, self._feed, server, Sign("vip", link, f"{peer.name} answers for the VIP"))

    # --- the ping node's ARP entry --------------------------------------------------------------------------------------

    def _at_gateway(self, server: Server, seq: int) -> None:
        network = self.world.network
        if not network.down[GATEWAY] and network.arp[GATEWAY] == server.name and network.open("lan", GATEWAY, server.name):
            self._later(server, 0.0005, self._feed, server, ArpAnswer(seq))

    # --- fence devices --------------------------------------------------------------------------------------------------

    def _fence(self, server: Server) -> None:
        peer = server.peer
        if self.unfenced[peer.name]:
            self._feed(server, Fenced(False, "the power switch does not answer"))
            return
        if peer.alive:
            peer.power_off()
            self.engine.after(self.engine.between(1.0, 3.0), peer.power_on)
        self._feed(server, Fenced(True, "off"))

    # --- witnesses ------------------------------------------------------------------------------------------------------

    def _ask(self, server: Server, have: Epoch, new: Epoch) -> None:
        """Every witness is asked; the answer is a majority's, or that there is none."""
        votes: list[bool] = []
        for number in range(len(self.witnesses)):
            if self._reaches(server, number):
                self.engine.after(self.engine.between(0.001, 0.01), self._vote, server, number, have, new, votes)
        self._later(server, WITNESS_LIMIT, self._count, server, new, votes, True)

    def _reaches(self, server: Server, number: int) -> bool:
        return not self.unreached[number] and self.world.network.sees(server.name, GATEWAY)

    def _vote(self, server: Server, number: int, have: Epoch, new: Epoch, votes: list[bool]) -> None:
        kept = self.witnesses[number]
        granted = have.number >= kept.number and new.number > kept.number
        if granted:
            self.witnesses[number] = new
        if self._reaches(server, number):
            # asked again for the very epoch that it granted, it says so again: the answer may have been lost
            votes.append(granted or kept == new)
            self._later(server, 0.001, self._count, server, new, votes, False)

    def _count(self, server: Server, new: Epoch, votes: list[bool], at_last: bool) -> None:
        needed = len(self.witnesses) // 2 + 1
        if len(votes) > len(self.witnesses):
            return  # said already
        if votes.count(True) >= needed:
            votes.extend([True] * len(self.witnesses))
            self._feed(server, Granted(new, True, ""))
        elif votes.count(True) < needed and (at_last or votes.count(False) == needed):
            self._feed(server, Granted(new, False, f"{votes.count(True)} of {needed} witnesses needed agree"))
