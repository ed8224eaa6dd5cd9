"""The proxy tier with real daemons on five machines: who serves whom, and what clients notice."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.api import Node
from tests.lab.director_lab import ADDRESSES, MODULE_XML, VIP, Tier
from tests.lab.proxy_group import Clients, Download

pytest_plugins = ["tests.lab.director_lab"]

MEMBERS = ["jupiter", "nibiru", "mars", "scan1", "scan2"]
PRIORITIES = {"jupiter": 99, "nibiru": 89}
FAST = 'version="3" advert="0.1"'
SOURCES = [f"10.10.74.{i}" for i in range(101, 141)]
KEY = "/etc/director/lb.key"
ELEMENTS = (
    '<port_redirect protocol="http" ports="80,443" to="9090" comment="web"><check kind="http" interval="0.5"/></port_redirect>',
    '<port_redirect protocol="ftp" ports="21" to="2121"><check interval="0.5"/></port_redirect>',
    "<load_balancing/>",
)
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A machine's network, to be entered by a thread of this process."""

    def __init__(self, node: Node) -> None:
        self._path = f"/proc/{node.pid}/ns/net"
        self._before: list[int] = []

    def __enter__(self) -> Network:
        self._before.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        inside = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        assert _libc.setns(inside, 0x40000000) == 0
        os.close(inside)
        return self

    def __exit__(self, *_: object) -> None:
        before = self._before.pop()
        assert _libc.setns(before, 0x40000000) == 0
        os.close(before)


class Proxies:
    """Five members, each with a proxy; forty clients."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._servers: dict[tuple[str, int], subprocess.Popen[str]] = {}
        for name in MEMBERS:
            tier.node(name).write(KEY, "a key of all members\n", mode=0o600)
            for port in (9090, 2121):
                self.serve(name, port)
            tier.start(name, PRIORITIES.get(name, 0), FAST, *ELEMENTS)
        tier.client.sh("".join(f"ip addr replace {each}/24 dev eth0;" for each in SOURCES))
        tier.await_holder("jupiter")
        self.await_even()
        self.clients = Clients(Network(tier.client))  # type: ignore[arg-type]

    def close(self) -> None:
        self.clients.close()
        for server in self._servers.values():
            server.kill()
            server.wait()
        for name in MEMBERS:
            if self.tier.node(name).is_on:
                self.tier.node(name).sh("rm -f /var/lib/director/drained")

    def serve(self, name: str, port: int) -> None:
        argv = [sys.executable, "-m", "tests.lab.scanning_node", name, str(port)]
        server = self.tier.node(name).popen(argv, files="host", stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        self._servers[name, port] = server

    def end(self, name: str, port: int) -> None:
        server = self._servers.pop((name, port))
        server.terminate()
        server.wait()

    def cluster(self, name: str) -> dict[str, Any]:
        cluster: dict[str, Any] = self.tier.status(name)["cluster"]
        return cluster

    def buckets(self, on: str, key: str = "tcp 80,443") -> dict[str, int]:
        service = next(one for one in self.cluster(on)["services"] if one["key"] == key)
        return dict(service["buckets"])

    def member(self, on: str, name: str) -> dict[str, Any]:
        member: dict[str, Any] = next(one for one in self.cluster(on)["members"] if one["name"] == name)
        return member

    def await_even(self, on: str = "jupiter") -> None:
        even = [204, 205, 205, 205, 205]
        self.tier.until(lambda: sorted(self.buckets(on).values()) == even, "all five share evenly")

    def served_by(self, source: str, port: int = 80) -> str:
        return self.clients.ask(source, VIP, port)[0]

    def downloads(self) -> list[Download]:
        started = [self.clients.start(source, VIP) for source in SOURCES]
        self.tier.until(lambda: all(len(each.chunks) > 5 or each.broken for each in started), "downloads begin")
        assert broken(started) == []
        return started

    def go_on(self, downloads: list[Download], lines: int = 25) -> None:
        had = [len(each.chunks) for each in downloads]
        self.tier.until(
            lambda: all(len(d.chunks) >= n + lines or d.broken for d, n in zip(downloads, had, strict=True)),
            "downloads go on",
        )
        assert broken(downloads) == []


def broken(downloads: list[Download]) -> list[str]:
    return [f"{each.source} on {each.node}: {each.broken}" for each in downloads if each.broken]


@pytest.fixture
def group(tier: Tier) -> Iterator[Proxies]:
    made = Proxies(tier)
    yield made
    made.close()


def test_connections_survive_the_directors_move_a_drain_and_a_flushed_ruleset(group: Proxies) -> None:
    tier = group.tier
    downloads = group.downloads()
    assert {each.node for each in downloads} == set(MEMBERS)
    idle = {source: group.clients.idle(source, VIP) for source in SOURCES[:15]}
    served = {source: each.says()[0] for source, each in idle.items()}

    # a clean move of the director, and back
    text = tier.node("jupiter").read(MODULE_XML)
    tier.node("jupiter").write(MODULE_XML, text.replace('priority="99"', 'priority="50"'), mode=0o600)
    at = time.monotonic()
    tier.node("jupiter").run(["director", "reload"])
    tier.await_holder("nibiru")
    group.go_on(downloads)
    assert max(each.gap(at - 0.1) for each in downloads) < 2.0
    tier.until(lambda: group.cluster("scan2")["director"]["name"] == "nibiru", "all know the new director")
    assert sorted(group.buckets("nibiru").values()) == [204, 205, 205, 205, 205]
    tier.node("jupiter").write(MODULE_XML, text, mode=0o600)
    tier.node("jupiter").run(["director", "reload"])
    tier.await_holder("jupiter")
    group.go_on(downloads)

    # a node is drained, asked of another one
    said = tier.node("mars").run(["director", "drain", "scan1"]).stdout
    assert said.startswith("scan1 drains")
    tier.until(lambda: "scan1" not in group.buckets("mars"), "scan1 has no buckets")
    assert group.member("nibiru", "scan1")["state"] == "draining"
    group.go_on(downloads)
    assert {source: each.says()[0] for source, each in idle.items()} == served
    assert "scan1" not in {group.served_by(source) for source in SOURCES}
    tier.node("scan1").run(["director", "drain", "--undo"])
    group.await_even("scan2")
    group.go_on(downloads)

    # another program flushes the director's ruleset
    tier.node("jupiter").run(["nft", "flush", "ruleset"])
    tier.until(lambda: "removed by another program: repaired" in tier.log("jupiter"), "it is noticed and said")
    group.go_on(downloads)
    assert {source: each.says()[0] for source, each in idle.items()} == served


def test_a_dead_port_takes_only_that_port_away_and_commands_say_so(group: Proxies) -> None:
    tier = group.tier
    downloads = group.downloads()
    before = {source: group.served_by(source) for source in SOURCES}
    assert {group.served_by(source, 21) for source in SOURCES} == set(MEMBERS)
    group.end("scan2", 2121)
    tier.until(lambda: "scan2" not in group.buckets("jupiter", "tcp 21"), "scan2 gets no clients of FTP")
    assert "scan2" not in {group.served_by(source, 21) for source in SOURCES}
    assert {source: group.served_by(source) for source in SOURCES} == before
    group.go_on(downloads, 5)
    assert group.member("mars", "scan2")["state"] == "some ports"
    done = tier.node("scan2").run(["mwg-mon", "-c"], check=False)
    assert (done.code, done.stdout) == (1, "current state: failure\nport 9090 reachable\nport 2121 not reachable\n")
    assert "ftp 21 → 2121: connection refused" in tier.node("scan2").run(["swg-mon", "-v", "-c"], check=False).stdout
    for words in ("swg-mon: port 2121 not reachable: connection refused", "swg-mon: current state: failure"):
        assert words in tier.log("scan2")
    assert "nobody listens on port 2121" in tier.node("scan2").run(["director", "check"], check=False).stdout

    # what the commands say
    assert tier.node("jupiter").run(["swg-mon", "-c"]).stdout.startswith("current state: ok\n")
    devices = [line for line in tier.node("jupiter").run(["mfend-lb", "-s"]).stdout.splitlines() if "device" in line]
    assert devices[:2] == ["device: jupiter", "device: __SELF__"] and len(devices) == 7
    devices = [line for line in tier.node("scan1").run(["mfend-lb", "-s"]).stdout.splitlines() if "device" in line]
    assert devices == ["device: jupiter", "device: jupiter", "device: __SELF__"]
    for source in SOURCES[:10]:
        said = tier.node("nibiru").run(["director", "explain", source]).stdout
        assert said.startswith(f"http 80,443 → 9090: {before[source]} {ADDRESSES[before[source]]}\n")
    check = tier.node("nibiru").run(["director", "check"], check=False)
    assert check.stdout == "no mistake was found\n" and check.code == 0

    # it is back, and the whole node goes by a power cut: the others' connections stay
    group.serve("scan2", 2121)
    tier.until(lambda: group.buckets("jupiter", "tcp 21").get("scan2", 0) > 200, "scan2 has its share again")
    tier.lab.power_off("mars")
    tier.until(lambda: f"TX Scanning partner has failed {ADDRESSES['mars']}" in tier.log("jupiter"), "it is said")
    tier.until(lambda: "mars" not in group.buckets("jupiter"), "mars has no buckets")
    group.go_on([each for each in downloads if each.node != "mars"])
    assert "mars" not in {group.served_by(source) for source in SOURCES}


def test_a_restarted_director_takes_the_buckets_over_and_another_key_is_told(group: Proxies) -> None:
    tier = group.tier
    tier.node("scan1").run(["director", "drain"])
    tier.until(lambda: "scan1" not in group.buckets("jupiter"), "scan1 has no buckets")
    before = {source: group.served_by(source) for source in SOURCES}
    downloads = [each for each in group.downloads() if each.node != "jupiter"]
    tier.node("jupiter").kill("director")
    tier.await_holder("nibiru")
    tier.node("jupiter").run(["/etc/init.d/director", "start"])
    tier.await_holder("jupiter")
    group.go_on(downloads)
    tier.until(lambda: len(group.buckets("jupiter")) == 4, "jupiter shares out")
    after = {source: group.served_by(source) for source in SOURCES}
    elsewhere = [source for source in SOURCES if "jupiter" not in (before[source], after[source])]
    assert {source: after[source] for source in elsewhere} == {source: before[source] for source in elsewhere}
    tier.node("scan2").write(KEY, "some other key of nobody\n", mode=0o600)
    tier.node("scan2").run(["/etc/init.d/director", "restart"])
    tier.until(lambda: any("with another key" in each for each in tier.alarms("jupiter")), "another key is an alarm")
    assert "with another key" in tier.node("jupiter").run(["director", "check"], check=False).stdout
