"""Pinging the ping nodes: ICMP echo through one raw socket.

Promise: ``send`` and ``receive`` never block and raise no network error; a reply counts only if it comes from the node,
with the identifier, the nonce of this process and the number that were sent to it, and with a good checksum. The kernel
discards all other ICMP before it wakes this process (ICMP_FILTER and a BPF program). Source: RFC 792; design §4
("connected": enough ping nodes answer).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from heartbeat.links import attach_filter

_ECHO_REPLY, _ECHO = 0, 8
_SOL_RAW, _ICMP_FILTER = 255, 1
_IP_FREEBIND = 15
_HEADER, _PAYLOAD = struct.Struct("!BBHHH"), struct.Struct("!8sQ")
_MOST_TAKEN = 64


class Reply(NamedTuple):
    node: str
    seq: int


class Pinger:
    """Pings several IPv4 nodes. ``errors``: by node, why the latest request did not leave ("" if it did)."""

    def __init__(self, nodes: Iterable[str], source: str | None = None) -> None:
        """``source``: the address to ping from; it may be added to the interface later (then sending fails until it is)."""
        self.nodes = tuple(dict.fromkeys(nodes))
        self.errors = dict.fromkeys(self.nodes, "")
        self._nonce = os.urandom(8)
        self._id = int.from_bytes(os.urandom(2))
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP
        )
        self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << _ECHO_REPLY)))
        attach_filter(self._socket, _only(self._id))
        if source is not None:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            self._socket.bind((source, 0))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, seq: int) -> int:
        """Send request number ``seq`` to every node; to how many it left."""
        packet = echo(_ECHO, self._id, self._nonce, seq)
        for node in self.nodes:
            try:
                self._socket.sendto(packet, (node, 0))
                self.errors[node] = ""
            except OSError as e:
                self.errors[node] = e.strerror or str(e)
        return sum(not error for error in self.errors.values())

    def receive(self) -> list[Reply]:
        """The replies that arrived, oldest first (at most 64 packets are looked at in one call)."""
        replies = []
        for _ in range(_MOST_TAKEN):
            try:
                packet, (sender, _port) = self._socket.recvfrom(2048)
            except OSError:  # nothing is left; or the interface went down, which sending tells
                break
            seq = answered(packet, self._id, self._nonce)
            if seq is not None and sender in self.errors:
                replies.append(Reply(sender, seq))
        return replies


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 for data that contains its own right one."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def echo(kind: int, identifier: int, nonce: bytes, seq: int) -> bytes:
    """An ICMP echo message; the whole of ``seq`` is in the payload, its low 16 bits in the header."""
    payload = _PAYLOAD.pack(nonce, seq)
    sum_ = checksum(_HEADER.pack(kind, 0, 0, identifier, seq & 0xFFFF) + payload)
    return _HEADER.pack(kind, 0, sum_, identifier, seq & 0xFFFF) + payload


def answered(packet: bytes, identifier: int, nonce: bytes) -> int | None:
    """The number that this IP packet answers, if it is a reply to one of ours."""
    icmp = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(icmp) < _HEADER.size + _PAYLOAD.size or checksum(icmp) != 0:
        return None
    kind, code, _, replied, low = _HEADER.unpack_from(icmp)
    theirs, seq = _PAYLOAD.unpack_from(icmp, _HEADER.size)
    ours = (kind, code, replied, theirs, low) == (_ECHO_REPLY, 0, identifier, nonce, seq & 0xFFFF)
    return seq if ours else None


def _only(identifier: int) -> list[tuple[int, int, int, int]]:
    """Echo replies with our identifier, wherever the IP header ends."""
    return [
        (0xB1, 0, 0, 0),  # X = length of the IP header
        (0x50, 0, 0, 0),  # A = ICMP type
        (0x15, 0, 3, _ECHO_REPLY),
        (0x48, 0, 0, 4),  # A = identifier
        (0x15, 0, 1, identifier),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    ]
