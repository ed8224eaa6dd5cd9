"""Directors under seeded schedules of faults; and each rule of theirs taken out once, which has to be noticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest

from director.model import Advertisement, Instance
from director.vrrp import Router

from .director import play

#: a bent rule is noticed within these
SEEDS = 300
#: ``./run-tests`` without ``--fast`` asks for more
SEARCHED = min(3000, max(SEEDS, int(os.environ.get("SIMULATED_SEEDS", "0"))))
#: seeds that found something once, in the core or in the world's model
FOUND = (105, 862, 927, 1409, 1568, 3476)


def keep_the_rules(seeds: Iterable[int]) -> int:
    """How often a role was changed in them."""
    changes = 0
    for seed in seeds:
        world = play(seed)
        assert not world.failures, f"seed {seed}: {world.failures[0]}\n" + "\n".join(world.trace)
        changes += world.changes
    return changes


def test_directors_keep_the_rules() -> None:
    assert keep_the_rules((*FOUND, *range(SEEDS))) > SEEDS * 4  # the schedules do something


@pytest.mark.skipif(SEARCHED <= SEEDS, reason="that many are not asked for")
@pytest.mark.timeout(1800)
def test_directors_keep_the_rules_in_thousands_of_schedules() -> None:
    keep_the_rules(range(SEEDS, SEARCHED))


class ScanningServes(Router):
    def may_serve(self) -> bool:
        return True


class NeverPreempts(Router):
    def preempts(self) -> bool:
        return False


class AlwaysPreempts(Router):
    def preempts(self) -> bool:
        return True


class NeverGivesWay(Router):
    def outranked(self, advert: Advertisement) -> bool:
        return False


class EqualsStay(Router):
    def outranked(self, advert: Advertisement) -> bool:
        return advert.priority > self.priority


class EqualsGiveWay(Router):
    def outranked(self, advert: Advertisement) -> bool:
        return advert.priority >= self.priority


class Hasty(Router):
    def master_down(self) -> float:
        return 1.5 * self._master_advert


class Slow(Router):
    def master_down(self) -> float:
        return 6 * self._master_advert + 2 * self.skew()


class AcceptsAnybody(Router):
    def accepts(self, advert: Advertisement) -> bool:
        return True


class AcceptsNobodyEqual(Router):
    def accepts(self, advert: Advertisement) -> bool:
        return advert.priority > self.priority


class KeepsAddresses(Router):
    def _become(self, state, because):  # type: ignore[no-untyped-def]
        super()._become(state, because)
        self._out = [effect for effect in self._out if type(effect).__name__ != "DropAddresses"]


MUTANTS: list[Callable[[Instance, float], Router]] = [
    ScanningServes, NeverPreempts, AlwaysPreempts, NeverGivesWay, EqualsStay, EqualsGiveWay, Hasty, Slow, AcceptsAnybody,
    AcceptsNobodyEqual, KeepsAddresses,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_taken_out_is_noticed(mutant: Callable[[Instance, float], Router]) -> None:
    assert any(play(seed, mutant).failures for seed in range(SEEDS))
