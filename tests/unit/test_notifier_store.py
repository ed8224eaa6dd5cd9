"""What was committed is kept whole: whatever becomes of base, and wherever the notifier dies."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from manager.holding import Release, Version
from manager.manifest import Kind, Unusable
from manager.tree import Known, scan
from notifier import model, stable, store
from notifier.store import Saved, Store, StoreError
from runtime.errors import ConfigError
from runtime.filesystem import exchange


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.base, self.stable, self.folder = root / "base", root / "stable", root / "state"
        self.write("global/policy/rules", "allow all")
        self.write("global/policy/copy of rules", "allow all")
        self.write("global/notifier/devices.xml", "<devices/>")
        self.write("ps_debpackages/new.deb", "package")
        self.write("7/Scanner/module.xml", "<module/>")
        (self.base / "7/run").write_text("#!/bin/sh")
        (self.base / "7/run").chmod(0o755)
        (self.base / "latest").symlink_to("global/policy/rules")
        time.sleep(0.03)

    def write(self, name: str, text: str) -> None:
        file = self.base / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def open(self) -> Store:
        return Store(self.folder, self.base, self.stable)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def whole(made: Store, digest: str) -> None:
    """Everything of that release can be sent."""
    manifest = made.manifest(digest)
    assert manifest is not None and manifest.digest == digest
    for entry in manifest.entries.values():
        if entry.kind is Kind.FILE:
            with made.open_content(entry.content, entry.mode) as file:
                assert hashlib.sha256(file.read()).hexdigest() == entry.content
    assert scan(made.tree(digest), Known()).digest == digest


def objects(place: Place) -> int:
    return sum(1 for each in (place.folder / "objects").glob("??/*"))


def test_stable_is_what_base_was(place: Place) -> None:
    made = place.open()
    committed = made.commit()
    assert scan(place.stable, Known()).digest == committed.policy
    place.write("global/policy/rules", "deny all")
    assert (place.stable / "global/policy/rules").read_text() == "allow all"
    whole(made, committed.policy)
    whole(made, committed.scanning)
    second = made.commit()
    assert (place.stable / "global/policy/rules").read_text() == "deny all"
    whole(made, committed.policy)
    assert second.policy != committed.policy


def test_scanners_get_neither_packages_of_policy_servers_nor_the_list_of_devices(place: Place) -> None:
    made = place.open()
    manifest = made.manifest(made.commit().of(model.Kind.SCANNING))
    assert manifest is not None
    assert sorted(manifest.entries) == [
        "7", "7/Scanner", "7/Scanner/module.xml", "7/run", "global", "global/policy", "global/policy/copy of rules",
        "global/policy/rules", "latest",
    ]  # fmt: skip


def test_a_change_that_concerns_policy_servers_only_is_none_for_scanners(place: Place) -> None:
    made = place.open()
    before = made.commit()
    place.write("ps_debpackages/newer.deb", "package")
    after = made.commit()
    assert after.scanning == before.scanning and after.policy != before.policy


def test_any_tree_is_made_of_any_other(place: Place) -> None:
    made = place.open()
    for turn in range(12):
        chance = random.Random(turn)
        for name in ("a", "b", "c", "global/x"):
            path = place.base / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            match chance.randrange(5):
                case 0:
                    path.symlink_to("7")
                case 1 | 2:
                    place.write(f"{name}/{chance.randrange(2)}/deep", str(chance.randrange(3)))
                    path.chmod(chance.choice([0o700, 0o555, 0o755]))
                case 3:
                    place.write(name, str(chance.randrange(3)))
                    path.chmod(chance.choice([0o600, 0o444]))
        committed = made.commit()
        assert scan(place.stable, Known()).digest == committed.policy


def test_a_stable_in_which_somebody_has_been_is_made_from_nothing(place: Place) -> None:
    made = place.open()
    for turn in range(3):
        place.write("global/policy/rules", f"rules {turn}")
        made.commit()
    shutil.rmtree(place.root / ".stable.new/global")
    place.write("global/policy/rules", "other rules")
    assert scan(place.stable, Known()).digest != made.commit().policy == scan(place.stable, Known()).digest


def test_an_unchanged_base_is_not_copied_again(place: Place) -> None:
    made = place.open()
    first = made.commit()
    inodes = {path: path.stat().st_ino for path in place.stable.rglob("*")}
    assert place.open().commit() == first
    assert {path: path.stat().st_ino for path in place.stable.rglob("*")} == inodes


def test_a_stable_that_was_removed_is_made_again(place: Place) -> None:
    made = place.open()
    made.commit()
    os.rename(place.stable, place.root / "gone")
    committed = made.commit()
    assert scan(place.stable, Known()).digest == committed.policy


def test_only_what_targets_need_is_kept(place: Place) -> None:
    made = place.open()
    first = made.commit()
    before = objects(place)
    place.write("global/policy/rules", "deny all")
    place.write("global/policy/copy of rules", "deny all")
    second = made.commit()
    assert made.collect([first.policy, second.policy, second.scanning]) == 0
    whole(made, first.policy)
    assert made.collect([second.policy, second.scanning], based_on=[first.policy]) == 1
    assert objects(place) == before
    whole(made, second.policy)
    assert made.manifest(first.policy) is not None, "a device that holds it gets a small difference"
    assert made.manifest(first.scanning) is None
    with pytest.raises(StoreError, match="not kept"):
        made.tree("0" * 64)
    assert made.manifest("../targets.json") is None


def test_targets_come_back(place: Place) -> None:
    made = place.open()
    assert made.saved() == Saved(None, {})
    saved = Saved(Version(3, "vs-28", 9), {"scan-1": Release(Version(3, "vs-28", 8), "ab")})
    made.save(saved)
    assert place.open().saved() == saved
    for text in ("[]", '{"highest": 3, "targets": {}}', '{"highest": null, "targets": {"a": 1}}', "{"):
        (place.folder / "targets.json").write_text(text)
        with pytest.raises(ConfigError, match=r"targets\.json"):
            made.saved()


def test_what_can_not_be_committed_changes_nothing(place: Place) -> None:
    made = place.open()
    first = made.commit()
    os.mkfifo(place.base / "fifo")
    place.write("global/policy/rules", "deny all")
    with pytest.raises(Unusable, match="fifo"):
        made.commit()
    os.rename(place.base, place.root / "elsewhere")
    with pytest.raises(StoreError, match="the policy server has to write"):
        made.commit()
    assert scan(place.stable, Known()).digest == first.policy
    assert not list((place.folder / "objects/new").iterdir())


@pytest.fixture
def memory() -> Iterator[Place]:
    """In memory: nothing waits for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Place(Path(folder))


def test_a_commit_that_is_killed_anywhere_loses_nothing_and_is_made_again(memory: Place) -> None:
    place, other = memory, memory.root / "other"
    shutil.copytree(place.base, other, symlinks=True)
    for name in ("rules", "new"):
        (other / "global/policy" / name).write_text("deny all")
    time.sleep(0.03)
    first = place.open().commit()
    place.open().save(Saved(Version(1, "vs-166", 1), {"scan-1": Release(Version(1, "vs-166", 1), first.scanning)}))
    either = {scan(place.base, Known()).digest, scan(other, Known()).digest}
    for line in range(1, 10_000):
        exchange(place.base, other)
        code = _killed_at(place, line)
        again = place.open()
        assert again.saved().targets["scan-1"].digest == first.scanning
        whole(again, first.scanning)
        whole(again, first.policy)
        assert scan(place.stable, Known()).digest in either
        if line % 2:  # what is committed next is not what was interrupted
            exchange(place.base, other)
        second = again.commit()
        assert scan(place.stable, Known()).digest == second.policy
        whole(again, second.policy)
        assert set(os.listdir(place.root)) <= {"base", "other", "stable", ".stable.new", "state"}
        if not line % 2:
            exchange(place.base, other)
        assert again.commit() == first
        again.collect([first.policy, first.scanning])
        if code == 0:
            break
    assert line > 60


def _killed_at(place: Place, number: int) -> int:
    """In a child: a commit that ends at the ``number``-th new line of the store's code."""
    if (child := os.fork()) == 0:
        reached: set[tuple[str, int]] = set()

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename not in (store.__file__, stable.__file__):
                return None
            if event == "line":
                reached.add((frame.f_code.co_filename, frame.f_lineno))
                if len(reached) == number:
                    os._exit(9)
            return trace

        try:
            sys.settrace(trace)
            place.open().commit()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
