"""Virtual addresses, announcements and link events, with real interfaces and packets."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest
from namespaces import Namespace, asks_arp, cable, lay

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
