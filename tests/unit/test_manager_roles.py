"""The rules of the Manager, event by event, with times handed in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.model import (
    Alarm,
    Changed,
    Died,
    Done,
    Effect,
    Event,
    Exit,
    Expected,
    Found,
    Held,
    Hung,
    Kill,
    Look,
    Mode,
    OperatorStart,
    OperatorStop,
    Process,
    Reload,
    Shutdown,
    Start,
    Started,
    StartFailed,
    State,
    Stop,
    Stopped,
    Tick,
)
from manager.roles import EXPECTED, LONGEST_DELAY, LONGEST_OF_HA, LOOK_PERIOD, Roles


def process(name: str, start: int, stop: int, role: str = "HA") -> Process:
    return Process(name, role, f"/etc/init.d/{name}", f"/run/{name}.pid", start_order=start, stop_order=stop)


HEARTBEAT = process("heartbeat", 10, 10)
HA_MANAGER = process("ha_manager", 20, 20)
POLICY = process("policyserver", 30, 10, "policyserver")
KNOWN = (HEARTBEAT, HA_MANAGER, POLICY)
ALL = frozenset({"heartbeat", "ha_manager", "policyserver"})
HA = frozenset({"heartbeat", "ha_manager"})


def what(effects: list[Effect]) -> list[str]:
    """The effects that do something, in short."""
    short = []
    for effect in effects:
        match effect:
            case Start(p, again):
                short.append(f"start {p.name}" + (" again" if again else ""))
            case Look(p):
                short.append(f"look {p.name}")
            case Stop(p):
                short.append(f"stop {p.name}")
            case Kill(p):
                short.append(f"kill {p.name}")
            case Done(token, failures):
                short.append(f"done {token}" + "".join(f" [{text}]" for text in failures))
            case Exit():
                short.append("exit")
            case Held(names):
                short.append(f"held {','.join(sorted(names)) or '-'}")
    return short


class Bench:
    """Roles and a clock; ``do`` returns what happens in short."""

    def __init__(self, *, held: tuple[str, ...] = ()) -> None:
        self.roles = Roles(held)
        self.now = 100.0
        self.pid = 1000
        self.effects: list[Effect] = []

    def do(self, event: Event, after: float = 0.0) -> list[str]:
        self.now += after
        self.effects = self.roles.handle(event, self.now)
        return what(self.effects)

    def started(self, name: str, after: float = 0.0) -> list[str]:
        self.pid += 1
        return self.do(Started(name, self.pid), after)

    def reload(self, mode: Mode = Mode.ACTIVE, enabled: frozenset[str] = ALL, token: int | None = None) -> list[str]:
        return self.do(Reload(mode, KNOWN, enabled, token=token))

    def state(self, name: str) -> State:
        return self.roles.entries[name].state

    def tick(self) -> list[str]:
        due = self.roles.deadline()
        assert due is not None
        self.now = max(self.now, due)
        return self.do(Tick())


@pytest.fixture
def bench() -> Bench:
    """Everything runs, in active mode."""
    made = Bench()
    made.reload()
    for name in ("heartbeat", "ha_manager", "policyserver"):
        made.started(name)
    return made


def test_starts_in_order() -> None:
    bench = Bench()
    assert bench.reload(token=1) == ["start heartbeat"]
    assert bench.started("heartbeat") == ["start ha_manager"]
    assert bench.started("ha_manager") == ["start policyserver"]
    assert bench.started("policyserver") == ["done 1"]


def test_a_failed_start_holds_up_nobody_else() -> None:
    bench = Bench()
    bench.reload(token=1)
    assert bench.do(StartFailed("heartbeat", "no ha.cf")) == ["start ha_manager"]
    assert bench.started("ha_manager") == ["start policyserver"]
    assert bench.started("policyserver") == ["done 1 [heartbeat: did not start: no ha.cf]"]
    assert bench.tick() == ["start heartbeat"]


def test_stops_in_an_order_of_its_own(bench: Bench) -> None:
    assert bench.do(Shutdown("bye")) == ["stop heartbeat", "stop policyserver"]
    assert bench.do(Stopped("policyserver")) == []
    assert bench.do(Stopped("heartbeat")) == ["stop ha_manager"]
    assert bench.do(Stopped("ha_manager")) == ["exit"]


def test_shutdown_waits_for_a_start_under_way() -> None:
    bench = Bench()
    bench.reload()
    assert bench.do(Shutdown("bye")) == []
    assert bench.started("heartbeat") == ["stop heartbeat"]
    assert bench.do(Stopped("heartbeat")) == ["exit"]


def test_shutdown_does_not_wait_for_a_retry() -> None:
    bench = Bench()
    bench.do(Reload(Mode.ACTIVE, (HEARTBEAT,), HA))
    bench.do(StartFailed("heartbeat", "x"))
    assert bench.do(Shutdown("bye")) == ["exit"]


def test_a_death_that_was_announced_is_no_alarm_and_the_next_one_is(bench: Bench) -> None:
    bench.do(Expected("heartbeat", "ha restart"))
    assert bench.do(Died("heartbeat", "pid 5 died")) == ["start heartbeat again"]
    entry = bench.roles.entries["heartbeat"]
    said = [effect.because for effect in bench.effects if isinstance(effect, Changed)]
    assert entry.alarm == "" and said[0] == "pid 5 died (ha restart); starting it again at once"
    bench.started("heartbeat")
    bench.do(Died("heartbeat", "pid 6 died"))
    assert entry.alarm == "pid 6 died"


def test_an_announcement_is_good_for_seconds(bench: Bench) -> None:
    bench.do(Expected("heartbeat", "ha restart"))
    bench.now += EXPECTED + 1
    bench.do(Died("heartbeat", "pid 5 died"))
    assert bench.roles.entries["heartbeat"].alarm == "pid 5 died"


def test_restarts_at_once_and_out_of_turn(bench: Bench) -> None:
    assert bench.do(Died("ha_manager", "x")) == ["start ha_manager again"]
    assert bench.do(Died("heartbeat", "x")) == ["start heartbeat again"]


@pytest.fixture
def failing() -> Bench:
    """The policy server is given up after three tries, and has just been."""
    bench = Bench()
    bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, replace(POLICY, give_up_after=3)), ALL, token=1))
    bench.started("heartbeat")
    bench.started("ha_manager")
    assert bench.do(StartFailed("policyserver", "no licence")) == ["done 1 [policyserver: did not start: no licence]"]
    for _ in range(2):
        assert bench.state("policyserver") is State.WAITING
        assert bench.tick() == ["start policyserver"]
        assert bench.do(StartFailed("policyserver", "no licence")) == []
    return bench


def test_gives_up_with_an_alarm(failing: Bench) -> None:
    assert failing.state("policyserver") is State.GIVEN_UP
    assert failing.roles.entries["policyserver"].alarm == (
        "did not start: no licence; given up after 3 tries: manager-ctl start policyserver once the cause is gone"
    )
    for _ in range(5):
        before = failing.now
        assert failing.tick() == ["look policyserver"]
        assert failing.now - before == LOOK_PERIOD


@pytest.mark.parametrize(
    "ask", [OperatorStart(("policyserver",), token=2), Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, POLICY), ALL, token=2)]
)
def test_what_was_given_up_is_tried_again_when_asked(failing: Bench, ask: Event) -> None:
    assert "start policyserver" in failing.do(ask)
    assert failing.started("policyserver") == ["done 2"]
    failing.tick()
    assert Alarm("policyserver", False, "runs again") in failing.effects


def test_a_reload_says_that_what_was_given_up_failed_again(failing: Bench) -> None:
    failing.do(OperatorStart(("policyserver",), token=2))
    assert failing.do(StartFailed("policyserver", "no licence")) == ["done 2 [policyserver: did not start: no licence]"]


def test_what_was_given_up_and_is_not_wanted_any_more_is_no_alarm(failing: Bench) -> None:
    assert failing.reload(Mode.PASSIVE, HA, token=2) == ["done 2"]
    assert failing.state("policyserver") is State.STOPPED
    assert not failing.roles.entries["policyserver"].alarm


def test_what_was_given_up_and_somebody_else_started_is_watched(failing: Bench) -> None:
    failing.tick()
    failing.do(Found("policyserver", 77))
    assert failing.state("policyserver") is State.RUNNING
    failing.tick()
    assert Alarm("policyserver", False, "runs again") in failing.effects
    assert failing.do(Died("policyserver", "x")) == ["start policyserver again"]


def test_a_quiet_time_between_deaths_is_no_reason_to_give_up(bench: Bench) -> None:
    bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, replace(POLICY, give_up_after=1)), ALL))
    for _ in range(5):
        assert bench.do(Died("policyserver", "x")) == ["start policyserver again"]
        bench.started("policyserver")
        bench.tick()
    bench.do(Died("policyserver", "x"))
    bench.started("policyserver")
    assert bench.do(Died("policyserver", "x")) == []
    assert bench.state("policyserver") is State.GIVEN_UP


def test_backs_off_and_never_gives_up(bench: Bench) -> None:
    delays = []
    for _ in range(10):
        before = bench.now
        done = bench.do(Died("heartbeat", "x"))
        if not done:
            done = bench.tick()
        assert done == ["start heartbeat again"]
        delays.append(bench.now - before)
        bench.started("heartbeat")
    assert delays == [0, 1, 2, 4, 8, 16, 32, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]


def test_what_holds_the_role_never_waits_long(bench: Bench) -> None:
    watched = replace(HEARTBEAT, control="/run/heartbeat/control")
    bench.do(Reload(Mode.ACTIVE, (watched, HA_MANAGER, POLICY), ALL))
    for _ in range(8):
        before = bench.now
        bench.do(Died("heartbeat", "x")) or bench.tick()
        assert bench.now - before <= LONGEST_OF_HA
        bench.started("heartbeat")


def test_a_process_that_others_stop_too_does_not_come_back_between_their_stop_and_their_word(bench: Bench) -> None:
    patient = replace(POLICY, restart_after=3.0)
    bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, patient), ALL))
    assert bench.do(Died("policyserver", "pid 1003 ended by itself")) == []
    assert bench.roles.deadline() == bench.now + 3.0
    raised = [e for e in bench.effects if isinstance(e, Alarm)]
    assert bench.do(Reload(Mode.PASSIVE, (HEARTBEAT, HA_MANAGER, patient), HA, token=1), after=1.0) == ["done 1"]
    assert bench.state("policyserver") is State.STOPPED
    assert raised + [e for e in bench.effects if isinstance(e, Alarm)] == [], "a planned change of role is no alarm"
    assert bench.do(Tick(), after=60.0) == []


def test_without_that_word_it_comes_back(bench: Bench) -> None:
    patient = replace(POLICY, restart_after=3.0)
    bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, patient), ALL))
    bench.do(Died("policyserver", "x"))
    assert bench.tick() == ["start policyserver again"]
    assert bench.now == 103.0
    assert Alarm("policyserver", True, "x") in bench.effects
    bench.started("policyserver")
    bench.do(Died("policyserver", "y"))
    assert Alarm("policyserver", True, "y") in bench.effects, "the second death in a row is told at once"


def test_a_quiet_time_forgets(bench: Bench) -> None:
    bench.do(Died("heartbeat", "x"))
    assert Alarm("heartbeat", True, "x") in bench.effects
    bench.started("heartbeat")
    bench.tick()
    assert bench.now == 110.0
    assert [e for e in bench.effects if isinstance(e, Alarm)] == [Alarm("heartbeat", False, "runs again")]
    assert bench.do(Died("heartbeat", "x")) == ["start heartbeat again"]
    assert bench.roles.deadline() is None


def test_a_hang_is_killed_and_then_is_a_death(bench: Bench) -> None:
    assert bench.do(Hung("ha_manager", "hangs: no answer")) == ["kill ha_manager"]
    assert bench.do(Hung("ha_manager", "hangs: no answer")) == []
    assert bench.do(Died("ha_manager", "pid 1 died")) == ["start ha_manager again"]
    assert bench.roles.entries["ha_manager"].alarm == "killed, as it hangs: no answer"


def test_a_missing_script_is_an_alarm(bench: Bench) -> None:
    bench.do(Died("policyserver", "x"))
    bench.do(StartFailed("policyserver", "/etc/init.d/policyserver does not exist"))
    assert bench.state("policyserver") is State.WAITING
    assert "does not exist" in bench.roles.entries["policyserver"].alarm
    assert bench.state("heartbeat") is State.RUNNING


def test_passive_and_back_touch_only_the_difference(bench: Bench) -> None:
    assert bench.reload(Mode.PASSIVE, HA, token=1) == ["stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["done 1"]
    assert bench.reload(Mode.ACTIVE, ALL, token=2) == ["start policyserver"]
    assert bench.started("policyserver") == ["done 2"]


def test_starts_of_a_change_wait_for_its_stops() -> None:
    relay = process("logrelay", 5, 5, "relay")
    known = (POLICY, relay)
    bench = Bench()
    bench.do(Reload(Mode.ACTIVE, known, frozenset({"policyserver"})))
    bench.started("policyserver")
    assert bench.do(Reload(Mode.PASSIVE, known, frozenset({"logrelay"}), token=1)) == ["stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["start logrelay"]
    assert bench.started("logrelay") == ["done 1"]


def test_a_stop_that_needed_force_is_reported(bench: Bench) -> None:
    bench.reload(Mode.PASSIVE, HA, token=1)
    assert bench.do(Stopped("policyserver", "had to be killed")) == ["done 1 [policyserver: had to be killed]"]
    assert bench.state("policyserver") is State.STOPPED


def test_a_superseded_reload_says_so(bench: Bench) -> None:
    bench.reload(Mode.PASSIVE, HA, token=1)
    assert bench.reload(Mode.ACTIVE, ALL, token=2) == []
    assert bench.do(Stopped("policyserver")) == ["start policyserver"]
    assert bench.started("policyserver") == ["done 1 [a later reload has changed the mode to active]", "done 2"]


def test_a_reload_tries_again_what_waits(bench: Bench) -> None:
    bench.do(Died("policyserver", "x"))
    bench.do(StartFailed("policyserver", "x"))
    assert bench.reload(token=1) == ["start policyserver again"]
    assert bench.do(StartFailed("policyserver", "y")) == ["done 1 [policyserver: did not start: y]"]


def test_a_reload_without_change_is_done_at_once(bench: Bench) -> None:
    assert bench.reload(token=1) == ["done 1"]


def test_found_running_is_left_alone() -> None:
    bench = Bench()
    event = Reload(Mode.ACTIVE, KNOWN, HA, running={"heartbeat": 7, "ha_manager": 8, "policyserver": 9})
    assert bench.do(event) == ["stop policyserver"]
    assert bench.do(Died("heartbeat", "x")) == ["start heartbeat again"]


def test_an_operators_stop_holds(bench: Bench) -> None:
    assert bench.do(OperatorStop(("policyserver",), token=1)) == ["held policyserver", "stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["done 1"]
    assert bench.do(Tick(), after=1000) == []
    assert bench.do(OperatorStart(("policyserver",), token=2)) == ["held -", "start policyserver"]
    assert bench.started("policyserver") == ["done 2"]


def test_an_operators_stop_is_remembered_by_the_next_manager() -> None:
    bench = Bench(held=("heartbeat",))
    assert bench.reload() == ["start ha_manager"]
    assert bench.roles.entries["heartbeat"].held
    bench.started("ha_manager")
    bench.started("policyserver")
    assert bench.reload(token=1) == ["held -", "start heartbeat"]


def test_a_sighup_releases_nobody(bench: Bench) -> None:
    bench.do(OperatorStop(("policyserver",)))
    bench.do(Stopped("policyserver"))
    assert bench.do(Reload(Mode.ACTIVE, KNOWN, ALL, release=False)) == []


def test_a_reload_during_an_operators_stop_releases_nobody_and_is_answered(bench: Bench) -> None:
    assert bench.do(OperatorStop(("heartbeat", "ha_manager"), token=1)) == ["held ha_manager,heartbeat", "stop heartbeat"]
    assert bench.reload(Mode.PASSIVE, HA, token=2) == ["stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["done 2"]
    assert bench.do(Stopped("heartbeat")) == ["stop ha_manager"]
    assert bench.do(Stopped("ha_manager")) == ["done 1"]


def test_a_reload_during_shutdown_is_answered_before_the_end(bench: Bench) -> None:
    """ha_manager turns passive while the system goes down: waiting for it must not be a deadlock."""
    bench.do(Shutdown("bye"))
    assert bench.reload(Mode.PASSIVE, HA, token=1) == []
    assert bench.do(Stopped("policyserver")) == ["done 1"]
    assert bench.do(Stopped("heartbeat")) == ["stop ha_manager"]


def test_a_changed_process_is_replaced(bench: Bench) -> None:
    moved = replace(POLICY, pid_file="/run/elsewhere.pid")
    assert bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, moved), ALL, token=1)) == ["stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["start policyserver"]
    assert [e.process for e in bench.effects if isinstance(e, Start)] == [moved]
    assert bench.started("policyserver") == ["done 1"]


def test_changed_limits_leave_the_process_alone(bench: Bench) -> None:
    slower = replace(POLICY, stop_limit=99.0)
    assert bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, slower), ALL, token=1)) == ["done 1"]
    assert bench.roles.entries["policyserver"].process.stop_limit == 99.0


def test_a_process_that_left_the_configuration_is_stopped_and_forgotten(bench: Bench) -> None:
    assert bench.do(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER), HA, token=1)) == ["stop policyserver"]
    assert bench.do(Stopped("policyserver")) == ["done 1"]
    assert "policyserver" not in bench.roles.entries


def test_every_change_has_a_reason(bench: Bench) -> None:
    bench.do(Died("heartbeat", "pid 1001 died"))
    changes = [e for e in bench.effects if isinstance(e, Changed)]
    assert [(c.before, c.after) for c in changes] == [(State.RUNNING, State.WAITING), (State.WAITING, State.STARTING)]
    assert changes[0].because == "pid 1001 died; starting it again at once"


NAMES = st.sampled_from(["heartbeat", "ha_manager", "policyserver"])
EVENTS = st.one_of(
    st.builds(Died, NAMES, st.just("x")),
    st.builds(Hung, NAMES, st.just("hangs")),
    st.builds(OperatorStop, st.tuples(NAMES)),
    st.builds(OperatorStart, st.tuples(NAMES)),
    st.just(Reload(Mode.ACTIVE, (HEARTBEAT, HA_MANAGER, replace(POLICY, give_up_after=2)), ALL)),
    st.just(Reload(Mode.PASSIVE, KNOWN, HA)),
    st.just(Tick()),
)


class World:
    """Carries out what Roles says, each piece at any later moment; complains about what must not be said."""

    def __init__(self) -> None:
        self.roles = Roles()
        self.now = 0.0
        self.pending: list[tuple[str, str]] = []
        self.alive: set[str] = set()
        self.exited = False

    def do(self, event: Event) -> None:
        if isinstance(event, Died | Hung) and event.name not in self.alive:
            return
        if isinstance(event, Died):
            self.alive.discard(event.name)
            self.pending = [p for p in self.pending if p != ("kill", event.name)]
        for effect in self.roles.handle(event, self.now):
            self.note(effect)

    def note(self, effect: Effect) -> None:
        match effect:
            case Start(p):
                assert p.name not in self.alive, "started twice"
                assert ("start", p.name) not in self.pending
                self.pending.append(("start", p.name))
            case Stop(p):
                self.pending.append(("stop", p.name))
            case Kill(p):
                self.pending.append(("kill", p.name))
            case Exit():
                assert not self.alive
                self.exited = True

    def progress(self, succeeds: bool) -> None:
        """The oldest thing under way is done."""
        if not self.pending:
            return
        what, name = self.pending.pop(0)
        if what == "start" and succeeds:
            self.alive.add(name)
            self.do(Started(name, 1))
        elif what == "start":
            self.do(StartFailed(name, "x"))
        elif what == "stop":
            self.alive.discard(name)
            self.do(Stopped(name))
        elif name in self.alive:
            self.do(Died(name, "killed"))


@given(st.lists(st.tuples(st.one_of(EVENTS, st.none()), st.booleans(), st.floats(0, 5)), max_size=40))
def test_whatever_happens_in_the_end_runs_what_is_wanted(steps: list[tuple[Event | None, bool, float]]) -> None:
    world = World()
    world.do(Reload(Mode.ACTIVE, KNOWN, ALL))
    for event, succeeds, seconds in steps:
        world.now += seconds
        if event is None:
            world.progress(succeeds)
        else:
            # A process that is being stopped answers Stopped, not Died: that is the hands' promise.
            name = getattr(event, "name", "")
            if ("stop", name) not in world.pending:
                world.do(event)
    for _ in range(100):
        world.now += LONGEST_DELAY
        world.progress(True)
        world.do(Tick())
    wanted = {name for name, entry in world.roles.entries.items() if entry.enabled and not entry.held}
    given_up = {name for name, entry in world.roles.entries.items() if entry.state is State.GIVEN_UP}
    assert given_up <= {"policyserver"}
    assert world.alive == wanted - given_up
    assert all("given up after" in world.roles.entries[name].alarm for name in given_up)
    world.do(Shutdown("bye"))
    for _ in range(10):
        world.progress(True)
    assert world.exited
