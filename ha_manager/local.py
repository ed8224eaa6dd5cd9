"""Facts of this machine that configuration is checked against: its addresses, heartbeat's role file.

Promise: reads only, in a few milliseconds (``ha`` and a restarting ha_manager can't afford pyroute2's import). Source:
docs/protocols.md ("Role file").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from ha_manager.config import Interface
from ha_manager.orders import Epoch, Phase
from runtime.commands import run
from runtime.errors import HaError


def addresses() -> list[Interface]:
    """Every address of this server, with its network; those of loopback left out."""
    return [address for _, address in interfaces()]


def interfaces() -> list[tuple[str, Interface]]:
    """(interface, address with its network) of everything but loopback and link-local addresses."""
    out = run(["ip", "-j", "address", "show"], timeout=5.0).stdout
    found: list[tuple[str, Interface]] = []
    try:
        for link in json.loads(out):
            if "LOOPBACK" in link.get("flags", ()):
                continue
            for each in link.get("addr_info", ()):
                if "local" in each and each.get("scope") != "link":
                    found.append((str(link["ifname"]), ip_interface(f"{each['local']}/{each['prefixlen']}")))
    except (ValueError, KeyError, TypeError) as wrong:
        raise HaError(f"`ip -j address show` said something unexpected: {wrong}") from wrong
    return found


def interface_of(address: str) -> str:
    """The interface that has ``address``. Raises HaError if none has."""
    for name, each in interfaces():
        if str(each.ip) == address:
            return name
    raise HaError(f"no interface of this server has the address {address}")


@dataclass(frozen=True)
class RoleLine:
    """heartbeat's word on this server's role; ``expires`` in seconds of CLOCK_BOOTTIME."""

    role: str
    epoch: Epoch
    expires: float
    phase: Phase
    vip: bool
    solo: bool


def role_line(folder: Path) -> RoleLine | None:
    """The role file, expired or not; None if there is none that can be understood."""
    try:
        role, number, node, expires, phase, vip, solo = (folder / "role").read_text().split()
        return RoleLine(role, Epoch(int(number), node.removeprefix("-")), float(expires), Phase(phase), vip == "1", solo == "1")
    except (OSError, ValueError):
        return None
