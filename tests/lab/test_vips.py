"""Several virtual addresses of both families, and scripts beside them, between two real heartbeats; the gateway watches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.lab.claims import listening
from tests.lab.two_heartbeats import NODES, VIP, Node, Pair, sh, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]

VIP_B, VIP6 = "10.77.0.187", "fd00:120::187"
ALL = (VIP, VIP_B, VIP6)
BRIDGES = {VIP: "br0", VIP_B: "br1", VIP6: "br0"}


@pytest.fixture
def pair() -> Iterator[Pair]:
    """IPv6 on the service network; not started."""
    with two_heartbeats() as pair:
        for name, node in pair.nodes.items():
            sh(f"ip -n {node.ns} address add fd00:120::{NODES[name]:x}/64 dev eth0 nodad")
            (node.folder / "etc" / "haresources").write_text(
                f"vs-166 IPaddr2::{VIP}/24/eth0:1/192.168.120.255 {VIP_B} \\\n IPv6addr::{VIP6}/64/eth0\n"
            )
        yield pair


def mac(namespace: str, interface: str = "eth0") -> str:
    return sh(f"ip -n {namespace} -brief link show dev {interface}").split()[2]


def interface_of(address: str) -> str:
    return "eth1" if address == VIP_B else "eth0"


def has(node: Node, address: str) -> bool:
    return f" {address}/" in sh(f"ip -n {node.ns} -o address show")


def answers(pair: Pair, address: str) -> bool:
    """A ping from the gateway that doesn't know the way beforehand."""
    sh(f"ip -n {pair.gateway} neighbour flush to {address} dev {BRIDGES[address]}")
    command = ["ip", "netns", "exec", pair.gateway, "ping", "-n", "-c1", "-W1", address]
    return subprocess.run(command, capture_output=True).returncode == 0


def knows(pair: Pair, address: str) -> str:
    """The MAC in the gateway's neighbour table."""
    found = re.search(r"lladdr (\S+)", sh(f"ip -n {pair.gateway} neighbour show to {address} dev {BRIDGES[address]}"))
    return found[1] if found else ""


def test_all_addresses_move_and_the_neighbours_learn_it_unasked(pair: Pair) -> None:
    active, passive = pair.settle()
    for address in ALL:
        assert has(active, address) and not has(passive, address) and answers(pair, address)
        assert knows(pair, address) == mac(active.ns, interface_of(address))
    heard = [(each["address"], each["device"]) for each in active.status()["vips"]]
    assert heard == [(VIP, "eth0"), (VIP_B, "eth1"), (VIP6, "eth0")] and active.status()["vip"]["held"] is True
    # put on the passive by something else, and found a duplicate: the kernel would never use it
    sh(f"ip -n {passive.ns} address add {VIP6}/64 dev eth0")
    wait_for("the duplicate is detected", lambda: "dadfailed" in sh(f"ip -n {passive.ns} -6 address show to {VIP6}"))
    active.ask("standby")
    wait_for("active", lambda: passive.is_(phase="active"))
    for address in ALL:
        assert has(passive, address) and not has(active, address)
        wait_for(f"{address} in the gateway's table", lambda a=address: knows(pair, a) == mac(passive.ns, interface_of(a)))
        assert answers(pair, address)
    assert not [text for text in passive.status()["alarms"].values() if "virtual address" in text]


def test_a_stopped_heartbeat_lets_go_of_all_addresses(pair: Pair) -> None:
    active, passive = pair.settle()
    passive.kill()
    wait_for("solo", lambda: active.is_(phase="active", solo=True), 20)
    assert all(answers(pair, address) for address in ALL)
    assert active.process is not None
    os.kill(active.process.pid, signal.SIGSTOP)
    wait_for("no answer for any address", lambda: not any(answers(pair, address) for address in ALL), 20)
    os.kill(active.process.pid, signal.SIGCONT)


def test_a_link_that_comes_back_is_told_where_the_addresses_are(pair: Pair) -> None:
    """Also the IPv6 address, which the kernel removes with the link."""
    active, passive = pair.settle()
    passive.kill()
    wait_for("solo", lambda: active.is_(phase="active", solo=True), 20)
    sh(f"ip -n {active.ns} link set eth0 down")
    wait_for("the alarm", lambda: "without link" in active.log())
    with listening(pair.gateway, "br0", VIP, VIP6) as claims:
        sh(f"ip -n {active.ns} link set eth0 up")
        # the server's own address went with the link too; its network configuration brings that back, not heartbeat
        sh(f"ip -n {active.ns} address add fd00:120::{NODES[active.name]:x}/64 dev eth0 nodad")
        for address in (VIP, VIP6):
            wait_for(f"{address} is announced", lambda a=address: claims.announced(a, mac(active.ns)) > 0, 20)
    wait_for("both answer", lambda: answers(pair, VIP) and answers(pair, VIP6), 20)


def test_a_peer_that_is_heard_again_is_a_reason_to_announce(pair: Pair) -> None:
    active, passive = pair.settle()
    with listening(pair.gateway, "br0", VIP) as claims:
        passive.kill()
        wait_for("silence", lambda: active.status()["peer_state"]["contact"] is False)
        before = claims.announced(VIP, mac(active.ns))
        passive.start()
        wait_for("announced", lambda: claims.announced(VIP, mac(active.ns)) > before, 20)


def test_another_machine_that_claims_addresses_is_an_alarm_and_answered_but_moves_nothing(pair: Pair) -> None:
    active, passive = pair.settle()
    epoch = active.status()["epoch"]
    stranger = mac(pair.gateway, "br0")
    # the gateway is the stranger: it only answers, it doesn't announce itself
    sh(f"ip -n {pair.gateway} address add {VIP}/32 dev br0")
    sh(f"ip -n {pair.gateway} address add {VIP6}/128 dev br0 nodad")
    with listening(passive.ns, "eth0", VIP, VIP6) as claims:
        wait_for("the alarms", lambda: active.status().get("claimed") == {VIP: stranger, VIP6: stranger}, 30)
        before = {address: claims.announced(address, mac(active.ns)) for address in (VIP, VIP6)}
        for address in before:
            assert any(stranger in text and address in text for text in active.status()["alarms"].values())
            wait_for("it is defended", lambda a=address: claims.announced(a, mac(active.ns)) > before[a], 30)  # type: ignore[misc]
            sh(f"ip -n {pair.gateway} address delete {address}/{128 if ':' in address else 32} dev br0")
        wait_for("the end of the alarms", lambda: active.status().get("claimed") == {}, 30)
    assert active.is_(phase="active", epoch=epoch) and passive.is_(phase="passive")


def test_leftovers_of_a_killed_heartbeat_are_removed(pair: Pair) -> None:
    """Without lifetime or lease, as another program (or an older heartbeat) may have left them."""
    for node in pair.nodes.values():
        sh(f"ip -n {node.ns} address add {VIP}/24 dev eth0")
        sh(f"ip -n {node.ns} address add {VIP6}/64 dev eth0 nodad")
    active, passive = pair.settle()
    assert not any(has(passive, address) for address in ALL)
    assert f" {VIP}/32 " in sh(f"ip -n {active.ns} -o -4 address show") and all(answers(pair, address) for address in ALL)


# --- scripts --------------------------------------------------------------------------------------------------------------

#: writes what it is called with; says whether it runs by a file; does what a file named like script and action says
SCRIPT = """#!/bin/sh
here={here}/$(basename $0)
for last; do :; done
echo "$(basename $0) $*" >> {here}/log
[ ! -f $here.$last ] || . $here.$last
case $last in
    start) touch $here.runs ;;
    stop) rm -f $here.runs ;;
    status) [ -e $here.runs ] || exit 3 ;;
esac
"""


class Scripts:
    """A node's own /etc/init.d, seen by its heartbeat only."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.folder = node.folder / "init.d"
        self.folder.mkdir()
        self.state = node.folder / "scripts"
        self.state.mkdir()
        for name in ("left", "right"):
            (self.folder / name).write_text(SCRIPT.format(here=self.state))
            (self.folder / name).chmod(0o755)
        (node.folder / "etc" / "haresources").write_text(f"vs-166 {VIP} left::a::b right\n")

    def on(self, script: str, action: str, does: str) -> None:
        (self.state / f"{script}.{action}").write_text(does)

    def ran(self) -> list[str]:
        log = self.state / "log"
        return log.read_text().splitlines() if log.exists() else []

    def runs(self) -> list[str]:
        return sorted(file.stem for file in self.state.glob("*.runs"))

    def start(self) -> None:
        node, folder = self.node, self.node.folder
        command = (
            f"mount --bind {self.folder} /etc/init.d && hostname {node.name} && exec {sys.executable} -m heartbeat.daemon"
            f" --foreground --config-dir {folder}/etc --state-dir {folder}/state --run-dir {folder}/run"
            f" --manager-dir {folder}/manager"
        )
        with open(folder / "log", "ab") as log:
            enter = ["ip", "netns", "exec", node.ns, "unshare", "--uts", "--mount", "sh", "-c", command]
            node.process = subprocess.Popen(enter, stdout=log, stderr=log)


@pytest.fixture
def scripts(pair: Pair) -> Callable[[Node], Scripts]:
    made = {name: Scripts(node) for name, node in pair.nodes.items()}
    return lambda node: made[node.name]


def settle(pair: Pair, scripts: Callable[[Node], Scripts]) -> tuple[Node, Node]:
    for node in pair.nodes.values():
        scripts(node).start()
    active, passive = pair.settle()
    wait_for("the scripts have run", lambda: scripts(active).runs() == ["left", "right"], 20)
    return active, passive


def test_scripts_follow_the_address_in_order(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    active, passive = settle(pair, scripts)
    assert scripts(active).ran()[-2:] == ["left a b start", "right start"] and scripts(passive).runs() == []
    active.ask("standby")
    wait_for("they run on the other one", lambda: scripts(passive).runs() == ["left", "right"], 20)
    wait_for("they ended here", lambda: scripts(active).ran()[-2:] == ["right stop", "left a b stop"], 20)
    wait_for("it knows", lambda: [each["state"] for each in passive.status()["resources"]] == ["started", "started"])
    assert passive.is_(phase="active") and not has(active, VIP)


def test_a_stop_that_hangs_does_not_keep_the_address(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    active, passive = settle(pair, scripts)
    scripts(active).on("right", "stop", "sleep 600")
    active.ask("standby")
    wait_for("active", lambda: passive.is_(phase="active"))
    wait_for("the address has left", lambda: not has(active, VIP))
    # both while the script hangs
    assert scripts(active).ran()[-1] == "right stop" and scripts(active).runs() == ["left", "right"]
    wait_for("the alarm", lambda: "did not end within 15 s" in str(active.status()["alarms"]), 30)
    wait_for("what stands to its left is stopped all the same", lambda: scripts(active).runs() == ["right"], 20)


def test_a_start_that_fails_is_an_alarm_and_postgres_serves(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    for node in pair.nodes.values():
        scripts(node).on("left", "start", "echo no such user >&2; exit 6")
        scripts(node).start()
    active, _ = pair.settle()
    wait_for(
        "the alarm", lambda: "left::a::b: start failed: it ended with 6: no such user" in str(active.status()["alarms"]), 20
    )
    assert active.is_(phase="active") and "right start" not in scripts(active).ran()


def test_a_killed_heartbeat_that_is_back_in_time_adopts_what_runs(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    active, passive = settle(pair, scripts)
    before = len(scripts(active).ran())
    active.kill()
    scripts(active).start()
    wait_for("asked", lambda: len(scripts(active).ran()) >= before + 2, 20)
    wait_for(
        "settled",
        lambda: [each["state"] for each in active.status().get("resources", [])] in (["started"] * 2, ["stopped"] * 2),
    )
    if active.is_(phase="active"):
        assert scripts(active).ran()[before:] == ["left a b status", "right status"] and passive.is_(phase="passive")
    else:  # this machine was too busy for the lease
        assert scripts(active).runs() == []


def test_a_killed_heartbeat_that_comes_back_late_stops_what_runs(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    active, passive = settle(pair, scripts)
    active.kill()
    wait_for("active", lambda: passive.is_(phase="active"))
    assert scripts(active).runs() == ["left", "right"]
    before = len(scripts(active).ran())
    scripts(active).start()
    wait_for("stopped", lambda: scripts(active).runs() == [], 20)
    assert scripts(active).ran()[before:] == ["right status", "right stop", "left a b status", "left a b stop"]


def test_the_end_of_heartbeat_waits_for_its_scripts(pair: Pair, scripts: Callable[[Node], Scripts]) -> None:
    active, passive = settle(pair, scripts)
    scripts(active).on("right", "stop", "sleep 1")
    assert active.process is not None
    active.process.terminate()
    active.process.wait(30)
    assert scripts(active).runs() == [] and active.process.returncode == 0
    wait_for("active", lambda: passive.is_(phase="active"))
