"""Virtual addresses, announcements, link events, heartbeat links and pings, with real interfaces and packets."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest
from namespaces import Namespace, asks_arp, cable, lay, settle

from heartbeat.links import MOST_KEPT, MOST_TAKEN, Links, Ucast
from heartbeat.ping import Pinger
from runtime.address import Assigned, Netlink, NetworkError, mac
from runtime.arp import Announcer
from runtime.errors import ConfigError
from runtime.linkwatch import LinkState, LinkWatch, carrier

pytestmark = pytest.mark.lab
VIP = "10.0.0.9"


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with cable() as ends:
        yield ends


# --- addresses ------------------------------------------------------------------------------------------------------------


def test_a_virtual_address_leaves_the_routing_as_it_was(ends: tuple[Namespace, Namespace]) -> None:
    a, _ = ends
    a.ip("route add default via 10.0.0.2")
    before = a.run(["ip", "route"]), a.run(["ip", "route", "get", "10.0.0.7"]), a.run(["ip", "route", "get", "192.0.2.1"])
    with a, Netlink() as netlink:
        interface = netlink.interface_for(VIP)
        assert interface == "lan0"
        netlink.add(VIP, interface, lifetime=1.2)
        assert netlink.addresses("lan0")[-1] == Assigned("lan0", VIP, 32, 2)
        assert netlink.holder(VIP) == "lan0"
        assert netlink.interface_for(VIP) == "lan0"
        after = a.run(["ip", "route"]), a.run(["ip", "route", "get", "10.0.0.7"]), a.run(["ip", "route", "get", "192.0.2.1"])
        assert after == before
        a.ip("address delete 10.0.0.1/24 dev lan0")  # the primary address goes, the virtual one stays
        assert netlink.holder(VIP) == "lan0"
        assert netlink.remove(VIP)
        assert not netlink.remove(VIP)
        assert netlink.holder(VIP) is None


def test_an_address_that_nobody_refreshes_goes_by_itself(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a, Netlink() as netlink:
        for _ in range(3):
            netlink.add(VIP, "lan0", lifetime=1)
            time.sleep(0.4)
        assert asks_arp(b, VIP) is not None
        started = time.monotonic()
        netlink.add(VIP, "lan0", lifetime=1)
        while netlink.holder(VIP):
            assert time.monotonic() - started < 3, "still there"
            time.sleep(0.02)
        assert time.monotonic() - started > 0.8
        assert asks_arp(b, VIP) is None


def test_remove_takes_the_address_with_any_prefix_from_any_interface(ends: tuple[Namespace, Namespace]) -> None:
    a, _ = ends
    a.ip(f"address add {VIP}/24 dev lan0", f"address add {VIP}/32 dev lo")
    with a, Netlink() as netlink:
        assert netlink.remove(VIP)
        assert netlink.holder(VIP) is None


def test_what_can_not_be_is_said_in_words(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0], Netlink() as netlink:
        with pytest.raises(NetworkError, match=r"cannot replace 10\.0\.0\.9/32 on lan7: no interface"):
            netlink.add(VIP, "lan7")
        with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is in no network of this server: lan0 10\.0\.0\.1/24"):
            netlink.interface_for("192.0.2.1")
        with pytest.raises(NetworkError, match="cannot announce"):
            Announcer("lan7").announce(VIP)
        with pytest.raises(NetworkError, match="lan7"):
            mac("lan7")


def test_an_announcement_moves_the_neighbours_entry_at_once(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    b.ip(f"neighbour replace {VIP} dev lan0 lladdr 02:00:00:00:00:01 nud stale")
    with a:
        announcer = Announcer("lan0")
        announcer.announce(VIP, burst=1)
        ours = mac("lan0")
    assert ours.hex(":") in b.run(["ip", "neighbour", "show", VIP])
    a.ip("link delete lan0")
    with pytest.raises(NetworkError):
        announcer.announce(VIP)
    lay(a, b)
    b.ip(f"neighbour replace {VIP} dev lan0 lladdr 02:00:00:00:00:01 nud stale")
    with a:
        announcer.announce(VIP)
        assert mac("lan0").hex(":") in b.run(["ip", "neighbour", "show", VIP])


def test_link_events_tell_the_present_state_also_after_too_many(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        watch = LinkWatch()
    assert _newest(watch)["lan0"] == LinkState("lan0", True)
    b.ip("link set lan0 down")
    assert _newest(watch)["lan0"] == LinkState("lan0", False)
    b.ip(*["link set lan0 up", "link set lan0 down"] * 1000, "link set lan0 up")
    assert _newest(watch)["lan0"] == LinkState("lan0", True)
    a.ip("link delete lan0")
    assert _newest(watch)["lan0"] == LinkState("lan0", False, gone=True)
    watch.close()


def test_a_lost_link_is_seen_at_once_by_asking(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        for _ in range(3):
            assert carrier("lan0")
            b.ip("link set lan0 down")
            assert not carrier("lan0")
            b.ip("link set lan0 up")
        a.ip("link set lan0 down")
        assert not carrier("lan0")
        assert not carrier("lan7")


def _newest(watch: LinkWatch) -> dict[str, LinkState]:
    states = {s.interface: s for s in watch.read()}
    while select.select([watch], [], [], 1.2)[0]:  # the kernel holds back events, see there
        states |= {s.interface: s for s in watch.read()}
    return states


# --- heartbeat links ------------------------------------------------------------------------------------------------------


@pytest.fixture
def links(ends: tuple[Namespace, Namespace]) -> Iterator[tuple[Links, Links]]:
    lines = [Ucast("lan0", "10.0.0.1"), Ucast("lan0", "10.0.0.2")]  # both servers may have both lines
    with ends[0]:
        a = Links(lines, 694, own=["10.0.0.1"])
    with ends[1]:
        b = Links(lines, 694, own=["10.0.0.2", "10.0.0.3"])
    yield a, b
    a.close()
    b.close()


def _received(links: Links, wait: float = 0.5) -> list[bytes]:
    (link,) = links
    select.select([link], [], [], wait)
    return link.receive()


def test_frames_pass_both_ways(ends: tuple[Namespace, Namespace], links: tuple[Links, Links]) -> None:
    a, b = links
    assert [len(tuple(side)) for side in links] == [1, 1]
    assert (_sends(a, ends[0], b"from a"), _sends(b, ends[1], b"from b")) == (1, 1)
    assert (_received(b), _received(a)) == ([b"from a"], [b"from b"])
    assert a.states()["lan0"].error == ""


def test_a_link_that_goes_and_comes_back_is_taken_up_again_with_the_same_descriptor(
    ends: tuple[Namespace, Namespace], links: tuple[Links, Links]
) -> None:
    (a, b), (here, there) = ends, links
    before = [link.fileno() for link in here]
    a.ip("link set lan0 down")
    assert _sends(here, a) == 0
    assert here.states()["lan0"].error == "Network is unreachable"
    a.ip("link set lan0 up")
    assert _sends(here, a) == 1
    a.ip("link delete lan0")
    assert _sends(here, a) == 0
    assert not here.states()["lan0"].up
    lay(a, b)
    assert _sends(here, a) == 1
    assert _sends(there, b) == 1
    assert [link.fileno() for link in here] == before
    assert _received(here) == [b"frame"]
    assert _received(there)[-1] == b"frame"


def _sends(links: Links, ns: Namespace, frame: bytes = b"frame") -> int:
    with ns:  # looking up an interface happens in the namespace of the thread
        return links.send(frame)


def test_a_link_whose_device_is_not_there_yet_hurts_no_other(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        links = Links([Ucast("lan1", "10.0.1.2"), Ucast("lan0", "10.0.0.2")])
        assert links.send(b"x") == 1
        assert links.states()["lan1"].error != ""
        a.ip(
            f"link add lan1 index 71 type veth peer name lan1 netns {b.path}",
            "address add 10.0.1.1/24 dev lan1",
            "link set lan1 up",
        )
        b.ip("address add 10.0.1.2/24 dev lan1", "link set lan1 up")
        assert links.send(b"x") == 2
    links.close()


def test_a_frame_counts_for_the_link_it_came_in_on_only(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    a.ip(
        f"link add lan1 index 71 type veth peer name lan1 netns {b.path}",
        "address add 10.0.1.1/24 dev lan1",
        "link set lan1 up",
    )
    b.ip("address add 10.0.1.2/24 dev lan1", "link set lan1 up")
    settle(a, b)
    with a:
        first, second = Links([Ucast("lan0", "10.0.0.2"), Ucast("lan1", "10.0.1.2")])
    with b, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"on the second", ("10.0.1.1", 694))
        s.sendto(b"on the first", ("10.0.0.1", 694))
    time.sleep(0.05)
    assert (first.receive(), second.receive()) == ([b"on the first"], [b"on the second"])
    first.close()
    second.close()


def test_a_flood_costs_a_bounded_time_and_strangers_are_shut_out(
    ends: tuple[Namespace, Namespace], links: tuple[Links, Links]
) -> None:
    here, there = links
    _sends(there, ends[1], b"the peer was heard")
    assert _received(here) == [b"the peer was heard"]
    with ends[1]:
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("10.0.0.3", 0))
    for i in range(2000):
        stranger.sendto(b"%d" % i, ("10.0.0.1", 694))
    (link,) = here
    started = time.perf_counter()
    frames = link.receive()
    assert time.perf_counter() - started < 0.5
    assert len(frames) == MOST_KEPT
    assert frames[-1] == b"%d" % (MOST_TAKEN - 1)
    while link.receive():
        pass
    assert link.state.flooded
    for i in range(2000):
        stranger.sendto(b"%d" % i, ("10.0.0.1", 694))
    _sends(there, ends[1], b"the peer is heard")
    assert _received(here) == [b"the peer is heard"]
    stranger.close()


# --- pings ----------------------------------------------------------------------------------------------------------------


def test_nodes_that_answer_are_told_from_those_that_do_not(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0]:
        pinger = Pinger(["10.0.0.2", "10.0.0.77", "192.0.2.1", "10.0.0.3"])
    assert pinger.send(70000) == 3
    assert pinger.errors["192.0.2.1"] == "Network is unreachable"
    replies = set()
    while select.select([pinger], [], [], 0.2)[0]:
        replies |= set(pinger.receive())
    assert replies == {("10.0.0.2", 70000), ("10.0.0.3", 70000)}
    pinger.close()


def test_two_pingers_do_not_hear_each_other(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0]:
        one, other = Pinger(["10.0.0.2"]), Pinger(["10.0.0.2"])
    one.send(1)
    assert select.select([one], [], [], 0.5)[0]
    assert not select.select([other], [], [], 0.05)[0]
    assert one.receive() == [("10.0.0.2", 1)]
    one.close()
    other.close()


def test_pings_leave_from_the_given_address_once_it_is_there(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        pinger = Pinger(["10.0.0.2"], source=VIP)
    pinger.send(1)
    assert not select.select([pinger], [], [], 0.1)[0]
    with a, Netlink() as netlink:
        netlink.add(VIP, "lan0")
    b.ip("neighbour flush dev lan0")
    pinger.send(2)
    assert select.select([pinger], [], [], 0.5)[0]
    assert pinger.receive() == [("10.0.0.2", 2)]
    assert VIP in b.run(["ip", "neighbour", "show"])
    pinger.close()


def test_no_network_error_escapes(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0]:
        pinger = Pinger(["10.0.0.2"])
    ends[0].ip("link delete lan0")
    assert pinger.send(1) == 0
    assert pinger.errors["10.0.0.2"] != ""
    assert pinger.receive() == []
    pinger.close()
