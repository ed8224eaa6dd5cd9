"""inotify on real directories: whatever a tool does to a replicated path is noted, under any name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_manager.files.watching import Watcher


class Heard:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.trouble: dict[str, str] = {}
        self.modified_paths: set[str] = set()

    def written(self, entry: str, path: str) -> None:
        self.said.append(("written", path))

    def modified(self, entry: str, path: str) -> None:
        self.modified_paths.add(path)

    def moved(self, entry: str, path: str, tree: bool) -> None:
        self.said.append(("tree" if tree else "moved", path))

    def full(self, entry: str) -> None:
        self.said.append(("full", entry))

    def unwatched(self, entry: str, because: str) -> None:
        self.trouble[entry] = because


class Watched:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.heard = Heard()
        self.watcher = Watcher(self.heard)

    def watch(self, *names: str) -> None:
        self.watcher.watch([str(self.root / name) for name in names])
        self.heard.said.clear()

    def after(self, command: str) -> set[tuple[str, str]]:
        """What is told of a shell command in ``root``, with paths below it."""
        subprocess.run(["/bin/sh", "-euc", command], cwd=self.root, check=True)
        self.watcher.read()
        said = {(what, os.path.relpath(path, self.root)) for what, path in self.heard.said}
        self.heard.said.clear()
        return said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.watcher.close()


@pytest.mark.parametrize(
    "command, told",
    [
        ("echo 2 > etc/shadow", ("written", "etc/shadow")),
        ("cp other etc/shadow", ("written", "etc/shadow")),
        ("echo 2 > etc/shadow+; mv etc/shadow+ etc/shadow", ("moved", "etc/shadow")),
        ("sed -i s/1/2/ etc/shadow", ("moved", "etc/shadow")),
        ("install -m 600 other etc/shadow", ("written", "etc/shadow")),
        ("cp -p etc/shadow etc/shadow~; mv etc/shadow etc/x; echo 2 > etc/shadow", ("written", "etc/shadow")),
        ("rm etc/shadow", ("moved", "etc/shadow")),
        ("chmod 600 etc/shadow", ("moved", "etc/shadow")),
        ("touch -d yesterday etc/shadow", ("moved", "etc/shadow")),
        ("ln -f other etc/shadow", ("moved", "etc/shadow")),
        ("ln -sfn ../other etc/shadow", ("moved", "etc/shadow")),
        ("mv etc old; mkdir etc; echo 2 > etc/shadow", ("tree", "etc/shadow")),
        ("rm -r etc; mkdir etc; cp other etc/shadow", ("tree", "etc/shadow")),
    ],
)
def test_whatever_a_tool_does_to_a_file_is_told(watched: Watched, command: str, told: tuple[str, str]) -> None:
    subprocess.run("mkdir etc; echo 1 > etc/shadow; echo 3 > other", shell=True, cwd=watched.root, check=True)
    watched.watch("etc/shadow")
    said = watched.after(command)
    assert told in said or (told[0] == "tree" and ("full", told[1]) in said), said
    # and the next change is seen, too
    assert ("written", "etc/shadow") in watched.after("rm -f etc/shadow; echo again > etc/shadow")


def test_neighbours_of_a_file_are_not_told(watched: Watched) -> None:
    subprocess.run("mkdir etc; echo 1 > etc/shadow", shell=True, cwd=watched.root, check=True)
    watched.watch("etc/shadow")
    assert watched.after("echo 1 > etc/shadow-; mkdir etc/x; rm etc/shadow-") == set()


@pytest.mark.parametrize(
    "command, told",
    [
        ("echo 1 > tree/a/new", ("written", "tree/a/new")),
        ("mkdir -p tree/x/y/z", ("tree", "tree/x")),
        ("mv tree/a tree/b", ("tree", "tree/b")),
        ("mv tree/a tree/b", ("moved", "tree/a")),
        ("mv tree/a out", ("moved", "tree/a")),
        ("rm -r tree/a", ("moved", "tree/a")),
        ("ln -s nowhere tree/link", ("moved", "tree/link")),
        ("ln tree/a/f tree/hard", ("moved", "tree/hard")),
        ("chmod 700 tree/a", ("moved", "tree/a")),
        ("chmod 700 tree", ("moved", "tree")),
        ("mv tree gone; mkdir tree; echo 1 > tree/n", ("tree", "tree")),
    ],
)
def test_whatever_happens_in_a_tree_is_told(watched: Watched, command: str, told: tuple[str, str]) -> None:
    subprocess.run("mkdir -p tree/a/deep; echo 1 > tree/a/f", shell=True, cwd=watched.root, check=True)
    watched.watch("tree")
    assert told in watched.after(command)
    assert ("written", "tree/last") in watched.after("echo 1 > tree/last")


def test_a_renamed_directory_is_told_under_its_new_name_and_one_moved_out_no_more(watched: Watched) -> None:
    subprocess.run("mkdir -p tree/a/deep tree/c", shell=True, cwd=watched.root, check=True)
    watched.watch("tree")
    watched.after("mv tree/a tree/b; mv tree/c out")
    assert watched.after("echo 1 > tree/b/deep/f; echo 1 > out/f") == {("written", "tree/b/deep/f")}


def test_directories_made_in_a_row_are_all_watched(watched: Watched) -> None:
    (watched.root / "tree").mkdir()
    watched.watch("tree")
    watched.after("mkdir -p tree/1/2/3")
    assert ("written", "tree/1/2/3/f") in watched.after("echo 1 > tree/1/2/3/f")


def test_names_may_be_any_bytes(watched: Watched) -> None:
    (watched.root / "tree").mkdir()
    watched.watch("tree")
    odd = b"a b\nc\xff"
    root = os.fsencode(watched.root)
    os.mkdir(root + b"/tree/" + odd)
    watched.watcher.read()
    watched.heard.said.clear()
    with open(root + b"/tree/" + odd + b"/" + odd, "w") as file:
        file.write("1")
    watched.watcher.read()
    assert watched.heard.said == [("written", os.fsdecode(root + b"/tree/" + odd + b"/" + odd))]


def test_a_path_that_does_not_exist_yet_is_told_when_it_comes(watched: Watched) -> None:
    watched.watch("not/yet/there")
    assert ("tree", "not/yet/there") in watched.after("mkdir -p not/yet; echo 1 > not/yet/there")
    assert ("written", "not/yet/there") in watched.after("echo 2 > not/yet/there")
    assert ("tree", "not/yet/there") in watched.after("rm -r not")
    assert ("tree", "not/yet/there") in watched.after("mkdir -p not/yet/there")
    assert ("written", "not/yet/there/f") in watched.after("echo 2 > not/yet/there/f")


def test_the_innermost_entry_is_told(watched: Watched) -> None:
    (watched.root / "tree/in").mkdir(parents=True)
    told: list[str] = []
    watched.heard.written = lambda entry, path: told.append(entry)  # type: ignore[method-assign]
    watched.watch("tree", "tree/in")
    watched.after("echo 1 > tree/in/f; echo 1 > tree/f")
    assert [os.path.relpath(each, watched.root) for each in told] == ["tree/in", "tree"]


def test_an_overflow_asks_for_a_full_pass_and_directories_are_watched_after_it(watched: Watched) -> None:
    (watched.root / "tree").mkdir()
    watched.watch("tree")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    a, b = watched.root / "tree/a", watched.root / "tree/b"
    a.touch()
    for _ in range(limit // 2 + 10):
        a.rename(b)
        b.rename(a)
    (watched.root / "tree/late").mkdir()
    while ("full", str(watched.root / "tree")) not in watched.heard.said:
        before = len(watched.heard.said)
        watched.watcher.read()
        assert len(watched.heard.said) > before, "neither events nor an overflow"
    assert ("written", "tree/late/f") in watched.after("echo 1 > tree/late/f")


def test_a_file_that_is_written_to_and_not_closed_is_told(watched: Watched) -> None:
    (watched.root / "tree").mkdir()
    watched.watch("tree", "single")
    for name in ("tree/log", "single"):
        with open(watched.root / name, "w", buffering=1) as file:
            print("a line", file=file)
            watched.watcher.read()
            assert str(watched.root / name) in watched.heard.modified_paths
            assert ("written", str(watched.root / name)) not in watched.heard.said


_LIMITED = """import sys
from ha_manager.files.watching import Watcher
class Heard:
    def written(self, *words): pass
    moved = modified = full = written
    def unwatched(self, entry, because): print(entry, because or "watched")
watcher = Watcher(Heard())
watcher.watch([sys.argv[1]])
print(len(watcher))
open("/proc/sys/user/max_inotify_watches", "w").write("1000")
watcher.watch([sys.argv[1]])
"""


def test_the_limit_of_watches_is_told_with_the_remedy_until_there_is_room(watched: Watched) -> None:
    for number in range(60):
        (watched.root / f"tree/{number}").mkdir(parents=True)
    limited = f"echo 20 > /proc/sys/user/max_inotify_watches; exec {sys.executable} -c '{_LIMITED}' {watched.root}/tree"
    done = subprocess.run(["unshare", "--user", "--map-root-user", "/bin/sh", "-euc", limited], capture_output=True, text=True)
    if "unshare" in done.stderr or "max_inotify_watches" in done.stderr:
        pytest.skip(done.stderr)
    said = done.stdout.splitlines()
    assert "raise fs.inotify.max_user_watches" in said[0] and said[-2] == "20" and said[-1] == f"{watched.root}/tree watched"
