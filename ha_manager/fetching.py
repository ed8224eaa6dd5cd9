"""Parts of the active's files, compared and fetched over a connection to its Postgres: what a copy of what differs
(``differences``) and a comparison in place (``comparing``) have in common.

Promise: nothing is believed of a page here but that its SHA-256 (16 bytes of it) is the one that the active tells of its own.
Every answer has a limit, and a caller who says no, or a disk that is nearly full, ends it. Files are read with the functions
that pg_rewind uses, so no further channel, key or program is needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ha_manager import transfer
from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Progress
from ha_manager.progress import Speed
from ha_manager.replication import Clock
from ha_manager.sql import Session
from ha_manager.transfer import Cancelled, OnProgress
from runtime import commands
from runtime.clock import boottime
from runtime.errors import ReplicationError

PAGE = 8192
#: fetched in one question at most
_FETCH = 4 << 20
#: one question may take so long (seconds): a slow link
ANSWER = 120.0
DIGEST = 16
#: Of each page its number in the file and its digest. Read in parts that Postgres has memory at hand for; no ORDER BY, which
#: might sort these parts along: the order is checked here. OFFSET 0: a part is read once, not once a page.
_DIGESTS = """
SELECT string_agg(int8send(read.o / 8192 + n)
    || substring(sha256(substring(read.b FROM n * 8192 + 1 FOR 8192)) FROM 1 FOR 16), ''::bytea)
  FROM (SELECT o, pg_read_binary_file($1, o, least(65536, $3::bigint - o), true) AS b
    FROM generate_series($2::bigint, $3::bigint - 1, 65536) AS o OFFSET 0) AS read,
  generate_series(0, (length(read.b) + 8191) / 8192 - 1) AS n
"""
_RUNS = """
SELECT string_agg(pg_read_binary_file($1, o, l, true), ''::bytea ORDER BY n)
  FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS runs (o, l, n)
"""
READ = "SELECT pg_read_binary_file($1, $2::bigint, $3::bigint, true)"

Run = tuple[int, int]


class Fetching:
    """One under way into ``place``. ``done``, ``fetched`` and ``total``: bytes."""

    def __init__(self, config: PostgresConfig, session: Session, place: Path, progress: OnProgress, clock: Clock) -> None:
        self._config, self._session, self._place = config, session, place
        self._progress, self._clock = progress, clock
        self._speed, self._began = Speed(), boottime()
        self._owner = commands.identity(config.user)
        self.done = self.fetched = self.total = 0

    def _own(self, path: str) -> None:
        os.chown(self._place / path, self._owner["user"], self._owner["group"])

    def _digests(self, path: str, offset: int, length: int) -> bytes:
        """Of the active's pages there; b"": its file ends before."""
        told = self._session.binary(_DIGESTS, self._answer(), [path, str(offset), str(offset + length)])
        return in_order(told or b"", offset)

    def _differing(self, path: str, offset: int, length: int, there: bytes, here: bytes, descriptor: int) -> int:
        """Of a span, whose pages have these digests, fetch what differs. Returns where the active's file ended, or the span."""
        cut = self._fetch(path, differing(there, here, offset, length), descriptor)
        return cut if cut >= 0 else min(offset + length, offset + len(there) // DIGEST * PAGE)

    def _fetch(self, path: str, runs: Sequence[Run], descriptor: int) -> int:
        """Into the same places of ``descriptor``. Returns where the active's file ended if it was cut meanwhile, else -1."""
        for some in portions(runs):
            wanted = [array([str(run[part]) for run in some]) for part in (0, 1)]
            data = self._session.binary(_RUNS, self._answer(), [path, *wanted]) or b""
            self.fetched += len(data)
            if len(data) != sum(size for _, size in some):
                return self._fetch_one_by_one(path, runs, descriptor)
            at = 0
            for begin, size in some:
                os.pwrite(descriptor, data[at : at + size], begin)
                at += size
            self._advance(0)
        return -1

    def _fetch_one_by_one(self, path: str, runs: Sequence[Run], descriptor: int) -> int:
        for begin, size in runs:
            data = self._session.binary(READ, self._answer(), [path, str(begin), str(size)]) or b""
            os.pwrite(descriptor, data, begin)
            if len(data) < size:
                return begin + len(data)
        return -1

    def _answer(self) -> float:
        return min(ANSWER, self._clock.need("comparing with the active"))

    def _advance(self, length: int) -> None:
        self.done += length
        progress = Progress(min(self.done, self.total), self.total, boottime() - self._began)
        if not self._progress(self._speed.rated(progress)):
            raise Cancelled("no longer wanted")
        transfer.check_reserve(self._place)


def portions(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """At most so much as one question fetches."""
    some: list[Run] = []
    for begin, size in runs:
        while size:
            room = _FETCH - sum(length for _, length in some)
            some.append((begin, min(size, room)))
            begin, size = begin + some[-1][1], size - some[-1][1]
            if some[-1][1] == room:
                yield some
                some = []
    if some:
        yield some


def digests(data: memoryview | bytes) -> bytes:
    """Of each page."""
    return b"".join(hashlib.sha256(data[at : at + PAGE]).digest()[:DIGEST] for at in range(0, len(data), PAGE))


def in_order(told: bytes, offset: int) -> bytes:
    """The digests alone. Raises ReplicationError where they aren't those of neighbouring pages from ``offset`` on."""
    each = [told[at : at + 8 + DIGEST] for at in range(0, len(told), 8 + DIGEST)]
    first = offset // PAGE
    if b"".join(one[:8] for one in each) != b"".join(number.to_bytes(8, "big") for number in range(first, first + len(each))):
        raise ReplicationError("the active told the digests of its pages out of order")
    return b"".join(one[8:] for one in each)


def differing(there: bytes, here: bytes, offset: int, length: int) -> list[Run]:
    """Runs of neighbouring pages, (offset, bytes), of a span whose pages have these digests."""
    runs: list[Run] = []
    for at in range(0, len(there), DIGEST):
        if there[at : at + DIGEST] == here[at : at + DIGEST]:
            continue
        begin = at // DIGEST * PAGE
        size = min(PAGE, length - begin)
        if runs and sum(runs[-1]) == offset + begin:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((offset + begin, size))
    return runs


def array(items: Sequence[str]) -> str:
    """As Postgres reads an array."""
    return "{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in items) + "}"
