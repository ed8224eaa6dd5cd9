"""The two clocks: one for deciding, one for people.

Promise: ``boottime`` never jumps and goes on through a suspend, the same clock as the first field of /proc/uptime; ``stamp`` is
local wall-clock time for logs and histories and never enters a decision. Source: design §4 ("Clocks: CLOCK_BOOTTIME").
"""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, suspends included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Seconds since 1970; for records that outlive a boot."""
    return time.time()


def stamp(at: float | None = None) -> str:
    """Wall-clock time ``at`` (now if None) for people: ``2016-08-01 13:45:12.123``, local time."""
    at = time.time() if at is None else at
    milliseconds = int(at * 1000) % 1000
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}.{milliseconds:03d}"


def stamp_of_boottime(at: float) -> str:
    """The wall-clock time at which ``boottime()`` was ``at``, for people."""
    return stamp(time.time() - (boottime() - at))
