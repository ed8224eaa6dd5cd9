"""One connection to Postgres in which nothing can hang the caller.

Promise: connecting, sending and receiving each end by a deadline, also with a stopped server at the other end; closing never
waits. Errors are ``ReplicationError`` with Postgres's own words; none holds a password. psycopg's low-level interface (libpq
without blocking calls) is used here and nowhere else. Source: facts/safety-model.md ("libpq's connect_timeout=1 is 2 s").
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from psycopg import pq
from psycopg.pq import abc

from runtime.errors import ReplicationError, without_secrets

Row = tuple[str | None, ...]

_READ = select.POLLIN
_WRITE = select.POLLOUT


_NO_ONE_THERE = (
    "starting up",
    "shutting down",
    "in recovery mode",
    "failed: No such file",
    "failed: Connection refused",
    "accepting connections",
)


#: what libpq puts before the words of a server that answers: there is one socket, and who reads them knows it
_OF_OUR_SOCKET = re.compile(r'connection to server on socket "[^"]*" failed: FATAL:\s+')


class Late(ReplicationError):
    """Postgres did not answer in time: it hangs, or works at it."""


class Rejected(ReplicationError):
    """Postgres answered with an error. ``code`` is its SQLSTATE."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code

    @property
    def crowded(self) -> bool:
        """Of a connection: clients have all of them, perhaps also the places kept for us."""
        return "too many clients" in str(self) or "connection slots are reserved" in str(self)

    @property
    def final(self) -> bool:
        """Of a connection: there is somebody, and it isn't only too early or too late."""
        return not any(words in str(self) for words in _NO_ONE_THERE)


class Session:
    """A connection. Not for two threads at once. ``conninfo`` may hold a password file, never a password.

    ``reserve``: through one of the places that Postgres keeps for walsenders, which clients can't take, superusers or not.
    """

    def __init__(self, conninfo: str, limit: float, *, reserve: bool = False) -> None:
        #: a walsender takes statements, but none with parameters
        self.reserve = reserve
        #: statement -> its name in Postgres
        self._prepared: dict[str, bytes] = {}
        end = time.monotonic() + limit
        conninfo += " replication=database" if reserve else ""
        self._pg = pq.PGconn.connect_start(conninfo.encode())
        try:
            self._connect(end)
        except BaseException:
            self._pg.finish()
            raise
        self._pg.nonblocking = 1
        self._pg.notice_handler = None

    def _connect(self, end: float) -> None:
        wanted = pq.PollingStatus.WRITING
        while wanted != pq.PollingStatus.OK:
            if wanted == pq.PollingStatus.FAILED or self._pg.status == pq.ConnStatus.BAD:
                raise Rejected(f"can't connect to Postgres: {self._said()}")
            self._wait(_READ if wanted == pq.PollingStatus.READING else _WRITE, end, "connecting to Postgres")
            wanted = pq.PollingStatus(self._pg.connect_poll())

    @property
    def pid(self) -> int:
        """The backend's process id."""
        return self._pg.backend_pid

    @property
    def native(self) -> abc.PGconn:
        """libpq's connection, for what this class doesn't wrap."""
        return self._pg

    def rows(self, sql: str, limit: float, params: Sequence[str | None] = ()) -> list[Row]:
        """Run one statement; its rows as text; ``$1`` … are ``params``. Raises Rejected, or Late (then close it)."""
        self.send(sql, params)
        return self.fetch(limit)

    def row(self, sql: str, limit: float, params: Sequence[str | None] = ()) -> Row:
        """Exactly one row."""
        return self._single(self.rows(sql, limit, params))

    @staticmethod
    def _single(found: list[Row]) -> Row:
        if len(found) != 1:
            raise ReplicationError(f"Postgres gave {len(found)} rows instead of one")
        return found[0]

    def row_again(self, sql: str, limit: float) -> Row:
        """``row``, for a statement that is asked again and again: prepared the first time, so that Postgres plans it once (a
        place kept for replication doesn't let it).
        """
        if self.reserve:
            return self.row(sql, limit)
        name = self._prepared.get(sql)
        if name is None:
            name = f"ha_{len(self._prepared)}".encode()
            self._begin(lambda: self._pg.send_prepare(name, sql.encode()))
            self.fetch(limit)
            self._prepared[sql] = name
        self._begin(lambda: self._pg.send_query_prepared(name, []))
        return self._single(self.fetch(limit))

    def one(self, sql: str, limit: float, params: Sequence[str | None] = ()) -> str:
        """The one value of one row, "" for NULL."""
        return self.row(sql, limit, params)[0] or ""

    def binary(self, sql: str, limit: float, params: Sequence[str | None]) -> bytes | None:
        """The one value of one row, as Postgres holds it; None for NULL."""
        try:
            self._pg.send_query_params(sql.encode(), [None if p is None else p.encode() for p in params], result_format=1)
        except Exception as broken:
            raise _lost(broken) from broken
        self._receive(time.monotonic() + limit, f"waiting {limit:g} s for an answer")
        value: bytes | None = None
        problem: Rejected | None = None
        while (result := self._pg.get_result()) is not None:
            if result.status == pq.ExecStatus.TUPLES_OK and result.ntuples:
                value = result.get_value(0, 0)
            elif result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
                problem = Rejected(_clean(result.error_message))
        if problem is not None:
            raise problem
        return value

    def send(self, sql: str, params: Sequence[str | None] = ()) -> None:
        """Begin a statement; ``fetch`` or ``done`` follow."""
        if params and self.reserve:
            sql, params = self._with_literals(sql, params), ()
        values = [None if p is None else p.encode() for p in params]
        if values:
            self._begin(lambda: self._pg.send_query_params(sql.encode(), values))
        else:
            self._begin(lambda: self._pg.send_query(sql.encode()))

    def _begin(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as broken:
            raise _lost(broken) from broken

    def _with_literals(self, sql: str, params: Sequence[str | None]) -> str:
        escape = pq.Escaping(self._pg).escape_literal
        texts = ["NULL" if each is None else bytes(escape(each.encode())).decode() for each in params]
        return re.sub(r"\$(\d+)", lambda found: texts[int(found[1]) - 1], sql)

    def done(self, limit: float = 0.0) -> bool:
        """True if the statement begun has its whole answer; waits at most ``limit`` for it."""
        end = time.monotonic() + limit
        try:
            self._receive(end, "waiting for an answer")
        except Late:
            return False
        return True

    def fetch(self, limit: float) -> list[Row]:
        """The answer to what ``send`` began."""
        self._receive(time.monotonic() + limit, f"waiting {limit:g} s for an answer")
        found: list[Row] = []
        problem: Rejected | None = None
        while (result := self._pg.get_result()) is not None:
            if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.SINGLE_TUPLE):
                found += _text_rows(result)
            elif result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
                code = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
                problem = Rejected(_clean(result.error_message), code.decode())
            elif result.status in (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_OUT):
                break
        if problem is not None:
            raise problem
        return found

    def copy_data(self, limit: float) -> bytes:
        """The next message of a replication stream; b"" at its end. Raises Late, or Rejected with the sender's reason."""
        end = time.monotonic() + limit
        while True:
            try:
                size, data = self._pg.get_copy_data(1)
            except Exception as broken:
                raise _lost(broken) from broken
            if size > 0:
                return bytes(data)
            if size == -1:
                self.fetch(max(0.0, end - time.monotonic()))
                return b""
            self._wait(_READ, end, "waiting for replication data")
            self._consume()

    def wait_until(self, sql: str, true: Callable[[str], bool], limit: float, what: str, every: float = 0.001) -> str:
        """Ask until ``true`` of the one value; returns it. Raises Late, naming ``what`` did not come."""
        end = time.monotonic() + limit
        while True:
            value = self.one(sql, max(0.001, end - time.monotonic()))
            if true(value):
                return value
            if time.monotonic() + every > end:
                raise Late(f"{what} not within {limit:g} s (it is {value!r})")
            time.sleep(every)

    def close(self) -> None:
        """Never waits."""
        self._pg.finish()

    @property
    def closed(self) -> bool:
        return self._pg.status == pq.ConnStatus.BAD

    @property
    def quiet(self) -> bool:
        """Open, nothing asked, nothing said: ready for a statement."""
        if self.closed or self._pg.transaction_status != pq.TransactionStatus.IDLE:
            return False
        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN)
        return not poll.poll(0)

    # --- within a deadline ---------------------------------------------------------------------------------------------------

    def _receive(self, end: float, what: str) -> None:
        while self._pg.flush():
            self._wait(_READ | _WRITE, end, what)
            self._consume()
        while self._pg.is_busy():
            self._wait(_READ, end, what)
            self._consume()

    def _consume(self) -> None:
        try:
            self._pg.consume_input()
        except Exception as broken:
            raise _lost(broken) from broken

    def _wait(self, events: int, end: float, what: str) -> None:
        poll = select.poll()
        poll.register(self._pg.socket, events)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise Late(f"Postgres does not answer ({what})")

    def _said(self) -> str:
        return _clean(self._pg.error_message) or "no reason given"


def connect(conninfo: str, limit: float) -> Session:
    """A session, in any case: where clients have taken every connection, also those kept for superusers, through a reserve."""
    end = time.monotonic() + limit
    try:
        return Session(conninfo, limit)
    except Rejected as refused:
        # "too many clients" may be told in any language; what certainly isn't that is told by libpq, or seen at every start.
        left = end - time.monotonic()
        if left <= 0 or not refused.final:
            raise
        try:
            return Session(conninfo, left, reserve=True)
        except ReplicationError:
            raise refused from None


def _lost(broken: Exception) -> ReplicationError:
    """In one line, for alarms and the log."""
    return ReplicationError(f"the connection to Postgres is lost: {' '.join(without_secrets(str(broken)).split())}")


def _clean(message: bytes) -> str:
    return without_secrets(_OF_OUR_SOCKET.sub("", message.decode(errors="replace").strip().replace("\n", " ")))


def _text_rows(result: abc.PGresult) -> list[Row]:
    def cell(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else value.decode(errors="replace")

    return [tuple(cell(r, c) for c in range(result.nfields)) for r in range(result.ntuples)]


def forget_environment() -> None:
    """PGHOSTADDR, PGOPTIONS and the like count for libpq; in the shell of whoever started us they aren't meant for us."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def conninfo(**fields: str | int) -> str:
    """libpq's key='value' form."""

    def quoted(value: str | int) -> str:
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"

    return " ".join(f"{name}={quoted(value)}" for name, value in fields.items())


#: What an administrator may have set for all sessions and would stand in the way of ours, by the version that brought it.
_LIMITS: Mapping[int, tuple[str, ...]] = {
    0: ("statement_timeout=0", "idle_in_transaction_session_timeout=0", r"default_transaction_isolation=read\ committed"),
    14: ("idle_session_timeout=0",),
    17: ("transaction_timeout=0",),
}
#: Likewise; only a superuser may set some of them. As "replica" it sets off no event trigger, before Postgres 17 as well.
_LOCAL: Mapping[int, tuple[str, ...]] = {
    0: (
        "lock_timeout=2s", "default_transaction_read_only=off", "search_path=pg_catalog", "client_min_messages=warning",
        "session_replication_role=replica", "DateStyle=ISO", "jit=off", "log_statement=none", "log_min_duration_statement=-1",
        "log_duration=off",
    ),
    17: ("event_triggers=off",),
}  # fmt: skip


def _options(version: int, *which: Mapping[int, tuple[str, ...]]) -> str:
    return " ".join(f"-c {each}" for some in which for since, all_of in some.items() if version >= since for each in all_of)


def unlimited(version: int) -> str:
    """For the end of a conninfo: no limit that the administrator of that server set for all sessions ends this one."""
    return " " + conninfo(options=_options(version, _LIMITS))


@lru_cache(16)
def local(socket_dir: str, port: int, user: str, database: str = "postgres", *, sync: str = "local", version: int) -> str:
    """How ha_manager reaches its own Postgres. Its commits don't wait for the standby unless ``sync`` says so, it doesn't wait
    for locks for long, what it says isn't written into Postgres's log of statements, and no default of the administrator's
    ends it.
    """
    options = f"-c synchronous_commit={sync} {_options(version, _LIMITS, _LOCAL)}"
    return conninfo(
        host=socket_dir, port=port, user=user, dbname=database, application_name="ha_manager", options=options,
        client_encoding="UTF8", gssencmode="disable", sslmode="disable",
    )  # fmt: skip
