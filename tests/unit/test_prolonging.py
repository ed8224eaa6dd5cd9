"""Addresses are prolonged beside the loop: nobody waits for a kernel that is busy with somebody else's interfaces."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import pytest

from heartbeat.vip import ServiceAddress
from runtime.address import NetworkError
from runtime.prolonging import Prolonger
from tests.lab.postgres_pair import until
from tests.unit.test_vip import Kernel

VIP, DEVICE = "10.0.0.9", "eth0"


class Busy(Kernel):
    """Takes its time with each address: until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.came: SimpleQueue[str] = SimpleQueue()
        self.let = threading.Semaphore(0)

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None:
        self.came.put(address)
        assert self.let.acquire(timeout=10.0), "whoever prolongs waits for it"
        super().add(address, interface, lifetime=lifetime)

    def forget(self) -> None:
        """Nothing is remembered."""


@pytest.fixture
def busy() -> Busy:
    return Busy()


@pytest.fixture
def prolonger(busy: Busy) -> Prolonger:
    made = Prolonger(lambda: busy)
    made.start()
    return made


def test_whoever_holds_an_address_does_not_wait_for_the_kernel(busy: Busy, prolonger: Prolonger) -> None:
    done, troubles = Kernel(), dict[str, str]()
    vip = ServiceAddress([(VIP, DEVICE)], 0.15, done, done, lambda _: done, lambda: 10.0, troubles.__setitem__, None, prolonger)
    vip.take(10.0)
    done.done.clear()
    for now in (10.1, 10.3, 10.6, 10.9):
        vip.refresh(now)
    assert done.done == [("lease", 0.15)] * 4 and busy.done == [], "the lease goes on meanwhile"
    assert busy.came.get(timeout=10.0) == VIP and busy.came.empty(), "asked once"
    busy.let.release()
    until(lambda: busy.done == [("add", VIP, DEVICE, 0.15)], 10.0)
    vip.refresh(11.2)
    assert busy.came.get(timeout=10.0) == VIP, "and again"
    busy.let.release()


def test_what_the_kernel_said_is_told_the_next_time(busy: Busy, prolonger: Prolonger) -> None:
    busy.refuses.add("add")
    prolonger.prolong(VIP, DEVICE, 0.55)
    busy.let.release()
    said: list[Any] = []

    def refused() -> bool:
        try:
            prolonger.prolong(VIP, DEVICE, 0.55)
        except NetworkError as wrong:
            said.append(str(wrong))
        return bool(said)

    until(refused, 10.0)
    assert said == ["cannot add"]
    busy.refuses.clear()
    busy.let.release()
    until(lambda: busy.done == [("add", VIP, DEVICE, 0.55)], 10.0, "it is tried again")


def test_what_is_let_go_while_it_is_prolonged_does_not_stay(busy: Busy, prolonger: Prolonger) -> None:
    prolonger.prolong(VIP, DEVICE, 0.55)
    busy.came.get(timeout=10.0)
    prolonger.release(VIP)
    busy.let.release()
    until(lambda: busy.done == [("add", VIP, DEVICE, 0.55), ("remove", VIP, DEVICE)], 10.0)
