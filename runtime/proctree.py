"""Processes by identity, not by number: start times, descendants, and an end that nothing escapes.

Promise: a process is (pid, start time), so that a reused pid is never taken for the old one. ``kill_tree`` freezes a process
and its descendants before it kills any of them, so that none can fork its way out or be reparented unseen, and waits on pidfds
until they are gone. What /proc can't promise: a descendant whose parent had died before the call belongs to somebody else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STOPPED = frozenset("TtZX")
_FREEZE_LIMIT = 0.1


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat. ``start`` is in clock ticks since boot and, with the pid, names the process."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    start: int

    @property
    def started(self) -> float:
        """Start in seconds of CLOCK_BOOTTIME."""
        return self.start / _TICKS


def process(pid: int) -> Process | None:
    """What /proc says of ``pid``; None if there is no such process (a zombie is one, with state Z)."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _parse(pid, text.decode(errors="replace"))


def _read(path: str) -> bytes:
    """In three calls of the kernel instead of nine: this is asked several times a second for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _parse(pid: int, text: str) -> Process:
    # The name stands in parentheses and may hold anything, so fields are counted from the last closing one.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0], int(fields[19]))


def start_time(pid: int) -> int | None:
    """Start of ``pid`` in clock ticks since boot; None if it doesn't exist."""
    found = process(pid)
    return found.start if found else None


def alive(pid: int, start: int | None = None) -> bool:
    """True if ``pid`` exists, is not a zombie and (if given) started at ``start``."""
    found = process(pid)
    return found is not None and found.state not in "ZX" and (start is None or found.start == start)


def processes() -> Iterator[Process]:
    """Every process that this PID namespace shows."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := process(int(name))):
            yield found


def descendants(pid: int) -> list[Process]:
    """Children of ``pid``, their children and so on, parents first."""
    children: dict[int, list[Process]] = {}
    for each in processes():
        children.setdefault(each.parent, []).append(each)
    found: list[Process] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += [child.pid for child in below]
    return found


def open_process(pid: int, start: int | None = None) -> int | None:
    """A pidfd of exactly this process; None if it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return None
    # The number may have been reused before the pidfd was open, not after: compare now.
    if start is not None and start_time(pid) != start:
        os.close(fd)
        return None
    return fd


def kill_tree(pid: int, start: int | None, *, limit: float = 5.0, spare: Callable[[Process], bool] | None = None) -> bool:
    """SIGKILL ``pid`` (started at ``start``; None: whoever it is now) and all its descendants; True when all are gone.

    ``spare`` names descendants that are left alone with everything below them; ``other_session(pid)`` is one. ``limit`` is in
    seconds; False means that something still exists then (uninterruptible sleep).
    """
    held: dict[int, int] = {}
    root = open_process(pid, start)
    if root is None:
        return True
    held[pid] = root
    try:
        _freeze(pid, held, spare)
        for fd in held.values():
            _send(fd, signal.SIGKILL)
            _send(fd, signal.SIGCONT)
        return _wait_gone(list(held.values()), limit)
    finally:
        for fd in held.values():
            os.close(fd)


def other_session(pid: int) -> Callable[[Process], bool]:
    """For ``kill_tree``: spare descendants that made a session of their own, because they are meant to outlive ``pid``."""
    root = process(pid)
    return lambda each: root is not None and each.session != root.session


def _freeze(root: int, held: dict[int, int], spare: Callable[[Process], bool] | None) -> None:
    """SIGSTOP everything below ``root`` until a look around finds nobody new."""
    _send(held[root], signal.SIGSTOP)
    _wait_stopped(root)
    while True:
        new = [each for each in _unspared(root, spare) if each.pid not in held]
        for each in new:
            fd = open_process(each.pid, each.start)
            if fd is not None:
                held[each.pid] = fd
                _send(fd, signal.SIGSTOP)
        if not new:
            return
        for each in new:
            _wait_stopped(each.pid)


def _unspared(root: int, spare: Callable[[Process], bool] | None) -> list[Process]:
    found: list[Process] = []
    skipped: set[int] = set()
    for each in descendants(root):
        if each.parent in skipped or (spare is not None and spare(each)):
            skipped.add(each.pid)
        elif each.state not in "ZX":
            found.append(each)
    return found


def _wait_stopped(pid: int) -> None:
    """A fork that was under way when SIGSTOP came still finishes: only a stopped process has had its last child."""
    end = time.monotonic() + _FREEZE_LIMIT
    while time.monotonic() < end:
        states = _thread_states(pid)
        if all(state in _STOPPED for state in states):
            return
        time.sleep(0.0005)


def _thread_states(pid: int) -> list[str]:
    states = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.append(_parse(pid, Path(f"/proc/{pid}/task/{name}/stat").read_text(errors="replace")).state)
    return states


def _send(fd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, number)


def _wait_gone(fds: list[int], limit: float) -> bool:
    end = time.monotonic() + limit
    for fd in fds:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return False
    return True
