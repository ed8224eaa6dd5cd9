"""The notifier as a process in a loop of its own, against devices with the real session: whole commits, and what goes wrong."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat.model import Epoch, Phase, Role
from heartbeat.rolefile import RoleFile, RoleLine
from manager import wire
from manager.holding import Version
from notifier import report
from notifier.client import ask
from notifier.daemon import dialler
from notifier.line import LARGE
from notifier.paths import Paths
from notifier.process import Notifier
from runtime.clock import boottime
from runtime.durable import write_json
from runtime.errors import Refused
from runtime.keys import Keys
from runtime.loop import Loop
from runtime.pins import Pins
from tests.unit.toy_device import ToyDevice

_LIMIT = 20.0


def until(holds: Callable[[], object], limit: float = _LIMIT) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.02)


class Server:
    """A policy server with its notifier, in a thread."""

    def __init__(self, root: Path, node: str = "vs-166") -> None:
        self.paths, self.node = Paths(root), node
        self.paths.base.mkdir(parents=True)
        self.keys = Keys(self.paths.keys)
        self.keys.make(node)
        self.devices: dict[str, ToyDevice] = {}
        self.write("global/policy/rules", "allow")
        self.write("global/policy/other", "something else")
        self.write("ps_debpackages/new.deb", "package")
        self._thread: threading.Thread | None = None

    def write(self, name: str, text: str) -> None:
        file = self.paths.base / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def list_devices(self, *devices: ToyDevice) -> None:
        self.devices = {each.name: each for each in devices}
        rows = ""
        for each in devices:
            kind = "Management Server" if each.name.startswith("vs") else "Scanning Server"
            rows += f'<device name="{each.name}" ip="127.0.0.1" port="{each.port}" device_type="{kind}"/>\n'
            Pins(self.paths.device_keys).pin(each.keys.show())
        self.write("global/notifier/devices.xml", f"<devices>{rows}</devices>")

    def start(self) -> None:
        self.loop = Loop()
        self.notifier = Notifier(self.paths, self.loop, self.node, dialler(self.keys), report)
        self.notifier.begin()
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self.notifier._mailbox.put(self.loop.stop)
            self._thread.join()
            self.notifier.end()
            self._thread = None

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        return ask(self.paths.control, do, fields, timeout=_LIMIT * 2)

    def row(self, name: str) -> dict[str, Any]:
        """Empty words where it is not listed (yet)."""
        rows = {each["name"]: each for each in self.ask("status")["devices"]}
        return rows.get(name, dict.fromkeys(("connection", "sync", "because", "release"), ""))

    def until_connected(self, *names: str) -> None:
        until(lambda: all(self.row(name)["connection"] == "connected" for name in names or self.devices))

    def role(self, role: Role, epoch: int, seconds: float = 60.0) -> None:
        self.paths.role.parent.mkdir(parents=True, exist_ok=True)
        phase = Phase.ACTIVE if role is Role.ACTIVE else Phase.PASSIVE
        RoleFile(self.paths.role).write(RoleLine(role, Epoch(epoch, self.node), boottime() + seconds, phase, True, False))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "vs-166")
    yield made
    made.stop()
    for each in made.devices.values():
        each.stop()


@pytest.fixture
def running(server: Server, tmp_path: Path) -> Server:
    """With the passive and two scanners, all connected."""
    server.list_devices(*(ToyDevice(name, tmp_path, [server.keys.show()]) for name in ("scan-1", "vs-28", "scan-2")))
    server.start()
    server.until_connected()
    return server


def test_a_commit_reaches_every_device_and_only_differences_travel(running: Server) -> None:
    said = running.ask("commit")
    assert (said["devices"], said["failures"], said["version"]) == (3, [], "1 of epoch 0/vs-166")
    assert all(each.text("global/policy/rules") == "allow" for each in running.devices.values())
    passive, scanner = running.devices["vs-28"], running.devices["scan-1"]
    assert passive.text("ps_debpackages/new.deb") == "package"
    assert scanner.holds is not None
    assert not [name for name in scanner.holds.entries if "ps_debpackages" in name or "notifier" in name]
    for each in running.devices.values():
        each.received.clear()
    running.write("global/policy/rules", "deny")
    (running.paths.base / "global/policy/other").unlink()
    assert running.ask("commit")["failures"] == []
    for each in running.devices.values():
        assert each.text("global/policy/rules") == "deny" and len(each.received) == 1
        assert each.holds is not None and "global/policy/other" not in each.holds.entries


def test_an_unchanged_tree_moves_nothing(running: Server) -> None:
    running.ask("commit")
    for each in running.devices.values():
        each.requests.clear()
    assert running.ask("commit")["version"] == "2 of epoch 0/vs-166"
    for each in running.devices.values():
        assert set(each.requests) <= {"switch", "status"}
        assert each.holding.holds is not None and each.holding.holds.version == Version(0, "vs-166", 2)


def test_a_large_amount_goes_over_the_session_where_there_is_no_rsync(running: Server) -> None:
    running.write("global/large", "x" * (LARGE + 1))
    assert running.ask("commit")["failures"] == []
    assert all(len(each.text("global/large")) == LARGE + 1 for each in running.devices.values())


def test_policy_servers_have_it_before_any_scanner(running: Server) -> None:
    order: list[str] = []
    for each in running.devices.values():
        each.before = lambda do, name=each.name: order.append(name) if do == "switch" else None  # type: ignore[misc]
    running.ask("commit")
    assert order[0] == "vs-28" and sorted(order) == ["scan-1", "scan-2", "vs-28"]
    assert running.devices["vs-28"].passive and not running.devices["scan-1"].passive


def test_a_key_that_is_pinned_after_a_commit_reaches_the_other_policy_server(running: Server, tmp_path: Path) -> None:
    """It has to know the device after a failover; what the policy server writes meanwhile waits for its commit."""
    running.ask("commit")
    passive, scanner = running.devices["vs-28"], running.devices["scan-1"]
    newer = ToyDevice("scan-3", tmp_path, [running.keys.show()])
    kinds = {"vs-28": passive, "scan-1": scanner, "scan-2": running.devices["scan-2"], "scan-3": newer}
    running.list_devices(*kinds.values())
    running.write("global/policy/rules", "not committed")
    running.ask("reload")
    until(lambda: passive.holds is not None and "global/notifier/keys/scan-3.pub" in passive.holds.entries)
    assert passive.text("global/notifier/keys/scan-3.pub") == newer.keys.show().line + "\n"
    assert passive.text("global/policy/rules") == "allow"
    until(lambda: running.row("vs-28")["sync"] == "in sync")
    assert running.row("scan-1")["release"] == "1 of epoch 0/vs-166"
    assert newer.holds is None, "nothing was committed for it yet"
    assert running.ask("commit")["failures"] == []
    assert newer.text("global/policy/rules") == passive.text("global/policy/rules") == "not committed"


def test_this_server_and_its_peer_need_no_pin(server: Server, tmp_path: Path) -> None:
    """As devices: an operator has compared their keys already, for ha_manager's session."""
    own, passive = (ToyDevice(name, tmp_path, [server.keys.show()]) for name in ("vs-166", "vs-28"))
    own.stop()
    own.keys = server.keys
    own.start()
    server.list_devices(own, passive)
    shutil.rmtree(server.paths.device_keys)
    server.start()
    server.until_connected("vs-166")
    until(lambda: "`notifier-ctl enroll vs-28`" in server.row("vs-28")["because"])
    server.keys.accept(passive.keys.show().line)
    server.ask("reload")
    server.until_connected("vs-28")


def test_a_module_that_no_device_can_use_is_not_committed(running: Server) -> None:
    running.ask("commit")
    for name, text, said in (
        ("global/Scan/module.xml", "<module>\n<init>", r"base/global/Scan/module\.xml:2: is not well-formed"),
        ("scan-1/Commander/module.xml", "<module/>", r"base/scan-1/Commander/module\.xml"),
        ("global/HA/module.xml", '<module><init><ha enabled="1"/></init></module>', r"base/global/HA/module\.xml"),
    ):
        running.write("global/policy/rules", "never")
        running.write(name, text)
        with pytest.raises(Refused, match=said):
            running.ask("commit")
        (running.paths.base / name).unlink()
    assert all(each.text("global/policy/rules") == "allow" for each in running.devices.values())
    running.write("global/HA/module.xml", '<module><init><ha enabled="0"/></init></module>')
    running.write("global/no/folder/module.xml", "is no module")
    assert running.ask("commit")["failures"] == []


def test_only_chosen_devices(running: Server) -> None:
    assert running.ask("commit", only=["scan-2"])["devices"] == 1
    assert running.devices["scan-1"].holds is None and running.devices["scan-2"].holds is not None
    with pytest.raises(Refused, match=r"not in .*devices\.xml: scan-9 \(it has scan-1, scan-2, vs-28\)"):
        running.ask("commit", only=["scan-9"])
    assert running.row("scan-1")["sync"] == "nothing committed" and running.row("scan-2")["sync"] == "in sync"


def test_one_that_is_away_gets_it_when_it_is_back(running: Server) -> None:
    away = running.devices["scan-1"]
    away.stop()
    until(lambda: running.row("scan-1")["connection"] == "not connected")
    said = running.ask("commit")
    assert len(said["failures"]) == 1 and said["failures"][0].startswith("scan-1: ")
    assert "it gets the configuration when it is back" in said["failures"][0]
    away.start()
    until(lambda: away.holds is not None)
    until(lambda: running.row("scan-1")["sync"] == "in sync")


def test_one_that_was_away_is_not_kept_from_its_release_by_one_that_was_not_for_it(running: Server) -> None:
    running.devices["scan-1"].stop()
    until(lambda: running.row("scan-1")["connection"] == "not connected")
    assert len(running.ask("commit")["failures"]) == 1
    running.write("global/policy/rules", "deny")
    assert running.ask("commit", only=["scan-2"])["version"] == "2 of epoch 0/vs-166"
    running.devices["scan-1"].start()
    until(lambda: running.row("scan-1")["sync"] == "in sync")
    assert running.devices["scan-1"].text("global/policy/rules") == "allow"
    assert running.row("scan-1")["release"] == "1 of epoch 0/vs-166"


def test_what_a_device_refuses_is_told_and_tried_again(running: Server) -> None:
    full = running.devices["scan-1"]
    problems = ["No space left on device"]

    def before(do: str) -> None:
        if do == "prepared" and problems:
            from runtime.session import Refusal

            raise Refusal(problems.pop(), "full")

    full.before = before
    assert running.ask("commit")["failures"] == ["scan-1: No space left on device"]
    until(lambda: running.row("scan-1")["sync"] == "in sync")


def test_one_that_dies_in_the_middle_holds_nobody_up_and_is_whole_afterwards(running: Server) -> None:
    dies = running.devices["vs-28"]
    dies.before = lambda do: dies.stop() if do == "prepared" else None
    assert [each.split(":")[0] for each in running.ask("commit")["failures"]] == ["vs-28"]
    assert running.devices["scan-1"].holds is not None and dies.holds is None
    dies.before = lambda do: None
    dies.start()
    until(lambda: dies.holds is not None)


def test_another_key_is_refused_with_the_remedy(server: Server, tmp_path: Path) -> None:
    device = ToyDevice("scan-1", tmp_path, [server.keys.show()])
    server.list_devices(device)
    device.stop()
    device.keys.make("scan-1", force=True)
    device.start()
    server.start()
    until(lambda: "notifier-ctl enroll --replace" in server.row("scan-1")["because"])
    Pins(server.paths.device_keys).forget("scan-1")
    until(lambda: "notifier-ctl enroll scan-1" in server.row("scan-1")["because"])
    Pins(server.paths.device_keys).pin(device.keys.show())
    server.ask("reload")
    server.until_connected()


def test_a_killed_notifier_goes_on_with_what_was_saved(running: Server) -> None:
    away = running.devices["scan-1"]
    away.stop()
    until(lambda: running.row("scan-1")["connection"] == "not connected")
    running.ask("commit")
    running.stop()
    running.write("global/policy/rules", "not committed")
    away.start()
    running.start()
    until(lambda: away.holds is not None)
    assert away.text("global/policy/rules") == "allow"


def test_it_acts_only_while_heartbeat_says_active(running: Server) -> None:
    running.ask("commit")
    running.role(Role.PASSIVE, 1)
    until(lambda: not running.ask("status")["acts"])
    with pytest.raises(Refused, match="this server is passive"):
        running.ask("commit")
    running.role(Role.ACTIVE, 2)
    until(lambda: running.ask("status")["acts"])
    running.until_connected()
    until(lambda: running.row("scan-1")["release"] == "2 of epoch 2/vs-166")
    running.role(Role.ACTIVE, 2, seconds=-1.0)
    until(lambda: not running.ask("status")["acts"])
    assert "does not renew" in running.ask("status")["because"]


def test_an_active_that_goes_on_alone_keeps_its_sessions(running: Server) -> None:
    running.role(Role.ACTIVE, 1)
    until(lambda: running.ask("status")["epoch"] == [1, "vs-166"])
    running.until_connected()
    assert running.ask("commit")["failures"] == []
    greeted = [each.requests.count("hello") for each in running.devices.values()]
    running.role(Role.ACTIVE, 2)
    until(lambda: all(running.row(name)["release"] == "2 of epoch 2/vs-166" for name in running.devices))
    assert [each.requests.count("hello") for each in running.devices.values()] == greeted
    assert running.ask("commit")["version"] == "3 of epoch 2/vs-166"
    running.stop()
    running.start()
    until(lambda: all(running.row(name)["release"] == "3 of epoch 2/vs-166" for name in running.devices))
    running.role(Role.ACTIVE, 4)
    running.until_connected()
    now = running.devices.values
    until(lambda: all(each.requests.count("hello") >= n + 2 for each, n in zip(now(), greeted, strict=True)))


def test_a_device_that_listens_again_gets_what_it_is_to_have(running: Server) -> None:
    """A rival's, whose epoch had the same number, that is not there any more."""
    running.ask("commit")
    device = running.devices["scan-1"]
    device.holding.highest = Version(0, "vs-28", 9)
    running.write("global/policy/rules", "later")
    (failure,) = running.ask("commit")["failures"]
    assert "scan-1: it obeys another notifier" in failure
    device.holding.highest = Version(0, "vs-166", 0)
    until(lambda: device.text("global/policy/rules") == "later")


def test_a_commit_that_begins_high_availability_is_answered_by_the_active(running: Server) -> None:
    held = threading.Event()
    running.devices["scan-1"].before = lambda do: held.wait(_LIMIT) and None if do == "prepared" else None
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(running.ask("commit")))
    asking.start()
    until(lambda: running.devices["vs-28"].holds is not None)
    running.role(Role.PASSIVE, 1)
    until(lambda: not running.ask("status")["acts"])
    held.set()
    running.role(Role.ACTIVE, 1)
    asking.join(_LIMIT * 2)
    assert answers and answers[0]["failures"] == []
    assert all(each.text("global/policy/rules") == "allow" for each in running.devices.values())


def test_the_new_actives_notifier_begins_with_its_own_conf_ready(running: Server, tmp_path: Path) -> None:
    running.ask("commit")
    passive = running.devices["vs-28"]
    other = Server(tmp_path / "other", "vs-28")
    other.devices = running.devices
    other.role(Role.ACTIVE, 2)
    # What ha_manager and the Manager of the other server have: conf_ready, its holding, base copied and being written.
    shutil.copytree(running.paths.stable, other.paths.conf_ready)
    shutil.copytree(running.paths.base / "global/notifier", other.paths.base / "global/notifier")
    other.write("global/policy/rules", "half writt")
    other.paths.holding.parent.mkdir(parents=True)
    kept = {
        "highest": wire.of_version(passive.holding.highest),
        "holds": wire.of_release(passive.holding.holds),
        "staged": None,
    }
    write_json(other.paths.holding, kept)
    for each in running.devices.values():
        each.trusted.append(other.keys.show())
        each.received.clear()
    other.start()
    try:
        until(lambda: all(each.holding.highest >= Version(2, "vs-28", 1) for each in other.devices.values()))  # type: ignore[operator]
        until(lambda: all(other.row(name)["sync"] == "in sync" for name in other.devices))
        assert all(each.text("global/policy/rules") == "allow" and not each.received for each in other.devices.values())
        # The old one is ignored from now on, and says so.
        running.write("global/policy/rules", "of the old active")
        failures = running.ask("commit")["failures"]
        assert len(failures) == 3 and all("obeys another notifier: release 1 of epoch 2/vs-28" in each for each in failures)
        other.write("global/policy/rules", "of the new active")
        assert other.ask("commit")["failures"] == []
        assert all(each.text("global/policy/rules") == "of the new active" for each in other.devices.values())
    finally:
        other.stop()


def test_policy_servers_of_different_versions_get_no_commit(server: Server, tmp_path: Path) -> None:
    devices = [ToyDevice(name, tmp_path, [server.keys.show()]) for name in ("vs-166", "vs-28")]
    devices[1].package = "0.3.0"
    server.list_devices(*devices)
    server.start()
    server.until_connected()
    with pytest.raises(Refused, match=r"0\.1\.0 here, 0\.3\.0 on vs-28; install the same version on both"):
        server.ask("commit")
    assert devices[0].introduced == ["vs-28"]
    server.ask("status", now=True)
    assert not devices[1].passive, "they are no pair"


def test_a_commit_that_comes_before_the_notifier_has_begun_waits_for_it(running: Server) -> None:
    running.stop()
    running.start()
    assert running.ask("commit")["failures"] == [], "neither refused, nor called a failure before a device could be reached"


def test_bad_lists_of_devices_are_refused_with_the_line(running: Server) -> None:
    running.ask("commit")
    file = running.paths.devices
    good = file.read_text()
    file.write_text(good.replace("Management Server", "Printer"))
    with pytest.raises(Refused, match=r"devices\.xml:\d+: .*Printer"):
        running.ask("commit")
    running.stop()
    running.start()
    running.until_connected()
    assert "Printer" in running.ask("status")["refused"]
    assert any("Printer" in line for line in running.ask("explain")["lines"])
    file.write_text(good.replace('name="scan-2"', 'name="scan-3"'))
    running.ask("reload")
    assert [each["name"] for each in running.ask("status")["devices"]] == ["scan-1", "vs-28", "scan-3"]
    assert running.ask("status")["refused"] == ""
