"""What the passive may lack, whether it waits or is on its way, and on which of the two ways.

Promise: what is here once leaves it only through ``landed`` or ``compared``; who takes something and fails gives it back as old
as it was. Any thread may call anything; ``wait`` returns when there may be something to do. What went over the session while
rsync was at the same place is looked at again, since rsync may have brought an older content after it. ``changes`` decides when
what is due. Source: issue "Replicated files".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from ha_manager.files.changes import Change, Changes
from ha_manager.files.copyplan import Ask


@dataclass
class Taken:
    """For the session now: changes, oldest first, by entry; and entries to be compared as a whole, since when."""

    due: dict[str, list[Change]] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.due or self.full)


class Backlog:
    """Times are seconds of ``clock``, which is monotonic; entries are named by their path in module.xml."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turn = threading.Condition()
        self._changes = Changes()
        self._asks: dict[str, Ask] = {}
        self._taken = Taken()
        #: what rsync is at, and what went over the session beside it
        self._passing: dict[str, Ask] = {}
        self._beside: dict[str, list[Change]] = {}

    # --- what comes in ------------------------------------------------------------------------------------------------------

    def written(self, entry: str, path: str) -> None:
        self._note(lambda now: self._changes.written(entry, path, now))

    def modified(self, entry: str, path: str) -> None:
        self._note(lambda now: self._changes.modified(entry, path, now))

    def moved(self, entry: str, path: str, tree: bool = False) -> None:
        self._note(lambda now: self._changes.moved(entry, path, now, tree=tree))

    def full(self, entry: str) -> None:
        self._note(lambda now: self._changes.full(entry, now))

    def again(self, entry: str, changes: Iterable[Change], wait: float) -> None:
        """Look at these once more, in so many seconds."""
        self._note(lambda now: self._changes.again(entry, changes, now + wait))

    def ask(self, entry: str, ask: Ask) -> None:
        """For rsync."""
        with self._turn:
            known = self._asks.get(entry)
            if known is not None:
                known.merge(ask)
            else:
                self._asks[entry] = ask
            self._turn.notify_all()

    def forget(self) -> None:
        with self._turn:
            self._changes.forget()
            self._asks, self._taken, self._passing, self._beside = {}, Taken(), {}, {}
            self._turn.notify_all()

    def _note(self, note: Callable[[float], None]) -> None:
        with self._turn:
            note(self._clock())
            self._turn.notify_all()

    # --- over the session ---------------------------------------------------------------------------------------------------

    def take(self) -> Taken:
        """What is due; ``landed`` or ``give_back`` follows."""
        with self._turn:
            self._taken = Taken(*self._changes.take(self._clock()))
            return self._taken

    def landed(self) -> None:
        """All that was taken is there, or asked for otherwise."""
        with self._turn:
            self._taken = Taken()

    def give_back(self) -> None:
        """The connection was lost: all of it is due again."""
        with self._turn:
            taken, self._taken = self._taken, Taken()
            for entry, changes in taken.due.items():
                self._changes.again(entry, changes, self._clock())
            for entry, since in taken.full.items():
                self._changes.full(entry, since)

    def went(self, entry: str, changes: Iterable[Change]) -> None:
        """These have just gone over the session."""
        with self._turn:
            passing = self._passing.get(entry)
            if passing is not None:
                self._beside[entry] += [change for change in changes if passing.touches(change.path)]

    # --- by rsync -----------------------------------------------------------------------------------------------------------

    def take_pass(self) -> tuple[str, Ask] | None:
        """One that is due; ``compared`` follows, however it ended."""
        with self._turn:
            now = self._clock()
            entry = next((entry for entry, ask in self._asks.items() if ask.at <= now), None)
            if entry is None:
                return None
            ask = self._passing[entry] = self._asks.pop(entry)
            self._beside[entry] = []
            return entry, ask

    def compared(self, entry: str) -> None:
        with self._turn:
            self._passing.pop(entry, None)
            self._changes.again(entry, self._beside.pop(entry, []), self._clock())
            self._turn.notify_all()

    # --- what is known ------------------------------------------------------------------------------------------------------

    def asked(self, entry: str) -> bool:
        """A pass by rsync waits."""
        with self._turn:
            return entry in self._asks

    def behind(self, entry: str) -> float:
        """Seconds since the oldest change that the passive doesn't hold; 0: none."""
        with self._turn:
            asks = [ask.since for ask in (self._asks.get(entry), self._passing.get(entry)) if ask is not None]
            taken = [change.since for change in self._taken.due.get(entry, [])[:1]] + [self._taken.full.get(entry, inf)]
            oldest = min([self._changes.oldest(entry), *asks, *taken])
        return 0.0 if oldest == inf else max(0.0, self._clock() - oldest)

    def wait(self, most: float) -> None:
        """Until something is due, at most so many seconds."""
        with self._turn:
            deadline = self._changes.deadline()
            left = most if deadline is None else min(most, deadline - self._clock())
            if left > 0:
                self._turn.wait(left)

    def rest(self, seconds: float) -> None:
        """Until somebody calls ``nudge``, or something new comes; at most so long."""
        with self._turn:
            self._turn.wait(seconds)

    def nudge(self) -> None:
        with self._turn:
            self._turn.notify_all()
