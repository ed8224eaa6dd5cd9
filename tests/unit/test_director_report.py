"""What operators are told: mfend-lb field by field, explain, check."""

from __future__ import annotations

from typing import Any

import pytest

from director import mfend_lb, report
from director.cli_plane import render_cluster
from director.settings import Balance, Config, Redirect, VirtualIp, Vrrp
from runtime.address import Assigned
from runtime.errors import HaError
from tests.unit.proxy_members import World, group_of

CONFIG = Config(
    99,
    "10.0.0.1",
    Vrrp(),
    (VirtualIp("10.0.0.200", 24, "eth0"),),
    redirects=(Redirect("http", (80, 443), 9090), Redirect("ftp", (21,), 2121)),
    balance=Balance(lbid=51),
)
NETWORKS = {"eth0": [Assigned("eth0", "10.0.0.1", 24), Assigned("eth0", "10.0.0.200", 24)]}
RULES = {"loaded": True, "problem": "", "repaired": 0}


@pytest.fixture
def world() -> World:
    world = group_of(3)
    world.hosts[2].report(priority=0)
    world.run(2.0)
    return world


def answer(world: World, number: int) -> dict[str, Any]:
    host = world.hosts[number]
    cluster = report.status(CONFIG, host.group, host.counters.as_json() | {"dropped": {}}, RULES, world.now)
    return {"routers": [{"family": 4}], "cluster": cluster}


def test_mfend_lb_on_the_director_shows_itself_and_all_members(world: World) -> None:
    lines = mfend_lb.lines(answer(world, 0), now=1298958338.0 + 1.0)
    assert [line for line in lines if "type" in line or "device" in line or "state:" in line] == [
        "device: node1", "  state: NETWORK", "  type: director", "device: __SELF__", "  state: OK", "  type: scanning",
        "device: node2", "  state: REDUNDANT", "  type: redundant", "device: node2", "  state: OK", "  type: scanning",
        "device: node3", "  state: OK", "  type: scanning",
    ]  # fmt: skip
    assert lines[:20] == [
        "device: node1", "statechange:", "  ip: 10.0.0.1", "  ip6: ::", "protocols: 00000001", "  mac: 020000000001",
        "  state: NETWORK", "  stats: 0 0 0 341 682", "statusvalid: 1", "  type: director",
        "device: __SELF__", "statechange:", "  ip: 0.0.0.0", "  ip6: ::", "protocols: 00000001", "  mac: 020000000001",
        "  state: OK", "  stats: 0 0 0 341 682", "statusvalid: 1", "  type: scanning",
    ]  # fmt: skip


def test_mfend_lb_on_a_member_shows_the_director_and_itself_only(world: World) -> None:
    devices = [line for line in mfend_lb.lines(answer(world, 2), now=2e9) if line.startswith("device")]
    assert devices == ["device: node1", "device: node1", "device: __SELF__"]


def test_a_time_of_change_as_the_reference_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    assert mfend_lb._clock(1298958338.0) == "1298958338 (Tue Mar 1 05:45:38 2011)"


def test_a_failed_member(world: World) -> None:
    world.hosts[1].up = False
    world.run(1.5)
    lines = mfend_lb.lines(answer(world, 0), now=2e9)
    at = lines.index("device: node2")
    assert "  state: FAILED" in lines[at : at + 10] and "statusvalid: 0" in lines[at : at + 10]


def test_any_member_shows_all_members(world: World) -> None:
    for number in range(3):
        lines = "\n".join(render_cluster(answer(world, number)["cluster"]))
        assert "director of load balancing ID 51: node1 10.0.0.1" in lines
        for name in ("node1 10.0.0.1 (director", "node2 10.0.0.2 (redundant", "node3 10.0.0.3 (scanning"):
            assert name in lines
        assert "http 80,443 → 9090: buckets node1 341, node2 341, node3 342" in lines


def test_explain_says_who_and_why(world: World) -> None:
    group = world.hosts[1].group
    lines = report.explain(CONFIG, group, "10.1.1.100")
    number = int(lines[1].split("bucket ")[1].split()[0])
    owner = group.tables.current["tcp 80,443"].owners[number]
    assert lines[0] == f"http 80,443 → 9090: {group.known[owner].member.name} {group.known[owner].member.ip}"
    world.hosts[int(owner[-1]) - 1].report(draining=True)
    world.run(5.0)
    lines = report.explain(CONFIG, group, "10.1.1.100")
    assert f"  its earlier connections are still served by {group.known[owner].member.name}, who had the bucket before" in lines
    with pytest.raises(HaError, match="is no IP address"):
        report.explain(CONFIG, group, "jupiter")


def test_check_finds_nothing_in_a_sound_group(world: World) -> None:
    assert report.check(CONFIG, world.hosts[0].group, {"10.1.1.1": 10, "10.1.1.2": 15}, NETWORKS, {}) == []


def test_check_finds_the_common_mistakes(world: World) -> None:
    group = world.hosts[0].group
    said = "\n".join(report.check(CONFIG, group, {"10.1.1.1": 99, "10.1.1.2": 1}, NETWORKS, {"authentication": 3}))
    assert "99 of 100 connections here come from 10.1.1.1: a proxy or NAT before it?" in said
    assert "load balancing ID 51 is used with another key, too (3 messages)" in said
    alone = Config(99, "10.0.0.1", Vrrp(), (VirtualIp("10.9.0.200", 24, "eth0"),))
    said = "\n".join(report.check(alone, World(1).hosts[0].group, {}, NETWORKS, {}))
    assert "no port redirect is configured" in said
    assert "10.9.0.200/24 lies in no network that this node has on eth0" in said
    assert "no other member is heard" in said
    world.hosts[2].report(ports={"tcp 80,443": True}, places={}, version="9")
    world.run(1.0)
    said = "\n".join(report.check(CONFIG, group, {}, NETWORKS, {}))
    assert "node3 has no port redirect tcp 21: it gets no clients of it" in said
    assert "node3 has other virtual IPs" in said and "node3 runs version 9" in said


def test_who_is_asked_to_drain(world: World) -> None:
    group = world.hosts[0].group
    assert report.find(group, "").name == "node1"
    assert report.find(group, "node2").ip == report.find(group, "10.0.0.2").ip == "10.0.0.2"
    with pytest.raises(HaError, match="no member 'saturn' is known; known are node1, node2, node3"):
        report.find(group, "saturn")
