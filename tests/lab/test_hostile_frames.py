"""Ten thousand hostile datagrams a second at two real heartbeats: nothing changes, everything is counted, keepalives go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.two_heartbeats import LINKS, NODES, Node, Pair, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]
SECONDS, RATE = 3, 10_000
BROADCAST = "bcast eth0 eth1\nping 192.168.120.1\n"


@pytest.fixture(params=[LINKS, BROADCAST], ids=["ucast", "bcast"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with two_heartbeats(links=request.param) as pair:
        yield pair


def flood(pair: Pair, target: Node, source: str) -> int:
    """From the gateway at ``target``'s LAN address; what it replays are the peer's own frames. How many were sent."""
    peer = next(node for node in pair.nodes.values() if node is not target)
    own, theirs = (f"192.168.120.{NODES[node.name]}" for node in (target, peer))
    command = [
        sys.executable, "-m", "tests.lab.flood", str(SECONDS), str(RATE), own, source, f"p0x{NODES[peer.name]}", theirs,
    ]  # fmt: skip
    done = subprocess.run(["ip", "netns", "exec", pair.gateway, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def cpu(node: Node) -> float:
    """Seconds of CPU that heartbeat has used."""
    used = Path(f"/proc/{node.status()['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def refused(node: Node) -> int:
    status = node.status()
    counted = status["refused"]["eth0"]
    kinds: int = sum(counted[kind] for kind in ("stranger", "unauthentic", "unusable", "foreign", "again"))
    return kinds + int(status["link_states"]["eth0"]["dropped"])


def test_floods_of_hostile_frames_change_nothing(pair: Pair) -> None:
    """At each of the two, from a stranger's address and, forged, from the peer's."""
    active, passive = pair.settle()
    for node in (active, passive):
        wait_for("both links up", lambda node=node: set(node.status()["links"].values()) == {"up"})  # type: ignore[misc]
    before = [(node.ask("history", last=100)["changes"], node.log().count("alarm")) for node in (active, passive)]
    for target in (active, passive):
        for source in ("own", "peer"):
            beats, spent, counted = target.status()["link_states"]["eth0"]["sent"], cpu(target), refused(target)
            sent = flood(pair, target, source)
            counted = refused(target) - counted
            used = (cpu(target) - spent) / SECONDS
            print(f"{source} -> {target.status()['role']}: {sent} sent, {counted} refused, CPU {used:.0%}")
            assert target.status()["link_states"]["eth0"]["sent"] - beats >= SECONDS / 0.2 / 2
            assert counted > sent / 2
    assert [(node.ask("history", last=100)["changes"], node.log().count("alarm")) for node in (active, passive)] == before
    assert active.is_(phase="active", epoch=[1, active.name], solo=False) and passive.is_(
        phase="passive", fit=True, in_sync=True
    )
    assert all(node.log().count("frames were not taken") <= 2 for node in (active, passive))
    assert pair.outage() < 0.5
