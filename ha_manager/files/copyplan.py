"""What goes over the session at once, and what by rsync.

Promise: pure. A few small things go over the session, which costs a round trip; many, or large ones, or a whole tree, by rsync,
which costs its start. A file with several names goes with the whole of its entry, since only then its names stay one file.
Source: facts/file-replication-and-libraries.md ("From change to identical bytes").
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from ha_manager.files.changes import LIMIT, Change
from ha_manager.files.items import Item, Kind
from ha_manager.files.rsync import Pass
from ha_manager.site import ReplicatedFile
from runtime.frames import CONTENT_LIMIT

#: more changes, or more bytes, at once are cheaper by rsync
MANY = 512
MUCH = 4 << 20


@dataclass(frozen=True)
class Plan:
    """``small``: over the session, in this order. ``names``: by rsync. ``whole``: all of the entry, for the sake of these."""

    small: tuple[tuple[Change, Item], ...] = ()
    names: tuple[Change, ...] = ()
    whole: tuple[Change, ...] = ()


def plan(entry: str, found: Sequence[tuple[Change, Item]], trees: frozenset[str] = frozenset()) -> Plan:
    """``found``: what is at each changed path now. ``trees``: those of them that hold more than the session should carry."""
    small: list[tuple[Change, Item]] = []
    names: list[Change] = []
    whole: list[Change] = []
    for change, item in found:
        if item.kind is Kind.OTHER:
            continue
        if change.path in trees:
            (whole if change.path == entry else names).append(change)
        elif item.kind is Kind.FILE and item.links > 1 and change.path != entry:
            whole.append(change)
        elif item.kind is Kind.FILE and item.size > CONTENT_LIMIT:
            names.append(change)
        else:
            small.append((change, item))
    if len(small) > MANY or sum(item.size for _, item in small if item.kind is Kind.FILE) > MUCH:
        names += [change for change, _ in small]
        small = []
    if any(change.path == entry for change in names) and len(names) > 1:
        return Plan(tuple(small), (), (*whole, *names))
    return Plan(tuple(small), tuple(names), tuple(whole))


@dataclass
class Ask:
    """A pass by rsync that waits. ``changes`` None: the whole entry."""

    since: float
    changes: dict[str, Change] | None
    checksum: bool = False
    #: not before (after a failure)
    at: float = -inf
    failures: int = 0
    #: how often something vanished while it ran
    vanished: int = 0

    def merge(self, other: Ask) -> None:
        self.since, self.checksum = min(self.since, other.since), self.checksum or other.checksum
        self.at = min(self.at, other.at)
        if self.changes is None or other.changes is None or len(self.changes) + len(other.changes) > LIMIT:
            self.changes = None
        else:
            self.changes |= other.changes

    def touches(self, path: str) -> bool:
        """Whether rsync, doing this, may write at ``path``, below it or above it."""
        if self.changes is None or path in self.changes:
            return True
        above = posixpath.dirname(path)
        while above not in ("", "/"):
            if above in self.changes:
                return True
            above = posixpath.dirname(above)
        return any(each.startswith(path + "/") for each in self.changes)


def pass_of(entry: ReplicatedFile, ask: Ask, inner: Sequence[str], bandwidth: int) -> Pass:
    """What rsync is to do. ``inner``: other entries within this one, which are left out."""
    own = Pass(entry.name, entry.name, (), entry.owner, (), ask.checksum, bandwidth)
    if ask.changes is None:
        return replace(own, exclude=tuple(posixpath.relpath(path, entry.name) for path in inner))
    if entry.name in ask.changes:  # a file, and large
        return replace(own, folder=posixpath.dirname(entry.name), names=(posixpath.basename(entry.name),), flush=True)
    return replace(own, names=tuple(path[len(entry.name) + 1 :] for path in ask.changes))
