"""What ha_manager asks again and again while nothing happens, answered from what it knows: as true as asked anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ha_manager.cluster import Paths
from ha_manager.link import HeartbeatLink
from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Want
from ha_manager.ownfiles import missing
from ha_manager.postmaster import Heads, postmaster_of
from ha_manager.rolelease import RoleLease
from runtime.loop import Loop

# --- the postmaster -----------------------------------------------------------------------------------------------------------


class Scene:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self.program = folder / "postgres"
        shutil.copy("/bin/sleep", self.program)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, status: str = "starting") -> int:
        child = subprocess.Popen([self.program, "60"], cwd=self.data)
        self.running.append(child)
        self.note(child.pid, status)
        return child.pid

    def note(self, pid: int, status: str) -> None:
        (self.data / "postmaster.pid").write_text(f"{pid}\n{self.data}\n0\n5432\n/tmp\n\n\n{status}\n")

    def end(self) -> None:
        child = self.running.pop()
        child.kill()
        child.wait()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    while made.running:
        made.end()


def test_the_postmaster_is_known_again_as_long_as_it_lives(scene: Scene) -> None:
    heads = Heads()

    def look() -> int:
        found, anew = heads.look(scene.data), postmaster_of(scene.data)
        assert (found and (found.pid, found.start)) == (anew and (anew.pid, anew.start))
        return found.pid if found is not None else 0

    assert look() == 0
    first = scene.start()
    assert [look(), look()] == [first, first]
    scene.note(first, "ready")
    assert look() == first
    scene.end()
    assert [look(), look()] == [0, 0], "its pid file is still there"
    second = scene.start()
    assert [look(), look()] == [second, second]
    third = scene.start()
    assert [look(), look()] == [third, third], "the file names another one; both live"
    (scene.data / "postmaster.pid").unlink()
    assert look() == 0


def test_a_zombie_is_no_postmaster(scene: Scene) -> None:
    heads = Heads()
    pid = scene.start()
    assert heads.look(scene.data) is not None
    os.kill(pid, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert heads.look(scene.data) is None


def test_another_process_of_the_same_number_is_not_the_postmaster(scene: Scene) -> None:
    heads = Heads()
    scene.start()
    known = heads.look(scene.data)
    assert known is not None
    heads._found = replace(known, pid=os.getpid())  # as if our own number had been its, and were taken again
    found = heads.look(scene.data)
    assert found is not None and (found.pid, found.start) == (known.pid, known.start)


# --- our own files ------------------------------------------------------------------------------------------------------------


def test_each_file_that_is_gone_is_told(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    files = (paths.settings, paths.dynamic, paths.hba, paths.ident)
    for each in files:
        each.touch()
    assert missing(tmp_path) == ()
    for each in files:
        each.unlink()
        assert missing(tmp_path) == (str(each),)
        each.touch()


# --- nobody else can become active --------------------------------------------------------------------------------------------

ALONE = Want(4, Phase.ACTIVE, Epoch(5, "vs-166"), Postgres.PRIMARY)


@pytest.mark.parametrize(
    ("want", "role", "synchronous", "alone"),
    [
        (ALONE, "active 5 vs-166 99.5 active 1 1", True, True),
        (ALONE, "active 5 vs-166 99.5 active 1 1", False, False),
        (ALONE, "active 5 vs-166 99.5 active 1 0", True, False),
        (ALONE, "active 4 vs-166 99.5 active 1 1", True, False),
        (ALONE, "passive 5 vs-166 99.5 passive 0 1", True, False),
        (ALONE, "", True, False),
        (replace(ALONE, names=Names.ENFORCED), "active 5 vs-166 99.5 active 1 1", True, False),
        (replace(ALONE, phase=Phase.PREPARING), "active 5 vs-166 99.5 active 1 1", True, False),
        (None, "active 5 vs-166 99.5 active 1 1", True, False),
    ],
)
def test_alone(tmp_path: Path, want: Want | None, role: str, synchronous: bool, alone: bool) -> None:
    if role:
        (tmp_path / "role").write_text(role + "\n")
    link = HeartbeatLink(tmp_path / "control", Loop(), cast(Any, None), Facts)
    link.want = want
    paths, site = SimpleNamespace(heartbeat_run=tmp_path), SimpleNamespace(synchronous=synchronous)
    config = SimpleNamespace(host=SimpleNamespace(paths=paths), site=site)
    assert RoleLease(link, lambda: cast(Any, config)).alone() is alone
