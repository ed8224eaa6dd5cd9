"""A database that is copied to the passive while everything around the copy is restarted, killed and cut.

Promise: how far it is can be read on both servers; what can go on goes on, what can't begins anew, and the end is always a
passive in sync that holds every acknowledged write, tablespaces included. pg_basebackup is held (SIGSTOP, again and again, as
ha_manager wakes it) so that a small database takes as long as a large one. Source: issue "Postgres: no acknowledged write
lost …" ("Seeding"); docs/failure-modes.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.pair import ACTIVE, PASSIVE, other
from lab.api import Node

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
_LIMIT = 60.0
#: bytes that a copy has written before it is held
_SOME = 8 << 20
#: that of Postgres, where another server may become active: about a second
_LONGER_THAN_A_LEASE = 3.0
#: 150 MB that can't be compressed
_BIG = (
    "CREATE TABLE big AS SELECT g, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 28 + 0 * g)) AS x"
    " FROM generate_series(1, 150000) g"
)
#: bytes, rate and time left
_PROGRESS = re.compile(
    r"(?:the database is being copied from|copying the database of) \S+: [1-9]\d* of \d+ MiB, \d+ %, .+ left"
)


def as_postgres(node: Node, script: str) -> str:
    return node.run(["runuser", "-u", "postgres", "--", "sh", "-c", script], timeout=_LIMIT).stdout.strip()


def psql(node: Node, sql: str) -> str:
    return as_postgres(node, f'psql -XAtqc "{sql}" logs')


def until(true: Callable[[], object], what: str, limit: float = _LIMIT) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(0.05)


class Held:
    """pg_basebackup on a server: found, and stopped whenever it runs once it has connected and written something. Its second
    process, which receives the log, goes on.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: every copy that was seen, in order
        self.seen: list[int] = []
        self._thread.start()

    def _run(self) -> None:
        # Of this thread: what runs between two stops must not grow with the load of the machine.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        looked = 0.0
        while not self._end.wait(0.01):
            if time.monotonic() - looked > 0.1 or not self._stop():
                looked = time.monotonic()
                self._look()

    def _look(self) -> None:
        """Not what a killed one leaves for a moment: its second process."""
        masters = self._node.find("ha_manager")
        found = [pid for pid in self._node.find("pg_basebackup") if _parent(pid) in masters]
        self.seen += [pid for pid in found if pid not in self.seen]

    def _stop(self) -> bool:
        """False: there is none."""
        if not self.seen or (state := _state(self.seen[-1])) in ("", "Z", "X"):
            return False
        if state not in "Tt" and _written(self.seen[-1]) > _SOME:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.seen[-1], signal.SIGSTOP)
        return True

    @property
    def now(self) -> int:
        """The copy that is under way; 0: none."""
        return self.seen[-1] if self.seen and _state(self.seen[-1]) not in ("", "Z", "X") else 0

    def let_go(self) -> None:
        self._end.set()
        self._thread.join()
        if self.now:
            os.kill(self.now, signal.SIGCONT)


def _written(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])
    except (OSError, IndexError):
        return 0


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return next(iter(_stat(pid)), "")


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


@contextmanager
def held(node: Node) -> Iterator[Held]:
    holding = Held(node)
    try:
        yield holding
    finally:
        holding.let_go()


@contextmanager
def kept_down(node: Node, name: str) -> Iterator[None]:
    """Killed, and not started again meanwhile."""
    script = node.path(f"/etc/init.d/{name}")
    mode = script.stat().st_mode
    script.chmod(0o644)
    try:
        node.kill(name)
        yield
    finally:
        script.chmod(mode)


def make_tablespace(node: Node, name: str) -> None:
    node.sh(f"install -d -o postgres -g postgres -m 700 /var/lib/postgresql/{name}")
    psql(node, f"CREATE TABLESPACE {name} LOCATION '/var/lib/postgresql/{name}'")
    psql(node, f"CREATE TABLE in_{name} TABLESPACE {name} AS SELECT g FROM generate_series(1, 1000) g")


def says(duo: Duo, node: str) -> bool:
    """``ha show`` says how far the copy is."""
    return bool(_PROGRESS.search(duo.pair.ha(node, "show").stdout))


def test_a_copy_under_attack_ends_in_sync(duo: Duo) -> None:
    active = duo.settle()
    passive = other(active)
    here, there = duo.pair.node(active), duo.pair.node(passive)
    make_tablespace(here, "before")
    psql(here, _BIG)
    duo.pair.ha(passive, "stop")
    there.sh('rm -rf "$(ls -d /var/lib/postgresql/*/main)"/*')
    with held(there) as copy:
        starting = there.popen(["ha", "start"], stdout=subprocess.DEVNULL)
        until(lambda: copy.now, "a copy to begin")
        first = copy.now
        until(lambda: says(duo, passive), "ha show on the passive to say how far it is")
        until(lambda: says(duo, active), "ha show on the active to say how far it is")
        make_tablespace(here, "during")

        # what can go on goes on, however long the active's ha_manager is away: nobody else can become active meanwhile
        lapses = here.log().count("lease lapsed")
        with kept_down(here, "ha_manager"):
            time.sleep(_LONGER_THAN_A_LEASE)
        until(lambda: duo.processes(active).get("ha_manager"), "ha_manager to be there again")
        duo.writers.steady()
        until(lambda: says(duo, active), "the active to say again how far it is")
        assert copy.now == first and here.log().count("lease lapsed") == lapses, "the copy goes on"
        until(lambda: _PROGRESS.search(there.log()), "the log to say how far it is")

        # what can't begins anew
        before = copy.now
        there.kill("ha_manager")
        until(lambda: copy.now not in (0, before), "another copy after ha_manager was killed")
        assert _state(before) in ("", "Z", "X")
        before = copy.now
        duo.lab.cut(f"{ACTIVE}/{PASSIVE}")
        until(lambda: copy.now != before, "the copy to end without its link")
        duo.lab.heal()
        until(lambda: copy.now not in (0, before), "another copy after the link was cut")
    duo.settle(_LIMIT)
    starting.wait(_LIMIT)
    for table, rows in (("big", "150000"), ("in_before", "1000"), ("in_during", "1000")):
        assert psql(there, f"SELECT count(*) FROM {table}") == rows
    left = there.sh("ls -d /var/lib/postgresql/*/main.new* 2>/dev/null || true")
    assert left == "", left
