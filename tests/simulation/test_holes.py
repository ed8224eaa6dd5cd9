"""The holes H1 to H17 and every single fault (facts/safety-model.md): each with its bound on the outage and on takeovers."""

from __future__ import annotations

import pytest

from .backed_scenarios import BACKED
from .lax_scenarios import LAX
from .scenarios import HOLES, Scenario, singles
from .world import play

SINGLES = tuple(singles())


def _check(scenario: Scenario, seed: int) -> None:
    wrong = scenario.wrong(seed)
    if wrong:
        trace = "\n".join(play(seed, scenario.schedule, scenario.setting, tracing=True).trace)
        pytest.fail(f"{scenario.name}, seed {seed}: {wrong}\n{trace}")


@pytest.mark.parametrize("scenario", HOLES + BACKED + LAX, ids=lambda scenario: scenario.name)
def test_a_known_hole_stays_closed(scenario: Scenario) -> None:
    _check(scenario, 1)


@pytest.mark.parametrize("part", range(4))
def test_service_comes_back_while_a_single_fault_lasts(part: int) -> None:
    for seed, scenario in enumerate(SINGLES[part::4]):
        _check(scenario, seed)
