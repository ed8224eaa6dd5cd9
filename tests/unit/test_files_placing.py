"""Putting staged files in place: at one blow, the replaced kept, nothing newer lost, nobody locked out, nothing followed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ha_manager.files import placing, shadow
from ha_manager.files.items import look
from ha_manager.files.placing import Outcome, Placing, Wanted

OLD, NEW = 1_700_000_000, 1_700_001_000


@dataclass
class Server:
    root: Path

    @property
    def kept(self) -> Path:
        return self.root / "kept" / "1"

    def here(self, path: str, text: str, at: float = OLD, mode: int = 0o644) -> Path:
        return self._write(self.root / "here" / path, text, at, mode)

    def staged(self, path: str, text: str, at: float = NEW, mode: int = 0o644) -> Path:
        return self._write(self.root / "staging" / path, text, at, mode)

    def _write(self, path: Path, text: str, at: float, mode: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        os.utime(path, (at, at))
        return path

    def place(self, *entries: Wanted, label: str = "1") -> Outcome:
        run = Placing(self.root / "staging", self.root / "kept" / label, lambda: None, str(self.root / "here"))
        return run.run(entries)

    def read(self, path: str) -> str:
        return (self.root / "here" / path).read_text()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_staged_file_takes_its_place_and_what_was_there_is_kept(server: Server) -> None:
    server.here("etc/f", "old", mode=0o600)
    server.staged("etc/f", "new", mode=0o640)
    outcome = server.place(Wanted("/etc/f"))
    assert (outcome.placed, outcome.newer, outcome.wrong) == (1, [], [])
    found = look(str(server.root / "here/etc/f"))
    assert (server.read("etc/f"), found.mode, found.mtime) == ("new", 0o640, NEW * 10**9)
    assert (server.kept / "etc/f").read_text() == "old"
    assert server.place(Wanted("/etc/f")).same == 1  # twice is once


def test_the_owner_of_module_xml_counts(server: Server) -> None:
    server.staged("etc/f", "new")
    server.place(Wanted("/etc/f", "www-data:shadow"))
    assert look(str(server.root / "here/etc/f")).owner == ("www-data", "shadow")
    outcome = server.place(Wanted("/etc/f", "nobody-at-all:root"))
    assert outcome.wrong[0].endswith("/etc/f is in place, but: user nobody-at-all does not exist: root instead")
    assert look(str(server.root / "here/etc/f")).owner == ("root", "root")


def test_several_names_of_one_file_stay_one_file(server: Server) -> None:
    server.staged("var/t/a", "one")
    for name in ("b", "c"):
        os.link(server.root / "staging/var/t/a", server.root / f"staging/var/t/{name}")
    server.here("var/t/b", "one", NEW)  # a file of its own here
    outcome = server.place(Wanted("/var/t"))
    here = [(server.root / f"here/var/t/{name}").stat() for name in "abc"]
    assert {each.st_ino for each in here} == {here[0].st_ino} and here[0].st_nlink == 3 and server.read("var/t/b") == "one"
    assert (outcome.placed, outcome.wrong) == (3, []) and server.place(Wanted("/var/t"), label="2").same == 3
    server.here("var/t/a", "newer here", NEW + 5)  # written in place, under all its names
    assert len(server.place(Wanted("/var/t"), label="3").newer) == 3


def test_what_a_killed_run_left_half_written_is_removed(server: Server) -> None:
    server.staged("etc/f", "new")
    server.staged("var/t/f", "new")
    for folder in ("etc", "var/t"):
        server.here(f"{folder}/.ha-placing-0123", "half", time.time())
    assert server.place(Wanted("/etc/f"), Wanted("/var/t", complete=time.time() + 5)).wrong == []
    assert os.listdir(server.root / "here/etc") == ["f"] == os.listdir(server.root / "here/var/t")


def test_a_file_that_is_newer_here_stays_and_is_told(server: Server) -> None:
    server.here("etc/f", "written here", NEW)
    server.staged("etc/f", "older copy", OLD)
    outcome = server.place(Wanted("/etc/f"))
    assert server.read("etc/f") == "written here" and outcome.placed == 0
    assert "1000 s newer than its copy: it stays" in outcome.newer[0]


def test_what_is_not_staged_or_not_named_here_is_not_touched(server: Server) -> None:
    server.here("etc/f", "here")
    server.staged("etc/g", "not named in the local module.xml")
    assert server.place(Wanted("/etc/f")) == Outcome()
    assert server.read("etc/f") == "here" and not (server.root / "here/etc/g").exists()


def test_a_tree_comes_with_links_modes_and_odd_names_and_without_unfinished_transfers(server: Server) -> None:
    odd = os.fsdecode(b"a b\nc\xff")
    server.staged(f"var/t/{odd}/{odd}", "odd")
    server.staged("var/t/.ha-partial/f", "half")
    server.staged("var/t/.ha-new-abc", "half")
    (server.root / "staging/var/t/link").symlink_to("/etc/passwd")
    os.mkfifo(server.root / "staging/var/t/pipe")
    (server.root / "staging/var/t").chmod(0o750)
    outcome = server.place(Wanted("/var/t"))
    assert (outcome.placed, outcome.wrong) == (2, [])
    assert server.read(f"var/t/{odd}/{odd}") == "odd"
    assert os.readlink(server.root / "here/var/t/link") == "/etc/passwd"
    assert sorted(os.listdir(server.root / "here/var/t")) == sorted([odd, "link"])
    assert look(str(server.root / "here/var/t")).mode == 0o750


def test_what_was_deleted_there_goes_here_too_if_a_full_pass_came_after_it(server: Server) -> None:
    server.staged("var/t/stays", "1", OLD)
    for name in ("stays", "deleted", "d/deleted"):
        server.here(f"var/t/{name}", "1")
    assert server.place(Wanted("/var/t", complete=None)).removed == 0
    early = server.place(Wanted("/var/t", complete=time.time() - 3600))
    assert early.removed == 0 and len(early.newer) == 2  # they appeared here after that pass
    outcome = server.place(Wanted("/var/t", complete=time.time() + 5))
    assert outcome.removed == 2 and os.listdir(server.root / "here/var/t") == ["stays"]
    assert (server.kept / "var/t/d/deleted").read_text() == "1"


def test_what_may_be_damaged_since_power_was_lost_is_not_put_in_place(server: Server) -> None:
    server.here("var/t/both", "good")
    server.here("var/t/same", "same", NEW)
    server.here("var/t/only-here", "good")
    for name in ("both", "new"):
        server.staged(f"var/t/{name}", "")
    server.staged("var/t/same", "same")
    outcome = server.place(Wanted("/var/t", complete=time.time() + 5, doubt=time.time()))
    assert (outcome.placed, outcome.same, outcome.removed, len(outcome.wrong)) == (0, 1, 0, 2)
    assert "before this server lost power" in outcome.wrong[0]
    assert server.read("var/t/both") == "good" and sorted(os.listdir(server.root / "here/var/t")) == [
        "both",
        "only-here",
        "same",
    ]
    early = server.place(Wanted("/var/t", doubt=time.time() + 60))  # these came long before
    assert (early.placed, early.wrong) == (2, [])


def test_an_entry_within_another_is_left_to_its_own(server: Server) -> None:
    server.staged("var/t/f", "1")
    server.staged("var/t/own/f", "1")
    server.here("var/t/own/g", "1")
    server.place(Wanted("/var/t", complete=time.time() + 5), Wanted("/var/t/own", "www-data:www-data"))
    assert look(str(server.root / "here/var/t/f")).owner == ("root", "root")
    assert look(str(server.root / "here/var/t/own/f")).owner == ("www-data", "www-data")
    assert server.read("var/t/own/g") == "1"


def test_nothing_is_taken_from_where_a_link_in_the_staging_directory_leads(server: Server) -> None:
    server.here("secret/f", "secret")
    (server.root / "staging").mkdir()
    (server.root / "staging/etc").symlink_to(server.root / "here/secret")
    outcome = server.place(Wanted("/etc/f"))
    assert "leads out of the staging directory" in outcome.wrong[0] and not (server.root / "here/etc").exists()


def test_an_administrators_link_to_another_disk_stays(server: Server) -> None:
    (server.root / "here/data").mkdir(parents=True)
    (server.root / "here/var").mkdir()
    (server.root / "here/var/t").symlink_to(server.root / "here/data")
    server.staged("var/t/f", "1")
    server.place(Wanted("/var/t"))
    assert (server.root / "here/var/t").is_symlink() and server.read("data/f") == "1"


def test_a_kind_replaces_another_and_what_it_replaces_is_kept(server: Server) -> None:
    server.here("var/t/x/f", "a folder here", OLD)
    server.here("var/t/y", "a file here", OLD)
    server.staged("var/t/x", "a file there")
    server.staged("var/t/y/f", "a folder there")
    outcome = server.place(Wanted("/var/t"))
    assert outcome.wrong == [] and server.read("var/t/x") == "a file there" and server.read("var/t/y/f") == "a folder there"
    assert (server.kept / "var/t/x/f").exists() and (server.kept / "var/t/y").read_text() == "a file here"


def test_what_was_replaced_can_be_put_back(server: Server) -> None:
    server.here("etc/f", "old", mode=0o600)
    server.staged("etc/f", "new")
    server.place(Wanted("/etc/f"))
    back = Placing(server.root / "staging", server.root / "kept/2", lambda: None, str(server.root / "here"))
    assert back.put_back(server.kept).placed == 1
    assert server.read("etc/f") == "old" and look(str(server.root / "here/etc/f")).mode == 0o600
    assert (server.root / "kept/2/etc/f").read_text() == "new"
    assert placing.labels(server.root / "kept")[0] == "2"
    placing.prune(server.root / "kept", keep=1)
    assert placing.labels(server.root / "kept") == ["2"]


@pytest.mark.parametrize(
    "staged, why",
    [
        ("root:x:1::::::\nadmin:y:1::::::\nnew:z:1::::::\n", ""),
        ("admin:y:1::::::\n", "no line for root"),
        ("", "no line for root"),
        ("root:x:1::::::\n", "lacks admin"),
        ("garbage\n", "no line for root"),
    ],
)
def test_nobody_is_locked_out_by_a_shadow_file(server: Server, staged: str, why: str) -> None:
    server.here("etc/passwd", "root:x:0:0::/root:/bin/sh\nadmin:x:1000:1000::/:/bin/sh\n")
    server.here("etc/shadow", "root:a:1::::::\nadmin:b:1::::::\ngone:c:1::::::\n")
    server.staged("etc/shadow", staged)
    outcome = server.place(Wanted(shadow.PATH))
    if why:
        assert why in outcome.wrong[0] and server.read("etc/shadow").startswith("root:a:")
    else:
        assert outcome.placed == 1 and server.read("etc/shadow") == staged
