"""The virtual addresses in the kernel: leased, routed where nothing else is, announced, and gone."""

from __future__ import annotations

from director.settings import VirtualIp
from director.vips import ANNOUNCE_AT, VirtualAddresses, lease_of
from runtime.address import Assigned, NetworkError

OWN = Assigned("eth0", "10.1.1.1", 24)
ONE, OTHER, SIX = VirtualIp("10.1.1.250", 24, "eth0"), VirtualIp("10.9.9.9", 24, "eth1"), VirtualIp("fd00:1::250", 64, "eth0")


class Kernel:
    """Addresses of interfaces, and what was asked for."""

    def __init__(self, *there: Assigned) -> None:
        self.there = list(there)
        self.routes: dict[str, bool] = {}
        self.refused: set[str] = set()

    def add(
        self, address: str, interface: str, *, lifetime: float | None = None, prefix: int | None = None, route: bool = False
    ) -> None:
        if address in self.refused:
            raise NetworkError(f"cannot add {address}: No such device")
        assert lifetime is not None and prefix is not None
        self.remove(address)
        self.there.append(Assigned(interface, address, prefix, int(lifetime)))
        self.routes[address] = route

    def remove(self, address: str, interface: str | None = None) -> bool:
        before = len(self.there)
        self.there = [each for each in self.there if each.address != address]
        return len(self.there) < before

    def delete(self, assigned: Assigned) -> bool:
        return self.remove(assigned.address)

    def addresses(self) -> list[Assigned]:
        return list(self.there)

    @property
    def virtual(self) -> list[str]:
        return sorted(each.address for each in self.there if each.lifetime is not None)


class Segment:
    """Who was told what."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.down = False

    def announce(self, address: str, burst: int = 3) -> None:
        if self.down:
            raise NetworkError("cannot announce: Network is down")
        self.told.append(address)

    def close(self) -> None: ...


class Setup:
    def __init__(self, *vips: VirtualIp, there: tuple[Assigned, ...] = (OWN,)) -> None:
        self.kernel, self.segment = Kernel(*there), Segment()
        self.troubles: dict[str, str] = {}
        self.vips = VirtualAddresses(vips, 1.0, self.kernel, lambda _: self.segment, self.troubles.__setitem__)

    @property
    def standing(self) -> dict[str, str]:
        return {name: text for name, text in self.troubles.items() if text}


def test_taken_leased_refreshed_and_dropped() -> None:
    setup = Setup(ONE, SIX)
    setup.vips.take(10.0)
    assert setup.kernel.virtual == ["10.1.1.250", "fd00:1::250"]
    assert setup.segment.told == ["10.1.1.250", "fd00:1::250"]
    setup.kernel.there = [OWN]  # the kernel, or somebody, took them away
    assert setup.vips.due == 10.0 + ANNOUNCE_AT[1]
    setup.vips.tick(10.34)
    assert setup.kernel.virtual == ["10.1.1.250", "fd00:1::250"]
    setup.vips.drop()
    assert setup.kernel.there == [OWN] and not setup.vips.held
    setup.vips.tick(99.0)
    assert setup.kernel.there == [OWN]


def test_one_that_somebody_removed_is_put_back_at_once_and_told_until_it_stays() -> None:
    setup = Setup(ONE, SIX)
    setup.vips.addresses_removed(9.0)
    assert setup.kernel.virtual == [], "none is held"
    setup.vips.take(10.0)
    setup.vips.addresses_removed(10.1)  # of something else
    assert setup.standing == {} and len(setup.segment.told) == 2
    setup.kernel.remove(ONE.address)
    setup.vips.addresses_removed(10.2)
    assert setup.kernel.virtual == ["10.1.1.250", "fd00:1::250"] and setup.segment.told[2:] == ["10.1.1.250", "fd00:1::250"]
    said = "virtual address 10.1.1.250 was removed from eth0, and not by this director; put back"
    assert setup.standing == {"removed-10.1.1.250": said}
    setup.vips.tick(10.6)
    assert setup.standing == {}
    setup.kernel.remove(ONE.address)
    setup.vips.addresses_removed(12.0)
    assert "its lifetime ended while this process did not run" in setup.standing["removed-10.1.1.250"]
    setup.kernel.refused = {ONE.address}
    setup.kernel.remove(ONE.address)
    setup.vips.addresses_removed(12.1)
    assert list(setup.standing) == ["vip-10.1.1.250"], "with its interface: that is what is told"


def test_a_network_that_nothing_else_leads_to_gets_a_route() -> None:
    setup = Setup(ONE, OTHER, SIX)
    setup.vips.take(10.0)
    assert setup.kernel.routes == {"10.1.1.250": False, "10.9.9.9": True, "fd00:1::250": True}
    setup.vips.take(11.0)  # its own address is no reason to leave the route out
    assert setup.kernel.routes["10.9.9.9"]


def test_announced_repeatedly_and_once_after_a_pause() -> None:
    setup = Setup(ONE)
    setup.vips.take(10.0)
    for delay in ANNOUNCE_AT[1:3]:
        setup.vips.tick(10.0 + delay)
    assert setup.segment.told == [ONE.address] * 3
    setup.vips.tick(20.0)
    assert len(setup.segment.told) == 4


def test_one_that_is_refused_keeps_no_other_from_being_held() -> None:
    setup = Setup(ONE, OTHER)
    setup.kernel.refused = {OTHER.address}
    setup.vips.take(10.0)
    assert setup.vips.holds(ONE) and not setup.vips.holds(OTHER)
    assert list(setup.standing) == ["vip-10.9.9.9"]
    setup.kernel.refused = set()
    setup.vips.refresh(10.4)
    assert setup.vips.holds(OTHER) and not setup.standing
    assert setup.segment.told.count(OTHER.address) == 1


def test_what_cannot_be_announced_is_said_and_tried_again() -> None:
    setup = Setup(ONE)
    setup.segment.down = True
    setup.vips.take(10.0)
    assert list(setup.standing) == ["announcement-10.1.1.250"]
    setup.segment.down = False
    setup.vips.tick(10.06)
    assert not setup.standing


def test_an_owner_keeps_its_own_address() -> None:
    own = Assigned("eth0", ONE.address, 24)
    setup = Setup(ONE, there=(own,))
    setup.vips.take(10.0)
    setup.vips.announce(10.0)
    assert setup.vips.holds(ONE) and setup.segment.told == [ONE.address]
    setup.vips.drop()
    setup.vips.clear()
    assert setup.kernel.there == [own]


def test_what_was_wrong_is_over_when_they_are_dropped_under_whatever_name_the_interface_has() -> None:
    setup = Setup(ONE, OTHER)
    setup.kernel.refused = {OTHER.address}
    setup.vips.take(10.0)
    setup.kernel.remove(ONE.address)
    setup.vips.addresses_removed(10.1)
    assert set(setup.standing) == {"vip-10.9.9.9", "removed-10.1.1.250"}
    setup.kernel.there = [OWN, Assigned("renamed", ONE.address, 24, 1), Assigned("eth1", OTHER.address, 24)]
    setup.vips.drop()
    assert setup.kernel.there == [OWN, Assigned("eth1", OTHER.address, 24)] and setup.standing == {}


def test_other_addresses_leave_those_that_stay_alone() -> None:
    setup = Setup(ONE, OTHER)
    setup.vips.take(10.0)
    setup.segment.told.clear()
    setup.vips.change((ONE, SIX), 11.0)
    assert setup.kernel.virtual == ["10.1.1.250", "fd00:1::250"]
    idle = Setup(ONE)
    idle.vips.change((SIX,), 11.0)
    assert idle.kernel.virtual == []


def test_what_a_killed_predecessor_left_goes_at_the_start() -> None:
    setup = Setup(ONE, there=(OWN, Assigned("eth0", ONE.address, 24, 1), Assigned("eth0", "10.1.1.7", 24, 300)))
    setup.vips.clear()
    assert [each.address for each in setup.kernel.there] == ["10.1.1.1", "10.1.1.7"]


def test_a_link_that_is_back_gets_the_addresses_and_hears_of_them() -> None:
    setup = Setup(ONE)
    setup.vips.take(10.0)
    setup.kernel.there = [OWN]
    setup.segment.told.clear()
    setup.vips.link_changed(12.0)
    assert setup.kernel.virtual == [ONE.address] and setup.segment.told == [ONE.address]


def test_the_lease_ends_before_a_successor_takes_over_where_whole_seconds_allow_it() -> None:
    assert [lease_of(advert) for advert in (0.02, 0.1, 0.5, 1.0, 5.0)] == [1.0, 1.0, 1.0, 3.0, 3.0]
