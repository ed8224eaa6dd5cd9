"""Virtual addresses on the interfaces of this server.

Promise: what is added here carries a lifetime in the kernel (whole seconds: the second line of the lease, ``runtime.lease``
being the first), so it goes by itself when nobody refreshes it. A virtual address is added as /32 and without a prefix
route: it is never chosen as the source of other traffic, adds no route, and doesn't vanish with the interface's primary
address, so the routing of the node is as before. Source: design §4 rule 5; facts/safety-model.md ("Checked on the kernel").

No call waits for anything but the kernel (0.3 ms each); importing pyroute2 takes 0.1 s, so a process with a loop calls
``Netlink()`` before the loop starts, or uses ``runtime.rtnetlink``. ``Netlink`` is for IPv4 only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network, ip_address, ip_interface
from math import ceil
from types import TracebackType
from typing import Any

from runtime.errors import ConfigError, HaError

_IFA_F_NOPREFIXROUTE = 0x200
_SIOCGIFHWADDR = 0x8927
_FOREVER = 0xFFFFFFFF


class NetworkError(HaError):
    """The kernel refused a change of addresses, or an interface is gone."""


@dataclass(frozen=True)
class Assigned:
    """One address of one interface. ``lifetime``: seconds that are left (whole), None: for ever. ``usable``: False while an
    IPv6 address is tentative, or for good if it was found a duplicate: nothing can be sent from it.
    """

    interface: str
    address: str
    prefix: int
    lifetime: int | None = None
    usable: bool = True

    def __str__(self) -> str:
        return f"{self.interface} {self.address}/{self.prefix}"

    @property
    def is_host(self) -> bool:
        """It stands for one host, not for a network: so are virtual addresses."""
        return self.prefix == (128 if ":" in self.address else 32)


def ipv4(text: str, what: str = "address") -> str:
    """``text`` if it is an IPv4 address; ConfigError naming ``what`` otherwise."""
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ConfigError(f"{what} {text!r} is no IPv4 address", remedy="write it as in 192.168.120.187") from None


def ip(text: str, what: str = "address") -> str:
    """``text`` as the kernel writes it, if it is an IPv4 or IPv6 address; ConfigError naming ``what`` otherwise."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigError(
            f"{what} {text!r} is no IP address", remedy="write it as in 192.168.120.187 or fd00:120::187"
        ) from None


def mac(interface: str) -> bytes:
    """The interface's hardware address now (a bond changes it); NetworkError if the interface is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            return fcntl.ioctl(s, _SIOCGIFHWADDR, struct.pack("256s", interface.encode()[:15]))[18:24]
        except OSError as e:
            raise NetworkError(f"interface {interface}: {e.strerror}") from e


def choose(address: str, assigned: Iterable[Assigned]) -> str:
    """The interface whose network contains ``address``: longest prefix first; host routes (/32, /128) don't count.

    ConfigError names the networks there are, and what to do, when none or more than one would do.
    """
    wanted = ip_address(ip(address, "virtual address"))
    there = [a for a in assigned if _is_network(a, wanted.version)]
    fitting = [a for a in there if wanted in _network(a)]
    if not fitting:
        raise ConfigError(
            f"virtual address {address} is in no network of this server: {', '.join(map(str, there)) or 'it has none'}",
            remedy="give an address of the network that clients reach this server through",
        )
    longest = max(a.prefix for a in fitting)
    best = sorted({a.interface for a in fitting if a.prefix == longest})
    network = next(_network(a) for a in fitting if a.prefix == longest)
    if len(best) > 1:
        raise ConfigError(
            f"virtual address {address} is in the networks of {' and '.join(best)}",
            remedy="name the interface beside the address",
        )
    if wanted.version == 4 and longest < 31 and wanted in (network.network_address, network.broadcast_address):
        raise ConfigError(
            f"virtual address {address} is the network or broadcast address of {network}", remedy="give a host's address"
        )
    return best[0]


def _is_network(assigned: Assigned, version: int) -> bool:
    """Whether the address stands for a network of that family, rather than for one host or this one alone."""
    own = ip_address(assigned.address)
    return own.version == version and assigned.prefix < own.max_prefixlen and not own.is_loopback


def _network(assigned: Assigned) -> IPv4Network | IPv6Network:
    return ip_interface(f"{assigned.address}/{assigned.prefix}").network


class Netlink:
    """One rtnetlink socket of this process and namespace."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute  # 0.1 s: only who changes addresses pays for it

        self._route = IPRoute()

    def close(self) -> None:
        self._route.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, address: str, interface: str, *, lifetime: float | None = None, prefix: int = 32) -> None:
        """Add ``address``, or refresh it if it is there; it goes by itself after ``lifetime`` seconds (rounded up)."""
        seconds = _FOREVER if lifetime is None else max(1, ceil(lifetime))
        self._change(
            "replace", address, interface, prefix, valid_lft=seconds, preferred_lft=seconds, flags=_IFA_F_NOPREFIXROUTE
        )

    def remove(self, address: str, interface: str | None = None) -> bool:
        """Remove ``address`` from ``interface`` (from all, if None), whatever its prefix; False if it wasn't there."""
        found = [a for a in self.addresses(interface) if a.address == address]
        return sum(self._change("delete", a.address, a.interface, a.prefix, absent_is_fine=True) for a in found) > 0

    def holder(self, address: str) -> str | None:
        """The interface that has ``address``, if one has."""
        return next((a.interface for a in self.addresses() if a.address == address), None)

    def addresses(self, interface: str | None = None) -> list[Assigned]:
        """All IPv4 addresses, or those of one interface (none if it doesn't exist)."""
        names = {index: name for index, name in socket.if_nameindex() if interface in (None, name)}
        return [_assigned(m, names[m["index"]]) for m in self._route.get_addr(family=socket.AF_INET) if m["index"] in names]

    def interface_for(self, address: str) -> str:
        """The interface whose network contains ``address``; see ``choose``."""
        return choose(address, [a for a in self.addresses() if a.address != address])

    def _change(
        self, verb: str, address: str, interface: str, prefix: int, *, absent_is_fine: bool = False, **more: int
    ) -> bool:
        try:
            index = socket.if_nametoindex(interface)
            self._route.addr(verb, index=index, address=address, prefixlen=prefix, **more)
        except Exception as e:
            code = _errno_of(e)
            if code is None:
                raise
            if absent_is_fine and code[0] in _ABSENT:
                return False
            raise NetworkError(f"cannot {verb} {address}/{prefix} on {interface}: {code[1]}") from e
        return True


_ABSENT = (19, 99)  # ENODEV, EADDRNOTAVAIL


def _errno_of(error: Exception) -> tuple[int, str] | None:
    """Number and words of what the kernel said; pyroute2's NetlinkError isn't an OSError."""
    if isinstance(error, OSError):
        return error.errno or 0, error.strerror or str(error)
    code = getattr(error, "code", None)
    return (code, str(error.args[1] if len(error.args) > 1 else error)) if isinstance(code, int) else None


def _assigned(message: Any, interface: str) -> Assigned:
    attributes = dict(message["attrs"])
    valid = attributes.get("IFA_CACHEINFO", {}).get("ifa_valid", _FOREVER)
    address = attributes.get("IFA_LOCAL") or attributes["IFA_ADDRESS"]
    return Assigned(interface, address, message["prefixlen"], None if valid == _FOREVER else valid)
