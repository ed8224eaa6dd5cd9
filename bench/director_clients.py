"""What clients of the director notice: downloads over a move and a drain, throughput and connections beside HAProxy.

Promise: five members with real daemons and a proxy each, in namespaces of this machine. Throughput and connections go from one
client to one scanning node that isn't the director, in turn directly, through the director, and through HAProxy (Debian's, tcp
mode) on the director, so that whatever else this machine does meets all three. Source: issue "director" ("Held to").
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import debian
from bench.proxy_daemons import ADDRESSES, SOURCES, Daemons
from bench.proxy_group import VIP
from director.buckets import Buckets, Table
from runtime.errors import HaError

Say = Callable[[str], None]
PARTS = ("downloads", "drain", "throughput", "moved_on_join")
_SECONDS = 3.0
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
        try:
            found: dict[str, dict[str, list[float]]] = {}
            for _ in range(repeats):
                for kind, crowd in (("down", 1), ("up", 1), ("connect", 1), ("connect", _CROWD)):
                    for way, (address, port) in ways.items():
                        own = source if way == "director" else others[way]
                        value = _clients(group, [kind, address, str(port), own, str(_SECONDS)], crowd)
                        what = kind if crowd == 1 else f"{kind}, {crowd} at once"
                        found.setdefault(what, {}).setdefault(way, []).append(value)
                        say(f"{what}, {way}: {value / (1 if kind == 'connect' else 1e9):.2f}")
        finally:
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
    return round(sorted(values)[len(values) // 2] / unit, 2)


def _clients(group: Daemons, words: list[str], count: int = 1) -> float:
    """What as many clients at once reach together."""
    clients = [_spawn(group.wires.client, [sys.executable, "-m", "bench.bulk", *words]) for _ in range(count)]
    said = [each.communicate(timeout=60)[0] for each in clients]
    if any(each.returncode for each in clients):
        raise HaError(f"bench.bulk {' '.join(words)} failed")
    return sum(map(float, said))


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
            _clients(group, ["connect", ADDRESSES["jupiter"], str(_HAPROXY), SOURCES[0], "0.01"])
            return process
        except HaError:
            continue
    raise HaError("HAProxy doesn't answer")
