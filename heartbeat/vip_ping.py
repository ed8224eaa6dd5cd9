"""Asking the ping node's ARP table: echo requests from the virtual address to a ping node on its network.

Promise: no packet that this server's kernel sends on its own account names the virtual address as its sender (``arp_announce``
2 on the interface, put back at the end), so that asking never changes the answer. Whatever stands against the check here is
told by ``unusable`` before the first question. ``send`` and ``answers`` never wait. Source: facts/safety-model.md, "The
gateway's ARP table"; Documentation/networking/ip-sysctl.rst of the kernel, ``arp_announce``.

The entry for the ping node in this server's own table stays the kernel's business: with arp_announce 2 its requests name the
interface's own address. A permanent entry would outlive a gateway that was replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Protocol

from heartbeat.model import ArpAnswer
from runtime.address import Assigned

_AVOID = 2


class Pinger(Protocol):
    """``ping.Pinger`` with the virtual address as its source."""

    errors: dict[str, str]

    def send(self, seq: int) -> int: ...
    def receive(self) -> Iterable[tuple[str, int]]: ...


def ping_node(vip: str, device: str, nodes: Iterable[str], assigned: Sequence[Assigned]) -> str:
    """The first of ``nodes`` that is on the network of ``vip``, as only its ARP table tells where that is; "" if none is."""
    if ":" in vip:
        return ""
    networks = [
        IPv4Interface(f"{each.address}/{each.prefix}").network
        for each in assigned
        if each.interface == device and each.prefix < 32
    ]
    networks = [network for network in networks if IPv4Address(vip) in network]
    there = (node for node in nodes if ":" not in node and any(IPv4Address(node) in network for network in networks))
    return next(there, "")


class Announce:
    """``arp_announce`` of one interface: 2 while heartbeat runs."""

    def __init__(self, device: str, root: str = "/proc/sys/net/ipv4/conf") -> None:
        self._file = Path(root) / device / "arp_announce"
        self._before = ""

    def set(self) -> str:
        """Why it can't be set; "" if it is."""
        try:
            before = self._file.read_text().strip()
            if before != str(_AVOID):
                self._file.write_text(f"{_AVOID}\n")
                self._before = before
        except OSError as error:
            return f"{self._file}: {error.strerror}"
        return ""

    def restore(self) -> None:
        """As it was, unless somebody else has changed it since."""
        try:
            if self._before and self._file.read_text().strip() == str(_AVOID):
                self._file.write_text(self._before + "\n")
        except OSError:
            pass  # the interface is gone, and its setting with it
        self._before = ""


class VipPing:
    """``unusable``: why the ping node's table can't be asked from here; "" if it can."""

    def __init__(self, pinger: Pinger | None, announce: Announce | None, unusable: str = "") -> None:
        self._pinger = pinger
        self._announce = announce
        self.unusable = unusable or (announce.set() if announce else "")

    def send(self, seq: int) -> None:
        if self._pinger is not None and not self.unusable:
            self._pinger.send(seq)

    def answers(self) -> list[ArpAnswer]:
        return [] if self._pinger is None else [ArpAnswer(seq) for _, seq in self._pinger.receive()]

    def close(self) -> None:
        if self._announce is not None:
            self._announce.restore()
