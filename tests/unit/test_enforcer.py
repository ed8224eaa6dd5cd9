"""Ending Postgres without ha_manager: real processes, found by the keeper's note."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartbeat.enforcer import Enforcer, Note, end, read_note
from runtime.proctree import alive, start_time


class Scene:
    """A keeper with a child that plays the postmaster, and a process of Postgres whose parents are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.data = folder / "data"
        self.folder.mkdir()
        self.data.mkdir()
        postgres = folder / "postgres"
        shutil.copy(shutil.which("sleep") or "/bin/sleep", postgres)
        self.keeper = subprocess.Popen(["sh", "-c", f"{postgres} 60 & echo $!; wait"], stdout=subprocess.PIPE, cwd=self.data)
        assert self.keeper.stdout is not None
        self.postmaster = int(self.keeper.stdout.readline())
        self.orphan = subprocess.Popen([postgres, "60"], cwd=self.data, start_new_session=True)
        self.bystander = subprocess.Popen(["sleep", "60"], cwd=self.data)
        self.starts = {pid: start_time(pid) for pid in (self.keeper.pid, self.postmaster, self.orphan.pid)}
        self.note(keeper=self.keeper.pid, keeper_start=self.starts[self.keeper.pid], data_dir=str(self.data), state="running",
                  postmaster=self.postmaster, postmaster_start=self.starts[self.postmaster])  # fmt: skip

    def note(self, **content: object) -> None:
        (self.folder / "keeper.json").write_text(json.dumps(content))

    def living(self) -> list[int]:
        return [pid for pid, start in self.starts.items() if alive(pid, start)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    time.sleep(0.02)
    yield scene
    for pid, start in scene.starts.items():
        if alive(pid, start):
            os.kill(pid, 9)
    for child in (scene.keeper, scene.orphan, scene.bystander):
        child.kill()
        child.wait()
    assert scene.keeper.stdout is not None
    scene.keeper.stdout.close()


def finished(enforcer: Enforcer) -> bool:
    select.select([enforcer], [], [], 5)
    return enforcer.finish()


def test_keeper_postmaster_and_orphans_are_gone_when_it_says_so(scene: Scene) -> None:
    note = scene.folder / "keeper.json"
    content = note.read_bytes()
    note.unlink()
    os.mkfifo(note)
    enforcer = Enforcer(scene.folder)
    enforcer.start(with_manager=False)
    # It can't have ended anything yet, and its caller goes on: nothing waits.
    assert enforcer.running and not enforcer.finish() and len(scene.living()) == 3
    with open(note, "wb") as reader:
        note.unlink()
        note.write_bytes(content)
        reader.write(content)
    assert finished(enforcer) and not enforcer.running
    assert scene.living() == []
    assert scene.bystander.poll() is None


def test_a_stopped_keeper_is_no_obstacle(scene: Scene) -> None:
    os.kill(scene.keeper.pid, 19)
    assert end(scene.folder, with_manager=False)
    assert scene.living() == []


def test_a_pid_that_belongs_to_somebody_else_by_now_is_spared(scene: Scene) -> None:
    scene.note(
        keeper=scene.bystander.pid, keeper_start=1, postmaster=scene.bystander.pid, postmaster_start=1, data_dir="/nowhere"
    )
    assert end(scene.folder, with_manager=False)
    assert scene.bystander.poll() is None and len(scene.living()) == 3


def test_no_keeper_since_the_boot_nothing_to_end(tmp_path: Path) -> None:
    enforcer = Enforcer(tmp_path)
    enforcer.start(with_manager=True)
    assert finished(enforcer)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keeper": "1", "postmaster": null, "data_dir": 5}'])
def test_a_damaged_note_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "keeper.json").write_text(content)
    assert read_note(tmp_path) == Note()


def test_a_killed_enforcement_is_not_taken_for_a_done_one(scene: Scene) -> None:
    enforcer = Enforcer(scene.folder)
    os.kill(scene.keeper.pid, 19)
    enforcer.start(with_manager=False)
    os.kill(enforcer._pid, 9)
    done = finished(enforcer)
    assert not enforcer.running and done == (scene.living() == [])


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK])
def test_it_hurries_where_heartbeat_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: int) -> None:
    told = tmp_path / "told"
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: policy)
    monkeypatch.setattr("heartbeat.enforcer.hurry", lambda priority, inherited: told.write_text(f"{priority} {inherited}"))
    enforcer = Enforcer(tmp_path / "nothing")
    enforcer.start(with_manager=False)
    assert finished(enforcer)
    assert (told.read_text() if told.exists() else "") == ("" if policy == os.SCHED_OTHER else "1 False")
