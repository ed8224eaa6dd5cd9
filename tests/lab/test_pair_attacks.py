"""Faults that come together or at a bad moment, on two real policy servers with clients that write meanwhile.

Promise: nothing acknowledged is lost (the fixture, also for clients on the servers themselves), service comes back by itself or
the one command that brings it back is named, and a healthy database is never copied over. Source: issue "A pair of policy
servers …" ("with faults that the tests don't name"); design §4 rules 2, 3, 5, 11; docs/failure-modes.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bench.pair import SERVERS, other
from bench.writers import PLAIN, QUICK
from runtime.clock import boottime
from runtime.commands import Completed

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
_SERVICE = 30.0
_REJOIN = 90.0
_RECORD = "/var/lib/heartbeat/record"


def served(duo: Duo, since: float) -> None:
    for name in (QUICK, PLAIN):
        duo.writers.acknowledged_since(since, name, _SERVICE)


def power_on(duo: Duo, *nodes: str) -> None:
    for node in nodes:
        duo.lab.power_on(node, wait=False)


def copies(duo: Duo) -> int:
    return sum(duo.pair.node(node).log().count("copying the database") for node in SERVERS)


def family(duo: Duo, node: str) -> list[int]:
    """Every process of HA and of Postgres, parents first."""
    machine = duo.pair.node(node)
    heads = [pid for name in ("manager", "heartbeat", "ha_manager", "keeper", "postgres") for pid in machine.find(name)]
    return heads + [child for pid in machine.find("postgres") for child in _children(pid)]


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


# --- pauses and repetitions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.8, 2.0], ids=["than its lease", "than its address lives"])
def test_the_active_pauses_longer(duo: Duo, pause: float) -> None:
    """Its kernel has confirmed queries that it will never answer: it must say so, although the address is no longer its own,
    and also where the keeper, which ends their Postgres, runs again before heartbeat does.
    """
    active = duo.settle()
    paused, keeper = family(duo, active), duo.pair.node(active).find("keeper")
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(pause)
    for pid in keeper:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.2)
    for pid in reversed(paused):
        with contextlib.suppress(ProcessLookupError):  # ended by the keeper
            os.kill(pid, signal.SIGCONT)
    duo.until_whole(_REJOIN)
    served(duo, boottime())


def test_planned_failovers_one_after_the_other_copy_nothing(duo: Duo) -> None:
    before = copies(duo)
    for _ in range(4):
        active = duo.settle()
        duo.pair.ha(active, "failover")
        served(duo, boottime())
        # Long enough to be asked why it doesn't stream, if ha_manager thought so.
        duo.pair.settle(_SERVICE, other(active))
        time.sleep(2.2)
    duo.settle()
    assert copies(duo) == before


# --- power ----------------------------------------------------------------------------------------------------------------


def test_the_active_loses_power_amid_a_planned_failover(duo: Duo) -> None:
    active = duo.settle()
    asked = threading.Thread(target=lambda: duo.pair.ha(active, "failover", check=False, timeout=30.0))
    asked.start()
    time.sleep(0.12)
    duo.lab.power_off(active)
    served(duo, boottime())
    asked.join()
    power_on(duo, active)
    duo.pair.settle(_REJOIN, other(active))
    duo.keep_writing()


def test_the_passive_loses_power_when_the_active_has_let_go_for_it(duo: Duo) -> None:
    """The active takes up again; if its successor was heard to take over, only that one can serve, and the command says so."""
    active = duo.settle()
    heir, said = other(active), list[Completed]()
    asked = threading.Thread(target=lambda: said.append(duo.pair.ha(active, "failover", check=False, timeout=40.0)))
    asked.start()
    end = time.monotonic() + _SERVICE
    while duo.pair.status(active).get("phase") in ("active", "preparing") and time.monotonic() < end:
        time.sleep(0.005)
    duo.lab.power_off(heir)
    asked.join()
    (done,) = said
    print(done.stdout, done.stderr)
    if duo.pair.status(active)["phase"] == "active":
        assert done.code == 1 and "no failover" in done.stderr
        served(duo, boottime())
    else:
        assert done.code == 0 or f"{heir} is not heard any more" in done.stderr
    power_on(duo, heir)
    served(duo, boottime())
    duo.settle(_REJOIN)
    duo.keep_writing()


def test_both_lose_power_and_come_back(duo: Duo) -> None:
    active = duo.settle()
    duo.lab.power_off(active)
    duo.lab.power_off(other(active))
    power_on(duo, *SERVERS)
    duo.pair.settle(_REJOIN)
    served(duo, boottime())
    duo.keep_writing()


def test_both_lose_power_and_only_the_passive_comes_back(duo: Duo) -> None:
    """It can't know what the other one did since: it waits, and names the command and the risk."""
    active = duo.settle()
    left = other(active)
    duo.lab.power_off(active)
    duo.lab.power_off(left)
    power_on(duo, left)
    duo.pair.until(lambda seen: "not heard for" in str(seen.status[left].get("because")), _SERVICE, f"{left} to wait")
    told = duo.pair.ha(left, "explain").stdout
    assert "ha activate --force" in told and "went on alone" in told, told
    refused = duo.pair.ha(left, "activate", check=False)
    assert refused.code != 0 and "ha activate --force" in refused.stdout + refused.stderr, refused
    assert duo.pair.see().active == []
    duo.pair.until(lambda seen: "ha-manager" not in seen.status[left].get("alarms", {}), _SERVICE, "its ha_manager")
    duo.pair.ha(left, "activate", "--force")
    served(duo, boottime())
    power_on(duo, active)
    duo.pair.settle(_REJOIN, left)
    duo.keep_writing()


def test_an_active_without_its_passive_takes_up_again_alone(duo: Duo) -> None:
    active = duo.settle()
    duo.lab.power_off(other(active))
    duo.pair.until(lambda seen: bool(seen.status[active].get("solo")), _SERVICE, f"{active} to go on alone")
    served(duo, boottime())
    duo.lab.power_off(active)
    power_on(duo, active)
    served(duo, boottime())
    power_on(duo, other(active))
    duo.pair.settle(_REJOIN, active)
    duo.keep_writing()


# --- disks ----------------------------------------------------------------------------------------------------------------


def test_a_damaged_record_is_refused_in_words_and_hurts_nobody(duo: Duo) -> None:
    passive = duo.pair.node(other(duo.settle()))
    kept = passive.read(_RECORD)
    passive.write(_RECORD, kept[:20], 0o600)
    passive.kill("heartbeat")
    duo.pair.until(lambda seen: not seen.status[passive.name], _SERVICE, "heartbeat to be gone")
    end = time.monotonic() + _SERVICE
    while "the record of this node's epoch" not in passive.log() and time.monotonic() < end:
        time.sleep(0.1)
    shown = passive.run(["ha", "show"], check=False).stdout
    assert "restore it from a backup" in passive.log() and "heartbeat is not running" in shown, shown
    served(duo, boottime())
    passive.write(_RECORD, kept, 0o600)
    duo.until_whole(_REJOIN)


def test_an_active_that_cannot_write_its_state_hands_over(duo: Duo) -> None:
    """It can't say "stood down", so it falls silent instead."""
    active = duo.settle()
    node = duo.pair.node(active)
    folder = os.path.dirname(_RECORD)
    node.sh(f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    try:
        node.run(["ha", "failover"], check=False)
        duo.pair.until(lambda seen: other(active) in seen.active, _SERVICE, f"{other(active)} to be active")
        served(duo, boottime())
        assert "can't be written" in duo.pair.ha(active, "show", check=False).stdout
    finally:
        node.sh(f"umount {folder}")
    duo.pair.settle(_REJOIN, other(active))


# --- strangers --------------------------------------------------------------------------------------------------------------

_FLOOD = """
import os, random, socket, sys, time
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
frame = open(sys.argv[1], "rb").read()
makers = (
    lambda: os.urandom(random.randrange(1400)),
    lambda: frame[: random.randrange(len(frame))],
    lambda: frame,
    lambda: bytes(60000),
)
end = time.monotonic() + 4
while time.monotonic() < end:
    for host in sys.argv[2:]:
        for _ in range(20):
            wire.sendto(random.choice(makers[:3])(), (host, 694))
        wire.sendto(makers[3](), (host, 694))
    time.sleep(0.004)
"""
_CAPTURE = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
while True:
    packet, (_, _, kind, *_) = wire.recvfrom(65536)
    if kind == socket.PACKET_HOST and packet[9] == 17 and packet[22:24] == (694).to_bytes(2, "big"):
        sys.stdout.buffer.write(packet[28:])
        break
"""


def test_a_flood_of_frames_changes_nothing(duo: Duo) -> None:
    """Garbage, parts of a real frame, the same real frame again and again, and what doesn't fit into a packet."""
    active = duo.settle()
    before = len(duo.pair.history(active)), len(duo.pair.history(other(active)))
    captured = duo.folder / "frame"
    with captured.open("wb") as out:
        duo.pair.node(active).popen([sys.executable, "-c", _CAPTURE], files="host", stdout=out).wait(10)
    assert captured.stat().st_size > 100
    hosts = [duo.pair.node(node).address() for node in SERVERS]
    duo.pair.node("client").run([sys.executable, "-c", _FLOOD, str(captured), *hosts], files="host")
    assert duo.pair.active() == active
    assert (len(duo.pair.history(active)), len(duo.pair.history(other(active)))) == before
    refused = duo.pair.status(active)["refused"]["eth0"]
    assert refused["stranger"] + refused["unauthentic"] > 100
    duo.settle()
