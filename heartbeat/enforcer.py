"""Ending Postgres without ha_manager, because that one is gone, hung, or can't do it in time (design §4 rule 5).

Promise: the loop never waits: a child process freezes and kills the keeper with everything below it, and every process of its
Postgres that is left, and says so only after /proc shows none of them. It goes on until that is so. Who they are is read from
the keeper's note; without one, no keeper has run since the boot, and there is nothing to end.
Source: docs/protocols.md, "Who watches whom".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runtime import child, pidfile
from runtime.priority import REPORTER, hurry
from runtime.proctree import kill_tree, other_session, process

FOLDER = "/run/ha_manager"
_PAUSE = 0.02


@dataclass(frozen=True)
class Note:
    """keeper.json. 0 or None: unknown."""

    keeper: int = 0
    keeper_start: int | None = None
    postmaster: int = 0
    postmaster_start: int | None = None
    data_dir: str = ""


class Enforcer:
    """At most one enforcement at a time; ``fileno`` becomes readable when it is done."""

    def __init__(self, folder: str | os.PathLike[str] = FOLDER) -> None:
        self._folder = Path(folder)
        self._done = -1
        self._pid = 0

    @property
    def running(self) -> bool:
        return self._done >= 0

    def fileno(self) -> int:
        return self._done

    def start(self, with_manager: bool) -> None:
        """Begin, unless one is under way. ``with_manager``: end ha_manager too; the Manager starts it again."""
        if self.running:
            return
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # what heartbeat forks is ordinary again, and on a busy server this child's deadline is that of the lease
        realtime = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER
        pid = child.fork()
        if pid == 0:
            if realtime:
                hurry(REPORTER, inherited=False)
            _enforce(self._folder, with_manager, writing)
        os.close(writing)
        self._done, self._pid = reading, pid

    def finish(self) -> bool:
        """Take the outcome: True when nothing is left of Postgres; False if the child died before it could say so."""
        try:
            said = os.read(self._done, 16)
        except BlockingIOError:
            return False
        os.close(self._done)
        self._done = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        return said == b"done"


# --- the child ------------------------------------------------------------------------------------------------------------


def _enforce(folder: Path, with_manager: bool, report: int) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        child.listen()
        os.closerange(3, report)
        os.closerange(report + 1, 65536)
        while not end(folder, with_manager):
            time.sleep(_PAUSE)
        os.write(report, b"done")
        code = 0
    finally:
        os._exit(code)


def end(folder: Path, with_manager: bool, limit: float = 1.0) -> bool:
    """One attempt: kill them all; True when none is left."""
    if with_manager:
        manager = pidfile.find(folder / "ha_manager.pid")
        # Its keeper is in a session of its own and comes next, so that the order is known.
        if manager is not None and not kill_tree(manager.pid, manager.start, limit=limit, spare=other_session(manager.pid)):
            return False
    note = read_note(folder)
    gone = True
    for pid, start in ((note.keeper, note.keeper_start), (note.postmaster, note.postmaster_start)):
        if pid and start is not None:
            gone &= kill_tree(pid, start, limit=limit)
    if note.data_dir:
        for pid in list(_of_postgres(note.data_dir)):
            found = process(pid)
            gone &= found is None or kill_tree(pid, found.start, limit=limit)
        gone &= not any(_of_postgres(note.data_dir))
    return gone


def read_note(folder: Path) -> Note:
    """Who the keeper and its Postgres are; what can't be read is unknown."""
    try:
        said: Any = json.loads((folder / "keeper.json").read_bytes())
    except (OSError, ValueError):
        said = {}
    if not isinstance(said, dict):
        said = {}
    keeper, start = said.get("keeper"), said.get("keeper_start")
    if not isinstance(keeper, int) or not isinstance(start, int):
        found = pidfile.find(folder / "keeper.pid")
        keeper, start = (found.pid, found.start) if found else (0, None)
    postmaster, postmaster_start = said.get("postmaster"), said.get("postmaster_start")
    if not isinstance(postmaster, int) or not isinstance(postmaster_start, int):
        postmaster, postmaster_start = 0, None
    data_dir = said.get("data_dir")
    return Note(keeper, start, postmaster, postmaster_start, data_dir if isinstance(data_dir, str) else "")


def _of_postgres(data_dir: str) -> Iterator[int]:
    """Processes of Postgres whose working directory is ``data_dir``, whoever their parent is; zombies hold nothing."""
    real = os.path.realpath(data_dir)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            mine = os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)") == real
            program = os.path.basename(os.readlink(f"/proc/{name}/exe").removesuffix(" (deleted)"))
        except OSError:
            continue
        if mine and program == "postgres":
            yield int(name)
