"""Two ways to write to the ledger: a client with time-outs of its own, and one with plain libpq settings.

Promise: ``Quick`` never waits past its limits, whatever the server or the network does; ``Plain`` does what a program does that
calls PQconnectdb and PQexecParams. Both count an insert as acknowledged only after ReadyForQuery: in the extended protocol
CommandComplete comes before the commit. Source: facts/safety-model.md ("A blocking libpq client …"); libpq's manual, 34.1.2.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from psycopg import Error, pq
from psycopg.conninfo import make_conninfo

from runtime.clock import boottime
from runtime.errors import HaError


class Lost(HaError):
    """The connection can't be used any more; what was under way has an unknown outcome."""


@dataclass(frozen=True)
class Target:
    """Where to write. ``host``: one address, or several with commas between, of which that one is meant that takes writes.
    ``table`` has the columns client and id.
    """

    host: str
    port: int = 5432
    dbname: str = "policy_server"
    user: str = "ledger"
    password: str = ""
    table: str = "ledger"
    client: str = "ledger"
    writable: bool = False

    @property
    def each(self) -> tuple[Target, ...]:
        """One target an address; each lets nobody in who can't write."""
        return tuple(replace(self, host=host, writable=True) for host in self.host.split(","))

    def conninfo(self, **more: str | int) -> str:
        if self.writable or "," in self.host:
            more["target_session_attrs"] = "read-write"
        password = {"password": self.password} if self.password else {}
        where: dict[str, str | int] = {"host": self.host, "port": self.port, "dbname": self.dbname, "user": self.user}
        return make_conninfo("", **where, **password, application_name=f"ledger {self.client}", **more)

    def insert(self) -> bytes:
        return f"INSERT INTO {self.table} (client, id) VALUES ($1, $2)".encode()

    def values(self, id: int) -> list[bytes | None]:
        return [self.client.encode(), str(id).encode()]


class Session(Protocol):
    """One connection."""

    def insert(self, id: int) -> str:
        """Returns "" once it is acknowledged, else the warning that came with it. Raises Lost."""

    def close(self) -> None: ...


class Connector(Protocol):
    def connect(self) -> Session:
        """Raises Lost."""

    @property
    def settings(self) -> str:
        """For people: what the figures depend on."""


@dataclass
class _Warnings:
    """What the server sent beside the result. A commit that was not replicated says so in a WARNING, and in nothing else."""

    texts: list[str] = field(default_factory=list)

    def take(self, result: pq.abc.PGresult) -> None:
        if (result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b"") == b"WARNING":
            self.texts.append((result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace"))

    def said(self) -> str:
        text = "; ".join(self.texts)
        self.texts.clear()
        return text


def _check(result: pq.abc.PGresult) -> None:
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise Lost(result.error_message.decode(errors="replace").strip() or f"the server answered {result.status}")


# --- with time-outs of its own -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quick:
    """Non-blocking libpq with deadlines, in seconds, for a connection and for an insert."""

    target: Target
    connect_limit: float = 0.1
    insert_limit: float = 0.3

    @property
    def settings(self) -> str:
        return (
            f"gives a connection {self.connect_limit * 1000:g} ms and an insert {self.insert_limit * 1000:g} ms, "
            f"then connects anew; {_QUICK_WORDS}"
        )

    def connect(self) -> QuickSession:
        deadline = boottime() + self.connect_limit
        conn = pq.PGconn.connect_start(self.target.conninfo(**_QUICK).encode())
        try:
            _finish_connecting(conn, deadline)
        except BaseException:
            conn.finish()
            raise
        conn.nonblocking = 1
        return QuickSession(conn, self)


class Either:
    """One of several servers takes writes: they are tried in turn, each with ``Quick``'s limits, beginning with the one that
    took the last connection; after a failure it is the next one's turn.
    """

    def __init__(self, choices: Sequence[Quick]) -> None:
        self._choices = tuple(choices)
        self._turn = 0

    @property
    def settings(self) -> str:
        hosts = ", ".join(choice.target.host for choice in self._choices)
        return f"{self._choices[0].settings}; tries {hosts} in turn, each for a session that can write"

    def connect(self) -> QuickSession:
        try:
            return self._choices[self._turn].connect()
        except Lost:
            self._turn = (self._turn + 1) % len(self._choices)
            raise


#: What lies beneath the deadlines: the kernel gives up too, and nothing negotiates encryption first.
_QUICK: dict[str, str | int] = {"tcp_user_timeout": 500, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2}
_QUICK |= {"sslmode": "disable", "gssencmode": "disable"}
_QUICK_WORDS = ", ".join(f"{name}={value}" for name, value in _QUICK.items())


def _finish_connecting(conn: pq.abc.PGconn, deadline: float) -> None:
    # connect_start has prepared everything: libpq's manual has callers behave as if WRITING had been returned.
    wanted: int = pq.PollingStatus.WRITING
    while True:
        if conn.status == pq.ConnStatus.BAD:
            raise Lost(_reason(conn))
        _wait(conn, wanted == pq.PollingStatus.READING, deadline, "no connection")
        wanted = conn.connect_poll()
        if wanted == pq.PollingStatus.OK:
            return
        if wanted == pq.PollingStatus.FAILED:
            raise Lost(_reason(conn))


def _reason(conn: pq.abc.PGconn) -> str:
    return conn.get_error_message().strip() or "the connection failed"


def _wait(conn: pq.abc.PGconn, reading: bool, deadline: float, what: str) -> None:
    poller = select.poll()
    poller.register(conn.socket, select.POLLIN if reading else select.POLLOUT)
    while (left := deadline - boottime()) > 0:
        if poller.poll(left * 1000):
            return
    raise Lost(f"{what} within its time limit")


class QuickSession:
    def __init__(self, conn: pq.abc.PGconn, options: Quick) -> None:
        self._conn = conn
        self._options = options
        self._warnings = _Warnings()
        conn.notice_handler = self._warnings.take

    def insert(self, id: int) -> str:
        deadline = boottime() + self._options.insert_limit
        target = self._options.target
        try:
            self._conn.send_query_params(target.insert(), target.values(id))
            while self._conn.flush():
                _wait(self._conn, False, deadline, "could not be sent")
            # Until None, which is ReadyForQuery: the commit happens after CommandComplete.
            while (result := self._result(deadline)) is not None:
                _check(result)
        except Error as wrong:
            raise Lost(str(wrong).strip()) from wrong
        return self._warnings.said()

    def _result(self, deadline: float) -> pq.abc.PGresult | None:
        while self._conn.is_busy():
            _wait(self._conn, True, deadline, "no answer")
            self._conn.consume_input()
        return self._conn.get_result()

    def close(self) -> None:
        self._conn.finish()


# --- plain libpq -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Blocking libpq with its defaults and connect_timeout=2, the least that libpq knows."""

    target: Target

    @property
    def settings(self) -> str:
        return "plain libpq: blocking, connect_timeout=2, everything else as libpq sets it"

    def connect(self) -> PlainSession:
        conn = pq.PGconn.connect(self.target.conninfo(connect_timeout=2).encode())
        if conn.status != pq.ConnStatus.OK:
            reason = _reason(conn)
            conn.finish()
            raise Lost(reason)
        return PlainSession(conn, self.target)


class PlainSession:
    def __init__(self, conn: pq.abc.PGconn, target: Target) -> None:
        self._conn = conn
        self._target = target
        self._warnings = _Warnings()
        conn.notice_handler = self._warnings.take

    def insert(self, id: int) -> str:
        try:
            _check(self._conn.exec_params(self._target.insert(), self._target.values(id)))
        except Error as wrong:
            raise Lost(str(wrong).strip()) from wrong
        return self._warnings.said()

    def close(self) -> None:
        self._conn.finish()
