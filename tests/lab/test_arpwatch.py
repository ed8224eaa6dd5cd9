"""Asking a real neighbour who has an address, as nobody."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from namespaces import Namespace, cable, lay

from runtime.address import NetworkError, mac
from runtime.arp import Announcer
from runtime.arpwatch import ANNOUNCEMENT, ANSWER, ArpWatch, Claim

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]
VIP6 = "fd00:10::9"


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with cable() as (a, b):
        for ns, own in ((a, "fd00:10::1"), (b, "fd00:10::2")):
            ns.ip(f"address add {own}/64 dev lan0 nodad")
        b.ip(f"address add {VIP6}/128 dev lan0 nodad")
        yield a, b


def heard(watch: ArpWatch, seconds: float = 2.0) -> list[Claim]:
    select.select([watch], [], [], seconds)
    return watch.drain()


def asked(watch: ArpWatch, address: str, tries: int = 20) -> list[Claim]:
    """The first answer: IPv6 on a new interface may not be ready for the first question."""
    for _ in range(tries):
        watch.probe(address)
        if claims := heard(watch, 0.2):
            return claims
    return []


def test_a_neighbour_answers_and_no_table_changes(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with b:
        theirs = mac("lan0")
    with a:
        watch = ArpWatch("lan0", ["10.0.0.3", VIP6])
        watch.probe("10.0.0.3")
        assert heard(watch) == [Claim("10.0.0.3", theirs, ANSWER)]
        assert [(claim.address, claim.mac) for claim in asked(watch, VIP6)] == [(VIP6, theirs)]
        watch.probe("10.0.0.77")
        assert heard(watch, 0.1) == []
    assert "10.0.0.1" not in b.run(["ip", "neigh"]) and "10.0.0.3" not in a.run(["ip", "neigh"])
    watch.close()


def test_announcements_are_heard_and_other_addresses_are_not(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        watch = ArpWatch("lan0", ["10.0.0.3"])
    with b:
        announcer, theirs = Announcer("lan0"), mac("lan0")
        announcer.announce("10.0.0.2", 1)
        announcer.announce("10.0.0.3", 1)
    assert heard(watch) == [Claim("10.0.0.3", theirs, ANNOUNCEMENT)] * 2  # as request and as reply
    announcer.close()
    watch.close()


def test_an_interface_that_was_made_again_is_heard_again(ends: tuple[Namespace, Namespace]) -> None:
    a, b = ends
    with a:
        watch = ArpWatch("lan0", ["10.0.0.3"])
        a.ip("link del lan0")
        with pytest.raises(NetworkError, match=r"cannot ask for 10\.0\.0\.3 on lan0"):
            watch.probe("10.0.0.3")
        lay(a, b)
        watch.probe("10.0.0.3")
        assert [claim.address for claim in heard(watch)] == ["10.0.0.3"]
    watch.close()
