"""VRRP messages: round trips hold, whatever is bent is dropped with a reason, and moves nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.model import Advertisement, Heard, Instance, Start, State
from director.packets import GROUP, REASONS, Covers, Dropped, checksum, covered, decode, encode, unpack_ipv4, unwrap_ah
from director.vrrp import Router

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
bytes_ = st.integers(1, 255)
password = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8)
version2 = st.builds(
    Advertisement, source=ipv4, version=st.just(2), vrid=bytes_, priority=st.integers(0, 255),
    interval=bytes_.map(float), addresses=st.lists(ipv4, max_size=20).map(tuple), password=password,
)  # fmt: skip
intervals = st.integers(1, 4095).map(lambda n: n / 100)
version3 = st.builds(
    Advertisement, source=ipv4, version=st.just(3), vrid=bytes_, priority=st.integers(0, 255),
    interval=intervals, addresses=st.lists(ipv4, max_size=20).map(tuple),
)  # fmt: skip
version3_ipv6 = st.builds(
    Advertisement, source=ipv6, version=st.just(3), vrid=bytes_, priority=st.integers(0, 255),
    interval=intervals, addresses=st.lists(ipv6, max_size=20).map(tuple),
)  # fmt: skip
adverts = version2 | version3 | version3_ipv6


def group(advert: Advertisement) -> str:
    return GROUP[6 if ":" in advert.source else 4]


@given(adverts, st.sampled_from(Covers))
def test_a_message_comes_back(advert: Advertisement, covers: Covers) -> None:
    sent = encode(advert, group(advert), covers)
    assert decode(sent, advert.source, group(advert), 255) == advert


@given(adverts, st.data())
def test_one_bent_bit_is_noticed(advert: Advertisement, data: st.DataObject) -> None:
    sent = bytearray(encode(advert, group(advert)))
    sent[data.draw(st.integers(0, len(sent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Dropped) as dropped:
        decode(bytes(sent), advert.source, group(advert), 255)
    assert dropped.value.reason in REASONS


@given(st.binary(max_size=120), st.sampled_from(["10.1.1.3", "fe80::3"]), st.integers(0, 255) | st.none())
def test_any_bytes_are_dropped_with_a_reason_or_understood(message: bytes, source: str, hops: int | None) -> None:
    try:
        decode(message, source, GROUP[4], hops)
    except Dropped as dropped:
        assert dropped.reason in REASONS


@given(st.binary(max_size=120))
def test_any_packet_is_no_ip_packet_or_taken_apart(packet: bytes) -> None:
    try:
        payload, *_ = unpack_ipv4(packet)
        assert len(payload) <= len(packet) - 20
    except Dropped as dropped:
        assert dropped.reason == "ip"


GOOD = Advertisement("10.1.1.3", 2, 51, 200, 1.0, ("10.1.1.250",))
GOOD3 = replace(GOOD, version=3, interval=0.1)
#: summed by hand: VRID 51, priority 100, 1 s, no authentication, 10.0.0.100
BY_HAND = bytes.fromhex("21336401000170660a0000640000000000000000")


def resummed(message: bytes) -> bytes:
    return message[:6] + checksum(message[:6] + b"\0\0" + message[8:]).to_bytes(2) + message[8:]


def bent(advert: Advertisement, at: int, value: int) -> bytes:
    message = bytearray(encode(advert, GROUP[4], Covers.NOTHING))
    message[at] = value
    return resummed(bytes(message))


HEAD = bytes.fromhex("45c0003000010000ff70000a0a010103e0000012")
MESSAGE = encode(GOOD, GROUP[4])


@pytest.mark.parametrize(
    ("message", "hops", "reason"),
    [
        (encode(GOOD, GROUP[4]), 254, "ttl"),
        (encode(GOOD, GROUP[4]), 0, "ttl"),
        (b"", 255, "length"),
        (b"\x21" * 7, 255, "length"),
        (encode(GOOD, GROUP[4])[:-1], 255, "length"),
        (encode(GOOD, GROUP[4]) + b"\0", 255, "length"),
        (encode(GOOD, GROUP[4])[:-8], 255, "length"),
        (encode(GOOD3, GROUP[4]) + bytes(8), 255, "length"),
        (bent(GOOD, 3, 2), 255, "length"),
        (bent(GOOD, 0, 0x11), 255, "version"),
        (bent(GOOD, 0, 0x41), 255, "version"),
        (bent(GOOD, 0, 0x22), 255, "type"),
        (bent(GOOD, 1, 0), 255, "vrid"),
        (bent(GOOD, 5, 0), 255, "interval"),
        (MESSAGE[:6] + b"\0\0" + MESSAGE[8:], 255, "checksum"),
        (encode(GOOD3, "224.0.0.19"), 255, "checksum"),
    ],
)
def test_what_is_wrong_is_dropped_under_its_reason(message: bytes, hops: int, reason: str) -> None:
    with pytest.raises(Dropped) as dropped:
        decode(message, GOOD.source, GROUP[4], hops)
    assert dropped.value.reason == reason


def test_an_authentication_that_is_not_understood_is_named() -> None:
    assert decode(bent(GOOD, 4, 2), GOOD.source, GROUP[4], 255).strange == "authentication of type 2"


@given(st.binary(max_size=60), st.integers(0, 255))
def test_a_message_in_an_authentication_header_is_taken_out(junk: bytes, words: int) -> None:
    """Of keepalived: 24 bytes, next header 112."""
    assert unwrap_ah(b"p\4\0\0" + bytes(20) + MESSAGE) == MESSAGE
    for payload in (junk, bytes([112, words]) + junk):
        try:
            assert payload.endswith(unwrap_ah(payload))
        except Dropped as dropped:
            assert dropped.reason == "ip"


@pytest.mark.parametrize(
    "packet",
    [
        b"", HEAD[:19], b"\x60" + HEAD[1:] + MESSAGE, b"\x44" + HEAD[1:] + MESSAGE, HEAD + MESSAGE[:-9],
        HEAD[:9] + b"\x06" + HEAD[10:] + MESSAGE, HEAD[:6] + b"\x20\0" + HEAD[8:] + MESSAGE,
        HEAD[:6] + b"\0\1" + HEAD[8:] + MESSAGE,
    ],
)  # fmt: skip
def test_what_is_no_ip_packet_of_ours_is_dropped(packet: bytes) -> None:
    with pytest.raises(Dropped):
        unpack_ipv4(packet)


@pytest.mark.parametrize("covers", Covers)
def test_by_unicast_old_peers_are_understood_and_told_apart(covers: Covers) -> None:
    sent = encode(GOOD3, "10.1.1.2", covers)
    assert decode(sent, GOOD3.source, "10.1.1.2", None) == GOOD3
    assert covered(sent, GOOD3.source, "10.1.1.2") is covers
    assert covered(sent[:-1] + b"\0", GOOD3.source, "10.1.1.2") is None


def test_padding_behind_the_packet_is_cut_off() -> None:
    packet = HEAD[:2] + (20 + len(MESSAGE)).to_bytes(2) + HEAD[4:] + MESSAGE
    assert unpack_ipv4(packet + bytes(6)) == (MESSAGE, "10.1.1.3", "224.0.0.18", 255)


def test_a_message_summed_by_hand() -> None:
    advert = decode(BY_HAND, "10.0.0.1", GROUP[4], 255)
    assert advert == Advertisement("10.0.0.1", 2, 51, 100, 1.0, ("10.0.0.100",))
    assert encode(advert, GROUP[4]) == BY_HAND


@given(st.binary(max_size=60), st.integers(0, 255))
def test_junk_moves_no_master(message: bytes, hops: int) -> None:
    router = Router(Instance(51, 2, 99, 1.0, ("10.1.1.250",), "10.1.1.2"), 0.0)
    router.handle(Start(), 0.0)
    before = router.deadline()
    try:
        router.handle(Heard(decode(message, "10.1.1.3", GROUP[4], hops)), 1.0)
    except Dropped:
        assert (router.state, router.deadline()) == (State.BACKUP, before)
