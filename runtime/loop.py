"""A small event loop: file descriptors and timers, one thread, nothing hidden.

Promise: what has arrived is handled before any timer is judged, so that a process that was stopped for a while reads the
answers that came meanwhile before it decides that none came. Times are CLOCK_BOOTTIME seconds. The ``data`` of each selector
key is a callable that takes the event mask (as everywhere in ``runtime``).
"""

from __future__ import annotations

import heapq
import itertools
import selectors
from collections.abc import Callable

from .clock import boottime


class Timer:
    """One call at one time; can be cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    @property
    def pending(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        self._call = None

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Loop:
    """``selector`` for whoever wants to register; ``call_at`` and ``call_after`` for timers."""

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self.selector = selectors.DefaultSelector()
        self.now = now
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._running = False

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_after(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.now() + seconds, call)

    def once(self, longest: float | None = None) -> None:
        """Wait for the next event or timer (at most ``longest`` seconds) and handle what there is."""
        while self._timers and not self._timers[0][2].pending:
            heapq.heappop(self._timers)
        wait = longest
        if self._timers:
            due = max(0.0, self._timers[0][0] - self.now())
            wait = due if wait is None else min(wait, due)
        # Whoever is called may close others: their events of this round are void.
        for key, mask in self.selector.select(wait):
            if self.selector.get_map().get(key.fd) == key:
                key.data(mask)
        now = self.now()
        due_now = []
        while self._timers and self._timers[0][0] <= now:
            due_now.append(heapq.heappop(self._timers)[2])
        for timer in due_now:
            timer.fire()

    def run(self) -> None:
        """Until ``stop``."""
        self._running = True
        while self._running:
            self.once()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self.selector.close()
