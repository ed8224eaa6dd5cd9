"""Heartbeat links and pings with real interfaces and packets: every medium, both families, devices that go and come back."""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Iterator

import pytest
from namespaces import Namespace, cable, lay, settle

from heartbeat.frames import HEAD
from heartbeat.links import MOST_BYTES, MOST_TAKEN, Link, Links
from heartbeat.media import Medium, links_of
from heartbeat.ping import Pinger
from runtime.address import Netlink

pytestmark = pytest.mark.lab
VIP = "10.0.0.9"


def lay6(a: Namespace, b: Namespace) -> None:
    """IPv6 addresses for the ends; in use at once."""
    a.ip("address add fd00::1/64 dev lan0 nodad", "address add fe80::1/64 dev lan0 nodad")
    b.ip("address add fd00::2/64 dev lan0 nodad", "address add fe80::2/64 dev lan0 nodad")
    b.ip("address add fd00::3/64 dev lan0 nodad preferred_lft 0")
    with a:
        wait_for_answers("fd00::2", "fe80::2%lan0")
    with b:
        wait_for_answers("fd00::1", "fe80::1%lan0")


def wait_for_answers(*nodes: str) -> None:
    """The kernel may take a second until it resolves the first neighbour on a new interface."""
    pinger, answered, end = Pinger(nodes), set(), time.monotonic() + 5
    for seq in itertools.count():
        pinger.send(seq)
        time.sleep(0.02)
        answered |= {reply.node for reply in pinger.receive()}
        if len(answered) == len(nodes) or time.monotonic() > end:
            break
    pinger.close()
    assert answered == set(nodes)


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with cable() as (a, b):
        lay6(a, b)
        yield a, b


def media(kind: str, peer: str, peer6: str, device: str = "lan0") -> Medium:
    return {
        "ucast": Medium("ucast", device, peer, 694),
        "ucast6": Medium("ucast", device, peer6, 694),
        "link-local": Medium("ucast", device, peer6.replace("fd00", "fe80"), 694),
        "bcast": Medium("bcast", device, "", 694),
        "mcast": Medium("mcast", device, "239.0.0.1", 694),
        "mcast6": Medium("mcast", device, "ff12::1:2:3:4", 694),
    }[kind]


KINDS = ["ucast", "ucast6", "link-local", "bcast", "mcast", "mcast6"]


def pair_of(ends: tuple[Namespace, Namespace], *kinds: str) -> tuple[Links, Links]:
    a, b = ends
    with a:
        here = Links(links_of(media(kind, "10.0.0.2", "fd00::2") for kind in kinds))
    with b:
        there = Links(links_of(media(kind, "10.0.0.1", "fd00::1") for kind in kinds))
    return here, there


@pytest.fixture
def links(ends: tuple[Namespace, Namespace], request: pytest.FixtureRequest) -> Iterator[tuple[Links, Links]]:
    a, b = pair_of(ends, getattr(request, "param", "ucast"))
    yield a, b
    a.close()
    b.close()


def received(link: Link, wait: float = 0.5) -> list[bytes]:
    select.select([link], [], [], wait)
    return [datagram.frame for datagram in link.receive()]


def sends(links: Links, ns: Namespace, frame: bytes = b"frame") -> int:
    with ns:  # looking up an interface happens in the namespace of the thread
        return links.send(frame)


# --- every medium ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", KINDS, indirect=True)
def test_frames_pass_both_ways(ends: tuple[Namespace, Namespace], links: tuple[Links, Links]) -> None:
    a, b = links
    assert (sends(a, ends[0], b"from a"), sends(b, ends[1], b"from b")) == (1, 1)
    (here,), (there,) = a, b
    assert b"from a" in received(there) and b"from b" in received(here)
    assert a.states()["lan0"]["error"] == ""


@pytest.mark.parametrize("links", ["ucast", "ucast6", "bcast"], indirect=True)
def test_the_sender_is_told(ends: tuple[Namespace, Namespace], links: tuple[Links, Links]) -> None:
    sends(links[1], ends[1])
    (here,) = links[0]
    select.select([here], [], [], 0.5)
    assert [datagram.sender for datagram in here.receive()] == ["fd00::2" if here.line.family == 6 else "10.0.0.2"]


@pytest.mark.parametrize("links", KINDS, indirect=True)
def test_a_link_that_goes_and_comes_back_is_taken_up_again_with_the_same_descriptor(
    ends: tuple[Namespace, Namespace], links: tuple[Links, Links]
) -> None:
    (a, b), (here, there) = ends, links
    before = [link.fileno() for link in here]
    a.ip("link set lan0 down")
    assert sends(here, a) == 0
    assert here.states()["lan0"]["error"] != ""
    a.ip("link set lan0 up")
    lay6_again(a)
    assert sends(here, a) == 1
    a.ip("link delete lan0")
    assert sends(here, a) == 0
    assert not here.states()["lan0"]["up"]
    lay(a, b)
    lay6(a, b)
    arrived = set()
    for _ in range(20):  # as heartbeat speaks again and again; the first one notices that its device is another one
        sends(here, a, b"from a")
        sends(there, b, b"from b")
        arrived |= {frame for link in (*here, *there) for frame in received(link, 0.2)}
        if arrived >= {b"from a", b"from b"}:
            break
    assert arrived >= {b"from a", b"from b"} and here.states()["lan0"]["up"]
    assert [link.fileno() for link in here] == before


def lay6_again(a: Namespace) -> None:
    """An interface that was down has lost its IPv6 addresses."""
    a.ip("address replace fd00::1/64 dev lan0 nodad", "address replace fe80::1/64 dev lan0 nodad")


def test_several_media_at_once(ends: tuple[Namespace, Namespace]) -> None:
    a, b = pair_of(ends, "ucast", "bcast", "ucast6")
    assert [link.name for link in a] == ["lan0", "lan0/ipv6"]
    assert sends(a, ends[0]) == 2
    four, six = b
    assert received(four) == [b"frame"] * 2 and received(six) == [b"frame"]
    a.close()
    b.close()


def test_one_medium_of_a_link_that_can_not_send_does_not_stop_the_other(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    firewall = "table ip t { chain c { type filter hook output priority 0; ip daddr 192.0.2.1 drop; }; }"
    a.run(["nft", "-f", "-"], firewall)
    with a:
        here = Links(links_of([Medium("ucast", "lan0", "192.0.2.1", 694), Medium("bcast", "lan0", "", 694)]))
    with b:
        (there,) = links_of([Medium("bcast", "lan0", "", 694)])
        listening = Link(there)
    assert sends(here, a) == 1 and received(listening) == [b"frame"]
    assert here.states()["lan0"]["error"] == "Operation not permitted" and here.states()["lan0"]["up"]
    here.close()
    listening.close()


def test_a_link_whose_device_is_not_there_yet_hurts_no_other(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        links = Links(links_of([media("ucast", "10.0.1.2", "", "lan1"), media("ucast", "10.0.0.2", "")]))
        assert links.send(b"x") == 1
        assert links.states()["lan1"]["error"] != ""
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
        first, second = Links(links_of([media("ucast", "10.0.0.2", ""), media("ucast", "10.0.1.2", "", "lan1")]))
    with b, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"on the second", ("10.0.1.1", 694))
        s.sendto(b"on the first", ("10.0.0.1", 694))
    assert (received(first), received(second)) == ([b"on the first"], [b"on the second"])
    first.close()
    second.close()


# --- floods ---------------------------------------------------------------------------------------------------------------


def flood(stranger: socket.socket, address: str, count: int, content: bytes) -> None:
    for i in range(count):
        stranger.sendto(content + b"%d" % i, (address, 694))


def test_one_wake_up_takes_a_bounded_number_and_size(ends: tuple[Namespace, Namespace], links: tuple[Links, Links]) -> None:
    (here,) = links[0]
    with ends[1], socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        flood(stranger, "10.0.0.1", 2000, HEAD)
        taken = here.receive()
        assert 0 < len(taken) <= MOST_TAKEN
        while here.receive():
            pass
        flood(stranger, "10.0.0.1", 200, HEAD + bytes(60000))
        assert sum(len(datagram.frame) for datagram in here.receive()) <= MOST_BYTES + 65536
    assert here.discarded > 1000  # the queue is bounded too


@pytest.mark.parametrize("family", [4, 6])
def test_the_shield_lets_the_peer_through_and_nobody_else(ends: tuple[Namespace, Namespace], family: int) -> None:
    a, b = pair_of(ends, "ucast" if family == 4 else "ucast6")
    peer, other, target = ("10.0.0.2", "10.0.0.3", "10.0.0.1") if family == 4 else ("fd00::2", "fd00::3", "fd00::1")
    (here,) = a
    here.shield({"10.9.9.9" if family == 4 else "fd00::9", peer})
    with ends[1], socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
        stranger.bind((other, 0))
        flood(stranger, target, 50, HEAD)
        sends(b, ends[1], HEAD + b"the peer")
        sends(b, ends[1], b"no frame, though from the peer's address")
        sends(b, ends[1], b">>>\nthe peer in the classic form")
        assert received(here) == [HEAD + b"the peer", b">>>\nthe peer in the classic form"]
        assert here.shielded and here.discarded == 51
        here.shield(())
        flood(stranger, target, 3, b"noise")
        assert len(received(here)) == 3 and not here.shielded
    a.close()
    b.close()


# --- pings ----------------------------------------------------------------------------------------------------------------


def replies_to(pinger: Pinger, wait: float = 0.3) -> set[tuple[str, int]]:
    replies: set[tuple[str, int]] = set()
    while select.select([pinger], [], [], wait)[0]:
        replies |= set(pinger.receive())
    return replies


def test_nodes_that_answer_are_told_from_those_that_do_not(ends: tuple[Namespace, Namespace]) -> None:
    with ends[0]:
        pinger = Pinger(["10.0.0.2", "10.0.0.77", "192.0.2.1", "10.0.0.3", "fd00::2", "fe80::2%lan0", "fd00::77", "fd99::1"])
        assert pinger.send(70000) == 6
        answered = replies_to(pinger)  # here, where the kernel's zone of fe80::2 has a name
    assert pinger.errors["192.0.2.1"] == pinger.errors["fd99::1"] == "Network is unreachable"
    assert answered == {(node, 70000) for node in ("10.0.0.2", "10.0.0.3", "fd00::2", "fe80::2%lan0")}
    pinger.close()


@pytest.mark.parametrize("node", ["10.0.0.2", "fd00::2"])
def test_two_pingers_do_not_hear_each_other(ends: tuple[Namespace, Namespace], node: str) -> None:
    with ends[0]:
        one, other = Pinger([node]), Pinger([node])
    one.send(1)
    assert select.select([one], [], [], 0.5)[0]
    assert not select.select([other], [], [], 0.05)[0]
    assert one.receive() == [(node, 1)]
    one.close()
    other.close()


@pytest.mark.parametrize("kind", ["ICMP", "ICMPv6"])
def test_forged_replies_count_for_nothing(ends: tuple[Namespace, Namespace], kind: str) -> None:
    """A stranger's echo replies with every possible identifier: the nonce isn't right. The node's own answer still counts."""
    a, b = ends
    four = kind == "ICMP"
    node, target, stranger = ("10.0.0.2", "10.0.0.1", "10.0.0.3") if four else ("fd00::2", "fd00::1", "fd00::3")
    with a:
        pinger = Pinger([node])
    family, protocol = (socket.AF_INET, 1) if four else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    with b, socket.socket(family, socket.SOCK_RAW, protocol) as forger:
        for sender in (node, stranger):
            with socket.socket(family, socket.SOCK_RAW, protocol) as forger:
                forger.bind((sender, 0))
                for identifier in range(65536):
                    forger.sendto(forged(four, identifier), (target, 0))
                    if identifier % 64 == 0:
                        assert pinger.receive() == []
    assert pinger.receive() == []
    pinger.send(5)
    assert replies_to(pinger) == {(node, 5)}
    pinger.close()


def forged(four: bool, identifier: int) -> bytes:
    from heartbeat.ping import echo

    return echo(0 if four else 129, identifier, b"guessed!", 5)


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
        pinger = Pinger(["10.0.0.2", "fd00::2"])
    ends[0].ip("link delete lan0")
    assert pinger.send(1) == 0
    assert pinger.errors["10.0.0.2"] != "" and pinger.errors["fd00::2"] != ""
    assert pinger.receive() == []
    pinger.close()
