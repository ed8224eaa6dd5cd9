"""Our one message to nf_tables against what nft itself shows, in a network namespace of its own."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from namespaces import Namespace

from runtime.nft import NftError
from runtime.nftset import Element, TimedElements

pytestmark = pytest.mark.lab
_SETS = """
table inet t { set four { type ipv4_addr; flags timeout; }; set six { type ipv6_addr; flags timeout; }; }
table arp t { set four { type ipv4_addr; flags timeout; }; }
"""
ELEMENTS = [
    Element("inet t", "four", bytes([10, 0, 0, 9])),
    Element("inet t", "six", bytes.fromhex("fd00" + "0" * 26 + "09")),
    Element("arp t", "four", bytes([10, 0, 0, 9])),
]


@pytest.fixture
def ns() -> Iterator[Namespace]:
    ns = Namespace()
    try:
        ns.run(["nft", "-f", "-"], _SETS)
        yield ns
    finally:
        ns.close()


def _listed(ns: Namespace) -> list[str]:
    return [line.strip() for line in ns.run(["nft", "list", "ruleset"]).splitlines() if "elements" in line]


def test_every_element_gets_the_timeout_also_a_shorter_one(ns: Namespace) -> None:
    with ns:
        timed = TimedElements(ELEMENTS)
        timed.refresh(20)
        time.sleep(0.05)
        for seconds in (50, 20):  # what has lapsed is there again, what is there gets another time
            timed.refresh(seconds * 1000)
            listed = _listed(ns)
            assert len(listed) == 3 and all(re.search(f"expires ({seconds}|{seconds - 1})s", line) for line in listed), listed
        time.sleep(1.2)
        timed.refresh(20_000)
    listed = _listed(ns)
    assert all("expires 19s" in line or "expires 20s" in line for line in listed), listed
    assert len(listed) == 3 and all("timeout 20s expires" in line for line in listed), listed
    assert sum("10.0.0.9" in line for line in listed) == 2 and sum("fd00::9" in line for line in listed) == 1
    timed.close()


def test_what_the_kernel_refuses_changes_nothing_and_the_next_is_its_own_answer(ns: Namespace) -> None:
    with ns:
        timed = TimedElements([*ELEMENTS, Element("inet t", "absent", bytes(4))])
        for _ in range(3):
            with pytest.raises(NftError, match="No such file or directory"):
                timed.refresh(20_000)
        assert _listed(ns) == []
        subprocess.run(["nft", "add set inet t absent { type ipv4_addr; flags timeout; }"], check=True)
        timed.refresh(20_000)
    assert len(_listed(ns)) == 4
    timed.close()
