"""What needs no network of the network parts: choosing an interface, frames, checksums, parsing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.ping import answered, checksum, echo
from runtime.address import Assigned, choose, ipv4
from runtime.arp import advertisement, announcements, gratuitous
from runtime.errors import ConfigError
from runtime.lease import _expiry
from runtime.linkwatch import LinkState, parse
from runtime.stranded import stranded

THERE = [
    Assigned("lo", "127.0.0.1", 8),
    Assigned("eth0", "192.168.120.166", 24),
    Assigned("eth1", "10.0.0.1", 8),
    Assigned("eth2", "10.1.0.1", 16),
    Assigned("eth3", "10.1.2.3", 32),
    Assigned("eth4", "172.16.0.1", 24),
    Assigned("eth5", "172.16.0.2", 24),
    Assigned("eth6", "192.0.2.0", 31),
    Assigned("lo", "::1", 128),
    Assigned("eth0", "fd00:120::166", 64),
    Assigned("eth0", "fe80::a", 64),
    Assigned("eth1", "fd00:77::1", 64),
    Assigned("eth1", "fe80::b", 64),
]


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("fd00:120::187", "eth0"),
        ("fd00:77::", "eth1"),
        ("192.168.120.187", "eth0"),
        ("10.7.0.9", "eth1"),
        ("10.1.2.3", "eth2"),
        ("192.0.2.1", "eth6"),
    ],
)
def test_the_narrowest_network_is_chosen(address: str, interface: str) -> None:
    assert choose(address, THERE) == interface


def test_clients_of_addresses_that_are_gone_or_go_by_themselves_are_stranded() -> None:
    there = [
        *THERE, Assigned("eth0", "192.168.120.187", 32, lifetime=1), Assigned("eth0", "fd00:120::187", 128, lifetime=1),
        Assigned("eth6", "198.51.100.7", 24, lifetime=3000),  # from DHCP
    ]  # fmt: skip
    ends = ["192.168.120.187", "fd00:120::187", "192.168.120.188", "192.168.120.166", "10.1.2.3", "fe80::a", "198.51.100.7"]
    assert stranded(ends, there) == ["192.168.120.187", "192.168.120.188", "fd00:120::187"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.168.121.187", r"in no network of this server: eth0 192\.168\.120\.166/24, .*\(give an address"),
        ("127.0.0.9", "in no network"),
        ("172.16.0.9", "networks of eth4 and eth5.*name the interface"),
        ("192.168.120.255", "network or broadcast address of 192.168.120.0/24"),
        ("192.168.120.0", "network or broadcast address"),
        ("vip.example", "'vip.example' is no IP address"),
        ("fe80::1", r"networks of eth0 and eth1.*name the interface"),
        ("fd01::1", "in no network of this server: eth0 fd00:120::166/64"),
    ],
)
def test_a_wrong_virtual_address_is_refused_with_the_remedy(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(address, THERE)


def test_a_server_without_addresses_says_so() -> None:
    with pytest.raises(ConfigError, match="it has none"):
        choose("10.0.0.1", [])
    assert ipv4("10.0.0.1") == "10.0.0.1"


def test_a_gratuitous_arp_is_a_broadcast_request_for_itself() -> None:
    frame = gratuitous(bytes.fromhex("020000000001"), "10.0.0.9")
    assert frame.hex() == (
        "ffffffffffff" "020000000001" "0806"  # to all, from us, ARP
        "0001" "0800" "06" "04" "0001"  # Ethernet, IPv4, request
        "020000000001" "0a000009" "000000000000" "0a000009"
    ) + "00" * 18  # fmt: skip


def test_an_announcement_comes_in_both_forms_of_arp() -> None:
    mac = bytes.fromhex("020000000001")
    request, reply = announcements(mac, "10.0.0.9")
    assert request == gratuitous(mac, "10.0.0.9")
    assert reply.hex() == (
        "ffffffffffff" "020000000001" "0806" "0001" "0800" "06" "04" "0002"  # reply
        "020000000001" "0a000009" "020000000001" "0a000009"  # from itself to itself: the kernel's test for "gratuitous"
    ) + "00" * 18  # fmt: skip


def test_an_ipv6_announcement_overrides_what_all_nodes_knew() -> None:
    mac = bytes.fromhex("020000000001")
    frame = advertisement(mac, "fd00::9")
    assert announcements(mac, "fd00::9") == [frame]
    own, all_nodes = "fd00" + "0" * 26 + "09", "ff02" + "0" * 26 + "01"
    assert frame[:54].hex() == "33330000000102000000000186dd6000000000203aff" + own + all_nodes
    assert frame[54:56].hex() + frame[58:].hex() == "880020000000" + own + "0201" + "020000000001"
    pseudo = frame[22:54] + struct.pack("!II", 32, 58)
    assert checksum(pseudo + frame[54:]) == 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [("0001f203f4f5f6f7", 0x220D), ("", 0xFFFF), ("01", 0xFEFF), ("ffff", 0)],
)
def test_checksum_is_the_one_of_rfc_1071(data: str, expected: int) -> None:
    assert checksum(bytes.fromhex(data)) == expected


NONCE = b"nonce678"


def _reply(identifier: int = 7, nonce: bytes = NONCE, seq: int = 70000, kind: int = 0, options: int = 0) -> bytes:
    return bytes([0x45 + options]) + bytes(19 + 4 * options) + echo(kind, identifier, nonce, seq)


@given(st.integers(0, 2**40), st.integers(0, 10))
def test_a_reply_is_known_whatever_its_number_and_ip_options(seq: int, options: int) -> None:
    assert answered(_reply(seq=seq, options=options), 7, NONCE) == seq


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        _reply()[:-1],
        _reply(identifier=8),
        _reply(nonce=b"nonce679"),
        _reply(kind=8),
        _reply(kind=3),
        _reply()[:-1] + b"\xff",
        b"\x4f" + _reply()[1:],
    ],
    ids=["empty", "short", "identifier", "nonce", "request", "unreachable", "checksum", "header"],
)
def test_what_is_no_reply_to_us_is_ignored(packet: bytes) -> None:
    assert answered(packet, 7, NONCE) is None


@given(st.binary(max_size=80))
def test_no_packet_breaks_the_pinger(packet: bytes) -> None:
    answered(packet, 7, NONCE)


def _link(name: str, flags: int, kind: int = 16, family: int = 0) -> bytes:
    attribute = struct.pack("=HH", 5 + len(name), 3) + name.encode() + b"\0"
    body = struct.pack("=BxHiII", family, 1, 2, flags, 0) + attribute.ljust(-(-len(attribute) // 4) * 4, b"\0")
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_link_messages_are_parsed() -> None:
    done = struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(4)
    data = _link("eth0", 0x10001) + _link("eth1", 0x1) + _link("br0", 0x10001, family=7) + _link("eth2", 0x1, kind=17) + done
    assert list(parse(data)) == [LinkState("eth0", True), LinkState("eth1", False), LinkState("eth2", False, gone=True)]


@given(st.binary(max_size=100))
def test_no_bytes_break_the_link_watch(data: bytes) -> None:
    list(parse(data))


@pytest.mark.parametrize(
    ("listed", "seconds"),
    [
        ("elements = { 10.0.0.9 timeout 550ms expires 548ms }", 0.548),
        ("elements = { 10.0.0.9 timeout 1m2s400ms expires 1m1s3ms }", 61.003),
        ("elements = { 10.0.0.99 timeout 550ms expires 548ms }", 0.0),
        ("elements = { 110.0.0.9 timeout 550ms expires 548ms }", 0.0),
        ("", 0.0),
    ],
)
def test_what_is_left_of_a_lease_is_read(listed: str, seconds: float) -> None:
    assert _expiry(listed, "10.0.0.9") == pytest.approx(seconds)


@pytest.mark.parametrize(("vip", "seconds"), [("fd00::9", 0.5), ("::9", 0.0), ("fd00::", 0.0)])
def test_what_is_left_of_a_lease_is_read_in_ipv6(vip: str, seconds: float) -> None:
    assert _expiry("elements = { fd00::9 timeout 550ms expires 500ms }", vip) == pytest.approx(seconds)
