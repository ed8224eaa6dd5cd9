"""notifier-ctl: what it prints and with what it ends, against a real notifier and devices."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from heartbeat.model import Role
from notifier import ctl
from notifier.ctl import FAILED, NOT_ALL, NOT_RUNNING, main
from runtime.keys import Keys
from runtime.pins import Pins
from tests.unit.test_notifier_daemon import Server, until
from tests.unit.toy_device import ToyDevice


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "vs-166")
    made.list_devices(*(ToyDevice(name, tmp_path, [made.keys.show()]) for name in ("vs-28", "scan-1")))
    yield made
    made.stop()
    for each in made.devices.values():
        each.stop()


def run(server: Server, *words: str, said: str = "") -> Result:
    return CliRunner().invoke(main, ["--root", str(server.paths.root), *words], input=said)


def test_a_commit_from_nothing_to_seen(server: Server) -> None:
    assert run(server, "commit").exit_code == NOT_RUNNING
    server.start()
    server.until_connected()
    done = run(server, "commit")
    assert done.exit_code == 0 and done.output.startswith("release 1 of epoch 0/vs-166: 2 of 2 devices have it (")
    shown = run(server, "status", "--now").output
    assert (
        "vs-28" in shown and "Management Server" in shown and "in sync" in shown and "Stable" in shown and "streaming" in shown
    )
    rows = json.loads(run(server, "status", "--json").output)["devices"]
    assert [(row["name"], row["sync"], row["version"]) for row in rows] == [
        ("vs-28", "in sync", "0.1.0"), ("scan-1", "in sync", "0.1.0"),
    ]  # fmt: skip
    assert rows[0]["last_connection"] and rows[0]["told"]["replication"] == "streaming"
    assert "scan-1: committing -> stable: release 1 of epoch 0/vs-166 is in force" in run(server, "history").output
    assert "scan-1 has release 1 of epoch 0/vs-166." in run(server, "explain").output


def test_whoever_watches_sees_a_notifier_go_and_come(server: Server) -> None:
    shown = ctl._view(server.paths, False)
    assert isinstance(shown, str) and "the notifier is not running" in shown
    server.start()
    until(lambda: not isinstance(ctl._view(server.paths, False), str))
    server.role(Role.PASSIVE, 1)
    until(lambda: "this server is passive" in str(ctl._view(server.paths, False)))


def test_on_the_passive_it_says_where_to_go(server: Server) -> None:
    server.role(Role.PASSIVE, 3)
    said = run(server, "status")
    assert said.exit_code == NOT_RUNNING and "this server is passive: use it on the active one (vs-166)" in said.output
    server.role(Role.PASSIVE, 3, seconds=-1.0)
    assert "manager-ctl start notifier" in run(server, "status").output


def test_who_was_left_out_of_a_limited_commit_is_told(server: Server) -> None:
    server.list_devices(*server.devices.values(), ToyDevice("scan-2", server.paths.root, [server.keys.show()]))
    server.start()
    server.until_connected()
    assert run(server, "commit").exit_code == 0
    server.write("global/policy/rules", "deny")
    done = run(server, "commit", "--only", "scan-1")
    assert done.exit_code == 0 and "1 of 1 devices have it" in done.output
    explained = run(server, "explain").output
    kept = "scan-2 keeps release 1 of epoch 0/vs-166: that of 2 of epoch 0/vs-166 was not for it (`commit --only`)."
    assert kept in explained and "scan-1 has release 2 of epoch 0/vs-166." in explained
    assert "was not for it" in run(server, "status").output
    assert run(server, "commit").exit_code == 0
    assert "was not for it" not in run(server, "explain").output


def test_a_list_that_was_corrected_is_no_warning_any_more(server: Server) -> None:
    good = server.paths.devices.read_text()
    server.paths.devices.unlink()
    server.start()
    until(lambda: server.ask("status")["acts"])
    said = run(server, "status").output
    assert "there is no such file (the policy server writes it" in said
    server.paths.devices.write_text(good)
    said = run(server, "status").output
    assert "no such file" not in said and "scan-1" in said


def test_a_notifier_that_dies_in_the_middle_does_not_look_as_if_nothing_was_committed(server: Server) -> None:
    server.start()
    server.until_connected()
    held = threading.Event()
    server.devices["scan-1"].before = lambda do: held.wait(20.0) and None if do == "prepared" else None
    results: list[Result] = []
    asking = threading.Thread(target=lambda: results.append(run(server, "commit")))
    asking.start()
    until(lambda: server.devices["vs-28"].holds is not None)
    server.stop()
    held.set()
    asking.join()
    assert results[0].exit_code == NOT_ALL and "commit again" in results[0].output


def test_what_failed_has_an_exit_status_of_its_own(server: Server) -> None:
    server.devices["scan-1"].stop()
    server.start()
    server.until_connected("vs-28")
    done = run(server, "commit")
    assert done.exit_code == NOT_ALL
    assert "1 of 2 devices have it" in done.output and "scan-1: " in done.output
    refused = run(server, "commit", "--only", "nobody")
    assert refused.exit_code == FAILED and "nobody" in refused.output


def test_devices_with_and_without_keys(server: Server) -> None:
    Pins(server.paths.device_keys).forget("scan-1")
    shown = run(server, "devices").output
    assert "no key pinned: notifier-ctl enroll scan-1" in shown
    assert server.devices["vs-28"].keys.show().fingerprint in shown
    server.paths.devices.write_text("<devices><device/></devices>")
    broken = run(server, "devices")
    assert broken.exit_code == FAILED and "devices.xml:1" in broken.output


def test_a_key_is_pinned_only_when_somebody_has_compared(server: Server) -> None:
    pins, device = Pins(server.paths.device_keys), server.devices["vs-28"]
    key = device.keys.show()
    pins.forget("vs-28")
    refused = run(server, "enroll", "vs-28", said="n\n")
    assert refused.exit_code == 1 and key.fingerprint in refused.output and pins.get("vs-28") is None
    wrong = run(server, "enroll", "vs-28", "--fingerprint", "aaaa-bbbb-cccc-dddd")
    assert wrong.exit_code == FAILED and "Nothing was pinned" in wrong.output and pins.get("vs-28") is None
    done = run(server, "enroll", "vs-28", said="y\n")
    assert done.exit_code == 0 and pins.get("vs-28") == key
    assert "vs-28 is the peer of this server's ha_manager" in done.output and server.keys.peer() == key


def test_a_changed_key_is_not_replaced_without_the_word(server: Server, tmp_path: Path) -> None:
    device = server.devices["scan-1"]
    device.stop()
    new = device.keys.make("scan-1", force=True)
    device.start()
    refused = run(server, "enroll", "scan-1", "--fingerprint", new.fingerprint)
    assert refused.exit_code == FAILED and "`notifier-ctl enroll --replace scan-1`" in refused.output
    assert run(server, "enroll", "scan-1", "--fingerprint", new.fingerprint, "--replace").exit_code == 0
    assert Pins(server.paths.device_keys).get("scan-1") == new


def test_a_stranger_in_the_devices_place_is_named(server: Server, tmp_path: Path) -> None:
    device = server.devices["scan-1"]
    device.stop()
    device.keys = Keys(tmp_path / "stranger")
    device.keys.make("stranger")
    device.start()
    said = run(server, "enroll", "scan-1", said="y\n")
    assert said.exit_code == FAILED and "says that it is stranger, not scan-1" in said.output
    assert "is not in the list" in run(server, "enroll", "nobody").output
    device.stop()
    away = run(server, "enroll", "scan-1")
    assert away.exit_code == FAILED and "can't be reached" in away.output and "manager-ctl keys make" in away.output
