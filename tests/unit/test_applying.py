"""From conf_ready to the modules: which role files are laid down, and when high availability is turned on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manager.manifest import Manifest
from manager.modulefile import role_enabled, set_role
from manager.paths import Paths
from manager.receiver.applying import Applying
from manager.receiver.process import Process, Settings
from manager.tree import Known, scan
from runtime.keys import Keys

ROLE = '<role name="HA" enabled="{}"/><role name="x" enabled="{}"/>'
ROLES = f'<module name="Commander"><init><roles>{ROLE}</roles></init></module>'
PAIR = '<module name="HA"><init><ha enabled="{}"/></init></module>'


class Device:
    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.applying = Applying(self.paths.conf, self.paths.state)
        self.paths.state.mkdir(parents=True)
        self.paths.conf_ready.mkdir(parents=True)
        self.commander = self.paths.conf / "Commander/current/module.xml"
        self.pair = self.paths.conf / "ha/current/module.xml"

    def put(self, name: str, text: str) -> None:
        file = self.paths.conf_ready / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, roles: str, pair: str) -> None:
        self.put("global/Commander/module.xml", roles)
        self.put("global/HA/module.xml", pair)

    def held(self) -> Manifest:
        return scan(self.paths.conf_ready, Known())


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_what_is_gone_or_spelt_otherwise(device: Device) -> None:
    device.commit(ROLES.format(0, 1), PAIR.format(0))
    device.put("global/Big/module.xml", PAIR.format(0))
    device.put("global/Big/data", "1")
    (device.paths.conf / "BIG/current").mkdir(parents=True)
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").changed == {"commander", "ha", "big"}
    assert device.pair.exists() and (device.paths.conf / "BIG/current/data").read_text() == "1"
    assert sorted(os.listdir(device.paths.conf)) == ["BIG", "Commander", "ha"]
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").changed == set()
    (device.paths.conf_ready / "global/Big/data").unlink()
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").changed == {"big"}
    assert os.listdir(device.paths.conf / "BIG/current") == ["module.xml"]


def test_how_much_room_it_takes(device: Device) -> None:
    """A module's old folder goes when the new one is whole, one module after the other."""
    for name, size in (("A", 1000), ("B", 500), ("C", 200)):
        device.put(f"global/{name}/module.xml", PAIR.format(0))
        device.put(f"global/{name}/list", "x" * size)
    device.put("7/A/list", "y" * 1500)
    module = len(PAIR.format(0))
    assert device.applying.room(device.held(), "7") == 2200 + 3 * module
    device.applying.run(device.paths.conf_ready, device.held(), "7")
    assert device.applying.room(device.held(), "7") == 0
    device.put("7/A/list", "z" * 1400)
    device.put("global/B/list", "z" * 700)
    assert device.applying.room(device.held(), "7") == 1400 + module
    device.put("global/B/list", "z" * 1700)
    assert device.applying.room(device.held(), "7") == 1700 - 100 + module


def test_a_current_that_is_a_link_is_replaced_not_followed(device: Device, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (device.paths.conf / "Big").mkdir(parents=True)
    (device.paths.conf / "Big/current").symlink_to(outside)
    device.put("global/Big/module.xml", PAIR.format(0))
    device.applying.run(device.paths.conf_ready, device.held(), "7")
    assert os.listdir(outside) == [] and not (device.paths.conf / "Big/current").is_symlink()


def test_a_commit_does_not_turn_off_what_runs_here(device: Device) -> None:
    device.commit(ROLES.format(1, 0), PAIR.format(1))
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").ha is True
    assert device.commander.read_text() == ROLES.format(0, 0)
    set_role(device.commander, "HA", True)  # ha start
    device.put("global/Commander/module.xml", ROLES.format(0, 1))
    outcome = device.applying.run(device.paths.conf_ready, device.held(), "7")
    assert "`ha stop` on both servers" in outcome.wrong["Commander"] and device.commander.read_text() == ROLES.format(1, 0)
    set_role(device.commander, "HA", False)  # ha stop
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").wrong == {}
    assert device.commander.read_text() == ROLES.format(0, 1)


def test_what_an_operator_turned_off_stays_off(device: Device) -> None:
    device.commit(ROLES.format(1, 0), PAIR.format(1))
    device.applying.run(device.paths.conf_ready, device.held(), "7")
    device.put("global/Commander/module.xml", ROLES.format(1, 1))
    assert device.applying.run(device.paths.conf_ready, device.held(), "7").changed == {"commander"}
    assert device.commander.read_text() == ROLES.format(0, 1)
    set_role(device.commander, "HA", True)  # ha start
    device.put("global/Commander/module.xml", ROLES.format(1, 0))
    device.applying.run(device.paths.conf_ready, device.held(), "7")
    assert role_enabled(device.commander, "HA")


# --- ha start ---------------------------------------------------------------------------------------------------------------


class Turned:
    """A process whose ``ha`` notes that it was called, and fails while told so."""

    def __init__(self, root: Path, policy_server: bool = True) -> None:
        self.device = Device(root)
        Keys(self.device.paths.keys).make("vs-28")
        manager = root / "etc/Manager/manager.conf.xml"
        manager.parent.mkdir(parents=True)
        role = '<role name="HA"><process name="x" init_script="/x" pid_file="/y"/></role>' if policy_server else ""
        manager.write_text(f"<manager>{role}</manager>")
        self.fails, self.calls = root / "fails", root / "calls"
        script = f'#!/bin/sh\necho "$@" >>{self.calls}\n[ ! -e {self.fails} ] || {{ echo "no peer" >&2; exit 1; }}\n'
        (root / "ha").write_text(script)
        (root / "ha").chmod(0o755)
        self.process = Process(Settings(self.device.paths, port=0, ha=(str(root / "ha"),)))

    def apply(self) -> dict[str, str]:
        """As if the whole of conf_ready had been received and switched to."""
        outcome = self.device.applying.run(self.device.paths.conf_ready, self.device.held(), "7")
        wrong = dict(outcome.wrong)
        self.process.turn_on(outcome, wrong)
        return wrong

    def called(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


def test_the_first_configuration_that_wants_it_turns_high_availability_on_until_it_runs(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.device.commit(ROLES.format(0, 1), PAIR.format(1))
    assert turned.apply() == {} and turned.called() == 0
    turned.device.commit(ROLES.format(1, 1), PAIR.format(1))
    turned.fails.touch()
    assert "no peer" in turned.apply()["HA"]
    assert "no peer" in turned.apply()["HA"] and turned.called() == 2
    turned.fails.unlink()
    assert turned.apply() == {} and turned.called() == 3
    turned.device.put("global/Commander/module.xml", ROLES.format(1, 0))
    set_role(turned.device.commander, "HA", False)
    assert turned.apply() == {} and turned.called() == 3, "an operator has turned it off since"


def test_a_scanning_node_has_none(tmp_path: Path) -> None:
    turned = Turned(tmp_path, policy_server=False)
    turned.device.commit(ROLES.format(1, 1), PAIR.format(1))
    assert turned.apply() == {} and turned.called() == 0


def test_a_pair_that_can_not_be_read_turns_nothing_on(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.device.commit(ROLES.format(1, 1), "<module>")
    assert set(turned.apply()) == {"HA"} and turned.called() == 0
