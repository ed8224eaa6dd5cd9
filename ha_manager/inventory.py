"""What this server's Postgres has installed beside the database itself: extensions and the sorting of text (collations).

Promise: pure; both servers compare the same two inventories and say the same words. Replication copies the use of an extension,
not its files, and the order of indexes, not the library that defines it (glibc, ICU): after a takeover they would be a
surprise. Source: issue "Postgres: no acknowledged write lost" (slots, extensions, collations); manual, 24.2.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Inventory:
    """``used``: {"hstore 1.8": databases}; ``available``: {"hstore": versions that the files here provide}. ``collations``:
    {"libc en_US.utf8": version that the library here has}; ``recorded``: the one that indexes were built with, where known.
    ``preloads``: shared_preload_libraries.
    """

    node: str
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    available: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    collations: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, str] = field(default_factory=dict)
    preloads: tuple[str, ...] = ()
    #: pages that failed their checksum since Postgres's statistics began; only for this server itself
    torn: int = 0
    #: an alarm's and a note's words; only for this server itself
    aging: str = ""
    loose: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "node": self.node, "used": {k: list(v) for k, v in self.used.items()},
            "available": {k: list(v) for k, v in self.available.items()},
            "collations": dict(self.collations), "recorded": dict(self.recorded), "preloads": list(self.preloads),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Inventory:
        """Raises KeyError, TypeError, ValueError or AttributeError for what ``as_json`` did not make."""

        def lists(name: str) -> dict[str, tuple[str, ...]]:
            return {str(k): tuple(str(each) for each in v) for k, v in value[name].items()}

        def texts(name: str) -> dict[str, str]:
            return {str(k): str(v) for k, v in value[name].items()}

        return cls(
            str(value["node"]), lists("used"), lists("available"), texts("collations"), texts("recorded"),
            tuple(str(each) for each in value["preloads"]),
        )  # fmt: skip


def compare(mine: Inventory, theirs: Inventory) -> dict[str, str]:
    """Alarms: ``extensions`` and ``collations``, "" where nothing differs."""
    one, two = sorted((mine, theirs), key=lambda each: each.node)
    return {
        "extensions": "; ".join([*_extensions(one, two), *_preloads(one, two)]),
        "collations": "; ".join([*_collations(one, two), *_outdated(mine)]),
    }


def _extensions(one: Inventory, two: Inventory) -> Iterator[str]:
    for each in sorted(set(one.used) | set(two.used)):
        name, _, version = each.rpartition(" ")
        databases = ", ".join(one.used.get(each) or two.used.get(each, ()))
        for server in (one, two):
            there = server.available.get(name, ())
            if not there:
                yield f"extension {name} (used in {databases}) is not installed on {server.node}: it would fail there"
            elif version not in there:
                yield f"extension {each} (used in {databases}): {server.node} has only {', '.join(sorted(there))}"


def _preloads(one: Inventory, two: Inventory) -> Iterator[str]:
    if set(one.preloads) != set(two.preloads):
        has = (f"{server.node} {', '.join(server.preloads) or 'none'}" for server in (one, two))
        yield f"shared_preload_libraries differ: {'; '.join(has)}"


def _collations(one: Inventory, two: Inventory) -> Iterator[str]:
    for name in sorted(set(one.collations) & set(two.collations)):
        if one.collations[name] != two.collations[name]:
            versions = f"version {one.collations[name]} on {one.node}, {two.collations[name]} on {two.node}"
            yield f"text is sorted differently ({name}: {versions}): after a takeover indexes may miss rows"


def _outdated(server: Inventory) -> Iterator[str]:
    for name, recorded in sorted(server.recorded.items()):
        if (here := server.collations.get(name, recorded)) != recorded:
            words = f"indexes were built with {name} version {recorded}, {server.node} has {here}"
            yield f"{words}: REINDEX, then ALTER … REFRESH COLLATION VERSION"


def torn(pages: int) -> str:
    """The alarm for so many more pages with a wrong checksum than there were when ha_manager began."""
    return f"{pages} pages of the database here were read with a wrong checksum: its disk is failing" if pages > 0 else ""


#: of 2^31 transaction ids; Postgres itself warns when 40 million are left, and stops at 3 million
_MANY_USED = 1_500_000_000


def aging(in_recovery: bool, used: int, holders: tuple[str, ...]) -> str:
    """What slowly makes a database stop taking writes; nothing of it is a passive's doing."""
    if in_recovery:
        return ""
    held = f"old rows can't be removed, and the database grows, because of {' and '.join(holders)}" if holders else ""
    if used > _MANY_USED:
        left = (2**31 - used) // 10**8 * 100
        words = f"less than {left + 100} million transaction ids are left before Postgres stops taking writes: VACUUM lags"
        return f"{words}; {held}" if held else words
    return held


def loose(whose: str) -> str:
    """A note: it may be meant so."""
    return f"commits of {whose} don't wait for the passive (synchronous_commit): a takeover may lose them" if whose else ""
