"""The room that is kept for the record: what a full disk takes from it, and when it is there again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heartbeat.reserve import SIZE, Reserve
from runtime.durable import write_durably


class Disk:
    """Takes what fits: ``room`` bytes beside what lies in its folder."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder
        self.size = self._used() + room
        self.error = errno.ENOSPC

    def _used(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def write(self, path: Path, data: bytes | str, *, mode: int, durable: bool = True) -> None:
        if self._used() + len(data) > self.size:
            raise OSError(self.error, os.strerror(self.error))
        write_durably(path, data, mode=mode, durable=durable)


def kept(folder: Path) -> Reserve:
    reserve = Reserve(folder)
    assert reserve.keep() == "" and reserve.file.stat().st_size == SIZE
    return reserve


def test_a_full_disk_takes_a_record_and_makes_the_reserve_again_when_it_can(tmp_path: Path) -> None:
    kept(tmp_path)
    disk = Disk(tmp_path, room=0)
    reserve = Reserve(tmp_path, disk.write)
    reserve.write(tmp_path / "record", "x" * 300)
    assert (tmp_path / "record").read_text() == "x" * 300 and not reserve.file.exists()
    assert "No space left on device; this server may be unable to take over" in reserve.keep()
    reserve.write(tmp_path / "record", "y" * 300)
    disk.size += 1000
    assert reserve.keep() == "" and reserve.file.stat().st_size == SIZE


def test_without_a_reserve_a_full_disk_takes_nothing(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, Disk(tmp_path, room=10).write)
    with pytest.raises(OSError, match="No space left"):
        reserve.write(tmp_path / "record", "x" * 300)
    assert not (tmp_path / "record").exists()


def test_another_error_costs_no_reserve(tmp_path: Path) -> None:
    kept(tmp_path)
    disk = Disk(tmp_path, room=0)
    disk.error = errno.EIO
    reserve = Reserve(tmp_path, disk.write)
    with pytest.raises(OSError, match="Input/output error"):
        reserve.write(tmp_path / "record", "x")
    assert reserve.file.exists()


def test_one_that_is_there_is_left_alone(tmp_path: Path) -> None:
    before = kept(tmp_path).file.stat().st_ino
    assert kept(tmp_path).file.stat().st_ino == before
    (tmp_path / "reserve").write_bytes(b"too short")
    assert kept(tmp_path).file.stat().st_ino != before
