"""Restraint after flapping: too many takeovers in a window suspend yields and planned failovers for a while (rule 12).

Promise: never a word against a takeover when nobody is active. Each server counts its own takeovers and says the count; both
add up to the same sum. The count is on the disk, so that servers that crash again and again are counted too; how long ago they
were is not (a clock may be wrong after a boot), so after a start they count as new. Source: design §4, rule 12.
"""

from __future__ import annotations

from math import inf

from heartbeat.model import Site


class Restraint:
    """Times: boottime. A takeover that an operator asked for counts for nothing."""

    def __init__(self, site: Site, changes: int, now: float) -> None:
        self._most = site.most_changes
        self._window = site.quiet_window
        self._own = [now] * changes
        self._peers = 0
        self._last = now if changes else -inf
        self.suspended = False

    def count(self, now: float) -> int:
        """This server's takeovers in the window."""
        while self._own and now - self._own[0] >= self._window:
            del self._own[0]
        return len(self._own)

    def took_over(self, now: float) -> None:
        self._own.append(now)
        self._last = now
        self._judge(now)

    def heard(self, changes: int, now: float) -> None:
        """The peer says how many of its takeovers are in the window."""
        if changes > self._peers:
            self._last = now
        self._peers = changes
        self._judge(now)

    def forgive(self) -> None:
        """An operator says that it is all right."""
        self._own.clear()
        self._peers, self._last, self.suspended = 0, -inf, False

    def pass_time(self, now: float) -> None:
        if self.suspended and now - self._last >= self._window:
            self.suspended = False
        elif not self.suspended and self._own:
            self.count(now)

    def ends_in(self, now: float) -> float:
        """Seconds until the suspension ends if it stays quiet."""
        return max(0.0, self._last + self._window - now)

    def _judge(self, now: float) -> None:
        if self.count(now) + self._peers > self._most:
            self.suspended = True
