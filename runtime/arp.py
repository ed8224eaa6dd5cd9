"""Gratuitous ARP and unsolicited neighbour advertisements: telling the segment where an address lives now.

Promise: IPv4: two broadcasts, an ARP request whose sender and target are the address (RFC 5227 §1.2, "announcement") and the
reply of the same content, since there are devices that learn from one form only. IPv6: one neighbour advertisement to all
nodes with the override flag (RFC 4861 §7.2.6). Straight through AF_PACKET, so that neither routes nor the neighbour table are
involved; ``announce`` never waits (a full queue is an error that comes back). Packets sent here pass by the lease's nftables
rules: who announces has refreshed the lease first. Repeats are the caller's: a burst guards against one lost frame, repeats
against a switch port that still learns.
"""

from __future__ import annotations

import socket
import struct

from runtime.address import NetworkError

_ETHERTYPE_ARP, _ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0806, 0x0800, 0x86DD
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * 6
_MINIMUM = 60
_ICMPV6, _ADVERTISEMENT, _OVERRIDE, _TARGET_MAC = 58, 136, 0x20000000, 2
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")


def gratuitous(mac: bytes, address: str, operation: int = _REQUEST) -> bytes:
    """The Ethernet frame that says: IPv4 ``address`` is at ``mac``. A reply's target is ``mac`` too."""
    ip = socket.inet_aton(address)
    target = mac if operation == _REPLY else bytes(6)
    arp = struct.pack("!HHBBH6s4s6s4s", 1, _ETHERTYPE_IPV4, 6, 4, operation, mac, ip, target, ip)
    return (_BROADCAST + mac + struct.pack("!H", _ETHERTYPE_ARP) + arp).ljust(_MINIMUM, b"\0")


def advertisement(mac: bytes, address: str) -> bytes:
    """The Ethernet frame that says: IPv6 ``address`` is at ``mac``, whatever you thought."""
    ip = socket.inet_pton(socket.AF_INET6, address)
    option = struct.pack("!BB6s", _TARGET_MAC, 1, mac)
    body = struct.pack("!BBHI16s", _ADVERTISEMENT, 0, 0, _OVERRIDE, ip) + option
    pseudo = ip + _ALL_NODES + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB16s16s", 0x60000000, len(body), _ICMPV6, 255, ip, _ALL_NODES)
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETHERTYPE_IPV6) + header + body


def announcements(mac: bytes, address: str) -> list[bytes]:
    """The frames of one announcement, of the address's family."""
    if ":" in address:
        return [advertisement(mac, address)]
    return [gratuitous(mac, address), gratuitous(mac, address, _REPLY)]


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Announcer:
    """Announces addresses on one interface, which may come and go."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._socket: socket.socket | None = None

    def announce(self, address: str, burst: int = 3) -> None:
        """Send ``burst`` announcements at once (some µs each). NetworkError if the interface is down or gone."""
        try:
            self._send(address, burst)
        except OSError:
            self.close()  # an interface that was removed and made again has another index
            try:
                self._send(address, burst)
            except OSError as e:
                self.close()
                raise NetworkError(f"cannot announce {address} on {self.interface}: {e.strerror}") from e

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, address: str, burst: int) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
            self._socket.bind((self.interface, 0))
        frames = announcements(self._socket.getsockname()[4], address)  # the MAC of the interface as it is now
        for frame in frames * burst:
            self._socket.send(frame)
