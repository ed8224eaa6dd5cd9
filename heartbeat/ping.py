"""Pinging the ping nodes: ICMP and ICMPv6 echo through raw sockets.

Promise: ``send`` and ``receive`` never block and raise no network error; a reply counts only if it comes from the node,
with the identifier, the nonce of this process and the number that were sent to it, and with a good checksum. The kernel
discards all other ICMP before it wakes this process (its ICMP filters and a BPF program). Source: RFC 792, 4443; design §4
("connected": enough ping nodes answer).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from heartbeat import bpf

_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_HEADER, _PAYLOAD = struct.Struct("!BBHHH"), struct.Struct("!8sQ")
_MOST_TAKEN = 64


class Kind(NamedTuple):
    """What differs between ICMP and ICMPv6."""

    family: int
    protocol: int
    request: int
    reply: int
    #: the kernel shows the IP header before the message
    with_ip_header: bool


IPV4 = Kind(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, True)
IPV6 = Kind(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129, False)


class Reply(NamedTuple):
    node: str
    seq: int


class Pinger:
    """Pings several nodes. ``errors``: by node, why the latest request did not leave ("" if it did)."""

    def __init__(self, nodes: Iterable[str], source: str | None = None, device: str = "") -> None:
        """``source``: the address to ping from; it may be added to the interface later (then sending fails until it is);
        ``device``: leave and arrive through this interface only.
        """
        self.nodes = tuple(dict.fromkeys(nodes))
        self.errors = dict.fromkeys(self.nodes, "")
        self._nonce = os.urandom(8)
        self._id = int.from_bytes(os.urandom(2))
        self._wake = select.epoll()  # one descriptor for both families
        self._sockets = {
            kind: self._open(kind, source, device) for kind in (IPV4, IPV6) if any(_kind(node) is kind for node in self.nodes)
        }

    def _open(self, kind: Kind, source: str | None, device: str) -> socket.socket:
        s = socket.socket(kind.family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, kind.protocol)
        if kind is IPV4:
            s.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << kind.reply)))
        else:
            blocked = [0xFFFFFFFF] * 8
            blocked[kind.reply // 32] &= ~(1 << kind.reply % 32)
            s.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        bpf.attach(s, bpf.icmp_replies(kind.reply, self._id, kind.with_ip_header))
        if device:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        if source is not None:
            s.setsockopt(*((socket.IPPROTO_IP, _IP_FREEBIND) if kind is IPV4 else (socket.IPPROTO_IPV6, _IPV6_FREEBIND)), 1)
            s.bind((source, 0))
        self._wake.register(s, select.EPOLLIN)
        return s

    def fileno(self) -> int:
        return self._wake.fileno()

    def close(self) -> None:
        for s in self._sockets.values():
            s.close()
        self._wake.close()

    def send(self, seq: int) -> int:
        """Send request number ``seq`` to every node; to how many it left."""
        packets = {kind: echo(kind.request, self._id, self._nonce, seq) for kind in self._sockets}
        for node in self.nodes:
            kind = _kind(node)
            try:
                self._sockets[kind].sendto(packets[kind], (node, 0))
                self.errors[node] = ""
            except OSError as e:
                self.errors[node] = e.strerror or str(e)
        return sum(not error for error in self.errors.values())

    def receive(self) -> list[Reply]:
        """The replies that arrived, oldest first (at most 64 packets of a family are looked at in one call)."""
        replies = []
        for kind, s in self._sockets.items():
            for _ in range(_MOST_TAKEN):
                try:
                    packet, sender = s.recvfrom(2048)
                except OSError:  # nothing is left; or the interface went down, which sending tells
                    break
                seq = answered(packet, self._id, self._nonce, kind)
                if seq is not None and (node := _with_zone(sender)) in self.errors:
                    replies.append(Reply(node, seq))
        return replies


def _with_zone(sender: tuple[Any, ...]) -> str:
    """The address as ha.cf writes it: a link-local one with its interface."""
    address, zone = str(sender[0]), sender[3] if len(sender) == 4 else 0
    if zone:
        with contextlib.suppress(OSError):  # the interface is gone
            return f"{address}%{socket.if_indextoname(zone)}"
    return address


def _kind(node: str) -> Kind:
    return IPV6 if ":" in node else IPV4


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


def answered(packet: bytes, identifier: int, nonce: bytes, kind: Kind = IPV4) -> int | None:
    """The number that this packet answers, if it is a reply to one of ours. ICMPv6's checksum is the kernel's business."""
    icmp = packet[(packet[0] & 0x0F) * 4 :] if packet and kind.with_ip_header else packet
    if len(icmp) < _HEADER.size + _PAYLOAD.size or (kind.with_ip_header and checksum(icmp) != 0):
        return None
    type_, code, _, replied, low = _HEADER.unpack_from(icmp)
    theirs, seq = _PAYLOAD.unpack_from(icmp, _HEADER.size)
    ours = (type_, code, replied, theirs, low) == (kind.reply, 0, identifier, nonce, seq & 0xFFFF)
    return seq if ours else None
