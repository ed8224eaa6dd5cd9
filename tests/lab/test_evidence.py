"""The safety rules between two real heartbeats that can't hear each other: evidence, fencing, the ping node's ARP table.

Postgres is scripted. Each fault is made in the network or the process, none in the program.
"""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.power import PowerSwitch, power_switch
from tests.lab.two_heartbeats import NODES, VIP, Node, Pair, sh, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]

#: fitness and the active's patience last long enough for what is looked at here
PATIENT = "stale 20\nsolo_time 25\n"


@contextmanager
def blocked(*nodes: Node) -> Iterator[None]:
    """Heartbeats, and nothing else, don't reach these nodes."""
    rules = "table inet cut { chain input { type filter hook input priority -200; udp dport 694 drop; }; }"
    for node in nodes:
        sh(f"ip netns exec {node.ns} nft '{rules}'")
    yield
    for node in nodes:
        sh(f"ip netns exec {node.ns} nft 'add table inet cut; delete table inet cut'")  # also after a power cut


def apart(pair: Pair, on: bool = True) -> None:
    """The two servers can't reach each other at all, but both reach the gateway."""
    for number in (0, 1):
        for node in NODES.values():
            sh(f"ip -n {pair.gateway} link set p{number}x{node} type bridge_slave isolated {'on' if on else 'off'}")


def power_cut(pair: Pair, node: Node) -> None:
    """Links first, so that nothing of the dying one is heard; then the process; /run and the addresses are gone."""
    if node.process is not None and node.process.poll() is None:
        node.process.send_signal(signal.SIGSTOP)  # it is not to see one link go before the other, and to yield for that
    for number in (0, 1):
        pair.cut(node.name, number)
    if node.process is not None and node.process.poll() is None:
        node.kill()
    sh(f"ip -n {node.ns} addr flush to {VIP}/32")
    sh(f"ip netns exec {node.ns} nft flush ruleset")
    shutil.rmtree(node.folder / "run", ignore_errors=True)


def power_on(pair: Pair, node: Node) -> None:
    for number in (0, 1):
        pair.cut(node.name, number, up=True)
    node.start()


def alarm(node: Node, name: str) -> str:
    return str(node.status().get("alarms", {}).get(name, ""))


def moved(node: Node) -> bool:
    return "passive -> detaching" in node.log()


# --- evidence -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["both ways", "towards the passive"])
def test_a_peer_that_answers_for_the_address_is_not_taken_over_from(direction: str) -> None:
    with two_heartbeats(PATIENT) as pair:
        active, passive = pair.settle()
        with blocked(passive, *([active] if direction == "both ways" else [])):
            wait_for("held", lambda: bool(alarm(passive, "held")))
            assert f"answers for {VIP} (eth0)" in alarm(passive, "held")
            wait_for("three deadtimes of silence", lambda: passive.status()["peer_state"]["heard_ago"] > 3.0)
            assert passive.is_(phase="passive", fit=True) and active.is_(phase="active", solo=False)
        wait_for("heard again", lambda: not alarm(passive, "held") and not alarm(passive, "peer-silent"))
        assert not moved(passive) and active.is_(epoch=[1, active.name]) and not alarm(active, "two-actives")


def test_when_the_address_answers_no_more_deadtime_runs_again() -> None:
    with two_heartbeats(PATIENT) as pair:
        active, passive = pair.settle()
        with blocked(active, passive):
            wait_for("held", lambda: bool(alarm(passive, "held")))
            power_cut(pair, active)
            wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))


def test_a_strangers_answer_is_an_alarm_and_holds_nothing() -> None:
    with two_heartbeats(PATIENT) as pair:
        active, passive = pair.settle()
        stranger = f"{pair.tag}st"
        sh(f"ip netns add {stranger}")
        try:
            sh(f"ip -n {pair.gateway} link add pstranger type veth peer name eth0 netns {stranger}")
            sh(f"ip -n {pair.gateway} link set pstranger master br0")
            sh(f"ip -n {stranger} addr add {VIP}/24 dev eth0 && ip -n {stranger} link set eth0 up")
            sh(f"ip -n {pair.gateway} link set pstranger up")
            # The kernel hears of a carrier up to a second later, and drops what is sent until then.
            ends = (f"{stranger} link show eth0", f"{pair.gateway} link show pstranger")
            wait_for("the stranger to be on the network", lambda: all("state UP" in sh(f"ip -n {end}") for end in ends))
            power_cut(pair, active)
            wait_for("moved", lambda: passive.is_(phase="active"))
            assert "alarm stranger: " in passive.log() and "alarm held" not in passive.log()
        finally:
            sh(f"ip netns del {stranger}")


def test_a_living_host_without_the_service_holds_nothing() -> None:
    with two_heartbeats(PATIENT) as pair:
        active, passive = pair.settle()
        active.kill()  # the kernel goes on: pings are answered; for the address only until the lease lapses
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        assert not active.has_vip() or sh(f"ip netns exec {active.ns} nft list set arp ha_manager lease").count(VIP) == 0


# --- outages --------------------------------------------------------------------------------------------------------------


def test_both_boot_after_a_total_outage() -> None:
    with two_heartbeats() as pair:
        active, passive = pair.settle()
        for node in (active, passive):
            power_cut(pair, node)
        for node in (passive, active):
            power_on(pair, node)
        again, _ = pair.settle()
        assert again.ask("status")["epoch"][0] == 2
        assert all("two-actives" not in node.log() for node in pair.nodes.values())


@pytest.mark.parametrize("direction", ["both ways", "from the active", "to the active"])
def test_the_actives_links_are_cut(direction: str) -> None:
    """In one direction or both, on both networks: there is one active throughout, and the old one comes back as the passive."""
    hook = {"both ways": ("ingress", "egress"), "to the active": ("ingress",), "from the active": ("egress",)}[direction]
    with two_heartbeats() as pair:
        active, passive = pair.settle()
        for device in ("eth0", "eth1"):
            chains = "; ".join(f"chain {h} {{ type filter hook {h} device {device} priority 0; policy drop; }}" for h in hook)
            sh(f"ip netns exec {active.ns} nft 'table netdev cut{device} {{ {chains}; }}'")
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        wait_for("let go", lambda: not active.has_vip() and active.is_(role="passive"))
        for device in ("eth0", "eth1"):
            sh(f"ip netns exec {active.ns} nft delete table netdev cut{device}")
        wait_for("in sync again", lambda: active.is_(phase="passive", fit=True))
        assert passive.is_(phase="active") and "two-actives" not in active.log() + passive.log()


# --- fencing --------------------------------------------------------------------------------------------------------------

AGENT = Path(__file__).with_name("fence_lab")


@contextmanager
def fenced_pair(folder: Path) -> Iterator[tuple[Pair, PowerSwitch]]:
    secrets = folder / "secrets"
    secrets.write_text("passwd=sesame\n")
    secrets.chmod(0o600)
    line = f"fence {AGENT} switch={folder}/switch plug={{peer}} secrets={secrets}\nfence_timeout 10\n"
    with power_switch(folder / "switch", "sesame") as switch, two_heartbeats(line) as pair:
        switch.off = {name: lambda node=node: power_cut(pair, node) for name, node in pair.nodes.items()}  # type: ignore[misc]
        yield pair, switch


def test_the_silent_active_is_switched_off_before_it_is_taken_over_from(tmp_path: Path) -> None:
    with fenced_pair(tmp_path) as (pair, switch):
        active, passive = pair.settle()
        apart(pair)
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        assert switch.dark == {active.name} and active.process is not None and active.process.poll() is not None
        assert f"fencing: fence_lab switched {active.name} off" in passive.log()
        apart(pair, on=False)
        power_on(pair, active)
        wait_for("in sync again", lambda: active.is_(phase="passive", fit=True))
        told = passive.log() + active.log() + str(passive.ask("parameters"))
        assert "sesame" not in told and passive.is_(phase="active")


def test_a_failed_fence_takes_nothing_over_and_says_so(tmp_path: Path) -> None:
    with fenced_pair(tmp_path) as (pair, switch):
        active, passive = pair.settle()
        switch.broken = True
        apart(pair)
        wait_for("alarms", lambda: bool(alarm(passive, "fence") and alarm(active, "fence")), 15.0)
        assert "fence_lab off ended with 1: the switch is broken" in alarm(passive, "fence")
        assert passive.is_(phase="passive") and active.is_(phase="active", solo=False, epoch=[1, active.name])
        apart(pair, on=False)
        wait_for("over", lambda: not alarm(passive, "fence") and not alarm(active, "fence"))
        switch.broken = False
        power_cut(pair, active)
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]), 15.0)


def test_a_word_of_the_peer_needs_no_fencing(tmp_path: Path) -> None:
    with fenced_pair(tmp_path) as (pair, switch):
        active, passive = pair.settle()
        active.ask("standby", by="test")
        wait_for("moved", lambda: passive.is_(phase="active"))
        assert not any(request.startswith("off") for request in switch.asked) and switch.dark == set()


def test_a_switch_that_could_not_fence_is_told_before_it_has_to(tmp_path: Path) -> None:
    with fenced_pair(tmp_path) as (pair, switch):
        switch.broken = True
        active, _ = pair.settle()
        wait_for("told", lambda: "monitor ended with 1: the switch is broken" in alarm(active, "fence-agent"), 15.0)


# --- the watchdog, played by a terminal: no kernel watchdog is here ----------------------------------------------------------


def test_the_loop_feeds_the_watchdog_and_tells_it_of_a_clean_end() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    seen = bytearray()

    def written() -> bytes:
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(master, 100))
        return bytes(seen)

    with two_heartbeats() as pair:
        node = pair.nodes["vs-166"]
        file = node.folder / "etc" / "ha.cf"
        file.write_text(f"watchdog {os.ttyname(slave)}\n{file.read_text()}")
        pair.settle()
        wait_for("fed again and again", lambda: len(written()) >= 3)
        assert set(written()) == {0} and not alarm(node, "watchdog")
        node.kill()
        assert set(written()) == {0}, "a killed heartbeat leaves it armed"
        pair.settle()
        assert node.process is not None
        node.process.terminate()
        node.process.wait(10)
        assert written().endswith(b"V")
    os.close(master)
    os.close(slave)


# --- the ping node's ARP table --------------------------------------------------------------------------------------------


def test_the_active_learns_from_the_gateway_that_it_was_taken_over_from() -> None:
    with two_heartbeats("arp_check on\n") as pair:
        active, passive = pair.settle()
        wait_for("tested", lambda: active.status().get("arp_check") != "" and not alarm(active, "arp-check"))
        announce = f"ip netns exec {active.ns} cat /proc/sys/net/ipv4/conf/eth0/arp_announce"
        assert sh(announce).strip() == "2"
        apart(pair)
        wait_for("moved", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
        wait_for("let go", lambda: not active.has_vip() and active.is_(role="passive"))
        assert "no longer the virtual IP" in active.log() and "solo:" not in active.log().split("epoch 1/", 1)[1]
        apart(pair, on=False)
        wait_for("in sync again", lambda: active.is_(phase="passive", fit=True))
        assert passive.is_(phase="active", epoch=[2, passive.name])
        assert active.process is not None
        active.process.terminate()
        active.process.wait(10)
        assert sh(announce).strip() == "0"


def test_without_a_ping_node_on_its_network_the_check_is_an_alarm_and_nothing_else() -> None:
    with two_heartbeats("arp_check on\n") as pair:
        for node in pair.nodes.values():
            file = node.folder / "etc" / "ha.cf"
            file.write_text(file.read_text().replace("ping 192.168.120.1", "ping 10.77.0.1"))
        active, passive = pair.settle()
        wait_for("told", lambda: "no ping node is on the network" in alarm(active, "arp-check"))
        power_cut(pair, active)
        wait_for("moved", lambda: passive.is_(phase="active"))
