"""Who claims an address on a network: every ARP packet and neighbour advertisement that speaks for it, with its MAC.

Promise: ``probe`` asks without telling anything: the sender of its request is nobody (0.0.0.0 or ::), so that no neighbour
table changes and nobody takes this server for the owner. ``drain`` and ``probe`` never wait. The kernel discards what doesn't
concern the watched addresses before it wakes this process, and one wake-up takes a bounded time. What is claimed is not
authenticated: anybody on the network can say it. Source: RFC 826; RFC 5227 §1.1 and 2.1.1 (ARP probe); RFC 4861 §4.4 and 7.2;
RFC 4862 §5.4.2 (solicitation from the unspecified address).
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from runtime.address import NetworkError

ANSWER, ANNOUNCEMENT, REQUEST = "answer", "announcement", "request"

_ARP, _IPV6 = 0x0806, 0x86DD
_SO_ATTACH_FILTER = 26
_MOST_TAKEN = 64
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6
_MINIMUM = 60
_LOAD, _LOAD_BYTE, _EQUAL, _RETURN = 0x20, 0x30, 0x15, 0x06
_ICMPV6, _SOLICITATION, _ADVERTISEMENT, _TARGET_MAC = 58, 135, 136, 2
_SOLICITED = 0x40

Step = tuple[int, int, int, int]


class Claim(NamedTuple):
    """``mac`` (six bytes) says that it has ``address``. ``kind``: "answer" to a question, "announcement" (gratuitous ARP,
    unsolicited advertisement), or "request" (it asks for somebody else, speaking from the address).
    """

    address: str
    mac: bytes
    kind: str


class ArpWatch:
    """Listens on one interface for claims to ``addresses`` (of both families); the interface may come and go."""

    def __init__(self, interface: str, addresses: Iterable[str]) -> None:
        """Raises NetworkError if this process may not open packet sockets."""
        self.interface = interface
        self.addresses = tuple(dict.fromkeys(str(ip_address(each)) for each in addresses))
        self._index = 0
        self._wake = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        four = [each for each in self.addresses if ":" not in each]
        six = [each for each in self.addresses if ":" in each]
        try:
            if four:
                self._open(_ARP, arp_filter(four))
            if six:
                self._open(_IPV6, advertisement_filter(six))
        except OSError as error:
            self.close()
            raise NetworkError(f"who claims addresses on {interface} can't be heard: {error.strerror}") from error
        self._attach()

    def fileno(self) -> int:
        """Readable when ``drain`` has something."""
        return self._wake.fileno()

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()
        self._sockets = {}
        self._wake.close()

    def drain(self) -> list[Claim]:
        """The claims of others that arrived, oldest first (at most 64 packets of a family are looked at in one call)."""
        claims: list[Claim] = []
        for protocol, s in self._sockets.items():
            for _ in range(_MOST_TAKEN):
                try:
                    frame = s.recv(2048)
                except OSError:  # nothing is left, or the interface went down
                    break
                claim = arp_claim(frame) if protocol == _ARP else advertised(frame)
                if claim is not None and claim.address in self.addresses:
                    claims.append(claim)
        return claims

    def probe(self, address: str) -> None:
        """Ask who has ``address``, as nobody. NetworkError if the interface is down or gone."""
        address = str(ip_address(address))
        s = self._sockets[_IPV6 if ":" in address else _ARP]
        try:
            if not self._attach():
                raise OSError(19, "No such device")
            mac = s.getsockname()[4]
            s.send(solicitation(mac, address) if ":" in address else arp_probe(mac, address))
        except OSError as error:
            raise NetworkError(f"cannot ask for {address} on {self.interface}: {error.strerror}") from error

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open(self, protocol: int, program: list[Step]) -> None:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        self._sockets[protocol] = s
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
        s.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
        self._wake.register(s, select.EPOLLIN)

    def _attach(self) -> bool:
        """Listen to the interface as it is now (one that was made again has a new index); cheap when nothing has changed."""
        try:
            index = socket.if_nametoindex(self.interface)
            if index != self._index:
                for protocol, s in self._sockets.items():
                    s.bind((self.interface, protocol))
                    s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what became of the old one is no news
                self._index = index
        except OSError:
            self._index = 0
            return False
        return True


# --- packets --------------------------------------------------------------------------------------------------------------


def arp_probe(mac: bytes, address: str) -> bytes:
    """Who has ``address``? asked by nobody."""
    arp = _ARP_BODY.pack(1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), socket.inet_aton(address))
    return (_BROADCAST + mac + struct.pack("!H", _ARP) + arp).ljust(_MINIMUM, b"\0")


def arp_claim(frame: bytes) -> Claim | None:
    """What an Ethernet frame with ARP claims for its sender; None if that is nothing."""
    if len(frame) < 14 + _ARP_BODY.size:
        return None
    hardware, protocol, long, short, operation, mac, sender, _, target = _ARP_BODY.unpack_from(frame, 14)
    if (hardware, protocol, long, short) != (1, 0x0800, 6, 4) or operation not in (1, 2) or sender == bytes(4):
        return None
    kind = ANNOUNCEMENT if sender == target else ANSWER if operation == 2 else REQUEST
    return Claim(socket.inet_ntoa(sender), mac, kind)


def solicitation(mac: bytes, address: str) -> bytes:
    """Who has this IPv6 ``address``? asked by nobody (as in duplicate address detection)."""
    target = socket.inet_pton(socket.AF_INET6, address)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + target[13:]
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target
    pseudo = bytes(16) + group + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), _ICMPV6, 255) + bytes(16) + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", _IPV6) + header + body


def advertised(frame: bytes) -> Claim | None:
    """What an Ethernet frame with a neighbour advertisement claims; None if it is none, or came from beyond this network."""
    if len(frame) < 78 or frame[20] != _ICMPV6 or frame[21] != 255 or frame[54] != _ADVERTISEMENT:
        return None
    mac, at = frame[6:12], 78
    while at + 8 <= len(frame):
        kind, units = frame[at], frame[at + 1]
        if units == 0:
            return None
        if kind == _TARGET_MAC:
            mac = frame[at + 2 : at + 8]
        at += 8 * units
    return Claim(socket.inet_ntop(socket.AF_INET6, frame[62:78]), mac, ANSWER if frame[58] & _SOLICITED else ANNOUNCEMENT)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


# --- what the kernel may discard ------------------------------------------------------------------------------------------

_TAKE, _DISCARD = (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0)


def arp_filter(addresses: Iterable[str]) -> list[Step]:
    """ARP packets whose sender address is one of these."""
    program: list[Step] = [(_LOAD, 0, 0, 28)]
    for address in addresses:
        program += [(_EQUAL, 0, 1, struct.unpack("!I", socket.inet_aton(address))[0]), _TAKE]
    return [*program, _DISCARD]


def advertisement_filter(addresses: Iterable[str]) -> list[Step]:
    """Neighbour advertisements for one of these (told by the last four bytes; the rest is compared later)."""
    program: list[Step] = [
        (_LOAD_BYTE, 0, 0, 20), (_EQUAL, 1, 0, _ICMPV6), _DISCARD,
        (_LOAD_BYTE, 0, 0, 54), (_EQUAL, 1, 0, _ADVERTISEMENT), _DISCARD,
        (_LOAD, 0, 0, 74),
    ]  # fmt: skip
    for address in addresses:
        last = struct.unpack("!I", socket.inet_pton(socket.AF_INET6, address)[12:])[0]
        program += [(_EQUAL, 0, 1, last), _TAKE]
    return [*program, _DISCARD]


def text(mac: bytes) -> str:
    """As people write it."""
    return mac.hex(":")


def parse(text: str) -> bytes | None:
    """The six bytes of ``aa:bb:cc:dd:ee:ff``, or None."""
    with contextlib.suppress(ValueError):
        mac = bytes.fromhex(text.replace(":", ""))
        return mac if len(mac) == 6 else None
    return None
