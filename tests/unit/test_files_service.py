"""Both processes of the replicated files, real sessions and rsync between them: copied, kept in step, put in place."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ha_manager import copier
from ha_manager.config import Config
from ha_manager.copier import Copier
from ha_manager.files.accounts import Account, alarms, late
from ha_manager.files.items import Kind, look, walk
from ha_manager.files.service import Service
from ha_manager.host import Host, Paths
from ha_manager.lanes import Token
from ha_manager.orders import Epoch, Role
from ha_manager.plan import BECOMING_ACTIVE, Change, Run
from ha_manager.site import ReplicatedFile, Server, Site
from runtime.control import Client
from runtime.errors import HaError
from runtime.keys import Keys
from runtime.session import serve
from tests.lab.postgres_pair import free_port, until


class Node:
    """One server: its process of the replicated files, and the session server of its ha_manager."""

    def __init__(self, root: Path, name: str, site: Site, *, default_active: bool) -> None:
        self.root = root / name
        self.root.mkdir()
        self.name, self.peer = name, "vs-28" if default_active else "vs-166"
        paths = Paths(etc=self.root / "etc", state=self.root / "state", run=self.root / "run", staging=self.root / "staging")
        (self.root / "run").mkdir()
        self.config = Config(site, Host(paths=paths), default_active, name, self.peer)
        self.keys = Keys(paths.keys)
        self.keys.make(name)
        self.service: Service | None = None

    def start(self) -> None:
        self.service = service = Service(lambda: self.config)
        lifeline, self._held = os.pipe()
        self._thread = threading.Thread(target=service.run, args=(lifeline,), daemon=True)
        self._thread.start()
        site = self.config.site
        self.copier = Copier(lambda: self.config, lambda name, text: None)
        self.server = serve(self.keys, {}, [self.config.own_ip], port=site.port, subsystems={"files": self.copier.forward})

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        with Client(self.root / "run/files", 10.0) as client:
            return client.request(do, fields)

    def become(self, role: str, number: int, *, placed: bool = True) -> None:
        self.ask("role", role=role, epoch=[number, self.name if role == "active" else self.peer], placed=placed)

    def account(self, path: Path) -> dict[str, Any]:
        return next(each for each in self.ask("status")["entries"] if each["path"] == str(path))

    def staged(self, path: Path) -> Path:
        return Path(f"{self.root}/staging{path}")

    def stop(self) -> None:
        os.close(self._held)
        self._thread.join(5.0)
        self.server.close()


def contents(root: Path) -> dict[str, Any]:
    """Everything below, with all that is copied of it; the times of directories left out (a file in them may still come)."""
    found: dict[str, Any] = {}
    for path in walk(str(root)):
        item = look(path)
        text = Path(path).read_bytes() if item.kind is Kind.FILE else item.target
        time_of = item.mtime if item.kind is Kind.FILE else 0
        found[os.path.relpath(path, root)] = (item.kind, item.mode, time_of, text, item.owner if "tree" in path else "")
    return found


class Pair:
    def __init__(self, root: Path) -> None:
        self.epoch = 0
        self.source = root / "source"
        self.tree, self.file, self.timed = self.source / "tree", self.source / "file", self.source / "timed"
        self.tree.mkdir(parents=True)
        for number in range(100):
            (self.tree / f"{number}").write_text(f"{number}")
        self.file.write_text("first")
        files = (
            ReplicatedFile(str(self.tree), True, 60, ""),
            ReplicatedFile(str(self.file), True, 60, "root:shadow"),
            ReplicatedFile(str(self.timed), False, 1, ""),
        )
        site = Site(
            True,
            Server("127.0.0.1", "vs-166"),
            Server("127.0.0.2", "vs-28"),
            port=free_port(),
            files_port=free_port(),
            files=files,
        )
        self.one = Node(root, "vs-166", site, default_active=True)
        self.two = Node(root, "vs-28", site, default_active=False)
        self.one.keys.accept(self.two.keys.show().line)
        self.two.keys.accept(self.one.keys.show().line)
        for node in (self.one, self.two):
            node.start()
            assert node.service is not None
            node.service.taking.record.settle = 0.1

    def settle(self) -> None:
        """One sends, two takes, all of it is there; in a new reign, if a test has changed roles."""
        states = [node.ask("status") for node in (self.one, self.two)]
        if [(state["role"], state["epoch"]) for state in states] == [
            ("active", [self.epoch, "vs-166"]),
            ("passive", [self.epoch, "vs-166"]),
        ]:
            return
        self.epoch += 10
        before = {path: self.one.account(path)["done"] for path in (self.tree, self.file)}
        self.two.become("passive", self.epoch)
        self.one.become("active", self.epoch)
        until(lambda: all(self.one.account(path)["done"] > done for path, done in before.items()), 20.0, "the first pass")

    def same(self) -> bool:
        with contextlib.suppress(OSError):  # one of them is being changed
            return contents(self.source) == contents(self.two.staged(self.source))
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("sshd needs root")
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    for node in (made.one, made.two):
        node.stop()


@pytest.fixture
def pair(running: Pair) -> Pair:
    running.settle()
    return running


def test_everything_is_there_after_the_first_pass_and_changes_follow_at_once(pair: Pair) -> None:
    until(pair.same, 10.0, "both the same")
    assert look(str(pair.two.staged(pair.file))).owner == ("root", "shadow")
    pair.file.with_name("new").write_text("renamed here")
    os.rename(pair.file.with_name("new"), pair.file)
    until(lambda: pair.two.staged(pair.file).read_text() == "renamed here", 2.0)
    pair.file.write_text("written in place")
    until(lambda: pair.two.staged(pair.file).read_text() == "written in place", 2.0)
    until(lambda: pair.one.account(pair.file)["behind"] == 0, 2.0)


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > tree/new",
        "mkdir -p tree/a/b/c; echo 1 > tree/a/b/c/f; ln -s f tree/a/b/c/l",
        "mv tree/a tree/z",
        "rm -r tree/z tree/new",
        "chmod 600 tree/1; chown www-data tree/1; touch -d yesterday tree/2",
        "for n in $(seq 500); do echo $n > tree/burst-$n; done",
        "rm tree/burst-*",
        "mkdir tree/big; for n in $(seq 300); do echo $n > tree/big/$n; done; mv tree/big tree/large",
        "head -c 3000000 /dev/urandom > tree/huge",
        "ln tree/3 tree/three",
        "echo more >> tree/three",
        "printf x > \"$(printf 'tree/a b\\nc\\377')\"",
        "mkdir -p tree/p/q new; touch tree/p/q/1 new/2; mv tree/p old; mv new tree/p; rm -r old",
        "mkdir new; touch tree/p/3; for n in $(seq 200); do echo $n > new/$n; done; mv tree/p old; mv new tree/p; rm -r old",
        "mv tree other; mkdir tree; cp other/5 tree/five; rm -r other",
    ],
)
def test_whatever_is_done_to_the_tree_is_done_there(pair: Pair, command: str) -> None:
    subprocess.run(["/bin/sh", "-euc", command], cwd=pair.source, check=True)
    until(pair.same, 10.0, f"{command}: {pair.one.account(pair.tree)}", every=0.05)
    if "ln tree/3" in command:
        until(lambda: look(str(pair.two.staged(pair.tree / "three"))).links == 2, 5.0)


def test_a_file_with_an_interval_is_copied_then_and_removed_when_it_is_gone(pair: Pair) -> None:
    pair.timed.write_text("1")
    until(lambda: pair.two.staged(pair.timed).exists(), 5.0)
    pair.timed.unlink()
    until(lambda: not pair.two.staged(pair.timed).exists(), 5.0)


def test_on_demand(pair: Pair) -> None:
    pair.two.staged(pair.file).write_text("damaged")
    shutil.rmtree(pair.two.staged(pair.tree))
    tickets = pair.one.ask("sync")["tickets"]
    assert set(tickets) == {str(pair.tree), str(pair.file), str(pair.timed)}
    until(lambda: all(pair.one.account(Path(path))["done"] >= number for path, number in tickets.items()), 10.0)
    assert pair.same()
    assert list(pair.one.ask("sync", path=f"{pair.tree}/below")["tickets"]) == [str(pair.tree)]
    with pytest.raises(HaError, match="not below a path that"):
        pair.one.ask("sync", path="/etc/nothing")
    with pytest.raises(HaError, match="passive, not active"):
        pair.two.ask("sync")


def test_entries_that_the_passive_does_not_name_are_told_until_it_does(pair: Pair) -> None:
    config = pair.two.config
    pair.two.config = replace(config, site=replace(config.site, files=config.site.files[:1]))
    pair.two.ask("reload")
    until(lambda: "does not name" in pair.one.ask("status")["alarms"]["files-peer"], 10.0)
    pair.two.config = config
    pair.two.ask("reload")
    until(lambda: pair.one.ask("status")["alarms"]["files-peer"] == "", 10.0)


def test_what_came_as_the_passive_lost_power_is_compared_by_content(pair: Pair) -> None:
    (pair.tree / "7").write_text("seven")
    until(pair.same, 10.0)
    assert pair.two.service is not None
    record, damaged = pair.two.service.taking.record, pair.two.staged(pair.tree / "7")
    until(lambda: not record.held.unflushed, 10.0, "all of it is flushed")
    before = damaged.stat()
    damaged.write_bytes(b"\0" * before.st_size)  # as long as it was, so that rsync's quick look finds nothing
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    record.held = replace(record.held, unflushed={str(pair.tree): ("an earlier start", 0.0)})
    assert str(pair.tree) in pair.two.ask("status")["staged"]["doubts"]
    pair.two.ask("reload")  # the active connects again
    until(lambda: not record.doubts() and not record.held.unflushed, 20.0, "it is compared")
    assert damaged.read_bytes() == (pair.tree / "7").read_bytes()


def test_an_old_active_that_returns_overwrites_nothing(pair: Pair) -> None:
    until(pair.same, 5.0)
    old, new = pair.epoch, pair.epoch + 1
    pair.two.become("active", new)
    pair.file.write_text("of the old active")
    until(lambda: "active, not passive" in pair.one.ask("status")["why"], 5.0)
    pair.two.become("passive", new)  # it knows that epoch by now
    until(lambda: f"epoch {old}/vs-166 is over" in pair.one.ask("status")["why"], 5.0)
    assert pair.two.staged(pair.file).read_text() != "of the old active"
    with pytest.raises(HaError, match=f"epoch {old}/vs-166 is over"):
        pair.two.ask("gate", epoch=[old, "vs-166"], path="/x", pid=os.getpid())
    pair.one.become("active", new + 1)
    until(lambda: pair.two.staged(pair.file).read_text() == "of the old active", 5.0)


def test_becoming_active_puts_in_place_what_was_staged_and_only_then_sends(pair: Pair) -> None:
    until(pair.same, 10.0)
    until(lambda: pair.one.account(pair.file)["behind"] == 0, 5.0)
    pair.one.become("passive", pair.epoch)
    before = pair.file.read_text()
    pair.file.unlink()
    (pair.tree / "5").unlink(missing_ok=True)
    step = next(step for step in BECOMING_ACTIVE if step.name == "place")
    run = Run(1, step, Change(Role.ACTIVE, Epoch(pair.epoch + 1, "vs-28")))
    pair.two.copier.place(run, Token())
    assert pair.file.read_text() == before and os.listdir(pair.tree) == os.listdir(pair.two.staged(pair.tree))
    status = pair.two.ask("status")
    assert status["placed"]["epoch"] == [pair.epoch + 1, "vs-28"] and status["placed"]["wrong"] == []
    assert "being put in place first" in status["why"]
    pair.two.copier.place(run, Token())  # once more is once


@pytest.mark.parametrize(
    "role, steps, is_placed",
    [
        (Role.ACTIVE, ("active", "5/vs-28", {"place": ("done", "")}), True),
        (Role.ACTIVE, ("active", "5/vs-28", {"marker": ("begun", "")}), True),  # it was active before: nothing to place
        (Role.ACTIVE, ("active", "5/vs-28", {"place": ("begun", "")}), False),
        (Role.ACTIVE, ("active", "5/vs-28", {"place": ("failed", "x")}), False),
        (Role.ACTIVE, ("passive", "4/vs-166", {}), False),  # the plan has not begun
        (Role.PASSIVE, ("active", "5/vs-28", {"place": ("done", "")}), False),
        (None, ("", "", {}), False),
    ],
)
def test_an_active_sends_only_when_its_plan_has_put_files_in_place(role: Role | None, steps: Any, is_placed: bool) -> None:
    assert copier.placed(role, Epoch(5, "vs-28"), steps) is is_placed


def test_an_entry_that_is_behind_is_an_alarm_in_words_that_stay_the_same() -> None:
    watched, timed = (Account(ReplicatedFile(f"/{name}", watch, 60, "")) for name, watch in (("a", True), ("b", False)))
    assert [late(watched, seconds) for seconds in (0.0, 9.0, 11.0)] == [False, False, True]
    assert [late(timed, seconds) for seconds in (11.0, 121.0)] == [False, True]
    said = alarms([(watched, 50.0), (timed, 0.0)], "vs-28", "no session")
    assert said == {"files": "changes of /a have not reached vs-28: no session", "files-watch": ""}
    assert said == alarms([(watched, 60.0), (timed, 0.0)], "vs-28", "no session")
    watched.changed, watched.size = 1_700_000_000.0, 12
    assert watched.line(50.2) == "/a behind behind=50 last_change=2023-11-14T22:13:20.000+00:00 size=12"
    watched.error = "disk full there"
    assert alarms([(watched, 0.0)], "vs-28", "")["files"] == "/a can't be copied to vs-28: disk full there"
