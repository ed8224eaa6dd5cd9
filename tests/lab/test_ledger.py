"""The ledger's clients against a real Postgres that is killed, stopped, restarted, and that cancels a wait for its standby.

Promise: the server is this test's own, in a temporary folder, and gone at its end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from bench.client import Plain, Quick, Target
from bench.ledger import tables, verify
from bench.record import Count, Entry, Kind, acknowledgements, gaps, read
from runtime import commands
from runtime.clock import boottime

pytestmark = pytest.mark.lab
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())


class Server:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        argv = [BIN / "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync"]
        commands.run(argv, timeout=60, user="postgres", cwd="/")
        self.start()
        with psycopg.connect(self.at("postgres"), autocommit=True) as conn:
            conn.execute("CREATE ROLE ledger LOGIN SUPERUSER")
            conn.execute("CREATE DATABASE policy_server OWNER ledger")
        with psycopg.connect(self.at("policy_server"), autocommit=True) as conn:
            for statement in tables(["ledger"]):
                conn.execute(statement.encode())

    def at(self, dbname: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={dbname}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        argv = [BIN / "pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start"]
        commands.run(argv, timeout=60, user="postgres", cwd="/")

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def everybody(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def signal(self, number: int) -> None:
        for pid in self.everybody():
            with contextlib.suppress(ProcessLookupError):  # a worker of autovacuum may have ended
                os.kill(pid, number)

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            argv = [BIN / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop"]
            commands.run(argv, timeout=30, user="postgres", cwd="/", check=False)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path("/var/tmp") / f"ha-ledger-{os.getpid()}"
    folder.mkdir()
    shutil.chown(folder, "postgres")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    server = Server(home)
    yield server
    server.stop()


class Writer:
    def __init__(self, server: Server, path: Path, client: str, *options: str) -> None:
        self.path = path
        argv = [sys.executable, "-m", "bench.ledger", "write", "--host", "127.0.0.1", "--port", str(server.port)]
        argv += ["--client", client, "--file", str(path), "--while-stdin", "--seconds", "60", *options]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE)

    def until(self, condition: Callable[[list[Entry]], bool], limit: float = 20.0) -> list[Entry]:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            entries = read(self.path)
            if condition(entries):
                return entries
            time.sleep(0.01)
        raise AssertionError(f"not within {limit:g} s: {read(self.path)[-5:]}")

    def acknowledges_more(self) -> None:
        before = len(acknowledgements(read(self.path)))
        self.until(lambda entries: len(acknowledgements(entries)) > before + 3)

    def end(self) -> list[Entry]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(5) == 0
        return read(self.path)


@pytest.fixture
def writer(server: Server, tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    started: list[Writer] = []

    def start(client: str, *options: str) -> Writer:
        started.append(Writer(server, tmp_path / client, client, *options))
        started[-1].acknowledges_more()
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def target(server: Server, client: str = "ledger") -> Target:
    return Target("127.0.0.1", server.port, client=client)


def test_the_count_is_right_across_kills_and_restarts(server: Server, writer: Callable[..., Writer]) -> None:
    quick, plain = writer("quick"), writer("plain", "--plain")
    for _ in range(2):
        server.signal(signal.SIGKILL)
        (server.data / "postmaster.pid").unlink()
        time.sleep(0.1)  # dead long enough for a connection to be refused
        server.start()
        quick.acknowledges_more()
        plain.acknowledges_more()
    records = {"quick": quick.end(), "plain": plain.end()}
    verdicts = verify(target(server), records)
    assert [verdict.holds for verdict in verdicts] == [True, True]
    for verdict, entries in zip(verdicts, records.values(), strict=True):
        count = Count.of(entries)
        assert count.failed > 0 and count.unknown == 2
        assert verdict.acknowledged == count.acknowledged == len(acknowledgements(entries))
        assert verdict.in_doubt_present + verdict.in_doubt_absent == len(count.in_doubt)


def test_a_missing_row_is_found(server: Server, writer: Callable[..., Writer]) -> None:
    one = writer("robbed")
    entries = one.end()
    with psycopg.connect(server.at("policy_server"), autocommit=True) as conn:
        conn.execute("DELETE FROM ledger WHERE client = 'robbed' AND id = 2")
        conn.execute("INSERT INTO ledger (client, id) VALUES ('robbed', 3)")
    (verdict,) = verify(target(server), {"robbed": entries})
    assert (verdict.lost, verdict.twice) == ((2,), (3,))


def test_a_hanging_server_costs_no_more_than_the_limits(server: Server, writer: Callable[..., Writer]) -> None:
    quick, plain = writer("hung"), writer("hung-plain", "--plain")
    stopped = boottime()
    server.signal(signal.SIGSTOP)
    # The kernel goes on accepting connections: a client without limits would wait for as long as it takes.
    quick.until(lambda entries: sum(entry.kind is Kind.FAILED for entry in entries) >= 2)
    server.signal(signal.SIGCONT)
    quick.acknowledges_more()
    plain.acknowledges_more()
    entries = quick.end()
    unknown = [entry.at - stopped for entry in entries if entry.kind is Kind.UNKNOWN]
    assert len(unknown) == 1 and 0.25 < unknown[0] < 3
    failed = [entry for entry in entries if entry.kind is Kind.FAILED]
    assert all("within its time limit" in entry.text for entry in failed)
    assert Count.of(plain.end()).connections == 1
    assert gaps(acknowledgements(entries), stopped, boottime(), 0.2)


def test_it_ends_although_a_blocking_call_hangs(server: Server, writer: Callable[..., Writer]) -> None:
    plain = writer("stuck", "--plain")
    server.signal(signal.SIGSTOP)
    try:
        plain.end()
    finally:
        server.signal(signal.SIGCONT)


def test_a_cancelled_wait_for_the_standby_is_no_acknowledgement(server: Server, writer: Callable[..., Writer]) -> None:
    patient = writer("patient", "--insert-limit", "20")
    plain = writer("patient-plain", "--plain")
    with psycopg.connect(server.at("postgres"), autocommit=True) as conn:
        _reload(conn, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            for one in (patient, plain):
                entries = one.until(lambda entries: _cancel(conn) or any(entry.kind is Kind.WARNED for entry in entries))
                warned = next(entry for entry in entries if entry.kind is Kind.WARNED)
                assert "synchronous replication" in warned.text
                assert warned.id in Count.of(entries).in_doubt
        finally:
            _reload(conn, "ALTER SYSTEM RESET synchronous_standby_names")
    patient.acknowledges_more()
    assert verify(target(server), {"patient": patient.end()})[0].holds


def _cancel(conn: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Cancel what waits for a standby; never true, so that it can stand in a condition."""
    conn.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    return False


def _reload(conn: psycopg.Connection[tuple[object, ...]], statement: LiteralString) -> None:
    conn.execute(statement)
    conn.execute("SELECT pg_reload_conf()")


def test_the_settings_are_on_record(server: Server) -> None:
    for connector in (Quick(target(server)), Plain(target(server))):
        session = connector.connect()
        assert session.insert(1) == ""
        session.close()
    assert "connect_timeout=2" in Plain(target(server)).settings
    assert "100 ms" in Quick(target(server)).settings and "tcp_user_timeout=500" in Quick(target(server)).settings
