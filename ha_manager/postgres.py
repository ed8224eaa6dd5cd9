"""This server's Postgres as it is seen and told: connections over the Unix socket, one look at everything, a reload.

Promise: no call outlasts its limit, whatever is stopped or hangs; new connections are tried regularly, so that a postmaster
that takes none is noticed although an old connection still works. The superuser's reserved connections are used, so clients
that take all others don't lock ha_manager out. Ages are measured by this server's CLOCK_BOOTTIME: they don't believe
wall clocks. Source: facts/postgres.md ("What a first-class two-node manager must do"); design §4 rules 1, 5, 6.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from math import inf
from typing import Any

from ha_manager import administrator, adoption, cluster, disks, keeper, ownfiles, postmaster, settings, sql, vitals
from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Observation, Receiver, Slot, StandbyRow, Vitals, lsn
from ha_manager.settings import Dynamic
from runtime.clock import boottime
from runtime.errors import ConfigError, ReplicationError
from runtime.proctree import Process

#: How often a new connection is tried (seconds).
RECONNECT = 1.0
#: A walreceiver younger than this counts as starting (seconds).
SETTLED = 0.1


class Server:
    """The local Postgres, for those who change it. Connections are opened for each purpose and closed after it, except between
    ``stand_by`` and ``disperse``: a takeover must not wait for Postgres to start a process.
    """

    def __init__(self, config: PostgresConfig) -> None:
        self.config = config
        self._files = threading.Lock()
        self._kept: _Kept | None = None
        #: what this process had which postmaster read last
        self._told: tuple[Dynamic, int, int] | None = None

    def conninfo(self, sync: str = "local", database: str = "postgres") -> str:
        config = self.config
        return sql.local(str(config.socket_dir), config.port, config.user, database, sync=sync, version=config.version)

    def connect(self, database: str) -> sql.Session:
        """A connection with one of the databases; the caller closes it."""
        return sql.Session(self.conninfo(database=database), 2.0)

    @contextlib.contextmanager
    def session(self, limit: float, sync: str = "local") -> Iterator[sql.Session]:
        """A connection as superuser; ``sync`` is its synchronous_commit."""
        kept = self._kept
        session = kept.take(sync) if kept is not None else None
        session = session or sql.connect(self.conninfo(sync), limit)
        try:
            yield session
        except BaseException:
            session.close()
            raise
        if kept is None or kept is not self._kept or not kept.put(sync, session):
            session.close()

    def stand_by(self, limit: float) -> None:
        """Open now what the next steps need, and keep what they opened, until ``disperse``. Never raises."""
        head = postmaster.postmaster_of(self.config.data_dir)
        if head is None:
            return
        if self._kept is None or self._kept.postmaster != (head.pid, head.start):
            self.disperse()
            self._kept = _Kept((head.pid, head.start))
        for sync in ("local", "on"):
            with contextlib.suppress(ReplicationError):
                if not self._kept.has(sync):
                    self._kept.put(sync, sql.Session(self.conninfo(sync), limit))

    def disperse(self) -> None:
        """Close what was kept, and keep nothing any more."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def reload(self) -> None:
        """SIGHUP to the postmaster; no connection is needed. When it takes effect is another question."""
        postmaster.send(self._running().pid, signal.SIGHUP)

    def _running(self) -> Process:
        head = postmaster.postmaster_of(self.config.data_dir)
        if head is None:
            raise ReplicationError("Postgres is not running, so it can't reload its settings")
        return head

    def dynamic(self) -> Dynamic:
        return adoption.read_dynamic(self.config)

    def change(self, *, reload: bool = True, **changes: Any) -> bool:
        """Change what depends on the role (fields of ``Dynamic``). Reloads even if the file holds it already: whoever wrote it
        may have died before; not if this process had that postmaster read the very same, which is work for all its processes.
        True if the file changed.
        """
        with self._files:
            before = self.dynamic()
            after = replace(before, **changes)
            if after != before:
                self._told = None
                adoption.write_dynamic(self.config, after)
            if reload:
                head = self._running()
                told = (after, head.pid, head.start)
                if told != self._told:
                    postmaster.send(head.pid, signal.SIGHUP)
                    self._told = told
        return after != before


class _Kept:
    """Idle connections to one postmaster, one of a kind; callable from any thread."""

    def __init__(self, postmaster: tuple[int, int]) -> None:
        self.postmaster = postmaster
        self._sessions: dict[str, sql.Session] = {}
        self._lock = threading.Lock()
        self._closed = False

    def has(self, sync: str) -> bool:
        return sync in self._sessions

    def take(self, sync: str) -> sql.Session | None:
        """One that is still good. What was said to it while nobody listened is only that it has to end."""
        with self._lock:
            session = self._sessions.pop(sync, None)
        if session is not None and not session.quiet:
            session.close()
            return None
        return session

    def put(self, sync: str, session: sql.Session) -> bool:
        """False: there is one already, or this one is of no use any more."""
        if not session.quiet:
            return False
        with self._lock:
            return not self._closed and self._sessions.setdefault(sync, session) is session

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()


#: In one value: taking many apart is dearer here than putting them together there
_LOOK = """
SELECT json_build_array(pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn()::text END,
  CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
  pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text,
  CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
  pg_snapshot_xmax(pg_current_snapshot())::text,
  current_setting('synchronous_standby_names'), current_setting('primary_conninfo'),
  (SELECT system_identifier::text FROM pg_control_system()),
  (SELECT greatest(timeline_id, min_recovery_end_timeline) FROM pg_control_checkpoint(), pg_control_recovery()),
  (SELECT json_agg(r) FROM (SELECT status, conninfo, sender_host, flushed_lsn::text, received_tli,
     last_msg_receipt_time::text, extract(epoch FROM clock_timestamp() - last_msg_receipt_time) AS age,
     (SELECT extract(epoch FROM clock_timestamp() - backend_start) FROM pg_stat_activity a WHERE a.pid = v.pid) AS lived
     FROM pg_stat_wal_receiver v) r),
  (SELECT json_agg(s) FROM (SELECT pid, application_name, state, sync_state, sent_lsn::text, flush_lsn::text,
     replay_lsn::text, reply_time::text FROM pg_stat_replication WHERE application_name <> 'ha_manager') s),
  (SELECT json_agg(t) FROM (SELECT slot_name, active, wal_status, restart_lsn::text, safe_wal_size
     FROM pg_replication_slots) t),
  (SELECT json_agg(w) FROM (SELECT pid, query_start::text FROM pg_stat_activity WHERE wait_event = 'SyncRep') w),
  current_setting('ssl'), pg_conf_load_time()::text,
  CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END,
  (SELECT json_build_object('log',
       count(*) FILTER (WHERE lower(wait_event) IN ('walsync', 'walwrite', 'walinsert', 'walinitwrite', 'walinitsync')),
       'data', json_agg(pid) FILTER (WHERE lower(wait_event) LIKE 'datafile%'
          AND backend_type IN ('client backend', 'startup', 'io worker')))
     FROM pg_stat_activity WHERE wait_event_type IN ('IO', 'LWLock')))::text
"""
#: so many of those who wait for the disk of the database are looked at
_WAITERS = 16


class Changes:
    """Since when a value has been what it is, by this server's clock."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def age(self, key: Hashable, value: object, now: float, first: float = 0.0) -> float:
        """Seconds since ``value`` last changed; ``first`` when it is seen for the first time."""
        known = self._seen.get(key)
        if known is None or known[0] != value:
            self._seen[key] = (value, now if known is not None else now - max(0.0, first))
        return now - self._seen[key][1]

    def keep(self, keys: set[Hashable], kind: str) -> None:
        """Forget what isn't there any more of one kind (first element of the key)."""
        for key in [key for key in self._seen if isinstance(key, tuple) and key[0] == kind and key not in keys]:
            del self._seen[key]


class Observer:
    """Looks, over a connection of its own; every second a new one is tried. One look at a time; the caller serialises."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: sql.Session | None = None
        #: when a new connection was tried last
        self._tried = -inf
        self._changes = Changes()
        self._disks = disks.Disks()
        self._heads = postmaster.Heads()
        self._postmaster = (0, 0)
        self._crowded = False
        self._vitals: Vitals | None = None
        self._vitals_at = -inf
        self._auto: tuple[object, tuple[str, ...]] = (None, ())
        self._administrator = administrator.Watch()

    def look(self, limit: float, own: int, beyond: Callable[[int], int], ending: bool = False) -> Observation:
        """What is seen. Never raises for a Postgres that is down or hangs. ``own``: the keeper's postmaster, -1 if the keeper
        can't tell; another one is no good. ``beyond``: what the transaction counter means (``Observation.beyond``). ``ending``:
        it is being stopped, and isn't asked: it would start a process for each connection that it refuses, and end after those.
        """
        now = boottime()
        head = self._heads.look(self._server.config.data_dir)
        unusable, due = self._administrator.look(self._server.config, now)
        around: dict[str, Any] = {
            "foreign": head.pid if head is not None and own not in (-1, head.pid) and self._is_foreign(head) else 0,
            "disks": self._disks.look(self._server.config),
            "overridden": self._overridden(),
            "unusable": unusable,
            "settings_due": due,
            "missing": ownfiles.missing(self._server.config.state_dir) if head is not None else (),
        }
        if ending and head is not None:
            self.close()
            return Observation(at=now, state="running", **around)
        return self._look(head, now, limit, beyond, around)

    def _is_foreign(self, head: Process) -> bool:
        """Not only newer than what the keeper said a moment ago."""
        return head.parent != keeper.living(self._server.config.run_dir)

    def _look(
        self, head: Process | None, now: float, limit: float, beyond: Callable[[int], int], around: dict[str, Any]
    ) -> Observation:
        """``around``: what is seen without Postgres's help."""
        if head is None or (head.pid, head.start) != self._postmaster:
            self.close()
            self._postmaster = (head.pid, head.start) if head is not None else (0, 0)
        if head is None:
            return Observation(at=now, state="stopped", because="Postgres is not running", **around)
        because, row = self._ask(now, limit)
        if head.state in "Tt":
            because = "the postmaster is stopped (SIGSTOP)"
        if row is None:
            return Observation(at=now, state="running", because=because, **around)
        asked_at = boottime()
        around |= {"answers": not because, "because": because, "vitals": self._look_closer(limit)}
        return self._read(row, asked_at, beyond, around | {"crowded": self._crowded})

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._tried = None, -inf

    def _ask(self, now: float, limit: float) -> tuple[str, list[Any] | None]:
        """What is wrong ("" for nothing), and what was seen all the same. An old connection that fails proves nothing."""
        fresh = self._session is None
        because = self._connect(now, limit / 3)
        for last in (fresh, True):
            if self._session is None:
                break
            try:
                return because, json.loads(self._session.row_again(_LOOK, limit / 3)[0] or "[]")
            except ReplicationError as wrong:
                self.close()
                because = because or str(wrong)
            if last or self._connect(now, limit / 3):
                break
            because = ""
        return because, None

    def _connect(self, now: float, limit: float) -> str:
        """Try a new connection, if it is time to; "" or why there is none. One that works stays: it knows how to look."""
        if self._session is not None and now - self._tried < RECONNECT:
            return ""
        try:
            fresh = sql.connect(self._server.conninfo(), limit)
        except ReplicationError as wrong:
            # The old connection works: this is the clients' doing, and another server would fare no better.
            self._crowded = isinstance(wrong, sql.Rejected) and wrong.crowded and self._session is not None
            return "" if self._crowded else str(wrong)
        self._tried, self._crowded = now, fresh.reserve
        if self._session is None or self._session.reserve:
            self.close()
            self._session, self._tried = fresh, now
        else:
            fresh.close()
        return ""

    def _look_closer(self, limit: float) -> Vitals | None:
        """Every few seconds; in between what was seen last."""
        now = boottime()
        if self._session is not None and now - self._vitals_at >= vitals.PERIOD:
            self._vitals_at = now
            try:
                self._vitals = vitals.look(self._session, limit)
            except ReplicationError:
                self._vitals = None
                self.close()
        return self._vitals

    def _overridden(self) -> tuple[str, ...]:
        """Read anew when the file is another one: ALTER SYSTEM replaces it."""
        try:
            found = os.stat(f"{self._server.config.data_dir}/postgresql.auto.conf")
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark != self._auto[0]:
                self._auto = (mark, settings.overridden(cluster.read_auto(self._server.config.data_dir)))
        except (OSError, ConfigError):
            return ()
        return self._auto[1]

    def _read(self, row: list[Any], now: float, beyond: Callable[[int], int], around: dict[str, Any]) -> Observation:
        (in_recovery, insert, walfile, received, replayed, paused, counter, names, info, system, control_tli,
         receiver, standbys, slots, waiting, ssl, loaded, flushed, waited_for) = row  # fmt: skip
        got = self._receiver(receiver or [], now)
        timeline = int(walfile, 16) if walfile else int(control_tli or 0)
        if in_recovery and got is not None and got[1]:
            timeline = got[1]
        waits = self._waits(waiting or [], now)
        return Observation(
            at=now,
            state="running",
            in_recovery=in_recovery,
            timeline=timeline,
            lsn=lsn(insert) if not in_recovery else max(lsn(received), lsn(replayed)),
            replayed=lsn(replayed),
            replay_paused=paused,
            beyond=beyond(int(counter or -1)),
            names=names or "",
            primary_conninfo=info or "",
            receiver=got[0] if got is not None else None,
            standbys=self._standbys(standbys or [], now),
            slots=tuple(_slot(each) for each in slots or []),
            waiting=len(waits),
            stalled=max(waits, default=0.0),
            unwritten=self._unwritten(flushed, waited_for["log"] > 0, now),
            unread=self._unread(waited_for["data"] or [], now),
            system_identifier=system or "",
            tls=ssl == "on",
            loaded=loaded or "",
            **around,
        )

    def _unwritten(self, flushed: str | None, waited_for: bool, now: float) -> float:
        """A look at an idle moment, and every byte that gets to the disk, begin it anew."""
        age = self._changes.age(("flushed",), (flushed, waited_for), now)
        return age if waited_for and flushed is not None else 0.0

    def _unread(
        self, waiting: list[int], now: float, stuck: Callable[[int], tuple[str, ...]] = postmaster.waits_for_device
    ) -> float:
        """A read or write that ends, however late, begins it anew: the kernel counts them when they return."""
        found = {pid: calls for pid in waiting[:_WAITERS] if (calls := stuck(pid))}
        self._changes.keep({("data", pid) for pid in found}, "data")
        return max((self._changes.age(("data", pid), calls, now) for pid, calls in found.items()), default=0.0)

    def _receiver(self, found: list[dict[str, Any]], now: float) -> tuple[Receiver, int] | None:
        if not found:
            return None
        row = found[0]
        age = self._changes.age(("receiver",), row["last_msg_receipt_time"], now, float(row["age"] or 0.0))
        # It calls itself streaming before it was let in; one that is refused doesn't live so long.
        young = row["lived"] is None or float(row["lived"]) < SETTLED
        receiver = Receiver(
            status="starting" if young and row["status"] == "streaming" else row["status"] or "",
            name=application_name(row["conninfo"] or ""),
            host=row["sender_host"] or "",
            flushed=lsn(row["flushed_lsn"]),
            message_age=age,
        )
        return receiver, int(row["received_tli"] or 0)

    def _standbys(self, found: list[dict[str, Any]], now: float) -> tuple[StandbyRow, ...]:
        keys: set[Hashable] = {("standby", row["pid"]) for row in found}
        self._changes.keep(keys, "standby")
        return tuple(
            StandbyRow(
                name=row["application_name"],
                state=row["state"] or "",
                sync_state=row["sync_state"] or "",
                sent=lsn(row["sent_lsn"]),
                flushed=lsn(row["flush_lsn"]),
                replayed=lsn(row["replay_lsn"]),
                reply_age=self._changes.age(("standby", row["pid"]), row["reply_time"], now),
            )
            for row in found
        )

    def _waits(self, found: list[dict[str, Any]], now: float) -> list[float]:
        keys: set[Hashable] = {("wait", row["pid"], row["query_start"]) for row in found}
        self._changes.keep(keys, "wait")
        return [self._changes.age(key, True, now) for key in keys]


def _slot(row: dict[str, Any]) -> Slot:
    safe = row["safe_wal_size"]
    return Slot(
        name=row["slot_name"],
        active=bool(row["active"]),
        wal_status=row["wal_status"] or "",
        restart=lsn(row["restart_lsn"]),
        safe_wal_size=-1 if safe is None else int(safe),
    )


def application_name(conninfo: str) -> str:
    """pg_stat_wal_receiver shows what was connected with, without passwords."""
    for word in conninfo.split():
        if word.startswith("application_name="):
            return word.removeprefix("application_name=").strip("'")
    return ""
