"""Calls from other threads into a loop.

Promise: what is posted runs in the loop's thread, in order, soon; posting never waits. Source: design §6 (threads with
queues).
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Register it once with the loop's selector."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        selector.register(self._event, selectors.EVENT_READ, self._arrived)

    def post(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        os.eventfd_write(self._event, 1)

    def _arrived(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        while self._calls:
            self._calls.popleft()()
