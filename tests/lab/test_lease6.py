"""Lease, gate and announcements of IPv6 addresses with real packets: A has fd00::9 besides 10.0.0.9, B is its neighbour."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from namespaces import Namespace, asks_arp, cable

from heartbeat.vip import ServiceAddress
from runtime.arp import Announcer
from runtime.clock import boottime
from runtime.lease import VipLease
from runtime.rtnetlink import AddressSocket

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]
VIP, VIP4, PORT = "fd00::9", "10.0.0.9", 5432


@dataclass
class Pair:
    a: Namespace
    b: Namespace
    lease: VipLease
    addresses: AddressSocket
    listener: socket.socket

    def pings(self, target: str = VIP) -> bool:
        command = ["ip", "-6", "neighbour", "flush", "dev", "lan0"]
        self.b.run(command)
        with self.b:
            ping = ["ping", "-6", "-n", "-c1", "-W1", target]
            return subprocess.run(ping, capture_output=True).returncode == 0

    def neighbour(self) -> str:
        """What B's neighbour table says of the VIP."""
        return self.b.run(["ip", "-6", "neighbour", "show", VIP])


@pytest.fixture
def pair() -> Iterator[Pair]:
    with cable() as (a, b), contextlib.ExitStack() as stack:
        a.ip("address add fd00::1/64 dev lan0 nodad")
        b.ip("address add fd00::2/64 dev lan0 nodad")
        with a:
            lease = VipLease([VIP4, VIP], PORT, ["10.0.0.2", "fd00::2"])
            lease.setup()
            addresses = stack.enter_context(contextlib.closing(AddressSocket()))
            for each in (VIP, VIP4):
                addresses.add(each, "lan0", lifetime=60)
            listener = stack.enter_context(socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True))
        yield Pair(a, b, lease, addresses, listener)


def connects(ns: Namespace, address: str, source: str = "") -> str:
    """ "open", "refused" or "silent"."""
    with ns:
        s = socket.socket(socket.AF_INET6)
    with s:
        s.settimeout(5)
        s.bind((source, 0))
        try:
            s.connect((address, PORT))
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "silent"
        return "open"


def test_without_a_lease_nothing_answers_for_either_address(pair: Pair) -> None:
    assert not pair.pings() and asks_arp(pair.b, VIP4) is None
    assert "lladdr" not in pair.neighbour()
    assert pair.pings("fd00::1")
    pair.lease.refresh(60)
    assert pair.pings() and asks_arp(pair.b, VIP4) is not None
    pair.lease.expire()
    assert not pair.pings() and asks_arp(pair.b, VIP4) is None


def test_an_unsolicited_question_to_the_address_itself_is_not_answered_either(pair: Pair) -> None:
    """Whoever still has it in its table checks by asking it directly."""
    pair.lease.refresh(60)
    assert pair.pings()
    mac = pair.neighbour().split("lladdr ")[1].split()[0]
    pair.lease.expire()
    pair.b.ip(f"neighbour replace {VIP} dev lan0 lladdr {mac} nud probe")
    end = time.monotonic() + 10
    while "FAILED" not in pair.neighbour():
        assert time.monotonic() < end and "REACHABLE" not in pair.neighbour(), pair.neighbour()
        time.sleep(0.05)


def test_a_stopped_owner_lets_go_of_both_families(pair: Pair) -> None:
    owner = (
        "from runtime.lease import VipLease\nimport time\n"
        f"l = VipLease([{VIP4!r}, {VIP!r}], {PORT}, ['10.0.0.2'])\nl.setup()\n"
        "while True:\n l.refresh(.3)\n print(flush=True)\n time.sleep(.05)\n"
    )
    with pair.a:
        p = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE)
    assert p.stdout is not None
    try:
        p.stdout.readline()
        assert pair.pings() and asks_arp(pair.b, VIP4) is not None
        os.kill(p.pid, signal.SIGSTOP)
        with lease_in(pair.a) as watching:
            end = time.monotonic() + 10
            while watching.remaining() > 0:
                assert time.monotonic() < end
        assert not pair.pings() and asks_arp(pair.b, VIP4) is None
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


@contextlib.contextmanager
def lease_in(ns: Namespace) -> Iterator[VipLease]:
    with ns:
        yield VipLease([VIP4, VIP], PORT, ["10.0.0.2"])


def test_gate_and_block_hold_for_ipv6(pair: Pair) -> None:
    pair.lease.refresh(60)
    assert connects(pair.b, VIP) == "refused" and connects(pair.b, "fd00::1") == "open"
    pair.lease.gate(True)
    assert connects(pair.b, VIP) == "open"
    pair.lease.block(True)
    pair.b.ip("address add fd00::3/64 dev lan0 nodad")
    assert connects(pair.b, "fd00::1", source="fd00::3") == "refused"
    assert connects(pair.b, "fd00::1", source="fd00::2") == "open"


def test_closing_the_gate_resets_who_waits_on_either_address(pair: Pair) -> None:
    pair.lease.refresh(60)
    pair.lease.gate(True)
    with pair.b:
        waiting = [socket.create_connection((VIP, PORT)), socket.create_connection((VIP4, PORT))]
    at_server = [pair.listener.accept()[0] for _ in waiting]
    with pair.a:
        assert pair.lease.gate(False) == 2
    for s in waiting:
        s.settimeout(5)
        with pytest.raises(ConnectionResetError):
            s.recv(1)
    for s in (*waiting, *at_server):
        s.close()


def test_who_waits_is_reset_even_when_the_addresses_are_gone(pair: Pair) -> None:
    with pair.a:
        vips = [(VIP4, "lan0"), (VIP, "lan0")]
        vip = ServiceAddress(vips, 60, pair.addresses, pair.lease, Announcer, boottime, lambda name, text: None)
        vip.take(boottime())
        vip.gate(True)
        with pair.b:
            waiting = [socket.create_connection((VIP, PORT)), socket.create_connection((VIP4, PORT))]
        at_server = [pair.listener.accept()[0] for _ in waiting]
        for each in (VIP, VIP4):
            pair.addresses.remove(each)
        vip.gate(False)
        assert not {VIP, VIP4} & {each.address for each in pair.addresses.addresses()}
    for s in waiting:
        s.settimeout(5)
        with pytest.raises(ConnectionResetError):
            s.recv(1)
    for s in (*waiting, *at_server):
        s.close()


def test_an_announcement_moves_the_neighbours_entry(pair: Pair) -> None:
    """Without being asked, and although the entry was confirmed a moment ago (the override flag)."""
    pair.lease.refresh(60)
    assert pair.pings()
    pair.b.ip(f"neighbour replace {VIP} dev lan0 lladdr 02:00:00:00:00:99 nud reachable")
    pair.b.ip(f"neighbour replace {VIP4} dev lan0 lladdr 02:00:00:00:00:99 nud reachable")
    with pair.b:
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    with pair.a:
        announcer = Announcer("lan0")
        announcer.announce(VIP, 1)
        announcer.announce(VIP4, 1)
        announcer.close()
    assert select.select([heard], [], [], 5)[0]
    heard.close()
    mac = pair.a.run(["ip", "-br", "link", "show", "lan0"]).split()[2]
    end = time.monotonic() + 5
    while mac not in pair.neighbour() or mac not in pair.b.run(["ip", "neighbour", "show", VIP4]):
        assert time.monotonic() < end, pair.neighbour()
        time.sleep(0.01)


def test_an_ipv6_address_answers_at_once_and_is_no_source_of_other_traffic(pair: Pair) -> None:
    pair.lease.refresh(60)
    with pair.a:
        pair.addresses.remove(VIP)
        pair.addresses.add(VIP, "lan0", lifetime=60)
    shown = pair.a.run(["ip", "-6", "address", "show", "dev", "lan0", "to", VIP])
    assert "tentative" not in shown
    assert pair.pings()
    assert "src fd00::1" in pair.a.run(["ip", "-6", "route", "get", "fd00::2"])


def test_a_guard_of_one_family_is_mended_to_two(pair: Pair) -> None:
    """A configuration with more addresses, or an update, finds the tables of its predecessor."""
    with pair.a:
        old = VipLease([VIP4], PORT, ["10.0.0.2"])
        old.setup()
        old.refresh(60)
        new = VipLease([VIP4, VIP], PORT, ["10.0.0.2"])
        assert new.remaining() == 0.0
        new.setup()
        assert new.check() == []
        new.refresh(60)
        assert new.remaining() > 50
    assert pair.pings()
