"""Configurations on two real policy servers and three scanning nodes: from nothing to a running pair, faults, failovers.

Promise: at any moment every device has one release, whole; after a fault all come to the same one. Source: Trustwave §2.3,
§3.2; issue "Manager and notifier".
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from bench.pair import ACTIVE, PASSIVE, SERVERS
from lab.api import Lab
from tests.lab.fleet import CONF_READY, CURRENT, DEVICES, FLEET, SCANNERS, Fleet, until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def built() -> Iterator[Fleet]:
    with Lab(f"fleet-{os.getpid()}", FLEET) as lab:
        fleet = Fleet(lab)
        fleet.install()
        yield fleet


@pytest.fixture
def fleet(built: Fleet) -> Fleet:
    built.lab.heal()
    for node in built.lab.nodes:
        if not node.is_on:
            built.lab.power_on(node.name)
    return built


def test_the_first_commit_reaches_every_device_and_is_applied(fleet: Fleet) -> None:
    said = fleet.commit("one")
    assert said["failures"] == []
    fleet.until_all("one", (ACTIVE, *SCANNERS))
    for name in SCANNERS:
        until(lambda name=name: fleet.node(name).path(f"{CURRENT}/Scan/current/list").exists(), f"{name} to apply it")  # type: ignore[misc]
        assert not fleet.node(name).path(f"{CONF_READY}/global/notifier").exists()
        assert "release" in fleet.node(name).run(["manager-ctl", "status"]).stdout
    assert fleet.node(ACTIVE).path(f"{CONF_READY}/global/notifier/devices.xml").exists()


def test_a_passive_is_added_and_the_pair_runs_without_anybody_logging_in_there(fleet: Fleet) -> None:
    fleet.add_passive()
    fleet.commit("two", check=False)
    fleet.pair.settle(120.0, ACTIVE)
    fleet.until_all("two")
    until(lambda: fleet.node(PASSIVE).run(["manager-ctl", "status"]).stdout.startswith("passive mode"), "the passive's roles")
    shown = fleet.node(PASSIVE).run(["manager-ctl", "status"]).stdout
    assert f"listens to the notifier of {ACTIVE}, as its passive" in shown


def test_a_limited_commit_reaches_that_device_alone_and_the_next_one_all(fleet: Fleet) -> None:
    fleet.scan("limited")
    fleet.policy("commit", "--only", "scan-2")
    assert [fleet.holds(name) for name in DEVICES] == ["two", "two", "two", "limited", "two"]
    told = fleet.told()
    assert told["scan-2"]["release"] != told["scan-1"]["release"] == told["scan-3"]["release"]
    assert "was not for it" in told["scan-1"]["because"] and not told["scan-2"]["because"]
    # one that was away meanwhile gets what it is to have, not what was for another
    fleet.lab.reboot("scan-3")
    until(lambda: fleet.told()["scan-3"]["sync"] == "in sync", "scan-3 to be back")
    assert fleet.holds("scan-3") == "two"
    fleet.commit("limited", check=False)  # scan-3's session may still be the one from before its reboot
    fleet.until_all("limited")
    stable = {("in sync", "Stable")}
    until(lambda: {(row["sync"], row["committing"]) for row in fleet.told().values()} == stable, "all to be stable")
    told = fleet.told()
    assert len({row["release"] for row in told.values()}) == 1
    assert told[PASSIVE]["replication"] and not told["scan-1"]["replication"]


def test_a_disk_that_is_too_small_and_a_root_that_is_locked(fleet: Fleet) -> None:
    """More than 16 MiB, so that rsync brings it; what scan-3 could receive, it could not put in place."""
    small, locked = fleet.node("scan-3"), fleet.node("scan-2")
    small.sh("cp -a /var/wasp /tmp/w; mount -t tmpfs -o size=50m tmpfs /var/wasp; cp -a /tmp/w/. /var/wasp; manager-ctl status")
    locked.sh("usermod -L root")
    base = fleet.node(ACTIVE).path("/var/policyserver/configuration/base")
    (base / "global/Scan/large").write_bytes(os.urandom(24 * 2**20))
    (base / "global/Scan/list").write_text("large")
    said = fleet.node(ACTIVE).run(["notifier-ctl", "commit"], timeout=120.0, check=False)
    assert said.code == 4 and "scan-3: the disk of /var/wasp is too small" in said.stderr, said
    assert fleet.holds("scan-3") == "limited"
    fleet.until_all("large", (*SERVERS, "scan-1", "scan-2"))
    small.sh("mount -o remount,size=200m /var/wasp")
    fleet.until_all("large")
    applied = small.path(f"{CURRENT}/Scan/current/large")
    until(lambda: applied.exists() and applied.stat().st_size == 24 * 2**20, "scan-3 to put it in place")
    # the disk from before: with what it held then
    small.sh("umount --lazy /var/wasp; /etc/init.d/manager restart")
    fleet.until_all("large")
    (base / "global/Scan/large").unlink()
    assert fleet.node(ACTIVE).run(["notifier-ctl", "commit"], timeout=120.0).code == 0


def test_a_failover_gives_the_devices_to_the_new_active(fleet: Fleet) -> None:
    fleet.pair.settle(60.0, ACTIVE)
    fleet.pair.ha(ACTIVE, "failover")
    fleet.pair.settle(90.0, PASSIVE)
    until(lambda: fleet.connected(PASSIVE) == set(DEVICES), "every device to be connected to the new active's notifier")
    fleet.commit("three", on=PASSIVE)
    fleet.until_all("three")
    fleet.pair.ha(PASSIVE, "failover")
    fleet.pair.settle(90.0, ACTIVE)


def test_a_device_that_was_away_hangs_or_dies_gets_it_later_and_holds_nobody_up(fleet: Fleet) -> None:
    fleet.lab.power_off("scan-1")
    receiver = next(pid for pid, argv in fleet.node("scan-2").processes().items() if "manager.receiver" in argv)
    os.kill(receiver, signal.SIGSTOP)
    fleet.commit("four", check=False)
    fleet.until_all("four", (*SERVERS, "scan-3"))
    assert fleet.holds("scan-2") != "four"
    os.kill(receiver, signal.SIGKILL)
    fleet.lab.power_on("scan-1")
    fleet.until_all("four", limit=120.0)


def test_a_power_cut_of_the_active_in_the_middle_of_a_commit_leaves_whole_configurations(fleet: Fleet) -> None:
    fleet.pair.settle(90.0, ACTIVE)
    fleet.scan("five")
    fleet.node(ACTIVE).popen(["/opt/finjan/bin/policyserver_cli", "commit"])
    until(lambda: fleet.holds(PASSIVE) == "five", "the passive to have it")
    fleet.lab.power_off(ACTIVE)
    fleet.pair.until(lambda seen: list(seen.active) == [PASSIVE], 30.0, "the failover")
    fleet.until_all("five", (PASSIVE, *SCANNERS), limit=120.0)
    fleet.lab.power_on(ACTIVE)
    fleet.pair.settle(120.0)
    fleet.until_all("five", limit=120.0)
    assert json.dumps(fleet.told(PASSIVE))
