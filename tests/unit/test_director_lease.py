"""The lease on answering: its rules, and that it has lapsed before anybody else is master."""

from __future__ import annotations

import pytest

from director.lease import AnswerLease, removal, rules, tables
from director.model import Instance
from director.vrrp import Router
from runtime.nft import Nftables, NftError


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("priority", [1, 100, 254])
@pytest.mark.parametrize("advert", [1.0, 40.0])
def test_it_has_lapsed_before_a_backup_is_master(version: int, priority: int, advert: float) -> None:
    instance = Instance(51, version, priority, advert, ("10.1.1.250",), "10.1.1.2")
    assert AnswerLease(advert).seconds < Router(instance, 0.0).master_down()


def test_it_names_the_addresses_and_no_table_but_its_own() -> None:
    text = rules(["10.1.1.250", "10.1.1.251"])
    assert tables(["10.1.1.250"]) == ["ip director_lease", "arp director_lease"] and "ip6" not in text
    drop = "meta protocol @held meta protocol != @answers drop"
    for line in (
        f"arp saddr ip != {{ 10.1.1.250, 10.1.1.251 }} arp daddr ip {{ 10.1.1.250, 10.1.1.251 }} {drop}",
        f"arp saddr ip {{ 10.1.1.250, 10.1.1.251 }} {drop}", f"ip daddr {{ 10.1.1.250, 10.1.1.251 }} {drop}",
        f"ip saddr {{ 10.1.1.250, 10.1.1.251 }} {drop}",
    ):  # fmt: skip
        assert line in text, line
    assert tables(["fd00::250", "10.1.1.250"]) == ["ip director_lease", "arp director_lease", "ip6 director_lease"]
    assert "ip6 daddr { fd00::250 }" in rules(["fd00::250"]) and "arp" not in rules(["fd00::250"])
    assert all(f"delete table {family} director_lease" in removal() for family in ("ip", "ip6", "arp"))


class Refusing(Nftables):
    def run(self, commands: str) -> str:
        raise NftError("Operation not supported")


def test_a_kernel_without_nftables_has_none_and_says_so() -> None:
    lease = AnswerLease(0.1, nft=Refusing)
    lease.guard(["10.1.1.250"])
    assert lease.problem == "Operation not supported"
    lease.renew(1.0)  # goes on
    lease.remove()


def test_an_owner_has_nothing_to_lease() -> None:
    lease = AnswerLease(0.1, nft=Refusing)
    lease.guard([])
    lease.renew(1.0)
    assert lease.problem == ""
