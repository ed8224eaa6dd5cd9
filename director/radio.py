"""The sockets of one virtual router: adverts out, adverts in.

Promise: no call waits. What arrives is whole and checked (``packets``), or counted under the reason for which it was dropped.
Adverts go to the multicast group of the interface, or, where peers are named, to each of them by unicast; by multicast, only
what has crossed no router counts (TTL 255), by unicast only what a peer sent. On IPv4, what comes in an authentication header
is heard as well, to be told. The interface may vanish and come back: ``open`` again. Source: RFC 3768 §5.2, RFC 5798 §5.1;
facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from director.model import Advertisement
from director.packets import AH, GROUP, HOPS, PROTOCOL, Covers, Dropped, covered, decode, encode, unpack_ipv4, unwrap_ah
from runtime.address import NetworkError

_INTERNETWORK_CONTROL = 0xC0
_SO_PRIORITY = 6
_IP_MULTICAST_ALL, _IP_PKTINFO = 49, 8
_IN6_JOIN = struct.Struct("@16sI")
_MOST_TAKEN = 64
_LONGEST = 2048


class Radio:
    def __init__(self, interface: str, family: int, peers: Sequence[str] = (), covers: Covers = Covers.ADDRESSES) -> None:
        self.interface = interface
        self.family = family
        self.peers = tuple(peers)
        self.dropped: Counter[str] = Counter()
        self.received = 0
        self.sent = 0
        self._covers = covers
        #: of peers, as they were heard: keepalived answers in kind as well
        self._theirs: dict[str, Covers] = {}
        self._socket: socket.socket | None = None
        self._wrapped: socket.socket | None = None  # of authentication headers
        self._index = 0
        self._encoded: dict[tuple[Advertisement, str, Covers], bytes] = {}

    @property
    def opened(self) -> bool:
        return self._socket is not None

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def open(self) -> None:
        """Listen on the interface as it is now. NetworkError if it isn't there, or can't be used."""
        self.close()
        self._socket = self._opened(PROTOCOL)
        self._wrapped = self._opened(AH) if self.family == 4 else None

    def _opened(self, protocol: int) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        s = socket.socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, kind, protocol)
        try:
            self._index = socket.if_nametoindex(self.interface)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode() + b"\0")
            s.setsockopt(socket.SOL_SOCKET, _SO_PRIORITY, 6)
            self._prepare(s)
        except OSError as error:
            s.close()
            raise NetworkError(f"VRRP can't use interface {self.interface}: {error.strerror}") from error
        return s

    def close(self) -> None:
        for s in (self._socket, self._wrapped):
            if s is not None:
                s.close()
        self._socket = self._wrapped = None

    def send(self, advert: Advertisement) -> None:
        """To everybody concerned. NetworkError if somebody could not be sent to."""
        if self._socket is None:
            raise NetworkError(f"no advertisement leaves through {self.interface}: it isn't there")
        failed: OSError | None = None
        for destination in self.peers or (GROUP[self.family],):
            try:
                self._send(self._socket, advert, destination)
                self.sent += 1
            except OSError as error:
                failed = error
        if failed is not None:
            raise NetworkError(f"no advertisement leaves through {self.interface}: {failed.strerror}") from failed

    def receive(self) -> list[Advertisement]:
        """What has arrived, oldest first; at most 64 at once, and 64 in authentication headers, for which nobody is woken."""
        return [
            *(self._take(self._receive_one) if self._socket is not None else ()),
            *(self._take(self._receive_wrapped) if self._wrapped is not None else ()),
        ]

    # --- inside

    def _take(self, receive: Callable[[], Advertisement]) -> list[Advertisement]:
        adverts: list[Advertisement] = []
        for _ in range(_MOST_TAKEN):
            try:
                advert = receive()
            except Dropped as dropped:
                self.dropped[dropped.reason] += 1
                continue
            except OSError:  # nothing is left, or the interface went away
                break
            self.received += 1
            adverts.append(advert)
        return adverts

    def _prepare(self, s: socket.socket) -> None:
        if self.family == 4:
            own = struct.pack("@4s4si", socket.inet_aton(GROUP[4]), bytes(4), self._index)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _INTERNETWORK_CONTROL)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            s.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            if not self.peers:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, own)
            return
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INTERNETWORK_CONTROL)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        if not self.peers:
            group = _IN6_JOIN.pack(socket.inet_pton(socket.AF_INET6, GROUP[6]), self._index)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    def _send(self, s: socket.socket, advert: Advertisement, destination: str) -> None:
        covers = self._theirs.get(destination, self._covers)
        message = self._encoded.get((advert, destination, covers))
        if message is None:
            if len(self._encoded) > 16:
                self._encoded = {}
            message = self._encoded[advert, destination, covers] = encode(advert, destination, covers)
        if self.family == 4:
            info = struct.pack("@i4s4s", self._index, socket.inet_aton(advert.source), bytes(4))
            s.sendmsg([message], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, (destination, 0))
        else:
            info = _IN6_JOIN.pack(socket.inet_pton(socket.AF_INET6, advert.source), self._index)
            s.sendmsg([message], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, (destination, 0, 0, self._index))

    def _receive_one(self) -> Advertisement:
        assert self._socket is not None
        if self.family == 4:
            message, source, destination, hops = unpack_ipv4(self._socket.recv(_LONGEST))
        else:
            message, ancillary, _, sender = self._socket.recvmsg(_LONGEST, 256)
            source = str(sender[0]).partition("%")[0]
            destination, hops = _ipv6_header(ancillary)
        if not self.peers:
            return decode(message, source, destination, hops)
        if source not in self.peers:
            raise Dropped("peer")
        advert = decode(message, source, destination, None)
        if advert.version == 3 and (theirs := covered(message, source, destination)):
            self._theirs[source] = theirs
        return advert

    def _receive_wrapped(self) -> Advertisement:
        assert self._wrapped is not None
        payload, source, destination, hops = unpack_ipv4(self._wrapped.recv(_LONGEST), AH)
        if self.peers and source not in self.peers:
            raise Dropped("peer")
        advert = decode(unwrap_ah(payload), source, destination, None if self.peers else hops)
        return replace(advert, strange="an authentication header (AH)")


def _ipv6_header(ancillary: list[tuple[int, int, bytes]]) -> tuple[str, int]:
    destination, hops = "::", 0
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
            hops = struct.unpack("@i", data)[0]
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            destination = socket.inet_ntop(socket.AF_INET6, data[:16])
    return destination, hops
