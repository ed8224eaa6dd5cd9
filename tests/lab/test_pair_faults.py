"""One process at a time is killed or stopped, on either server, while clients write through the virtual IP.

Promise: by itself service resumes, every process is back, the pair is in sync again, nothing acknowledged is lost (checked by
the fixture, also for clients on the servers themselves), and no Postgres runs on without its manager. Source: issue "Bad input
and faults"; docs/failure-modes.md.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from bench.pair import other
from bench.record import complaints
from bench.writers import PLAIN, QUICK
from runtime.clock import boottime

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
#: Generous, on a busy machine (seconds); figures are bench/failover.py's task
_SERVICE = 20.0
_TARGETS = ("heartbeat", "ha_manager", "manager", "keeper", "postmaster", "all of Postgres")


def pids(duo: Duo, node: str, target: str) -> list[int]:
    machine = duo.pair.node(node)
    if target == "postmaster":
        return machine.find("postgres")
    if target == "all of Postgres":
        heads = machine.find("postgres")
        return heads + [pid for head in heads for pid in _children(head)]
    return machine.find(target)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def running(pid: int) -> bool:
    """Neither gone, nor a zombie, nor stopped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZXTt"
    except OSError:
        return False


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("side", ["active", "passive"])
@pytest.mark.parametrize("target", _TARGETS)
def test_service_resumes_by_itself(duo: Duo, target: str, side: str, number: int) -> None:
    active = duo.settle()
    node = active if side == "active" else other(active)
    hit = pids(duo, node, target)
    assert hit
    at = boottime()
    for pid in hit:
        if alive(pid):
            os.kill(pid, number)
    duo.until_whole()
    for name in (QUICK, PLAIN):
        duo.writers.acknowledged_since(at, name, _SERVICE)
        # Restarted in place it comes up as a standby: through the virtual IP nobody is to find it so.
        assert not [text for text in complaints(duo.writers.entries(name), at) if "read-only" in text]
    # Who was hit has been replaced, or runs again; nobody is left behind half-dead.
    assert not [pid for pid in hit if alive(pid) and not running(pid)]


@pytest.mark.parametrize("side", ["active", "passive"])
def test_postgres_does_not_outlive_its_keeper(duo: Duo, side: str) -> None:
    active = duo.settle()
    node = active if side == "active" else other(active)
    family = pids(duo, node, "all of Postgres")
    assert len(family) > 3
    duo.pair.node(node).kill("keeper")
    end = time.monotonic() + 3.0
    while any(alive(pid) for pid in family) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [pid for pid in family if alive(pid)]
    duo.until_whole()
