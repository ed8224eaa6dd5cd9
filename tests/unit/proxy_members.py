"""Members of a proxy group on a virtual network, with a virtual clock: the real codec, freshness and core of each."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from director.buckets import Table
from director.discovery import Counters, Dropped, Freshness, Kind, Message, decode, encode
from director.group import Group
from director.groupmodel import Deaf, Drain, Effect, Event, Heard, Listen, Report, Role, Say, Send, Successor, Tick, Wire
from director.members import Member

KEY, LBID, BUCKETS, HEARTBEAT = b"k" * 32, 51, 1024, 0.25
HTTP, FTP = "tcp 80,443", "tcp 21"


@dataclass
class Host:
    """One member; what it decided, and what went past it."""

    world: World
    number: int
    priority: int = 0
    own_share: float = 1.0
    group: Group = field(init=False)
    said: list[str] = field(default_factory=list)
    drains: list[bool] = field(default_factory=list)
    up: bool = True
    #: nothing reaches it, but what the switch says now and then
    deaf: bool = False
    listening: bool = False
    applied: int = 0
    #: kernel: who goes on with what it serves, as last applied
    serving: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.start()

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @property
    def ip(self) -> str:
        return f"10.0.0.{self.number}"

    def start(self) -> None:
        """A new life: another number, nothing known."""
        me = Member(
            mac=self.mac,
            name=f"node{self.number}",
            ip=self.ip,
            places={"10.0.0.200": (self.mac, self.ip)},
            priority=self.priority,
            own_share=self.own_share,
            ports={HTTP: True, FTP: True},
        )
        self.freshness = Freshness(self.world.random.getrandbits(64) | 1)
        self.counters = Counters()
        self.counter = 0
        self.group = Group(me, [HTTP, FTP], BUCKETS, HEARTBEAT, self.world.now)

    def give(self, event: Event) -> None:
        for effect in self.group.handle(event, self.world.now):
            self._do(effect)
        assert self.group.deadline() > self.world.now, "it would be woken for nothing again and again"

    def report(self, **changes: object) -> None:
        self.give(Report(replace(self.group.me, **changes)))  # type: ignore[arg-type]

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(kind, body, to, echo):
                self.counter += 1
                echoes = self.freshness.echo(*([echo] if echo else []))
                message = Message(kind, LBID, self.freshness.session, self.counter, self.mac, {**body, "echo": echoes})
                self.world.post(self, to, encode(message, KEY))
            case Say(text):
                self.said.append(text)
            case Drain(on):
                self.drains.append(on)
                self.report(draining=on)
            case Listen(on):
                first, self.listening = on and not self.listening, on
                if on:
                    self.give(Wire(first or self.world.frames(self)))
            case Successor() | Deaf():
                pass
            case _:
                self.applied += 1
                self.serving = frozenset(self.group.serving(HTTP))

    def receive(self, data: bytes, source: str) -> None:
        try:
            message = decode(data, KEY, LBID)
            fresh = self.freshness.accept(message)
        except Dropped as dropped:
            self.counters.dropped[dropped.because] += 1
            return
        self.give(Heard(message, source, fresh))

    def table(self, key: str = HTTP) -> Table:
        return self.group.tables.current[key]

    def counts(self, key: str = HTTP) -> dict[str, int]:
        names = {host.mac: host.group.me.name for host in self.world.hosts}
        return {names[mac]: count for mac, count in self.table(key).counts().items()}


class World:
    def __init__(self, members: int, seed: int = 1, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.wire: list[tuple[Host, str, bytes]] = []
        #: whether there is anybody besides the members: clients, a gateway
        self.others = True
        #: a switch with frames of its own, so many seconds apart
        self.switch = 0.0
        self.recorded: list[tuple[str, bytes]] = []
        self.cut: set[frozenset[int]] = set()
        self.hosts: list[Host] = []
        self.hosts += [Host(self, number, priority=100 - number) for number in range(1, members + 1)]

    def post(self, sender: Host, to: str, data: bytes) -> None:
        self.wire.append((sender, to, data))
        self.recorded.append((sender.ip, data))

    def deliver(self) -> None:
        while self.wire:
            sender, to, data = self.wire.pop(0)
            for host in self.hosts:
                apart = frozenset((host.number, sender.number)) in self.cut
                if host is sender or not host.up or host.deaf or not sender.up or apart or to not in ("", host.ip):
                    continue
                if self.random.random() >= self.loss:
                    host.receive(data, sender.ip)

    def frames(self, host: Host) -> bool:
        """Whether any came to it within the last heartbeat: each neighbour was asked."""
        own = self.switch > 0 and self.now % self.switch < HEARTBEAT
        return own or (self.others and not host.deaf)

    def run(self, seconds: float, step: float = 0.05) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for host in self.hosts:
                if host.up:
                    host.give(Tick())
            self.deliver()

    def directs(self, host: Host) -> None:
        for other in self.hosts:
            if other is not host and other.group.is_director and other.up:
                other.give(Role(False))
        host.give(Role(True))
        self.deliver()

    def agree(self, key: str = HTTP) -> bool:
        """Everybody who is up holds the same buckets in force."""
        return len({host.table(key) for host in self.hosts if host.up and key in host.group.tables.current}) == 1 and all(
            key in host.group.tables.current for host in self.hosts if host.up
        )


def group_of(members: int, seed: int = 1, loss: float = 0.0) -> World:
    """Up, directed by the first, settled."""
    world = World(members, seed)
    world.run(1.0)
    world.directs(world.hosts[0])
    world.run(2.0)
    world.loss = loss
    return world


__all__ = ["Kind"]
