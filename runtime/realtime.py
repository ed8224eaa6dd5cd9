"""What keeps the loop on time: locked memory, a real-time priority, a precise timer, no surprise collections.

Promise: each is asked for and none is needed: what the system refuses is returned in words, to be logged once. Children do not
inherit the priority. Source: design §5 ("no garbage collection pauses in the loop, memory locked, real-time priority if the
system allows").
"""

from __future__ import annotations

import ctypes
import gc
import os
import time

from runtime import memory
from runtime.priority import LATE_HEARTBEAT, hurry, relax

_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = os.O_NONBLOCK, os.O_CLOEXEC, 1
_COLLECT_PERIOD = 10.0


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A file descriptor that becomes readable at a time of CLOCK_BOOTTIME, finer than epoll's milliseconds."""

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set = 0.0
        self._value = _Itimerspec(_Timespec(0, 0), _Timespec(0, 0))
        self._address = ctypes.byref(self._value)

    def fileno(self) -> int:
        return self._fd

    def at(self, when: float) -> None:
        """Fire at ``when`` (at once if that is past)."""
        if when == self._set:
            return
        self._set = when
        value = self._value.value
        value.seconds, value.nanoseconds = divmod(max(1, int(when * 1e9)), 1_000_000_000)
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def fired(self) -> None:
        """Take note that it has fired; nothing happens if it has not."""
        self._set = 0.0
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._fd)


def prepare(realtime: bool, priority: int, who: str = "heartbeat", late: str = LATE_HEARTBEAT) -> list[str]:
    """Lock this process's memory and ask for a real-time priority; what was refused, in words (``late``: what comes of it)."""
    if not realtime:
        relax()
        return []
    return [because for because in (memory.lock(who), hurry(priority, inherited=False, late=late)) if because]


class Collector:
    """Garbage is collected when the loop has time, not when memory is asked for."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        self._last = time.monotonic()

    def idle(self) -> None:
        """The loop is about to wait."""
        now = time.monotonic()
        if now - self._last >= _COLLECT_PERIOD:
            self._last = now
            gc.collect()
