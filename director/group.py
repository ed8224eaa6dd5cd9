"""Who is in the group, who directs it, and which member serves which clients: the decisions of one member. Pure.

Promise: ``handle(event, now)`` returns what to do, in order. There is one director at a time: the one of the highest term of
office is believed, and a term begins with the VIPs. It shares the buckets of each redirect among the members that answer and
whose port answers; buckets of a member that can't serve move at once, all others a few at a time and in three steps (those who
take know; the director switches; all know), so that no connection meets a node that doesn't know whom to ask. A member that
was just started learns what is in force before it decides anything; one that hears nothing at all moves nothing. Source:
design §8; facts/vrrp-and-data-plane.md.

    member     hears the director → answers, loads what it says        silent for 4 heartbeats → no director
    director   every heartbeat: a broadcast with all members           a member silent for 4 heartbeats → failed
    at first   asks who directs; as director without any buckets: takes them over from whoever has them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from director import tables as codec
from director.buckets import Table
from director.discovery import Kind, Message
from director.groupmodel import (
    Apply,
    Drain,
    Effect,
    Event,
    Heard,
    Known,
    Leave,
    Report,
    Role,
    Say,
    Send,
    Successor,
    Tick,
    Wire,
    Wish,
)
from director.members import Member, Serial, from_json, mac, serial, text, whole
from director.roster import MISSED, Roster, changed, deafened
from director.sharing import Sharing
from director.tables import NONE, Tables

#: heartbeats of waiting for somebody who has buckets
LEARNING = 2
#: heartbeats between two broadcasts that list all members; of the wish to drain
_ROSTER, _WISHING = 4, 20
#: a term of office is a number that grows, times this, and the mark of the process that began it
_MARKS = 2**20
#: senders whose latest words are kept
_REMEMBERED = 256


class Group:
    def __init__(
        self, me: Member, keys: Sequence[str], buckets: int, heartbeat: float, now: float, mark: int | None = None
    ) -> None:
        """``mark``: what tells this process's terms of office from all others'; drawn anew for each, or else of the MAC."""
        self.keys, self.buckets, self.heartbeat = list(keys), buckets, heartbeat
        self._out: list[Effect] = []
        self.roster = Roster(me, heartbeat, now, self.emit)
        self.tables = Tables()
        self.term = 0
        self._mark = (crc32(me.mac.encode()) if mark is None else mark) % _MARKS
        self.is_director = False
        self.director = ""  # MAC; "": none is known
        self.designated = False
        self.now = now
        self._started = now
        self._sent_at = -1e9
        self._ticks = 0
        self._counted = 1  # what is in force when a term begins has number 1
        self._learn_until = 0.0
        self._asked = ""
        self._last = ""  # director, also after it fell silent
        self._wishes: dict[str, tuple[Wish, float]] = {}
        self._granted: set[int] = set()
        self._said: dict[str, tuple[object, Member]] = {}
        self._nonsense: dict[str, str] = {}
        self.sharing = Sharing(self)

    # --- what others ask

    @property
    def me(self) -> Member:
        return self.roster.me

    @property
    def known(self) -> dict[str, Known]:
        return self.roster.known

    def alive(self) -> dict[str, Member]:
        return self.roster.alive()

    def serving(self, key: str) -> dict[str, Member]:
        return self.roster.serving(key)

    def deadline(self) -> float:
        learnt = [self._learn_until] if self._learn_until else []
        steps = self.sharing.deadlines() if self.is_director else []
        return min([self._sent_at + self.heartbeat, *learnt, *steps])

    def reconfigure(self, keys: Sequence[str], buckets: int, heartbeat: float) -> None:
        """Redirects have come or gone. Those that stay, or have a port of an earlier one, keep their buckets.

        What is new begins here, if this node directs, and is shared out a few buckets at a time: connections that were made
        here before there was a redirect go on.
        """
        new = set(keys) - set(self.keys)
        self.keys, self.buckets, self.heartbeat = list(keys), buckets, heartbeat
        self.roster.heartbeat = heartbeat
        heirs = self.tables.keep(self.keys, buckets)
        self.sharing.begin()
        if not self.is_director or self._learn_until:
            return
        for key in new.difference(heirs):
            self.tables.take(key, Table((self.me.mac,) * buckets, ((),) * buckets), NONE, True)
        for key in new & self.tables.current.keys():
            self.tables.take(key, self.tables.current[key], self.next_serial(), True)
            self._out.append(self.table_message(key))

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at ``now`` (boottime); what to do about it, in order."""
        if now - self.now > 2 * self.heartbeat:
            self.roster.paused(now - self.now - self.heartbeat)
        self.now = now
        match event:
            case Heard(message, source, fresh):
                try:
                    self._heard(message, source, fresh)
                except ValueError as nonsense:
                    self._unread(source, str(nonsense))
            case Report(me):
                self._report(me)
            case Role(director):
                self._role(director)
            case Wish():
                self._wishes[event.mac] = (event, now + _WISHING * self.heartbeat)
                self._grant([event])
                self._sent_at = -1e9
            case Leave(rules):
                self.roster.report(replace(self.me, leaving=True, plane="" if rules else "is being stopped"))
                if self.director and not self.is_director:
                    self._answer(self.known[self.director].member.ip, self.director)
            case Wire(frames):
                self.roster.wire(frames, now)
            case Tick():
                pass
        self._tick()
        out, self._out = self._out, []
        return out

    def _unread(self, source: str, why: str) -> None:
        """Said once, also if it is said again and again."""
        if self._nonsense.get(source) != why and len(self._nonsense) < _REMEMBERED:
            self._nonsense[source] = why
            self._out.append(Say(f"{source} says what can't be read: {why}"))

    # --- roles

    def _role(self, director: bool) -> None:
        if director == self.is_director:
            return
        self.is_director = director
        self.sharing.begin()
        self._sent_at = -1e9
        self._learn_until, self._asked = 0.0, ""
        if not director:
            self.director = ""
            self.roster.step_down()
            return
        self.roster.take_over(self._last, self.now)
        self._next_term(self.term)
        self.director = self._last = self.me.mac
        self._name_successor(False)
        if not self.tables.current:
            since = self.now if len(self.alive()) > 1 else self._started
            self._learn_until = since + LEARNING * self.heartbeat
        self._begin_term()

    def _next_term(self, other: int) -> None:
        """After this one and that; this process's alone, so that no two directors' buckets are taken for each other's.

        Two may begin one at the same time, neither having heard the other: the higher mark is the later term.
        """
        self.term = (max(self.term, other) // _MARKS + 1) * _MARKS + self._mark

    def _begin_term(self) -> None:
        """What is in force stays in force, under the new term."""
        for key, table in self.tables.current.items():
            self.tables.take(key, table, (self.term, 1), True)
            self._out.append(self.table_message(key))

    def _report(self, me: Member) -> None:
        before = self.me
        self.roster.report(me)
        if (me.ports, me.draining, me.plane) != (before.ports, before.draining, before.plane):
            self._sent_at = min(self._sent_at, self.now - self.heartbeat)  # the others are to know at once
            self.roster.due = True
        if changed(before, me):
            self._out.append(Apply())

    # --- what is heard

    def _heard(self, message: Message, source: str, fresh: bool) -> None:
        if message.mac == self.me.mac:
            raise ValueError("another node has this node's MAC")
        if not fresh:
            self._answer_stranger(message, source)
            return
        if message.kind is Kind.TABLE:
            self._heard_table(message, source)
            return
        member = self._read(message.mac, message.body.get("me"))
        if member.mac != message.mac or member.ip != source:
            raise ValueError(f"it says that it is {member.ip}")
        self.roster.note(member, self.now)
        if message.kind is Kind.DIRECTOR:
            self._heard_director(message, source)
        elif self.is_director:
            self._heard_member(message)

    def _read(self, sender: str, said: object) -> Member:
        """Most heartbeats say what the one before said."""
        before = self._said.get(sender)
        if before is not None and before[0] == said:
            return before[1]
        member = from_json(said)
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[sender] = said, member
        return member

    def _answer_stranger(self, message: Message, source: str) -> None:
        """So that its next message counts; not more often than this, whoever sends what."""
        if self.now - self._sent_at < self.heartbeat / 10:
            return
        if self.is_director:
            self.broadcast()
        else:
            self._answer(source, message.mac)

    def _heard_member(self, message: Message) -> None:
        member = self.known[message.mac].member
        self._grant(self._read_wishes(message))
        latest = max((term for term, _ in member.loaded.values()), default=0)
        if latest >= self.term and self._learn_until > self.now:
            self._next_term(latest)
        elif latest > self.term:
            self._next_term(latest)
            self._begin_term()
        for key in self.keys:
            held = member.loaded.get(key, NONE)
            if self._learn_until > self.now and held > NONE:
                self._ask_for_tables(message.mac)
            elif key in self.tables.current and key in member.ports and held < self.tables.in_force(key):
                self._out.append(self.table_message(key))
        self.sharing.look_at_switches()

    def _ask_for_tables(self, mac: str) -> None:
        """This director was just started: whoever answers first and has buckets hands them over."""
        if not self._asked:
            self._asked = mac
            self.broadcast()

    def _heard_director(self, message: Message, source: str) -> None:
        term = whole(message.body.get("term"), 2**53)
        if self.is_director:
            if term >= self.term:  # two at a time: VRRP decides; whoever stays has the last word
                self._next_term(term)
                self._begin_term()  # and said with the next heartbeat: two that answer each other would not end
            return
        if term < self.term and self.director:
            self._answer(source, message.mac)  # its time is over, or it has just begun: what is loaded here tells it
            return
        self.term = term
        if self.director != message.mac:
            self.director = self._last = message.mac
            self._out.append(Say(f"the director is {self.known[message.mac].member.name} {source}"))
        if (listed := message.body.get("members")) is not None:
            self.roster.read(listed, self.director, self.now)
        self._name_successor(message.body.get("successor") == self.me.mac)
        self._grant(self._read_wishes(message))
        self._follow(message.body.get("tables"))
        self._answer(source, message.mac)
        if message.body.get("want") == self.me.mac:
            self._out += [self.table_message(key, source) for key in self.tables.current]

    def _follow(self, said: object) -> None:
        if not isinstance(said, dict):
            raise ValueError("no tables")
        before = dict(self.tables.current)
        for key, number in said.items():
            if not self.tables.commit(text(key), serial(number)):
                self.tables.drop_pending(key)  # something was lost; without it, what is held tells the director what to repeat
        if self.tables.current != before:
            self._out.append(Apply())

    def _heard_table(self, message: Message, source: str) -> None:
        key, table, number, committed = codec.from_json(message.body)
        if key not in self.keys or len(table.owners) != self.buckets:
            return  # of another configuration: this node serves no such redirect
        if self.is_director:
            if self._learn_until > self.now and message.mac == self._asked and committed:
                self.tables.take(key, table, number, True)
                if set(self.keys) <= self.tables.current.keys():
                    self._learned(f"buckets taken over from {source}")
            return
        if message.mac != self.director or number[0] != self.term:
            return
        if number > self.tables.loaded().get(key, NONE) or (committed and number > self.tables.in_force(key)):
            self.tables.take(key, table, number, committed)
            self._out.append(Apply())
        self._answer(source, message.mac)

    def _learned(self, how: str) -> None:
        self._learn_until, self._asked = 0.0, ""
        self._out.append(Say(how))
        self._begin_term()
        self._out.append(Apply())

    def _name_successor(self, designated: bool) -> None:
        if designated != self.designated:
            self.designated = designated
            self._out.append(Successor(designated))

    # --- the operator's wishes travel with the heartbeats until they are granted

    def _read_wishes(self, message: Message) -> list[Wish]:
        said = message.body.get("wishes", [])
        if not isinstance(said, list) or len(said) > 64:
            raise ValueError("no wishes")
        found = []
        for each in said:
            if not isinstance(each, list) or len(each) != 3 or not isinstance(each[1], bool):
                raise ValueError("no wish")
            found.append(Wish(mac(each[0]), each[1], whole(each[2], 2**64)))
        return found

    def _grant(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            if wish.number in self._granted:
                continue
            self._granted.add(wish.number)
            if wish.mac == self.me.mac:
                self._wishes.pop(wish.mac, None)
                self._out.append(Drain(wish.drain))
            elif self.is_director:
                self._wishes[wish.mac] = (wish, self.now + _WISHING * self.heartbeat)
                self._sent_at = -1e9

    # --- time

    def _tick(self) -> None:
        if self.is_director:
            self.roster.look(self.now)
            if self._learn_until and self.now >= self._learn_until:
                self._learned("nobody has buckets: shared out anew")
            self.sharing.look_at_switches()
            if not self._learn_until and not self.roster.deaf:
                self.sharing.step(self.keys)
        else:
            self._look_for_director()
        if self.now - self._sent_at >= self.heartbeat:
            self._ticks += 1
            self._wishes = {each: wish for each, wish in self._wishes.items() if wish[1] > self.now}
            if self.is_director:
                self.broadcast()
            elif not self.director:
                self._out.append(Send(Kind.MEMBER, self._body()))  # who directs?
                self._sent_at = self.now
            else:
                self._sent_at = self.now

    def _look_for_director(self) -> None:
        known = self.known.get(self.director)
        if known is not None and known.counts_from <= self.now - MISSED * self.heartbeat:
            self.director = ""
            self._name_successor(False)
            self._out.append(Say(f"the director {known.member.name} {known.member.ip} is silent"))

    def next_serial(self) -> Serial:
        self._counted += 1
        return self.term, self._counted

    # --- what is sent

    def emit(self, *effects: Effect) -> None:
        """Next in order."""
        self._out += effects

    def _body(self) -> dict[str, Any]:
        me = deafened(self.me) if self.roster.deaf else self.me
        body: dict[str, Any] = {"me": replace(me, loaded=self.tables.loaded()).as_json()}
        if self._wishes:
            body["wishes"] = [[wish.mac, wish.drain, wish.number] for wish, _ in self._wishes.values()]
        return body

    def _answer(self, to: str, director: str) -> None:
        self._out.append(Send(Kind.MEMBER, self._body(), to, director))
        self._sent_at = self.now

    def broadcast(self) -> None:
        body = self._body() | {
            "term": self.term,
            "tables": {key: list(self.tables.in_force(key)) for key in self.tables.current},
            "successor": self.successor(),
        }
        if self._asked and self._learn_until:
            body["want"] = self._asked
        if self.roster.due or self._ticks % _ROSTER == 0:
            self.roster.due = False
            body["members"] = self.roster.as_json()
        self._out.append(Send(Kind.DIRECTOR, body))
        self._sent_at = self.now

    def successor(self) -> str:
        """Who takes over if this director stops."""
        candidates = [m for each, m in self.alive().items() if m.priority > 0 and not m.leaving and each != self.me.mac]
        best = max(candidates, key=lambda m: (m.priority, tuple(map(int, m.ip.split(".")))), default=None)
        return best.mac if best else ""

    def table_message(self, key: str, to: str = "") -> Send:
        if not to and key in self.tables.pending:
            return Send(Kind.TABLE, codec.as_json(key, self.tables.pending[key], self.tables.loaded()[key], False))
        return Send(Kind.TABLE, codec.as_json(key, self.tables.current[key], self.tables.in_force(key), True), to)
