"""The order of resource scripts: a table of small plays, and every interleaving that hypothesis finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.resources import RETRY, Act, BreakOff, Order, Outcome, Problem, Run, Sequencer, State
from heartbeat.scripts import says_running

OK, NO = Outcome(True), Outcome(False, "it ended with 1")
SILENT = Outcome(False, "did not end within 10 s and was killed", silent=True)


class Stage:
    """Answers each script as the play says; writes down "START 0" and the like."""

    def __init__(self, count: int, running: bool = False) -> None:
        self.sequencer = Sequencer(count)
        self.now = 100.0
        self.done: list[str] = []
        self.problems: dict[int, str] = {}
        #: what each script answers; what isn't there does what it should
        self.answers: dict[tuple[Act, int], Outcome] = {}
        self.running = [running] * count

    def play(self, orders: list[Order], until: str = "") -> list[str]:
        """Until nothing is left to do, or the script named ``until`` runs."""
        self.done = []
        while orders:
            run = self._take(orders)
            if run is None or self.done[-1:] == [until]:
                break
            orders = self.end(run)
        return self.done

    def _take(self, orders: list[Order]) -> Run | None:
        run = None
        for order in orders:
            match order:
                case Run(index, act):
                    assert run is None, "two at once"
                    run = order
                    self.done.append(f"{act} {index}")
                case BreakOff():
                    self.done.append("break off")
                case Problem(index, text):
                    self.problems[index] = text
        return run

    def end(self, run: Run, outcome: Outcome | None = None) -> list[Order]:
        default = Outcome(self.running[run.index]) if run.act is Act.STATUS else OK
        outcome = outcome or self.answers.get((run.act, run.index), default)
        if outcome.ok and run.act is not Act.STATUS:
            self.running[run.index] = run.act is Act.START
        return self.sequencer.ended(outcome, self.now)

    def want(self, started: bool, until: str = "") -> list[str]:
        return self.play(self.sequencer.want(started, self.now), until)

    def tick(self) -> list[str]:
        return self.play(self.sequencer.tick(self.now))


def settled(count: int, started: bool) -> Stage:
    stage = Stage(count)
    stage.want(started)
    return stage


def test_left_to_right_and_back() -> None:
    stage = settled(3, False)
    assert stage.want(True) == ["start 0", "start 1", "start 2"]
    assert stage.want(False) == ["stop 2", "stop 1", "stop 0"] and stage.sequencer.stopped


def test_nothing_is_touched_before_the_role_is_known() -> None:
    stage = Stage(2)
    assert stage.tick() == [] and not stage.sequencer.stopped and stage.sequencer.deadline() is None


def test_what_a_crash_left_behind_is_stopped_by_a_passive() -> None:
    stage = Stage(2, running=True)
    assert stage.want(False) == ["status 1", "stop 1", "status 0", "stop 0"] and stage.sequencer.stopped


def test_what_a_crash_left_behind_is_adopted_by_whoever_resumes() -> None:
    stage = Stage(2)
    stage.running = [True, False]
    assert stage.want(True) == ["status 0", "status 1", "start 1"]
    assert stage.sequencer.states == [State.STARTED, State.STARTED]


def test_a_passive_with_nothing_left_behind_only_asks() -> None:
    assert Stage(2).want(False) == ["status 1", "status 0"]


def test_a_failed_start_ends_the_row_is_told_and_tried_again() -> None:
    stage = settled(3, False)
    stage.answers[Act.START, 1] = NO
    assert stage.want(True) == ["start 0", "start 1"]
    assert "start failed: it ended with 1" in stage.problems[1] and stage.sequencer.deadline() == 100 + RETRY
    assert stage.tick() == [] and stage.want(True) == []
    stage.now += RETRY
    del stage.answers[Act.START, 1]
    assert stage.tick() == ["start 1", "start 2"] and stage.problems[1] == ""
    assert stage.sequencer.deadline() is None


def test_what_failed_to_start_is_stopped_too() -> None:
    stage = settled(2, False)
    stage.answers[Act.START, 0] = NO
    stage.want(True)
    assert stage.want(False) == ["stop 0"] and stage.sequencer.stopped


@pytest.mark.parametrize("outcome", [NO, SILENT])
def test_what_can_not_be_stopped_does_not_hold_up_the_others(outcome: Outcome) -> None:
    stage = settled(3, True)
    stage.answers[Act.STOP, 1] = outcome
    assert stage.want(False) == ["stop 2", "stop 1", "stop 0"]
    assert stage.sequencer.stopped and stage.problems[1].startswith("stop failed: ")
    assert stage.sequencer.deadline() == 100 + RETRY
    stage.now += RETRY
    del stage.answers[Act.STOP, 1]
    assert stage.tick() == ["stop 1"] and stage.problems[1] == ""


@pytest.mark.parametrize("started", [True, False])
def test_a_status_that_says_nothing_is_no_obstacle(started: bool) -> None:
    stage = Stage(1, running=True)
    stage.answers[Act.STATUS, 0] = SILENT
    assert stage.want(started) == ["status 0", "start 0" if started else "stop 0"]


def test_a_start_under_way_is_broken_off_and_what_it_had_begun_is_stopped() -> None:
    stage = settled(3, False)
    assert stage.want(True, until="start 1")[-1] == "start 1"
    assert stage.want(False) == ["break off"] and not stage.sequencer.stopped
    assert stage.want(False) == []  # said once
    assert stage.play(stage.end(Run(1, Act.START), SILENT)) == ["stop 1", "stop 0"] and stage.sequencer.stopped
    assert stage.problems.get(1, "") == ""


def test_a_start_that_was_done_before_it_could_be_broken_off_is_stopped_all_the_same() -> None:
    stage = settled(1, False)
    stage.want(True, until="start 0")
    stage.want(False)
    assert stage.play(stage.end(Run(0, Act.START), OK)) == ["stop 0"]


def test_a_status_that_is_broken_off_is_asked_again() -> None:
    stage = Stage(1, running=True)
    stage.want(True, until="status 0")
    assert stage.want(False) == ["break off"]
    assert stage.play(stage.end(Run(0, Act.STATUS), SILENT)) == ["status 0", "stop 0"]


def test_a_stop_under_way_ends_before_it_is_started_again_and_no_more_is_stopped() -> None:
    stage = settled(3, True)
    stage.want(False, until="stop 2")
    assert stage.want(True) == []
    assert stage.play(stage.end(Run(2, Act.STOP))) == ["start 2"]


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    sequencer = Sequencer(1)
    assert sequencer.ended(OK, 1.0) == [] and sequencer.states == [State.UNKNOWN]


@given(
    st.integers(0, 4), st.lists(st.tuples(st.sampled_from(["up", "down", "end", "wait"]), st.sampled_from([OK, NO, SILENT])))
)
def test_one_at_a_time_in_order_and_in_the_end_as_wanted(count: int, steps: list[tuple[str, Outcome]]) -> None:
    """Whatever is wanted meanwhile and however scripts end: starts have everything to their left, and the last word counts."""
    sequencer = Sequencer(count)
    now, wanted, running = 0.0, False, None
    steps = [*steps, ("down", OK), *[("end", OK)] * 3 * count, ("wait", OK), *[("end", OK)] * 3 * count]
    for step, outcome in steps:
        now += 40.0 if step == "wait" else 0.1
        if step in ("up", "down"):
            wanted = step == "up"
            orders = sequencer.want(wanted, now)
        elif step == "end" and running is not None:
            orders, running = sequencer.ended(outcome, now), None
        else:
            orders = sequencer.tick(now)
        for order in orders:
            if isinstance(order, Run):
                assert running is None, "two at once"
                running = order
                left = sequencer.states[: order.index]
                assert order.act is not Act.START or (wanted and set(left) <= {State.STARTED})
                assert order.act is not Act.STOP or not wanted
        assert count == 0 or sequencer.stopped is False or running is None
    assert sequencer.stopped and running is None and set(sequencer.states) <= {State.STOPPED}


@pytest.mark.parametrize(
    ("code", "output", "running"),
    [
        (0, "", True),
        (3, "", False),
        (0, "stopped", False),
        (0, "apache is not running.", False),
        (0, "running", True),
        (1, "INFO: Running OK", True),
        (1, "unknown action status", False),
        (4, "", False),
    ],
)
def test_what_a_status_means(code: int, output: str, running: bool) -> None:
    assert says_running(code, output) is running
