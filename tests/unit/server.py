"""One server's core under a test's hand: its disk, its ha_manager and its peer are values that the test sets.

Not a simulation (tests/simulation is): nothing happens here that the test did not ask for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from heartbeat.election import Core
from heartbeat.model import (
    Boot,
    Database,
    Effect,
    Epoch,
    Event,
    Facts,
    Heard,
    Message,
    Names,
    Persist,
    Persisted,
    Phase,
    Ping,
    PingReply,
    PingSent,
    Record,
    Resume,
    Send,
    Site,
    Standby,
    Tick,
    Want,
)
from heartbeat.timing import PROFILES, Timing

SITE = Site("vs-166", "vs-28", "vs-166", ("192.168.120.1",), ("eth0", "eth1"))
TIMING = PROFILES["recommended"]
STEP = 0.02
NEW = Record()
NO_RESUME = Resume()


class Server:
    """``vs-166`` of a pair; by default it hears its ping node, its disk answers at once, its ha_manager does what is wanted."""

    def __init__(self, record: Record = NEW, resume: Resume = NO_RESUME, site: Site = SITE, timing: Timing = TIMING) -> None:
        self.now = 100.0
        self.boot = Boot(7, 77)
        self.core = Core(site, timing, self.boot, record, resume, self.now)
        self.peer: Message | None = None
        self.peer_speaks = True
        self.peer_hears = True
        self.pings = True
        self.disk = True
        self.manager = True
        self.facts = Facts(postgres=Database.STANDBY, healthy=True, because="", data="ready", timeline=1, lsn=1000)
        self.want: Want | None = None
        self.did: list[Effect] = []
        self.said: Message | None = None
        self._peer_seq = 0
        self.beat_at = -1.0

    def give(self, event: Event) -> list[Effect]:
        """One event, and then the answers of the parts that work; returns the effects of the event itself."""
        effects = self.core.handle(event, self.now)
        answers: deque[Event] = deque()
        self._carry_out(effects, answers)
        while answers:
            self._carry_out(self.core.handle(answers.popleft(), self.now), answers)
        return effects

    def _carry_out(self, effects: list[Effect], answers: deque[Event]) -> None:
        self.did += effects
        for effect in effects:
            match effect:
                case Send(message):
                    self.said = message
                case Ping(seq):
                    answers.append(PingSent("192.168.120.1", seq))
                    if self.pings:
                        answers.append(PingReply("192.168.120.1", seq))
                case Persist(serial, _) if self.disk:
                    answers.append(Persisted(serial))
                case Want():
                    self.want = effect

    def hear(self, **fields: object) -> None:
        """The peer speaks now; what is not given stays as it said last."""
        base = self.peer or Message("vs-28", Boot(3, 33), 0)
        self._peer_seq += 1
        self.peer = replace(base, seq=self._peer_seq, **fields)  # type: ignore[arg-type]
        if self.peer_hears:
            self.peer = replace(self.peer, echo_boot=self.boot, echo_seq=self.core.seq)
        self.beat_at = self.now
        self.give(Heard("eth0", self.peer))

    def run(self, seconds: float) -> None:
        """Time passes in small steps; the peer (if it speaks) and ha_manager (if it lives) go on as set."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += STEP
            if self.peer and self.peer_speaks and self.now - self.beat_at >= TIMING.keepalive:
                self.hear()
            if self.manager:
                serial = self.want.serial if self.want else 0
                postgres = self.want.postgres if self.want and self.want.postgres is not Database.KEEP else self.facts.postgres
                self.facts = replace(self.facts, serial=serial, postgres=postgres)
                self.give(self.facts)
            self.give(Tick())

    def kinds(self) -> list[str]:
        return [type(effect).__name__ for effect in self.did]


PEER_ACTIVE = {"phase": Phase.ACTIVE, "epoch": Epoch(4, "vs-28"), "highest": 4, "calls_in_sync": 900, "vip": True}
PEER_PASSIVE = {"phase": Phase.PASSIVE, "epoch": Epoch(4, "vs-166"), "highest": 4, "data": "ready", "connected": True}


def let_go() -> Server:
    """A former active that has handed over as an operator asked, to a passive that still is one."""
    server = active_in_sync()
    server.give(Standby("root"))
    server.facts = replace(server.facts, prepared=True)
    server.run(0.5)
    server.hear()
    assert server.core.phase is Phase.PASSIVE and server.core.disk.stood_down, server.core.because
    return server


def passive_in_sync() -> Server:
    """A passive, in sync and fit, of an active that is heard."""
    server = Server()
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    server.run(1.0)
    assert server.core.disk.in_sync, server.core.because
    return server


def active_in_sync(timing: Timing = TIMING) -> Server:
    """An active whose passive is in sync and fit."""
    server = Server(Record(epoch=Epoch(4, "vs-166"), active=True), Resume(Epoch(4, "vs-166"), 100.4), timing=timing)
    server.facts = replace(server.facts, postgres=Database.PRIMARY, proven=900, names=Names.ENFORCED, caught_up=True)
    server.hear(**PEER_PASSIVE, in_sync=True, fit=True)
    server.run(0.5)
    server.hear()
    assert server.core.phase is Phase.ACTIVE, server.core.because
    return server
