"""Whether what was started still does anything: for those who wait for a program that has no time limit of its own.

Promise: a stopped process (SIGSTOP) is woken at the next look; processor time, input and output, and a wait for the disk are
signs of life, waiting for somebody else is none. Source: proc(5), /proc/PID/stat and /proc/PID/io.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from .clock import boottime
from .proctree import Process, processes

#: looks within so many seconds are one
_STEP = 1.0


class Pulse:
    """Of the processes that ``find`` finds."""

    def __init__(self, find: Callable[[], list[Process]]) -> None:
        self._find = find
        self._trace: tuple[object, ...] = ()
        self._since = self._looked = boottime()

    def quiet(self, done: object = None) -> float:
        """Seconds since anything moved; ``done``: something else that moves, such as what the program reports."""
        now = boottime()
        if now - self._looked < _STEP:
            return self._looked - self._since
        self._looked = now
        members = self._find()
        wake(members)
        trace = (done, *(_spent(each.pid) for each in members))
        if trace != self._trace or any(each.state == "D" for each in members):
            self._trace, self._since = trace, now
        return now - self._since


def wake(found: list[Process]) -> bool:
    """SIGCONT whoever is stopped; whether anybody was."""
    stopped = [each for each in found if each.state in "Tt"]
    for each in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGCONT)
    return bool(stopped)


def group_of(group: int) -> list[Process]:
    """The living processes of a process group."""
    return [each for each in processes() if each.group == group and each.state not in "ZX"]


def _spent(pid: int) -> tuple[str, ...]:
    """Numbers that grow while a process does something."""
    try:
        io = Path(f"/proc/{pid}/io").read_text().split()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return ()
    return (*io[1:4:2], *times)
