"""When a want that was carried out is carried out again, and which copies a newer one lets go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha_manager.deviation import alike, deviates, same_copy
from ha_manager.observation import Observation, Receiver
from ha_manager.orders import Epoch, Names, Phase, Postgres, Want
from ha_manager.outlook import Carried

THEIRS = Epoch(6, "vs-28")
PRIMARY = Want(7, Phase.ACTIVE, Epoch(5, "vs-166"), Postgres.PRIMARY, Names.ENFORCED)
STANDBY = Want(7, Phase.PASSIVE, Epoch(5, "vs-166"), Postgres.STANDBY, follow=THEIRS)
DETACHED = replace(STANDBY, postgres=Postgres.DETACHED)
STOPPED = replace(PRIMARY, postgres=Postgres.STOPPED)
READY = Carried(serial=7, data="ready")
RUNS = Observation(state="running", answers=True, names="x")
RECOVERS = replace(RUNS, in_recovery=True, names="", receiver=Receiver("streaming", "ha_vs-166_6", "10.0.0.1", 1, 0.0))
DOWN = Observation(state="stopped")

ROWS = [
    (PRIMARY, RUNS, READY, False),
    (PRIMARY, DOWN, READY, True),
    (PRIMARY, RECOVERS, READY, True),
    (PRIMARY, replace(RUNS, answers=False), READY, False),
    (replace(PRIMARY, names=Names.RELAXED), RUNS, READY, True),
    (replace(PRIMARY, names=Names.RELAXED), replace(RUNS, names=""), READY, False),
    (STANDBY, RECOVERS, READY, False),
    (STANDBY, replace(RECOVERS, receiver=None), READY, True),
    (replace(STANDBY, follow=Epoch()), replace(RECOVERS, receiver=None), READY, False),
    (STANDBY, RUNS, READY, True),
    (STANDBY, DOWN, replace(READY, data="failed"), True),
    (replace(STANDBY, follow=Epoch()), DOWN, replace(READY, data="failed"), False),
    (DETACHED, RECOVERS, READY, True),
    (DETACHED, replace(RECOVERS, receiver=None), replace(READY, detached=True), False),
    (STOPPED, DOWN, READY, False),
    (STOPPED, RUNS, READY, True),
    (PRIMARY, DOWN, replace(READY, serial=6), False),
    (PRIMARY, replace(DOWN, state="starting"), READY, False),
    (replace(PRIMARY, postgres=Postgres.KEEP), DOWN, READY, False),
]


@pytest.mark.parametrize(("want", "seen", "carried", "again"), ROWS)
def test_what_no_longer_holds_is_carried_out_again(want: Want, seen: Observation, carried: Carried, again: bool) -> None:
    assert deviates(want, carried, seen) is again


def test_words_and_numbers_alone_are_nothing_new() -> None:
    assert alike(PRIMARY, replace(PRIMARY, serial=9, phase=Phase.PREPARING, because="x", ask_stand_down="y"))
    assert not alike(PRIMARY, replace(PRIMARY, names=Names.RELAXED))
    assert not alike(STANDBY, replace(STANDBY, follow=Epoch(7, "vs-28")))


@pytest.mark.parametrize(
    ("newest", "same"),
    [
        (replace(STANDBY, serial=9), True),
        (replace(STANDBY, follow=Epoch(7, "vs-28")), True),
        (replace(STANDBY, follow=Epoch()), True),
        (replace(STANDBY, follow=Epoch(7, "vs-29")), False),
        (DETACHED, False),
        (PRIMARY, False),
    ],
)
def test_which_want_lets_a_copy_go_on(newest: Want, same: bool) -> None:
    assert same_copy(newest, STANDBY) is same
