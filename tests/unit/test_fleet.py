"""Two policy servers and three scanning nodes, as processes on 127.0.0.1: the real notifier, the real receivers, real sessions.

Promise: whoever dies, and whenever, every device has one release, whole; when somebody is active again, all come to the same
one. What heartbeat would say is written into the role files here. Source: design §7; issue "Manager and notifier" ("tried with
failovers at every step of a commit").
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat.model import Epoch, Phase, Role
from heartbeat.rolefile import RoleFile, RoleLine
from manager.manifest import Manifest, for_scanners
from manager.paths import Paths
from manager.receiver.trust import Trust
from manager.tree import Known, scan
from notifier.paths import Paths as NotifierPaths
from runtime.clock import boottime
from runtime.control import Client
from runtime.durable import read_json
from runtime.errors import ControlError, HaError
from runtime.keys import Keys
from runtime.pins import Pins

SERVERS, SCANNERS = ("vs-166", "vs-28"), ("scan-1", "scan-2", "scan-3")
DEVICES = (*SERVERS, *SCANNERS)
ROOT = Path(__file__).resolve().parent.parent.parent
MODULE = "<module><init/></module>"
#: after so many changes of state of devices the active dies; a commit to five devices has about 25
DEATHS = range(1, 26) if os.environ.get("EVERY_STEP") else (1, 6, 11, 14, 17, 21)


def until(holds: Callable[[], object], what: str, limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, f"did not come true: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Fleet:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = {name: free_port() for name in DEVICES}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = open(root / "log", "wb")  # noqa: SIM115
        self.epoch, self.active = 1, "vs-166"
        #: both are active, in epochs of one number
        self.rivals = False
        self._reigns = threading.Event()
        for name in DEVICES:
            self._device(name)
        self._devices_xml()
        self.put("global/Scan/module.xml", MODULE)
        self.put("global/ps_debpackages/a.deb", "package")
        self._renew()

    def begin(self) -> None:
        threading.Thread(target=self._renew_for_ever, daemon=True).start()
        for name in DEVICES:
            self.start_receiver(name)
        for name in SERVERS:
            self.start_notifier(name)

    # --- what an administrator, a policy server and heartbeat do ------------------------------------------------------------

    def folder(self, name: str) -> Path:
        return self.root / name

    def base(self, server: str = "") -> Path:
        return NotifierPaths(self.folder(server or self.active)).base

    def _device(self, name: str) -> None:
        folder = self.folder(name)
        for each in ("etc/Manager", "run/manager", "run/heartbeat"):
            (folder / each).mkdir(parents=True)
        role = '<role name="HA"><process name="x" init_script="/x" pid_file="/y"/></role>' if name in SERVERS else ""
        (folder / "etc/Manager/manager.conf.xml").write_text(f"<manager>{role}</manager>")
        keys = Keys(Paths(folder).keys)
        keys.make(name)
        if name != self.active:
            Trust(Paths(folder).keys).accept(Keys(Paths(self.folder(self.active)).keys).show().line)

    def _devices_xml(self) -> None:
        lines = []
        for name in DEVICES:
            kind = "Management Server" if name in SERVERS else "Scanning Server"
            lines.append(f'<device name="{name}" ip="127.0.0.1" port="{self.ports[name]}" device_type="{kind}"/>')
            Pins(NotifierPaths(self.folder(self.active)).device_keys).pin(Keys(Paths(self.folder(name)).keys).show())
        self.put("global/notifier/devices.xml", f"<devices>{''.join(lines)}</devices>")

    def put(self, name: str, text: str) -> None:
        file = self.base() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _renew_for_ever(self) -> None:
        while not self._reigns.wait(0.5):
            self._renew()

    def _renew(self) -> None:
        """As heartbeat does at every keepalive."""
        for name in SERVERS:
            active = name == self.active or self.rivals
            role, phase = (Role.ACTIVE, Phase.ACTIVE) if active else (Role.PASSIVE, Phase.PASSIVE)
            epoch = Epoch(self.epoch, name if active else self.active)
            line = RoleLine(role, epoch, boottime() + 3, phase, active, False)
            with contextlib.suppress(OSError):
                RoleFile(self.folder(name) / "run/heartbeat/role").write(line)

    def fail_over(self) -> None:
        """The other server becomes the active one, with ha_manager's step: conf_ready becomes base."""
        heir = next(name for name in SERVERS if name != self.active)
        self.epoch, self.active = self.epoch + 1, heir
        self._renew()
        conf_ready, base = self.folder(heir) / "var/wasp/conf_ready", self.base(heir)
        shutil.rmtree(base, ignore_errors=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(conf_ready, base, symlinks=True)

    # --- processes ------------------------------------------------------------------------------------------------------------

    def _start(self, name: str, *argv: str) -> None:
        env = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
        self.processes[name] = subprocess.Popen([sys.executable, "-P", "-m", *argv], env=env, stderr=self.log, stdout=self.log)

    def start_receiver(self, name: str) -> None:
        words = ["--address", "127.0.0.1", "--port", str(self.ports[name]), "--foreground"]
        (self.folder(name) / "run/manager/receiver.json").unlink(missing_ok=True)
        self._start(name, "manager.receiver", "--root", str(self.folder(name)), *words)
        until(lambda: (self.told(name)).get("port"), f"the receiver of {name}")

    def start_notifier(self, server: str) -> None:
        self._start(f"notifier {server}", "notifier.daemon", "--foreground", "--root", str(self.folder(server)))
        until(lambda: self._answers(server), f"the notifier of {server}")

    def _answers(self, server: str) -> bool:
        try:
            with Client(NotifierPaths(self.folder(server)).control, 1.0) as client:
                client.request("status")
            return True
        except ControlError:
            return False

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def close(self) -> None:
        self._reigns.set()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.log.close()

    # --- asking ---------------------------------------------------------------------------------------------------------------

    def told(self, name: str) -> dict[str, Any]:
        found = read_json(self.folder(name) / "run/manager/receiver.json", {})
        return found if isinstance(found, dict) else {}

    def received(self, name: str) -> int:
        """Bytes that have come over the connections with a device that stand now."""
        words = ["ss", "-tinHO", "state", "established", "sport", "=", f":{self.ports[name]}"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return sum(int(each) for each in re.findall(r"bytes_received:(\d+)", said))

    def commit(self, dies_after: int = 0, only: tuple[str, ...] = ()) -> list[str]:
        """Failures. ``dies_after``: so many changes of state, then the active is dead: its notifier and its receiver."""
        count = 0

        def on_push(push: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count == dies_after:
                self.signal(f"notifier {self.active}", signal.SIGKILL)
                self.signal(self.active, signal.SIGKILL)

        try:
            with Client(NotifierPaths(self.folder(self.active)).control, 60.0) as client:
                fields = {"only": list(only)} if only else {}
                return list(client.request("commit", fields, timeout=60.0, on_push=on_push)["failures"])
        except ControlError:
            if not dies_after:
                raise
            return ["the notifier died"]

    def status(self) -> dict[str, Any]:
        """Of the active's notifier."""
        with Client(NotifierPaths(self.folder(self.active)).control, 5.0) as client:
            return client.request("status")

    def in_force(self, name: str) -> Manifest:
        return scan(self.folder(name) / "var/wasp/conf_ready", Known())

    def shared(self, name: str) -> str:
        """Digest of what every device gets."""
        held = for_scanners(self.in_force(name))
        return Manifest({each: entry for each, entry in held.entries.items() if not _private(each)}).digest

    def until_all_have(self, text: str, names: tuple[str, ...] = DEVICES, limit: float = 60.0) -> None:
        def have() -> bool:
            with contextlib.suppress(OSError, HaError):
                return all((self.folder(name) / "var/wasp/conf_ready/global/Scan/list").read_text() == text for name in names)
            return False

        until(have, f"{', '.join(names)} have {text!r}", limit)
        assert len({self.shared(name) for name in names}) == 1

    def explain(self) -> str:
        return (self.root / "log").read_text(errors="replace")[-8000:]


def _private(name: str) -> bool:
    return name == "global/notifier" or name.startswith("global/notifier/")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.begin()
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def fleet(built: Fleet) -> Iterator[Fleet]:
    try:
        yield built
    except BaseException:
        print(built.explain())
        raise


def test_a_commit_reaches_every_device_each_with_its_part(fleet: Fleet) -> None:
    fleet.put("global/Scan/list", "one")
    fleet.put("scan-2/Scan/list", "special")
    until(lambda: fleet.commit() == [], "a commit without failures")
    fleet.until_all_have("one")
    until(lambda: fleet.told("scan-2").get("applied"), "applied")
    applied = fleet.folder("scan-2") / "var/wasp/conf/Scan/current/list"
    until(lambda: applied.exists() and applied.read_text() == "special", "the device's own part goes before global")
    packages = [name for name in DEVICES if "global/ps_debpackages/a.deb" in fleet.in_force(name).entries]
    private = [name for name in DEVICES if "global/notifier/devices.xml" in fleet.in_force(name).entries]
    assert packages == private == list(SERVERS)


def test_only_differences_travel_and_of_an_unchanged_tree_nothing(fleet: Fleet) -> None:
    for number in range(30):
        fleet.put(f"global/Large/{number}", os.urandom(50_000).hex())
    before = {name: fleet.received(name) for name in DEVICES}
    assert fleet.commit() == []
    assert all(fleet.received(name) - before[name] > 3_000_000 for name in DEVICES)
    for change, most in ((None, 20_000), ("global/Large/7", 120_000 + 20_000)):
        if change is not None:
            fleet.put(change, os.urandom(50_000).hex())
            shutil.move(fleet.base() / "global/Large/8", fleet.base() / "global/Large/renamed")
        before = {name: fleet.received(name) for name in DEVICES}
        assert fleet.commit() == []
        assert all(0 < fleet.received(name) - before[name] < most for name in DEVICES)
    assert len({fleet.shared(name) for name in DEVICES}) == 1
    assert "global/Large/renamed" in fleet.in_force("scan-1").entries
    shutil.rmtree(fleet.base() / "global/Large")
    assert fleet.commit() == []


def test_a_limited_commit_reaches_only_those_and_the_next_one_all(fleet: Fleet) -> None:
    fleet.put("global/Scan/list", "update")
    assert fleet.commit(only=("scan-2",)) == []
    fleet.until_all_have("update", ("scan-2",))
    assert len({fleet.shared(name) for name in DEVICES if name != "scan-2"}) == 1 != len({fleet.shared(n) for n in DEVICES})
    assert fleet.commit() == []
    fleet.until_all_have("update")


def test_a_device_that_hangs_or_is_dead_gets_it_later(fleet: Fleet) -> None:
    fleet.signal("scan-1", signal.SIGKILL)
    fleet.signal("scan-3", signal.SIGSTOP)
    try:
        fleet.put("global/Scan/list", "two")
        failures = fleet.commit()
        assert len(failures) == 2 and "hangs" in " ".join(failures)
        fleet.until_all_have("two", (*SERVERS, "scan-2"))
    finally:  # whatever fails here, the next tests have their devices
        fleet.signal("scan-3", signal.SIGCONT)
        fleet.start_receiver("scan-1")
    fleet.until_all_have("two")


def test_a_device_with_another_key_gets_nothing(fleet: Fleet) -> None:
    keys = Paths(fleet.folder("scan-2")).keys
    fleet.signal("scan-2", signal.SIGKILL)
    kept = {name: (keys / name).read_text() for name in ("node.key", "node.pub")}
    Keys(keys).make("scan-2", force=True)
    fleet.start_receiver("scan-2")
    fleet.put("global/Scan/list", "three")
    (failure,) = fleet.commit()
    assert "scan-2" in failure
    fleet.until_all_have("three", (*SERVERS, "scan-1", "scan-3"))
    assert (fleet.folder("scan-2") / "var/wasp/conf_ready/global/Scan/list").read_text() == "two"
    fleet.signal("scan-2", signal.SIGKILL)
    for name, text in kept.items():
        (keys / name).write_text(text)
    fleet.start_receiver("scan-2")
    fleet.until_all_have("three")


def test_a_devices_xml_that_can_not_be_used_changes_nothing(fleet: Fleet) -> None:
    good = (fleet.base() / "global/notifier/devices.xml").read_text()
    for bad in (good[:-20], good.replace("scan-1", "scan-2"), good.replace("Scanning Server", "Toaster"), ""):
        fleet.put("global/notifier/devices.xml", bad)
        fleet.put("global/Scan/list", "never")
        with pytest.raises(ControlError, match=r"devices\.xml"):
            fleet.commit()
    fleet.put("global/notifier/devices.xml", good)
    fleet.until_all_have("three")


def test_two_rivals_leave_every_device_with_the_configuration_of_the_one_that_stays(fleet: Fleet) -> None:
    """Both went on alone, and both reach the devices. The one that yields is the one whose notifier they obeyed meanwhile."""
    stays, yields = "vs-166", "vs-28"
    assert fleet.active == stays
    shutil.copytree(fleet.base(stays), fleet.base(yields), dirs_exist_ok=True)
    fleet.rivals, fleet.epoch = True, fleet.epoch + 1
    fleet._renew()
    for server in (stays, yields):
        fleet.active = server
        until(lambda: fleet.status()["epoch"] == [fleet.epoch, fleet.active], "both to act")
        fleet.put("global/Scan/list", f"of {server}")
        fleet.commit()
    fleet.until_all_have(f"of {yields}", (yields, *SCANNERS))
    fleet.until_all_have(f"of {stays}", (stays,))
    fleet.active, fleet.rivals = stays, False
    fleet._renew()
    fleet.until_all_have(f"of {stays}")


@pytest.mark.parametrize("step", DEATHS)
def test_whenever_the_active_dies_in_a_commit_all_come_to_one_configuration(fleet: Fleet, step: int) -> None:
    before = {name: fleet.shared(name) for name in DEVICES}
    assert len(set(before.values())) == 1
    dead, text = fleet.active, f"after {step}"
    fleet.put("global/Scan/list", text)
    for number in range(20):
        fleet.put(f"global/Scan/more-{number}", f"{number} {text}")
    fleet.commit(dies_after=step)
    if fleet.processes[dead].poll() is None:  # the commit was through before that
        fleet.signal(f"notifier {dead}", signal.SIGKILL)
        fleet.signal(dead, signal.SIGKILL)
    manifests = {name: fleet.in_force(name) for name in DEVICES}
    for name, manifest in manifests.items():
        file = fleet.folder(name) / "var/wasp/conf_ready/global/Scan/list"
        changed = [each for each in manifest.entries if each.startswith("global/Scan/more-")]
        is_new = file.read_text() == text
        texts = {(file.parent / Path(each).name).read_text().split(" ", 1)[1] for each in changed}
        assert texts in ({text}, set()) if is_new else text not in texts, f"{name} has half of it"
    fleet.fail_over()
    fleet.start_receiver(dead)
    fleet.start_notifier(dead)
    decided = (fleet.folder(fleet.active) / "var/wasp/conf_ready/global/Scan/list").read_text()
    fleet.until_all_have(decided)
    fleet.put("global/Scan/list", f"again {step}")
    until(lambda: fleet.commit() == [], "a commit by the new active")
    fleet.until_all_have(f"again {step}")
