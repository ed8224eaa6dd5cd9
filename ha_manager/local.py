"""Facts of this machine that configuration is checked against: its addresses, heartbeat's role file.

Promise: reads only, and waits for nothing but the kernel: ha_manager's main loop asks at SIGHUP, and owes heartbeat its word
meanwhile (a program that it ran would have to wait its turn on a busy server). Source: docs/protocols.md ("Role file").
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from ha_manager.config import Interface
from ha_manager.orders import Epoch, Phase
from runtime.errors import HaError
from runtime.rtnetlink import AddressSocket

_LOOPBACK = "lo"


def addresses() -> list[Interface]:
    """Every address of this server, with its network; those of loopback left out."""
    return [address for _, address in interfaces()]


def interfaces() -> list[tuple[str, Interface]]:
    """(interface, address with its network) of everything but loopback and link-local addresses."""
    try:
        with closing(AddressSocket()) as kernel:
            found = kernel.addresses()
    except OSError as wrong:
        raise HaError(f"the kernel doesn't tell this server's addresses: {wrong.strerror}") from wrong
    named = [(each.interface, ip_interface(f"{each.address}/{each.prefix}")) for each in found]
    return [(name, each) for name, each in named if name != _LOOPBACK and not each.ip.is_link_local]


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
