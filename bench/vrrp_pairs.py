"""Two directors and a client as network namespaces of this machine: two of ours, and two of keepalived as Debian packages it.

Promise: both kinds hold the same virtual address with the same priorities, version and interval, on wires made in the same way;
nothing of this machine's own network is touched, and everything is gone after ``down``. A power cut takes the cable first, so
that nothing of a dying machine gets out. The client pings the virtual address every millisecond and notes when each answer
came. Source: issue "director" ("Held to"); facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.debian import copy, root
from bench.namespace_pair import NamespacePair
from bench.wires import sh
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import HaError

VIP = "10.10.74.74"
CLIENT = "10.10.74.50"
#: name of a node → its address and priority: the reference's two directors
NODES = {"jupiter": ("10.10.74.70", 99), "nibiru": ("10.10.74.86", 89)}
PERIOD = 0.001
_REDIRECT = '<port_redirect protocol="http" ports="9090" to="9090"/>'


@dataclass(frozen=True)
class Pace:
    """``name`` as in the figures."""

    name: str
    version: int
    seconds: float


PACES = {pace.name: pace for pace in (Pace("100ms", 3, 0.1), Pace("1s", 2, 1.0))}


def other(node: str) -> str:
    return next(name for name in NODES if name != node)


class Directors(NamespacePair):
    """Two nodes of one kind."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(tuple(NODES), "directors-")
        self.pace = pace
        self._tag = f"{self.kind[:2]}{pace.name[:2]}{os.getpid()}"
        self._probe: subprocess.Popen[bytes] | None = None

    # --- wires

    def space(self, node: str) -> str:
        return f"{self._tag}-{node}"

    def lay_wires(self) -> None:
        sh(f"ip netns add {self.space('sw')}")
        self._batch("sw", ["link set lo up", "link add sw0 address 02:00:00:00:00:01 type bridge", "link set sw0 up"])
        for node, (address, _) in {"client": (CLIENT, 0), **NODES}.items():
            self._plug(node, address)
        with (self.folder / "answers").open("wb") as record:
            probe = ["ip", "netns", "exec", self.space("client"), sys.executable, "-m", "bench.wires", VIP, str(PERIOD)]
            self._probe = subprocess.Popen(probe, stdout=record)

    def take_wires_down(self) -> None:
        if self._probe is not None:
            self._probe.kill()
            self._probe.wait()
        for node in ("sw", "client", *NODES):
            subprocess.run(["ip", "netns", "del", self.space(node)], capture_output=True)

    def _plug(self, node: str, address: str) -> None:
        sh(f"ip netns add {self.space(node)}")
        self._batch(
            "sw", [f"link add {node} type veth peer name eth0 netns {self.space(node)}", f"link set {node} master sw0 up"]
        )
        self._batch(node, ["link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"])

    def _batch(self, node: str, lines: list[str]) -> None:
        done = subprocess.run(
            ["ip", "-n", self.space(node), "-batch", "-"], input="\n".join(lines), text=True, capture_output=True
        )
        if done.returncode != 0:
            raise HaError(f"ip in {self.space(node)}: {done.stderr.strip()}")

    def power_cut(self, node: str) -> float:
        """CLOCK_BOOTTIME from just after the cable was gone; on a busy machine that takes a while, and it answers meanwhile."""
        self._batch("sw", [f"link set {node} down"])
        at = boottime()
        self._end(node)
        self._batch("sw", [f"link del {node}"])
        sh(f"ip netns del {self.space(node)}")
        return at

    def power_on(self, node: str) -> None:
        self._plug(node, NODES[node][0])
        self.start(node)

    # --- what is seen

    def holders(self) -> list[str]:
        spaces = [node for node in NODES if Path("/run/netns", self.space(node)).exists()]
        return [node for node in spaces if f" {VIP}/" in sh(f"ip -n {self.space(node)} -4 -o addr show")]

    def settle(self) -> str:
        """Wait until the first of them alone holds the address, and both are steady; its name."""
        first = next(iter(NODES))
        self.until(lambda: self.holders() == [first], 30.0, f"{first} to hold the address")
        time.sleep(4 * self.pace.seconds + 0.5)
        return first

    def answers(self) -> list[float]:
        return [float(line) for line in (self.folder / "answers").read_text().split("\n")[:-1]]

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds without an answer, from the last one before ``since`` on."""
        return max((b - a for a, b in pairwise(self.answers()) if b > since and a < until), default=until - since)

    def await_answers(self, since: float) -> None:
        """Until the address has answered for some time after ``since``, from another node."""
        self.until(lambda: sum(at > since for at in self.answers()[-40:]) >= 40, 30.0, "the address to answer")

    # --- processes

    def pids(self, node: str) -> list[int]:
        """Of the node, all of them."""
        group = self.processes[node].pid
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == group:
                    found.append(pid)
        return found

    def clean_stop(self, node: str) -> None:
        process = self.processes.pop(node)
        self.terminate(node, process)
        process.wait(30.0)

    @abstractmethod
    def terminate(self, node: str, process: subprocess.Popen[bytes]) -> None:
        """Ask for a clean stop."""


class Ours(Directors):
    kind = "ours"

    def __init__(self, pace: Pace, serving: bool = False) -> None:
        """``serving``: with a port redirect, whose proxy each node has and checks."""
        super().__init__(pace)
        self._serving = serving
        self._proxies: dict[str, subprocess.Popen[bytes]] = {}

    def configure(self, node: str) -> None:
        address, priority = NODES[node]
        key = self.folder / "lb.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(secrets.token_hex(32) + "\n")
        (self.folder / node / "module.xml").write_text(
            f'<module><init><director priority="{priority}" management_ip="{address}"/>'
            f'<vrrp version="{self.pace.version}" advert="{self.pace.seconds:g}"/><virtual_ip ip="{VIP}/24"/>'
            f"{_REDIRECT if self._serving else ''}"
            f'<load_balancing key_file="{key}"/></init></module>\n'
        )

    def start(self, node: str) -> None:
        folder = self.folder / node
        command = (
            f"hostname {node} && exec {sys.executable} -m director.daemon --foreground --config {folder}/module.xml"
            f" --run-dir {folder}/run"
        )
        if self._serving:
            proxy = [sys.executable, "-m", "bench.scanning_node", node, "9090"]
            self._proxies[node] = subprocess.Popen(["ip", "netns", "exec", self.space(node), *proxy], stdout=subprocess.DEVNULL)
        self._spawn(node, "unshare", "--uts", "sh", "-c", command)

    def terminate(self, node: str, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)

    def _end(self, node: str) -> None:
        super()._end(node)
        if (proxy := self._proxies.pop(node, None)) is not None:
            proxy.kill()
            proxy.wait()

    def settle(self) -> str:
        """Steady is also that the master has named its successor, some heartbeats after it was started."""
        first = super().settle()
        self.until(lambda: self._router(other(first))["designated"], 10.0, "a successor to be designated")
        if self._serving:
            self.until(lambda: self._shared_out(first), 30.0, "both to have as many buckets")
        return first

    def _shared_out(self, node: str) -> bool:
        services = self._status(node)["cluster"]["services"]
        return all(len({count for _, count in each["buckets"]}) == 1 < len(each["buckets"]) for each in services)

    def changes(self) -> int:
        """Of state, of both nodes, since they were started."""
        return sum(self._router(node)["changes"] for node in NODES)

    def _router(self, node: str) -> dict[str, Any]:
        router: dict[str, Any] = self._status(node)["routers"][0]
        return router

    def _status(self, node: str) -> dict[str, Any]:
        with Client(self.folder / node / "run" / "control", 10.0) as client:
            return client.request("status")


class Keepalived(Directors):
    """``layer``: where Debian's package is installed (``debian.provide``)."""

    kind = "keepalived"

    def __init__(self, pace: Pace, layer: Path) -> None:
        super().__init__(pace)
        self._layer = layer

    def configure(self, node: str) -> None:
        copy(self._layer, self.folder / node)
        etc = self.folder / node / "disk" / "etc" / "keepalived"
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "keepalived.conf").write_text(
            f"global_defs {{\n vrrp_version {self.pace.version}\n}}\n"
            f"vrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {NODES[node][1]}\n"
            f" advert_int {self.pace.seconds:g}\n virtual_ipaddress {{\n  {VIP}/24 dev eth0\n }}\n}}\n"
        )

    def start(self, node: str) -> None:
        folder = self.folder / node
        command = f"{root(folder)} && exec chroot {folder}/root keepalived --vrrp --dont-fork --log-console"
        self._spawn(node, "unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", command)

    def terminate(self, node: str, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
