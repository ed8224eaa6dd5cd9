"""What a replaced database had written beyond the fork, and what is kept of it: read for ``ha diverged``.

Promise: counts only what was committed; a table is named only where the running database knows its file. Removing takes what is
named and nothing else. Source: design §4 rule 10; the manual's page on pg_waldump.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ha_manager import tablespaces
from runtime import durable
from runtime.errors import HaError

REPORT = "report.json"
_RECORD = re.compile(r"^rmgr: (\w+)\s+len .*?, tx:\s+(\d+), lsn: \S+, prev \S+, desc: (\S+)(.*)$")
_FILE = re.compile(r"blkref #0: rel \d+/(\d+)/(\d+)")
_SUBS = re.compile(r"subxacts: ([\d ]+)")
_CHANGES = {
    "INSERT": "inserted", "INSERT+INIT": "inserted", "MULTI_INSERT": "inserted", "MULTI_INSERT+INIT": "inserted",
    "UPDATE": "updated", "UPDATE+INIT": "updated", "HOT_UPDATE": "updated", "HOT_UPDATE+INIT": "updated", "DELETE": "deleted",
}  # fmt: skip
_TUPLES = re.compile(r"\bntuples:? (\d+)|^ (\d+) tuples")
#: where pg_waldump says that a log ends
ENDS = re.compile(r"(?:at|record at|after) ([0-9A-F]+/[0-9A-F]+)")
_LABEL = re.compile(r"[0-9]+-[0-9]{8}T[0-9]{6}\Z")


@dataclass(frozen=True)
class File:
    """One file of a table: the numbers of its database and of the file."""

    database: int
    number: int

    def __str__(self) -> str:
        return f"{self.database}/{self.number}"

    @classmethod
    def of(cls, text: str) -> File:
        database, number = text.split("/")
        return cls(int(database), int(number))


class Committed:
    """Which transactions committed, in one bit each: a log may hold millions."""

    _PAGE = 1 << 16

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        #: those that had a record of their own: what ran in a savepoint counts with its parent
        self.transactions = 0

    def see(self, line: str) -> None:
        """One line of pg_waldump's (Postgres 13 to 18)."""
        found = _RECORD.match(line)
        if found is None or found[1] != "Transaction" or not found[3].startswith("COMMIT"):
            return
        self.transactions += 1
        self._add(int(found[2]))
        subs = _SUBS.search(found[4])
        for number in subs[1].split() if subs else ():
            self._add(int(number))

    def _add(self, number: int) -> None:
        page = self._pages.setdefault(number // self._PAGE, bytearray(self._PAGE // 8))
        page[number % self._PAGE // 8] |= 1 << number % 8

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number // self._PAGE)
        return page is not None and bool(page[number % self._PAGE // 8] & 1 << number % 8)


class Rows:
    """Rows inserted, updated, deleted per file by transactions that committed."""

    def __init__(self, committed: Committed) -> None:
        self._committed = committed
        self._total: dict[str, Counter[str]] = defaultdict(Counter)

    def see(self, line: str) -> None:
        """One line of pg_waldump's; the log is read a second time for it."""
        found = _RECORD.match(line)
        if (
            found is None
            or found[1] not in ("Heap", "Heap2")
            or found[3] not in _CHANGES
            or int(found[2]) not in self._committed
        ):
            return
        where = _FILE.search(found[4])
        if where is not None:
            rows = _TUPLES.search(found[4]) if found[3].startswith("MULTI") else None
            count = int(next(filter(None, rows.groups()))) if rows else 1
            self._total[f"{where[1]}/{where[2]}"][_CHANGES[found[3]]] += count

    def by_file(self) -> dict[str, dict[str, int]]:
        """``{"database/file": {"inserted": 7}}``"""
        return {file: dict(rows) for file, rows in self._total.items()}


@dataclass(frozen=True)
class Kept:
    """One replaced database. ``acknowledged``: "yes" (it ran alone), "no" (its commits waited for the peer), "unknown"."""

    label: str
    text: str = ""
    because: str = ""
    timeline: int = 0
    fork: str = ""
    transactions: int = -1
    acknowledged: str = "unknown"
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: where its log ends; where it begins to be kept (used where the fork is not known)
    end: str = ""
    redo: str = ""
    #: where what is left of its log begins, if that is beyond the fork: the rest was removed while it ran alone
    gap: str = ""
    #: the log was looked at (else ``counting`` does it); all of it, or only what the time was enough for
    counted: bool = True
    whole: bool = True
    #: the log and its report; the whole directory, "" if it was rewound or is gone
    folder: str = ""
    directory: str = ""
    size: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "label": self.label, "because": self.because, "timeline": self.timeline, "fork": self.fork,
            "transactions": self.transactions, "acknowledged": self.acknowledged,
            "tables": {name: dict(rows) for name, rows in self.tables.items()},
            "end": self.end, "redo": self.redo, "gap": self.gap, "counted": self.counted, "whole": self.whole,
        }  # fmt: skip


def write(folder: Path, kept: Kept) -> None:
    """The report for people, then the one for programs, which tells that it is there."""
    durable.write_durably(folder / "report.txt", words(kept, folder) + "\n", mode=0o600)
    durable.write_durably(folder / REPORT, json.dumps(kept.as_json(), indent=1) + "\n", mode=0o600)


def report(folder: Path) -> Kept | None:
    """What ``write`` wrote; None if there is nothing, or nothing that can be read."""
    try:
        told = json.loads((folder / REPORT).read_bytes())
        told["fork"], told["label"] = str(told["fork"]), folder.name
        return Kept(**told)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def words(kept: Kept, folder: Path) -> str:
    """The report in one paragraph."""
    where = f"it left the active's history at {kept.fork} on timeline {kept.timeline}"
    extent = where if kept.fork else "where it left the active's history is not known"
    until = f" up to {kept.end}" if kept.end else ""
    if not kept.counted:
        holds = "and what it holds beyond that is being counted (`ha diverged`)"
    else:
        bound = "" if kept.fork else "at most "
        holds = f"and holds {bound}{how_many(kept)} beyond that{until}"
    if kept.gap:
        holds += f"; its log from there to {kept.gap} was gone, because it ran alone for longer than log is kept back"
    start = kept.gap or kept.fork
    read = f"pg_waldump -p {folder}/pg_wal -t {kept.timeline}" + (f" -s {start}" if start else "")
    return (
        f"the database of this server is replaced: {kept.because}; {extent}, {holds}."
        f" Its log is kept in {folder}; read it with: {read}"
    )


def how_many(kept: Kept) -> str:
    """Of transactions, as far as it is known."""
    if kept.transactions < 0 or (kept.gap and not kept.transactions):
        return "an unknown number of transactions"
    bound = "at least " if kept.gap else ""
    return f"{bound}{kept.transactions} transaction{'' if kept.transactions == 1 else 's'}"


def listed(diverged_dir: Path, data_dir: Path) -> list[Kept]:
    """All that is kept, oldest first; a folder without a readable report is listed with what is known of it."""
    labels = {path.name for path in diverged_dir.glob("*") if _LABEL.match(path.name)}
    prefix = f"{data_dir.name}.diverged-"
    labels |= {path.name.removeprefix(prefix) for path in data_dir.parent.glob(f"{prefix}*")}
    kept = [_one(label, diverged_dir / label, data_dir.with_name(prefix + label), data_dir) for label in labels]
    return sorted(kept, key=lambda each: each.label.partition("-")[2])


def newest(diverged_dir: Path) -> str:
    """A line about the database that was replaced last, and where more is told; "" if nothing is kept. Reads one small file."""
    labels = sorted((path.name for path in diverged_dir.glob("*") if _LABEL.match(path.name)), key=lambda name: name[-15:])
    if not labels:
        return ""
    kept = report(diverged_dir / labels[-1]) or Kept(labels[-1])
    if not kept.counted:
        return (
            f"a database was replaced here, and what it held beyond the fork is being counted: `ha diverged show {kept.label}`"
        )
    number = how_many(kept)
    if kept.transactions:
        number += {"yes": ", acknowledged to clients,", "no": ", never acknowledged,"}.get(kept.acknowledged, "")
    return f"the database that was replaced here held {number} beyond the fork: `ha diverged show {labels[-1]}`"


def _one(label: str, folder: Path, directory: Path, present: Path) -> Kept:
    kept = report(folder) or Kept(label)
    try:
        text = (folder / "report.txt").read_text().strip()
    except (OSError, ValueError):
        text = ""
    return replace(
        kept,
        text=text,
        folder=str(folder) if folder.is_dir() else "",
        directory=str(directory) if directory.is_dir() else "",
        size=tablespaces.size_of(folder) + tablespaces.size_of_trees([directory], present),
    )


def remove(kept: Kept, present: Path) -> None:
    """The directory first, with its tablespaces, unless ``present`` uses them; the report last. Raises HaError."""
    for place in (kept.directory, kept.folder):
        if place:
            try:
                tablespaces.remove_tree(Path(place), present)
            except OSError as wrong:
                raise HaError(f"{place} can't be removed: {wrong}") from wrong
