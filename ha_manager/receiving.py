"""The passive's side of replication: follow, let go for good, become the primary; and why it doesn't stream.

Promise: after ``detach`` nothing more is received or acknowledged, whatever was on its way: the password is taken away first,
so that no walreceiver that connects later gets in; then every walreceiver that exists is ended and seen gone. A promotion
is only begun here; that the names are empty before is the caller's part. Source: design §4 rules 2, 10; facts/postgres.md 5, 6.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ha_manager import adoption, controldata, postmaster
from ha_manager.cluster import Paths
from ha_manager.lineage import Lineage
from ha_manager.observation import Identity, Upstream, lsn, lsn_text, slot_name, standby_name
from ha_manager.postgres import Server
from ha_manager.rejoin import Control, parse_history
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.settings import LINEAGE
from ha_manager.sql import Rejected, Session
from runtime.errors import ReplicationError

_POLL = 0.001
#: A walreceiver that has not ended by then after SIGTERM is frozen (nothing more is acknowledged) and killed.
_PATIENCE = 0.25


def follow(server: Server, node: str, upstream: Upstream | None, password: str, *, reload: bool) -> None:
    """Write down whom to follow (None: nobody); a running Postgres takes it up at once."""
    if upstream is None:
        adoption.write_passfile(server.config, "")
        server.change(reload=reload, names="", conninfo="", slot="", hurry=False, read_only=True)
        return
    adoption.write_passfile(server.config, password)
    info = upstream_conninfo(upstream, standby_name(node, upstream.epoch), Paths(server.config.state_dir).passfile)
    server.change(reload=reload, names="", conninfo=info, slot=slot_name(node), hurry=False, read_only=True)


def detach(server: Server, limit: float) -> None:
    """No walreceiver, and none will stream again until ``follow``. Proof: none is among Postgres's processes."""
    clock = Clock(limit)
    data_dir = server.config.data_dir
    adoption.write_passfile(server.config, "")
    server.change(names="", conninfo="", slot="", hurry=True)
    frozen_at = time.monotonic() + min(_PATIENCE, limit / 2)
    asked: set[int] = set()
    while found := postmaster.receivers(postmaster.processes_of(data_dir)):
        for each in found:
            if each.pid not in asked:
                postmaster.send(each.pid, signal.SIGTERM)
                asked.add(each.pid)
                # What it says before it ends is said before the position is read; a stopped one would not end.
                postmaster.wake_stopped([each])
            if time.monotonic() > frozen_at:
                # Postgres takes this for a crash and recovers anew, without a connection; better than an acknowledgement.
                postmaster.send(each.pid, signal.SIGSTOP)
                postmaster.send(each.pid, signal.SIGKILL)
        if clock.left <= 0:
            raise ReplicationError(f"the walreceiver (pid {found[0].pid}) can't be ended: is the disk hanging?")
        time.sleep(_POLL)


def position(session: Session, limit: float) -> int:
    """Everything before it is flushed here. Raises ReplicationError if this is a primary."""
    recovering, received, replayed = session.row(
        "SELECT pg_is_in_recovery()::text, pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text", limit
    )
    if recovering != "true":
        raise ReplicationError("Postgres is a primary, so there is nothing that it receives")
    return max(lsn(received), lsn(replayed))


def replayed(session: Session, limit: float) -> int | None:
    """The end of what a standby has replayed; None: it is a primary."""
    recovering, end = session.row("SELECT pg_is_in_recovery()::text, pg_last_wal_replay_lsn()::text", limit)
    return lsn(end) if recovering == "true" else None


@dataclass(frozen=True)
class Before:
    """What was before a promotion."""

    timeline: int
    counter: int


def before_promotion(session: Session, limit: float) -> Before | None:
    """None: it is a primary already."""
    row = session.row(
        "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text, pg_snapshot_xmax(pg_current_snapshot())::text,"
        " pg_is_in_recovery()::text FROM pg_control_checkpoint() c, pg_control_recovery() r",
        limit,
    )
    return Before(int(row[0] or 0), int(row[1] or -1)) if row[2] == "true" else None


def begin_promotion(session: Session, limit: float) -> None:
    """Ask for it; returns at once."""
    if session.one("SELECT pg_promote(false)::text", limit) != "true":
        raise ReplicationError("Postgres refused to be promoted")


_TIMELINE = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"


def await_promotion(server: Server, session: Session, limit: float) -> int:
    """Poll until it takes writes; returns the new timeline. One whose startup process is stopped would never be promoted."""
    clock = Clock(limit)
    woken = time.monotonic() + _PATIENCE
    asked = f"SELECT CASE WHEN NOT pg_is_in_recovery() THEN {_TIMELINE} END"
    while not (number := session.one(asked, clock.need("the promotion"))):
        if time.monotonic() > woken:
            postmaster.wake_stopped(postmaster.processes_of(server.config.data_dir))
            woken = time.monotonic() + _PATIENCE
        time.sleep(_POLL)
    return int(number, 16)


def primary_timeline(session: Session, limit: float) -> int:
    """The real one; pg_control_checkpoint() tells it only after the next checkpoint."""
    return int(session.one(f"SELECT {_TIMELINE}", limit), 16)


# --- why it doesn't stream ----------------------------------------------------------------------------------------------------


def why_not_following(server: Server, node: str, upstream: Upstream, limit: float) -> str | None:
    """The reason if only a fresh copy helps, found by asking the active for the log needed next; None if there is hope."""
    clock = Clock(limit)
    here = _here(server, clock)
    if here is None:
        return None
    try:
        with _replication(server, node, upstream, clock) as session:
            return _ask(session, here, clock)
    except ReplicationError:
        return None


def ask_identity(server: Server, node: str, upstream: Upstream, limit: float) -> Identity:
    """The active's identity, asked over a replication connection; its size isn't told there. Raises ReplicationError."""
    clock = Clock(limit)
    # Of a database: SHOW on any other replication connection is a syntax error in Postgres 13 if a name has a dot in it.
    with _replication(server, node, upstream, clock, "database dbname=postgres") as session:
        system, number, reached, *_ = session.row("IDENTIFY_SYSTEM", clock.left)
        timeline = int(number or 0)
        history = session.row(f"TIMELINE_HISTORY {timeline}", clock.left)[1] if timeline > 1 else ""
        published = Lineage.from_text(session.one(f"SELECT current_setting('{LINEAGE}', true)", clock.left))
    return Identity(system or "", timeline, parse_history(history or ""), published.known(timeline), lsn(reached))


@contextlib.contextmanager
def _replication(server: Server, node: str, upstream: Upstream, clock: Clock, of: str = "true") -> Iterator[Session]:
    passfile = Paths(server.config.state_dir).passfile
    info = upstream_conninfo(upstream, f"ha_ask_{node}", passfile) + f" replication={of}"
    session = Session(info, clock.left)
    try:
        yield session
    finally:
        session.close()


@dataclass(frozen=True)
class Here:
    """What this standby has reached, and on which timeline."""

    system: str
    timeline: int
    position: int
    segment: int


def _here(server: Server, clock: Clock) -> Here | None:
    control = controldata.read(server.config.bin_dir, server.config.data_dir, clock.left)
    if control is None:
        return None
    try:
        with server.session(clock.left) as session:
            reached = position(session, clock.left)
    except ReplicationError:
        # Not consistent yet: what it has replayed can't be asked; what it needs next begins at the last checkpoint, or where
        # its backup_label says, of which the log is not here.
        reached = control.redo
        first = controldata.label_start(server.config.data_dir)
        there = {name[8:] for name in controldata.segments(server.config.data_dir)}
        if first >= 0 and controldata.segment_name(0, first, control.segment)[8:] not in there:
            reached = first
    return here_at(control, controldata.segments(server.config.data_dir), max(reached, 0))


def here_at(control: Control, segments: Iterable[str], reached: int) -> Here:
    """A standby that went over to another timeline has that one's log at ``reached``; pg_control tells it only after the next
    restartpoint, and a position of the new timeline, taken for one of the old, looks like a fork.
    """
    place = controldata.segment_name(0, max(reached - 1, 0), control.segment)[8:]
    timelines = [int(name[:8], 16) for name in segments if name[8:] == place]
    return Here(control.system_identifier, max([control.last_timeline, *timelines]), reached, control.segment)


def _ask(session: Session, here: Here, clock: Clock) -> str | None:
    system, timeline, reached, *_ = session.row("IDENTIFY_SYSTEM", clock.left)
    if system != here.system:
        return f"the active is another cluster ({system}, not {here.system})"
    if int(timeline or 0) < here.timeline:
        return f"the active is on timeline {timeline}, this server already on {here.timeline}"
    if int(timeline or 0) > here.timeline:
        history = dict(parse_history(session.row(f"TIMELINE_HISTORY {timeline}", clock.left)[1] or ""))
        left = history.get(here.timeline)
        if left is None:
            return f"timeline {here.timeline} is not in the history of the active's timeline {timeline}"
        if here.position > left:
            fork, reached = lsn_text(left), lsn_text(here.position)
            return f"the active left timeline {here.timeline} at {fork}; this server has reached {reached}"
    elif here.position > lsn(reached):
        return f"this server has reached {lsn_text(here.position)}, the active only {reached}"
    start = here.position // here.segment * here.segment
    try:
        session.rows(f"START_REPLICATION PHYSICAL {lsn_text(start)} TIMELINE {here.timeline}", clock.left)
        session.copy_data(clock.left)
    except Rejected as refused:
        return str(refused) if _is_final(refused) else None
    return None


def _is_final(refused: Rejected) -> bool:
    """58P01: undefined_file ("requested WAL segment … has already been removed"). The others by their words, in English; what
    they say was asked before, whatever language the active's Postgres speaks (lc_messages).
    """
    words = ("already been removed", "is not in this server's history", "ahead of the WAL flush position")
    return refused.code == "58P01" or any(word in str(refused) for word in words)


def has_data(data_dir: Path) -> bool:
    return (data_dir / "PG_VERSION").is_file() and (data_dir / "global" / "pg_control").is_file()
