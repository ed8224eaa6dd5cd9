"""With any one safety rule taken out, something fails that holds with the production rules.

Promise: for each mutant the scenario or the seeds in which it is noticed; the same runs are right without it.
``HoldsTooLittle`` is noticed in a world whose ha_manager proves the names without looking at the standby: with a true proof
there is nothing left for that rule to find.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from heartbeat.election import Core
from heartbeat.rules import Rules

from . import mutants
from .backed_scenarios import BACKED
from .campaign import Variant
from .lax_scenarios import LAX
from .scenarios import HOLES, Scenario

#: mutant, the beginning of the scenario's name in which it is noticed, seeds to try
BY_SCENARIO: tuple[tuple[type[Rules] | type[Core], str, int], ...] = (
    (mutants.HastyDeath, "silent for a moment", 3),
    (mutants.NoSigns, "H13 the same and the session", 3),
    (mutants.AnyStandDown, "planned failover and back", 3),
    (mutants.StaleFitness, "H9 the passive boots", 3),
    (mutants.FitForEver, "H9 the passive hears", 3),
    (mutants.FitWithoutSync, "H8 heard but not hearing", 3),
    (mutants.YieldUnconfirmed, "H3", 3),
    (mutants.NeverYield, "H4", 3),
    (mutants.PreparesOn, "its ha_manager dies when it prepares", 2),
    (mutants.OffersItselfUnlinked, "no link for the virtual IP", 2),
    (mutants.NeverIsolated, "isolated with its VIP", 3),
    (mutants.SoloIsolated, "isolated with its VIP", 3),
    (mutants.PauseForgiven, "H7 the same, the thawed", 3),
    (mutants.ResumeAnyway, "restarts within its lease", 3),
    (mutants.ReleaseWithoutPing, "H6", 6),
    (mutants.ReleasedBySelf, "restarts within its lease", 3),
    (mutants.SoloTooSoon, "H8 the same", 3),
    (mutants.NeverReady, "H1 replication", 2),
    (mutants.RivalsWait, "both active after a cut", 6),
    (mutants.OwnTimes, "the active's times are shorter", 3),
    (mutants.SuccessorUnseen, "its successor takes over unheard", 3),
    (mutants.RivalsWaver, "both active after a cut, and the one", 6),
    (mutants.NoElection, "H7 the active stands still", 3),
    (mutants.Unpledged, "H2 the active's heartbeat restarts, the", 12),
    (mutants.OldPledge, "a pledge of an earlier", 12),
    (mutants.DefaultWins, "H7 the active stands still", 3),
    (mutants.BootsAlone, "H8 heard but not hearing", 3),
    (mutants.NeverTentative, "H15", 3),
    (mutants.PromotesFirst, "H15", 3),
    (mutants.EpochByHearing, "H10", 4),
    (mutants.KeepsVip, "H11", 3),
    (mutants.SyncUnproven, "H12 in sync again", 3),
    (mutants.UnconnectedIsSilence, "H14 unconnected for a moment", 3),
    (mutants.HigherEpochForgotten, "called in sync, its ha_manager", 3),
    (mutants.SoloUnconnected, "H16 silent and its ping node", 3),
    (mutants.SyncUncalled, "follows a solo one", 3),
    (mutants.HoldsTooLittle, "called in sync too early", 3),
    (mutants.SoloUnwritten, "solo when its power goes", 12),
    (mutants.UnansweredHandover, "its successor dies before", 6),
    (mutants.UnheardSuccessor, "its successor is not heard", 3),
    (mutants.NeverReturns, "its successor dies when it stands", 2),
    (mutants.ReturnsBlind, "its successor does not hear its word", 3),
    (mutants.ReturnsAnyway, "its successor takes over on its word", 3),
    (mutants.StandsDownRunning, "planned failover", 20),
    (mutants.StandsDownInSync, "H17 hands over", 8),
    (mutants.NoVipSign, "E1", 3),
    (mutants.LeaseDiscounted, "E4", 3),
    (mutants.StrangersSign, "E2", 3),
    (mutants.HostsSign, "E3", 3),
    (mutants.Unfenced, "F1", 8),
    (mutants.FencedLate, "F1", 6),
    (mutants.Ungranted, "W1", 3),
    (mutants.EntryUnasked, "R4", 3),
    (mutants.EntryIgnored, "R3", 6),
    (mutants.EntryAnnounced, "R5", 3),
    (mutants.KeepsLostVip, "R1", 3),
    (mutants.EpochsWasted, "W3 a granted", 3),
    (mutants.FollowsAnyone, "W5", 3),
    (mutants.SessionUnheard, "W6", 3),
    (mutants.AnyPingNode, "Q1", 3),
    (mutants.NeverRestrained, "S1", 3),
    (mutants.RestrainedDead, "S2", 3),
    (mutants.TakesWithoutCounting, "S1", 3),
    (mutants.AnyLag, "A2", 3),
    (mutants.LagForgotten, "A9", 3),
    (mutants.WordForgotten, "A10", 12),
    (mutants.ElectsAtOnce, "A10", 12),
    (mutants.EndUnknown, "A11", 3),
    (mutants.TakesFromStandby, "A3", 3),
    (mutants.OneServerOff, "M1", 3),
    (mutants.RelaxedUnheard, "M2", 3),
    (mutants.PreparedIsDone, "A13", 3),
    (mutants.OneServersRelease, "M4", 3),
)
#: mutant, seeds in which it is noticed
BY_SEED: tuple[tuple[type[Rules] | type[Core], tuple[int, ...]], ...] = (
    (mutants.NeverOutranked, (11,)),
    (mutants.RivalsStay, (85,)),
)


def _as(mutant: type[Rules] | type[Core]) -> dict[str, object]:
    return {"core" if issubclass(mutant, Core) else "rules": mutant}


def _named(name: str) -> Scenario:
    return next(scenario for scenario in HOLES + BACKED + LAX if scenario.name.startswith(name))


@pytest.mark.parametrize(("mutant", "name", "seeds"), BY_SCENARIO, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_taken_out_is_noticed(mutant: type[Rules] | type[Core], name: str, seeds: int) -> None:
    scenario = _named(name)
    setting = replace(scenario.setting, **_as(mutant))  # type: ignore[arg-type]
    noticed = (seed for seed in range(seeds) if scenario.wrong(seed, setting) and not scenario.wrong(seed))
    assert next(noticed, None) is not None, f"{mutant.__name__} survives {scenario.name!r} (or the production rules fail, too)"


@pytest.mark.parametrize(("mutant", "seeds"), BY_SEED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_taken_out_fails_some_seed(mutant: type[Rules] | type[Core], seeds: tuple[int, ...]) -> None:
    variant = replace(Variant(), **_as(mutant))  # type: ignore[arg-type]
    noticed = next((seed for seed in seeds if variant.play(seed).failures), None)
    assert noticed is not None, f"{mutant.__name__} survives"
    assert not Variant().play(noticed).failures


def test_every_mutant_is_tried() -> None:
    tried = {row[0] for row in BY_SCENARIO} | {row[0] for row in BY_SEED}
    assert set(mutants.RULES + mutants.CORES) == tried
