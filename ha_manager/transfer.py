"""A program of Postgres's that moves a database (pg_basebackup, pg_rewind): watched while it runs, and gone afterwards.

Promise: it ends with the caller, and with ha_manager however that ends; one that is stopped (SIGSTOP) is woken; one that does
nothing any more is ended, and that is said; it never takes the last of a disk. Nothing waits for it without a limit.
Source: design §6; facts/postgres.md, "Floors".
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ha_manager.observation import Progress
from ha_manager.progress import Speed
from ha_manager.writeback import Writeback
from runtime import commands
from runtime.clock import boottime
from runtime.errors import CommandFailed, ReplicationError, without_secrets
from runtime.proctree import Process, process
from runtime.pulse import Pulse, group_of

log = logging.getLogger(__name__)

#: Bytes that stay free on every disk that is written to.
RESERVE = 64 * 1024 * 1024
#: It may do nothing for so long: before the first bytes (the active makes a checkpoint), and later (seconds).
BEFORE, LATER = 600.0, 30.0
_LOOK = 0.2
_PROGRESS = re.compile(r"(\d+)/(\d+) kB")
_PROGRAMS = ("pg_basebackup", "pg_rewind", "rsync")
OnProgress = Callable[[Progress], bool]


class Cancelled(ReplicationError):
    """The caller ended the copy."""


def as_user(user: str) -> list[str]:
    """It dies with the thread that waits for it: a copy without a ha_manager serves nobody."""
    group = commands.identity(user)["group"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--pdeathsig=KILL"]


@dataclass(frozen=True)
class Watch:
    """What to look at meanwhile: disks that it writes to, folders whose files go to the disk while it writes them, and how
    long it may do nothing.
    """

    disks: Sequence[Path] = ()
    written: Sequence[Path] = ()
    before: float = BEFORE
    later: float = LATER
    doing: str = "waiting for the active's checkpoint"


def run(
    argv: list[str],
    user: str,
    progress: OnProgress,
    limit: float,
    watch: Watch = Watch(),
    read: Callable[[str], tuple[int, int] | None] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Until it ends. Raises Cancelled, CommandFailed or ReplicationError; nothing of it is left running then. ``read`` finds
    (done, total) in bytes in the end of what it said.
    """
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0, cwd="/",
        env=commands.environment(env, user),
    )  # fmt: skip
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    said = _Said(child.stdout.fileno())
    try:
        with Writeback(child.pid, watch.written) as writeback:
            _attend(child, said, argv, _beside(writeback, progress), limit, watch, read or _kilobytes)
    finally:
        if child.poll() != 0:
            _end(child.pid)
            child.wait()
        said.more()
        child.stdout.close()
    if child.returncode != 0:
        raise _failed(argv, child.returncode, said.complaint())


def _failed(argv: Sequence[str], code: int | None, complaint: str, because: str | None = None) -> CommandFailed:
    """In alarms the program and what went wrong, in one line; the whole of both is in the log."""
    failed = CommandFailed(argv, code, complaint, because=because)
    log.info("%s", failed)
    words = argv[1:] if argv[0] == "setpriv" else argv
    program = next(word for word in words if not word.startswith("--"))
    return CommandFailed([Path(program).name], code, _gist(complaint), because=because)


def _gist(complaint: str) -> str:
    """What a program calls its errors, without its name; all of it if it calls nothing so."""
    lines = [line.strip() for line in complaint.splitlines()]
    errors = [said for line in lines for _, mark, said in [line.partition("error: ")] if mark]
    return "; ".join(dict.fromkeys(errors or lines))


def _beside(writeback: Writeback, progress: OnProgress) -> OnProgress:
    def looking(done: Progress) -> bool:
        writeback.check()
        return progress(done)

    return looking


def _attend(
    child: subprocess.Popen[bytes],
    said: _Said,
    argv: list[str],
    progress: OnProgress,
    limit: float,
    watch: Watch,
    read: Callable[[str], tuple[int, int] | None],
) -> None:
    began, speed, life = boottime(), Speed(), _Life(child.pid, watch)
    while True:
        said.more()
        done, total = read(said.text) or (0, 0)
        seconds = boottime() - began
        if not progress(speed.rated(Progress(done, total, seconds, doing="" if done else watch.doing))):
            raise Cancelled("the copy was cancelled")
        if seconds > limit:
            raise _failed(argv, None, said.complaint(), because=f"did not end within {limit:g} s")
        life.look(done)
        if _ended(child, _LOOK):
            return


def _ended(child: subprocess.Popen[bytes], within: float) -> bool:
    """Has it ended? Told at once; Popen.wait looks every 50 ms."""
    descriptor = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(within * 1000)
    finally:
        os.close(descriptor)
    return child.poll() is not None


def sync(places: Sequence[Path], progress: OnProgress, limit: float) -> None:
    """Everything on the disks of these places is written: all at once, a second or more quicker than a thousand files one by
    one (so ``--no-sync`` for what came before). Raises as ``run``.
    """
    argv = ["sync", "--file-system", *map(str, places)]
    run(argv, "root", progress, limit, Watch(before=limit, doing="being written to the disk"))


class _Said:
    """The end of what the program says; never blocks."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._said = b""

    def more(self) -> None:
        for _ in range(64):
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return
            if not data:
                return
            self._said = (self._said + data)[-16384:]

    @property
    def text(self) -> str:
        return self._said.decode(errors="replace")

    def complaint(self) -> str:
        lines = without_secrets(self.text.replace("\r", "\n")).splitlines()
        return "\n".join(line for line in lines if line.strip() and not _PROGRESS.search(line))[-2000:]


def _kilobytes(said: str) -> tuple[int, int] | None:
    found = _PROGRESS.findall(said)
    return (int(found[-1][0]) * 1024, int(found[-1][1]) * 1024) if found else None


class _Life:
    """Does the program still do anything?"""

    def __init__(self, group: int, watch: Watch) -> None:
        self._pulse, self._watch = Pulse(lambda: group_of(group)), watch

    def look(self, done: int) -> None:
        """Raises ReplicationError when it doesn't, or when a disk is about to be full."""
        for disk in self._watch.disks:
            check_reserve(disk)
        patience = self._watch.later if done else self._watch.before
        if self._pulse.quiet(done) > patience:
            raise ReplicationError(f"nothing has moved for {patience:g} s: the copy is ended and begun anew")


def check_reserve(disk: Path) -> None:
    """Raises ReplicationError where a disk is about to be full."""
    with contextlib.suppress(FileNotFoundError):
        seen = os.statvfs(disk)
        free = seen.f_bavail * seen.f_frsize
        if free < RESERVE:
            raise ReplicationError(f"only {free >> 20} MB are left in {disk}: the copy was ended and removed; make room there")


def _end(group: int) -> None:
    """pg_basebackup has a second process that receives the log: it goes, too, before anything is removed under it."""
    commands.kill_group(group)
    end = time.monotonic() + 5.0
    while time.monotonic() < end and any(each.pid != group for each in group_of(group)):
        commands.kill_group(group)
        time.sleep(0.01)


# --- what an earlier ha_manager left ------------------------------------------------------------------------------------------


def end_leftovers(data_dir: Path, limit: float = 5.0) -> int:
    """End every such program that works on this data directory or a copy beside it; returns how many there were."""
    found = _leftovers(data_dir)
    end = time.monotonic() + limit
    left = found
    while left:
        for each in left:
            _send(each.pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise ReplicationError(f"a copy of before (pid {left[0].pid}) can't be ended: is the disk hanging?")
        time.sleep(0.01)
        left = _leftovers(data_dir)
    return len(found)


def _leftovers(data_dir: Path) -> list[Process]:
    wanted = os.fsencode(str(data_dir))
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.path.basename(os.readlink(f"/proc/{name}/exe").removesuffix(" (deleted)")) not in _PROGRAMS:
                continue
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            here = os.readlink(f"/proc/{name}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        except OSError:
            continue
        ours = any(word == wanted or word.startswith((wanted + b".", wanted + b"/")) for word in words)
        if here and ours and (each := process(int(name))) and each.state not in "ZX":
            found.append(each)
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
