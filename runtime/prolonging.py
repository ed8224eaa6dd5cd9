"""Prolonging the lifetime of addresses beside a loop that must never wait.

Promise: ``prolong`` returns at once; what the kernel said to the last attempt is raised by the next one. The kernel changes
addresses and interfaces one at a time, on the whole machine (the lock called rtnl): a card that is reset, a container that is
taken down hold up everybody else, a heartbeat with its real-time priority too, for a tenth of a second, and a second where
processors are scarce. Who is held up so long while it renews its lease has lost it. The kernel can't let an address lapse in
such a time either: that takes the same lock. What is released while it is being prolonged is removed again. One thread,
which asks for a priority of its own (``begin``); a child that is forked has no part in it. Source: design §4 rule 5;
rtnetlink(7).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from runtime.errors import HaError

#: of the thread's stack, all of which is locked in memory where memory is
_STACK = 256 * 1024


class Kernel(Protocol):
    """``runtime.rtnetlink.AddressSocket``."""

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None: ...
    def remove(self, address: str, interface: str | None = None) -> bool: ...
    def forget(self) -> None: ...


class Prolonger:
    def __init__(self, kernel: Callable[[], Kernel], begin: Callable[[], object] = lambda: None) -> None:
        """``kernel`` makes the thread's own; ``begin`` is called in the thread, first."""
        self._kernel = kernel
        self._begin = begin
        self._asked: SimpleQueue[tuple[str, str, float]] = SimpleQueue()
        self._held: set[str] = set()
        self._under_way: set[str] = set()
        self._failed: dict[str, Exception] = {}

    def start(self) -> None:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=self._run, name="addresses", daemon=True).start()
        finally:
            threading.stack_size(before)

    def prolong(self, address: str, interface: str, lifetime: float) -> None:
        """Soon. Raises what came of the last time (HaError, OSError). Nothing happens while that is still under way."""
        self._held.add(address)
        if address not in self._under_way:
            self._under_way.add(address)
            self._asked.put((address, interface, lifetime))
        if (failed := self._failed.pop(address, None)) is not None:
            raise failed

    def release(self, address: str) -> None:
        """It is let go; the caller removes it."""
        self._held.discard(address)
        self._failed.pop(address, None)

    def _run(self) -> None:
        self._begin()
        kernel = self._kernel()
        while True:
            address, interface, lifetime = self._asked.get()
            try:
                self._prolong(kernel, address, interface, lifetime)
            except (HaError, OSError) as wrong:
                self._failed[address] = wrong
            except Exception as wrong:  # a bug must not end what keeps the address
                self._failed[address] = HaError(f"{address} can't be prolonged: {wrong!r}")
            finally:
                self._under_way.discard(address)

    def _prolong(self, kernel: Kernel, address: str, interface: str, lifetime: float) -> None:
        kernel.forget()  # an interface of that name may be another one by now
        if address in self._held:
            kernel.add(address, interface, lifetime=lifetime)
            if address not in self._held:
                kernel.remove(address, interface)
