"""The processes of one Postgres: how they are found, signalled and proven gone, without Postgres's own help.

Promise: a process belongs to a Postgres exactly when its executable is ``postgres`` and its working directory is the data
directory (that very inode: containers show the same path); all its processes, backends of a dead postmaster among them, keep
both until they end. What ``kill_all`` proved
gone is gone. Source: design §4 rule 5, ``proof: no process of it is left`` in docs/protocols.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.proctree import Process, process

_POLL = 0.002


@dataclass(frozen=True)
class PidFile:
    """What Postgres wrote into postmaster.pid. ``status``: starting | stopping | ready | standby | "". ``port``: 0, not yet."""

    pid: int
    status: str
    port: int = 0


def read_pid_file(data_dir: Path) -> PidFile | None:
    """None if there is none, or none that can be read."""
    try:
        with open(os.path.join(data_dir, "postmaster.pid"), "rb", buffering=0) as file:
            lines = file.read(4096).decode(errors="replace").splitlines()
        port = lines[3].strip() if len(lines) > 3 else ""
        return PidFile(abs(int(lines[0])), lines[7].strip() if len(lines) > 7 else "", int(port) if port.isdigit() else 0)
    except (OSError, ValueError, IndexError):
        return None


def processes_of(data_dir: Path) -> list[Process]:
    """Every process of the Postgres on ``data_dir``, zombies left out."""
    home = _Home(data_dir)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and home.of(int(name)) and (each := process(int(name))) and each.state not in "ZX":
            found.append(each)
    return found


class _Home:
    """A data directory as the working directory of processes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._inode = _inode(data_dir)

    def of(self, pid: int) -> bool:
        """Is ``pid`` a process of its Postgres? One whose directory was removed under it counts, if it sees our files."""
        if not is_postgres(pid):
            return False
        if self._inode is not None and _inode(f"/proc/{pid}/cwd") == self._inode:
            return True
        try:
            removed = f"{os.path.realpath(self._data_dir)} (deleted)"
            return os.readlink(f"/proc/{pid}/cwd") == removed and _mounts(pid) == _mounts(os.getpid())
        except OSError:
            return False


def _inode(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mounts(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def is_postgres(pid: int) -> bool:
    """A living process that runs Postgres's program, whatever its data."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")) == "postgres"
    except OSError:
        return False


def postmaster_of(data_dir: Path) -> Process | None:
    """The living postmaster on ``data_dir``, whoever started it."""
    file = read_pid_file(data_dir)
    if file is None or not _Home(data_dir).of(file.pid):
        return None
    found = process(file.pid)
    return found if found is not None and found.state not in "ZX" else None


class Heads:
    """``postmaster_of``, asked again and again: while the pid file is the same and its process lives, that is it; none changes
    its program or its folder.
    """

    def __init__(self) -> None:
        self._file: object = None
        self._found: Process | None = None

    def look(self, data_dir: Path) -> Process | None:
        file = _pid_file(data_dir)
        if file is not None and file == self._file and self._found is not None:
            now = process(self._found.pid)
            if now is not None and now.start == self._found.start and now.state not in "ZX":
                return now
        self._file, self._found = file, postmaster_of(data_dir)
        return self._found


def _pid_file(data_dir: Path) -> object:
    """What tells one pid file, and one state of it, from another; None if there is none."""
    try:
        found = os.stat(f"{data_dir}/postmaster.pid")
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def title(pid: int) -> str:
    """What a process calls itself: ``postgres: 15/main: walreceiver streaming 0/3000148``; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


_RECEIVER = re.compile(r"^postgres: (?:.*: )?walreceiver(?: *$| +streaming )")
_STARTUP = re.compile(r"^postgres: (?:.*: )?startup\b")
_CHECKPOINTER = re.compile(r"^postgres: (?:.*: )?checkpointer\b")


def receivers(found: list[Process]) -> list[Process]:
    """The walreceiver (there is at most one; a dying one may still be there beside its successor)."""
    return [each for each in found if _RECEIVER.match(title(each.pid))]


def checkpointers(found: list[Process]) -> list[Process]:
    return [each for each in found if _CHECKPOINTER.match(title(each.pid))]


def startups(found: list[Process]) -> list[Process]:
    return [each for each in found if _STARTUP.match(title(each.pid))]


_ARCHIVER = re.compile(r"^postgres: (?:.*: )?archiver\b")
#: DBState of ControlFileData: shut down; shut down in recovery (src/include/catalog/pg_control.h)
_SHUT_DOWN, _STATE_AT = (1, 2), 16


def end_archiving(data_dir: Path) -> bool:
    """Of a Postgres that is shut down but for its archiver: that ends, with the command that it waits for. What is not archived
    yet stays marked for that (archive_status). True if there was one.
    """
    try:
        with open(data_dir / "global" / "pg_control", "rb") as file:
            state = int.from_bytes(file.read(_STATE_AT + 4)[_STATE_AT:], sys.byteorder)
    except OSError:
        return False
    found = [each for each in processes_of(data_dir) if _ARCHIVER.match(title(each.pid))] if state in _SHUT_DOWN else []
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGTERM)  # each of Postgres's processes leads a group
    return bool(found)


def send(pid: int, number: signal.Signals) -> None:
    """A signal; no complaint if the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wake_stopped(found: list[Process]) -> None:
    """SIGCONT whoever is stopped, so that it can act on the signal that it was sent."""
    for each in found:
        if each.state in "Tt":
            send(each.pid, signal.SIGCONT)


def kill_all(data_dir: Path, limit: float) -> bool:
    """SIGKILL all of it, the postmaster first (it would start others again). True when no process is left."""
    end = time.monotonic() + limit
    while True:
        left = processes_of(data_dir)
        if not left:
            return True
        head = postmaster_of(data_dir)
        if head is not None:
            send(head.pid, signal.SIGKILL)
        for each in left:
            send(each.pid, signal.SIGKILL)
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL)


def waits_for_device(pid: int) -> tuple[str, ...]:
    """What it has read and written so far (calls that returned), while it waits in the kernel for a device; else ()."""
    found = process(pid)
    if found is None or found.state != "D":
        return ()
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if line.startswith(("syscr", "syscw")))
