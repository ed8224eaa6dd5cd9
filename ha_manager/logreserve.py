"""Room beside Postgres's log of changes, kept for the promotion after one that could not write it any more.

Promise: a Postgres that died because its log found no room is started as a standby, which needs none, and ends again when it is
promoted, for want of a segment. With the reserve there is one, and the checkpoint that follows frees what the log needs no
more: a burst of writes that filled the disk leaves no server that only an administrator can start. Given up only for a
promotion for which there isn't room; made again after a checkpoint, where there is plenty. It is a file of ha_manager's beside
the folder of the log, outside of all that is copied; none where that is another file system, or segments are large.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from ha_manager import controldata

#: a promotion writes one, two where the log ends with a segment; what clients write until the checkpoint has made room goes
#: into another one
_SEGMENTS = 3
_MOST = 192 * 1024 * 1024
#: it is made where so many times as much is free
_PLENTY = 5


def free_in(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def keep(data_dir: Path, free: Callable[[Path], int] = free_in) -> None:
    """Make it, unless it is there already; not being able to is no error."""
    size, file = _size(data_dir), _file(data_dir)
    with contextlib.suppress(OSError):
        if not size or file is None or (file.exists() and file.stat().st_size >= size) or free(file.parent) < _PLENTY * size:
            return
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError:
            os.unlink(file)
        finally:
            os.close(handle)


def give_up_if_needed(data_dir: Path, free: Callable[[Path], int] = free_in) -> bool:
    """Before a promotion: if there isn't room for it. True if that gave some."""
    size, file = _size(data_dir), _file(data_dir)
    with contextlib.suppress(OSError):
        if file is not None and file.exists() and free(file.parent) < size:
            file.unlink()
            return True
    return False


def remove(data_dir: Path) -> None:
    """HA is turned off."""
    file = _file(data_dir)
    with contextlib.suppress(OSError):
        if file is not None:
            file.unlink(missing_ok=True)


def _file(data_dir: Path) -> Path | None:
    """Its place; None where there is no room to be kept."""
    log = data_dir / "pg_wal"
    # a folder elsewhere gets another name with each copy of the database
    file = (log if log.is_symlink() else data_dir).resolve().with_name(f"{data_dir.name}.ha-reserve")
    try:
        return file if os.stat(log).st_dev == os.stat(file.parent).st_dev else None
    except OSError:
        return None


def _size(data_dir: Path) -> int:
    names = controldata.segments(data_dir)
    try:
        size = _SEGMENTS * (data_dir / "pg_wal" / names[-1]).stat().st_size if names else 0
    except OSError:
        return 0
    return size if size <= _MOST else 0
