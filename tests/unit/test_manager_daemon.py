"""The Manager as a process, with real init scripts and real daemons (see manager_device)."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.manager_device import SOURCE, Device

#: What the process "first" may take; in a test that is about a limit, one that is soon over
PATIENT, QUICK = 'hang_limit="30" stop_limit="30"', 'hang_limit="0.4" stop_limit="1"'
quick = pytest.mark.parametrize("limits", [QUICK], ids=["quick"])


def processes(limits: str = PATIENT, plain: str = "") -> list[tuple[str, str, int, int, str]]:
    return [("HA", "first", 10, 10, limits), ("HA", "second", 20, 20, ""), ("policyserver", "plain", 30, 10, plain)]


@pytest.fixture
def limits() -> str:
    return PATIENT


@pytest.fixture
def device(tmp_path: Path, limits: str) -> Iterator[Device]:
    made = Device(tmp_path, processes(limits))
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def running(device: Device) -> Device:
    assert device.boot().returncode == 0
    device.until_running("first", "second", "plain")
    return device


def test_starts_and_stops_in_their_orders(running: Device) -> None:
    assert running.journal == ["start first", "start second", "start plain"]
    running.shut_down()
    stops = running.journal[3:]
    # first and plain go together, second only when both are gone: a hand-over happens while ha_manager lives
    assert set(stops[:4]) == {"stop first handover", "stopped first", "stop plain handover", "stopped plain"}
    assert stops[4:] == ["stop second handover", "stopped second"]
    assert not (running.folder / "run/manager/manager.pid").exists()
    assert not (running.folder / "run/manager/control").exists()


def test_a_killed_process_is_back_at_once(running: Device) -> None:
    before = running.pid("first")
    os.kill(before, signal.SIGKILL)
    running.until(lambda: running.pid("first") not in (0, before) and running.answers("first"))
    running.until_running("first")
    row = running.process("first")
    assert row["restarts"] == 1
    assert "died" in row["alarm"]
    deaths = [change["because"] for change in running.ask("history")["changes"] if change["after"] == "waiting"]
    assert deaths == [f"pid {before} died; starting it again at once"]
    assert running.journal.count("start first") == 2


def test_the_second_death_in_a_row_waits(running: Device) -> None:
    for expected in (1, 2):
        before = running.pid("first")
        began = time.monotonic()
        os.kill(before, signal.SIGKILL)
        running.until(lambda before=before: running.process("first")["pid"] not in (0, before))
        waited = time.monotonic() - began
        assert running.process("first")["restarts"] == expected
    assert waited > 1.0


@quick
def test_a_hung_process_is_killed_and_started_again(running: Device) -> None:
    before = running.pid("first")
    os.kill(before, signal.SIGSTOP)
    seconds = running.until(lambda: running.pid("first") not in (0, before) and running.answers("first"))
    assert seconds > 0.3
    assert "hangs" in running.process("first")["alarm"]
    assert "killing" in {change["after"] for change in running.ask("history")["changes"]}


def test_a_killed_manager_takes_over_what_runs(running: Device) -> None:
    pids = {name: running.pid(name) for name in running.names}
    os.kill(running.manager, signal.SIGKILL)
    assert running.boot().returncode == 0
    rows = running.ask("status")["processes"]
    assert {row["name"]: row["pid"] for row in rows} == pids
    assert {row["state"] for row in rows} == {"running"}
    assert len(running.journal) == 3
    os.kill(pids["second"], signal.SIGKILL)
    running.until(lambda: running.pid("second") not in (0, pids["second"]))


@quick
def test_a_paused_manager_kills_nobody(running: Device) -> None:
    pids = {name: running.pid(name) for name in running.names}
    os.kill(running.manager, signal.SIGSTOP)
    time.sleep(0.6)
    os.kill(running.manager, signal.SIGCONT)
    time.sleep(0.5)
    assert {name: running.pid(name) for name in running.names} == pids


def test_passive_and_active_touch_only_the_difference(running: Device) -> None:
    pids = {name: running.pid(name) for name in running.names}
    assert running.ctl("reload", "passive").returncode == 0
    assert (running.folder / "etc/Manager/passive_device").exists()
    assert running.pid("plain") == 0
    assert (running.pid("first"), running.pid("second")) == (pids["first"], pids["second"])
    assert running.journal[3:] == ["stop plain handover", "stopped plain"]
    assert running.ctl("reload").returncode == 0
    assert not (running.folder / "etc/Manager/passive_device").exists()
    assert running.pid("plain") != 0
    assert (running.pid("first"), running.pid("second")) == (pids["first"], pids["second"])


def test_boots_passive_while_passive_device_exists(device: Device) -> None:
    (device.folder / "etc/Manager/passive_device").touch()
    assert device.boot().returncode == 0
    device.until_running("first", "second")
    assert device.process("plain")["state"] == "stopped"
    assert device.ask("status")["mode"] == "passive"


def test_reload_says_what_failed(running: Device) -> None:
    running.ask("reload", passive=True)
    (running.folder / "plain.init").unlink()
    answer = running.ctl("reload")
    assert answer.returncode == 1
    assert "manager-ctl: plain: did not start: " in answer.stderr
    assert "plain.init does not exist" in answer.stderr
    assert running.ask("status")["mode"] == "active"
    assert "does not exist" in running.ask("status")["alarms"]["plain"]


def test_a_daemon_that_refuses_is_quoted(running: Device) -> None:
    running.ask("stop", name="second")
    (running.folder / "second.refuses").touch()
    assert "will not start today" in running.refusal("start", name="second")
    assert running.process("second")["retry_in"] <= 1


def test_what_an_operator_stopped_stays_stopped(running: Device) -> None:
    assert running.ctl("stop", "ha", "--kind", "off").returncode == 0
    assert "stop first off" in running.journal
    assert (running.pid("first"), running.pid("second")) == (0, 0)
    # A Manager that was killed in between remembers; the other mode doesn't start it either.
    os.kill(running.manager, signal.SIGKILL)
    running.boot()
    assert running.process("first")["stopped_by_operator"]
    assert "stopped by an operator" in running.process("first")["because"]
    assert running.pid("first") == 0
    running.ask("start", name="HA")
    assert running.answers("first") and running.answers("second")


def test_a_reload_releases_what_an_operator_stopped(running: Device) -> None:
    running.ask("stop", name="plain")
    running.ask("reload", passive=False)
    assert running.pid("plain") != 0


@quick
def test_a_reload_during_an_operators_stop_is_answered_and_releases_nobody(running: Device) -> None:
    (running.folder / "first.stays").touch()  # until it is killed, 1 s later
    stopped: list[str] = []
    stop = threading.Thread(target=lambda: stopped.append(running.refusal("stop", name="HA")))
    stop.start()
    running.until(lambda: running.process("first")["state"] == "stopping")
    running.ask("reload", passive=True)
    assert running.process("first")["state"] == "stopping"
    assert running.pid("plain") == 0
    stop.join()
    assert stopped == ["first: did not stop within 1 s and was killed"]
    assert (running.pid("first"), running.pid("second")) == (0, 0)


def test_a_wrong_configuration_is_refused_and_changes_nothing(running: Device) -> None:
    pids = {name: running.pid(name) for name in running.names}
    path = running.folder / "etc/Manager/manager.conf.xml"
    path.write_text(path.read_text().replace('hang_limit="30"', 'hang_limit="soon"'))
    assert f"{path}:1: <process> attribute hang_limit: 'soon'" in running.refusal("reload", passive=False)
    os.kill(running.manager, signal.SIGHUP)
    running.until(lambda: running.ask("status")["refused"])
    assert {name: running.pid(name) for name in running.names} == pids


def test_a_damaged_module_file_does_not_prevent_a_role_change(running: Device) -> None:
    (running.folder / "etc/Manager/commander_passive_module.xml").write_text("<module>")
    assert "an earlier version of it is in force" in running.refusal("reload", passive=True)
    assert running.ask("status")["mode"] == "passive"
    assert running.pid("plain") == 0


def test_device_uname_is_answered_where_the_pair_says(running: Device) -> None:
    def answer(port: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/device_uname", timeout=5) as said:
            return bytes(said.read())

    with socket.create_server(("", 0)) as probe:
        port = int(probe.getsockname()[1])
    running.pair(f'<device_undef port="{port}" timeout="20"/>')
    running.ask("reload")
    assert answer(port) == f"{os.uname().nodename}\n".encode()
    running.pair('<device_undef port="soon"/>')
    running.ask("reload")
    assert "'soon' is not a whole number" in running.ask("status")["alarms"]["device_uname"]
    assert answer(port), "what can't be used changes nothing"
    running.pair("")
    running.ask("reload")
    assert running.ask("status")["alarms"] == {}
    with pytest.raises(OSError):
        answer(port)


def test_gives_up_what_does_not_start_until_it_is_asked_again(running: Device) -> None:
    running.configure(processes(plain='give_up_after="1"'))
    running.ask("reload", passive=True)
    (running.folder / "plain.refuses").touch()
    assert "will not start today" in running.refusal("reload", passive=False)
    row = running.process("plain")
    assert row["state"] == "given up"
    assert "given up after 1 try: manager-ctl start plain" in row["alarm"]
    assert "see the alarm" in running.ctl("status").stdout
    (running.folder / "plain.refuses").unlink()
    assert running.ctl("start", "plain").returncode == 0
    assert running.pid("plain") != 0


@pytest.mark.parametrize(
    "damage", ["<module>", "", '<module name="Commander"><init><roles><role enabled="1"/></roles></init></module>']
)
def test_starts_with_the_last_good_module_file(running: Device, damage: str) -> None:
    path = running.folder / "var/wasp/conf/Commander/current/module.xml"
    good = path.read_text()
    running.shut_down()
    path.write_text(damage)
    assert running.boot().returncode == 0
    running.until_running("first", "second", "plain")
    alarm = running.ask("status")["alarms"]["configuration"]
    assert str(path) in alarm and "its last good version is in force" in alarm
    assert str(path) in running.refusal("reload")
    assert "configuration" in running.ask("status")["alarms"], "until it is corrected"
    path.write_text(good)
    running.ask("reload")
    assert running.ask("status")["alarms"] == {}


def test_a_damaged_copy_helps_nobody(running: Device) -> None:
    running.shut_down()
    module = "active_module.xml"
    (running.folder / "var/lib/manager" / module).write_text("<module>")
    (running.folder / "var/wasp/conf/Commander/current/module.xml").write_text("<module")
    answer = running.boot()
    assert answer.returncode == 6
    assert "Commander/current/module.xml:1: is not well-formed" in answer.stderr


def test_sighup_takes_a_new_process_up(running: Device) -> None:
    running.configure(processes(plain='stop_limit="20"'))
    running.module("active", {"HA": True, "policyserver": False})
    os.kill(running.manager, signal.SIGHUP)
    running.until(lambda: running.pid("plain") == 0)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("<manager>", "not well-formed"),
        ('<manager><role name="HA"/></manager>', "lacks an element"),
        ('<manager><role name="HA"><process name="a" pid_file="/p"/></role></manager>', "init_script is missing"),
    ],
)
def test_does_not_start_with_a_wrong_configuration(device: Device, damage: str, expected: str) -> None:
    (device.folder / "etc/Manager/manager.conf.xml").write_text(damage)
    answer = device.boot()
    assert answer.returncode == 6
    assert "manager.conf.xml:1:" in answer.stderr
    assert expected in answer.stderr
    assert device.journal == []


def test_a_second_manager_is_refused(running: Device) -> None:
    answer = running.boot()
    assert answer.returncode == 1
    assert f"is running already (pid {running.manager}" in answer.stderr


def test_manager_ctl_without_a_manager(device: Device) -> None:
    answer = device.ctl("status")
    assert answer.returncode == 3
    assert "the Manager is not running" in answer.stderr


def test_manager_ctl_status(running: Device) -> None:
    table = running.ctl("status")
    assert table.returncode == 0
    assert "active mode" in table.stdout
    assert "second" in table.stdout
    assert json.loads(running.ctl("status", "--json").stdout)["mode"] == "active"
    running.module("active", {"HA": False, "policyserver": False})
    running.ask("reload")
    off = "first does not run while role HA is off in active mode: ha start turns it on"
    assert running.ctl("start", "first").stderr.strip() == f"manager-ctl: {off}"
    assert "while role policyserver is off in active mode: set it to 1 in " in running.refusal("start", name="plain")
    assert "there are: HA, first, plain, policyserver, second" in running.refusal("stop", name="nobody")


def test_the_restart_command_saves_the_script_and_the_script_is_the_fallback(tmp_path: Path) -> None:
    restart = f'restart="/usr/bin/env PYTHONPATH={SOURCE} {sys.executable} -S {tmp_path}/toy.py first {tmp_path}"'
    device = Device(tmp_path, [("HA", "first", 1, 1, f'{restart} quiet="0.1"')])
    try:
        device.boot()
        device.until_running("first")
        before = device.pid("first")
        os.kill(before, signal.SIGKILL)
        device.until(lambda: device.pid("first") not in (0, before))
        device.until_running("first")
        assert device.journal == ["start first"]
        device.until(lambda: not device.ask("status")["alarms"])
        (tmp_path / "toy.py").rename(tmp_path / "moved.py")
        script = tmp_path / "first.init"
        script.write_text(script.read_text().replace("toy.py", "moved.py"))
        before = device.pid("first")
        os.kill(before, signal.SIGKILL)
        device.until(lambda: device.pid("first") not in (0, before))
        assert device.journal == ["start first", "start first"]
    finally:
        device.clean_up()
