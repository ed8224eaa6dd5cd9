"""What counts as the case that nobody can decide, and what doesn't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .faults import Fault, Schedule
from .scenarios import DOWN, WORD
from .world import PLAIN, play

F = Fault
#: neither alone leaves the pair without a path; who took over in between dies before anybody hears of it
TWO_CUTS = (F(1.5, "cut", "A", 7.5, "*:out"), F(2.0, "cut", "B", 8.8, "*:out"), F(2.7, "power", "B", 8.6))


def test_cuts_in_one_direction_and_then_in_the_other_are_a_symmetric_one() -> None:
    result = play(1, TWO_CUTS)
    assert result.blind
    assert not result.failures


def test_what_is_excused_there_does_harm() -> None:
    assert play(1, TWO_CUTS, replace(PLAIN, strict=True)).kind in ("lost", "double")


#: the same around a hand-over, from whose beginning on the successor is deaf, and later mute
HANDED_OVER = (F(1.5, "failover", "A"), F(0.0, "cut", "A", 9, "*:out", DOWN), F(0.9, "cut", "B", 9, "*:out", DOWN))


@pytest.mark.parametrize("seed", range(3))
def test_one_that_let_go_comes_back_only_after_a_cut_that_began_both_ways_at_once(seed: int) -> None:
    """Whoever stops hearing before it stops being heard may have taken over meanwhile."""
    strict = replace(PLAIN, strict=True)
    assert not play(seed, (*HANDED_OVER, F(1.7, "power", "B", 12, "", DOWN)), strict).failures
    at_once = (F(1.5, "failover", "A"), F(0.0, "cut", "A", 9, "*:both", WORD))
    assert play(seed, at_once, strict).kind in ("lost", "double")


def test_a_ping_node_lost_so_late_that_it_still_counts_is_seen() -> None:
    result = play(1, (F(1.5, "cut", "A", 3.0, "*:both"), F(2.25, "ping", "B", 2.3)))
    assert result.blind
    assert not result.failures


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param((F(1.5, "cut", "A", 6.0, "*:out"),), id="one direction"),
        pytest.param((F(1.5, "cut", "A", 6.0, "*:both"), F(1.5, "ping", "A", 6.0)), id="the active sees no ping node"),
        pytest.param((F(1.5, "cut", "A", 6.0, "*:both"), F(1.5, "ping", "B", 6.0)), id="the passive sees no ping node"),
        pytest.param((F(1.5, "cut", "A", 3.0, "*:both"), F(1.6, "pause", "A", 2.0)), id="the active stands still"),
        pytest.param((F(1.5, "cut", "A", 3.0, "hb:both"),), id="heartbeats only"),
        pytest.param((F(1.5, "cut", "A", 0.7, "*:both"),), id="too short for anybody to decide"),
    ],
)
def test_what_can_be_decided_is_no_excuse(schedule: Schedule) -> None:
    result = play(1, schedule)
    assert not result.blind
    assert not result.failures
