"""Intervals of the reference: APScheduler, for what is counted in seconds and may be late.

Promise: a run that is late or overlaps is joined with the next one, never lost or doubled; nothing here is about life or
death, which is timed by the main loop. Source: design §6; facts/file-replication-and-libraries.md (APScheduler's settings).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any


class Schedule:
    """Named jobs, each every so many seconds; starting again replaces them."""

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._lock = threading.Lock()

    def start(self, jobs: Mapping[str, tuple[float, Callable[[], None]]]) -> None:
        from apscheduler.schedulers.background import BackgroundScheduler  # 54 ms, which a restart has no time for

        with self._lock:
            if self._scheduler is None:
                self._scheduler = BackgroundScheduler(
                    job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}, timezone="UTC"
                )
                self._scheduler.start()
            for name, (seconds, call) in jobs.items():
                self._scheduler.add_job(call, "interval", seconds=seconds, id=name, replace_existing=True)

    def end(self) -> None:
        with self._lock:
            if self._scheduler is not None:
                self._scheduler.shutdown(wait=False)
                self._scheduler = None
