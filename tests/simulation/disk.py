"""A server's disk: the record of heartbeat, and how long an fsync takes.

Promise: what was not fsynced at a power cut is gone; a write under way then may or may not be there, as the seed decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from heartbeat.model import Record

from .engine import Engine

#: a slow fsync takes so many times what the fault says, at the most
SLOWEST = 1.5


class Disk:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.record = Record()
        self.generation = 0
        #: seconds that every fsync takes on top, while a fault says so; and whether writes fail
        self.slow = 0.0
        self.full = 0
        self._queue: deque[tuple[Record, Callable[[bool], None]]] = deque()
        self._life = 0

    def fsync_time(self) -> float:
        random = self._engine.random.random
        return 0.0005 + 0.002 * random() + (self.slow * (SLOWEST - 1.0 + random()) if self.slow else 0.0)

    def write(self, record: Record, done: Callable[[bool], None]) -> None:
        """One record after the other; ``done`` is told whether it is on the disk."""
        self._queue.append((record, done))
        if len(self._queue) == 1:
            self._engine.after(self.fsync_time(), self._written, self._life)

    def _written(self, life: int) -> None:
        if life != self._life:
            return
        record, done = self._queue.popleft()
        ok = not self.full
        if ok:
            self.record = record
        if self._queue:
            self._engine.after(self.fsync_time(), self._written, life)
        done(ok)

    def interrupt(self) -> None:
        """The writer ends (power cut, or its process killed): the write under way gets to the disk or doesn't."""
        if self._queue and self._engine.random.random() < 0.5 and not self.full:
            self.record = self._queue[0][0]
        self._queue.clear()
        self._life += 1
