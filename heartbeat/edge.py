"""The edge of the core: events in, effects out.

Promise: effects are carried out in the order in which the core gave them; what one of them brings about at once (a ping was
sent) is an event after them. Events are taken one at a time, in the order of arrival. A request is answered by the ``Reply`` to
its own event, or by the first one that comes without a request. Source: design §3; ``model``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from heartbeat.manager_link import ManagerLink
from heartbeat.model import (
    SERVING,
    Alarm,
    AskGrant,
    DropVip,
    Effect,
    Event,
    Exit,
    Fence,
    ForceStop,
    Garp,
    Gate,
    Message,
    Persist,
    Phase,
    Ping,
    PingFromVip,
    PingSent,
    Probe,
    Record,
    RefreshLease,
    Reply,
    Role,
    RoleChanged,
    Send,
    TakeVip,
    Want,
)
from heartbeat.rolefile import RoleLine
from runtime.clock import stamp

log = logging.getLogger(__name__)

#: changes of role kept in memory
_CHANGES = 200
_SILENT = (
    "this server can't finish letting go, or use its disk: it sends no heartbeats, so that the other one goes on without it"
)
#: between two heartbeats the role file is written again when less than this part of its time is left
_TELL_AGAIN = 0.6


class Decider(Protocol):
    """``election.Core``."""

    phase: Phase
    disk: Record

    @property
    def role(self) -> Role: ...
    @property
    def silent(self) -> bool:
        """The peer has not been heard for warntime."""

    def handle(self, event: Event, now: float) -> list[Effect]: ...
    def deadline(self) -> float | None: ...


class Asked(Protocol):
    """``runtime.control.Request``."""

    def answer(self, fields: Mapping[str, Any] | None = None) -> None: ...
    def refuse(self, error: str) -> None: ...


class Voice(Protocol):
    """Sends a message on every link."""

    def say(self, message: Message) -> None: ...


class Pings(Protocol):
    """Sends echo requests; returns the names of the ping nodes (groups) that were asked."""

    def ping(self, seq: int) -> list[str]: ...


class Disk(Protocol):
    """``writer.Writer``."""

    @property
    def lost(self) -> bool: ...
    def persist(self, serial: int, record: Record) -> None: ...
    def remember(self, change: Mapping[str, Any]) -> None: ...


class Address(Protocol):
    """``vip.ServiceAddress``."""

    @property
    def held(self) -> bool: ...
    def take(self, now: float) -> None: ...
    def refresh(self, now: float) -> None: ...
    def announce(self, now: float) -> None: ...
    def drop(self) -> None: ...
    def gate(self, open: bool) -> None: ...


class RoleSink(Protocol):
    """``rolefile.RoleFile``."""

    def write(self, line: RoleLine) -> None: ...


class Force(Protocol):
    """Begins to end Postgres; ``ForceStopped`` comes as an event."""

    def force_stop(self, because: str) -> None: ...


class Senses(Protocol):
    """``lookout.Lookout``."""

    def probe(self) -> None: ...
    def ping_from_vip(self, seq: int) -> None: ...
    def fence(self, because: str) -> None: ...
    def ask_grant(self, asked: AskGrant) -> None: ...


@dataclass(frozen=True)
class Hands:
    """Everything that effects are carried out with."""

    voice: Voice
    pings: Pings
    disk: Disk
    address: Address
    role_file: RoleSink
    manager: ManagerLink
    force: Force
    lookout: Senses
    #: push(kind, fields) to the subscribers of the control socket
    push: Callable[[str, Mapping[str, Any]], None]


class Edge:
    def __init__(
        self, core: Decider, hands: Hands, role_expiry: float, clock: Callable[[], float], let_go: float = inf
    ) -> None:
        """``let_go``: a server that stands down for longer than this (seconds) is not heard any more."""
        self.core = core
        self._hands = hands
        self._role_expiry = role_expiry
        self._let_go = let_go
        self._clock = clock
        self._events: deque[tuple[Event, Asked | None]] = deque()
        self._unanswered: deque[Asked] = deque()
        self._busy = False
        self._role_good_until = 0.0
        self._told_until = 0.0
        self._role_trouble = ""
        self._phase_at = -inf
        self.changes: deque[Mapping[str, Any]] = deque(maxlen=_CHANGES)
        #: alarms of the edge itself; the core has its own
        self.alarms: dict[str, str] = {}
        self.ended = False

    def feed(self, event: Event, asked: Asked | None = None) -> None:
        """Hand ``event`` to the core and carry out what it says; an event that is fed meanwhile comes after it."""
        self._events.append((event, asked))
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._take(*self._events.popleft())
        finally:
            self._busy = False

    def trouble(self, name: str, text: str) -> None:
        """Raise, change or (with "") clear an alarm of the edge."""
        known = self.alarms.get(name, "")
        if text == known:
            return
        if text:
            self.alarms[name] = text
        else:
            del self.alarms[name]
        self._alarm(Alarm(name, bool(text), text or known))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take(self, event: Event, asked: Asked | None) -> None:
        now = self._clock()
        for effect in self.core.handle(event, now):
            if isinstance(effect, Reply):
                self._reply(effect, asked)
                asked = None
            else:
                self._carry_out(effect, now)
        if asked is not None:
            self._unanswered.append(asked)

    def _reply(self, reply: Reply, asked: Asked | None) -> None:
        """Answer whoever asked: for this event, or longest ago."""
        request = asked if asked is not None else (self._unanswered.popleft() if self._unanswered else None)
        if request is None:
            log.info("%s", reply.text)
        elif reply.ok:
            request.answer({"text": reply.text})
        else:
            request.refuse(reply.text)

    def _carry_out(self, effect: Effect, now: float) -> None:
        hands = self._hands
        match effect:
            case Send(message):
                if not self._lost(message, now):
                    hands.voice.say(message)
                self._tell_role(now)
                hands.manager.beat(now)
            case Ping(seq):
                for node in hands.pings.ping(seq):
                    self._events.append((PingSent(node, seq), None))
            case Probe():
                hands.lookout.probe()
            case PingFromVip(seq):
                hands.lookout.ping_from_vip(seq)
            case Fence(because):
                hands.lookout.fence(because)
            case AskGrant():
                hands.lookout.ask_grant(effect)
            case Persist(serial, record):
                hands.disk.persist(serial, record)
            case TakeVip():
                self._role_good_until = now + self._role_expiry
                hands.address.take(now)
            case RefreshLease():
                self._role_good_until = now + self._role_expiry
                hands.address.refresh(now)
                if self._told_until - now < _TELL_AGAIN * self._role_expiry:
                    self._tell_role(now)
            case Garp():
                hands.address.announce(now)
            case DropVip():
                hands.address.drop()
            case Gate(open):
                hands.address.gate(open)
            case Want():
                hands.manager.want(effect, now)
            case ForceStop(because):
                log.error("Postgres is ended without ha_manager: %s", because)
                hands.force.force_stop(because)
            case RoleChanged():
                self._role_changed(effect, now)
            case Alarm():
                self._alarm(effect)
            case Exit():
                self.ended = True
            case Reply():
                raise AssertionError("replies are given by _reply")

    def _lost(self, message: Message, now: float) -> bool:
        """This server has let go, but can't say so, because a disk hangs, and with it what writes to it. To the other one it is
        as good as dead, which must show while that one is still fit: what is heard holds up what silence brings about. To the
        rules it is a link that carries in one direction only. Where commits don't wait, a clean stop may still send the rest.
        """
        phase = self.core.phase
        stuck = phase is Phase.STANDING_DOWN and now - self._phase_at > self._let_go
        stuck = stuck and not message.leaving and not message.mode.lax
        silent = stuck or (self._hands.disk.lost and phase not in SERVING)
        self.trouble("silent", _SILENT if silent else "")
        return silent

    def _tell_role(self, now: float) -> None:
        """Write the role file. A serving role is good as long as its lease; a predecessor's stays while it may be resumed."""
        core = self.core
        if core.phase in (Phase.RESUMING, Phase.LEFT):
            return
        expires = self._role_good_until if core.phase in SERVING else now + self._role_expiry
        self._hands.manager.expires = expires
        self._hands.manager.silent = core.silent
        line = RoleLine(core.role, core.disk.epoch, expires, core.phase, self._hands.address.held, core.disk.solo)
        try:
            self._hands.role_file.write(line)
        except OSError as error:
            self.trouble("role-file", f"the role file can't be written ({error.strerror}): `ha amIactive` knows no role")
        else:
            self._told_until = expires
            self.trouble("role-file", "")

    def _role_changed(self, change: RoleChanged, now: float) -> None:
        log.warning("%s -> %s (epoch %s): %s", change.before, change.after, change.epoch, change.because)
        told = {
            "at": stamp(), "time": round(time.time(), 3), "before": change.before, "after": change.after,
            "epoch": list(change.epoch), "because": change.because,
        }  # fmt: skip
        self.changes.append(told)
        self._phase_at = now
        self._tell_role(now)
        self._hands.push("role", {**told, "role": self.core.role, "phase": self.core.phase})
        self._hands.disk.remember(told)

    def _alarm(self, alarm: Alarm) -> None:
        if alarm.raised:
            log.warning("alarm %s: %s", alarm.name, alarm.text)
        else:
            log.info("alarm %s is over: %s", alarm.name, alarm.text)
        self._hands.push("alarm", {"name": alarm.name, "raised": alarm.raised, "text": alarm.text})
