"""Configurations on two real policy servers and three scanning nodes: from nothing to a running pair.

Promise: every device has one release, whole, and nobody logs in on the passive. Source: Trustwave §2.3, §3.2;
issue "Manager and notifier".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.pair import ACTIVE, PASSIVE
from lab.api import Lab
from tests.lab.fleet import CONF_READY, CURRENT, FLEET, SCANNERS, Fleet, until

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
