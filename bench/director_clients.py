"""What clients of the director notice: downloads over a move and a drain, throughput and connections beside HAProxy.

Promise: five members with real daemons and a proxy each, in namespaces of this machine. Throughput and connections go from one
client to one scanning node that isn't the director, directly, through the director, and through HAProxy (Debian's, tcp mode) on
the director, in many short turns, each way first in as many as the others, so that whatever else this machine does meets all
three; medians count. Source: issue "director" ("Held to").
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench import debian
from bench.proxy_daemons import ADDRESSES, SOURCES, Daemons
from bench.proxy_group import VIP
from director.buckets import Buckets, Table
from runtime.errors import HaError

Say = Callable[[str], None]
PARTS = ("downloads", "drain", "throughput", "moved_on_join")
#: of one turn, seconds; turns for each repeat
_TURN, _TURNS = 0.5, 6
_BULK, _HAPROXY = 9090, 8080
_PACE = 5  # milliseconds between two lines of a download
#: clients at once that keep both cores busy: how long a processor that has nothing to do takes to wake up is no figure of ours
_CROWD = 4


def measure(parts: tuple[str, ...], repeats: int, say: Say) -> dict[str, Any]:
    """The figures of the issue's JSON."""
    figures: dict[str, Any] = {}
    if "moved_on_join" in parts:
        figures["moved_on_join"] = moved_on_join()
        say(f"moved_on_join, 20 nodes, 1024 buckets: {figures['moved_on_join']}")
    if {"downloads", "drain"} & set(parts):
        with Daemons() as group:
            if "downloads" in parts:
                moves = [_move(group, target) for target in ["nibiru", "jupiter"] * repeats]
                survived, gaps = min(each[0] for each in moves), [each[1] for each in moves]
                figures["downloads"] = {"survived": survived, "largest_gap_ms": max(gaps), "gaps_ms": gaps}
                say(f"downloads: {figures['downloads']}")
            if "drain" in parts:
                figures["drain_broken"] = sum(_drain(group) for _ in range(repeats))
                say(f"drain_broken: {figures['drain_broken']}")
    if "throughput" in parts:
        figures |= _throughput(repeats, say)
    return figures


def moved_on_join() -> int:
    """The 20th of equal members joins 19: buckets that move."""
    names = [f"node{i}" for i in range(20)]
    buckets = Buckets(Table.empty(1024))
    for present in (names[:19], names):
        weights = dict.fromkeys(present, 1.0)
        moves = buckets.settle(weights, weights, weights, 1024)
    return len(moves)


def _move(group: Daemons, target: str) -> tuple[int, float]:
    """A clean move of the director while 40 downloads run: how many survive, the largest gap of any (ms)."""
    downloads = [group.clients.start(source, pace=_PACE) for source in SOURCES]
    group.until(lambda: all(len(each.chunks) > 100 for each in downloads), "downloads run")
    began = time.monotonic()
    jupiter = group.node("jupiter")
    jupiter.configure(priority=50 if target == "nibiru" else 99)
    jupiter.run("cli", "reload")
    group.await_director(target)
    time.sleep(1.0)
    alive = sum(not each.broken and each.chunks[-1] > time.monotonic() - 0.5 for each in downloads)
    gap = max(each.gap(began) for each in downloads) * 1000
    group.clients.cancel()
    return alive, round(gap, 1)


def _drain(group: Daemons) -> int:
    """All buckets of a node are moved away while it serves: connections that break."""
    downloads = [group.clients.start(source, pace=_PACE) for source in SOURCES]
    group.until(lambda: all(len(each.chunks) > 20 for each in downloads), "downloads run")
    group.node("jupiter").run("cli", "drain", "scan1")
    group.until(lambda: "scan1" not in group.buckets("jupiter"), "scan1 has no buckets")
    time.sleep(1.0)
    alive = [each for each in downloads if not each.broken and each.chunks[-1] > time.monotonic() - 0.5]
    group.clients.cancel()
    group.node("jupiter").run("cli", "drain", "scan1", "--undo")
    group.await_even()
    return len(downloads) - len(alive)


def _throughput(repeats: int, say: Say) -> dict[str, Any]:
    layer = debian.provide(("haproxy",), say)
    with Daemons() as group:
        source = next(each for each in SOURCES if group.served_by(each) not in ("jupiter", "nibiru"))
        name = group.served_by(source)
        node = group.node(name)
        node.end_proxy(_BULK)
        bulk = _spawn(node.wire.ns, [sys.executable, "-m", "bench.bulk", "serve", str(_BULK)])
        assert bulk.stdout is not None and bulk.stdout.readline() == "ready\n"
        proxy = _haproxy(group, layer, ADDRESSES[name])
        group.until(lambda: name in group.buckets("jupiter"), f"{name} serves")
        group.until(
            lambda: f": {name} " in group.node("jupiter").run("cli", "explain", source).stdout, f"{name} serves {source}"
        )
        ways = {"direct": (ADDRESSES[name], _BULK), "director": (VIP, 80), "haproxy": (ADDRESSES["jupiter"], _HAPROXY)}
        # Of one client's, the kernel would tell the connections of the three ways apart by looking for a port each time.
        others = dict(zip(("direct", "haproxy"), (each for each in SOURCES if each != source), strict=False))
        crowd = _Crowd(group, ways, {way: source if way == "director" else others[way] for way in ways})
        try:
            found = {}
            for kind, count in (("down", 1), ("up", 1), ("connect", 1), ("connect", _CROWD)):
                what = kind if count == 1 else f"{kind}, {count} at once"
                found[what] = crowd.in_turn(kind, count, _TURNS * repeats)
                say(f"{what}: {_in_words(found[what], 1.0 if kind == 'connect' else 1e9)}")
        finally:
            crowd.close()
            for each in (bulk, proxy):
                each.kill()
                each.wait()
    return {
        "throughput_gbps": {way: _median(values, 1e9) for way, values in found["down"].items()},
        "throughput_up_gbps": {way: _median(values, 1e9) for way, values in found["up"].items()},
        "connections_per_s": {way: _median(values, 1.0) for way, values in found[f"connect, {_CROWD} at once"].items()},
        "connections_one_by_one_per_s": {way: _median(values, 1.0) for way, values in found["connect"].items()},
        "throughput_runs": found,
    }


def _median(values: list[float], unit: float) -> float:
    return round(median(values) / unit, 2)


def _in_words(found: dict[str, list[float]], unit: float) -> str:
    direct = median(found["direct"])
    return ", ".join(
        f"{way} {_median(values, unit)} ({min(values) / unit:.2f} to {max(values) / unit:.2f}; {median(values) / direct:.0%})"
        for way, values in found.items()
    )


class _Crowd:
    """Clients that run already, and measure when they are told to. ``ways``: address and port; ``own``: a client's address."""

    def __init__(self, group: Daemons, ways: dict[str, tuple[str, int]], own: dict[str, str]) -> None:
        self._words = {way: f"{address} {port} {own[way]} {_TURN}" for way, (address, port) in ways.items()}
        argv = [sys.executable, "-m", "bench.bulk", "turns"]
        with group.wires.client:
            self._clients = [
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(_CROWD)
            ]

    def in_turn(self, kind: str, count: int, turns: int) -> dict[str, list[float]]:
        """What so many clients at once reach together: of each way, as often as there are turns."""
        ways = list(self._words)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(turns):
            first = turn % len(ways)
            for way in ways[first:] + ways[:first]:
                found[way].append(self._measure(f"{kind} {self._words[way]}", self._clients[:count]))
        return found

    @staticmethod
    def _measure(line: str, clients: list[subprocess.Popen[str]]) -> float:
        for each in clients:
            assert each.stdin is not None
            each.stdin.write(line + "\n")
            each.stdin.flush()
        said = [each.stdout.readline() for each in clients if each.stdout is not None]
        if not all(said):
            raise HaError(f"bench.bulk {line} failed")
        return sum(map(float, said))

    def close(self) -> None:
        for each in self._clients:
            each.kill()
            each.communicate()


def _spawn(space: Any, argv: list[str]) -> subprocess.Popen[str]:
    with space:
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def _haproxy(group: Daemons, layer: Path, target: str) -> subprocess.Popen[str]:
    """On the director, as its packager builds it, with its splicing."""
    own = Path(tempfile.mkdtemp(prefix="haproxy-", dir=group.folder))
    debian.copy(layer, own)
    config = own / "disk" / "etc" / "haproxy" / "bench.cfg"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        "global\n maxconn 4000\ndefaults\n mode tcp\n option splice-auto\n timeout connect 5s\n timeout client 60s\n"
        f" timeout server 60s\nlisten bench\n bind :{_HAPROXY}\n server one {target}:{_BULK}\n"
    )
    command = f"{debian.root(own)} && exec chroot {own}/root haproxy -db -f /etc/haproxy/bench.cfg"
    process = _spawn(group.node("jupiter").wire.ns, ["unshare", "--mount", "--propagation", "private", "sh", "-c", command])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.2)
        try:
            with group.wires.client:
                socket.create_connection((ADDRESSES["jupiter"], _HAPROXY), 5.0).close()
            return process
        except OSError:
            continue
    raise HaError("HAProxy doesn't answer")
