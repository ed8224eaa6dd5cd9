"""The heartbeat process around a production ``Core``: its socket, its writer, its timers, and how it is killed, stopped and
restarted.

Promise: events reach the core one at a time and effects are carried out in list order; a planned crash falls between two of
them.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from heartbeat.model import (
    SERVING,
    AskGrant,
    Boot,
    DropVip,
    Effect,
    Epoch,
    Event,
    Exit,
    Facts,
    Fence,
    ForceStop,
    ForceStopped,
    Garp,
    Gate,
    Heard,
    LinkChanged,
    ManagerLost,
    Message,
    Persist,
    Persisted,
    PersistFailed,
    Ping,
    PingFromVip,
    PingReply,
    PingSent,
    Probe,
    RefreshLease,
    Resume,
    RoleChanged,
    Send,
    TakeVip,
    Tick,
    Want,
)

from .network import LINKS
from .trace import brief

if TYPE_CHECKING:
    from heartbeat.election import Core

    from .server import Server

#: datagrams that the socket keeps while the process stands still
SOCKET = 64
#: effects worth crashing between
#: a disk that does not answer for so long is lost (heartbeat.writer; seconds)
LOST = 10.0
HEAVY = (Persist, TakeVip, DropVip, Want, Gate, RoleChanged, Fence, AskGrant)


class Heartbeat:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.engine = server.engine
        self.core: Core | None = None
        self.running = False
        self.stopped = 0
        self.life = 0
        self.left = False
        #: a crash to come: (lists of heavy effects still to pass, "kill" or "power")
        self.crash: tuple[int, str] | None = None
        self._inbox: deque[Event] = deque()
        self._link_down = False
        self._answers: deque[Persisted | PersistFailed] = deque()
        #: when what the disk has not answered was given to it
        self._asked_at: deque[float] = deque()
        self._busy = False
        self._tick_at = inf
        self._now = self._facts_at = 0.0

    @property
    def works(self) -> bool:
        return self.running and not self.stopped

    # --- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        server = self.server
        if self.running or not server.alive or self.left:
            return
        self.running, self.stopped = True, 0
        self.life += 1
        server.disk.generation += 1
        boot = Boot(server.disk.generation, self.engine.random.getrandbits(32))
        now = server.clock()
        resume = Resume(server.role_epoch, server.role_expires) if server.role_expires > now else Resume()
        world = server.world
        self.core = world.make_core(world.sites[server.name], boot, server.disk.record, resume, now)
        server.trace(f"heartbeat starts, run {boot.generation}, disk {brief(server.disk.record)}, {brief(resume)}")
        self._now = self._facts_at = now
        self._tick_at = inf
        self._link_down = False
        self.feed(Tick())
        self.tell_link()
        server.later(0.01, self.offer_want)

    def end(self) -> None:
        """The process is gone."""
        self.running = False
        self.core = None
        self.life += 1
        self.stopped = 0
        self._inbox.clear()
        self._answers.clear()
        self._asked_at.clear()

    def kill(self) -> None:
        if self.running:
            self.server.trace("heartbeat is killed")
            self.server.disk.interrupt()
            self.end()
            self.server.restart(self)

    def stop(self) -> int:
        """SIGSTOP; returns what ``go_on`` must be told."""
        if self.running:
            self.server.trace("heartbeat stands still")
            self.stopped += 1
        return self.life

    def go_on(self, life: int) -> None:
        """SIGCONT: timers and the socket are served in either order."""
        if life != self.life or not self.stopped:
            return
        self.stopped -= 1
        if self.stopped:
            return
        self.server.trace("heartbeat goes on")
        if self.engine.random.random() < 0.5:
            self._inbox.appendleft(Tick())
        self._tick_at = inf
        self._run()

    # --- events ---------------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        if not self.running:
            return
        if self.stopped and isinstance(event, Heard | PingReply) and len(self._inbox) > SOCKET:
            return
        self._inbox.append(event)
        self._run()

    def tell_link(self) -> None:
        """The kernel's word on the interface of the virtual IP."""
        down = self.server.world.network.no_carrier[self.server.name] > 0
        if self.running and down != self._link_down:
            self._link_down = down
            self.feed(LinkChanged("lan", not down, True))

    def hears(self, link: str, message: Message) -> None:
        self.feed(Heard(link, message))

    def take_facts(self, facts: Facts, connection: int) -> None:
        if self.running and connection in (0, self.life):
            self._facts_at = self.server.clock()
            self.feed(facts)

    def watch_manager(self) -> None:
        core = self.core
        if self.works and core is not None and not core.manager_lost:
            silent = self.server.clock() - self._facts_at
            if silent > self.server.timing.allowance:
                self.feed(ManagerLost(f"it has not reported for {silent * 1000:.0f} ms"))

    def offer_want(self) -> None:
        """ha_manager and heartbeat have found each other: the newest want is sent again."""
        if self.works and self.core is not None:
            self.server.manager.take(self.core.want, self.life)

    def _run(self) -> None:
        if self._busy:
            return
        self._busy = True
        life = self.life
        while self._inbox and life == self.life and not self.stopped:
            event = self._inbox.popleft()
            core = self.core
            assert core is not None
            world = self.server.world
            # as in the daemon: each event of a turn a little later than the one before
            self._now = max(self.server.clock(), self._now + 1e-6)
            effects = core.handle(event, self._now)
            if world.tracing:
                world.note_step(self.server.name, event, effects)
            if world.aimed:
                world.aim(self.server.name, effects)
            self._carry_out(effects, life)
        self._busy = False
        if self.running and not self.stopped:
            if life == self.life:
                self._arm()
            elif self._inbox:
                self._run()

    def _arm(self) -> None:
        core = self.core
        assert core is not None
        deadline = core.deadline()
        if deadline is not None and deadline < self._tick_at - 1e-6:
            self._tick_at = deadline
            # a process is never woken early, and mostly a little late
            delay = max(self.server.until(deadline), 0.0001) + 0.001 * self.engine.random.random()
            self.server.later(delay, self._tick, self.life, deadline)

    def _tick(self, life: int, at: float) -> None:
        if life != self.life or at != self._tick_at or self.core is None:
            return
        self._tick_at = inf
        if self.stopped:
            return
        deadline = self.core.deadline()
        if deadline is not None and deadline <= self.server.clock():
            self.feed(Tick())
        else:
            self._arm()

    # --- effects --------------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect], life: int) -> None:
        until = len(effects)
        crash = self.crash
        if crash is not None and any(isinstance(e, HEAVY) for e in effects):
            self.crash = (crash[0] - 1, crash[1])
            if crash[0] <= 1:
                until = self.engine.random.randint(0, len(effects))
        for effect in effects[:until]:
            self._execute(effect)
            if life != self.life:
                return
        if crash is not None and self.crash is not None and self.crash[0] <= 0:
            self.crash = None
            self.server.trace(f"crash after {until} of {len(effects)} effects ({crash[1]})")
            if crash[1] == "power":
                self.server.power_off()
            else:
                self.kill()

    def _execute(self, effect: Effect) -> None:
        server = self.server
        match effect:
            case Send(message):
                self._send(message)
            case Ping(seq):
                self._ping(seq)
            case RefreshLease():
                server.refresh_lease(self._epoch())
            case Persist(serial, record):
                life = self.life
                server.world.checks.persists(server, record)
                self._asked_at.append(self.engine.now)
                server.disk.write(record, lambda ok: self._written(life, serial, ok))
            case Want():
                server.later(0.001, server.manager.take, effect, self.life)
            case TakeVip():
                server.take_vip()
                server.refresh_lease(self._epoch())
            case Garp():
                server.announce()
            case DropVip():
                server.drop_vip()
            case Gate(is_open):
                server.gate = is_open
            case RoleChanged():
                server.world.checks.role_changed(server, effect)
            case ForceStop(because):
                self._force_stop(because)
            case Probe() | PingFromVip() | Fence() | AskGrant():
                server.world.backing.carry_out(server, effect)
            case Exit():
                self._leave()

    def _epoch(self) -> Epoch:
        assert self.core is not None
        return self.core.disk.epoch

    def _written(self, life: int, serial: int, ok: bool) -> None:
        if life == self.life:
            self._asked_at.popleft()
            self._answers.append(Persisted(serial) if ok else PersistFailed(serial, "no space left on device"))
            self.server.later(0.0, self._answer, life)

    def _answer(self, life: int) -> None:
        """The writer's answers come through a pipe: in their order."""
        if life == self.life:
            self.feed(self._answers.popleft())

    def _send(self, message: Message) -> None:
        server = self.server
        network = server.world.network
        peer = server.peer
        if network.cuts["hb", server.name, peer.name] or self._lost():
            return
        for link in LINKS:
            network.datagram(link, server.name, peer.name, peer.packet, peer.heartbeat.hears, link, message)

    def _lost(self) -> bool:
        """As the edge: a passive whose disk hangs can do nothing for the pair, and is not heard."""
        assert self.core is not None
        waits = self.engine.now - self._asked_at[0] if self._asked_at else 0.0
        return waits > LOST and self.core.phase not in SERVING

    def _ping(self, seq: int) -> None:
        server = self.server
        for node, members in server.world.ping_nodes.items():
            self._inbox.append(PingSent(node, seq))
            for member in members:
                if server.world.network.sees(server.name, member):
                    self.engine.after(self.engine.between(0.0003, 0.0015), server.packet, self.feed, PingReply(node, seq))

    def _force_stop(self, because: str) -> None:
        server = self.server
        if server.manager.hung:
            server.manager.kill()
            server.restart(server.manager)
        server.later(self.engine.between(0.01, 0.04), self._force_stopped, self.life)

    def _force_stopped(self, life: int) -> None:
        self.server.postgres.hung = 0
        self.server.postgres.kill()
        if life == self.life:
            self.feed(ForceStopped())

    def _leave(self) -> None:
        core = self.core
        self.server.trace("heartbeat ends")
        assert core is not None
        self.left = core.leaving != "restart"
        self.server.disk.interrupt()
        self.end()
        if not self.left:
            self.server.restart(self)
