"""Gratuitous ARP: telling the segment where an address lives now.

Promise: one broadcast ARP request whose sender and target are the address (RFC 5227 announcement, RFC 826 format), straight
through AF_PACKET, so that neither routes nor the neighbour table are involved; ``announce`` never waits (a full queue is an
error that comes back). Packets sent here pass by the lease's nftables rules: who announces has refreshed the lease first.
Repeats are the caller's: a burst guards against one lost frame, repeats against a switch port that still learns.
"""

from __future__ import annotations

import socket
import struct

from runtime.address import NetworkError

_ETHERTYPE_ARP, _ETHERTYPE_IPV4 = 0x0806, 0x0800
_REQUEST = 1
_BROADCAST = b"\xff" * 6
_MINIMUM = 60


def gratuitous(mac: bytes, address: str) -> bytes:
    """The Ethernet frame that says: ``address`` is at ``mac``."""
    ip = socket.inet_aton(address)
    arp = struct.pack("!HHBBH6s4s6s4s", 1, _ETHERTYPE_IPV4, 6, 4, _REQUEST, mac, ip, bytes(6), ip)
    return (_BROADCAST + mac + struct.pack("!H", _ETHERTYPE_ARP) + arp).ljust(_MINIMUM, b"\0")


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
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self._socket.bind((self.interface, 0))
        frame = gratuitous(self._socket.getsockname()[4], address)  # the address of the interface as it is now
        for _ in range(burst):
            self._socket.send(frame)
