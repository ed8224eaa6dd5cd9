"""How far a copy is, in words: bytes, rate, time left; and how often that is worth a line in a log. Pure.

Promise: the rate is that of the last seconds, so that a copy that has stopped moving is seen to. Source: house style, 11.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from ha_manager.observation import Progress

MIB = 1024 * 1024
#: The rate is taken over so long (seconds)
WINDOW = 5.0


class Speed:
    """Feed it what a program says; it adds the rate."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rated(self, progress: Progress) -> Progress:
        """``progress`` with the rate of the last seconds (bytes a second)."""
        self._seen.append((progress.seconds, progress.done))
        while len(self._seen) > 2 and progress.seconds - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        (since, before), (now, done) = self._seen[0], self._seen[-1]
        return replace(progress, rate=(done - before) / (now - since) if now > since else 0.0)


class Pace:
    """When to write a line: once bytes have moved for a few seconds, so that a rate is known; then every half minute, a tenth
    of the way at least having been covered or five minutes gone.
    """

    FIRST, SOON, LATE = 5.0, 30.0, 300.0

    def __init__(self) -> None:
        self._at, self._share = -1.0, 0.0

    def due(self, progress: Progress) -> bool:
        if self._at < 0:
            if progress.seconds < self.FIRST or not progress.done:
                return False
            self._at, self._share = progress.seconds, progress.share
            return True
        since = progress.seconds - self._at
        if since < self.SOON or (since < self.LATE and progress.share - self._share < 0.1):
            return False
        self._at, self._share = progress.seconds, progress.share
        return True


def words(progress: Progress) -> str:
    """``512 of 1500 MiB, 34 %, 121 MiB/s, 8 s left``; what goes on where no bytes do."""
    if not progress.total or (not progress.done and progress.doing):
        return f"{progress.doing or 'preparing'}, {progress.seconds:.0f} s"
    text = f"{progress.done // MIB} of {progress.total // MIB} MiB, {progress.share * 100:.0f} %"
    if progress.share >= 1.0:
        return f"{text}, being written to the disk, {progress.seconds:.0f} s"
    if progress.rate < 1024:
        return f"{text}, nothing is arriving now"
    left = (progress.total - progress.done) / progress.rate
    return f"{text}, {_rate(progress.rate)}, {duration(left)} left"


def _rate(rate: float) -> str:
    return f"{rate / MIB:.0f} MiB/s" if rate >= 10 * MIB else f"{rate / MIB:.1f} MiB/s"


def duration(seconds: float) -> str:
    """``8 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
