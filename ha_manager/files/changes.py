"""Which paths may differ on the passive, since when, and when each is to be looked at.

Promise: pure. A path stands here once, however often it changes; what there is to do is found out when it is due, by looking at
the path itself, so no order of events can be wrong. A rename, a deletion or a new attribute is due at once; a file that was
written in place and closed, when it has been quiet for ``QUIET``, at the latest after ``LONGEST``; one that is held open when
it has been for ``QUIET_OPEN``, at the latest after ``LONGEST_OPEN``. Memory is bounded: more than ``limit`` paths of one entry
become one full pass of it. Source: facts/file-replication-and-libraries.md ("Events").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

#: seconds
QUIET, LONGEST = 0.1, 2.0
QUIET_OPEN, LONGEST_OPEN = 1.0, 5.0
LIMIT = 4096


@dataclass(frozen=True)
class Change:
    """``path`` may differ since ``since``. ``tree``: it is a directory that came as a whole, with all that it holds."""

    path: str
    since: float
    tree: bool = False


@dataclass
class _Pending:
    since: float
    due: float
    tree: bool


class Changes:
    """By entry (its path in module.xml). Times are seconds of one monotonic clock."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._pending: dict[str, dict[str, _Pending]] = {}
        #: entries that need a full pass, since when
        self._full: dict[str, float] = {}

    def written(self, entry: str, path: str, now: float) -> None:
        """In place, and closed: its writer may not be done."""
        known = self._pending.get(entry, {}).get(path)
        since = known.since if known else now
        self._note(entry, path, since, min(now + QUIET, since + LONGEST), False)

    def modified(self, entry: str, path: str, now: float) -> None:
        """In place, and still open: its writer may be done for long, and never close it."""
        known = self._pending.get(entry, {}).get(path)
        since = known.since if known else now
        self._note(entry, path, since, min(now + QUIET_OPEN, since + LONGEST_OPEN), False)

    def moved(self, entry: str, path: str, now: float, *, tree: bool = False) -> None:
        """Renamed to or away, deleted, made, or given other attributes: whole as it is."""
        known = self._pending.get(entry, {}).get(path)
        self._note(entry, path, known.since if known else now, now, tree)

    def full(self, entry: str, now: float) -> None:
        """Nobody knows what changed."""
        first = min([now, *(each.since for each in self._pending.pop(entry, {}).values())])
        self._full[entry] = min(self._full.get(entry, inf), first)

    def again(self, entry: str, changes: Iterable[Change], now: float) -> None:
        """They could not be copied, or changed meanwhile: looked at again at ``now``, as old as they were."""
        for each in changes:
            self._note(entry, each.path, each.since, now, each.tree)

    def take(self, now: float) -> tuple[dict[str, list[Change]], dict[str, float]]:
        """What is due, oldest first, by entry; and the entries that need a full pass, since when. Both are forgotten here."""
        due: dict[str, list[Change]] = {}
        for entry, paths in self._pending.items():
            ready = [path for path, each in paths.items() if each.due <= now]
            if ready:
                found = [Change(path, paths[path].since, paths[path].tree) for path in ready]
                due[entry] = sorted(found, key=lambda change: change.since)
            for path in ready:
                del paths[path]
        full, self._full = self._full, {}
        return due, full

    def deadline(self) -> float | None:
        """When ``take`` will have something; None: nothing is pending."""
        if self._full:
            return -inf
        return min((each.due for paths in self._pending.values() for each in paths.values()), default=None)

    def oldest(self, entry: str) -> float:
        """Since when something of ``entry`` is pending here; ``inf``: nothing is."""
        return min([self._full.get(entry, inf), *(each.since for each in self._pending.get(entry, {}).values())])

    def forget(self) -> None:
        self._pending, self._full = {}, {}

    def _note(self, entry: str, path: str, since: float, due: float, tree: bool) -> None:
        if entry in self._full:
            return  # the full pass has not begun: it will see this, too
        paths = self._pending.setdefault(entry, {})
        known = paths.get(path)
        if known is not None:
            # A rename makes a path due that was being written; writing again makes it wait again.
            known.since, known.due, known.tree = min(since, known.since), due, tree or known.tree
            return
        paths[path] = _Pending(since, due, tree)
        if len(paths) > self._limit:
            self.full(entry, since)
