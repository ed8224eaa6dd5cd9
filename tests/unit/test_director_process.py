"""The director's process, as far as it goes without a network: what refuses to start, and the words of its status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from director.alarms import Alarms
from director.cli import render
from director.instances import instance_of, own_address, peers_of, same_sockets
from director.settings import Config, VirtualIp, Vrrp
from runtime.address import Assigned

SAMPLE = Path(__file__).parents[2] / "conf/var/wasp/conf/director/current/module.xml"
VIPS = (VirtualIp("10.1.1.250", 24, "eth0"), VirtualIp("fd00:1::250", 64, "eth0"))
CONFIG = Config(99, "10.1.1.1", Vrrp(version=3, advert=0.1), VIPS)
ETH0 = [
    Assigned("lo", "127.0.0.1", 8), Assigned("eth0", "10.1.1.250", 24, 1), Assigned("eth0", "10.1.1.7", 24),
    Assigned("eth0", "10.1.1.1", 24), Assigned("eth0", "fd00:1::250", 64, 1), Assigned("eth0", "fd00:1::1", 64),
    Assigned("eth0", "fe80::1", 64),
]  # fmt: skip


def check(file: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "director.daemon", "--check", "--config", str(file)]
    return subprocess.run(argv, capture_output=True, text=True)


def test_what_is_turned_off_or_wrong_does_not_start(tmp_path: Path) -> None:
    off = check(SAMPLE)
    assert off.returncode == 6 and "the director is turned off" in off.stderr and 'enabled="1"' in off.stderr
    on = tmp_path / "module.xml"
    on.write_text(SAMPLE.read_text().replace('enabled="0"', 'enabled="1"'))
    assert check(on).returncode == 0
    on.write_text(on.read_text().replace('vrid="51"', 'vrid="0"'))
    wrong = check(on)
    assert wrong.returncode == 6 and "module.xml:13" in wrong.stderr, wrong.stderr
    assert check(tmp_path / "none").returncode == 6


@pytest.mark.parametrize(
    ("family", "change", "own"),
    [
        (4, {}, "10.1.1.1"),
        (4, {"management_ip": "10.1.1.2"}, "10.1.1.7"),  # on another interface
        (6, {}, "fe80::1"),
        (6, {"peers": ("fd00:1::2",)}, "fd00:1::1"),
        (6, {"peers": ("fe80::2",)}, "fe80::1"),
        (4, {"vrrp": Vrrp(interface="eth1")}, ""),
        (4, {"vips": (VirtualIp("10.1.1.7", 24, "eth0"), VirtualIp("10.1.1.1", 24, "eth0"))}, "10.1.1.250"),
    ],
)
def test_where_adverts_come_from(family: int, change: dict[str, object], own: str) -> None:
    config = Config(**{**vars(CONFIG), **change})
    assert own_address(config, family, ETH0) == own


def test_an_owner_advertises_from_its_virtual_address() -> None:
    config = Config(255, "10.1.1.250", Vrrp(), VIPS[:1])
    assert own_address(config, 4, [Assigned("eth0", "10.1.1.250", 24)]) == "10.1.1.250"


def test_nothing_is_sent_from_a_tentative_address() -> None:
    tentative = Assigned("eth0", "fe80::1", 64, usable=False)
    assert own_address(CONFIG, 6, [tentative]) == ""


def test_peers_and_addresses_belong_to_their_family() -> None:
    config = Config(99, "10.1.1.1", Vrrp(), VIPS, peers=("10.1.1.2", "fd00:1::2"))
    assert (peers_of(config, 4), peers_of(config, 6)) == (("10.1.1.2",), ("fd00:1::2",))
    assert instance_of(config, 6, "fe80::1").addresses == ("fd00:1::250",)
    more = Config(99, "10.1.1.1", Vrrp(), (*VIPS, VirtualIp("10.1.1.251", 24, "eth0", advertised=False)))
    assert instance_of(more, 4, "10.1.1.1").addresses == ("10.1.1.250",) and len(more.of_router(4)) == 2
    assert instance_of(config, 4, "10.1.1.1").name == "51" and instance_of(config, 6, "fe80::1").name == "51/IPv6"


def test_addresses_of_a_family_that_isnt_advertised_go_along_with_the_other() -> None:
    six = VirtualIp("fd00:1::250", 64, "eth0", advertised=False)
    config = Config(99, "10.1.1.1", Vrrp(), (VIPS[0], six))
    assert config.families == (4,) and config.of_router(4) == config.vips and config.of_router(6) == ()
    assert instance_of(config, 4, "10.1.1.1").addresses == ("10.1.1.250",)
    both = Config(99, "10.1.1.1", Vrrp(version=3), (*VIPS, VirtualIp("fd00:1::251", 64, "eth0", advertised=False)))
    assert both.families == (4, 6) and [len(both.of_router(family)) for family in (4, 6)] == [1, 2]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"priority": 10}, True), ({"vips": (*VIPS, VirtualIp("10.1.1.251", 24, "eth1"))}, True), ({"vips": VIPS[:1]}, False),
        ({"vrrp": Vrrp(version=3, advert=0.2, preempt=False)}, True), ({"vrrp": Vrrp(vrid=52, version=3)}, False),
        ({"vrrp": Vrrp(interface="eth1", version=3)}, False), ({"peers": ("10.1.1.2",)}, False),
    ],
)  # fmt: skip
def test_what_needs_other_sockets(change: dict[str, object], same: bool) -> None:
    assert same_sockets(CONFIG, Config(**{**vars(CONFIG), **change})) is same


def test_an_alarm_is_told_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    alarms = Alarms(lambda: 1000.0)
    for text in ("one", "one", "other", "", ""):
        alarms.tell("name", text)
    assert [record.getMessage() for record in caplog.records] == ["one", "other", "over: other"]
    alarms.tell("b", "standing")
    assert alarms.status() == [{"name": "b", "text": "standing", "since": 1000.0}] and alarms.raised == 3


def test_the_status_in_words() -> None:
    router = {
        "family": 4, "vrid": 51, "version": 2, "interface": "eth0", "state": "backup", "since": 0.0, "because": "started",
        "priority": 89, "effective_priority": 69, "master": "10.1.1.1", "master_priority": 99, "designated": True,
        "virtual_ips": [{"ip": "10.1.1.250", "prefix": 24, "interface": "eth0", "held": False}],
        "counters": {"sent": 0, "received": 7, "dropped": {"ttl": 2}},
    }  # fmt: skip
    answer = {
        "node": "nibiru", "role": "backup", "priority": 89, "lbid": 51, "routers": [router], "refused_by_system": ["no memory"],
        "alarms": [{"name": "x", "text": "something is wrong", "since": 0.0}],
    }  # fmt: skip
    text = "\n".join(render(answer))
    for words in (
        "nibiru: backup, priority 89", "priority 69 of 89: started", "10.1.1.1, priority 99; this node is its designated",
        "10.1.1.250/24 on eth0: not here", "7 received; dropped: 2 ttl", "something is wrong", "note: no memory",
    ):  # fmt: skip
        assert words in text
