"""Lease, gate and block with real packets: A has the VIP 10.0.0.9, B is the peer (10.0.0.2) and a stranger (10.0.0.3)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from namespaces import Namespace, asks_arp, cable, connects, settle

from heartbeat.ping import Pinger
from heartbeat.vip import ServiceAddress
from runtime.address import Netlink
from runtime.arp import Announcer
from runtime.clock import boottime
from runtime.lease import VipLease, lift_block
from runtime.nft import Nftables
from runtime.rtnetlink import AddressSocket
from runtime.stranded import lent, muted, reset_stranded

pytestmark = pytest.mark.lab
VIP, PORT = "10.0.0.9", 5432


@dataclass
class Pair:
    a: Namespace
    b: Namespace
    lease: VipLease
    listener: socket.socket

    def pings(self, target: str = VIP, from_a: bool = False, wait: float = 0.15) -> bool:
        with self.a if from_a else self.b:
            pinger = Pinger([target])
            pinger.send(1)
            select.select([pinger], [], [], wait)
            answered = bool(pinger.receive())
            pinger.close()
            return answered


@pytest.fixture
def pair() -> Iterator[Pair]:
    with cable() as (a, b), contextlib.ExitStack() as stack:
        with a:
            lease = VipLease([VIP], PORT, ["10.0.0.2"])
            lease.setup()
            stack.enter_context(Netlink()).add(VIP, "lan0", lifetime=60)
            listener = stack.enter_context(socket.create_server(("", PORT)))
        yield Pair(a, b, lease, listener)


def test_without_a_lease_nothing_answers_for_the_vip(pair: Pair) -> None:
    assert asks_arp(pair.b, VIP) is None
    pair.b.ip(f"neighbour replace {VIP} dev lan0 lladdr {_mac(pair.a)}")  # whoever still knows the way gets nothing either
    assert not pair.pings()
    pair.lease.gate(True)
    assert connects(pair.b, VIP, PORT) == "silent"
    assert pair.pings("10.0.0.1")
    assert connects(pair.b, "10.0.0.1", PORT) == "open"


def _mac(ns: Namespace) -> str:
    return ns.run(["ip", "-br", "link", "show", "lan0"]).split()[2]


def test_who_still_sends_to_a_vip_that_was_let_go_is_refused(pair: Pair) -> None:
    """Clients keep the hardware address until the new holder announces itself: no silence that costs them a time-out."""
    pair.b.ip(f"neighbour replace {VIP} dev lan0 lladdr {_mac(pair.a)}")
    pair.lease.gate(False)
    pair.lease.refuse(2)
    with pair.a, Netlink() as netlink:
        netlink.remove(VIP)
    assert connects(pair.b, VIP, PORT) == "refused", "the address itself is gone already"
    assert asks_arp(pair.b, VIP) is None
    assert connects(pair.b, VIP, PORT + 1) == "silent"
    time.sleep(1.5)
    assert connects(pair.b, VIP, PORT) == "silent", "not for ever"
    pair.lease.refuse(5)
    pair.lease.refuse(0)
    assert connects(pair.b, VIP, PORT) == "silent"


def test_without_a_lease_nothing_is_taken_in_either(pair: Pair) -> None:
    """What a client still sends here must not be carried out, even if no answer could leave."""
    pair.b.ip(f"neighbour replace {VIP} dev lan0 lladdr {_mac(pair.a)}")
    with pair.a:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pair.b:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("", 9))
    taken.settimeout(0.1)
    client.sendto(b"insert", (VIP, 9))
    with pytest.raises(TimeoutError):
        taken.recv(10)
    pair.lease.refresh(10)
    client.sendto(b"insert", (VIP, 9))
    assert taken.recv(10) == b"insert"
    taken.close()
    client.close()


def test_with_a_lease_all_of_it_answers(pair: Pair) -> None:
    pair.lease.refresh(10)
    pair.lease.gate(True)
    assert asks_arp(pair.b, VIP) is not None
    assert pair.pings()
    assert connects(pair.b, VIP, PORT) == "open"
    pair.lease.expire()
    assert asks_arp(pair.b, VIP) is None
    assert not pair.pings()


@pytest.mark.parametrize("seconds", [0.15, 0.55])
def test_a_lease_lapses_in_its_time(pair: Pair, seconds: float) -> None:
    pair.lease.refresh(10)
    assert pair.pings()  # B knows the way
    lasted = [_last_answer(pair, lambda: pair.lease.refresh(seconds), seconds + 0.2) for _ in range(3)]
    said = f"last answers {', '.join(f'{t * 1000:.0f}' for t in lasted)} ms after the refresh"
    assert max(lasted) < seconds + 0.012, said
    assert max(lasted) > seconds - 0.03, said  # a busy machine may have kept the test from asking in time, once


def _last_answer(pair: Pair, start: Callable[[], object], seconds: float) -> float:
    """``start``, then ping the VIP every 2 ms; when the last one with an answer was sent, in seconds after ``start``."""
    with pair.b:
        pinger = Pinger([VIP])
    start()
    began, sent, last = time.monotonic(), list[float](), 0.0
    while (now := time.monotonic() - began) < seconds:
        pinger.send(len(sent))
        sent.append(now)
        time.sleep(0.002)
        last = max([last, *(sent[reply.seq] for reply in pinger.receive())])
    pinger.close()
    return last


def test_refreshing_leaves_no_gap(pair: Pair) -> None:
    pair.lease.refresh(1)
    assert pair.pings()
    with pair.b:
        pinger = Pinger([VIP])
    answers = 0
    for i in range(1000):
        pinger.send(i)
        pair.lease.refresh(5)
        answers += len(pinger.receive())
    time.sleep(0.05)
    answers += sum(len(pinger.receive()) for _ in range(20))
    pinger.close()
    assert answers == 1000


def test_a_killed_or_hung_owner_lets_go(pair: Pair) -> None:
    owner = f"from runtime.lease import VipLease\nimport time\nl = VipLease([{VIP!r}], {PORT}, ['10.0.0.2'])\nl.setup()\n"
    loop = "while True:\n l.refresh(.3)\n print(flush=True)\n time.sleep(.05)\n"
    for deadly in (signal.SIGSTOP, signal.SIGKILL):
        with pair.a:
            p = subprocess.Popen([sys.executable, "-c", owner + loop], stdout=subprocess.PIPE)
        assert p.stdout is not None
        p.stdout.readline()
        assert pair.pings()
        os.kill(p.pid, deadly)
        last = _last_answer(pair, lambda: None, 0.6)
        p.kill()
        p.wait()
        p.stdout.close()
        assert 0.15 < last < 1.0, f"{deadly.name}: answered for {last:.3f} s"


def test_the_gate_refuses_with_a_reset(pair: Pair) -> None:
    pair.lease.refresh(10)
    assert connects(pair.b, VIP, PORT) == "refused"
    assert connects(pair.a, VIP, PORT) == "refused"
    assert connects(pair.b, "10.0.0.1", PORT) == "open"
    assert not pair.lease.is_open()
    pair.lease.gate(True)
    assert connects(pair.b, VIP, PORT) == "open"
    assert connects(pair.a, VIP, PORT) == "open"
    assert pair.lease.is_open()
    pair.lease.gate(False)
    assert connects(pair.b, VIP, PORT) == "refused"


def test_closing_the_gate_resets_who_waits_for_an_answer(pair: Pair) -> None:
    pair.lease.refresh(10)
    pair.lease.gate(True)
    with pair.b:
        waiting = [socket.create_connection((VIP, PORT)) for _ in range(3)]
        elsewhere = socket.create_connection(("10.0.0.1", PORT))
    at_server = [pair.listener.accept()[0] for _ in range(4)]
    started = time.monotonic()
    with pair.a:
        assert pair.lease.gate(False) == 3
    for s in waiting:
        s.settimeout(1)
        with pytest.raises(ConnectionResetError):
            s.recv(1)
    assert time.monotonic() - started < 1.0
    elsewhere.settimeout(0.05)
    with pytest.raises(TimeoutError):
        elsewhere.recv(1)
    for s in (*waiting, *at_server, elsewhere):
        s.close()


def test_closing_the_gate_resets_who_waits_also_when_the_lease_is_gone(pair: Pair) -> None:
    """After a pause. The client's query is confirmed by this server's kernel: it would wait for the answer for ever."""
    pair.lease.refresh(10)
    pair.lease.gate(True)
    with pair.b:
        waiting = socket.create_connection((VIP, PORT))
    at_server, _ = pair.listener.accept()
    waiting.send(b"insert")
    assert at_server.recv(10) == b"insert"
    pair.lease.expire()
    at_server.send(b"done")  # what isn't a reset stays here
    with pair.a:
        assert pair.lease.gate(False) == 1
    waiting.settimeout(1)
    with pytest.raises(ConnectionResetError):
        waiting.recv(10)
    waiting.close()
    at_server.close()


def test_who_waits_is_reset_even_when_the_address_is_gone(pair: Pair) -> None:
    """A longer pause: its lifetime has ended too. No trace of it stays, and nothing answers meanwhile."""
    with pair.a, contextlib.closing(AddressSocket()) as addresses:
        vip = ServiceAddress([(VIP, "lan0")], 10, addresses, pair.lease, Announcer, boottime, lambda name, text: None)
        vip.take(boottime())
        vip.gate(True)
        with pair.b:
            waiting = socket.create_connection((VIP, PORT))
        at_server, _ = pair.listener.accept()
        addresses.remove(VIP)
        vip.gate(False)
        assert VIP not in [each.address for each in addresses.addresses()]
    waiting.settimeout(1)
    with pytest.raises(ConnectionResetError):
        waiting.recv(10)
    waiting.close()
    at_server.close()


@pytest.mark.parametrize("address", ["gone", "without its lease"])
def test_who_waits_is_told_before_its_server_process_is_ended(pair: Pair, address: str) -> None:
    """Ended first, by whoever runs first after a pause, it takes the connection along, and nobody could tell the client."""
    pair.lease.refresh(1000)
    pair.lease.gate(True)
    with pair.a, contextlib.closing(AddressSocket()) as addresses:
        addresses.remove(VIP)
        addresses.add(VIP, "lan0", lifetime=60)
        with pair.b:
            waiting = socket.create_connection((VIP, PORT))
            elsewhere = socket.create_connection(("10.0.0.1", PORT))
        at_server = [pair.listener.accept()[0] for _ in range(2)]
        waiting.send(b"insert")
        pair.lease.expire()
        if address == "gone":
            addresses.remove(VIP)  # and what is unread when the process ends is answered by a reset, which has no way out
        else:
            assert at_server[0].recv(10)  # its end is told by a FIN, which doesn't pass
        assert reset_stranded(PORT) == 1
        assert (VIP in [each.address for each in addresses.addresses()]) == (address != "gone")
        at_server[0].close()
        addresses.remove(VIP)
    waiting.settimeout(1)
    with pytest.raises(ConnectionResetError):
        waiting.recv(10)
    elsewhere.settimeout(0.05)
    with pytest.raises(TimeoutError):
        elsewhere.recv(1)
    for s in (waiting, elsewhere, at_server[1]):
        s.close()


def test_an_address_that_is_lent_to_lo_answers_nobody_without_heartbeats_rules(pair: Pair) -> None:
    """Whoever resets the clients of an address that is gone can't know whether heartbeat, or somebody, removed its tables."""
    with pair.a, contextlib.closing(AddressSocket()) as addresses:
        addresses.remove(VIP)
        addresses.add(VIP, "lan0", lifetime=60)
        pair.lease.remove()
        with pair.b:
            waiting = socket.create_connection((VIP, PORT))
        at_server, _ = pair.listener.accept()
        addresses.remove(VIP)
        with muted([VIP]), lent(addresses, [VIP]):
            assert asks_arp(pair.b, VIP) is None
            assert connects(pair.b, VIP, PORT, seconds=0.2) == "silent"
        assert reset_stranded(PORT) == 1
        assert "lent" not in pair.a.run(["nft", "list", "ruleset"])
    waiting.settimeout(1)
    with pytest.raises(ConnectionResetError):
        waiting.recv(10)
    waiting.close()
    at_server.close()


def test_an_established_connection_gets_nothing_through_a_closed_gate(pair: Pair) -> None:
    """Also without SOCK_DESTROY: the next packet of the client is answered by a reset."""
    pair.lease.refresh(10)
    pair.lease.gate(True)
    with pair.b:
        client = socket.create_connection((VIP, PORT))
    server, _ = pair.listener.accept()
    pair.a.run(["nft", "flush", "set", "inet", "ha_manager", "open"])
    client.send(b"insert")
    client.settimeout(1)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.recv(1)
    client.close()
    server.close()


def test_the_block_refuses_all_but_the_peer_and_this_server(pair: Pair) -> None:
    pair.lease.block(True)
    assert connects(pair.b, "10.0.0.1", PORT, source="10.0.0.3") == "refused"
    assert connects(pair.b, "10.0.0.1", PORT, source="10.0.0.2") == "open"
    assert connects(pair.a, "127.0.0.1", PORT) == "open"
    assert connects(pair.a, "10.0.0.1", PORT) == "open"
    with pair.a, socket.create_server(("", PORT + 1)):
        assert connects(pair.b, "10.0.0.1", PORT + 1, source="10.0.0.3") == "open"
    pair.lease.refresh(10)
    pair.lease.gate(True)
    assert connects(pair.b, VIP, PORT, source="10.0.0.3") == "refused"
    pair.lease.block(False)
    assert connects(pair.b, VIP, PORT, source="10.0.0.3") == "open"


def test_the_block_is_lifted_where_nobody_has_a_lease_any_more(pair: Pair) -> None:
    pair.lease.block(True)
    with pair.a:
        lift_block()
        assert not pair.lease.is_blocked()
        pair.lease.remove()
        lift_block()


def test_the_block_holds_for_ipv6_too(pair: Pair) -> None:
    with pair.a:
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6)
    pair.a.ip("address add fd00::1/64 dev lan0 nodad")
    pair.b.ip("address add fd00::2/64 dev lan0 nodad")
    assert _connects6(pair.b) == "open"
    pair.lease.block(True)
    assert _connects6(pair.b) == "refused"
    assert _connects6(pair.a) == "open"
    listener.close()


def _connects6(ns: Namespace) -> str:
    with ns:
        s = socket.socket(socket.AF_INET6)
    with s:
        s.settimeout(4)
        try:
            s.connect(("fd00::1", PORT))
        except ConnectionRefusedError:
            return "refused"
        return "open"


def test_this_server_reaches_the_vip_that_the_peer_holds(pair: Pair) -> None:
    """The passive, its lease lapsed: its traffic to the VIP, and the peer's answers and announcements, pass."""
    with pair.a, Netlink() as netlink:
        assert netlink.remove(VIP)
    with pair.b, Netlink() as netlink, socket.create_server(("", PORT)) as listener:
        netlink.add(VIP, "lan0")
        assert pair.pings(from_a=True)
        assert connects(pair.a, VIP, PORT) == "open"
        pair.lease.block(True)
        assert connects(pair.a, VIP, PORT) == "open"
        listener.close()
    pair.b.ip("link set lan0 address 02:00:00:00:00:99")
    with pair.b:
        Announcer("lan0").announce(VIP)
    assert "02:00:00:00:00:99" in pair.a.run(["ip", "neighbour", "show", VIP])


def test_with_the_address_still_configured_its_own_packets_stay_inside(pair: Pair) -> None:
    with pair.a:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pair.b:
        r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    r.bind(("10.0.0.2", 9))
    r.settimeout(0.1)
    s.bind((VIP, 0))
    with pytest.raises((PermissionError, TimeoutError)):
        s.sendto(b"stale", ("10.0.0.2", 9))
        r.recv(10)
    pair.lease.refresh(1)
    s.sendto(b"fresh", ("10.0.0.2", 9))
    assert r.recv(10) == b"fresh"
    s.close()
    r.close()


def test_forwarded_traffic_of_others_is_untouched(pair: Pair) -> None:
    """A as a router: packets from and to the VIP that the peer holds pass through it."""
    pair.a.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    with pair.a, Netlink() as netlink:
        netlink.remove(VIP)
    c = Namespace()
    pair.a.ip(
        f"link add lan1 index 71 type veth peer name lan0 netns {c.path}",
        "address add 10.0.1.1/24 dev lan1",
        "link set lan1 up",
    )
    c.ip("address add 10.0.1.2/24 dev lan0", "link set lan0 up", "route add default via 10.0.1.1")
    settle(pair.a, c)
    pair.b.ip("route add 10.0.1.0/24 via 10.0.0.1", f"address add {VIP}/32 dev lan0")
    pair.lease.block(True)
    with pair.b, socket.create_server(("", PORT)):
        assert connects(c, VIP, PORT) == "open"
    c.close()


def test_a_flush_is_noticed_and_repaired_with_everything_that_held(pair: Pair) -> None:
    pair.lease.refresh(10)
    pair.lease.gate(True)
    pair.lease.block(True)
    assert pair.lease.check() == []
    pair.a.run(["nft", "flush", "ruleset"])
    assert pair.lease.check() == [
        "table inet ha_manager was removed by somebody",
        "table arp ha_manager was removed by somebody",
    ]
    assert pair.lease.refresh(10) is False
    assert pair.lease.check() == []
    assert pair.lease.is_open()
    assert pair.lease.is_blocked()
    assert connects(pair.b, VIP, PORT) == "open"
    assert connects(pair.b, VIP, PORT, source="10.0.0.3") == "refused"


@pytest.mark.parametrize(
    "harm",
    [
        "flush chain inet ha_manager input",
        "flush chain arp ha_manager output",
        "add table inet ha_manager { flags dormant ; }",
        "insert rule inet ha_manager input accept",
    ],
)
def test_any_change_of_the_rules_is_noticed_and_setup_repairs_it(pair: Pair, harm: str) -> None:
    pair.lease.refresh(10)
    pair.a.run(["nft", harm])
    assert pair.lease.check() != []
    pair.lease.setup()
    assert pair.lease.check() == []
    assert pair.lease.remaining() > 9
    pair.lease.expire()
    assert asks_arp(pair.b, VIP) is None
    assert not pair.pings()


def test_another_process_takes_over_lease_and_gate_as_they_are(pair: Pair) -> None:
    pair.lease.refresh(10)
    pair.lease.gate(True)
    with pair.a:
        restarted = VipLease([VIP], PORT, ["10.0.0.2"])
    assert 9.5 < restarted.remaining() <= 10
    restarted.setup()
    assert 9.5 < restarted.remaining() <= 10
    assert restarted.is_open()
    assert pair.pings()
    restarted.expire()
    assert restarted.remaining() == 0


def test_remove_takes_only_what_is_ours(pair: Pair) -> None:
    with pair.a:
        nft = Nftables()
    nft.run("table inet filter { chain c { type filter hook input priority 0 ; policy accept ; } ; }")
    pair.lease.remove()
    assert nft.run("list tables") == "table inet filter\n"
    pair.lease.remove()
    nft.close()


def test_a_refresh_does_not_hold_the_loop_up(pair: Pair) -> None:
    took = []
    for _ in range(500):
        started = time.perf_counter()
        pair.lease.refresh(0.55)
        took.append(time.perf_counter() - started)
    took.sort()
    assert took[250] < 0.02, f"p50 {took[250] * 1000:.2f} ms, p99 {took[495] * 1000:.2f} ms"
