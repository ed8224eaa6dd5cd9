"""What this node carries: its processors, and the connections to its proxy.

Promise: measured every four seconds in a thread that may take its time; the latest figures are always at hand. The kernel walks
all its sockets for it, a millisecond or two, and many on a node with very many connections: then less often, so that it stays a
thousandth of a processor, but not less often than loads are judged (``balance.PERIOD``).
Source: proc(5), sock_diag(7).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from director import balance
from runtime.errors import HaError
from runtime.loop import Loop, Timer
from runtime.reset import clients_of
from runtime.worker import Worker

PERIOD = 4.0
#: of a processor's time
_SHARE = 0.001
#: of the processors, averaged over some periods
_NEW = 0.28
_IDLE, _WAITING = 3, 4  # columns of /proc/stat


class LoadMeter:
    def __init__(self, loop: Loop, worker: Worker, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.cpu = 0.0
        self.clients: Counter[str] = Counter()
        self._loop = loop
        self._worker = worker
        self._before: tuple[int, int] | None = None
        self._first = True
        self._cost = 0.0
        self._timer: Timer | None = None

    @property
    def connections(self) -> int:
        return self.clients.total()

    def start(self) -> None:
        self._worker.do(self._measure, self._again)

    def _again(self, _: Exception | None) -> None:
        self._timer = self._loop.call_after(pause(self._cost), self.start)

    def serves(self) -> bool:
        """Whether there are connections right now."""
        try:
            return clients_of(set(self.ports)).total() > 0
        except (HaError, OSError):
            return False

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _measure(self) -> None:
        busy, whole = _processors()
        if self._before is None:  # of the last minute; with 0, others would be taken for busier than this node
            self.cpu = min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        if self._before is not None and whole > self._before[1]:
            now = (busy - self._before[0]) / (whole - self._before[1])
            smoothed = now if self._first else self.cpu + _NEW * (now - self.cpu)
            self.cpu, self._first = min(1.0, max(0.0, smoothed)), False
        self._before = busy, whole
        began = time.thread_time()
        try:
            self.clients = clients_of(set(self.ports))
        except (HaError, OSError):
            self.clients = Counter()
        self._cost = time.thread_time() - began


def pause(cost: float) -> float:
    """Until the connections are counted again, when that took so many seconds of a processor."""
    return min(balance.PERIOD, max(PERIOD, cost / _SHARE))


def _processors() -> tuple[int, int]:
    """Ticks busy, and all."""
    columns = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(columns) - columns[_IDLE] - columns[_WAITING], sum(columns)
