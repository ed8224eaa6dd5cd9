"""The plan of a role change: order, proofs, retries, supersession, resumption after a crash at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_manager.journal import JournalFile
from ha_manager.orders import Epoch, Postgres, Role
from ha_manager.plan import (
    BECOMING_ACTIVE,
    BECOMING_PASSIVE,
    Begin,
    Cancel,
    Change,
    Effect,
    Ended,
    Journal,
    Lane,
    Note,
    Observed,
    Plan,
    Report,
    RoleIs,
    Run,
    State,
    Tick,
    steps_of,
)

ALL = frozenset(step.name for step in (*BECOMING_ACTIVE, *BECOMING_PASSIVE))
E5, E6 = Epoch(5, "vs-166"), Epoch(6, "vs-166")


def active(epoch: Epoch = E5, was_passive: bool = True, exists: frozenset[str] = ALL) -> RoleIs:
    return RoleIs(Role.ACTIVE, epoch, "the active is silent", was_passive, exists)


def passive(epoch: Epoch = E6) -> RoleIs:
    return RoleIs(Role.PASSIVE, epoch, "stood down", False, ALL)


def runs(effects: list[Effect]) -> list[str]:
    return [effect.step.name for effect in effects if isinstance(effect, Run)]


def play(plan: Plan, first: list[Effect], now: float = 0.0, refuse: frozenset[str] = frozenset()) -> list[str]:
    """End every step that runs, successfully; the names in the order in which they were started."""
    order, queue = [], list(first)
    while queue:
        effect = queue.pop(0)
        if isinstance(effect, Run) and effect.step.name not in refuse:
            order.append(effect.step.name)
            queue += plan.handle(Ended(effect.plan, effect.step.name, True), now)
    return order


def test_becoming_active_in_order() -> None:
    plan = Plan()
    begun = plan.handle(active(), 0)
    assert isinstance(begun[0], Begin) and begun[0].change.was_passive
    assert runs(begun) == ["marker", "becoming_active"]
    order = play(plan, begun)
    assert order == ["marker", "becoming_active", "base", "reload", "place"]
    rest = plan.handle(Observed(Postgres.PRIMARY), 1)
    assert play(plan, rest, 1) == ["policy_start", "request", "active", "replicate"]
    assert not plan.finished
    done = plan.handle(Observed(Postgres.PRIMARY, checkpointed=True), 2)
    assert plan.finished
    assert Report("all steps of becoming active are done") in done


def test_becoming_passive_in_order() -> None:
    plan = Plan()
    assert play(plan, plan.handle(passive(), 0)) == ["marker", "becoming_passive", "policy_stop", "reload"]
    assert runs(plan.handle(Observed(Postgres.STANDBY), 1)) == ["passive"]


def test_promotion_waits_for_no_step_and_is_never_run_by_the_plan() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    effects = plan.handle(Observed(Postgres.PRIMARY), 0)
    assert Note("promoted", State.DONE) in effects
    assert not any(step.needs or step.after for step in BECOMING_ACTIVE if step.name == "promoted")


def test_without_a_failover_the_received_configuration_is_not_copied() -> None:
    plan = Plan()
    effects = plan.handle(active(was_passive=False), 0)
    assert not {"base", "place", "request", "replicate"} & set(plan.states())
    assert "reload" in plan.states() and isinstance(effects[0], Begin)


def test_a_step_that_does_not_exist_here_holds_nothing_up() -> None:
    plan = Plan()
    begun = plan.handle(active(exists=ALL - {"base", "reload", "place", "becoming_active"}), 0)
    play(plan, begun)
    assert runs(plan.handle(Observed(Postgres.PRIMARY), 0)) == ["policy_start"]


def test_intent_is_noted_before_and_outcome_after() -> None:
    plan = Plan()
    effects = plan.handle(active(), 0)
    for run in [e for e in effects if isinstance(e, Run)]:
        assert effects.index(Note(run.step.name, State.BEGUN)) < effects.index(run)
    assert plan.handle(Ended(plan.number, "marker", True), 0)[0] == Note("marker", State.DONE)


def test_a_failed_step_is_tried_again_with_backoff_and_what_only_follows_it_goes_on() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    plan.handle(Ended(plan.number, "marker", True), 0)
    effects = plan.handle(Ended(plan.number, "base", False, "disk full"), 10)
    assert any(isinstance(e, Report) and e.alarm == "plan-base" and "disk full" in e.text for e in effects)
    assert "reload" in runs(effects), "order only: the Manager's reload does not need base"
    assert plan.deadline() == 11
    plan.handle(Ended(plan.number, "place", True), 10)
    assert runs(plan.handle(Tick(), 10.9)) == []
    assert runs(plan.handle(Tick(), 11)) == ["base"]
    plan.handle(Ended(plan.number, "base", False, "disk full"), 12)
    assert runs(plan.handle(Tick(), 13.9)) == [] and runs(plan.handle(Tick(), 14)) == ["base"]
    assert Report("copy conf_ready to base: done", "plan-base", False) in plan.handle(Ended(plan.number, "base", True), 15)


def test_what_needs_a_failed_step_waits_for_it() -> None:
    plan = Plan()
    play(plan, plan.handle(active(), 0))
    plan.handle(Observed(Postgres.PRIMARY), 0)
    assert "request" not in runs(plan.handle(Ended(plan.number, "policy_start", False, "no"), 0))
    plan.handle(Tick(), 1)
    assert "request" in runs(plan.handle(Ended(plan.number, "policy_start", True), 2))


def test_a_lane_that_does_not_answer_is_reported_once() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    limit = next(step.limit for step in BECOMING_ACTIVE if step.name == "marker")
    assert any(isinstance(e, Report) and "does not answer" in e.text for e in plan.handle(Tick(), limit + 6))
    assert not any(isinstance(e, Report) and "write the marker" in e.text for e in plan.handle(Tick(), limit + 7))


def alarms(effects: list[Effect], step: str) -> list[bool]:
    return [effect.raised for effect in effects if isinstance(effect, Report) and effect.alarm == f"plan-{step}"]


def test_an_alarm_ends_with_its_trouble_or_with_its_plan() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    assert runs(plan.handle(Ended(1, "marker", True), 0)) == ["base"]
    assert alarms(plan.handle(Tick(), 1000), "base") == [True], "it hangs"
    assert alarms(plan.handle(Ended(1, "base", True), 1000), "base") == [False], "it was only slow"
    assert alarms(plan.handle(Ended(1, "place", False, "no such user"), 1000), "place") == [True]
    superseded = plan.handle(passive(), 1001)
    assert alarms(superseded, "place") == [False] and alarms(superseded, "base") == []


def test_a_newer_role_supersedes_and_late_outcomes_are_ignored() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    old = plan.number
    effects = plan.handle(passive(), 1)
    assert effects[0] == Cancel(old) and isinstance(effects[1], Begin)
    assert plan.handle(Ended(old, "marker", False, "superseded"), 1) == []
    assert plan.states()["marker"][0] is State.BEGUN


def test_a_superseded_failover_is_owed_to_the_next_one() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    plan.handle(Ended(plan.number, "marker", True), 0)
    plan.handle(passive(E5), 1)
    plan.handle(active(E6, was_passive=True), 2)
    assert "base" in plan.states()


def test_the_same_role_again_changes_nothing_and_a_newer_epoch_moves_the_journal() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    assert plan.handle(active(), 1) == []
    effects = plan.handle(active(E6), 1)
    assert isinstance(effects[0], Begin) and effects[0].change.epoch == E6 and effects[0].change.was_passive
    assert Note("marker", State.BEGUN) in effects and runs(effects) == []


def test_an_abort_leaves_the_rest_undone_but_never_the_data() -> None:
    plan = Plan()
    plan.handle(active(), 0)
    effects = plan.handle(Ended(plan.number, "becoming_active", False, "hook says stop", abort=True), 0)
    aborted = {e.step for e in effects if isinstance(e, Note) and e.state is State.ABORTED}
    assert {"policy_start", "base", "reload"} <= aborted
    assert not {"promoted", "checkpoint", "marker"} & aborted
    plan.handle(Ended(plan.number, "marker", True), 0)
    plan.handle(Observed(Postgres.PRIMARY, checkpointed=True), 0)
    assert plan.finished


NAMES = [step.name for step in BECOMING_ACTIVE]


@pytest.mark.parametrize(
    "crashed_in", [n for n in NAMES if next(s for s in BECOMING_ACTIVE if s.name == n).lane is not Lane.DATABASE]
)
@pytest.mark.parametrize("noted", [State.BEGUN, State.DONE])
def test_resumed_after_a_crash_at_every_step(tmp_path: Path, crashed_in: str, noted: State) -> None:
    """What was done stays done, what had begun runs again, nothing is left out; through a real journal."""
    journal = JournalFile(tmp_path / "journal")
    first = Plan()
    queue = first.handle(active(), 0) + first.handle(Observed(Postgres.PRIMARY, checkpointed=True), 0)
    crashed, done = False, []
    while queue and not crashed:
        match queue.pop(0):
            case Begin(change):
                journal.begin(change)
            case Note(step, state, error):
                journal.note(step, state, error)
                crashed = step == crashed_in and state is noted
                done += [step] if state is State.DONE else []
            case Run(plan, step):
                queue += first.handle(Ended(plan, step.name, True), 0)
    assert crashed
    second = Plan(journal=JournalFile(tmp_path / "journal").load())
    begun = second.handle(active(was_passive=False), 100)
    begun += second.handle(Observed(Postgres.PRIMARY, checkpointed=True), 100)
    again = play(second, begun, 100)
    assert second.finished
    assert not set(again) & set(done)
    assert set(again) | set(done) >= {s.name for s in BECOMING_ACTIVE if s.lane is not Lane.DATABASE}


def test_a_journal_of_an_older_epoch_is_discarded_but_what_it_owes_is_not() -> None:
    old = Change(Role.ACTIVE, E5, "x", True, tuple(NAMES))
    plan = Plan(journal=Journal(old, {"marker": State.DONE}))
    effects = plan.handle(active(E6, was_passive=False), 0)
    assert isinstance(effects[0], Begin) and effects[0].change.was_passive
    assert "marker" in runs(effects)
    done = Plan(journal=Journal(old, {"marker": State.DONE, "base": State.DONE}))
    done.handle(active(E6, was_passive=False), 0)
    assert "base" not in done.states()


@pytest.mark.parametrize("role", [Role.PASSIVE, Role.ACTIVE])
def test_ha_turned_off_and_on_again_begins_anew_in_the_same_role_and_epoch(role: Role) -> None:
    """`ha stop` removes the markers, and the journal still calls them written."""
    steps = tuple(step.name for step in steps_of(role))
    journal = Journal(Change(role, E5, "x", True, steps), dict.fromkeys(steps, State.DONE) | {"base": State.PENDING})
    marked = Plan(journal=journal).handle(RoleIs(role, E5, "x", False, ALL, marked=True), 0)
    assert "marker" not in runs(marked)
    plan = Plan(journal=journal)
    effects = plan.handle(RoleIs(role, E5, "on again", False, ALL, marked=False), 0)
    assert isinstance(effects[0], Begin) and "marker" in runs(effects)
    assert "base" in plan.states() or role is Role.PASSIVE, "a failover's copy that was owed before is owed still"


def test_a_torn_or_foreign_journal_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = JournalFile(path)
    assert journal.load() is None
    journal.begin(Change(Role.ACTIVE, E5, "x", True, ("marker", "base")))
    journal.note("marker", State.DONE)
    journal.close()
    with path.open("ab") as torn:
        torn.write(b'{"step": "base", "sta')
    found = JournalFile(path).load()
    assert found is not None and dict(found.states) == {"marker": State.DONE}
    again = JournalFile(path)
    again.note("base", State.BEGUN)
    found = JournalFile(path).load()
    assert found is not None and found.states["base"] is State.BEGUN
    JournalFile(path).begin(Change(Role.ACTIVE, E5, "x", True, ("a step of another version",)))
    assert JournalFile(path).load() is None
    path.write_bytes(b"\0\xff\n")
    assert JournalFile(path).load() is None


def test_every_need_is_a_step_before_it() -> None:
    for role in Role:
        seen: set[str] = set()
        for step in steps_of(role):
            assert step.limit > 0 and step.proof
            for other in step.needs:
                assert other in seen, f"{step.name} needs {other}"
            seen.add(step.name)
