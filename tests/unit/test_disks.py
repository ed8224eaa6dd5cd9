"""The file systems that a Postgres needs: each once, and what is on it is asked each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ha_manager.disks import Disks
from ha_manager.observation import DATABASE


class Config:
    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.state_dir = folder / "state" / "postgres"
        self.log_file = folder / "log" / "postgres.log"


def test_one_file_system_is_told_once_by_what_matters_most(tmp_path: Path) -> None:
    config = cast(Any, Config(tmp_path))
    assert Disks().look(config) == (), "nothing is there yet"
    for folder in (config.data_dir / "pg_wal", config.state_dir, config.log_file.parent):
        folder.mkdir(parents=True)
    disks = Disks()
    (disk,) = disks.look(config)
    assert (disk.use, disk.path) == (DATABASE, str(config.data_dir)) and 0 < disk.free < disk.total and not disk.read_only
    config.data_dir.rename(tmp_path / "elsewhere")
    assert disks.look(config) == (), "what can't be looked at is left out at once"
