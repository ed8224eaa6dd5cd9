"""Who is in the group, and who of them lives: by this node's own ears, else by the director's word. Pure.

Promise: a director takes a member for failed only after it could have heard it: ``MISSED`` heartbeats of silence, during
which this process ran and something came in. While all are silent at once it looks once a heartbeat whether any frame came,
of whomever: one without any is this node's own silence, and everybody's count begins anew. So the buckets stay where they are
while nothing at all comes in, however long: no client's packet does either. When frames came in ``MISSED`` heartbeats in a
row (single ones may be the switch's own), the others have really died. ``deaf`` if it has not come to either after ``DEAF``
heartbeats, until a member is heard, or all are taken for failed. Whom a member hears itself is alive, whatever its director
says; a director that was just made one asks those, too, whom its predecessor took for failed, until they had time to speak.
Source: design §8; VRRP has nothing against a director that is heard and doesn't hear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from director.groupmodel import Apply, Deaf, Effect, Known, Listen, Say
from director.members import Member, from_json

#: heartbeats that may be missed
MISSED = 4
#: heartbeats that members have besides, after a director was just started: it takes two messages until the third is believed
ACQUAINTED = 2
#: heartbeats of hearing nobody until a director gives way to any other one
DEAF = 8
#: seconds after which a failed member is not shown any more
FORGOTTEN = 3600.0
#: seconds in which one that was stopped is still asked about connections
LEFT = 600.0


class Roster:
    def __init__(self, me: Member, heartbeat: float, now: float, emit: Callable[[Effect], None]) -> None:
        self.me, self.heartbeat = me, heartbeat
        self.known: dict[str, Known] = {me.mac: Known(me, now, now, since=now)}
        #: the others are to be told
        self.due = True
        self.deaf = False
        self._emit = emit
        self._heard_at = now
        self._looked_at = now
        self._listening = False
        self._hearsay_until = 0.0  # 0: what is known is not (only) what a predecessor said

    # --- what others ask

    def alive(self) -> dict[str, Member]:
        return {each: known.member for each, known in self.known.items() if not known.failed}

    def askable(self) -> frozenset[str]:
        """Who can be asked about connections; others would swallow the question."""
        known = self.known.items()
        return frozenset(mac for mac, each in known if not each.member.plane and (not each.failed or self._hearsay_until > 0))

    def serving(self, key: str) -> dict[str, Member]:
        return {each: member for each, member in self.alive().items() if member.serves(key)}

    def as_json(self) -> list[dict[str, Any]]:
        """All but this node, for the others."""
        others = (known for mac, known in self.known.items() if mac != self.me.mac)
        return [{"me": known.member.as_json(), "failed": known.failed} for known in others]

    # --- what happens

    def report(self, me: Member) -> None:
        self.me = self.known[me.mac].member = me

    def note(self, member: Member, now: float) -> None:
        """Heard itself."""
        self._heard_at = now
        self._be_deaf(False)
        known = self.known.get(member.mac)
        if known is None:
            self._emit(Say(f"TX Scanning partner {member.name} {member.ip} has joined"))
            self.known[member.mac] = Known(member, now, now, since=now)
            self.due = True
            self._emit(Apply())
            return
        if known.failed:
            self._emit(Say(f"TX Scanning partner {member.name} {member.ip} is back"))
        if known.failed or changed(known.member, member):
            self.due = True
            self._emit(Apply())
        if known.failed:
            known.failed, known.since = False, now
        if member.leaving and not known.member.leaving:
            self._emit(Say(f"TX Scanning partner {member.name} {member.ip} is being stopped"))
        known.member, known.heard, known.counts_from = member, now, now

    def read(self, listed: object, director: str, now: float) -> None:
        """As the director lists them. ValueError for what is no list of members."""
        if not isinstance(listed, list):
            raise ValueError("no members")
        told = {}
        for each in listed:
            member = from_json(each.get("me") if isinstance(each, dict) else None)
            told[member.mac] = member, bool(each.get("failed"))
        for mac, (member, failed) in told.items():
            if mac != self.me.mac:
                self._adopt(member, failed, now)
        for gone in self.known.keys() - told.keys() - {self.me.mac, director}:
            del self.known[gone]

    def _adopt(self, member: Member, failed: bool, now: float) -> None:
        known = self.known.setdefault(member.mac, Known(member, -inf, now, failed, now))
        failed = failed and now - known.heard > MISSED * self.heartbeat
        if changed(known.member, member) or known.failed != failed:
            self._emit(Apply())
        known.since = known.since if known.failed == failed else now
        known.member, known.failed, known.counts_from = member, failed, now

    def take_over(self, previous: str, now: float) -> None:
        """This node directs from now on: they are to answer here. The last director has had its time to speak."""
        for mac, known in self.known.items():
            known.counts_from = known.counts_from if mac == previous else now + ACQUAINTED * self.heartbeat
        self.due = True
        self._looked_at = self._heard_at = now
        if any(known.failed for known in self.known.values()):
            self._hearsay_until = now + ACQUAINTED * self.heartbeat
            self._emit(Apply())

    def step_down(self) -> None:
        self._hearsay_until = 0.0
        self._be_deaf(False)
        self._listen(False)

    def paused(self, seconds: float) -> None:
        """This process did not run for so long, and heard nobody: that is no silence of the others."""
        self._heard_at += seconds
        for known in self.known.values():
            known.counts_from += seconds

    # --- silence, as the director judges it

    def look(self, now: float) -> None:
        if 0 < self._hearsay_until <= now:
            self._hearsay_until = 0.0
            self._emit(Apply())
        if now - self._looked_at >= self.heartbeat:
            self._listen(self._heard_at < self._looked_at and self._awaited())
            self._looked_at = now
        self._judge(now)
        if self.deaf and not self._awaited():
            self._be_deaf(False)

    def wire(self, frames: bool, now: float) -> None:
        """Whether any frame came in since the last look, or may have."""
        if frames:
            return
        for known in self.known.values():
            known.counts_from = max(known.counts_from, now)
        if now - self._heard_at >= DEAF * self.heartbeat:
            self._be_deaf(True)

    def _awaited(self) -> bool:
        """Whether there is anybody to be heard."""
        return any(not (each.failed or each.member.leaving) for mac, each in self.known.items() if mac != self.me.mac)

    def _judge(self, now: float) -> None:
        limit = now - MISSED * self.heartbeat
        for mac, known in list(self.known.items()):
            if known.failed and now - known.since > FORGOTTEN:
                del self.known[mac]
            if mac == self.me.mac or known.failed or known.counts_from > limit:
                continue
            if known.member.leaving and not known.member.plane and known.counts_from > now - LEFT:
                continue  # it was stopped, and goes on with the connections that it has
            known.failed, known.since = True, now
            self.due = True
            self._emit(Say(f"TX Scanning partner has failed {known.member.ip}"))
            self._emit(Apply())

    def _listen(self, on: bool) -> None:
        if on or self._listening:
            self._listening = on
            self._emit(Listen(on))

    def _be_deaf(self, on: bool) -> None:
        if on != self.deaf:
            self.deaf = on
            self._emit(Deaf(on))


def changed(before: Member, after: Member) -> bool:
    """Whether the kernel is to know."""
    return before.places != after.places or _state(before) != _state(after)


def _state(member: Member) -> tuple[object, ...]:
    return member.ports, member.draining, member.leaving, member.plane


def deafened(me: Member) -> Member:
    """What a deaf director says of itself: nobody else is to send it clients."""
    return replace(me, plane=me.plane or "nothing reaches it")
