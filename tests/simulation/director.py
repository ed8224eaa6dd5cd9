"""Several directors on one wire, on a virtual clock: the production core under seeded schedules of faults.

Promise: ``play(seed)`` is the same each time; ``world.failures`` names each broken rule with its time, ``world.trace`` tells
how it came to that. Undisturbed is a time in which no message was lost or late and no node was faulted.

| rule                                                                                                | checked             |
|-----------------------------------------------------------------------------------------------------|---------------------|
| priority 0, no link, barred: never master                                                           | always              |
| the addresses are held by a master only, or within the lease of one that was killed                 | always              |
| who hears a better master is not master any more                                                    | always              |
| nobody becomes master within three intervals after it heard one that it accepts                     | always              |
| a master advertises in each interval                                                                | always              |
| two masters: for two intervals at most                                                              | while undisturbed   |
| a master there is after three intervals and the longest skew                                        | while undisturbed   |
| that is the highest priority, if all preempt; it stays, if not                                      | while undisturbed   |
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from director.model import (
    Advertisement,
    Became,
    Configured,
    Designated,
    DropAddresses,
    Event,
    Heard,
    Instance,
    Leave,
    Link,
    SendAdvert,
    Start,
    State,
    TakeAddresses,
    Tick,
    Weighed,
    rank,
)
from director.vrrp import Router

#: seconds: a timer fires so late at most; a message takes so long at most
LATE, DELAY = 0.0005, 0.001
LEASE = 1.0
ADDRESSES = ("10.0.0.250",)


@dataclass
class Node:
    number: int
    instance: Instance
    router: Router | None = None
    holds: bool = False
    held_until: float = -inf
    paused_until: float = -inf
    link: bool = True
    weighed: Weighed = Weighed()
    inbox: list[Advertisement] = field(default_factory=list)
    tick_at: float = inf
    #: when it last heard a master that it has to respect; -inf after one that left
    respected: float = -inf
    respected_interval: float = 0.0
    sent_at: float = -inf

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def master(self) -> bool:
        return self.router is not None and self.router.state is State.MASTER

    @property
    def may_serve(self) -> bool:
        return self.instance.priority > 0 and self.link and not self.weighed.barred

    @property
    def priority(self) -> int:
        return max(1, self.instance.priority - self.weighed.lowered) if self.may_serve else 0


class World:
    def __init__(self, seed: int, make: Callable[[Instance, float], Router] = Router) -> None:
        self.random = random.Random(seed)
        self.make = make
        self.now = 0.0
        self.loss = 0.0
        self.slow = 0.0
        self.cut: set[tuple[int, int]] = set()
        self.disturbed_at = 0.0
        self.failures: list[str] = []
        self.trace: list[str] = []
        self.changes = 0
        self._one_at = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        version = self.random.choice((2, 3, 3))
        self.advert = 1.0 if version == 2 else self.random.choice((0.02, 0.1, 1.0))
        self.skew = 1.0 if version == 2 else self.advert
        self.preempt = self.random.random() < 0.6
        count = self.random.randint(2, 5)
        priorities = [self.random.choice((0, 1, 50, 99, 99, 100, 200, 254, 255)) for _ in range(count)]
        self.nodes = [Node(n, self._instance(n, version, priority)) for n, priority in enumerate(priorities)]
        self._look()

    def _instance(self, number: int, version: int, priority: int) -> Instance:
        own = f"10.0.0.{number + 1}"
        delay = self.random.choice((0.0, 0.0, 4 * self.advert))
        return Instance(51, version, priority, self.advert, ADDRESSES, own, self.preempt, delay)

    # --- time

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._count), call))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until and not self.failures:
            self.now, _, call = heapq.heappop(self._queue)
            call()
        self.now = until

    # --- nodes

    def start(self, node: Node) -> None:
        if node.router is None:
            self.disturb(f"{node.name} starts, priority {node.priority}")
            node.router = self.make(node.instance, self.now)
            node.respected, node.sent_at, node.inbox = -inf, -inf, []
            for event in (Link(node.link, "at the start"), node.weighed, Start()):
                self.feed(node, event)

    def stop(self, node: Node) -> None:
        if node.router is not None and self.now >= node.paused_until:
            self.disturb(f"{node.name} stops")
            self.feed(node, Leave("stopped"))
            node.router, node.tick_at = None, inf

    def kill(self, node: Node) -> None:
        if node.router is not None:
            self.disturb(f"{node.name} is killed")
            node.held_until = self.now + LEASE if node.holds else -inf
            node.router, node.tick_at, node.holds, node.paused_until = None, inf, False, -inf

    def pause(self, node: Node, seconds: float) -> None:
        if node.router is not None:
            self.disturb(f"{node.name} stands still for {seconds:.3f} s")
            node.paused_until = self.now + seconds
            self.at(node.paused_until, lambda: self._wake(node))

    def change(self, node: Node, event: Link | Weighed | Configured) -> None:
        if self.now < node.paused_until:
            self.at(node.paused_until, lambda: self.change(node, event))
            return
        self.disturb(f"{node.name}: {event}")
        match event:
            case Link(up):
                node.link = up
            case Weighed():
                node.weighed = event
            case Configured(instance):
                node.instance = instance
        if node.router is not None:
            self.feed(node, event)

    def _wake(self, node: Node) -> None:
        if self.now < node.paused_until:
            return
        self.disturbed_at = max(self.disturbed_at, self.now)
        waiting, node.inbox = node.inbox, []
        for advert in waiting:
            self.feed(node, Heard(advert))
        self.feed(node, Tick())

    def feed(self, node: Node, event: Event) -> None:
        router = node.router
        if router is None:
            return
        if self.now < node.paused_until and not isinstance(event, Heard):
            self.at(node.paused_until, lambda: self.feed(node, event))
            return
        was_master = node.master
        for effect in router.handle(event, self.now):
            match effect:
                case SendAdvert(priority):
                    self._send(node, priority)
                case TakeAddresses():
                    node.holds = True
                case DropAddresses():
                    node.holds = False
                case Became(state, previous, because):
                    self.changes += 1
                    self.say(f"{node.name} {previous} → {state}: {because}")
                    if state is State.MASTER and previous is State.BACKUP:
                        self._check_silence(node, because)
                case _:
                    pass
        if isinstance(event, Heard):
            self._note(node, event.advert, was_master)
        self._check_node(node)
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        router = node.router
        due = router.deadline() if router is not None else None
        if due is None or due == node.tick_at:
            return
        node.tick_at = due

        def tick() -> None:
            if node.router is router and node.tick_at == due:
                node.tick_at = inf
                self.feed(node, Tick())

        self.at(due + self.random.random() * LATE, tick)

    # --- the wire

    def _send(self, sender: Node, priority: int) -> None:
        instance = sender.instance
        sender.sent_at = self.now
        advert = Advertisement(instance.own, instance.version, instance.vrid, priority, instance.advert, instance.addresses)
        for node in self.nodes:
            if node is sender or node.router is None:
                continue
            if not sender.link or not node.link or (sender.number, node.number) in self.cut or self.random.random() < self.loss:
                self.disturbed_at = max(self.disturbed_at, self.now)
                continue
            delay = self.random.random() * DELAY
            if self.slow:
                self.disturbed_at = max(self.disturbed_at, self.now + self.slow)
                delay += self.random.random() * self.slow
            self.at(self.now + delay, lambda node=node: self._arrive(node, advert))  # type: ignore[misc]

    def _arrive(self, node: Node, advert: Advertisement) -> None:
        if node.router is None:
            return
        if self.now < node.paused_until:
            node.inbox.append(advert)
            self.disturbed_at = max(self.disturbed_at, self.now)
        else:
            self.feed(node, Heard(advert))

    def _designate(self) -> None:
        """What the directors' heartbeats do: the master names the best of the others."""
        for master in [node for node in self.nodes if node.master and self.now >= node.paused_until]:
            others = [n for n in self.nodes if n is not master and n.router is not None and n.may_serve]
            best = max(others, key=lambda n: (n.priority, rank(n.instance.own)), default=None)
            for node in others:
                router = node.router
                if router is not None and router.master == master.instance.own and (master.number, node.number) not in self.cut:
                    self.feed(node, Designated(node is best))

    # --- rules

    def disturb(self, what: str) -> None:
        self.disturbed_at = max(self.disturbed_at, self.now)
        self.say(what)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now:9.4f} {text}")

    def fail(self, what: str) -> None:
        self.say(f"BROKEN {what}")
        self.failures.append(f"{self.now:.4f} {what}")

    def _note(self, node: Node, advert: Advertisement, was_master: bool) -> None:
        if advert.priority == 0:
            node.respected = -inf
            return
        better = (advert.priority, rank(advert.source)) > (node.priority, rank(node.instance.own))
        if was_master and better and node.master:
            self.fail(f"{node.name} stays master beside {advert}")
        patient = node.instance.preempt_delay > 0  # may let a lower one be
        if advert.priority >= node.priority or not (self.preempt or node.instance.priority == 255):
            node.respected, node.respected_interval = self.now, advert.interval
        elif not patient:
            node.respected = min(node.respected, self.now)

    def _check_silence(self, node: Node, because: str) -> None:
        if "successor" not in because and self.now - node.respected < 3 * node.respected_interval:
            self.fail(f"{node.name} becomes master {self.now - node.respected:.4f} s after it heard one ({because})")

    def _check_node(self, node: Node) -> None:
        if node.master and not node.may_serve:
            self.fail(f"{node.name} is master with priority {node.priority}")
        if node.holds != node.master:
            self.fail(f"{node.name} holds the addresses: {node.holds}, but is master: {node.master}")

    def _look(self) -> None:
        self._designate()
        for node in self.nodes:
            if node.master and self.now >= node.paused_until and self.now - self.disturbed_at > self.advert:
                gap = self.now - node.sent_at
                if gap > self.advert * 1.1 + 2 * LATE:
                    self.fail(f"{node.name} is master and has advertised nothing for {gap:.4f} s")
        if any(node.router is not None and self.now < node.paused_until for node in self.nodes):
            self.disturbed_at = max(self.disturbed_at, self.now)
        calm = self.now - self.disturbed_at
        masters = [node for node in self.nodes if node.master]
        able = [node for node in self.nodes if node.router is not None and node.may_serve]
        slack = 4 * (LATE + DELAY)
        if len(masters) < 2:
            self._one_at = self.now
        if min(calm, self.now - self._one_at) > 2 * self.advert + slack:
            self.fail(f"two masters: {', '.join(node.name for node in masters)}")
        down = 3 * self.advert + self.skew + slack
        if able and not masters and calm > down:
            self.fail(f"no master, though {', '.join(node.name for node in able)} could be")
        settled = 2 * down + max(node.instance.preempt_delay for node in self.nodes) + 2 * self.advert
        if masters and self.preempt and calm > settled:
            best = max(node.priority for node in able)
            if masters[0].priority != best:
                self.fail(f"{masters[0].name} is master with priority {masters[0].priority}, though there is one with {best}")
        self.at(self.now + self.advert / 4, self._look)


def _fault(world: World) -> None:
    """One random fault, now; most of them end by themselves."""
    dice, node = world.random, world.random.choice(world.nodes)
    for_ = dice.choice((0.5, 2, 5, 12)) * world.advert
    later = world.now + for_
    match dice.randrange(10):
        case 0:
            other = dice.choice(world.nodes)
            pairs = {(node.number, other.number)} | ({(other.number, node.number)} if dice.random() < 0.6 else set())
            world.disturb(f"cut {sorted(pairs)}")
            world.cut |= pairs
            world.at(later, lambda: (world.disturb(f"healed {sorted(pairs)}"), world.cut.difference_update(pairs)))  # type: ignore[arg-type, return-value]
        case 1:
            world.loss = dice.choice((0.1, 0.5, 1.0))
            world.disturb(f"loss {world.loss:.0%}")
            world.at(later, lambda: setattr(world, "loss", 0.0))
        case 2:
            world.slow = dice.choice((0.5, 2.0)) * world.advert
            world.disturb(f"delays up to {world.slow:.3f} s")
            world.at(later, lambda: setattr(world, "slow", 0.0))
        case 3 | 4:
            world.kill(node)
            world.at(later, lambda: world.start(node))
        case 5:
            world.stop(node)
            world.at(later, lambda: world.start(node))
        case 6:
            world.pause(node, for_)
        case 7:
            world.change(node, Link(False, "no link"))
            world.at(later, lambda: world.change(node, Link(True, "link")))
        case 8:
            weighed = Weighed(0, "its ports fail") if dice.random() < 0.4 else Weighed(dice.choice((1, 20, 60)))
            world.change(node, weighed)
            world.at(later, lambda: world.change(node, Weighed()))
        case 9:
            priority = dice.choice((0, 10, 99, 150))
            world.change(node, Configured(replace(node.instance, priority=priority)))


def play(seed: int, make: Callable[[Instance, float], Router] = Router) -> World:
    """One schedule: the nodes start, a few faults, a calm end; and once more."""
    world = World(seed, make)
    for node in world.nodes:
        world.at(world.random.random() * 3 * world.advert, lambda node=node: world.start(node))  # type: ignore[misc]
    settle = 12 * world.advert + 3 * world.skew + 0.1
    end = settle
    for _ in range(2):
        for _ in range(world.random.randint(1, 4)):
            world.at(end + world.random.random() * 10 * world.advert, lambda: _fault(world))
        end += 22 * world.advert + settle + 4 * world.advert
    world.run(end)
    return world
