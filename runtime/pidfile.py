"""Pid files: one daemon of a kind, and a way for others to find it again.

Promise: ``claim`` succeeds for one living process at a time (flock, held while it lives); a file that a dead process left is
taken over; ``find`` names the process behind a pid file only if it is the one that wrote it, not one that got its number later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from .clock import boottime
from .errors import HaError
from .proctree import Process, process

#: Clocks of file systems are coarse, and a daemon may write its file a little later than it starts.
_SLACK = 2.0


class AlreadyRunning(HaError):
    """Another process holds the pid file."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self.pid = pid
        super().__init__(f"is running already (pid {pid}, {path})" if pid else f"is running already ({path} is locked)")


class PidFile:
    """A claimed pid file; the lock goes with the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def claim(cls, path: str | os.PathLike[str]) -> PidFile:
        """Take the pid file for this process; raises AlreadyRunning, or OSError if it can't be written."""
        path = Path(path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # An empty file that is locked belongs to a daemon that is about to write its number into it.
        patience = time.monotonic() + 0.2
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if _lock(fd):
                if _same_file(fd, path):
                    break
            elif time.monotonic() > patience or _number(fd) is not None:
                _give_way(path, fd)
            else:
                time.sleep(0.001)
            os.close(fd)
        held = cls(path, fd)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as full:
            held.release()
            raise HaError(f"{path} can't be written: {full.strerror}") from full
        return held

    def release(self) -> None:
        """Remove the file (clean stop). Nothing happens if it is somebody else's by now."""
        if _same_file(self._fd, self.path):
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._fd)


def _give_way(path: Path, fd: int) -> None:
    """The file is locked: by its writer, or by a child that inherited the lock from a writer that was killed."""
    pid = _number(fd)
    holder = process(pid) if pid else None
    if holder is not None and holder.state in "ZX":
        holder = None
    if pid is None or holder is not None:
        os.close(fd)
        raise AlreadyRunning(path, pid)
    if _same_file(fd, path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def find(path: str | os.PathLike[str]) -> Process | None:
    """The living process that wrote this pid file; None if it is dead, was replaced, or there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        pid = _number(fd)
        found = process(pid) if pid else None
        if found is None or found.state in "ZX":
            return None
        return found if _wrote(found, fd) else None
    finally:
        os.close(fd)


def _wrote(found: Process, fd: int) -> bool:
    """A process that locks the file is its writer; for others' daemons: it is older than the file."""
    if _locks(found.pid, os.fstat(fd).st_ino):
        return True
    started = time.time() - (boottime() - found.started)
    return started <= os.fstat(fd).st_mtime + _SLACK


def _locks(pid: int, inode: int) -> bool:
    """Does ``pid`` hold a flock on this inode? Asked of /proc/locks: trying the lock could refuse a daemon just starting."""
    with open("/proc/locks", encoding="ascii", errors="replace") as locks:
        rows = [line.split() for line in locks]
    return any(
        len(row) >= 6 and row[1] == "FLOCK" and row[4] == str(pid) and row[5].rpartition(":")[2] == str(inode) for row in rows
    )


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _number(fd: int) -> int | None:
    words = os.pread(fd, 64, 0).split()
    return int(words[0]) if words and words[0].isdigit() and int(words[0]) > 0 else None
