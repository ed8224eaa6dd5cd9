"""VRRP messages on the wire: to bytes and back; no sockets.

Promise: ``decode`` returns a whole, checked message or raises ``Dropped`` with one of ``REASONS``, whatever the bytes are;
``encode`` and ``decode`` are each other's inverse. Source: RFC 3768 §5 (version 2), RFC 5798 §5 and RFC 9568 §5 (version 3);
facts/vrrp-and-data-plane.md.

    version 2: 0x21 | vrid | priority | addresses | auth type | interval (s)       | checksum | addresses | 8 bytes of password
    version 3: 0x31 | vrid | priority | addresses | 4 bits 0, interval (12 bits, 1/100 s) | checksum | addresses

The checksum of version 2 covers the message; that of version 3 the pseudo-header too. On IPv4, old implementations leave it
out, or name the multicast group in it whomever they write to (keepalived's ``old_unicast_checksum``): such messages are
understood as well, and sent on demand, or to a peer that sends them.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from director.model import Advertisement

PROTOCOL = 112
#: the authentication header (RFC 4302), in which RFC 2338 may wrap a message; keepalived's auth_type AH
AH = 51
HOPS = 255
GROUP = {4: "224.0.0.18", 6: "ff02::12"}

_HEADER = struct.Struct("!BBBBHH")
_ADVERTISEMENT = 1
_NO_AUTHENTICATION, _PASSWORD = 0, 1
_AUTHENTICATION_LENGTH = 8
_CENTISECONDS = 0x0FFF

#: why a message is dropped, before the virtual router's configuration is looked at
REASONS = (
    "ip",  # no IP packet of ours: fragment, other protocol, truncated
    "ttl",  # not from this segment
    "version",  # neither 2 nor 3; version 2 on IPv6
    "type",  # no advertisement
    "length",
    "checksum",
    "vrid",  # 0
    "interval",  # 0
    "peer",  # by unicast from somebody who is no peer
)


class Dropped(Exception):
    """What arrived is not to be looked at any further. ``reason`` is one of ``REASONS``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Covers(StrEnum):
    """What the checksum of version 3 on IPv4 covers besides the message."""

    #: sender and receiver, as RFC 5798 has it
    ADDRESSES = "pseudo_header"
    #: the sender and the multicast group, whoever the receiver is
    GROUP = "group"
    NOTHING = "plain"


def encode(advert: Advertisement, destination: str, covers: Covers = Covers.ADDRESSES) -> bytes:
    """The message as it goes to ``destination``. ``covers``: what old peers want instead."""
    body = b"".join(_packed(address) for address in advert.addresses)
    count = len(advert.addresses)
    if advert.version == 2:
        kind = _NO_AUTHENTICATION if advert.password is None else _PASSWORD
        timing = kind << 8 | round(advert.interval)
        body += (advert.password or "").encode("ascii").ljust(_AUTHENTICATION_LENGTH, b"\0")
    else:
        timing = round(advert.interval * 100) & _CENTISECONDS
    first = advert.version << 4 | _ADVERTISEMENT
    message = _HEADER.pack(first, advert.vrid, advert.priority, count, timing, 0) + body
    six = ":" in advert.source
    summed = message
    if advert.version == 3 and (six or covers is not Covers.NOTHING):
        receiver = GROUP[4] if covers is Covers.GROUP and not six else destination
        summed = _pseudo(advert.source, receiver, len(message)) + message
    return message[:6] + struct.pack("!H", checksum(summed)) + message[8:]


def decode(message: bytes, source: str, destination: str, hops: int | None) -> Advertisement:
    """The message, whose sender and receiver the IP header names. ``hops``: its TTL or hop limit; None: not to be judged."""
    if hops is not None and hops != HOPS:
        raise Dropped("ttl")
    if len(message) < _HEADER.size:
        raise Dropped("length")
    first, vrid, priority, count, timing, _ = _HEADER.unpack_from(message)
    version, six = first >> 4, ":" in source
    if version not in (2, 3) or (version == 2 and six):
        raise Dropped("version")
    if first & 0x0F != _ADVERTISEMENT:
        raise Dropped("type")
    size = 16 if six else 4
    end = _HEADER.size + count * size
    if len(message) != end + (_AUTHENTICATION_LENGTH if version == 2 else 0):
        raise Dropped("length")
    if not (checksum(message) == 0 if version == 2 else covered(message, source, destination)):
        raise Dropped("checksum")
    if vrid == 0:
        raise Dropped("vrid")
    interval = float(timing & 0xFF) if version == 2 else (timing & _CENTISECONDS) / 100
    if interval == 0:
        raise Dropped("interval")
    parsed = IPv6Address if six else IPv4Address
    addresses = tuple(str(parsed(message[at : at + size])) for at in range(_HEADER.size, end, size))
    kind, password, strange = timing >> 8, None, ""
    if version == 2 and kind == _PASSWORD:
        password = message[end:].rstrip(b"\0").decode("ascii", errors="replace")
    elif version == 2 and kind != _NO_AUTHENTICATION:
        strange = f"authentication of type {kind}"
    return Advertisement(source, version, vrid, priority, interval, addresses, password, strange)


def unpack_ipv4(packet: bytes, protocol: int = PROTOCOL) -> tuple[bytes, str, str, int]:
    """Payload, source, destination and TTL of what a raw socket received; padding behind the packet is cut off."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        raise Dropped("ip")
    header = (packet[0] & 0x0F) * 4
    total, fragment = struct.unpack_from("!H2xH", packet, 2)
    if header < 20 or not header <= total <= len(packet) or fragment & 0x3FFF or packet[9] != protocol:
        raise Dropped("ip")
    source, destination = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    return packet[header:total], source, destination, packet[8]


def unwrap_ah(payload: bytes) -> bytes:
    """The message in an authentication header, whose signature nobody here can judge."""
    if len(payload) < 2 or payload[0] != PROTOCOL or len(payload) < (length := (payload[1] + 2) * 4):
        raise Dropped("ip")
    return payload[length:]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def covered(message: bytes, source: str, destination: str) -> Covers | None:
    """What the checksum of a message of version 3 covers; None: it is wrong."""
    six = ":" in source
    if checksum(_pseudo(source, destination, len(message)) + message) == 0:
        return Covers.ADDRESSES
    if not six and checksum(message) == 0:
        return Covers.NOTHING
    if not six and checksum(_pseudo(source, GROUP[4], len(message)) + message) == 0:
        return Covers.GROUP
    return None


def _pseudo(source: str, destination: str, length: int) -> bytes:
    pair = _packed(source) + _packed(destination)
    if len(pair) == 32:
        return pair + struct.pack("!I3xB", length, PROTOCOL)
    return pair + struct.pack("!BBH", 0, PROTOCOL, length)


@lru_cache(maxsize=64)
def _packed(address: str) -> bytes:
    return ip_address(address).packed
