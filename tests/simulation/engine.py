"""Virtual time: a heap of calls and the one source of randomness.

Promise: calls run in the order of their times, equal times in the order they were asked for; nothing else decides the order.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

T = TypeVar("T")


class Middling(Random):
    """Chance without chance: always the middle. What it times changes only when something is decided or timed otherwise."""

    def random(self) -> float:
        return 0.5

    def choice(self, seq: SupportsLenAndGetItem[T]) -> T:
        return seq[len(seq) // 2]

    def randint(self, a: int, b: int) -> int:
        return (a + b) // 2


class Spin(Exception):
    """So many calls at one moment that time no longer moves."""


class Engine:
    """Seconds of true time since the start of the run; the servers' clocks are derived from it."""

    def __init__(self, seed: int, middling: bool = False) -> None:
        self.now = 0.0
        self.random = Middling(seed) if middling else Random(seed)
        #: nothing after this is of interest; ``stop``: nothing at all any more
        self.until = 0.0
        self.stop = False
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay: float, call: Callable[..., Any], *args: Any) -> None:
        self._count += 1
        heappush(self._heap, (self.now + delay, self._count, call, args))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()

    def run(self) -> None:
        """Run every call due before ``until``, or until ``stop`` is set by one of them."""
        heap = self._heap
        at_once, last = 0, -1.0
        while heap and heap[0][0] <= self.until and not self.stop:
            self.now, _, call, args = heappop(heap)
            at_once = at_once + 1 if self.now == last else 0
            last = self.now
            if at_once > 5000:
                raise Spin(f"time stands still at {self.now:.3f} s in {call}")
            call(*args)
        if not self.stop:
            self.now = max(self.now, self.until)
