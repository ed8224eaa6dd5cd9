"""How fast the link from the active is: what decides between ways to copy a database, and whether to compress it.

Promise: measured once a copy, in no more than ``limit``, and for no longer than the choice needs. What is timed is the arrival
of the bytes, not the beginning of a server's process, its query or its buffers: an answer in pieces as large as those of a
copy, from the first piece on. Figures: docs/lab.md.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Protocol

from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.observation import COPIES, Upstream
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.sql import Late, Session
from runtime.errors import ReplicationError

#: bytes: pg_basebackup gets a database in such pieces
_PIECE = 32 << 10
#: sent one after the other, until one takes _ENOUGH seconds: a busy server's pauses don't count for much then
_SIZES = (1 << 20, 4 << 20, 16 << 20)
_ENOUGH = 0.1


class LinkSpeed:
    """Of the link from ``upstream``; measured when it is first asked for."""

    def __init__(self, config: PostgresConfig, node: str, upstream: Upstream) -> None:
        self._info = upstream_conninfo(upstream, f"{COPIES}{node}", Paths(config.state_dir).passfile)
        self._rate: float | None = None

    def __call__(self) -> float:
        """MiB a second; 0: the active can't be asked."""
        if self._rate is None:
            self._rate = measure(self._info)
        return self._rate


def measure(info: str, limit: float = 3.0) -> float:
    """MiB a second that come from there; 0 if it can't be asked."""
    clock = Clock(limit)
    try:
        with closing(Session(f"{info} dbname=postgres", clock.left)) as session:
            return rate(session, clock)
    except ReplicationError:
        return 0.0


class Asked(Protocol):
    """What is used of a Session."""

    def send(self, sql: str) -> None: ...
    def fetch(self, limit: float) -> object: ...
    def copy_data(self, limit: float) -> bytes: ...


def rate(session: Asked, clock: Clock) -> float:
    """MiB a second. Raises ReplicationError where there is nothing to go by."""
    found = 0.0
    for size in _SIZES:
        received, seconds, whole = _timed(session, size, clock)
        found = received / seconds / (1 << 20)
        if seconds > _ENOUGH or not whole:
            break
    return found


def _timed(session: Asked, size: int, clock: Clock) -> tuple[int, float, bool]:
    """Bytes that arrived after the first piece, and seconds; whether that was all of ``size``, or what came in time."""
    began, received, whole = time.monotonic(), 0, True
    try:
        session.send(f"COPY (SELECT repeat('x', {_PIECE}) FROM generate_series(0, {size // _PIECE})) TO STDOUT (FORMAT binary)")
        session.fetch(clock.left)
        session.copy_data(clock.left)
        began = time.monotonic()
        while piece := session.copy_data(clock.left):
            received += len(piece)
    except Late:
        received, whole = received or _PIECE, False  # slower than a piece, but it is there
    return received, time.monotonic() - began, whole
