"""Virtual addresses that answer with the virtual router's own MAC, 00:00:5e:00:01:VRID (IPv6: 00:00:5e:00:02:VRID).

Promise: a macvlan beside each interface that has virtual addresses, there as long as the director takes part, up only while it
is master, gone with it; the interface itself doesn't answer ARP for addresses that the macvlan has. Making one takes
milliseconds and happens at the start only, or when the interface itself is new; up and down are one system call. Source:
RFC 3768 §7.3, RFC 5798 §7.3; keepalived's use_vmac.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterable

from director.sysctls import KEPT, Sysctls
from runtime.address import NetworkError
from runtime.commands import run
from runtime.errors import CommandFailed

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_UP = 0x1
_LIMIT = 5.0
_KEPT = KEPT.with_name("settings-virtual-mac")


def mac_of(vrid: int, family: int) -> str:
    return f"00:00:5e:00:0{1 if family == 4 else 2}:{vrid:02x}"


class VirtualMac:
    """Of one virtual router. ``devices``: the configured interfaces → what the addresses go on."""

    def __init__(self, interfaces: Iterable[str], vrid: int, family: int) -> None:
        self._family = family
        self._mac = mac_of(vrid, family)
        stem = f"vrrp{'' if family == 4 else 6}.{vrid}"
        names = dict.fromkeys(interfaces)
        self.devices = {interface: stem + (f".{number}" if number else "") for number, interface in enumerate(names)}
        self._settings = Sysctls(_KEPT if family == 4 else None)

    def make(self) -> None:
        """Those that are missing. Raises NetworkError."""
        there = {name for _, name in socket.if_nameindex()}
        for interface, device in self.devices.items():
            if device in there:
                continue
            words = f"ip link add link {interface} name {device} address {self._mac} type macvlan mode bridge"
            try:
                run(words.split(), timeout=_LIMIT)
                run(f"ip link set dev {device} addrgenmode none".split(), timeout=_LIMIT)
            except CommandFailed as failed:
                raise NetworkError(f"no virtual MAC on {interface}: {failed}") from failed
            wanted = {f"{device}/arp_ignore": "1"}  # nor does the one for IPv6 answer ARP for the other's addresses
            if self._family == 4:
                wanted |= {
                    f"{interface}/arp_ignore": "1",
                    f"{interface}/arp_announce": "2",  # its own questions don't speak for the addresses
                    f"{device}/rp_filter": "2",  # clients are routed through the interface itself
                }
            self._settings.ensure({f"net/ipv4/conf/{name}": value for name, value in wanted.items()})

    def up(self, on: bool) -> None:
        for device in self.devices.values():
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                request = struct.pack("16sh14x", device.encode(), 0)
                flags = struct.unpack_from("h", fcntl.ioctl(s, _SIOCGIFFLAGS, request), 16)[0]
                flags = flags | _UP if on else flags & ~_UP
                fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sh14x", device.encode(), flags))

    def remove(self) -> None:
        for device in self.devices.values():
            run(["ip", "link", "del", device], timeout=_LIMIT, check=False)
        self._settings.restore()
