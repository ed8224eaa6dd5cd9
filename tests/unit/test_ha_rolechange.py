"""When the plan of a role change begins: table of what is wanted and seen."""

from __future__ import annotations

from collections.abc import Callable

from ha_manager.observation import Observation
from ha_manager.orders import Epoch, Phase, Postgres, Role, Want
from ha_manager.outlook import Carried, Look
from ha_manager.plan import Observed
from ha_manager.rolechange import CLIENTS_FIRST, POSTGRES_FIRST, RoleChange

EPOCH = Epoch(2, "vs-28")
ACTIVE = Want(7, Phase.ACTIVE, EPOCH, Postgres.PRIMARY, because="vs-166 is dead")
PRIMARY = Observation(state="running", answers=True)
STOPPED = Observation(state="stopped")
STANDBY = Observation(state="running", answers=True, in_recovery=True)


class _Planner:
    def __init__(self) -> None:
        self.begun: list[tuple[Role, Epoch, str]] = []
        self.seen: list[Observed] = []

    def role(self, role: Role, epoch: Epoch, because: str) -> None:
        self.begun.append((role, epoch, because))

    def observed(self, seen: Observed) -> None:
        self.seen.append(seen)


class _World:
    def __init__(self) -> None:
        self.planner = _Planner()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.change = RoleChange(self.planner, lambda seconds, call: self.later.append((seconds, call)))

    def look(self, serial: int, link: int = 1, seen: Observation = PRIMARY) -> None:
        carried = Carried(serial=serial, link=1)
        self.change.looked(Look(seen, serial, link), carried, ACTIVE)

    def moment(self) -> float:
        """The last one that was asked for comes; returns after how long."""
        seconds, call = self.later[-1]
        call()
        return seconds


BEGUN = [(Role.ACTIVE, EPOCH, "vs-166 is dead")]


def test_it_begins_with_a_look_that_is_later_than_what_is_wanted_and_only_once() -> None:
    world = _World()
    assert world.change.wanted(ACTIVE)
    world.look(6)
    assert world.planner.begun == []
    world.look(7)
    world.look(8)
    assert world.planner.begun == [], "its clients come first"
    assert (world.moment(), world.planner.begun) == (CLIENTS_FIRST, BEGUN)
    [(seconds, moment), _] = world.later
    moment()
    assert (seconds, world.planner.begun) == (POSTGRES_FIRST, BEGUN)


def test_one_that_hands_over_begins_when_its_postgres_follows_not_when_it_is_stopped() -> None:
    """The heir's clients wait at that time, and both may share a disk or a processor, as virtual machines do."""
    world = _World()
    world.change.wanted(Want(7, Phase.STANDING_DOWN, EPOCH, Postgres.STOPPED, because="ha failover"))
    world.look(7, seen=STOPPED)
    assert len(world.later) == 1
    world.look(8, seen=STANDBY)
    assert world.moment() == CLIENTS_FIRST and world.planner.begun == [(Role.PASSIVE, EPOCH, "ha failover")]


def test_a_look_of_another_heartbeat_counts_for_nothing() -> None:
    world = _World()
    world.change.wanted(ACTIVE)
    world.look(9, link=0)
    assert world.planner.begun == []


def test_a_postgres_that_does_not_come_holds_it_up_for_a_moment_only() -> None:
    world = _World()
    world.change.wanted(ACTIVE)
    world.later[0][1]()
    world.look(7)
    assert world.planner.begun == BEGUN


def test_a_newer_role_replaces_one_that_has_not_begun() -> None:
    world = _World()
    world.change.wanted(ACTIVE)
    passive = Want(8, Phase.PASSIVE, EPOCH, Postgres.STANDBY, because="it yielded")
    world.change.wanted(passive)
    for _, moment in world.later:
        moment()
    assert world.planner.begun == [(Role.PASSIVE, EPOCH, "it yielded")]


def test_the_same_role_and_epoch_is_no_change_until_heartbeat_begins_anew() -> None:
    world = _World()
    assert world.change.wanted(ACTIVE)
    assert not world.change.wanted(Want(9, Phase.PREPARING, EPOCH, Postgres.PRIMARY))
    world.change.forget()
    assert world.change.wanted(ACTIVE)


def test_a_phase_without_a_role_is_none() -> None:
    world = _World()
    assert not world.change.wanted(Want(1, Phase.WAITING, Epoch(), Postgres.KEEP))
    assert world.later == []


def test_the_planner_is_told_of_postgres_once_per_change() -> None:
    world = _World()
    world.look(1)
    world.look(1)
    world.change.looked(Look(Observation(), 1, 1), Carried(checkpointed=2), ACTIVE)
    assert [each.checkpointed for each in world.planner.seen] == [False, True]
