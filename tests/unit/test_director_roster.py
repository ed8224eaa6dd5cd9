"""Who lives: silence that counts, and silence that is this node's own."""

from __future__ import annotations

import pytest

from director.ears import neighbours
from director.groupmodel import Leave, Role
from tests.unit.proxy_members import World, group_of


def failed(world: World, on: int = 0) -> list[str]:
    return sorted(known.member.name for known in world.hosts[on].group.known.values() if known.failed)


@pytest.mark.parametrize("seconds", [0.8, 1.2, 3.0, 60.0])
@pytest.mark.parametrize("switch", [0.0, 2.0, 0.7])
def test_a_director_that_nothing_reaches_moves_no_bucket_and_fails_nobody(seconds: float, switch: float) -> None:
    """Whatever single frames the switch has of its own."""
    world = group_of(4)
    director, before = world.hosts[0], world.hosts[0].table()
    director.deaf, world.switch = True, switch
    world.run(seconds)
    assert director.table() == before and failed(world) == []
    assert director.group.roster.deaf == (seconds > 2)
    assert world.agree(), "the others hear it, and go on"
    director.deaf = False
    world.run(0.3)
    assert not director.group.roster.deaf
    world.run(5.0)
    assert director.table() == before and world.agree() and not director.listening
    assert not any("has failed" in said or "is back" in said for host in world.hosts for said in host.said)


def test_others_are_told_that_nothing_reaches_it_and_it_goes_on_by_itself() -> None:
    """Whoever takes over gives it no clients; where nobody can, its own buckets are where they were when it hears again."""
    world = group_of(3)
    director = world.hosts[0]
    director.deaf = True
    world.run(3.0)
    said = world.hosts[1].group.known[director.mac].member
    assert said.plane == "nothing reaches it" and director.group.me.plane == ""
    assert director.mac not in world.hosts[1].group.roster.askable()
    world.hosts[1].give(Role(True))
    world.deliver()
    world.run(1.0)
    assert set(world.hosts[1].counts()) == {"node2", "node3"}
    director.give(Role(False))
    director.deaf = False
    world.run(8.0)
    assert sorted(world.hosts[1].counts().values()) == [341, 341, 342] and world.agree()


def test_members_that_died_all_at_once_are_failed_in_time_if_anybody_else_is_there() -> None:
    world = group_of(3)
    for host in world.hosts[1:]:
        host.up = False
    world.run(0.7)
    assert failed(world) == []
    world.run(0.9)
    assert failed(world) == ["node2", "node3"] and world.hosts[0].counts() == {"node1": 1024}
    assert not world.hosts[0].group.roster.deaf
    world.run(1.0)
    assert not world.hosts[0].listening, "there is nobody to wait for"


def test_if_nobody_else_is_there_they_are_failed_when_the_first_client_comes() -> None:
    """Until then it makes no difference, and this node may be deaf."""
    world = group_of(3)
    world.others = False
    for host in world.hosts[1:]:
        host.up = False
    world.run(30.0)
    assert failed(world) == [] and world.hosts[0].group.roster.deaf
    world.others = True
    world.run(1.6)
    assert failed(world) == ["node2", "node3"] and not world.hosts[0].group.roster.deaf


def test_while_one_is_heard_the_others_silence_is_theirs() -> None:
    world = group_of(4)
    world.others = False
    for host in world.hosts[2:]:
        host.up = False
    world.run(1.6)
    assert failed(world) == ["node3", "node4"]


def test_who_was_stopped_is_not_waited_for() -> None:
    world = group_of(2)
    world.others = False
    world.hosts[1].give(Leave(rules=True))
    world.deliver()
    world.hosts[1].up = False
    world.run(10.0)
    assert not world.hosts[0].group.roster.deaf and not world.hosts[0].listening


def test_a_new_director_asks_also_those_whom_its_predecessor_took_for_failed_until_they_had_time_to_speak() -> None:
    world = group_of(4)
    old, new, lost, dead = world.hosts
    world.cut |= {frozenset((old.number, lost.number)), frozenset((new.number, lost.number))}
    dead.up = False
    world.run(3.0)
    assert failed(world, 1) == ["node3", "node4"]
    old.give(Role(False))
    applied = new.applied
    new.give(Role(True))
    assert {lost.mac, dead.mac} <= new.group.roster.askable() and new.applied > applied
    assert failed(world, 1) == ["node3", "node4"], "but nobody gets clients for that"
    world.deliver()
    world.cut.clear()
    world.run(0.7)
    askable = new.group.roster.askable()
    assert lost.mac in askable and dead.mac not in askable
    assert failed(world, 1) == ["node4"]


def test_whom_a_member_hears_itself_is_alive_whatever_its_director_says() -> None:
    """One that hears no director asks all the others for one."""
    world = group_of(4)
    world.cut.add(frozenset((1, 3)))
    world.hosts[1].said.clear()
    world.run(10.0)
    assert failed(world) == ["node3"] and failed(world, 1) == []
    assert sum("is back" in said for said in world.hosts[1].said) <= 1


def test_neighbours_are_read_as_the_kernel_writes_them() -> None:
    table = """IP address       HW type     Flags       HW address            Mask     Device
10.9.0.254       0x1         0x2         02:00:00:00:00:01     *        eth0
10.9.0.7         0x1         0x0         00:00:00:00:00:00     *        eth0
10.9.1.7         0x1         0x6         02:00:00:00:00:02     *        eth1
10.9.0.8         0x1         0x6         02:00:00:00:00:03     *        eth0
"""
    assert neighbours(table, "eth0") == ["10.9.0.254", "10.9.0.8"]
