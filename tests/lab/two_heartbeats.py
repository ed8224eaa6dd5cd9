"""Two real heartbeats in network namespaces of their own: a gateway that is the ping node, two bridges, no Postgres.

ha_manager's side is scripted: it answers every want at once as a perfect database would. Nothing of this touches the host's
network, /etc, /run or /var.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.scripted import ScriptedManager
from heartbeat.ping import Pinger
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import HaError

VIP = "192.168.120.187"
NODES = {"vs-166": 166, "vs-28": 28}
#: the lines of ha.cf about links and ping nodes; {own} and {other} are the last bytes of the servers' addresses
LINKS = "ucast eth0 192.168.120.{other}\nucast eth1 10.77.0.{other}\nping 192.168.120.1\n"


def sh(command: str) -> str:
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stderr}")
    return done.stdout


def wait_for(what: str, holds: Callable[[], bool], limit: float = 10.0) -> float:
    """Seconds until ``holds``; AssertionError after ``limit``."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > limit:
            raise AssertionError(f"not within {limit:g} s: {what}")
        time.sleep(0.002)
    return time.monotonic() - began


class Node:
    def __init__(self, pair: Pair, name: str) -> None:
        self.pair = pair
        self.name = name
        self.ns = f"{pair.tag}{NODES[name]}"
        self.folder = pair.folder / name
        self.control = self.folder / "run" / "control"
        self.process: subprocess.Popen[bytes] | None = None
        #: a command that runs heartbeat's
        self.wrapper = ""
        self.manager = ScriptedManager(self.control)

    def configure(self, ha_cf: str = "", links: str = LINKS) -> None:
        etc = self.folder / "etc"
        etc.mkdir(parents=True)
        other = next(address for name, address in NODES.items() if name != self.name)
        lines = links.format(own=NODES[self.name], other=other)
        (etc / "ha.cf").write_text(f"logfacility local0\n{lines}auto_failback off\n{ha_cf}node vs-166\nnode vs-28\n")
        (etc / "haresources").write_text(f"vs-166 {VIP}\n")
        keys = etc / "authkeys"
        keys.write_text("auth 1\n1 sha256 a-secret-of-this-test\n")
        keys.chmod(0o600)

    def start(self) -> None:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        command = (
            f"hostname {self.name} && exec {self.wrapper}{sys.executable} -m heartbeat.daemon --foreground"
            f" --config-dir {self.folder}/etc --state-dir {self.folder}/state --run-dir {self.folder}/run"
            f" --manager-dir {self.folder}/manager"
        )
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.ns, "unshare", "--uts", "sh", "-c", command], stdout=log, stderr=log
        )
        log.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        with Client(self.control, 2.0) as client:
            return client.request(do, fields)

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(HaError):
            return self.ask("status")
        return {}

    def is_(self, **expected: Any) -> bool:
        status = self.status()
        return bool(status) and all(status.get(name) == value for name, value in expected.items())

    def has_vip(self) -> bool:
        return VIP in sh(f"ip -n {self.ns} -4 -o addr show")

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


class Pair:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = f"hb{os.getpid() % 100000}n"
        self.gateway = f"{self.tag}gw"
        self.nodes = {name: Node(self, name) for name in NODES}
        self.probe: subprocess.Popen[str] | None = None

    def up(self, ha_cf: str = "", links: str = LINKS) -> None:
        sh(f"ip netns add {self.gateway}")
        for bridge, mac, address, address6 in (
            ("br0", "02:00:00:00:00:01", "192.168.120.1/24", "fd00:120::1/64"),
            ("br1", "02:00:00:00:00:02", "10.77.0.1/24", "fd00:77::1/64"),
        ):
            # without a MAC of its own it takes that of a cable, and another one when that is removed: a new gateway
            sh(f"ip -n {self.gateway} link add {bridge} address {mac} type bridge && ip -n {self.gateway} link set {bridge} up")
            sh(f"ip -n {self.gateway} addr add {address} dev {bridge}")
            sh(f"ip -n {self.gateway} addr add {address6} dev {bridge} nodad")
        sh(f"ip -n {self.gateway} link set lo up")
        for name, node in self.nodes.items():
            sh(f"ip netns add {node.ns} && ip -n {node.ns} link set lo up")
            for number, network, network6 in ((0, "192.168.120", "fd00:120::"), (1, "10.77.0", "fd00:77::")):
                port = f"p{number}x{NODES[name]}"
                sh(f"ip -n {self.gateway} link add {port} type veth peer name eth{number} netns {node.ns}")
                sh(f"ip -n {self.gateway} link set {port} master br{number} up")
                sh(f"ip -n {node.ns} addr add {network}.{NODES[name]}/24 dev eth{number}")
                sh(f"ip -n {node.ns} addr add {network6}{NODES[name]}/64 dev eth{number} nodad")
                sh(f"ip -n {node.ns} link set eth{number} up")
            node.configure(ha_cf, links)
            node.manager.start()
        probe = [sys.executable, "-m", "tests.lab.two_heartbeats", VIP]
        self.probe = subprocess.Popen(["ip", "netns", "exec", self.gateway, *probe], stdout=subprocess.PIPE, text=True)

    def cut(self, name: str, link: int, up: bool = False) -> None:
        sh(f"ip -n {self.gateway} link set p{link}x{NODES[name]} {'up' if up else 'down'}")

    def cut_switches(self, links: tuple[int, ...], passive: Node) -> None:
        """All cables of these networks at once, or nearly: those of the passive first, so that the active doesn't hand over."""
        numbers = sorted(NODES.values(), key=lambda number: number != NODES[passive.name])
        lines = "\\n".join(f"link set p{link}x{number} down" for link in links for number in numbers)
        sh(f"printf '{lines}\\n' | ip -n {self.gateway} -batch -")

    def deafen(self, name: str, what: str) -> None:
        """One-way: this server hears no more of what ``what`` (an nftables match on what arrives) says."""
        table = f"table inet cut {{ chain c {{ type filter hook prerouting priority -400; {what} drop; }}; }}"
        sh(f"ip netns exec {self.nodes[name].ns} nft '{table}'")

    def heal(self) -> None:
        for name, node in self.nodes.items():
            for link in (0, 1):
                self.cut(name, link, up=True)
            subprocess.run(["ip", "netns", "exec", node.ns, "nft", "delete table inet cut"], capture_output=True)

    def outage(self) -> float:
        """The longest time in which the VIP did not answer the gateway, in seconds; ends the probe."""
        assert self.probe is not None and self.probe.stdout is not None
        self.probe.terminate()
        times = [float(line) for line in self.probe.stdout]
        self.probe.wait()
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def active(self) -> Node | None:
        found = [node for node in self.nodes.values() if node.is_(role="active", phase="active")]
        assert len(found) < 2, "two actives"
        return found[0] if found else None

    def settle(self) -> tuple[Node, Node]:
        """Start what isn't running and wait until one is active and the other could take over: (active, passive)."""
        for node in self.nodes.values():
            if node.process is None or node.process.poll() is not None:
                node.start()
        wait_for("one active, the other fit", self._settled, 15.0)
        active = self.active()
        assert active is not None
        return active, next(node for node in self.nodes.values() if node is not active)

    def _settled(self) -> bool:
        active = self.active()
        if active is None or not active.status().get("peer_state", {}).get("fit"):
            return False  # also the active must have heard that the other one is fit
        return any(node.is_(role="passive", fit=True, in_sync=True) for node in self.nodes.values())

    def down(self) -> None:
        for node in self.nodes.values():
            node.manager.stopping = True
            if node.process is not None and node.process.poll() is None:
                node.kill()
        if self.probe is not None and self.probe.poll() is None:
            self.probe.kill()
            self.probe.wait()
        for ns in [self.gateway, *(node.ns for node in self.nodes.values())]:
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)


@contextlib.contextmanager
def two_heartbeats(ha_cf: str = "", links: str = LINKS) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="two-heartbeats-") as folder:
        pair = Pair(Path(folder))
        try:
            pair.up(ha_cf, links)
            yield pair
        except BaseException:
            for node in pair.nodes.values():
                with contextlib.suppress(OSError):
                    print(f"--- {node.name}\n{node.log()}", file=sys.stderr)
            raise
        finally:
            pair.down()


def main() -> None:
    """The probe: ping the address every 5 ms, print the time (CLOCK_BOOTTIME) of each answer."""
    pinger = Pinger([sys.argv[1]])
    seq = 0
    while True:
        seq += 1
        pinger.send(seq)
        time.sleep(0.005)
        if pinger.receive():
            print(f"{boottime():.4f}", flush=True)


if __name__ == "__main__":
    main()
