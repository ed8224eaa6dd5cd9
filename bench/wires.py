"""Two servers and a gateway as network namespaces of this machine, for pairs that have nothing but a virtual address.

Promise: nothing of this machine's own network is touched, and everything is gone after ``down``. A power cut takes both cables
first, so that nothing of a dying machine gets out (a FIN or an ARP answer would flatter every figure). The gateway is the ping
node; it pings the virtual address every 5 ms and notes when each answer came. Source: design §2; facts/linux-ha-heartbeat.md.
"""

from __future__ import annotations

import select
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from heartbeat.ping import Pinger
from runtime.clock import boottime
from runtime.errors import HaError
from runtime.priority import hurry

VIP, GATEWAY = "192.168.120.187", "192.168.120.1"
NODES = {"vs-166": 166, "vs-28": 28}
#: (interface of a server, network, its bridge in the gateway)
NETWORKS = (("eth0", "192.168.120", "br0"), ("eth1", "10.120.0", "br1"))
PERIOD = 0.005


def other(node: str) -> str:
    return next(name for name in NODES if name != node)


def sh(command: str) -> str:
    """Raises HaError with what the command said."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        raise HaError(f"{command}: {done.stderr.strip()}")
    return done.stdout


class Wires:
    """``tag``: a short name for the namespaces, unlike that of any other pair."""

    def __init__(self, tag: str, folder: Path) -> None:
        self._tag = tag
        self.gateway = f"{tag}-gw"
        self._record = folder / "answers"
        self._probe: subprocess.Popen[bytes] | None = None

    def space(self, node: str) -> str:
        return f"{self._tag}-{NODES[node]}"

    def up(self) -> None:
        lines = []
        for number, (_, network, bridge) in enumerate(NETWORKS):
            # a bridge without a MAC of its own takes that of a cable, and another one when the cable goes: a new gateway
            lines += [f"link add {bridge} address 02:00:00:00:00:0{number} type bridge", f"link set {bridge} up"]
            lines += [f"addr add {network}.1/24 dev {bridge}"]
        sh(f"ip netns add {self.gateway}")
        self._batch(self.gateway, ["link set lo up", *lines])
        for node in NODES:
            self.plug(node)
        with self._record.open("wb") as record:
            probe = ["ip", "netns", "exec", self.gateway, sys.executable, "-m", "bench.wires", VIP]
            self._probe = subprocess.Popen(probe, stdout=record)

    def down(self) -> None:
        if self._probe is not None:
            self._probe.kill()
            self._probe.wait()
        for space in (self.gateway, *map(self.space, NODES)):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def plug(self, node: str) -> None:
        """A machine as it is after power-on: its cables, its own addresses, no virtual one."""
        space, number = self.space(node), NODES[node]
        sh(f"ip netns add {space}")
        gateway, machine = [], ["link set lo up"]
        for card, network, bridge in NETWORKS:
            gateway.append(f"link add {card}.{number} type veth peer name {card} netns {space}")
            gateway.append(f"link set {card}.{number} master {bridge} up")
            machine += [f"addr add {network}.{number}/24 dev {card}", f"link set {card} up"]
        self._batch(self.gateway, gateway)
        self._batch(space, machine)

    def cut(self, node: str) -> float:
        """Both cables at once; CLOCK_BOOTTIME from just before."""
        at = boottime()
        self._batch(self.gateway, [f"link set {card}.{NODES[node]} down" for card, _, _ in NETWORKS])
        return at

    def unplug(self, node: str) -> None:
        """What the machine had in memory is gone, addresses too; the cables now, not whenever the kernel cleans up."""
        self._batch(self.gateway, [f"link del {card}.{NODES[node]}" for card, _, _ in NETWORKS])
        sh(f"ip netns del {self.space(node)}")

    def part(self, parted: bool) -> float:
        """The two lose each other on all networks and keep the gateway; or find each other again."""
        at = boottime()
        for card, _, _ in NETWORKS:
            for number in NODES.values():
                sh(f"bridge -n {self.gateway} link set dev {card}.{number} isolated {'on' if parted else 'off'}")
        return at

    def holders(self) -> list[str]:
        """Who has the virtual address on an interface."""
        return [node for node in NODES if f" {VIP}/" in sh(f"ip -n {self.space(node)} -4 -o addr show")]

    # --- what the gateway saw ----------------------------------------------------------------------------------------------

    def answers(self) -> list[float]:
        """CLOCK_BOOTTIME of every answer of the virtual address so far."""
        return [float(line) for line in self._record.read_text().split("\n")[:-1]]

    def answered_since(self, at: float) -> float | None:
        return next((answer for answer in self.answers() if answer > at), None)

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds without an answer, from the last one before ``since`` on."""
        times = self.answers()
        return max((b - a for a, b in pairwise(times) if b > since and a < until), default=until - since)

    @staticmethod
    def _batch(space: str, lines: list[str]) -> None:
        done = subprocess.run(["ip", "-n", space, "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
        if done.returncode != 0:
            raise HaError(f"ip in {space}: {done.stderr.strip()}")


def main() -> None:
    """The probe: an echo request every so many seconds, the time of each answer on a line. It is not to be late itself."""
    hurry()
    pinger = Pinger([sys.argv[1]])
    period = float(sys.argv[2]) if len(sys.argv) > 2 else PERIOD
    seq, due = 0, boottime()
    while True:
        left = due - boottime()
        if left <= 0:
            seq, due = seq + 1, max(due + period, boottime())
            pinger.send(seq)
        elif select.select([pinger], [], [], left)[0] and pinger.receive():
            print(f"{boottime():.4f}", flush=True)


if __name__ == "__main__":
    main()
