"""The socket of protocol 253: sends from the management IP, hears what is sent to it or to everybody.

Promise: never from or to a virtual IP: packets leave with the management IP as their source, on its interface, and what is sent
to any other address of this node is not read. Nothing here waits; an interface that is gone is an OSError of ``send``, and
``heard`` just hears nothing. Source: design §8; ip(7) (IP_PKTINFO), raw(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from director.discovery import PROTOCOL

_IP_PKTINFO = 8  # linux/in.h
BROADCAST = "255.255.255.255"
_LARGEST = 65535
#: messages taken in one go; the rest waits for the next round of the loop
_AT_ONCE = 64


class Beacon:
    def __init__(self, management_ip: str, interface: str) -> None:
        """OSError if this node can't."""
        self.interface = interface
        self._own = socket.inet_aton(management_ip)
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_INET, kind, PROTOCOL)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)  # the members' network, and not beyond
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, to: str = "") -> None:
        source = struct.pack("=I4s4s", 0, self._own, b"\0\0\0\0")
        control = [(socket.IPPROTO_IP, _IP_PKTINFO, source)]
        self._socket.sendmsg([data], control, 0, (to or BROADCAST, 0))

    def heard(self) -> Iterator[tuple[bytes, str]]:
        """(message, source) of what has arrived."""
        for _ in range(_AT_ONCE):
            try:
                packet = self._socket.recv(_LARGEST)
            except OSError:
                return
            if len(packet) < 20:
                continue
            header, source, target = (packet[0] & 15) * 4, packet[12:16], packet[16:20]
            if source != self._own and target in (self._own, b"\xff\xff\xff\xff"):
                yield packet[header:], socket.inet_ntoa(source)
