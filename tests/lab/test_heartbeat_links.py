"""Two real heartbeats on every kind of link, and what links and ping nodes may do to them; Postgres is scripted.

Promise tried here: one cut link is an alarm and nothing else; whoever can't reach the clients' network hands over to whoever
can; there are never two actives, and after the faults one is active and the other fit. Source: design §4 rules 1, 3, 4, 6.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.two_heartbeats import NODES, VIP, Node, Pair, sh, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]

PING = "ping 192.168.120.1\n"
MEDIA = {
    "bcast": ("bcast eth0 eth1\n" + PING, {"eth0", "eth1"}),
    "IPv6": (
        "ucast6 eth0 fd00:120::{other}\nucast6 eth0 fd00:120::{own}\nucast6 eth1 fd00:77::{other}\nping6 fd00:120::1\n",
        {"eth0", "eth1"},
    ),
    "mcast": ("mcast eth0 239.0.0.1 694 1 0\nmcast6 eth1 ff12::694 694 1 0\n" + PING, {"eth0", "eth1"}),
    "all of them": (
        "ucast eth0 192.168.120.{other}\nucast eth0 192.168.120.{own}\nbcast eth0 eth1\nucast6 eth0 fd00:120::{other}\n"
        "mcast6 eth1 ff12::694 694 1 0\nping_group gateway 192.168.120.1 fd00:120::1\n",
        {"eth0", "eth0/ipv6", "eth1", "eth1/ipv6"},
    ),
}  # fmt: skip


@pytest.fixture
def pair() -> Iterator[Pair]:
    with two_heartbeats() as pair:
        yield pair


def stays(pair: Pair, active: Node, seconds: float, holds: Callable[[], bool] = lambda: True) -> None:
    """For so long, ``active`` is the one active; a pause in which something must *not* happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert pair.active() is active and holds()
        time.sleep(0.05)


def one_active_again(pair: Pair) -> Node:
    """After a heal: one active that has the address alone, the other fit."""
    pair.heal()
    active, passive = pair.settle()
    wait_for("the address on the active alone", lambda: active.has_vip() and not passive.has_vip())
    return active


# --- media ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", list(MEDIA))
def test_a_pair_on_every_kind_of_link(media: str) -> None:
    lines, links = MEDIA[media]
    with two_heartbeats(links=lines) as pair:
        active, passive = pair.settle()
        for node in (active, passive):
            wait_for("every link up", lambda node=node: node.status()["links"] == dict.fromkeys(links, "up"))  # type: ignore[misc]
            status = node.status()
            assert all(each["senders"] == {} for each in status["refused"].values()), status["refused"]
            assert not [name for name in status["alarms"] if name.startswith("link-")]
            assert set(status["ping_nodes"].values()) == {"up"}
        active.kill()
        wait_for("taken over", lambda: passive.is_(phase="active", epoch=[2, passive.name]))


def test_an_interface_that_is_made_again_is_taken_up_again(pair: Pair) -> None:
    active, passive = pair.settle()
    port = f"p1x{passive.ns[-2:]}" if passive.name == "vs-28" else "p1x166"
    sh(f"ip -n {passive.ns} link delete eth1")
    wait_for("the dead link is named", lambda: "link-eth1" in active.status().get("alarms", {}))
    sh(f"ip -n {pair.gateway} link add {port} type veth peer name eth1 netns {passive.ns}")
    sh(f"ip -n {pair.gateway} link set {port} master br1 up")
    sh(f"ip -n {passive.ns} addr add 10.77.0.28/24 dev eth1 && ip -n {passive.ns} link set eth1 up")
    for node in (active, passive):
        wait_for("heard again", lambda node=node: node.status()["links"] == {"eth0": "up", "eth1": "up"})  # type: ignore[misc]
    wait_for("the alarm to be over", lambda: "link-eth1" not in active.status()["alarms"])
    assert pair.active() is active


def test_an_interface_of_the_address_that_is_removed_and_made_again(pair: Pair) -> None:
    """The service moves; made again, the interface carries the address as before."""
    first, second = pair.settle()
    sh(f"ip -n {first.ns} link delete eth0")
    wait_for("the other one is active", lambda: second.is_(phase="active"))
    wait_for("the alarm", lambda: "interface-eth0" in first.status()["alarms"])
    port = f"p0x{NODES[first.name]}"
    sh(f"ip -n {pair.gateway} link add {port} type veth peer name eth0 netns {first.ns}")
    sh(f"ip -n {pair.gateway} link set {port} master br0 up")
    sh(f"ip -n {first.ns} addr add 192.168.120.{NODES[first.name]}/24 dev eth0 && ip -n {first.ns} link set eth0 up")
    assert pair.settle() == (second, first)
    for node in (first, second):
        wait_for("heard again", lambda node=node: node.status()["links"] == {"eth0": "up", "eth1": "up"})  # type: ignore[misc]
    assert "interface-eth0" not in first.status()["alarms"]
    second.ask("standby")
    wait_for("back", lambda: first.is_(phase="active") and first.has_vip())
    assert VIP in sh(f"ip netns exec {pair.gateway} ping -n -c1 -W2 {VIP}")
    assert not [name for name in first.status()["alarms"] if name.startswith("vip-")]


# --- cuts -----------------------------------------------------------------------------------------------------------------


def test_the_interconnect_is_cut_while_the_ping_node_lives(pair: Pair) -> None:
    active, passive = pair.settle()
    pair.cut(passive.name, 1)
    for node in (active, passive):
        wait_for("the dead link is named", lambda node=node: "link-eth1" in node.status()["alarms"])  # type: ignore[misc]
    stays(pair, active, 4.0, lambda: passive.is_(fit=True))
    assert not active.status()["solo"]
    assert one_active_again(pair) is active
    wait_for("the alarm to end", lambda: "link-eth1" not in active.status()["alarms"])


@pytest.mark.parametrize("deaf", ["active", "passive"])
def test_one_link_carries_heartbeats_in_one_direction_only(pair: Pair, deaf: str) -> None:
    """An alarm on the side that doesn't hear, and nothing else."""
    active, passive = pair.settle()
    side, other = (active, passive) if deaf == "active" else (passive, active)
    pair.deafen(side.name, "iifname eth0 udp dport 694")
    wait_for("the dead link is named", lambda: side.status()["alarms"].get("link-eth0") is not None)
    stays(pair, active, 2.0, lambda: passive.is_(fit=True))
    assert "link-eth0" not in other.status()["alarms"] and not active.status()["solo"]
    assert one_active_again(pair) is active


def test_the_active_hears_no_heartbeat_but_is_heard(pair: Pair) -> None:
    """It goes on alone after solo time; the passive, no longer echoed, isn't fit, and doesn't take over."""
    active, passive = pair.settle()
    pair.deafen(active.name, "udp dport 694")
    wait_for("solo", lambda: active.is_(phase="active", solo=True))
    assert passive.is_(phase="passive", fit=False)
    stays(pair, active, 2.0)
    assert one_active_again(pair) is active


def test_the_passive_hears_no_heartbeat_but_is_heard(pair: Pair) -> None:
    """Whether it takes over or is held by a sign of service: never two actives, and one in the end."""
    _, passive = pair.settle()
    pair.deafen(passive.name, "udp dport 694")
    wait_for("silence is noticed", lambda: "peer-silent" in passive.log())
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        pair.active()  # asserts that there aren't two
        time.sleep(0.02)
    one_active_again(pair)


@pytest.mark.parametrize("side", ["active", "passive"])
def test_nothing_arrives_on_the_lan_of_one_server(pair: Pair, side: str) -> None:
    """Neither pings nor heartbeats; what it sends arrives. The active hands over, the passive stays what it is."""
    active, passive = pair.settle()
    pair.deafen((active if side == "active" else passive).name, "iifname eth0")
    if side == "active":
        wait_for("moved", lambda: passive.is_(phase="active"))
        assert not active.has_vip()
    else:
        wait_for("the alarm", lambda: "not-connected" in passive.status()["alarms"])
        stays(pair, active, 2.0)
        assert not active.status()["solo"]
    assert one_active_again(pair) is (passive if side == "active" else active)


# --- ping nodes and switches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["active", "passive"])
def test_the_ping_node_is_lost_on_one_side(pair: Pair, side: str) -> None:
    active, passive = pair.settle()
    pair.deafen((active if side == "active" else passive).name, "icmp type echo-reply")
    if side == "active":
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        wait_for("fit for nothing without it", lambda: "not-connected" in active.status()["alarms"])
    else:
        wait_for("the alarm", lambda: "not-connected" in passive.status()["alarms"])
        stays(pair, active, 3.0)
        assert not active.status()["solo"]
    assert one_active_again(pair) is (passive if side == "active" else active)


def test_one_of_two_ping_nodes_that_are_both_needed_is_lost_on_the_active() -> None:
    lines = "ucast eth0 192.168.120.{other}\nucast eth1 10.77.0.{other}\nping 192.168.120.1 10.77.0.1\nping_quorum 2\n"
    with two_heartbeats(links=lines) as pair:
        active, passive = pair.settle()
        pair.deafen(active.name, "ip saddr 10.77.0.1 icmp type echo-reply")
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        assert active.status()["alarms"]["not-connected"] == "1 ping nodes answer, 2 are needed"
        assert active.status()["ping_nodes"] == {"192.168.120.1": "up", "10.77.0.1": "dead"}


@pytest.mark.parametrize("links", [(0,), (0, 1)], ids=["the LAN's", "both"])
def test_both_lose_the_switch_and_get_it_back(pair: Pair, links: tuple[int, ...]) -> None:
    """Without the LAN nobody can do better: the active stays. Without anything it stands down; then the two elect one again."""
    active, passive = pair.settle()
    pair.cut_switches(links, passive)
    if len(links) == 1:
        wait_for("the alarm", lambda: "not-connected" in active.status()["alarms"])
        stays(pair, active, 2.0)
    else:
        wait_for("stood down", lambda: active.is_(role="passive"))
        assert not active.has_vip() and not passive.has_vip()
        time.sleep(1.0)
        assert pair.active() is None
    one_active_again(pair)
