"""The file systems that a Postgres under HA needs, and what is left on each.

Promise: one entry for each file system, named after the most important thing on it; what can't be looked at is left out.
Source: facts/postgres.md ("Full disks … must be failover triggers of their own"); design §4 rule 3.
"""

from __future__ import annotations

import os
from pathlib import Path

from ha_manager.cluster import PostgresConfig
from ha_manager.observation import DATABASE, LOG, MESSAGES, STATE, Disk


def look(config: PostgresConfig) -> tuple[Disk, ...]:
    """The disk of the database first, then those that are others than the ones before."""
    found: list[Disk] = []
    devices: set[int] = set()
    places = (
        (DATABASE, config.data_dir),
        (LOG, config.data_dir / "pg_wal"),
        (STATE, config.state_dir.parent),
        (MESSAGES, config.log_file.parent),
    )
    for use, path in places:
        try:
            device, disk = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue
        if device not in devices:
            devices.add(device)
            size = disk.f_frsize
            found.append(Disk(use, _real(path), disk.f_bavail * size, disk.f_blocks * size, bool(disk.f_flag & os.ST_RDONLY)))
    return tuple(found)


def _real(path: Path) -> str:
    """pg_wal may be a link; what an operator can make room in is where it leads."""
    return os.path.realpath(path) if path.is_symlink() else str(path)
