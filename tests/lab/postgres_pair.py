"""Two real Postgres clusters on 127.0.0.1, each with its keeper, as two policy servers would have them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ha_manager import controldata, keeper, postmaster
from ha_manager.cluster import PostgresConfig
from ha_manager.database import Database
from ha_manager.observation import Observation, Progress, Upstream, standby_name
from ha_manager.sql import Session, conninfo
from lab import postgres
from runtime import commands
from runtime.errors import HaError

#: Debian's, or another major version of packaging/postgres-versions.txt
VERSION = int(os.environ.get("HA_TEST_POSTGRES") or postgres.debian())
#: mmap: what a killed one leaves in /dev/shm would stay there, a megabyte each
SMALL = "shared_buffers = 16MB\ndynamic_shared_memory_type = mmap\n"
BIN = postgres.provide(VERSION) if VERSION else Path("/nonexistent")
PASSWORD = "correct: horse\\battery"


def free_port() -> int:
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(true: Callable[[], object], limit: float = 10.0, what: str = "", every: float = 0.005) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"not within {limit} s: {what or true}"
        time.sleep(every)


def _folder(prefix: str) -> Path:
    """In memory where that is possible: a copy fsyncs a thousand files, and these tests don't pull plugs."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 3 << 30
    root = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("HA_TEST_POSTGRES_DIR") or (shm if roomy else "/tmp")))
    root.chmod(0o755)
    return root


def _initdb(data: Path, major: int) -> None:
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    initdb = str(postgres.provide(major) / "initdb")
    argv = [initdb, "-D", str(data), "-k", "-A", "trust", "-N", "--locale=C.UTF-8", "-E", "UTF8"]
    commands.run(argv, timeout=60, user="postgres", cwd="/")


@functools.cache
def _template(major: int) -> Path:
    root = _folder("hapg-template-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _initdb(root / "data", major)
    return root / "data"


class Lease:
    """Renews a keeper's lease, as ha_manager's main loop does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            with contextlib.suppress(HaError):
                self._database.renew(1.0)

    def lapse(self) -> None:
        self._end.set()
        self._thread.join()


class Node:
    def __init__(self, root: Path, name: str, peer: str, major: int) -> None:
        self.name, self.peer = name, peer
        self.root = root / name
        self.root.mkdir()
        data = self.root / "data"
        self.config = PostgresConfig(
            version=major,
            bin_dir=postgres.provide(major),
            data_dir=data,
            config_file=data / "postgresql.conf",
            port=free_port(),
            socket_dir=self.root / "socket",
            log_file=self.root / "log" / "postgres.log",
            state_dir=self.root / "state" / "postgres",
            diverged_dir=self.root / "state" / "diverged",
            run_dir=self.root / "run",
            rejoin="rewind",  # so small a database would be copied
        )
        self.host, self.tls = "127.0.0.1", False
        self.notes: list[str] = []
        self.lease: Lease | None = None
        self.database = self.new_database()

    def new_database(self) -> Database:
        return Database(
            self.config, self.name, self.peer, peer_addresses=("127.0.0.1", "::1"), password=PASSWORD, note=self.notes.append
        )

    def initdb(self, *, fresh: bool = False) -> None:
        """A new database; all of one session are copies of one (the same system identifier) unless ``fresh``."""
        data = self.config.data_dir
        if fresh:
            _initdb(data, self.config.version)
        else:
            commands.run(["cp", "-a", str(_template(self.config.version)), str(data)], timeout=60)
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(f"\n{SMALL}unix_socket_directories = '{self.config.socket_dir}'\n")

    def empty(self) -> None:
        """A data directory with the administrator's files and no database."""
        self.config.data_dir.mkdir(exist_ok=True)
        shutil.chown(self.config.data_dir, "postgres", "postgres")
        self.config.data_dir.chmod(0o700)
        lines = f"{SMALL}unix_socket_directories = '{self.config.socket_dir}'\n"
        hba = "local all all trust\nhost all all 127.0.0.1/32 trust\n"
        for name, text in (("postgresql.conf", lines), ("pg_hba.conf", hba), ("pg_ident.conf", "")):
            (self.config.data_dir / name).write_text(text)
            shutil.chown(self.config.data_dir / name, "postgres", "postgres")

    def up(self) -> None:
        self.database.configure()
        self.database.attach()
        self.database.renew(1.0)
        self.lease = Lease(self.database)

    def upstream(self, epoch: int) -> Upstream:
        """How the peer follows this node."""
        return Upstream(self.name, epoch, self.host, self.config.port, self.tls)

    def session(self, sync: str = "on", limit: float = 2.0) -> Session:
        options = f"-c synchronous_commit={sync} -c statement_timeout=0 -c default_transaction_isolation=read\\ committed"
        options += " -c idle_session_timeout=0" if self.config.version >= 14 else ""
        options += " -c transaction_timeout=0" if self.config.version >= 17 else ""
        return Session(
            conninfo(
                host=str(self.config.socket_dir), port=self.config.port, user="postgres", dbname="postgres", options=options
            ),
            limit,
        )

    def sql(self, text: str, limit: float = 5.0, sync: str = "on") -> str:
        session = self.session(sync)
        try:
            found = session.rows(text, limit)
        finally:
            session.close()
        return (found[0][0] or "") if found else ""

    def processes(self) -> list[str]:
        return [postmaster.title(each.pid) for each in postmaster.processes_of(self.config.data_dir)]

    def find(self, kind: str) -> int:
        """Pid of one of Postgres's own processes."""
        for each in postmaster.processes_of(self.config.data_dir):
            if f" {kind}" in f" {postmaster.title(each.pid)} " or f": {kind}" in postmaster.title(each.pid):
                return each.pid
        raise AssertionError(f"no {kind} in {self.processes()}")

    def postmaster(self) -> int:
        head = postmaster.postmaster_of(self.config.data_dir)
        assert head is not None
        return head.pid

    def facts(self) -> Observation:
        return self.database.facts()

    def crash(self) -> None:
        """Power cut, as far as processes go: the lease's thread and all of Postgres; nothing is told."""
        if self.lease:
            self.lease.lapse()
        pid = keeper.living(self.config.run_dir)
        if pid:
            os.kill(pid, signal.SIGKILL)
        self.database.kill()

    def down(self) -> None:
        if self.lease:
            self.lease.lapse()
        pid = keeper.living(self.config.run_dir)
        if pid:
            postmaster.send(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
        postmaster.kill_all(self.config.data_dir, 5.0)
        self.database.release()


class Pair:
    def __init__(self, root: Path, major: int) -> None:
        self.root = root
        self.one = Node(root, "vs-166", "vs-28", major)
        self.two = Node(root, "vs-28", "vs-166", major)

    def active(self, epoch: int = 1) -> Node:
        """``one`` as a solo active."""
        self.one.initdb()
        self.one.up()
        self.one.database.make_primary(epoch)
        self.one.database.settle_primary(epoch)
        self.one.database.set_names_relaxed()
        self.one.sql("CREATE TABLE t (id bigint primary key)")
        return self.one

    def join(self, epoch: int = 1) -> None:
        """``two`` as a fresh copy that streams."""
        self.two.empty()
        self.two.up()
        follow(self.two, self.one, epoch)

    def synchronous(self, epoch: int = 1) -> int:
        """Both, the names enforced."""
        self.active(epoch)
        self.join(epoch)
        return self.one.database.set_names_enforced(epoch)

    def diverge(self) -> tuple[Node, Node]:
        """``two`` was promoted; ``one``, which wrote on alone, has a transaction more, and has crashed."""
        self.synchronous()
        one, two = self.one, self.two
        one.sql("INSERT INTO t VALUES (1)")
        two.database.make_detached()
        one.database.set_names_relaxed()
        one.sql("INSERT INTO t VALUES (2)")
        one.crash()
        two.database.make_primary(2)
        two.database.settle_primary(2)
        two.sql("INSERT INTO t VALUES (3)")
        return one, two


def keep_going(_: Progress) -> bool:
    return True


def follow(passive: Node, active: Node, epoch: int) -> tuple[str, str]:
    """Judge, rejoin, follow, until it streams; returns the way and the report."""
    identity = active.database.identity()
    verdict = passive.database.judge(identity)
    report = passive.database.rejoin(verdict, active.upstream(epoch), identity, keep_going, 120.0)
    passive.database.make_standby(active.upstream(epoch))
    until(lambda: passive.facts().following == epoch, 15.0, f"following: {passive.facts()}", every=0.02)
    name = standby_name(passive.name, epoch)
    until(lambda: active.facts().caught_up(name), 15.0, "caught up", every=0.02)
    return str(verdict.way), report


@contextlib.contextmanager
def pair(major: int = VERSION) -> Iterator[Pair]:
    root = _folder("hapg-")
    made = Pair(root, major)
    try:
        yield made
    finally:
        for node in (made.one, made.two):
            node.down()
        shutil.rmtree(root, ignore_errors=True)


class Writer:
    """A client that inserts increasing ids and remembers which were acknowledged, and how long each took."""

    def __init__(self, node: Node, pause: float = 0.0) -> None:
        self._node, self._pause = node, pause
        self._end = threading.Event()
        self.acknowledged: list[int] = []
        self.seconds: list[float] = []
        self.error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        session = self._node.session()
        try:
            start = int(session.one("SELECT coalesce(max(id), 0)::text FROM t", 5.0))
            for number in itertools.count(start + 1):
                if self._end.is_set():
                    return
                began = time.monotonic()
                session.rows(f"INSERT INTO t VALUES ({number})", 60.0)
                self.seconds.append(time.monotonic() - began)
                self.acknowledged.append(number)
                if self._pause:
                    time.sleep(self._pause)
        except HaError as wrong:
            self.error = str(wrong)
        finally:
            session.close()

    def stop(self, limit: float = 10.0) -> bool:
        self._end.set()
        self._thread.join(limit)
        return not self._thread.is_alive()

    def longest(self) -> float:
        return max(self.seconds, default=0.0)


def make_ahead(node: Node) -> None:
    """A segment that nothing was written to yet, as Postgres makes one in time, and that pg_waldump finds first."""
    wal = node.config.data_dir / "pg_wal"
    last = max(controldata.segments(node.config.data_dir))
    for number in range(1, 500):
        ahead = wal / f"{last[:16]}{int(last[16:], 16) + number:08X}"
        with ahead.open("wb") as file:
            file.truncate((wal / last).stat().st_size)
        shutil.chown(ahead, "postgres", "postgres")
        if next(name for name in os.listdir(wal) if re.fullmatch("[0-9A-F]{24}", name)) == ahead.name:
            return
        ahead.unlink()
    raise AssertionError("no segment is found before the others")
