"""The link to heartbeat and the lease, against a real control server that speaks heartbeat's part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ha_manager.greeting import FACTS, Greeting
from ha_manager.keeper_client import Latest
from ha_manager.link import HeartbeatLink
from ha_manager.monitor import ALONE_TTL, PASSIVE_TTL, PERIOD, QUICK, Lease, Monitor
from ha_manager.observation import NOTHING, Observation
from ha_manager.orders import Facts, Postgres, Want
from ha_manager.outlook import Carried
from heartbeat.wants import facts_from_json
from runtime.clock import boottime
from runtime.control import ControlServer, Request
from runtime.errors import ControlError, NotRunning
from runtime.loop import Loop

WANT = {
    "serial": 4, "phase": "active", "epoch": [5, "vs-166"], "postgres": "primary", "names": "enforced", "stop": "immediate",
    "prepare": False, "follow": [0, ""], "ask_stand_down": "", "yielded": [0, ""], "because": "x",
}  # fmt: skip


class Heartbeat:
    """heartbeat's end of ``manager``."""

    def __init__(self, path: Path, loop: Loop) -> None:
        self.facts: list[dict[str, Any]] = []
        self.request: Request | None = None
        handlers = {"manager": self._manager, "facts": self._facts, "standby": lambda request: {"text": "handing over"}}
        self.server = ControlServer(path, loop.selector, handlers)

    def _manager(self, request: Request) -> None:
        self.request = request
        request.answer()
        self.push()

    def _facts(self, request: Request) -> None:
        self.facts.append(request.fields["facts"])

    def push(self, **changes: Any) -> None:
        assert self.request is not None
        self.request.channel.send({"push": "want", "want": WANT | changes, "expires": 123.5})


class Listener:
    def __init__(self) -> None:
        self.events: list[object] = []
        self.turns = 0

    def linked(self) -> None:
        self.events.append("linked")

    def unlinked(self, because: str) -> None:
        self.events.append("unlinked")

    def wanted(self, want: Want) -> None:
        self.events.append(want)

    def turned(self) -> None:
        self.turns += 1


class Scene:
    def __init__(self, folder: Path) -> None:
        self.path, self.loop, self.listener = folder / "control", Loop(), Listener()
        self.told = Facts(serial=1)
        self.link = HeartbeatLink(self.path, self.loop, self.listener, lambda: self.told)

    def until(self, holds: Any) -> None:
        end = self.loop.now() + 5
        while not holds():
            assert self.loop.now() < end, "it never came"
            self.loop.once(0.02)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.link.end()
    made.loop.close()


def test_wants_come_in_and_facts_go_out(scene: Scene) -> None:
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: len(scene.listener.events) == 2 and heartbeat.facts)
    assert scene.listener.events[0] == "linked"
    want = scene.listener.events[1]
    assert isinstance(want, Want) and want.postgres is Postgres.PRIMARY and scene.link.role_until == 123.5
    assert facts_from_json(heartbeat.facts[0]).serial == 1
    heartbeat.push()
    heartbeat.push(serial=5)
    scene.until(lambda: len(scene.listener.events) == 3)
    assert scene.listener.events[2] == replace(want, serial=5), "the same want again is no news"


def test_facts_go_out_at_once_on_a_change_and_by_themselves(scene: Scene) -> None:
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: heartbeat.facts)
    heartbeat.facts.clear()
    scene.link.report()
    scene.told = replace(scene.told, postgres=Postgres.STANDBY)
    scene.link.report()
    scene.until(lambda: heartbeat.facts)
    assert heartbeat.facts[-1]["postgres"] == "standby"
    count = len(heartbeat.facts)
    scene.until(lambda: len(heartbeat.facts) >= count + 3)


def test_it_connects_when_heartbeat_comes_and_again_after_a_restart(scene: Scene) -> None:
    scene.link.start()
    scene.until(lambda: scene.listener.turns >= 3)
    assert not scene.link.connected and "not running" in scene.link.why
    first = Heartbeat(scene.path, scene.loop)
    scene.until(lambda: scene.link.want is not None)
    first.server.close()
    scene.until(lambda: "unlinked" in scene.listener.events)
    Heartbeat(scene.path, scene.loop)
    scene.until(lambda: scene.listener.events.count("linked") == 2 and scene.link.want is not None)
    assert sum(isinstance(event, Want) for event in scene.listener.events) == 2, "the same want is news on a new link"


def test_a_want_that_was_put_aside_is_news_though_it_comes_as_before(scene: Scene) -> None:
    """As after an active was ended because heartbeat was silent."""
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: scene.link.want is not None)
    scene.link.want = None
    heartbeat.push()
    scene.until(lambda: scene.link.want is not None)
    assert [e.serial for e in scene.listener.events if isinstance(e, Want)] == [4, 4]


def test_nonsense_is_not_believed(scene: Scene) -> None:
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: scene.link.want is not None)
    heartbeat.push(postgres="flying")
    heartbeat.push(serial=6)
    scene.until(lambda: scene.link.want is not None and scene.link.want.serial == 6)
    heartbeat.push(postgres="flying")
    heartbeat.push(serial=6)
    heartbeat.push(serial=7)
    scene.until(lambda: scene.link.want is not None and scene.link.want.serial == 7)
    assert [e.serial for e in scene.listener.events if isinstance(e, Want)] == [4, 6, 7]


def test_the_greeting_reports_before_anything_else_is_loaded(scene: Scene) -> None:
    heartbeat = Heartbeat(scene.path, scene.loop)
    greeting = Greeting(str(scene.path))
    scene.until(lambda: len(heartbeat.facts) >= 2)
    greeting.end()
    assert heartbeat.facts[0] == FACTS and not facts_from_json(FACTS).healthy


class Keeper:
    """``monitor.Observed``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: ControlError | None = None
        self.states: list[str] = []
        self.asked: list[str] = []
        self.no_more: Callable[[], None] = lambda: None

    def await_change(self, state: str, limit: float) -> str:
        self.asked.append(state)
        found = self.states.pop(0)
        if not self.states:
            self.no_more()
        return found

    def facts(self, limit: float = 0.3) -> Observation:
        return NOTHING

    def renew(self, ttl: float, limit: float = 0.2) -> None:
        if self.broken:
            raise self.broken
        self.calls.append(f"renew {ttl:.2f}")

    def attach(self, limit: float = 5.0) -> str:
        self.calls.append("attach")
        return "stopped"

    def kill(self) -> None:
        self.calls.append("kill")


class Clock:
    now, loop_alive, role_until = 100.0, 100.0, 100.4
    primary: bool | None = True
    alone: bool = False


def lease(keeper: Keeper, clock: Clock, said: list[str]) -> Lease:
    return Lease(
        keeper, loop_alive=lambda: clock.loop_alive, role_until=lambda: clock.role_until, allowance=lambda: 0.45,
        primary=lambda: clock.primary, alone=lambda: clock.alone, report=said.append, clock=lambda: clock.now,
    )  # fmt: skip


def test_one_that_nobody_can_succeed_outlives_a_slow_restart_but_not_heartbeat() -> None:
    keeper, clock, said = Keeper(), Clock(), []
    clock.alone = True
    one = lease(keeper, clock, said)
    one.turn()
    assert keeper.calls == [f"renew {ALONE_TTL:.2f}"]
    clock.now = clock.loop_alive = 100.86
    one.turn()
    assert keeper.calls[1:] == ["kill"] and len(said) == 1


def test_a_primary_lives_only_as_long_as_heartbeats_word_and_the_allowance() -> None:
    keeper, clock, said = Keeper(), Clock(), []
    one = lease(keeper, clock, said)
    one.turn()
    assert keeper.calls == ["renew 0.85"]
    clock.now = clock.loop_alive = 100.86
    one.turn()
    one.turn()
    assert keeper.calls == ["renew 0.85", "kill"] and len(said) == 1
    clock.role_until = 101.3
    one.turn()
    assert keeper.calls[-1] == "renew 0.89" and said[1:] == [""]


def test_a_passive_goes_on_without_heartbeat_and_an_unknown_one_is_left_alone() -> None:
    keeper, clock, said = Keeper(), Clock(), []
    clock.primary, clock.role_until = False, 0.0
    lease(keeper, clock, said).turn()
    assert keeper.calls == [f"renew {PASSIVE_TTL:.2f}"]
    clock.primary = None
    lease(keeper, clock, said).turn()
    assert len(keeper.calls) == 1 and said == []


def test_a_short_lease_is_renewed_more_often() -> None:
    keeper, clock = Keeper(), Clock()
    one = lease(keeper, clock, [])
    one.turn()
    assert one.period == pytest.approx(0.85 / 3)
    clock.role_until = clock.now - 0.35
    one.turn()
    assert keeper.calls[-1] == "renew 0.10" and one.period == pytest.approx(0.1 / 3)
    keeper.broken = ControlError("it does not answer")
    one.turn()
    assert one.period < 0.025, "tried again at once: one that hangs has to be noticed"


class Nudged(Monitor):
    nudges = 0

    def nudge(self, seconds: float = 0.0) -> None:
        self.nudges += 1


def test_a_postgres_that_starts_or_ends_is_looked_at_at_once() -> None:
    """The keeper tells; while nothing changes, the next look would be a quarter of a second away."""
    keeper = Keeper()
    monitor = Nudged(keeper, Carried, lambda look: None, lambda: True, lambda: False, lambda: 100.0)
    keeper.states = ["running", "running", "stopped", "stopped"]
    keeper.no_more = monitor.end
    monitor.watch()
    assert keeper.asked == ["unknown", "running", "running", "stopped"], "each time for another one than was known"
    assert monitor.nudges == 2


def test_a_hung_main_loop_renews_nothing() -> None:
    keeper, clock = Keeper(), Clock()
    clock.loop_alive = 98.9
    lease(keeper, clock, []).turn()
    assert keeper.calls == []


def test_a_hung_keeper_is_ended_and_started_again() -> None:
    keeper, clock, said = Keeper(), Clock(), []
    one = lease(keeper, clock, said)
    keeper.broken, clock.primary = ControlError("does not answer"), False
    one.turn()
    assert keeper.calls == []
    clock.now = clock.loop_alive = 101.1
    one.turn()
    assert keeper.calls == ["kill", "attach"] and "does not answer" in said[0] and one.trouble == ""
    keeper.broken = None
    one.turn()
    one.turn()
    assert said[1:] == [""], "the alarm ends, once"


def test_a_dead_keeper_is_replaced_at_once() -> None:
    keeper, clock, said = Keeper(), Clock(), []
    one = lease(keeper, clock, said)
    keeper.broken, clock.primary = NotRunning("nobody answers"), False
    one.turn()
    assert keeper.calls == ["kill", "attach"]


def test_a_sign_of_life_is_answered_with_the_report_that_is_due(tmp_path: Path) -> None:
    ahead = 0.0
    scene = Scene(tmp_path)
    scene.loop.now = lambda: boottime() + ahead
    scene.link = HeartbeatLink(scene.path, scene.loop, scene.listener, lambda: scene.told, lambda: 100.0)
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: len(scene.listener.events) == 2 and heartbeat.facts)
    heartbeat.facts.clear()

    def sign_of_life() -> list[dict[str, Any]]:
        turns = scene.listener.turns
        heartbeat.push()
        scene.until(lambda: scene.listener.turns > turns)
        for _ in range(3):
            scene.loop.once(0.01)
        return heartbeat.facts

    assert sign_of_life() == [], "one has just gone out"
    ahead = 60.0
    assert len(sign_of_life()) == 1
    assert len(sign_of_life()) == 1
    scene.link.end()


def test_reports_go_on_without_a_sign_of_life(scene: Scene) -> None:
    heartbeat = Heartbeat(scene.path, scene.loop)
    scene.link.start()
    scene.until(lambda: len(heartbeat.facts) >= 5)


def test_what_the_keeper_said_last_counts_whichever_connection_it_came_over() -> None:
    latest = Latest()
    assert latest.within(1.0) is None
    now = boottime()
    latest.take({"state": "running", "at": now})
    latest.take({"state": "starting", "at": now - 0.1})
    latest.take({"ok": True})
    assert (latest.within(1.0) or {})["state"] == "running", "an answer that was overtaken is none"
    assert latest.within(-1.0) is None, "too old"
    latest.forget()
    assert latest.within(1.0) is None


class Waits:
    """``threading.Event`` of a monitor whose step ends after the second look, and which ends after the fourth."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor, self.periods, self.busy, self.woken = monitor, [], True, 0

    def clear(self) -> None:
        pass

    def set(self) -> None:
        self.woken += 1

    def wait(self, seconds: float) -> None:
        self.periods.append(seconds)
        if len(self.periods) == 2:
            self.busy = False
            self.monitor.soon(1.0)
        if len(self.periods) == 4:
            self.monitor.end()


def test_a_step_that_is_carried_out_has_the_processor_and_what_comes_after_it_is_looked_at_often() -> None:
    keeper = Keeper()
    monitor = Monitor(keeper, Carried, lambda look: None, lambda: False, lambda: waits.busy, lambda: 100.0)
    waits = Waits(monitor)
    monitor._wake = waits  # type: ignore[assignment]
    monitor.soon(1.0)
    assert waits.woken == 0, "the step proves what it does"
    monitor.run()
    assert waits.periods == pytest.approx([PERIOD, PERIOD, QUICK, QUICK]) and waits.woken == 2
