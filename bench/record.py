"""What a ledger client wrote down: one line an event, appended before the next thing is done.

Promise: an id is on record as sent before it is sent, so a client that goes on with the same file never sends it again; an
acknowledgement is on record only when the server's last word on the insert had come, without a warning. All stamps are
CLOCK_BOOTTIME, which every machine of a lab shares. Source: design §4; facts/postgres.md ("Pitfalls").

    <stamp> <kind> <id> <text>
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from runtime.clock import boottime


class Kind(StrEnum):
    BEGUN = "begun"  # text: the settings of the client
    SENT = "sent"
    ACK = "ack"
    UNKNOWN = "unknown"  # sent, and then an error or no answer in time: it may be there or not
    WARNED = "warned"  # the commit returned with a warning: the wait for the standby was cancelled
    CONNECTED = "connected"
    FAILED = "failed"  # a connection could not be made; text: why
    ENDED = "ended"


@dataclass(frozen=True)
class Entry:
    at: float
    kind: Kind
    id: int = 0
    text: str = ""


class Recorder:
    """Appends entries to a file; goes on where an earlier run of the same file ended."""

    def __init__(self, path: Path) -> None:
        entries = read(path)
        self._last = max((entry.id for entry in entries), default=0)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._handle, b"\n")  # the line that a killed client began

    def next_id(self) -> int:
        """An id that was never given out before, on record as sent from now on."""
        self._last += 1
        self.write(Kind.SENT, self._last)
        return self._last

    def write(self, kind: Kind, id: int = 0, text: str = "") -> None:
        line = f"{boottime():.6f} {kind} {id} {' '.join(text.split())}".rstrip()
        os.write(self._handle, f"{line}\n".encode())

    def close(self) -> None:
        os.close(self._handle)


def read(path: Path) -> list[Entry]:
    """All complete entries; nothing if there is no such file. A line that a killed client left half-written is skipped."""
    try:
        lines = path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [entry for entry in map(_parse, lines) if entry is not None]


class Tail:
    """Reads a file that grows, each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._entries: list[Entry] = []

    def entries(self) -> list[Entry]:
        """All complete entries so far; the list grows with the next call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return self._entries
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._entries += [entry for entry in map(_parse, whole.decode().split("\n")) if entry is not None]
        return self._entries


def _parse(line: str) -> Entry | None:
    words = line.split(" ", 3)
    try:
        return Entry(float(words[0]), Kind(words[1]), int(words[2]), words[3] if len(words) > 3 else "")
    except (ValueError, IndexError):
        return None


#: What libpq, pgbench and a server that stops or starts say of a connection that ended, was refused, or was not made in time
_DROPPED = re.compile(
    r"""connection\ (to\ server|refused|reset|timed\ out|failed|not\ open)|(closed|lost|terminating|no)\ (the\ )?connection
    |could\ not\ create\ connection|session\ is\ read-only
    |SSL\ (SYSCALL\ )?error|SSL\ connection\ has\ been\ closed
    |no\ answer\ within|could\ not\ be\ sent|could\ not\ (send|receive)\ data|timeout\ expired|no\ route
    |the\ database\ system\ is\ (shutting\ down|starting\ up|not\ yet\ accepting|not\ accepting|in\ recovery\ mode)
    |the\ backend\ died|Run\ was\ aborted""",
    re.VERBOSE | re.IGNORECASE,
)


def is_dropped(text: str) -> bool:
    """``text`` tells of a dropped or refused connection, and of nothing that a statement was answered with."""
    return _DROPPED.search(text) is not None


def complaints(entries: Iterable[Entry], since: float = 0.0) -> list[str]:
    """What a client was told since then besides acknowledgements and dropped connections."""
    told = (entry for entry in entries if entry.at >= since and entry.kind in (Kind.UNKNOWN, Kind.WARNED, Kind.FAILED))
    return [f"{entry.kind}: {entry.text}" for entry in told if entry.kind is Kind.WARNED or not is_dropped(entry.text)]


# --- what the entries say -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """No acknowledgement came between two. ``end`` is None when none has come since."""

    begin: float
    end: float | None

    @property
    def ms(self) -> float:
        return float("inf") if self.end is None else (self.end - self.begin) * 1000


def acknowledgements(entries: Iterable[Entry], since: float = 0.0) -> list[float]:
    return [entry.at for entry in entries if entry.kind is Kind.ACK and entry.at >= since]


def gaps(acks: Sequence[float], since: float, until: float, least: float = 0.05) -> list[Gap]:
    """Gaps longer than ``least`` seconds that overlap the window, longest first.

    The window may begin in the middle of a gap and end in one: the acknowledgements on both sides of it count.
    """
    found = [Gap(a, b) for a, b in itertools.pairwise(acks) if b > since and a < until and b - a > least]
    if acks and acks[-1] < until and until - acks[-1] > least:
        found.append(Gap(acks[-1], None))
    return sorted(found, key=lambda gap: gap.ms, reverse=True)


@dataclass(frozen=True)
class Count:
    """How a client's inserts ended."""

    acknowledged: int = 0
    unknown: int = 0
    warned: int = 0
    connections: int = 0
    failed: int = 0
    settings: str = ""
    #: ids sent whose outcome is not known
    in_doubt: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Count:
        def many(kind: Kind) -> int:
            return sum(entry.kind is kind for entry in entries)

        sent = {entry.id for entry in entries if entry.kind is Kind.SENT}
        certain = {entry.id for entry in entries if entry.kind is Kind.ACK}
        return cls(
            acknowledged=len(certain),
            unknown=many(Kind.UNKNOWN),
            warned=many(Kind.WARNED),
            connections=many(Kind.CONNECTED),
            failed=many(Kind.FAILED),
            settings=next((entry.text for entry in entries if entry.kind is Kind.BEGUN), ""),
            in_doubt=frozenset(sent - certain),
        )


@dataclass(frozen=True)
class Verdict:
    """The database compared with what was acknowledged."""

    client: str
    acknowledged: int
    lost: tuple[int, ...]
    twice: tuple[int, ...]
    #: never sent by this client, yet there
    strange: tuple[int, ...]
    in_doubt_present: int
    in_doubt_absent: int

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Verdict:
        lists = {name: tuple(raw[name]) for name in ("lost", "twice", "strange")}
        return cls(**(dict(raw) | lists))

    @property
    def holds(self) -> bool:
        return not (self.lost or self.twice or self.strange)


def judge(client: str, entries: Sequence[Entry], rows: Sequence[int]) -> Verdict:
    """``rows``: the ids of this client as the database holds them, each as often as it is there.

    The client may have gone on since ``entries`` were read: what is newer than they are doesn't count.
    """
    newest = max((entry.id for entry in entries), default=0)
    sent = {entry.id for entry in entries if entry.kind is Kind.SENT}
    certain = {entry.id for entry in entries if entry.kind is Kind.ACK}
    there = set(rows)
    twice = sorted(id for id, times in Counter(rows).items() if times > 1)
    doubtful = sent - certain
    return Verdict(
        client,
        acknowledged=len(certain),
        lost=tuple(sorted(certain - there)),
        twice=tuple(twice),
        strange=tuple(sorted(id for id in there - sent if id <= newest)),
        in_doubt_present=len(doubtful & there),
        in_doubt_absent=len(doubtful - there),
    )
