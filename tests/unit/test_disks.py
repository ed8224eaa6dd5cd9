"""The file systems that a Postgres needs: each once, what is on it is asked each time; and room kept beside its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ha_manager import logreserve
from ha_manager.disks import Disks
from ha_manager.observation import DATABASE


class Config:
    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.state_dir = folder / "state" / "postgres"
        self.diverged_dir = folder / "state" / "diverged"
        self.log_file = folder / "log" / "postgres.log"


def test_one_file_system_is_told_once_by_what_matters_most(tmp_path: Path) -> None:
    config = cast(Any, Config(tmp_path))
    assert Disks().look(config) == (), "nothing is there yet"
    for folder in (config.data_dir / "pg_wal", config.state_dir, config.log_file.parent):
        folder.mkdir(parents=True)
    disks = Disks()
    (disk,) = disks.look(config)
    assert (disk.use, disk.path) == (DATABASE, str(config.data_dir)) and 0 < disk.free < disk.total and not disk.read_only
    assert not disk.kept
    for kept in (tmp_path / "data.diverged-3-20261121T094410", config.diverged_dir / "3-20261121T094410"):
        kept.mkdir(parents=True)
        (disk,) = Disks().look(config)
        assert disk.kept, "which `ha diverged remove` frees"
        kept.rmdir()
    config.data_dir.rename(tmp_path / "elsewhere")
    assert disks.look(config) == (), "what can't be looked at is left out at once"


MIB = 1 << 20


def log_of(data_dir: Path, segment: int = MIB, folder: Path | None = None) -> Path:
    """A database with one segment of log, which may lie elsewhere; returns where the reserve is to be."""
    data_dir.mkdir()
    log = folder or data_dir / "pg_wal"
    log.mkdir(parents=True)
    if folder:
        (data_dir / "pg_wal").symlink_to(folder)
    with (log / "000000010000000000000001").open("wb") as file:
        file.truncate(segment)
    return (log.parent if folder else data_dir.parent) / f"{data_dir.name}.ha-reserve"


def test_room_is_kept_where_there_is_plenty_and_given_up_where_there_is_none(tmp_path: Path) -> None:
    data = tmp_path / "main"
    file = log_of(data)
    logreserve.keep(data, lambda folder: 15 * MIB - 1)
    assert not file.exists(), "not where what is needed is nearly gone already"
    logreserve.keep(data, lambda folder: 15 * MIB)
    assert file.stat().st_size == 3 * MIB and file.stat().st_blocks * 512 >= 3 * MIB and file.stat().st_mode & 0o777 == 0o600
    logreserve.keep(data, lambda folder: 0)
    assert file.exists(), "it is there: nothing is asked"
    assert not logreserve.give_up_if_needed(data, lambda folder: 3 * MIB) and file.exists()
    assert logreserve.give_up_if_needed(data, lambda folder: 3 * MIB - 1) and not file.exists()
    assert not logreserve.give_up_if_needed(data, lambda folder: 0), "there is none"
    logreserve.keep(data)
    logreserve.remove(data)
    assert not file.exists()
    logreserve.remove(data)


def test_room_is_kept_on_the_disk_of_the_log_and_outside_of_what_is_copied(tmp_path: Path) -> None:
    data = tmp_path / "main"
    file = log_of(data, folder=tmp_path / "srv" / "ha-1-wal")
    logreserve.keep(data)
    assert file == tmp_path / "srv" / "main.ha-reserve" and file.exists()
    assert [path.name for path in data.iterdir()] == ["pg_wal"]


def test_no_room_is_kept_of_a_disk_that_large_segments_need_themselves(tmp_path: Path) -> None:
    data = tmp_path / "main"
    file = log_of(data, segment=128 * MIB)
    logreserve.keep(data)
    assert not file.exists()
    assert not logreserve.give_up_if_needed(tmp_path / "nothing here", lambda folder: 0)
