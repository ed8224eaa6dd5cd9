"""What took how long while a database came to a server: read in that server's system log. Pure.

Promise: nothing is measured twice and nothing left out: the phases add up to what the clients of the benchmark saw, to the
tenths of a second in which ha_manager tells of its own. Source: docs/lab.md; the sentences of ha_manager (``replacement``,
``seeding``, ``rewinding``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

WAY = "way"
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\S+) \S+ (.*)$", re.MULTILINE)
#: what ended with a sentence of the log, in their order
_ENDS = (
    ("standing down", re.compile(r"Postgres is stopped")),
    ("judged", re.compile(r"copying the database of \S+: (?!\d+ of )")),
    ("link measured", re.compile(r"copying with pg_basebackup")),
    ("copy", re.compile(r"its way to the disk [\d.]+ s")),
    ("comparison", re.compile(r"the pages of the database that differed")),
    ("rewind", re.compile(r"the database was rewound to")),
    ("switched in and started", re.compile(r"Postgres is starting: started")),
)
_WAYS = ("copy", "comparison", "rewind")
#: "the active's checkpoint 0.7 s, pg_rewind 2.6 s", and of a copy "its way to the disk 0.8 s"
_TOOK = re.compile(r"[(,] ?(?:the )?([^(),]+?) (\d+\.\d) s(?=[,)]|$)")
_DISK = "writing to the disk"


def phases(log: str, began: float, ended: float) -> dict[str, str | float]:
    """``way`` (copy, comparison, rewind, or "" if nothing came), then each phase with its seconds, in order. ``began``,
    ``ended``: when the clients saw the begin and the end (seconds since 1970).
    """
    found: dict[str, str | float] = {WAY: ""}
    last, left = began, list(_ENDS)
    for at, said in _lines(log):
        for index, (name, sentence) in enumerate(left):
            if at >= began and sentence.search(said):
                if name in _WAYS:
                    found[WAY] = name
                    _split(found, name, said, at - last)
                else:
                    found[name] = round(at - last, 2)
                last, left = at, left[index + 1 :]
                break
    found["until it streams"] = round(ended - last, 2)
    return found


def _split(found: dict[str, str | float], way: str, said: str, seconds: float) -> None:
    """A way's own words on what of it took how long; what they don't name was before."""
    parts = [(name, float(took)) for name, took in _TOOK.findall(said)]
    if way == "copy":
        parts = [(_DISK, took) for name, took in parts if name == "its way to the disk"]
        found["copied, with the active's checkpoint"] = round(seconds - sum(took for _, took in parts), 2)
    else:
        found["log kept"] = round(max(0.0, seconds - sum(took for _, took in parts)), 2)
    found.update(parts)


def _lines(log: str) -> Iterator[tuple[float, str]]:
    for stamp, said in _STAMP.findall(log):
        try:
            yield datetime.fromisoformat(stamp).timestamp(), said
        except ValueError:
            continue


def words(found: dict[str, str | float]) -> str:
    """``copy: standing down 0.35, judged 0.12, …``"""
    parts = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if isinstance(value, float))
    return f"{found[WAY] or 'nothing came'}: {parts}"
