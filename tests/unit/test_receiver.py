"""The receiving side without a network: whole or not at all, durable before it is answered, hostile words refused.

The tests that end a process do so between any two changes on the disk, in a child, so that no clean-up of Python's helps.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from manager import wire
from manager.holding import Release, Version
from manager.manifest import Entry, Kind, Manifest
from manager.receiver import service
from manager.receiver.memory import Memory, Store
from manager.receiver.service import Receiver
from manager.receiver.trees import Trees
from manager.tree import Known, scan
from runtime.errors import ConfigError, HaError
from runtime.session import Caller, Refusal

Content = dict[str, str]
DIED = 9


class Device:
    """A receiver on a folder of its own, and what a notifier would say to it."""

    def __init__(self, folder: Path, node: str = "scan-1", before: Callable[[str], None] = lambda what: None) -> None:
        self.folder, self.node = folder, node
        self.active: int | None = None
        self.is_policy_server = True
        self.sessions: frozenset[str] = frozenset()
        self.to_apply = 0
        self.adopted_by: list[str] = []
        self.introduced: list[tuple[str, str]] = []
        self.switches = 0
        self.conf_ready = folder / "conf_ready"
        self.trees = Trees(self.conf_ready, folder / "state", before)

        class Counting(Store):
            def save(self, memory: Memory) -> None:
                before("save")
                super().save(memory)

        self.receiver = Receiver(self.trees, Counting(folder / "state"), self)
        self.receiver.begin()

    # Home
    def active_in(self) -> int | None:
        return self.active

    def state(self) -> Mapping[str, Any]:
        return {"mode": "active", "alarms": {}}

    def present(self) -> frozenset[str]:
        return self.sessions

    def room(self, wanted: Manifest, device: str) -> int:
        return self.to_apply

    def policy_server(self) -> bool:
        return self.is_policy_server

    def adopted(self, by: str) -> None:
        self.adopted_by.append(by)

    def introduce(self, by: str, line: str) -> None:
        self.introduced.append((by, line))

    def switched(self) -> None:
        self.switches += 1

    # what a notifier does
    def ask(self, do: str, by: str = "vs-1", epoch: int = 1, **fields: Any) -> Mapping[str, Any]:
        caller = Caller(by, "127.0.0.1", (epoch, by), 5.0)
        return self.receiver.handlers()[do](fields, caller)

    def hello(self, version: Version, by: str = "vs-1", **more: Any) -> Mapping[str, Any]:
        return self.ask("hello", by, name=self.node, device="7", version=wire.of_version(version), **more)

    def prepare(self, release: Release, wanted: Manifest, base: Manifest | None = None, by: str = "vs-1") -> list[str]:
        old = base.entries if base else {}
        new = {name: entry for name, entry in wanted.entries.items() if old.get(name) != entry}
        delta = {
            "gone": sorted(old.keys() - wanted.entries.keys()),
            "changed": [[name, e.kind.value, e.mode, e.content, e.size] for name, e in new.items()],
        }
        answer = self.ask(
            "prepare", by, release=wire.of_release(release), **delta, **({"from": base.digest} if base else {"from": None})
        )
        return list(answer["lacks"])

    def send(self, lacks: list[str], contents: Mapping[str, bytes]) -> None:
        for sha in lacks:
            coming = self.receiver.incoming(sha)
            coming.add(contents[sha])
            coming.finish()

    def commit(self, version: Version, content: Content, base: Manifest | None = None, by: str = "vs-1") -> Release:
        wanted, contents = tree(content)
        release = Release(version, wanted.digest)
        self.send(self.prepare(release, wanted, base, by), contents)
        self.ask("prepared", by, release=wire.of_release(release))
        self.ask("switch", by, release=wire.of_release(release))
        self.receiver.settle()
        return release

    def in_force(self) -> Content:
        return content_of(self.conf_ready)


def tree(content: Content) -> tuple[Manifest, dict[str, bytes]]:
    """Names → text; a name that ends in "/" is a folder, text that begins with "-> " a link, with "x " an executable."""
    entries: dict[str, Entry] = {}
    contents: dict[str, bytes] = {}
    for name, text in content.items():
        above = name.rstrip("/").split("/")[:-1]
        for depth in range(len(above)):
            entries["/".join(above[: depth + 1])] = Entry(Kind.FOLDER, 0o755)
        if name.endswith("/"):
            entries[name[:-1]] = Entry(Kind.FOLDER, 0o750)
        elif text.startswith("-> "):
            entries[name] = Entry(Kind.LINK, 0o777, text[3:])
        else:
            data = text.encode()
            sha = hashlib.sha256(data).hexdigest()
            contents[sha] = data
            entries[name] = Entry(Kind.FILE, 0o755 if text.startswith("x ") else 0o644, sha, len(data))
    return Manifest(entries), contents


def content_of(folder: Path) -> Content:
    found: Content = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
        elif not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def digest(folder: Path) -> str:
    return scan(folder, Known(), looks=1).digest


OLD: Content = {
    "global/A/module.xml": "a1", "global/B/module.xml": "b1", "global/B/lists/deny": "same", "global/gone/x": "x1",
    "global/kind": "a file", "global/run": "x run", "global/empty/": "", "global/link": "-> A/module.xml", "vs-1/A/m": "7",
}  # fmt: skip
NEW: Content = {
    "global/A/module.xml": "a2", "global/B/module.xml": "b1", "global/B/lists/deny": "same", "global/C/copy": "a1",
    "global/kind/inside": "now a folder", "global/run": "x run", "global/run2": "x run", "global/empty": "now a file",
    "global/link": "-> /etc/shadow", "vs-1/A/m": "7", "vs-1/A/moved": "x1",
}  # fmt: skip
ONE, TWO, THREE = (Version(1, "vs-1", number) for number in (1, 2, 3))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_releases_become_conf_ready_one_after_the_other(device: Device) -> None:
    device.hello(ONE)
    for number, content in enumerate((OLD, NEW, OLD, {}, NEW), 1):
        release = device.commit(Version(1, "vs-1", number), content)
        assert device.in_force() == content and digest(device.conf_ready) == release.digest
        again = Device(device.folder)
        assert again.hello(release.version)["holds"] == wire.of_release(release)
    assert device.switches == 5


def test_there_is_no_conf_ready_before_the_first_release(device: Device) -> None:
    """On becoming active, ha_manager would make base of an empty one."""
    device.hello(ONE)
    device.receiver.settle()
    assert not device.conf_ready.exists()
    wanted, contents = tree(OLD)
    release = Release(ONE, wanted.digest)
    device.send(device.prepare(release, wanted), contents)
    device.ask("prepared", release=wire.of_release(release))
    assert not device.conf_ready.exists()
    device.ask("switch", release=wire.of_release(release))
    assert device.in_force() == OLD


def test_wherever_it_ends_in_the_first_release_the_next_one_goes_on(tmp_path: Path) -> None:
    at = 0
    died = True
    while died:
        at += 1
        folder = tmp_path / str(at)
        died = dies(folder, at, lambda device: device.commit(ONE, NEW))
        device = Device(folder)
        assert not device.conf_ready.exists() or device.in_force() == NEW
        device.commit(TWO, OLD)
        assert device.in_force() == OLD
    assert at > 15


def test_only_what_is_new_must_travel(device: Device) -> None:
    device.hello(ONE)
    device.commit(ONE, OLD)
    base, wanted = tree(OLD)[0], tree(NEW)[0]
    lacks = device.prepare(Release(TWO, wanted.digest), wanted, base)
    texts = {sha: data.decode() for sha, data in tree(NEW)[1].items()}
    assert {texts[sha] for sha in lacks} == {"a2", "now a folder", "now a file"}


def test_what_does_not_change_is_a_hard_link(device: Device) -> None:
    device.hello(ONE)
    device.commit(ONE, OLD)
    staging = device.trees.staging
    assert digest(staging) == digest(device.conf_ready)
    assert (staging / "vs-1/A/m").samefile(device.conf_ready / "vs-1/A/m")
    before = (device.conf_ready / "vs-1/A/m").stat().st_ino
    device.commit(TWO, NEW, tree(OLD)[0])
    assert (device.conf_ready / "vs-1/A/m").stat().st_ino == before
    assert (device.conf_ready / "global/run").stat().st_mode & 0o777 == 0o755


def test_a_release_that_is_in_force_already_is_only_noted(device: Device) -> None:
    device.hello(ONE)
    device.commit(ONE, OLD)
    release = Release(TWO, tree(OLD)[0].digest)
    inode = device.conf_ready.stat().st_ino
    assert device.ask("switch", release=wire.of_release(release))["step"] == "note"
    assert device.conf_ready.stat().st_ino == inode
    assert Device(device.folder).hello(TWO)["holds"] == wire.of_release(release)


def test_content_with_two_modes_is_two_files(device: Device) -> None:
    device.hello(ONE)
    wanted, contents = tree({"a": "x same", "b": "other"})
    entries = dict(wanted.entries)
    entries["c"] = Entry(Kind.FILE, 0o600, entries["a"].content, entries["a"].size)
    for number, names in enumerate((("a", "c"), ("c",), ("a", "c")), 1):
        wanted = Manifest({name: entries[name] for name in (*names, "b")})
        release = Release(Version(1, "vs-1", number), wanted.digest)
        device.send(device.prepare(release, wanted), contents)
        device.ask("prepared", release=wire.of_release(release))
        device.ask("switch", release=wire.of_release(release))
        device.receiver.settle()
        assert digest(device.conf_ready) == wanted.digest


# --- who is listened to -----------------------------------------------------------------------------------------------------


def refusal(do: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        do()
    return refused.value


def test_an_old_notifier_is_refused_from_the_first_word_of_the_new_one_on(device: Device) -> None:
    device.hello(ONE)
    device.commit(ONE, OLD)
    wanted, contents = tree(NEW)
    release = Release(TWO, wanted.digest)
    device.send(device.prepare(release, wanted), contents)
    device.ask("prepared", release=wire.of_release(release))
    device.hello(Version(2, "vs-2", 0), by="vs-2")
    refused = refusal(lambda: device.ask("switch", release=wire.of_release(release)))
    assert (refused.fields["code"], refused.fields["highest"]) == ("outdated", [2, "vs-2", 0])
    assert device.in_force() == OLD
    assert device.hello(TWO)["obeys"] == [2, "vs-2", 0]
    assert refusal(lambda: Device(device.folder).prepare(release, wanted)).fields["code"] == "outdated"


def test_a_server_that_is_active_takes_nothing_of_an_epoch_before(device: Device) -> None:
    device.hello(ONE)
    device.active = 2
    refused = refusal(lambda: device.commit(TWO, OLD))
    assert refused.fields["code"] == "outdated" and refused.fields["highest"][0] == 2
    device.commit(Version(2, "scan-1", 1), OLD, by="scan-1")


def test_a_server_that_is_active_takes_nothing_of_a_rival_whose_epoch_has_the_same_number(device: Device) -> None:
    device.active = 2
    own, rivals = Version(2, "scan-1", 1), Version(2, "vs-2", 1)
    device.commit(own, OLD, by="scan-1")
    assert own < rivals and device.hello(rivals, by="vs-2")["obeys"] is not None
    assert refusal(lambda: device.commit(rivals, NEW, by="vs-2")).fields["code"] == "outdated"
    assert device.in_force() == OLD


def test_of_two_rivals_one_that_is_there_is_obeyed(device: Device) -> None:
    """Two actives whose epochs have the same number: the one that is named higher, until it lays down its notifier's work."""
    low, high = Version(2, "vs-166", 7), Version(2, "vs-28", 1)
    device.hello(low, by="vs-166")
    device.commit(low, OLD, by="vs-166")
    device.sessions = frozenset({"vs-166", "vs-28"})
    device.hello(high, by="vs-28")
    device.commit(high, NEW, by="vs-28")
    told = device.ask("status", by="vs-166", version=wire.of_version(low))
    assert told["obeys"] == wire.of_version(high)
    assert refusal(lambda: device.commit(low, OLD, by="vs-166")).fields["highest"] == wire.of_version(high)
    assert device.in_force() == NEW

    device.sessions = frozenset({"vs-166"})
    assert device.ask("status", by="vs-166", version=wire.of_version(low))["obeys"] is None
    assert device.in_force() == NEW and device.receiver.memory.holding.highest == high
    device.commit(Version(2, "vs-166", 8), OLD, by="vs-166")
    again = Device(device.folder)
    assert again.in_force() == OLD and again.receiver.memory.holding.highest == Version(2, "vs-166", 8)
    # one of an epoch before is never obeyed, whoever is there
    assert refusal(lambda: again.commit(Version(1, "vs-28", 9), NEW, by="vs-28")).fields["code"] == "outdated"


def test_is_passive_makes_it_listen_to_the_other_notifier_until_it_becomes_active(tmp_path: Path) -> None:
    device = Device(tmp_path, node="vs-2")
    device.commit(Version(0, "vs-2", 5), OLD, by="vs-2")
    told = device.ask("status", by="vs-1", isPassive=True, version=[0, "vs-1", 3])
    assert told["listens"] == "vs-1" and device.adopted_by == ["vs-1"]
    device = Device(tmp_path, node="vs-2")
    assert refusal(lambda: device.commit(Version(0, "vs-2", 6), NEW, by="vs-2")).fields["to"] == "vs-1"
    device.commit(Version(1, "vs-1", 4), NEW, by="vs-1")
    device.active = 2
    assert refusal(lambda: device.ask("status", by="vs-1", isPassive=True, version=[1, "vs-1", 9])).fields["code"] == "outdated"
    device.commit(Version(2, "vs-2", 1), OLD, by="vs-2")
    assert device.receiver.memory.passive_of == ""
    device.active = None
    assert refusal(lambda: device.ask("status", by="vs-1", isPassive=True, version=[1, "vs-1", 9])).fields["code"] == "outdated"
    assert device.ask("status", by="vs-1", isPassive=True, version=[3, "vs-1", 0])["listens"] == "vs-1"


def test_a_scanning_node_becomes_nobodys_passive(device: Device) -> None:
    device.is_policy_server = False
    assert refusal(lambda: device.ask("status", isPassive=True, version=[0, "vs-1", 3])).fields["code"] == "kind"


def test_only_who_is_listened_to_introduces(device: Device) -> None:
    device.sessions = frozenset({"vs-1", "vs-2"})
    device.hello(TWO)
    device.commit(THREE, OLD)
    device.ask("introduce", line="line")
    assert device.introduced == [("vs-1", "line")]
    device.hello(Version(1, "vs-2", 1), by="vs-2")
    assert refusal(lambda: device.ask("introduce", line="x")).fields["code"] == "outdated"


def test_another_name_than_its_own_is_refused(device: Device) -> None:
    refused = refusal(lambda: device.ask("hello", name="scan-2", version=wire.of_version(ONE)))
    assert refused.fields["node"] == "scan-1"


# --- hostile and broken -----------------------------------------------------------------------------------------------------

GOOD = "0" * 64
BAD_ENTRIES: list[Any] = [
    ["../up", "f", 420, GOOD, 1], ["/etc/passwd", "f", 420, GOOD, 1], ["a/../b", "f", 420, GOOD, 1], ["", "f", 420, GOOD, 1],
    ["no/folder", "f", 420, GOOD, 1], ["a\0b", "f", 420, GOOD, 1], ["suid", "f", 0o4755, GOOD, 1], ["short", "f", 420, "ab", 1],
    ["up", "f", 420, "../../etc/passwd".ljust(64, "/"), 1], ["upper", "f", 420, "A" * 64, 1], ["neg", "f", 420, GOOD, -1],
    ["kind", "p", 420, "", 0], ["lone\ud800", "f", 420, GOOD, 1], ["link", "l", 511, "", 0], ["bool", "f", True, GOOD, 1],
    ["x", "f"], "text", None, 7, ["n" * 5000, "d", 493, "", 0], ["link", "l", 511, "a", 0, 0],
]  # fmt: skip


@pytest.mark.parametrize("entry", BAD_ENTRIES, ids=range(len(BAD_ENTRIES)))
def test_hostile_entries_are_refused_and_change_nothing(device: Device, entry: Any) -> None:
    device.commit(ONE, OLD)
    release = {"version": wire.of_version(TWO), "digest": GOOD}
    for given in ([entry], [["good", "d", 493, "", 0], entry]):
        refused = refusal(lambda given=given: device.ask("prepare", release=release, gone=[], changed=given))  # type: ignore[misc]
        assert refused.fields["code"] == "malformed"
    assert device.in_force() == OLD and Device(device.folder).hello(ONE)["holds"]["version"] == wire.of_version(ONE)


BAD_RELEASES: list[Any] = [
    None, 7, {}, {"version": [1, "vs-1", 2]},
    {"version": [1, "vs-1"], "digest": GOOD}, {"version": [1, "vs-1", 2], "digest": "../x"},
    {"version": [-1, "vs-1", 2], "digest": GOOD}, {"version": [1, "", 2], "digest": GOOD},
    {"version": [True, "a", 2], "digest": GOOD},
    {"version": [1, "v" * 64, 2], "digest": GOOD}, {"version": "1", "digest": GOOD},
    {"version": [1, "vs-1", 2], "digest": GOOD.upper() + "A"},
]  # fmt: skip


@pytest.mark.parametrize("release", BAD_RELEASES, ids=range(len(BAD_RELEASES)))
@pytest.mark.parametrize("do", ["prepare", "prepared", "switch"])
def test_what_is_no_release_is_refused(device: Device, do: str, release: Any) -> None:
    fields = {"release": release, "gone": [], "changed": []}
    assert refusal(lambda: device.ask(do, **fields)).fields["code"] == "malformed"


@pytest.mark.parametrize(
    "fields", [{"part": 2, "parts": 2}, {"part": 0}, {"part": 1, "parts": 10**6}, {"part": "1"}, {"gone": 7}]
)
def test_parts_that_make_no_sense_are_refused(device: Device, fields: dict[str, Any]) -> None:
    release = wire.of_release(Release(ONE, tree(OLD)[0].digest))
    given = {"release": release, "gone": [], "changed": []} | fields
    assert refusal(lambda: device.ask("prepare", **given)).fields["code"] == "malformed"


def test_a_difference_to_something_unknown_is_told_apart(device: Device) -> None:
    wanted = tree(NEW)[0]
    assert refusal(lambda: device.prepare(Release(ONE, wanted.digest), wanted, tree(OLD)[0])).fields["code"] == "base"
    assert refusal(lambda: device.prepare(Release(ONE, GOOD), wanted)).fields["code"] == "base"


def test_damaged_or_unasked_contents_are_refused(device: Device) -> None:
    wanted, contents = tree(OLD)
    release = Release(ONE, wanted.digest)
    assert refusal(lambda: device.receiver.incoming(GOOD)).fields["code"] == "unprepared"
    sha, *_ = device.prepare(release, wanted)
    assert refusal(lambda: device.receiver.incoming(GOOD)).fields["code"] == "unprepared"
    coming = device.receiver.incoming(sha)
    with pytest.raises(HaError, match="longer"):
        coming.add(contents[sha] + b"!")
    coming = device.receiver.incoming(sha)
    coming.add(b"?" * len(contents[sha]))
    with pytest.raises(HaError, match="damaged"):
        coming.finish()
    assert refusal(lambda: device.ask("prepared", release=wire.of_release(release))).fields["code"] == "unprepared"
    assert refusal(lambda: device.ask("switch", release=wire.of_release(release))).fields["code"] == "unprepared"
    assert device.in_force() == {}


def test_a_tree_that_somebody_else_changed_is_made_right_by_the_next_release(device: Device) -> None:
    device.commit(ONE, OLD)
    (device.conf_ready / "global/A/module.xml").write_text("tampered")
    shutil.rmtree(device.conf_ready / "global/B")
    os.symlink("/etc", device.trees.staging / "etc")
    again = Device(device.folder)
    assert again.hello(ONE)["holds"] is None
    again.commit(TWO, OLD)
    assert again.in_force() == OLD


def test_a_staging_tree_that_is_changed_while_prepared_is_made_right(device: Device) -> None:
    device.commit(ONE, OLD)
    (device.trees.staging / "global/B/module.xml").write_text("tampered")  # the same file as conf_ready's
    with pytest.raises(Refusal, match=r"not received|should be"):
        device.commit(TWO, NEW, tree(OLD)[0])
    device.commit(TWO, NEW)
    assert device.in_force() == NEW


def test_a_link_in_the_tree_leads_nowhere(device: Device, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    device.commit(ONE, {"way": f"-> {outside}"})
    device.commit(TWO, {"way/in": "content"})
    assert list(outside.iterdir()) == [] and device.in_force() == {"way/in": "content"}


def test_a_full_disk_is_told_and_given_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.commit(ONE, OLD)
    monkeypatch.setattr(service, "SPARE", 1 << 60)
    refused = refusal(lambda: device.commit(TWO, NEW))
    assert refused.fields["code"] == "full" and refused.fields["needs"] > 0
    assert device.in_force() == OLD and list(device.trees.incoming.iterdir()) == []


def test_what_could_be_received_and_not_put_in_place_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.commit(ONE, OLD)
    monkeypatch.setattr(Trees, "free", property(lambda trees: service.SPARE + 1000))
    wanted, _ = tree(OLD | {"global/A/list": "x" * 600})
    device.to_apply = 601
    refused = refusal(lambda: device.prepare(Release(TWO, wanted.digest), wanted))
    assert refused.fields["code"] == "full" and refused.fields["needs"] > 1200
    assert "601 bytes more to put it in place" in str(refused)
    device.to_apply = 300
    assert device.prepare(Release(TWO, wanted.digest), wanted)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_disk_that_is_really_full_keeps_what_is_in_force(tmp_path: Path) -> None:
    """A file system that lacks inodes, then bytes: what is free does not tell beforehand."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,nr_inodes=60", "tmpfs", folder], check=True)
    try:
        device = Device(folder)
        device.commit(ONE, OLD)
        many = OLD | {f"global/many/{number}": f"number {number}" for number in range(100)}
        with pytest.raises(OSError, match="No space left") as full:
            device.commit(TWO, many)
        assert "Make room there" in service.full(full.value) and str(folder) in service.full(full.value)
        device.receiver.make_room()
        wanted, contents = tree(OLD | {"global/more": "more"})
        lacks = device.prepare(Release(TWO, wanted.digest), wanted)
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        with pytest.raises(OSError, match="No space left"):
            device.send(lacks, contents)
        refused = refusal(lambda: device.ask("prepared", release=wire.of_release(Release(TWO, wanted.digest))))
        assert refused.fields["code"] in ("unprepared", "full")
        assert device.in_force() == OLD and Device(folder).in_force() == OLD
        (folder / "filler").unlink()
        again = Device(folder)
        again.commit(THREE, OLD | {"global/more": "more"})
        assert again.in_force() == OLD | {"global/more": "more"}
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_damaged_memory_is_an_error_that_names_the_file(device: Device) -> None:
    device.commit(ONE, OLD)
    file = device.folder / "state/holding.json"
    for text in ("{", '{"highest": [1]}', '{"holds": {}}', "[]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"holding\.json"):
            Device(device.folder)


# --- the end of the process, anywhere -----------------------------------------------------------------------------------------


def dies(folder: Path, at: int, do: Callable[[Device], object]) -> bool:
    """Let a child do it and die before its ``at``-th change on the disk; False: it came to its end before."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def before(what: str) -> None:
            nonlocal count
            count += 1
            if count == at:
                os._exit(DIED)

        try:
            do(Device(folder, before=before))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED


def test_wherever_it_ends_conf_ready_is_whole_and_the_next_one_goes_on(tmp_path: Path) -> None:
    whole = {tree(content)[0].digest: content for content in (OLD, NEW)}
    at, seen = 0, []
    while True:
        at += 1
        folder = tmp_path / str(at)
        Device(folder).commit(ONE, OLD)
        died = dies(folder, at, lambda device: device.commit(TWO, NEW, tree(OLD)[0]))
        assert digest(folder / "conf_ready") in whole
        device = Device(folder)
        told = device.hello(TWO)
        assert told["holds"]["digest"] == digest(device.conf_ready)
        seen.append(whole[told["holds"]["digest"]] == NEW)
        if told["staged"] is not None:  # what it said to be prepared is; a switch must not fail
            device.ask("switch", release=told["staged"])
            assert device.in_force() == NEW
        else:
            device.commit(TWO, NEW)
        assert device.in_force() == NEW
        device.commit(THREE, OLD, tree(NEW)[0])
        assert device.in_force() == OLD
        shutil.rmtree(folder)
        if not died:
            break
    assert at > 30 and seen[0] is False and seen[-1] is True
    assert seen == sorted(seen), "once in force, it stays in force"
