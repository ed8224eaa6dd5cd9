"""The virtual address: order of the steps, lateness, announcements, what the kernel refuses."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from heartbeat.vip import ANNOUNCE_AT, NoAddress, ServiceAddress
from runtime.address import Assigned, NetworkError


class Kernel:
    """Addresses, lease and announcer at once: writes down what it is asked to do, refuses what it is told to."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.refuses: set[str] = set()
        self.problems: list[str] = []
        self.assigned = [Assigned("eth0", "10.0.0.9", 32, 1)]

    def _do(self, name: str, *more: object) -> None:
        if name in self.refuses:
            raise NetworkError(f"cannot {name}")
        self.done.append((name, *more) if more else name)

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None:
        self._do("add", address, interface, lifetime)

    def remove(self, address: str, interface: str | None = None) -> bool:
        self._do("remove", address, *([interface] if interface else []))
        return True

    def addresses(self) -> list[Assigned]:
        return self.assigned

    def setup(self) -> None:
        self._do("setup")

    def check(self) -> list[str]:
        return self.problems

    def refresh(self, seconds: float) -> bool:
        self._do("lease", seconds)
        return True

    def expire(self) -> None:
        self._do("expire")

    def refuse(self, seconds: float) -> None:
        self._do("refuse", seconds)

    def gate(self, open: bool) -> int:
        self._do("gate", open)
        return 0

    def block(self, on: bool) -> None:
        self._do("block", on)

    def announce(self, address: str, burst: int = 3) -> None:
        self._do("announce") if address == "10.0.0.9" else self._do("announce", address)


class Scripts:
    """What moves with the addresses."""

    def __init__(self) -> None:
        self.stopped = True
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")


class Bench:
    def __init__(self, vips: Sequence[tuple[str, str]] = (("10.0.0.9", "eth0"),)) -> None:
        self.kernel = Kernel()
        self.now = 10.0
        self.troubles: dict[str, str] = {}
        k = self.kernel
        self.scripts = Scripts()
        told = self.troubles.__setitem__
        self.vip = ServiceAddress(vips, 0.55, k, k, lambda device: k, lambda: self.now, told, self.scripts)

    def done(self) -> list[Any]:
        done, self.kernel.done = self.kernel.done, []
        return done

    @property
    def trouble(self) -> dict[str, str]:
        return {name: text for name, text in self.troubles.items() if text}


def test_take_renew_drop() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    assert bench.vip.held and bench.done() == [("lease", 0.55), ("add", "10.0.0.9", "eth0", 0.55), "announce"]
    for bench.now in (10.1, 10.3, 10.35):
        bench.vip.refresh(bench.now)
    renewed = ("lease", 0.55)
    assert bench.done() == [renewed, ("add", "10.0.0.9", "eth0", 0.55), renewed, renewed, ("add", "10.0.0.9", "eth0", 0.55)]
    bench.vip.announce(10.35)
    bench.vip.refresh(10.4)
    assert bench.done() == ["announce", renewed, ("add", "10.0.0.9", "eth0", 0.55)]
    bench.vip.gate(True)
    assert bench.vip.open and bench.done() == [("gate", True)]
    bench.vip.drop()
    assert not bench.vip.held and not bench.vip.open
    assert bench.done() == [("gate", False), ("refuse", 5.0), ("remove", "10.0.0.9"), "expire"]
    assert bench.vip.due == inf


def test_who_still_sends_here_is_refused_until_the_address_is_back() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.vip.drop()
    bench.done()
    bench.now = 12.0
    bench.vip.take(12.0)
    assert bench.done()[0] == ("refuse", 0.0)
    bench.vip.drop()
    bench.done()
    bench.now = 18.0
    bench.vip.take(18.0)
    assert ("refuse", 0.0) not in bench.done(), "that is over by itself"


def test_an_order_that_comes_too_late_is_not_carried_out() -> None:
    """The process was stopped between the decision and its execution: the role may be the peer's by now."""
    bench = Bench()
    bench.now = 10.56
    bench.vip.take(10.0)
    bench.vip.refresh(10.0)
    assert bench.done() == [] and not bench.vip.held


def test_a_burst_and_repeats() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    times = []
    for step in range(600):
        now = 10.0 + step / 100
        bench.done()
        bench.vip.tick(now)
        times += [round(now - 10.0, 2)] * bench.done().count("announce")
    assert times == [0.03, 0.05, 0.08, 0.1, 1.0, 5.0] and len(ANNOUNCE_AT) == 7


def test_after_a_pause_one_announcement_will_do() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.done()
    bench.vip.tick(20.0)
    assert bench.done().count("announce") == 1


def test_nobody_announces_what_he_does_not_hold() -> None:
    bench = Bench()
    bench.vip.announce(10.0)
    assert bench.done() == []


def test_what_the_kernel_refuses_is_an_alarm_and_tried_again() -> None:
    bench = Bench()
    bench.kernel.refuses = {"add"}
    bench.vip.take(10.0)
    assert not bench.vip.held and "cannot add" in bench.trouble["vip-10.0.0.9"] and bench.scripts.told == []
    bench.done()
    bench.kernel.refuses = set()
    bench.vip.refresh(10.0)
    assert bench.vip.held and bench.trouble == {} and bench.done()[-1] == "announce"


def test_without_a_lease_no_address() -> None:
    bench = Bench()
    bench.kernel.refuses = {"lease"}
    bench.vip.take(10.0)
    assert bench.done() == [] and "lease" in bench.trouble


def test_dropping_goes_on_whatever_fails() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.done()
    bench.kernel.refuses = {"gate", "remove"}
    bench.vip.drop()
    assert bench.done() == [("refuse", 5.0), "expire"] and not bench.vip.held
    assert set(bench.trouble) == {"gate", "vip-10.0.0.9"}


def test_a_changed_guard_is_restored() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.kernel.problems = ["table inet ha_manager was removed by somebody"]
    bench.done()
    bench.vip.refresh(10.5)
    assert "setup" not in bench.done()
    bench.vip.refresh(11.0)
    assert "setup" in bench.done()


def test_setup_says_what_the_kernel_says() -> None:
    bench = Bench()
    bench.kernel.refuses = {"setup"}
    with pytest.raises(NetworkError):
        bench.vip.setup()


def test_no_address_wants_nothing() -> None:
    none = NoAddress()
    none.take(1.0)
    none.gate(True)
    assert not none.held and none.due == inf


def test_resets_can_leave_although_the_address_is_gone() -> None:
    """After a pause. The lease ends first: nobody is to be answered from lo."""
    bench = Bench()
    bench.kernel.assigned = []
    bench.vip.gate(False)
    lent = [("add", "10.0.0.9", "lo", 1), ("gate", False), ("remove", "10.0.0.9", "lo")]
    assert bench.done() == ["expire", *lent]
    bench.kernel.refuses = {"gate"}
    bench.vip.gate(False)
    assert bench.done()[-1] == ("remove", "10.0.0.9", "lo") and "gate" in bench.trouble


TWO = (("10.0.0.9", "eth0"), ("fd00::9", "eth1"))


def test_several_addresses_move_as_one() -> None:
    bench = Bench(TWO)
    bench.vip.take(10.0)
    added = [("add", "10.0.0.9", "eth0", 0.55), ("add", "fd00::9", "eth1", 0.55)]
    assert bench.done() == [("lease", 0.55), *added, "announce", ("announce", "fd00::9")] and bench.vip.held
    bench.kernel.assigned.append(Assigned("eth1", "fd00::9", 128, 1))
    bench.vip.drop()
    assert bench.done() == [("gate", False), ("refuse", 5.0), ("remove", "10.0.0.9"), ("remove", "fd00::9"), "expire"]
    assert not bench.vip.held


class OneRefused(Kernel):
    """A kernel without IPv6."""

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None:
        if ":" in address:
            raise NetworkError(f"cannot add {address}: Permission denied")
        super().add(address, interface, lifetime=lifetime)


def test_an_address_that_is_refused_does_not_take_the_others_with_it() -> None:
    bench, kernel = Bench(TWO), OneRefused()
    troubles: dict[str, str] = {}
    vip = ServiceAddress(TWO, 0.55, kernel, kernel, lambda device: kernel, lambda: 10.0, troubles.__setitem__, bench.scripts)
    vip.take(10.0)
    assert kernel.done == [("lease", 0.55), ("add", "10.0.0.9", "eth0", 0.55), "announce"]
    assert not vip.held and "fd00::9: Permission denied" in troubles["vip-fd00::9"] and bench.scripts.told == ["start"]
    kernel.done = []
    vip.drop()  # the one that never was can't be put on lo either: the gate closes all the same
    assert ("gate", False) in kernel.done


def test_what_moves_with_the_address_starts_after_it() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.vip.refresh(10.0)
    assert bench.scripts.told == ["start"]
    bench.vip.drop()
    assert bench.scripts.told == ["start", "stop"]


def test_the_network_loses_the_address_at_once_and_this_server_when_all_has_stopped() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.done()
    bench.scripts.stopped = False
    bench.vip.drop()
    assert bench.done() == [("gate", False), ("refuse", 5.0), "expire"] and bench.vip.due == 10.55
    bench.vip.tick(10.2)
    assert bench.done() == []
    bench.scripts.stopped = True
    assert bench.vip.due <= 10.2
    bench.vip.tick(10.2)
    assert bench.done() == [("remove", "10.0.0.9")] and bench.vip.due == inf


def test_a_stop_that_hangs_keeps_the_address_for_a_lease_time_only() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.scripts.stopped = False
    bench.vip.drop()
    bench.done()
    bench.vip.tick(10.54)
    assert bench.done() == []
    bench.vip.tick(10.55)
    assert bench.done() == [("remove", "10.0.0.9")]


def test_an_address_taken_again_is_not_removed_by_what_still_stops() -> None:
    bench = Bench()
    bench.vip.take(10.0)
    bench.scripts.stopped = False
    bench.vip.drop()
    bench.vip.take(10.0)
    bench.done()
    bench.scripts.stopped = True
    bench.vip.tick(10.9)
    assert ("remove", "10.0.0.9") not in bench.done() and bench.vip.held


def test_scripts_follow_the_role_of_a_pair_without_an_address() -> None:
    scripts = Scripts()
    none = NoAddress(scripts)
    none.take(1.0)
    none.drop()
    assert scripts.told == ["start", "stop"]
