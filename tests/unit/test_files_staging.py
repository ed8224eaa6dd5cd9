"""Taking files into the staging directory: never outside of it, never half of one, only from whom it may be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_manager.files.items import Changing, Item, Kind, ids, item_of, look, read, walk
from ha_manager.files.staging import Escape, Staging, components
from runtime import frames

FILE = Item(Kind.FILE, mtime=1_700_000_000_123_456_789, mode=0o640, owner=("root", "root"))
ODD = os.fsdecode(b"/a b/c\nd/\xff\xfe")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    made = Staging(tmp_path / "staging")
    made.prepare()
    return made


def names(folder: Path) -> list[str]:
    return sorted(os.path.relpath(path, folder) for path in walk(str(folder)))


@pytest.mark.parametrize("path", ["/etc/shadow", "/x", ODD, "/a/.ha-state"])
def test_a_file_is_staged_under_its_whole_path_with_all_that_belongs_to_it(staging: Staging, path: str) -> None:
    assert staging.put(path, FILE, b"secret") == ""
    there = f"{staging.root}{path}"
    found = look(there)
    assert (found.kind, found.mode, found.mtime, found.owner) == (Kind.FILE, 0o640, FILE.mtime, ("root", "root"))
    with open(there, "rb") as file:
        assert file.read() == b"secret"
    assert stat.S_IMODE(staging.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("path", ["", "etc/shadow", "/", "//", "/../etc/shadow", "/a/../../x", "/a/./b", "/.ha-state", "/a\0b"])
def test_a_path_that_is_none_is_refused(staging: Staging, path: str) -> None:
    with pytest.raises(Escape):
        staging.put(path, FILE, b"")
    with pytest.raises(Escape):
        staging.remove(path)


@pytest.mark.parametrize("link", ["/etc", "../outside", "."])
def test_nothing_is_written_or_removed_through_a_link(staging: Staging, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    staging.put("/d/link", Item(Kind.LINK, target=link if link != "/etc" else str(outside)), b"")
    for attempt in (
        lambda: staging.put("/d/link/kept", FILE, b"changed"),
        lambda: staging.put("/d/link/sub/new", FILE, b"changed"),
        lambda: staging.remove("/d/link/kept"),
    ):
        with pytest.raises(Escape):
            attempt()
    assert names(outside) == ["kept"] and (outside / "kept").read_text() == "kept"
    staging.remove("/d/link")
    assert names(outside) == ["kept"] and names(staging.root) == ["d"]


@pytest.mark.parametrize("before", [Item(Kind.FILE, mode=0o600), Item(Kind.FOLDER, mode=0o700), Item(Kind.LINK, target="x")])
@pytest.mark.parametrize("after", [FILE, Item(Kind.FOLDER, mode=0o750), Item(Kind.LINK, target="../../y")])
def test_anything_takes_the_place_of_anything(staging: Staging, before: Item, after: Item) -> None:
    staging.put("/e/x", before, b"")
    if before.kind is Kind.FOLDER:
        staging.put("/e/x/inner", FILE, b"1")
    staging.put("/e/x", after, b"")
    found = look(f"{staging.root}/e/x")
    assert (found.kind, found.target) == (after.kind, after.target)
    if after.kind is not Kind.LINK:
        assert found.mode == after.mode
    left = [name for name in names(staging.root) if "ha-new" in name]
    assert left == []


def test_several_at_once_are_all_there_and_what_fails_fails_alone(staging: Staging) -> None:
    staging.put("/e/blocked", FILE, b"a file")
    with staging.batch() as batch:
        for number in range(3 * batch.MOST):
            batch.put(f"/e/{number % 7}/{number}", FILE, str(number).encode())
        with pytest.raises(NotADirectoryError):
            batch.put("/e/blocked/below", FILE, b"")
        gone = batch.put("/e/gone/f", FILE, b"")
        staging.remove("/e/gone")
        batch.put("/e/link", Item(Kind.LINK, target="x"), b"")
        batch.settle()
    assert isinstance(gone.wrong, FileNotFoundError)
    for number in range(3 * batch.MOST):
        assert (staging.root / f"e/{number % 7}/{number}").read_text() == str(number)
    assert os.readlink(staging.root / "e/link") == "x"


def test_what_is_not_settled_did_not_come(staging: Staging) -> None:
    staging.put("/e/f", FILE, b"before")
    with pytest.raises(ZeroDivisionError), staging.batch() as batch:
        batch.put("/e/f", FILE, b"after")
        batch.put("/e/g", FILE, b"after")
        _ = 1 / 0
    assert (staging.root / "e/f").read_text() == "before" and names(staging.root) == ["e", "e/f"]


def test_what_was_half_written_beside_a_file_is_swept(staging: Staging) -> None:
    staging.put("/etc/shadow", FILE, b"1")
    (staging.root / "etc/.ha-new-012345").write_text("half")
    staging.sweep(["/etc/shadow", "/never/was", "/etc/shadow/below"])
    assert names(staging.root) == ["etc", "etc/shadow"]


def test_what_is_removed_is_gone_with_all_below_it_and_may_be_gone_already(staging: Staging) -> None:
    staging.put("/e/x/y/z", FILE, b"1")
    staging.remove("/e/x")
    staging.remove("/e/x")
    staging.remove("/never/was")
    assert names(staging.root) == ["e"]


def test_an_owner_that_is_not_known_here_is_told_and_becomes_root(staging: Staging) -> None:
    told = staging.put("/f", Item(Kind.FILE, mode=0o6755, owner=("nobody-at-all", "root")), b"")
    found = look(f"{staging.root}/f")
    assert told == "user nobody-at-all does not exist: root instead"
    assert (found.owner, found.mode) == (("root", "root"), 0o755)  # not run as root by anybody who may start it
    assert ids(("12345", "54321")) == (12345, 54321, "")
    assert ids(("4294967295", "no-group")) == (0, 0, "user 4294967295 and group no-group do not exist: root instead")


def test_extended_attributes_come_along_and_go(staging: Staging, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    os.setxattr(source, "user.origin", b"\0x\xff")
    found = read(str(source), 100)
    assert found is not None
    copied = item_of(Kind.FILE, found[0].header())
    staging.put("/f", copied, found[1])
    assert os.getxattr(staging.root / "f", "user.origin") == b"\0x\xff"
    staging.put("/f", FILE, b"2")
    assert os.listxattr(staging.root / "f") == []


def test_a_file_is_read_only_as_long_as_it_is_one_and_small(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 101)
    (tmp_path / "link").symlink_to("large")
    os.mkfifo(tmp_path / "pipe")
    for name in ("large", "link", "pipe", "nothing", "large/below"):
        assert read(str(tmp_path / name), 100) is None
    (found, content) = read(str(tmp_path / "large"), 101) or (None, b"")
    assert found is not None and found.kind is Kind.FILE and len(content) == 101


def test_a_file_that_is_being_written_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    seen: list[os.stat_result] = []

    def fstat(fd: int) -> os.stat_result:
        if seen:
            with open(path, "a") as file:
                file.write("2")
        seen.append(os.stat(fd))
        return seen[-1]

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(Changing):
        read(str(path), 100)


@given(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1))
def test_no_path_leads_out(text: str) -> None:
    try:
        named = components("/" + text)
    except Escape:
        return
    assert named and not {".", "..", ""} & set(named) and not any("/" in part for part in named)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.binary(max_size=300)), max_size=5), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(messages: list[tuple[bytes, bytes]], step: int) -> None:
    stream = b"".join(frames.encode({"path": os.fsdecode(path)}, content) for path, content in messages)
    reader, found = frames.Reader(), []
    for start in range(0, len(stream), step):
        found += [(os.fsencode(header["path"]), content) for header, content in reader.feed(stream[start : start + step])]
    assert found == messages


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x02{}", b'\0\0\0\x0b{"size":-1}', b"\0\0\0\x03abc"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(frames.Reader().feed(data))
