"""The switch of a lab: bridges, cables, and what goes wrong with them.

Promise: bridges and the switch's ends of all cables live in the anchor's network namespace; faults are one nftables table
there, replaced as a whole, so that several links fail in the same instant. A *cut* link keeps its carrier (a switch died
somewhere in between), an *unplugged* one loses it. Only frames that cross the bridge are touched. Source: design §2; nft(8),
ip-link(8).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime import commands

from .namespace import Namespace
from .store import Faults
from .topology import Machine, Topology

_LIMIT = 20.0


def be_a_plain_switch() -> None:
    """The network namespace of the calling thread: its bridges pass frames on and look no deeper. Where the kernel has
    br_netfilter (a container host's), each frame would go through the chains and the connection tracking of a router.
    """
    for each in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        each.write_text("0\n")


def switch_up(anchor: int, topology: Topology) -> None:
    lines = ["link set lo up"]
    for bridge in topology.bridges:
        lines += [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {bridge} up",
        ]
    with Namespace(anchor) as switch:
        be_a_plain_switch()
    switch.close()
    _ip(anchor, lines)


def plug_in(anchor: int, machines: Sequence[tuple[Machine, int]]) -> None:
    """Cables between the switch and each machine (given with its process 1), then the machine's own addresses."""
    lines = []
    for machine, pid in machines:
        for card in machine.interfaces:
            port = machine.port(card)
            lines += [
                f"link add {port} index {_index()} type veth peer name {card.name} address {card.mac} netns {pid}",
                f"link set {port} master {card.bridge} up",
            ]
    _ip(anchor, lines)
    for machine, pid in machines:
        lines = ["link set lo up"]
        for card in machine.interfaces:
            lines += [f"addr add {card.address} brd + dev {card.name}", f"link set {card.name} up"]
        if machine.gateway:
            lines.append(f"route add default via {machine.gateway}")
        _ip(pid, lines)


def pull_out(anchor: int, ports: Iterable[str]) -> None:
    """Remove cables, both ends; those that are gone already don't matter."""
    _ip(anchor, [f"link del {port}" for port in ports], force=True)


def carriers(anchor: int, ports: Iterable[str], up: bool) -> None:
    _ip(anchor, [f"link set {port} {'up' if up else 'down'}" for port in ports], force=True)


def apply(anchor: int, faults: Faults) -> None:
    """Make the switch lose exactly what ``faults`` says, in one transaction."""
    _enter(anchor, ["nft", "-f", "-"], ruleset(faults))


def ruleset(faults: Faults) -> str:
    rules = []
    flows = dict(faults.lost)
    for port in faults.dark:
        flows |= {(port, ""): 100.0, ("", port): 100.0}
    for (sender, receiver), percent in sorted(flows.items()):
        words = [f'iifname "{sender}"'] if sender else []
        words += [f'oifname "{receiver}"'] if receiver else []
        words += [f"numgen random mod 10000 < {round(percent * 100)}"] if percent < 100 else []
        rules.append(" ".join([*words, "drop"]))
    chain = "\n    ".join(["type filter hook forward priority 0; policy accept;", *rules])
    return f"table bridge faults\ndelete table bridge faults\ntable bridge faults {{\n  chain lost {{\n    {chain}\n  }}\n}}\n"


def _index() -> int:
    """An index that no machine's end has: where both ends have the same one, the kernel acts on the carrier up to a second
    later (``linkwatch_urgent_event``), and the fresh cable loses everything until then.
    """
    return random.randrange(1 << 10, 1 << 30)


def _ip(pid: int, lines: list[str], force: bool = False) -> None:
    if lines:
        _enter(pid, ["ip", *(["-force"] if force else []), "-batch", "-"], "\n".join(lines) + "\n", check=not force)


def _enter(pid: int, argv: list[str], text: str, check: bool = True) -> None:
    commands.run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv], input=text, timeout=_LIMIT, check=check)
