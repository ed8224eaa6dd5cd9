"""The file systems that a Postgres under HA needs, and what is left on each.

Promise: one entry for each file system, named after the most important thing on it; what can't be looked at is left out.
Source: facts/postgres.md ("Full disks … must be failover triggers of their own"); design §4 rule 3.
"""

from __future__ import annotations

import itertools
import os
from math import inf
from pathlib import Path

from ha_manager.cluster import PostgresConfig
from ha_manager.observation import DATABASE, LOG, MESSAGES, STATE, Disk
from runtime.clock import boottime

#: which of them are file systems of their own is found out so often (seconds)
_AGAIN = 2.0


class Disks:
    """Looks often. What is mounted where changes seldom."""

    def __init__(self) -> None:
        self._places: tuple[tuple[str, str], ...] = ()
        self._kept = False
        self._found_at = -inf

    def look(self, config: PostgresConfig) -> tuple[Disk, ...]:
        """The disk of the database first, then those that are others than the ones before."""
        if boottime() - self._found_at >= _AGAIN:
            self._found_at, self._places, self._kept = boottime(), _distinct(config), _keeps(config)
        return tuple(disk for use, path in self._places if (disk := _disk(use, path, self._kept)) is not None)


def _keeps(config: PostgresConfig) -> bool:
    """Is anything kept of databases that were replaced, their log or all of them?"""
    beside = config.data_dir.parent.glob(f"{config.data_dir.name}.diverged-*")
    return any(True for _ in itertools.chain(beside, config.diverged_dir.glob("*")))


def _distinct(config: PostgresConfig) -> tuple[tuple[str, str], ...]:
    """(use, path), one for each file system."""
    found: list[tuple[str, str]] = []
    devices: set[int] = set()
    places = (
        (DATABASE, config.data_dir),
        (LOG, config.data_dir / "pg_wal"),
        (STATE, config.state_dir.parent),
        (MESSAGES, config.log_file.parent),
    )
    for use, path in places:
        try:
            device = os.stat(path).st_dev
        except OSError:
            continue
        if device not in devices:
            devices.add(device)
            found.append((use, _real(path)))
    return tuple(found)


def _disk(use: str, path: str, kept: bool) -> Disk | None:
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return Disk(use, path, free, total, bool(disk.f_flag & os.ST_RDONLY), kept)


def _real(path: Path) -> str:
    """pg_wal may be a link; what an operator can make room in is where it leads."""
    return os.path.realpath(path) if path.is_symlink() else str(path)
