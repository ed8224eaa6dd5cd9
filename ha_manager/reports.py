"""The reports on replaced databases that are still to be counted: one after the other, in the background.

Promise: ``count`` returns at once; each report is told once, when it is complete. What an ended ha_manager left uncounted is
counted by the next one. Source: design §4 rule 10.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ha_manager import counting, divergence
from ha_manager.cluster import PostgresConfig
from runtime.errors import HaError

#: a count that was killed is begun anew
_TRIES = 3


class Reports:
    """Callable from any thread. ``told`` may be replaced by whoever wants to hear each complete report."""

    def __init__(self, config: PostgresConfig, note: Callable[[str], None]) -> None:
        self._config = config
        self._note = note
        self._lock = threading.Lock()
        self._counting: threading.Thread | None = None
        self._again = False
        self._failed: set[Path] = set()
        self.told = note

    def count(self) -> None:
        """Begin, if there is anything to count."""
        with self._lock:
            self._again = True
            if self._counting is None:
                self._counting = threading.Thread(target=self._run, name="reports", daemon=True)
                self._counting.start()

    def settle(self, limit: float) -> bool:
        """Wait until all are counted; False if that takes longer."""
        running = self._counting
        if running is not None:
            running.join(limit)
        return running is None or not running.is_alive()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._again = False
            for folder in self._uncounted():
                self._one(folder)
            with self._lock:
                if not self._again:
                    self._counting = None
                    return

    def _uncounted(self) -> list[Path]:
        found = []
        for path in sorted(self._config.diverged_dir.glob(f"*/{divergence.REPORT}")):
            kept = divergence.report(path.parent)
            if kept is not None and not kept.counted and path.parent not in self._failed:
                found.append(path.parent)
        return found

    def _one(self, folder: Path) -> None:
        for left in reversed(range(_TRIES)):
            try:
                counting.start(folder, self._config.bin_dir)
                break
            except HaError as wrong:
                if not left:
                    self._failed.add(folder)
                    self._note(f"what the database kept in {folder} holds could not be counted: {wrong}")
                    return
        kept = divergence.report(folder)
        if kept is not None and kept.counted:
            self.told(divergence.words(kept, folder))
