"""How the director shares out the buckets of each redirect: step by step, so that no connection meets a node that doesn't know
whom to ask.

Promise: buckets of a member that can't serve move at once, all others ``FEW`` at a time and in three steps: those who take them
know, the director switches, all know. One that doesn't confirm in time isn't waited for. Pure. Source: design §8;
facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from director.balance import PERIOD, Load, corrected
from director.buckets import Buckets, Move, Table
from director.groupmodel import Apply, Effect, Known, Say, Send
from director.members import Member, Serial
from director.tables import NONE, Tables

#: heartbeats of waiting for takers to confirm
CONFIRMING = 2
#: buckets that move at a time while nobody is in need, and how often (part of a heartbeat)
FEW, PACE = 16, 0.2


@dataclass(frozen=True)
class _Pending:
    """A switch that takers have to confirm first."""

    takers: frozenset[str]
    until: float
    moves: int


class View(Protocol):
    """Of ``group.Group``."""

    is_director: bool
    buckets: int
    heartbeat: float
    now: float
    tables: Tables

    @property
    def me(self) -> Member: ...
    @property
    def known(self) -> dict[str, Known]: ...
    def alive(self) -> dict[str, Member]: ...
    def serving(self, key: str) -> dict[str, Member]: ...
    def next_serial(self) -> Serial: ...
    def table_message(self, key: str) -> Send: ...
    def emit(self, *effects: Effect) -> None: ...
    def broadcast(self) -> None: ...


class Sharing:
    def __init__(self, group: View) -> None:
        self._group = group
        self.factors: dict[str, float] = {}
        self._next_correction = group.now + PERIOD
        self._switching: dict[str, _Pending] = {}
        self._settled: dict[str, object] = {}
        self._next_step: dict[str, float] = {}
        self._unconfirmed: set[str] = set()

    def begin(self) -> None:
        """Another director, or other redirects: nothing is under way."""
        self._switching, self._settled = {}, {}

    def weights(self, key: str) -> dict[str, float]:
        """Who is to own buckets of this redirect, and how much; by capacity, load, the director's own share.

        A drained member, or a director that takes no share, serves if nobody else does; one that is being stopped does not.
        """
        serving = {each: member for each, member in self._group.serving(key).items() if not member.leaving}
        found = {each: self._weight(member) for each, member in serving.items() if not member.draining}
        wanted = {each: weight for each, weight in found.items() if weight > 0}
        return wanted or {each: serving[each].capacity for each in found or serving}

    def moving(self, key: str) -> int:
        pending = self._switching.get(key)
        return pending.moves if pending else 0

    def deadlines(self) -> list[float]:
        """When ``step`` has something to do; only the director's."""
        return [
            *(at for at in self._next_step.values() if at > self._group.now),
            *(each.until for each in self._switching.values()),
        ]

    def _weight(self, member: Member) -> float:
        own = member.own_share if self._group.is_director and member.mac == self._group.me.mac else 1.0
        return member.capacity * self.factors.get(member.mac, 1.0) * own

    def step(self, keys: Sequence[str]) -> None:
        self._correct()
        for key in keys:
            self._share(key)

    def _correct(self) -> None:
        if self._group.now < self._next_correction:
            return
        self._next_correction = self._group.now + PERIOD
        loads = {
            each: Load(m.capacity, m.cpu, m.connections)
            for each, m in self._group.alive().items()
            if not (m.draining or m.leaving)
        }
        if not self._group.me.own_share:
            loads.pop(self._group.me.mac, None)
        self.factors = corrected(self.factors, loads)

    def _share(self, key: str) -> None:
        """One step towards the shares; the first table if there is none."""
        weights, serving, known = self.weights(key), self._group.serving(key), self._group.known
        if key in self._switching:
            if set(self._group.tables.current[key].owners) <= serving.keys():
                return
            del self._switching[key]
            self._group.tables.drop_pending(key)
        if not weights:
            if key not in self._group.tables.current:
                self._switch(
                    key, Table((self._group.me.mac,) * self._group.buckets, ((),) * self._group.buckets), f"nobody serves {key}"
                )
            return
        circumstances = (weights, set(serving), set(known))
        if self._settled.pop(key, None) == circumstances:
            self._settled[key] = circumstances
            return
        table = self._group.tables.current.get(key) or Table.empty(self._group.buckets)
        buckets = Buckets(table)
        if moves := buckets.settle(weights, serving, known, 0):
            self._switch(key, buckets.table, f"{len(moves)} buckets of {key} {_between(moves, self._name)}")
        elif self._group.now < self._next_step.get(key, 0.0):
            return
        elif moves := buckets.settle(weights, serving, known, FEW):
            self._next_step[key] = self._group.now + PACE * self._group.heartbeat
            self._prepare(key, buckets.table, moves)
        else:
            if buckets.table != table:
                self._switch(key, buckets.table, "")
            self._settled[key] = circumstances

    def _prepare(self, key: str, table: Table, moves: Sequence[Move]) -> None:
        self._group.tables.take(key, table, self._group.next_serial(), False)
        takers = frozenset(move.taker for move in moves) - {self._group.me.mac}
        self._switching[key] = _Pending(takers, self._group.now + CONFIRMING * self._group.heartbeat, len(moves))
        self._group.emit(self._group.table_message(key))
        self.look_at_switches()

    def look_at_switches(self) -> None:
        """Switch what all takers have loaded. One that doesn't confirm in time isn't waited for: the next step asks anew."""
        for key, pending in list(self._switching.items()):
            number = self._group.tables.loaded()[key]
            lacking = {each for each in pending.takers if self._loaded(each, key) < number}
            if lacking and self._group.now < pending.until:
                continue
            del self._switching[key]
            if lacking:
                self._group.tables.drop_pending(key)
                names = ", ".join(sorted(self._name(each) for each in lacking))
                if key not in self._unconfirmed:  # said once, until somebody confirms
                    self._group.emit(Say(f"{names} did not confirm the buckets of {key} in time: tried again"))
                self._unconfirmed.add(key)
                continue
            self._unconfirmed.discard(key)
            self._group.tables.commit(key, number)
            self._group.emit(Apply())
            self._group.broadcast()

    def _switch(self, key: str, table: Table, because: str) -> None:
        """At once: whoever had these buckets serves nobody."""
        self._group.tables.take(key, table, self._group.next_serial(), True)
        if because:
            self._group.emit(Say(because))
        self._group.emit(Apply(), self._group.table_message(key))

    def _loaded(self, member: str, key: str) -> tuple[int, int]:
        known = self._group.known.get(member)
        return known.member.loaded.get(key, NONE) if known and not known.failed else NONE

    def _name(self, member: str) -> str:
        return self._group.known[member].member.name if member in self._group.known else member


def _between(moves: Sequence[Move], name: Callable[[str], str]) -> str:
    givers = sorted({name(move.giver) for move in moves if move.giver})
    takers = sorted({name(move.taker) for move in moves})
    return f"{'moved from ' + ', '.join(givers) if givers else 'shared out'} to {', '.join(takers)}"
