"""What Linux does with a whole directory or file system at once, and Python has no word for.

Promise: ``exchange`` swaps two names atomically: whoever looks finds either both before or both after, never neither.
``sync`` returns when everything that was written to the file system of ``path`` is on the disk: for many files cheaper than an
fsync each. Source: renameat2(2), syncfs(2), sync_file_range(2).
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def exchange(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Each gets the other's name; both must be there, on one file system. Raises OSError. Durable after a ``sync_folder`` of
    their folders."""
    if _libc().renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(one), None, os.fspath(other))


def begin_writing(fd: int) -> None:
    """Let what was written to an open file be on its way to the disk: of many files that are begun first, each fsync takes
    little. A hint: nothing is raised."""
    _libc().sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def sync(path: str | os.PathLike[str]) -> None:
    """Raises OSError, also for what an earlier write to that file system could not bring to the disk."""
    fd = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc().syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(path))
    finally:
        os.close(fd)
