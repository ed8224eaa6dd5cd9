"""The group: joining, failing, draining, directing, learning; on a virtual network with the real codec."""

from __future__ import annotations

from dataclasses import replace

import pytest

from director.buckets import Table
from director.discovery import Kind, Message
from director.group import LEARNING
from director.groupmodel import Heard, Leave, Role, Tick, Wish
from tests.unit.proxy_members import BUCKETS, FTP, HEARTBEAT, HTTP, World, group_of


def everyone(world: World, key: str = HTTP) -> dict[str, int]:
    assert world.agree(key)
    return world.hosts[0].counts(key)


def test_a_group_forms_and_shares_evenly() -> None:
    world = group_of(5)
    counts = everyone(world)
    assert sorted(counts.values()) == [204, 205, 205, 205, 205]
    for host in world.hosts:
        assert len(host.group.alive()) == 5
        assert host.group.director == world.hosts[0].mac
        assert host.group.designated == (host is world.hosts[1])


def test_a_member_joins_and_gets_its_share_a_few_at_a_time() -> None:
    world = World(5)
    late = world.hosts.pop()
    world.run(1.0)
    world.directs(world.hosts[0])
    world.run(1.0)
    before = world.hosts[0].table().owners
    world.hosts.append(late)
    late.start()
    world.run(0.3)
    assert 0 < everyone(world).get("node5", 0) < 150
    world.run(5.0)
    assert everyone(world)["node5"] in (204, 205)
    moved = sum(a != b for a, b in zip(before, world.hosts[0].table().owners, strict=True))
    assert moved <= 205
    assert "TX Scanning partner node5 10.0.0.5 has joined" in world.hosts[0].said


def test_a_failed_members_buckets_move_at_once_and_only_those() -> None:
    world = group_of(5)
    before = world.hosts[0].table()
    world.hosts[3].up = False
    world.run(1.2)
    assert world.hosts[0].said.count("TX Scanning partner has failed 10.0.0.4") == 1
    after = world.hosts[0].table()
    moved = {b for b in range(BUCKETS) if before.owners[b] != after.owners[b]}
    assert moved == {b for b in range(BUCKETS) if before.owners[b] == world.hosts[3].mac}
    assert world.hosts[3].mac not in asked(world), "it would swallow what it is asked"
    world.hosts[3].up = True
    world.run(8.0)
    assert everyone(world)["node4"] in (204, 205)
    now = world.hosts[0].table()
    elsewhere = [b for b in moved if now.owners[b] != world.hosts[3].mac]
    assert all(world.hosts[3].mac in now.before[b] for b in elsewhere), "it was away only, and has its connections"


def asked(world: World) -> set[str]:
    """By the owners of buckets, as the director's kernel has it."""
    group = world.hosts[0].group
    table = world.hosts[0].table()
    return {table.next_of(owner, bucket, group.alive()) for bucket, owner in enumerate(table.owners)}


def test_a_director_whose_members_were_cut_off_for_a_while_still_knows_who_has_connections() -> None:
    """Others were heard, so all buckets were its own meanwhile."""
    world = group_of(4)
    before = world.hosts[0].table()
    for other in world.hosts[1:]:
        world.cut.add(frozenset((1, other.number)))
    world.run(3.0)
    assert set(world.hosts[0].table().owners) == {world.hosts[0].mac} and asked(world) == {""}
    world.cut.clear()
    world.run(14.0)
    assert sorted(everyone(world).values()) == [256] * 4
    assert all(owner in chain for owner, chain in zip(before.owners, chains(world, HTTP), strict=True))


@pytest.mark.parametrize("first", [0, 1])
def test_a_director_that_returns_before_it_has_heard_the_other_has_the_last_word(first: int) -> None:
    """Its interface was away. Its term of office is not the other's, whatever each of them counted meanwhile."""
    world = group_of(4)
    back, other = world.hosts[first], world.hosts[1 - first]
    world.directs(back)
    world.run(2.0)
    world.cut |= {frozenset((back.number, each.number)) for each in world.hosts if each is not back}
    back.give(Role(False))
    other.give(Role(True))
    world.run(6.0)
    assert len(other.counts()) == 3
    world.cut.clear()
    other.give(Role(False))
    back.give(Role(True))
    world.run(8.0)
    for key in (HTTP, FTP):
        assert sorted(everyone(world, key).values()) == [256] * 4
    world.hosts[3].up = False
    world.run(3.0)
    assert len(everyone(world)) == 3


def test_a_director_just_started_gives_members_time_to_get_acquainted() -> None:
    world = group_of(4)
    director = world.hosts[0]
    director.start()
    director.said.clear()
    world.cut |= {frozenset((1, each.number)) for each in world.hosts[1:]}
    others = {mac: replace(known) for mac, known in world.hosts[1].group.known.items() if mac != director.mac}
    director.group.known.update(others)  # as its predecessor told them
    world.directs(director)
    world.run(1.2)
    assert not any("has failed" in said for said in director.said)
    world.run(0.5)
    assert sum("has failed" in said for said in director.said) == 3


def test_who_did_not_run_for_a_while_takes_nobody_for_failed() -> None:
    """What the others said meanwhile is still to be read."""
    world = group_of(4)
    for host in world.hosts:
        host.said.clear()
    before = everyone(world)
    world.now += 30.0
    for host in world.hosts:
        host.give(Tick())
    world.run(3.0)
    assert everyone(world) == before
    assert [host.said for host in world.hosts] == [[]] * 4
    world.hosts[3].up = False
    world.run(1.5)
    assert "node4" not in everyone(world), "a real silence"


def test_what_cannot_be_read_is_said_once_however_often_it_comes() -> None:
    """Of a member of another version, or this node's own words come back."""
    host = group_of(2).hosts[0]
    host.said.clear()
    for _ in range(100):
        host.give(Heard(Message(Kind.MEMBER, 51, 7, 1, host.mac, {}), "10.0.0.2", False))
        host.give(Heard(Message(Kind.MEMBER, 51, 7, 1, "02:00:00:00:00:99", {"me": []}), "10.0.0.9", True))
    assert [each.partition(" says")[0] for each in host.said] == ["10.0.0.2", "10.0.0.9"]


def test_a_dead_port_takes_only_that_port_away() -> None:
    world = group_of(3)
    world.hosts[2].report(ports={HTTP: True, FTP: False})
    world.deliver()
    world.run(0.5)
    assert "node3" not in everyone(world, FTP) and everyone(world, HTTP)["node3"] in (341, 342)
    world.hosts[2].report(ports={HTTP: True, FTP: True})
    world.run(10.0)
    assert everyone(world, FTP)["node3"] in (341, 342)


def test_whole_node_mode_takes_the_node_away() -> None:
    world = group_of(3)
    world.hosts[2].report(ports={HTTP: True, FTP: False}, whole_node=True)
    world.run(0.5)
    assert "node3" not in everyone(world, FTP) and "node3" not in everyone(world, HTTP)


def test_weights_by_capacity() -> None:
    world = group_of(3)
    world.hosts[2].report(capacity=2.0)
    world.run(10.0)
    assert everyone(world) == {"node1": 256, "node2": 256, "node3": 512}


def test_the_directors_own_share_goes_with_the_office() -> None:
    world = group_of(3)
    world.hosts[0].report(own_share=0.0)
    world.run(10.0)
    assert everyone(world) == {"node2": 512, "node3": 512}
    world.directs(world.hosts[1])
    world.run(10.0)
    assert sorted(everyone(world)) == ["node1", "node2", "node3"]


def test_a_director_alone_serves_whatever_its_share() -> None:
    world = World(1)
    world.hosts[0].report(own_share=0.0)
    world.directs(world.hosts[0])
    world.run(1.0)
    assert everyone(world) == {"node1": BUCKETS}


def test_a_clean_move_of_the_director_moves_no_bucket() -> None:
    world = group_of(5)
    before = world.hosts[0].table()
    world.directs(world.hosts[1])
    assert world.hosts[1].table() == before
    world.run(3.0)
    assert everyone(world) and world.hosts[0].table() == before
    assert all(host.group.director == world.hosts[1].mac for host in world.hosts)


def test_power_loss_of_the_director_moves_only_its_buckets() -> None:
    world = group_of(5)
    before = world.hosts[0].table()
    world.hosts[0].up = False
    world.run(0.4)
    world.hosts[1].give(Role(True))
    world.run(1.0)
    after = world.hosts[1].table()
    assert "TX Scanning partner has failed 10.0.0.1" in world.hosts[1].said
    moved = {b for b in range(BUCKETS) if before.owners[b] != after.owners[b]}
    assert moved == {b for b in range(BUCKETS) if before.owners[b] == world.hosts[0].mac}


def test_a_director_that_gives_way_while_it_learns_is_not_woken_for_it_for_ever() -> None:
    world = World(2)
    first, second = world.hosts
    first.give(Role(True))
    first.give(Role(False))
    world.directs(second)
    world.run((LEARNING + 1) * HEARTBEAT)
    assert first.group.deadline() > world.now


def test_a_restarted_director_that_preempts_learns_the_buckets_first() -> None:
    world = group_of(5)
    world.directs(world.hosts[1])
    world.run(1.0)
    world.hosts[2].report(draining=True)
    world.run(8.0)
    before = world.hosts[1].table()
    world.hosts[0].start()
    world.hosts[1].give(Role(False))
    world.hosts[0].give(Role(True))  # at once, before it has heard anybody
    world.deliver()
    world.run(0.3)
    table = world.hosts[0].table()
    assert table.owners == before.owners and table.before == before.before
    world.run(2.0)
    assert world.agree()


def test_a_member_that_was_stopped_is_still_asked_about_its_connections() -> None:
    world = group_of(5)
    left = world.hosts[2]
    held = [bucket for bucket, owner in enumerate(world.hosts[0].table().owners) if owner == left.mac]
    left.give(Leave(rules=True))
    world.deliver()
    left.up = False
    assert sum(owner == left.mac for owner in world.hosts[0].table().owners) > 150, (
        "a few at a time: whoever takes one knows first"
    )
    world.run(30.0)
    table = world.hosts[1].table()
    assert left.mac not in table.owners and all(table.before[bucket][0] == left.mac for bucket in held)
    assert "TX Scanning partner has failed 10.0.0.3" not in world.hosts[0].said
    left.up = True
    left.start()
    world.run(10.0)
    assert everyone(world)["node3"] in (204, 205)


def test_a_member_whose_rules_are_removed_is_asked_nothing() -> None:
    world = group_of(3)
    left = world.hosts[2]
    left.give(Leave(rules=False))
    world.deliver()
    assert left.mac not in world.hosts[0].table().owners
    left.up = False
    world.run(2.0)
    assert left.mac not in asked(world)


def test_draining_is_asked_of_any_member_and_moves_all_a_few_at_a_time() -> None:
    world = group_of(5)
    world.hosts[4].give(Wish(world.hosts[2].mac, True, 77))
    world.run(0.6)
    assert world.hosts[2].drains == [True]
    assert 0 < everyone(world)["node3"] < 204
    world.run(6.0)
    assert "node3" not in everyone(world)
    assert all(world.hosts[2].mac in before or not before for before in world.hosts[0].table().before if before)
    world.hosts[2].give(Wish(world.hosts[2].mac, False, 78))
    world.run(8.0)
    assert everyone(world)["node3"] in (204, 205)


def test_the_kernel_is_told_when_a_member_without_buckets_comes_or_goes() -> None:
    """It still has UDP flows."""
    world = group_of(4)
    drained = world.hosts[2]
    drained.report(draining=True)
    world.run(8.0)
    assert "node3" not in everyone(world)
    assert all(drained.mac in host.serving for host in world.hosts)
    drained.report(ports={HTTP: False, FTP: True})
    world.run(1.5)
    assert not any(drained.mac in host.serving for host in world.hosts)
    drained.report(ports={HTTP: True, FTP: True})
    world.run(1.5)
    assert all(drained.mac in host.serving for host in world.hosts)
    drained.up = False
    world.run(3.0)
    others = [host for host in world.hosts if host is not drained]
    assert not any(drained.mac in host.serving for host in others)
    drained.up = True
    world.run(3.0)
    assert all(drained.mac in host.serving for host in others)


def chains(world: World, key: str) -> list[set[str]]:
    """Of each bucket, everybody who serves it or is asked."""
    table = world.hosts[0].table(key)
    return [{owner, *before} for owner, before in zip(table.owners, table.before, strict=True)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_redirect_that_gets_another_port_keeps_its_connections(order: tuple[int, ...]) -> None:
    """Whoever is configured first: the others don't know the new redirect yet."""
    world = group_of(4)
    before = world.hosts[0].table()
    more = "tcp 443,80,8080"
    for number in order:
        host = world.hosts[number]
        host.group.reconfigure([more, FTP], BUCKETS, HEARTBEAT)
        host.report(ports={more: True, FTP: True})
        world.run(1.0)
        key = more if world.hosts[0].group.keys[0] == more else HTTP
        assert all(owner in chain for owner, chain in zip(before.owners, chains(world, key), strict=True)), number
    world.run(12.0)
    assert all(owner in chain for owner, chain in zip(before.owners, chains(world, more), strict=True))
    assert sorted(world.hosts[3].counts(more).values()) == [256] * 4 and world.agree(more)
    assert all(set(host.group.tables.current) == {more, FTP} for host in world.hosts)
    assert world.agree(FTP)


def test_redirects_that_become_one_ask_the_owners_of_both() -> None:
    world = group_of(3)
    one, other = world.hosts[0].table(HTTP), world.hosts[0].table(FTP)
    world.hosts[0].group.tables.take(FTP, Table((*other.owners[1:], other.owners[0]), other.before), (1, 999), True)
    other = world.hosts[0].table(FTP)
    both = "tcp 21,80,443"
    for host in world.hosts:
        host.group.reconfigure([both], BUCKETS, HEARTBEAT)
        host.report(ports={both: True})
    assert all({a, b} <= chain for a, b, chain in zip(one.owners, other.owners, chains(world, both), strict=True))
    world.run(2.0)
    assert world.agree(both)


def test_a_new_redirect_begins_at_the_director_whose_connections_go_on() -> None:
    world = group_of(4)
    for host in world.hosts:
        host.group.reconfigure([HTTP, FTP, "tcp 1080"], BUCKETS, HEARTBEAT)
        host.report(ports={HTTP: True, FTP: True, "tcp 1080": True})
    assert set(world.hosts[0].table("tcp 1080").owners) == {world.hosts[0].mac}
    world.run(12.0)
    assert sorted(world.hosts[2].counts("tcp 1080").values()) == [256] * 4
    assert all(world.hosts[0].mac in chain for chain in chains(world, "tcp 1080"))


def test_all_drained_serve_all_the_same() -> None:
    world = group_of(2)
    for host in world.hosts:
        host.report(draining=True)
    world.run(2.0)
    assert sum(everyone(world).values()) == BUCKETS


def test_a_member_whose_kernel_cannot_gets_no_clients() -> None:
    world = group_of(3)
    world.hosts[1].report(plane="the kernel has no nftables")
    world.run(1.0)
    assert "node2" not in everyone(world)


def test_takers_know_before_the_director_switches() -> None:
    """At no moment does the director send a bucket to somebody who doesn't know whom to ask about its connections."""
    world = group_of(5)
    world.hosts[3].report(draining=True)
    checked = 0
    for _ in range(200):
        before = world.hosts[0].table()
        world.now += 0.01
        for host in world.hosts:
            host.give(Tick())
        while world.wire:
            sender, to, data = world.wire.pop(0)
            for host in world.hosts:
                if host is not sender and to in ("", host.ip):
                    host.receive(data, sender.ip)
                    after = world.hosts[0].table()
                    for bucket in range(BUCKETS) if after is not before else ():
                        if (taker := after.owners[bucket]) != before.owners[bucket] and taker != world.hosts[0].mac:
                            tables = next(h for h in world.hosts if h.mac == taker).group.tables
                            known = [t[HTTP] for t in (tables.current, tables.pending) if HTTP in t]
                            assert any(t.owners[bucket] == taker and t.before[bucket] == after.before[bucket] for t in known)
                            checked += 1
                    before = after
    assert checked > 100 and "node4" not in world.hosts[0].counts()


@pytest.mark.parametrize("seed", range(12))
def test_lost_messages_delay_and_never_confuse(seed: int) -> None:
    world = group_of(5, seed, loss=0.3)
    for round_ in range(3):
        world.directs(world.hosts[round_ % 2])
        world.hosts[3].report(draining=round_ % 2 == 0)
        world.run(3.0)
    world.loss = 0.0
    world.hosts[3].report(draining=False)
    world.run(15.0)
    assert world.agree() and world.agree(FTP)
    assert sorted(world.hosts[0].counts().values()) == [204, 205, 205, 205, 205]


def test_two_directors_and_the_one_that_stays_has_the_last_word() -> None:
    world = group_of(4)
    world.hosts[1].give(Role(True))  # a partition of VRRP only
    world.run(1.0)
    world.hosts[1].give(Role(False))
    world.run(3.0)
    assert world.agree()
    assert all(host.group.director == world.hosts[0].mac for host in world.hosts)


def test_an_idle_group_says_little() -> None:
    world = group_of(5)
    world.recorded.clear()
    applied = [host.applied for host in world.hosts]
    world.run(10.0)
    assert len(world.recorded) < 10 / 0.25 * 5 * 1.3
    assert [host.applied for host in world.hosts] == applied
