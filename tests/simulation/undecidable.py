"""The one case that nobody can decide (design §4, "What stays impossible"), taken as narrowly as it can be.

Promise: ``untold`` only after one server took over by silence while both ran and saw the ping node and nothing could pass
between them, whatever cuts that was made of, and only until what it says could have reached the other one for a while;
``split`` only if the other one, in the same run of its heartbeat, went on alone by silence before that. A cut in one direction,
a server that stood still, or one that had lost its ping node for longer than the rules forgive, excuses nothing.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from heartbeat.model import SERVING, Phase
from heartbeat.rules import Rules

from .network import NODES

if TYPE_CHECKING:
    from .server import Server
    from .world import World

#: what is looked at each 50 ms, and takes its time to be answered (seconds)
SLACK = 0.1
#: a path that was open for so many deadtimes has told the other one
TOLD = 0.5


class Undecidable:
    def __init__(self, world: World) -> None:
        self.world = world
        #: a takeover happened that the other server could not know of; both decided by silence
        self.blind = self.split = False
        #: the ping node's ARP table was not asked: of several ping nodes that one was off, and the check unusable (an alarm)
        self.unasked = False
        self._taker: Server | None = None
        self._life = 0
        self._open = 0.0
        self._apart_at = -inf
        #: when each server could reach each ping node, and when it ran, as last looked
        self._seen: dict[str, dict[str, float]] = {name: dict.fromkeys(world.ping_nodes, -inf) for name in NODES}
        self._ran = dict.fromkeys(NODES, -inf)
        #: for how long its heartbeat, or the machine, stood still since it could last reach one: it doesn't count that
        self._still = dict.fromkeys(NODES, 0.0)
        #: a heartbeat began anew, or ended, since the last look: it begins to listen anew
        self.anew, self._lives = False, (0, 0)

    @property
    def untold(self) -> bool:
        """The other server can't know yet of the takeover."""
        return self._taker is not None

    def look(self, period: float) -> None:
        network, now = self.world.network, self.world.engine.now
        for name, server in self.world.servers.items():
            if server.alive and not server.paused:
                self._ran[name] = now
            self._still[name] += period if server.paused or server.heartbeat.stopped else 0.0
            for node, members in self.world.ping_nodes.items():
                if any(network.sees(name, member) for member in members):
                    self._seen[name][node], self._still[name] = now, 0.0
        if self._apart():
            self._apart_at = now
        taker, lives = self._taker, (self.world.servers["A"].heartbeat.life, self.world.servers["B"].heartbeat.life)
        if taker is not None:
            self._open += period if self._tells(taker) else 0.0
            # a solo one keeps its role over a pause, and takes it up again after a boot
            gone = not self.split and not self._runs(taker.peer)
            if self._open > TOLD * self.world.timing.deadtime or gone:
                self._taker = None
        self.anew, self._lives = lives != self._lives, lives

    def took_over(self, server: Server) -> None:
        """``server`` takes over by silence."""
        self._note_unasked(server)
        self.look(0.0)
        now, timing, peer = self.world.engine.now, self.world.timing, server.peer
        apart = now - self._apart_at <= timing.keepalive + SLACK
        sees = self._unpinged(server) - self._still[server.name] <= timing.ping_dead + SLACK
        seen = self._unpinged(peer) <= timing.isolation + SLACK
        if apart and sees and seen and self._runs(peer):
            self.blind = True
            self._taker, self._life, self._open = server, peer.heartbeat.life, 0.0

    def went_solo(self, server: Server) -> None:
        """``server`` goes on alone by silence."""
        self._note_unasked(server)
        if self._taker is server.peer and self._life == server.heartbeat.life:
            self.split = True

    def _note_unasked(self, server: Server) -> None:
        setting, core = self.world.setting, server.heartbeat.core
        self.unasked |= setting.arp_check and setting.ping_quorum > 1 and core is not None and bool(core.arp.unusable)

    def _unpinged(self, server: Server) -> float:
        """Seconds since enough ping nodes had been within reach of ``server``."""
        newest = sorted(self._seen[server.name].values(), reverse=True)
        return self.world.engine.now - newest[self.world.setting.ping_quorum - 1]

    def _runs(self, server: Server) -> bool:
        """It does, or stands still for so short that it hasn't lost its role by that."""
        ran = self.world.engine.now - self._ran[server.name]
        return server.alive and ran <= self.world.timing.isolation + SLACK

    def _tells(self, taker: Server) -> bool:
        """What the one who took over says now would arrive: its heartbeat's word, or over the session its ha_manager's.

        Once both are active, it is the one to yield that must hear the other one (rule 8).
        """
        if self.split:
            return self._yields(taker) or self._yields(taker.peer)
        if not taker.alive or taker.paused:
            return False
        heard = taker.heartbeat.works and self.world.network.hears(taker.name, taker.peer.name)
        return heard or (self._talk() and (taker.heartbeat.works or taker.manager.want is not None))

    def _yields(self, server: Server) -> bool:
        core, peer = server.heartbeat.core, server.peer
        if core is None or not (server.heartbeat.works and peer.heartbeat.works and peer.alive) or server.paused or peer.paused:
            return False
        if core.members.peer is None or not self.world.network.hears(peer.name, server.name):
            return False
        if core.phase is Phase.OPENING and core.saving:
            return False  # what may reach the disk can't be taken back: it yields, if it must, when it has
        if not core.rules.rival():
            # it is about to hear of the other one, if that serves just now, not in a lower epoch, and nothing delays its words
            told = peer.heartbeat.core
            serves = told is not None and told.phase in SERVING and told.disk.epoch.number >= core.disk.epoch.number
            return serves and not self.world.network.delay
        return core.outdone or Rules.rival_wins(core.rules)

    def _talk(self) -> bool:
        a, b = self.world.servers.values()
        works = a.manager.works and b.manager.works and a.alive and b.alive
        return works and self.world.network.both_ways(self.world.session_link, "A", "B", "session")

    def _apart(self) -> bool:
        """Both run, and nothing can pass between them."""
        a, b = self.world.servers.values()
        network = self.world.network
        if not (a.alive and b.alive) or network.hears("A", "B") or network.hears("B", "A"):
            return False
        return not self._talk() and not network.both_ways(self.world.replication_link, "A", "B", "repl")
