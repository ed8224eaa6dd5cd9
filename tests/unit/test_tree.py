"""A tree's manifest: what changes while it is read is read again or refused; what did not change is not read."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path

import pytest

from manager.manifest import Entry, Kind, Unusable
from manager.tree import Changed, Known, Look, hashed, opened, scan
from runtime.filesystem import exchange, sync


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "global/policy").mkdir(parents=True)
    (top / "global/policy/rules").write_text("allow")
    (top / "global/link").symlink_to("policy/rules")
    (top / "script").write_text("#!/bin/sh")
    (top / "script").chmod(0o4755)
    time.sleep(0.03)
    return top


class Reader:
    """Counts what is really read; ``before`` is called with each path."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.before = lambda path: None

    def __call__(self, path: str, look: Look, known: str | None) -> str:
        if known is None:
            self.read.append(os.path.basename(path))
            self.before(path)
        return hashed(path, look, known)


def test_everything_is_in_it(top: Path) -> None:
    (top / os.fsdecode(b"caf\xe9")).write_text("")
    found = scan(top, Known()).entries
    assert found == {
        "global": Entry(Kind.FOLDER, 0o755),
        "global/policy": Entry(Kind.FOLDER, 0o755),
        "global/policy/rules": Entry(Kind.FILE, 0o644, sha("allow"), 5),
        "global/link": Entry(Kind.LINK, 0o777, "policy/rules"),
        "script": Entry(Kind.FILE, 0o755, sha("#!/bin/sh"), 9),
        "caf\udce9": Entry(Kind.FILE, 0o644, sha(""), 0),
    }


def test_only_what_changed_is_read_also_by_the_next_process(top: Path, tmp_path: Path) -> None:
    known, reader = Known(tmp_path / "known"), Reader()
    scan(top, known, reader)
    assert sorted(reader.read) == ["rules", "script"]
    known.save()
    (top / "script").write_text("#!/bin/zh")
    before = (top / "global/policy/rules").stat()
    os.utime(top / "global/policy/rules", ns=(before.st_atime_ns, before.st_mtime_ns))  # its ctime is new
    known, reader = Known(tmp_path / "known"), Reader()
    assert scan(top, known, reader).entries["script"].content == sha("#!/bin/zh")
    assert sorted(reader.read) == ["rules", "script"]
    reader = Reader()
    scan(top, known, reader)
    assert reader.read == []


def test_of_another_boot_or_damaged_nothing_is_known(top: Path, tmp_path: Path) -> None:
    known = Known(tmp_path / "known")
    scan(top, known)
    known.save()
    for text in ((tmp_path / "known").read_text().replace('"boot":"', '"boot":"x'), "[]", '{"boot"', ""):
        (tmp_path / "known").write_text(text)
        reader = Reader()
        scan(top, Known(tmp_path / "known"), reader)
        assert sorted(reader.read) == ["rules", "script"]


def test_the_same_size_written_within_the_same_tick_is_noticed(top: Path) -> None:
    known, file = Known(), top / "script"
    for turn in range(50):
        text = f"number {turn:04d}"
        file.write_text(text)
        assert scan(top, known).entries["script"].content == sha(text)


def test_what_changes_while_it_is_read_is_read_again(top: Path) -> None:
    reader, changes = Reader(), iter(["one", "two"])

    def change(path: str) -> None:
        if path.endswith("rules"):
            (top / "script").write_text(next(changes, "two"))

    reader.before = change
    assert scan(top, Known(), reader).entries["script"].content in (sha("one"), sha("two"))
    assert (top / "script").read_text() in ("one", "two")


def test_a_tree_that_never_rests_is_refused_and_says_which_file(top: Path) -> None:
    reader = Reader()
    count = iter(range(1000))
    reader.before = lambda path: (top / f"new-{next(count)}").write_text("") and None
    with pytest.raises(Unusable, match="does not come to rest: new-"):
        scan(top, Known(), reader)


def test_a_file_that_is_cut_or_replaced_under_the_reader_is_no_content(top: Path) -> None:
    file = top / "script"
    look = Look(*(getattr(file.stat(), f"st_{each}") for each in ("mode", "size", "mtime_ns", "ctime_ns", "ino")))
    with pytest.raises(Changed), opened(str(file), look):
        file.write_text("x")
    file.unlink()
    file.symlink_to("elsewhere")
    with pytest.raises(Changed), opened(str(file), look):
        pass


def test_what_can_be_in_no_configuration_is_refused(top: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(top / "socket"))
        with pytest.raises(Unusable, match=r"tree/socket is neither"):
            scan(top, Known())


def test_there_is_no_tree(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "none", Known())


def test_two_names_are_exchanged_at_one_blow(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/old").write_text("")
    (tmp_path / "other").mkdir()
    exchange(tmp_path / "one", tmp_path / "other")
    sync(tmp_path)
    assert (tmp_path / "other/old").exists() and not (tmp_path / "one/old").exists()
    with pytest.raises(FileNotFoundError, match="none"):
        exchange(tmp_path / "one", tmp_path / "none")
