"""Calls from threads into a loop.

Promise: each is made in the loop, in the order in which they came; ``put`` never waits, and does nothing after ``close``.
"""

from __future__ import annotations

import os
import queue
import selectors
import threading
from collections.abc import Callable


class Mailbox:
    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selector
        self._lock = threading.Lock()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        selector.register(self._wakeup, selectors.EVENT_READ, self._deliver)

    def put(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        with self._lock:
            if self._wakeup >= 0:
                os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        with self._lock:
            self._selector.unregister(self._wakeup)
            os.close(self._wakeup)
            self._wakeup = -1

    def _deliver(self, mask: int) -> None:
        os.eventfd_read(self._wakeup)
        for _ in range(self._calls.qsize()):
            self._calls.get()()
