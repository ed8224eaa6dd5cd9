"""The edge of the core: effects in order, events after them, replies to whoever asked, the role file's word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from heartbeat.edge import Edge, Hands
from heartbeat.manager_link import ManagerLink
from heartbeat.model import (
    Alarm,
    AskGrant,
    Boot,
    Database,
    DropVip,
    Effect,
    Epoch,
    Event,
    Exit,
    Fence,
    ForceStop,
    Garp,
    Gate,
    Message,
    Mode,
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
    Standby,
    TakeVip,
    Tick,
    Want,
)
from heartbeat.rolefile import RoleLine


class ScriptedCore:
    """Answers each event with what the script says, once."""

    silent = False

    def __init__(self) -> None:
        self.phase = Phase.PASSIVE
        self.disk = Record(Epoch(3, "a"))
        self.events: list[Event] = []
        self.script: dict[Event, list[Effect]] = {}

    @property
    def role(self) -> Role:
        return Role.ACTIVE if self.phase is Phase.ACTIVE else Role.PASSIVE

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        return self.script.pop(event, [])

    def deadline(self) -> float | None:
        return None


class Recorder:
    """Every hand at once: writes down what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.lines: list[RoleLine] = []
        self.held = False
        self.disk_full = False
        self.lost = False

    def say(self, message: Message) -> None:
        self.done.append(("say", message.seq))

    def ping(self, seq: int) -> list[str]:
        self.done.append(("ping", seq))
        return ["gateway", "router"]

    def persist(self, serial: int, record: Record) -> None:
        self.done.append(("persist", serial))

    def remember(self, change: Mapping[str, Any]) -> None:
        self.done.append(("remember", change["because"]))

    def take(self, now: float) -> None:
        self.held = True
        self.done.append(("take", now))

    def refresh(self, now: float) -> None:
        self.done.append(("refresh", now))

    def announce(self, now: float) -> None:
        self.done.append("announce")

    def drop(self) -> None:
        self.held = False
        self.done.append("drop")

    def gate(self, open: bool) -> None:
        self.done.append(("gate", open))

    def write(self, line: RoleLine) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.lines.append(line)

    def force_stop(self, because: str) -> None:
        self.done.append(("force", because))

    def probe(self) -> None:
        self.done.append("probe")

    def ping_from_vip(self, seq: int) -> None:
        self.done.append(("vip ping", seq))

    def fence(self, because: str) -> None:
        self.done.append(("fence", because))

    def ask_grant(self, asked: AskGrant) -> None:
        self.done.append(("ask", asked.new))

    def push(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.done.append((kind, fields.get("because") or fields.get("name"), fields.get("raised")))


class Asker:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, fields: Mapping[str, Any] | None = None) -> None:
        self.answers.append((True, dict(fields or {})["text"]))

    def refuse(self, error: str) -> None:
        self.answers.append((False, error))


class Bench:
    def __init__(self) -> None:
        self.core = ScriptedCore()
        self.hands = Recorder()
        self.now = 100.0
        manager = ManagerLink(0.2, 0.45)
        h = self.hands
        self.edge = Edge(self.core, Hands(h, h, h, h, h, manager, h, h, h.push), 0.5, lambda: self.now, 1.0)

    def play(self, *effects: Effect, event: Event = Tick(), asked: Asker | None = None) -> list[Any]:  # noqa: B008
        self.core.script[event] = list(effects)
        self.hands.done = []
        self.edge.feed(event, asked)
        return self.hands.done


def message(seq: int) -> Message:
    return Message("a", Boot(1, 2), seq)


def test_effects_in_their_order() -> None:
    bench = Bench()
    want = Want(1, Phase.OPENING, Epoch(), Database.DETACHED)
    done = bench.play(
        Gate(False),
        DropVip(),
        TakeVip(),
        Send(message(9)),
        Persist(4, Record()),
        want,
        RefreshLease(),
        Garp(),
        ForceStop("hung"),
    )
    assert done == [
        ("gate", False), "drop", ("take", 100.0), ("say", 9), ("persist", 4), ("refresh", 100.0), "announce", ("force", "hung"),
    ]  # fmt: skip


def test_a_ping_sent_is_an_event_after_all_effects_of_the_first() -> None:
    bench = Bench()
    bench.core.script[PingSent("gateway", 7)] = [Send(message(2))]
    assert bench.play(Ping(7), Send(message(1))) == [("ping", 7), ("say", 1), ("say", 2)]
    assert bench.core.events == [Tick(), PingSent("gateway", 7), PingSent("router", 7)]


def test_a_passives_role_is_renewed_by_every_keepalive() -> None:
    bench = Bench()
    bench.play(Send(message(1)))
    bench.now = 101.0
    bench.play(Send(message(2)))
    assert [(line.role, line.expires) for line in bench.hands.lines] == [(Role.PASSIVE, 100.5), (Role.PASSIVE, 101.5)]


def test_an_actives_role_is_renewed_by_its_lease_only() -> None:
    bench = Bench()
    bench.core.phase = Phase.ACTIVE
    bench.play(TakeVip(), Send(message(1)))
    bench.now = 100.4
    bench.play(Send(message(2)))
    bench.play(RefreshLease())
    assert [line.expires for line in bench.hands.lines] == [100.5, 100.5, 100.9]
    assert {(line.role, line.vip) for line in bench.hands.lines} == {(Role.ACTIVE, True)}


def test_a_lease_refreshed_soon_after_a_heartbeat_leaves_the_role_file_alone() -> None:
    bench = Bench()
    bench.core.phase = Phase.ACTIVE
    bench.play(TakeVip(), Send(message(1)))
    for bench.now in (100.1, 100.15, 100.25, 100.3):
        bench.play(RefreshLease())
    assert [line.expires for line in bench.hands.lines] == [100.5, 100.75]


def test_a_predecessors_role_file_is_left_alone_while_it_may_be_resumed() -> None:
    bench = Bench()
    for phase in (Phase.RESUMING, Phase.LEFT):
        bench.core.phase = phase
        bench.play(Send(message(1)), RoleChanged(Phase.WAITING, phase, Epoch(), "x"))
    assert bench.hands.lines == []


def test_a_change_of_role_reaches_everybody_with_its_reason() -> None:
    bench = Bench()
    done = bench.play(RoleChanged(Phase.PASSIVE, Phase.DETACHING, Epoch(3, "a"), "the active is silent"))
    assert done == [("role", "the active is silent", None), ("remember", "the active is silent")]
    assert len(bench.hands.lines) == 1
    assert [(c["before"], c["after"], c["epoch"]) for c in bench.edge.changes] == [("passive", "detaching", [3, "a"])]


def test_a_reply_goes_to_the_request_that_caused_it() -> None:
    bench, first, second = Bench(), Asker(), Asker()
    bench.play(Reply(False, "no"), event=Standby("x"), asked=first)
    bench.play(Reply(True, "yes"), event=Standby("y"), asked=second)
    assert (first.answers, second.answers) == ([(False, "no")], [(True, "yes")])


def test_a_late_reply_goes_to_whoever_waits_longest() -> None:
    bench, first, second, third = Bench(), Asker(), Asker(), Asker()
    bench.play(event=Standby("x"), asked=first)
    bench.play(event=Standby("y"), asked=second)
    bench.play(Reply(True, "at once"), event=Standby("z"), asked=third)
    bench.play(Reply(True, "1"))
    bench.play(Reply(False, "2"))
    bench.play(Reply(True, "nobody asked"))
    assert (first.answers, second.answers, third.answers) == ([(True, "1")], [(False, "2")], [(True, "at once")])


def test_the_end() -> None:
    bench = Bench()
    assert not bench.edge.ended
    bench.play(Exit())
    assert bench.edge.ended


def test_alarms_are_pushed_once_per_change() -> None:
    bench = Bench()
    assert bench.play(Alarm("solo", True, "alone")) == [("alarm", "solo", True)]
    bench.hands.done = []
    for text in ("broken", "broken", "worse", "", ""):
        bench.edge.trouble("vip", text)
    assert bench.hands.done == [("alarm", "vip", True), ("alarm", "vip", True), ("alarm", "vip", False)]
    assert bench.edge.alarms == {}


def test_a_role_file_that_can_not_be_written_is_an_alarm_not_the_end() -> None:
    bench = Bench()
    bench.hands.disk_full = True
    assert bench.play(Send(message(1)), Send(message(2))) == [("say", 1), ("alarm", "role-file", True), ("say", 2)]
    bench.hands.disk_full = False
    assert bench.play(Send(message(3))) == [("say", 3), ("alarm", "role-file", False)]


def test_what_is_asked_of_the_surroundings_goes_to_the_lookout() -> None:
    done = Bench().play(Probe(), PingFromVip(3), Fence("silent"), AskGrant(Epoch(3, "a"), Epoch(4, "a")))
    assert done == ["probe", ("vip ping", 3), ("fence", "silent"), ("ask", Epoch(4, "a"))]


def test_a_server_that_cannot_finish_letting_go_falls_silent() -> None:
    """Its disk hangs, and with it Postgres's processes, which nothing can end: heard, it would keep the other one waiting."""
    bench = Bench()
    bench.core.phase = Phase.STANDING_DOWN
    bench.play(RoleChanged(Phase.ACTIVE, Phase.STANDING_DOWN, Epoch(3, "a"), "its Postgres hangs"))
    bench.now += 0.9
    assert ("say", 1) in bench.play(Send(message(1))) and not bench.edge.alarms
    bench.now += 0.2
    for more in (replace(message(2), leaving="off"), replace(message(2), mode=Mode(lax=True))):
        assert ("say", 2) in bench.play(Send(more)), "told to go, or sends what the other one lacks"
    assert ("say", 2) not in bench.play(Send(message(2))) and "sends no heartbeats" in bench.edge.alarms["silent"]
    bench.core.phase = Phase.PASSIVE
    assert ("say", 3) in bench.play(Send(message(3))) and not bench.edge.alarms


def test_a_server_whose_disk_hangs_is_silent_unless_it_serves() -> None:
    """A passive can't release the active then, whose commits may wait for it; silence does."""
    bench = Bench()
    bench.hands.lost = True
    assert ("say", 1) not in bench.play(Send(message(1))) and "silent" in bench.edge.alarms
    bench.core.phase = Phase.ACTIVE
    assert ("say", 2) in bench.play(Send(message(2)))
