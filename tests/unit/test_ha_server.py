"""The local Postgres, told and looked at: when it has to read its settings, and when it is left in peace."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ha_manager import adoption, disks, postmaster, sql
from ha_manager.cluster import PostgresConfig
from ha_manager.postgres import Observer, Server
from ha_manager.settings import Dynamic
from runtime.errors import ReplicationError
from runtime.proctree import Process


class World:
    """A postmaster, and the file that it reads."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = Dynamic()
        self.head: Process | None = Process(7, 1, 7, 7, "S", 100)
        self.told: list[tuple[int, signal.Signals]] = []
        self.asked = 0
        config = PostgresConfig(15, folder, folder, folder / "postgresql.conf", 5432, folder, state_dir=folder, run_dir=folder)
        self.server = Server(config)
        monkeypatch.setattr(postmaster, "postmaster_of", lambda data_dir: self.head)
        monkeypatch.setattr(postmaster, "send", lambda pid, number: self.told.append((pid, number)))
        monkeypatch.setattr(adoption, "read_dynamic", lambda config: self.file)
        monkeypatch.setattr(adoption, "write_dynamic", self._write)
        monkeypatch.setattr(sql, "connect", self._connect)
        monkeypatch.setattr(disks.Disks, "look", lambda self, config: ())

    def _write(self, config: PostgresConfig, dynamic: Dynamic) -> None:
        self.file = dynamic

    def _connect(self, info: str, limit: float) -> sql.Session:
        self.asked += 1
        raise ReplicationError("the database system is shutting down")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_one_postmaster_reads_the_same_settings_once(world: World) -> None:
    assert world.server.change(names='"ha_vs-28_4"')
    assert not world.server.change(names='"ha_vs-28_4"')
    assert world.told == [(7, signal.SIGHUP)]


def test_what_an_earlier_ha_manager_wrote_is_read_once_more(world: World) -> None:
    """It may have died between the file and the signal."""
    world.file = Dynamic(names='"ha_vs-28_4"')
    assert not world.server.change(names='"ha_vs-28_4"')
    assert len(world.told) == 1


@pytest.mark.parametrize("how", ["another postmaster", "changed back", "written without a word", "by somebody else"])
def test_whatever_came_in_between_makes_it_read_again(world: World, how: str) -> None:
    world.server.change(names="")
    match how:
        case "another postmaster":
            world.head = Process(7, 1, 7, 7, "S", 101)
        case "changed back":
            world.server.change(names='"ha_proof_4"')
        case "written without a word":
            world.server.change(names='"ha_proof_4"', reload=False)
            world.server.change(names="", reload=False)
        case _:
            world.file = Dynamic(names='"ha_proof_4"')
    before = len(world.told)
    world.server.change(names="")
    assert len(world.told) == before + 1


def test_settings_of_a_postgres_that_is_down_are_told_to_nobody(world: World) -> None:
    world.head = None
    with pytest.raises(ReplicationError, match="not running"):
        world.server.change(names='"ha_vs-28_4"')
    world.head = Process(8, 1, 8, 8, "S", 200)
    world.server.change(names='"ha_vs-28_4"')
    assert world.told == [(8, signal.SIGHUP)]


def test_one_that_is_being_stopped_is_not_asked(world: World) -> None:
    """It would start a process for each connection that it refuses, and end after those."""
    observer = Observer(world.server)

    def beyond(counter: int) -> int:
        return 0

    seen = observer.look(0.3, 7, beyond, ending=True)
    assert world.asked == 0 and seen.state == "running" and not seen.answers
    observer.look(0.3, 7, beyond)
    assert world.asked > 0
