"""What a replaced database had written beyond the fork, and what is kept of it: read for ``ha diverged``.

Promise: counts only what was committed; a table is named only where the running database knows its file. Removing takes what is
named and nothing else. Source: design §4 rule 10; the manual's page on pg_waldump.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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


def changes(lines: Iterable[str]) -> dict[File, Counter[str]]:
    """Rows inserted, updated, deleted per file by transactions that committed, from pg_waldump's lines (Postgres 13 to 17)."""
    by_transaction: dict[int, list[tuple[File, str, int]]] = defaultdict(list)
    committed: set[int] = set()
    for line in lines:
        found = _RECORD.match(line)
        if found is None:
            continue
        manager, transaction, kind, rest = found[1], int(found[2]), found[3], found[4]
        if manager == "Transaction" and kind.startswith("COMMIT"):
            committed.add(transaction)
            subs = _SUBS.search(rest)
            committed.update(map(int, subs[1].split()) if subs else ())
        elif manager in ("Heap", "Heap2") and kind in _CHANGES:
            where = _FILE.search(rest)
            if where is not None:
                rows = _TUPLES.search(rest) if kind.startswith("MULTI") else None
                count = int(next(filter(None, rows.groups()))) if rows else 1
                by_transaction[transaction].append((File(int(where[1]), int(where[2])), _CHANGES[kind], count))
    total: dict[File, Counter[str]] = defaultdict(Counter)
    for transaction in committed:
        for file, what, count in by_transaction.get(transaction, ()):
            total[file][what] += count
    return dict(total)


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
    #: the log and its report; the whole directory, "" if it was rewound or is gone
    folder: str = ""
    directory: str = ""
    size: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "label": self.label, "because": self.because, "timeline": self.timeline, "fork": self.fork,
            "transactions": self.transactions, "acknowledged": self.acknowledged,
            "tables": {name: dict(rows) for name, rows in self.tables.items()},
        }  # fmt: skip


def write(folder: Path, kept: Kept) -> None:
    """The report for programs, beside the one for people."""
    durable.write_durably(folder / REPORT, json.dumps(kept.as_json(), indent=1) + "\n", mode=0o600)


def listed(diverged_dir: Path, data_dir: Path) -> list[Kept]:
    """All that is kept, oldest first; a folder without a readable report is listed with what is known of it."""
    labels = {path.name for path in diverged_dir.glob("*") if _LABEL.match(path.name)}
    prefix = f"{data_dir.name}.diverged-"
    labels |= {path.name.removeprefix(prefix) for path in data_dir.parent.glob(f"{prefix}*")}
    kept = [_one(label, diverged_dir / label, data_dir.with_name(prefix + label)) for label in labels]
    return sorted(kept, key=lambda each: each.label.partition("-")[2])


def newest(diverged_dir: Path) -> str:
    """A line about the database that was replaced last, and where more is told; "" if nothing is kept. Reads one small file."""
    labels = sorted((path.name for path in diverged_dir.glob("*") if _LABEL.match(path.name)), key=lambda name: name[-15:])
    if not labels:
        return ""
    try:
        told = json.loads((diverged_dir / labels[-1] / REPORT).read_bytes())
        count, word = int(told["transactions"]), str(told["acknowledged"])
    except (OSError, ValueError, TypeError, KeyError):
        count, word = -1, ""
    number = f"{count} transaction{'' if count == 1 else 's'}" if count >= 0 else "an unknown number of transactions"
    if count:
        number += {"yes": ", acknowledged to clients,", "no": ", never acknowledged,"}.get(word, "")
    return f"the database that was replaced here held {number} beyond the fork: `ha diverged show {labels[-1]}`"


def _one(label: str, folder: Path, directory: Path) -> Kept:
    try:
        told = json.loads((folder / REPORT).read_bytes())
        told["fork"], told["label"] = str(told["fork"]), label
        kept = Kept(**told)
    except (OSError, ValueError, TypeError, KeyError):
        kept = Kept(label)
    try:
        text = (folder / "report.txt").read_text().strip()
    except (OSError, ValueError):
        text = ""
    return replace(
        kept,
        text=text,
        folder=str(folder) if folder.is_dir() else "",
        directory=str(directory) if directory.is_dir() else "",
        size=_size(folder) + _size(directory),
    )


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) if folder.is_dir() else 0


def remove(kept: Kept) -> None:
    """The directory first: the report goes last. Raises HaError."""
    for place in (kept.directory, kept.folder):
        if place:
            try:
                shutil.rmtree(place)
            except OSError as wrong:
                raise HaError(f"{place} can't be removed: {wrong}") from wrong
