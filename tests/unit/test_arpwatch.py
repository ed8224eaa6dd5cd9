"""ARP and neighbour advertisements as claims: what is read from packets, what is sent to ask."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from runtime.arp import gratuitous
from runtime.arpwatch import (
    ANNOUNCEMENT,
    ANSWER,
    REQUEST,
    Claim,
    advertised,
    arp_claim,
    arp_probe,
    parse,
    solicitation,
    text,
)

MAC, OTHER = bytes.fromhex("02000000a166"), bytes.fromhex("02000000a028")
VIP, VIP6 = "192.168.120.187", "fd00:120::187"


def arp(operation: int, sender: str, target: str, mac: bytes = OTHER) -> bytes:
    body = struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, mac, socket.inet_aton(sender), MAC, socket.inet_aton(target)
    )
    return MAC + mac + b"\x08\x06" + body


def advertisement(flags: int, option: bytes = b"", hops: int = 255) -> bytes:
    body = struct.pack("!BBHB3x", 136, 0, 0, flags) + socket.inet_pton(socket.AF_INET6, VIP6) + option
    return MAC + OTHER + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(body), 58, hops) + bytes(32) + body


def test_whoever_speaks_for_an_address_claims_it() -> None:
    assert arp_claim(arp(2, VIP, "192.168.120.1")) == Claim(VIP, OTHER, ANSWER)
    assert arp_claim(arp(2, VIP, "0.0.0.0")) == Claim(VIP, OTHER, ANSWER)  # to a probe
    assert arp_claim(arp(1, VIP, "192.168.120.1")) == Claim(VIP, OTHER, REQUEST)
    assert arp_claim(gratuitous(OTHER, VIP)) == Claim(VIP, OTHER, ANNOUNCEMENT)
    assert arp_claim(arp(2, VIP, VIP)) == Claim(VIP, OTHER, ANNOUNCEMENT)


def test_who_only_asks_claims_nothing() -> None:
    assert arp_claim(arp_probe(MAC, VIP)) is None
    assert arp_claim(arp(3, VIP, VIP)) is None and arp_claim(b"") is None
    assert arp_claim(arp(2, VIP, VIP)[:41]) is None


def test_an_advertisement_names_its_mac_or_comes_from_it() -> None:
    assert advertised(advertisement(0x60)) == Claim(VIP6, OTHER, ANSWER)
    assert advertised(advertisement(0x20, b"\2\1" + MAC)) == Claim(VIP6, MAC, ANNOUNCEMENT)
    assert advertised(advertisement(0x20, b"\2\1" + MAC, hops=64)) is None  # from beyond a router
    assert advertised(advertisement(0x20, b"\2\0" + MAC)) is None  # an option without length


def test_a_question_asks_as_nobody() -> None:
    asked = arp_probe(MAC, VIP)
    assert asked[28:32] == bytes(4) and asked[38:42] == socket.inet_aton(VIP) and asked[:6] == b"\xff" * 6
    six = solicitation(MAC, VIP6)
    assert six[22:38] == bytes(16) and six[:6] == bytes.fromhex("3333ff000187")
    assert six[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:187")


@given(st.binary(max_size=200))
def test_whatever_arrives_is_a_claim_or_nothing(frame: bytes) -> None:
    for claim in (arp_claim(frame), advertised(frame)):
        assert claim is None or len(claim.mac) == 6


def test_a_mac_is_read_as_it_is_written() -> None:
    assert parse(text(MAC)) == MAC and text(MAC) == "02:00:00:00:a1:66"
    assert parse("") is None and parse("02:00") is None and parse("somewhere") is None
