"""The receiver as a process, real SSH on 127.0.0.1: sessions, contents, applying, what it tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
import pytest

from manager import wire
from manager.holding import Release, Version
from manager.paths import Paths
from manager.receiver import gate
from manager.receiver.trust import Trust
from notifier.bulk import Bulk
from runtime import frames
from runtime.durable import read_json
from runtime.errors import HaError
from runtime.keys import Keys
from runtime.session import KeyChanged, PeerRefused, Refusal, connect, fetch_key
from runtime.session_client import Session
from tests.unit.test_receiver import Content, content_of, tree

BULK_PORT = 20000 + os.getpid() % 10000
ONE, TWO, THREE = (Version(1, "vs-1", number) for number in (1, 2, 3))
ROLES = '<module name="Commander"><init><roles>{}</roles></init></module>'
MODULE = "<module><init/></module>"


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.02)


@dataclass
class Device:
    """A device's files below a folder, and its receiver."""

    folder: Path
    notifier: Keys
    process: subprocess.Popen[bytes]

    @property
    def paths(self) -> Paths:
        return Paths(self.folder)

    def told(self) -> dict[str, Any]:
        found = read_json(self.paths.receiver, {})
        assert isinstance(found, dict)
        return found

    def connect(self, keys: Keys | None = None) -> Session:
        own = keys or self.notifier
        other = Keys(self.paths.keys).show()
        node = own.show().node
        return connect("127.0.0.1", own, lambda: (1 if node == "vs-1" else 2, node), port=int(self.told()["port"]), other=other)

    def commit(self, session: Session, version: Version, content: Content) -> None:
        wanted, contents = tree(content)
        release = wire.of_release(Release(version, wanted.digest))
        changed = [[name, e.kind.value, e.mode, e.content, e.size] for name, e in wanted.entries.items()]
        asked: Mapping[str, Any] = {"release": release, "from": None, "gone": [], "changed": changed}
        answer = session.request("prepare", **asked)
        if answer["lacks"]:
            channel = session.subsystem("contents", 5.0)
            channel.sendall(frames.encode({"do": "begin"}))
            for sha in answer["lacks"]:
                channel.sendall(frames.encode({"sha": sha, "offset": 0, "last": True}, contents[sha]))
            channel.sendall(frames.encode({"do": "end"}))
            assert said(channel) == {"ok": True, "size": 0}
            channel.close()
        session.request("prepared", release=release)
        session.request("switch", release=release)


def said(channel: paramiko.Channel) -> dict[str, Any]:
    reader = frames.Reader()
    while data := channel.recv(4096):
        for header, _ in reader.feed(data):
            return header
    raise AssertionError("it said nothing")


def start(folder: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-m", "manager.receiver", "--root", str(folder), "--address", "127.0.0.1", "--port", "0"]
    argv += ["--bulk-port", str(BULK_PORT)]
    return subprocess.Popen([*argv, "--foreground"], env=os.environ | {"PYTHONPATH": os.getcwd()})


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    folder, notifier = tmp_path / "device", Keys(tmp_path / "vs-1")
    notifier.make("vs-1")
    Keys(Paths(folder).keys).make("scan-1")
    Trust(Paths(folder).keys).accept(notifier.show().line)
    for name in ("run/manager", "etc/Manager", "usr"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/Manager/manager.conf.xml").write_text("<manager/>")
    made = Device(folder, notifier, start(folder))
    until(lambda: made.told().get("port"))
    yield made
    made.process.terminate()
    made.process.wait(10)


def test_a_commit_is_received_applied_and_survives_a_kill(device: Device) -> None:
    session = device.connect()
    hello = session.request("hello", name="scan-1", device="7", version=wire.of_version(ONE), kind="Scanning Server")
    assert hello["holds"] is None and hello["kind_ok"] is True
    content = {
        "global/Scan/module.xml": MODULE, "global/Scan/list": "global", "7/Scan/list": "own", "8/Scan/list": "other's",
        "global/notes.txt": "no module", "global/No/readme": "no module either", "9/Nine/module.xml": MODULE,
    }  # fmt: skip
    device.commit(session, ONE, content)
    assert content_of(device.paths.conf_ready) == content
    current = device.paths.conf / "Scan/current"
    until(lambda: device.told()["applied"])
    assert content_of(current) == {"module.xml": MODULE, "list": "own"}
    assert [each.name for each in device.paths.conf.iterdir()] == ["Scan"]
    assert session.request("status", version=wire.of_version(ONE))["applied"]["version"] == wire.of_version(ONE)

    device.process.send_signal(signal.SIGKILL)
    device.process.wait()
    assert session.ended.wait(5)
    device.paths.receiver.unlink()
    (current / "list").write_text("changed here")
    device.process = start(device.folder)
    until(lambda: device.told().get("port"))
    session = device.connect()
    hello = session.request("hello", name="scan-1", device="7", version=wire.of_version(TWO))
    assert hello["holds"]["version"] == wire.of_version(ONE)
    device.commit(session, TWO, content | {"global/Other/module.xml": MODULE})
    until(lambda: (device.paths.conf / "Other/current").is_dir())
    assert (current / "list").read_text() == "changed here", "until something is committed for that module"
    device.commit(session, THREE, content | {"7/Scan/list": "newer"})
    until(lambda: (current / "list").read_text() == "newer")
    session.close()


def test_a_module_that_can_not_be_used_is_told_and_holds_no_other_up(device: Device) -> None:
    session = device.connect()
    session.request("hello", name="scan-1", version=wire.of_version(ONE))
    content = dict.fromkeys(("global/B/module.xml", "global/Commander/module.xml"), MODULE)
    device.commit(session, ONE, content | {"global/A/module.xml": "<module><init></module>"})
    until(lambda: device.told()["wrong"])
    status = session.request("status", version=wire.of_version(ONE))
    assert "A can't be applied" in status["applying_error"] and status["applied"] is None
    assert content_of(device.paths.conf) == {"B/current/module.xml": MODULE}
    good = ROLES.format('<role name="x" enabled="1"/>')
    device.commit(session, TWO, {"global/A/module.xml": MODULE, "global/Commander/module.xml": good})
    until(lambda: device.told()["applied"])
    assert (device.paths.conf / "Commander/current/module.xml").read_text() == good


def test_who_is_not_accepted_gets_nowhere_and_can_read_the_key(device: Device, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "stranger")
    stranger.make("vs-9")
    with pytest.raises(KeyChanged):
        device.connect(stranger)
    assert fetch_key("127.0.0.1", port=device.told()["port"]) == Keys(device.paths.keys).show()


def test_the_other_policy_servers_key_is_introduced(device: Device, tmp_path: Path) -> None:
    other = Keys(tmp_path / "vs-2")
    other.make("vs-2")
    session = device.connect()
    session.request("hello", name="scan-1", version=wire.of_version(ONE))
    session.request("introduce", line=other.show().line)
    told = device.connect(other).request("hello", name="scan-1", version=[2, "vs-2", 0])
    assert told["highest"] == [2, "vs-2", 0]
    with pytest.raises(PeerRefused, match="not a node key"):
        device.connect(other).request("introduce", line="nonsense")
    other.make("vs-2", force=True)
    with pytest.raises(PeerRefused) as refused:
        session.request("introduce", line=other.show().line)
    assert refused.value.code == "outdated"


def test_who_is_forgotten_has_no_session_any_more(device: Device, tmp_path: Path) -> None:
    other = Keys(tmp_path / "vs-2")
    other.make("vs-2")
    trust = Trust(device.paths.keys)
    trust.accept(other.show().line)
    session, others = device.connect(), device.connect(other)
    session.request("hello", name="scan-1", version=wire.of_version(ONE))
    trust.accepted.forget("vs-1")
    assert session.ended.wait(5.0)
    with pytest.raises(KeyChanged):
        device.connect()
    other_key = other.show()
    other.make("vs-2", force=True)
    trust.accept(other.show().line, replace=True)  # another key of the same name
    assert others.ended.wait(5.0)
    assert other_key != other.show()
    assert device.connect(other).request("hello", name="scan-1", version=[2, "vs-2", 0])["obeys"] is None


def test_a_device_that_is_given_another_key_shows_it(device: Device) -> None:
    """What `keys show` prints and what whoever enrols it sees must be the same."""
    session = device.connect()
    new = Keys(device.paths.keys).make("scan-1", force=True)
    assert device.process.wait(10) == 0 and session.ended.wait(5.0)
    device.paths.receiver.unlink()
    device.process = start(device.folder)
    until(lambda: device.told().get("port"))
    assert fetch_key("127.0.0.1", port=device.told()["port"]) == new


def test_what_an_operator_accepted_is_not_replaced_by_an_introduction(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "own")
    keys.make("scan-1")
    trust, other = Trust(tmp_path / "own"), Keys(tmp_path / "vs-2")
    other.make("vs-2")
    trust.introduce(other.show().line)
    other.make("vs-2", force=True)
    trust.introduce(other.show().line)  # a new machine of that name: its notifier says so
    assert trust.key_of("vs-2") == other.show()
    trust.accept(other.show().line)
    other.make("vs-2", force=True)
    with pytest.raises(Refusal, match="keys accept --replace"):
        trust.introduce(other.show().line)
    assert {key.node for key in trust.all()} == {"scan-1", "vs-2"}


def test_contents_out_of_order_or_unasked_end_the_channel_with_words(device: Device) -> None:
    session = device.connect()
    session.request("hello", name="scan-1", version=wire.of_version(ONE))
    channel = session.subsystem("contents", 5.0)
    channel.sendall(frames.encode({"do": "begin"}))
    channel.sendall(frames.encode({"sha": "0" * 64, "offset": 0, "last": True}, b"x"))
    answer = said(channel)
    assert answer["ok"] is False and answer["code"] == "unprepared"
    channel = session.subsystem("contents", 5.0)
    channel.sendall(b"\0\0\0\2{}")
    assert said(channel)["code"] == "malformed"
    assert session.alive


def test_large_amounts_come_by_rsync_through_the_gate(device: Device, tmp_path: Path) -> None:
    content = {"global/Scan/module.xml": MODULE, "global/Scan/link": "-> module.xml", "global/run": "x run"}
    content |= {f"global/Scan/{number}": f"number {number}" for number in range(200)}
    source = tmp_path / "source"
    laid(source, content)
    other = Keys(tmp_path / "vs-2")
    other.make("vs-2")
    session, owner = device.connect(), device.notifier
    session.request("hello", name="scan-1", version=wire.of_version(ONE))
    later: Content = {"global/Scan/7": "another", "global/new": "new"}
    for version, more in ((ONE, {}), (TWO, later), (Version(2, "vs-2", 1), later | {"global/run2": "x run"})):
        if version.node == "vs-2":  # it is accepted while sshd still runs
            Trust(device.paths.keys).accept(other.show().line)
            session, owner = device.connect(other), other
            session.request("hello", name="scan-1", version=wire.of_version(version))
        laid(source, content | more)
        wanted, _ = tree(content | more)
        release = Release(version, wanted.digest)
        changed = [[name, e.kind.value, e.mode, e.content, e.size] for name, e in wanted.entries.items()]
        asked: Mapping[str, Any] = {"release": wire.of_release(release), "from": None, "gone": [], "changed": changed}
        session.request("prepare", **asked)
        port = session.request("bulk", release=wire.of_release(release))["port"]
        (tmp_path / "ssh").mkdir(exist_ok=True)
        bulk = Bulk(tmp_path / "ssh", owner, Keys(device.paths.keys).show(), "127.0.0.1")
        with pytest.raises(HaError, match="not being prepared"):
            bulk.run(source, Release(version, "0" * 64), port, lambda: None)
        bulk.run(source, release, port, lambda: None)
        session.request("prepared", release=wire.of_release(release))
        session.request("switch", release=wire.of_release(release))
        assert content_of(device.paths.conf_ready) == content | more
    with pytest.raises(HaError, match="not being prepared"):
        bulk.run(source, release, port, lambda: None)


def laid(folder: Path, content: Content) -> None:
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.unlink(missing_ok=True)
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
            path.chmod(0o755 if text.startswith("x ") else 0o644)


@pytest.mark.parametrize(
    "command",
    [
        "", "sh", "ha-release 1 vs-1 1 d --server --sender -e.iLsfxCIvu . .", "ha-release 1 vs-1 1 d --server -ltpr . /etc",
        "ha-release 1 vs-1 1 d --server -ltprce.iLsfxCIvu --files-from=/etc/shadow . .", "ha-release x vs-1 1 d --server . .",
        "ha-release 1 vs-1 1 d --server -ltprce.iL --copy-dest=/etc . .", "ha-release 1 vs-1 1 d --server -LKe.iL . .",
        "ha-release 1 vs-1 1 d --server -ltpre.iL --partial-dir /etc . .", "ha-files 1 vs-1 1 d --server . .",
    ],
)  # fmt: skip
def test_the_gate_opens_nothing_else(command: str) -> None:
    with pytest.raises(HaError):
        gate.parse(command)


def test_the_gate_takes_what_the_notifier_says() -> None:
    words = "ha-release 1 vs-1 5 abc --server -ltprce.iLsfxCIvu --timeout=20 --delete --partial-dir .ha-partial . ."
    assert gate.parse(words)[:2] == ([1, "vs-1", 5], "abc")
