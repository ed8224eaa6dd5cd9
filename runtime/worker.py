"""Work that may take long (an fsync on a bad day), beside a loop that must not wait.

Promise: jobs run one after the other, in order, in one thread; each outcome is handed back inside the loop. A job that hangs
holds up later jobs, never the loop.
"""

from __future__ import annotations

import os
import queue
import selectors
import threading
from collections.abc import Callable

#: Gets None, or what the job raised.
Then = Callable[[Exception | None], None]


class Worker:
    def __init__(self, selector: selectors.BaseSelector, stack: int = 0) -> None:
        """``stack``: bytes for the thread's stack, 0: the system's 8 MB, which count in full where memory is locked."""
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], Then] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Then, Exception | None]] = queue.SimpleQueue()
        self._selector = selector
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        selector.register(self._wakeup, selectors.EVENT_READ, self._finish)
        before = threading.stack_size(stack)
        threading.Thread(target=self._work, daemon=True).start()
        threading.stack_size(before)

    def do(self, job: Callable[[], object], then: Then) -> None:
        """Run ``job`` in the thread, then call ``then`` in the loop."""
        self._jobs.put((job, then))

    def close(self) -> None:
        """Hand back no more outcomes; jobs that were given are still done."""
        self._jobs.put(None)
        self._selector.unregister(self._wakeup)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, then = item
            problem: Exception | None = None
            try:
                job()
            except Exception as raised:
                problem = raised
            self._done.put((then, problem))
            os.eventfd_write(self._wakeup, 1)
        os.close(self._wakeup)

    def _finish(self, mask: int) -> None:
        os.eventfd_read(self._wakeup)
        while not self._done.empty():
            then, problem = self._done.get()
            then(problem)
