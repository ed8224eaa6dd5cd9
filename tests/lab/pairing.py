"""A pair of policy servers for the tests: set up once, in sync before each test, with clients that write meanwhile.

Promise: ``installed`` and ``duo`` hand out a pair with an active and a passive that would take over, all processes in place; if
it can't be brought there, the test fails with what both servers say, and the next one gets freshly installed servers. At the
end of each test with ``duo`` every acknowledged write must be in the database. A module that uses them says
``pytest_plugins = ["tests.lab.pairing"]``; one that wants its servers otherwise, ``PREPARE``: a shell script that each runs
before anything is installed on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.drill import Drill
from bench.pair import SERVERS, Pair, Seen
from bench.writers import QUICK, Writers
from lab.api import Lab
from lab.layer import say

#: process → its pid file in a node
PROCESSES = {
    "manager": "/run/manager/manager.pid",
    "heartbeat": "/run/heartbeat/heartbeat.pid",
    "ha_manager": "/run/ha_manager/ha_manager.pid",
    "keeper": "/run/ha_manager/keeper.pid",
}
#: Lies on the disk of a server that is part of this session's pair; goes with the disk
_MARK = "/var/lib/ha_manager/pair-of-the-tests"
_LIMIT = 60.0


@dataclass
class Duo:
    pair: Pair
    folder: Path
    drill: Drill = field(init=False)
    writers: Writers = field(init=False)

    def __post_init__(self) -> None:
        self.writers = Writers(self.pair.lab, self.folder)
        self.drill = Drill(self.pair, self.writers, local=True)

    @property
    def lab(self) -> Lab:
        return self.pair.lab

    def processes(self, node: str) -> dict[str, list[int]]:
        """Every process of HA on ``node``, by what it is; ids on this machine, only those that run (not stopped, not dead)."""
        machine = self.pair.node(node)
        found = {name: machine.find(name) for name in PROCESSES if machine.path(PROCESSES[name]).exists()}
        found["postgres"] = machine.find("postgres")
        return {name: [pid for pid in pids if _state(pid) not in "TtZX"] for name, pids in found.items()}

    def whole(self, seen: Seen) -> bool:
        """Roles settled and every process in its place on both servers."""
        if not seen.settled:
            return False
        kinds = {*PROCESSES, "postgres"}
        return all({name for name, pids in self.processes(node).items() if pids} == kinds for node in SERVERS)

    def until_whole(self, limit: float = _LIMIT) -> None:
        self.pair.forgive(self.pair.until(self.whole, limit, "both servers to have all processes and their roles"))

    def keep_writing(self) -> None:
        """Start the clients that don't run: all of them at first, later those that died with their server."""
        if not self.writers.running(QUICK):
            self.writers.start()
        for name in SERVERS:
            self.writers.start_local(name)
        self.writers.steady()

    def check_writes(self) -> None:
        """Both clients are being acknowledged, and nothing that ever was is missing."""
        self.writers.steady()
        for verdict in self.writers.verdicts():
            assert verdict.holds, verdict

    def settle(self, limit: float = _LIMIT) -> str:
        """Wait until the pair is in sync, whoever is active; returns who."""
        self.pair.settle(limit)
        return self.pair.active()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


_duos: dict[str, Duo] = {}


@pytest.fixture
def installed(lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    current, prepare = _duos.get(lab.name), getattr(request.module, "PREPARE", "")
    if current is None or not all(_is_marked(lab, name, prepare) for name in SERVERS):
        if current is not None:
            current.writers.stop()
        current = _duos[lab.name] = _install(lab, tmp_path_factory.mktemp("ledger"), prepare)
    with _discarded_on_error(current):
        current.until_whole()
        yield current


@pytest.fixture
def duo(installed: Duo) -> Iterator[Duo]:
    """The same with clients that write: through the virtual IP, and on both servers themselves."""
    with _discarded_on_error(installed):
        installed.keep_writing()
        yield installed
        installed.lab.heal()
        installed.check_writes()


@pytest.fixture(scope="module", autouse=True)
def silence() -> Iterator[None]:
    """The clients go on from test to test, but not beyond a module."""
    yield
    for one in _duos.values():
        one.writers.stop()


@contextlib.contextmanager
def _discarded_on_error(duo: Duo) -> Iterator[None]:
    """What can't be brought back to order would fail every test from here on."""
    try:
        yield
    except BaseException:
        duo.writers.stop()
        _duos.pop(duo.lab.name, None)
        print(duo.pair.explain())
        raise


def _is_marked(lab: Lab, name: str, prepare: str) -> bool:
    path = lab.node(name).path(_MARK)
    return path.exists() and path.read_text() == prepare


def _install(lab: Lab, folder: Path, prepare: str) -> Duo:
    for name in SERVERS:
        lab.reinstall(name)
        lab.node(name).sh(prepare)
    duo = Duo(Pair(lab, say), folder)
    duo.pair.install()
    for name in SERVERS:
        lab.node(name).write(_MARK, prepare)
    duo.pair.start()
    return duo


__all__ = ["Duo", "duo", "installed", "silence"]
