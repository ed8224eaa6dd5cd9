"""Where the log of this primary was when: turns a position that the standby holds into seconds and transactions behind.

Promise: pure; remembers ten minutes. What it can't tell is None. ``transactions`` counts those that were given a number since
the position was passed, so at least those that are lost with the log beyond it.
Source: issue "Postgres: no acknowledged write lost" ("Explain").
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

KEPT = 600.0


@dataclass(frozen=True)
class Behind:
    """How far a standby is behind."""

    bytes: int
    seconds: float | None
    transactions: int | None


NOTHING_BEHIND = Behind(0, 0.0, 0)


class Trail:
    def __init__(self) -> None:
        self._at: list[float] = []
        self._lsn: list[int] = []
        self._counter: list[int] = []

    def note(self, at: float, lsn: int, counter: int) -> None:
        """At ``at`` the log ended at ``lsn``, and ``counter`` transactions had been numbered in this epoch."""
        if self._lsn and (lsn < self._lsn[-1] or counter < self._counter[-1]):
            self.forget()  # another epoch, or another database
        if self._lsn and lsn == self._lsn[-1] and counter == self._counter[-1]:
            self._at[-1] = at
            return
        self._at.append(at)
        self._lsn.append(lsn)
        self._counter.append(counter)
        if len(self._at) > 64 and at - self._at[len(self._at) // 2] > KEPT:
            half = len(self._at) // 2
            del self._at[:half], self._lsn[:half], self._counter[:half]

    def forget(self) -> None:
        self._at, self._lsn, self._counter = [], [], []

    def behind(self, held: int) -> Behind | None:
        """A standby that has flushed everything before ``held`` lacks so much; None: nothing is known of either."""
        if not self._lsn or held < 0:
            return None
        lacks = self._lsn[-1] - held
        if lacks <= 0:
            return NOTHING_BEHIND
        index = bisect_right(self._lsn, held) - 1
        if index < 0:
            return Behind(lacks, None, None)
        return Behind(lacks, self._at[-1] - self._at[index], self._counter[-1] - self._counter[index])
