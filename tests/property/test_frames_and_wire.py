"""Frames and messages under arbitrary input: round trips hold, and nothing but FrameError ever comes out."""

from __future__ import annotations

import contextlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st

from heartbeat.frames import CLASSIC_HEAD, CLASSIC_TAIL, HEAD, TAIL, FrameError, Key, Keyring, Method, authentic, decode, encode
from heartbeat.model import Boot, Epoch, Message, Phase
from heartbeat.ping import IPV4, IPV6, answered
from heartbeat.wire import Header, message, stamp
from heartbeat.wire import fields as to_fields

KEYS = [Key(1, Method.SHA256, b"one"), Key(2, Method.SHA1, b"two"), Key(3, Method.MD5, b"three"), Key(4, Method.CRC)]
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(lambda name: name != "auth")
texts = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=60)
fields = st.dictionaries(names, texts | st.binary(max_size=60), max_size=12)
counts = st.integers(0, 2**63 - 1)
nodes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
boots = st.builds(Boot, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
messages = st.builds(
    Message, node=nodes, boot=boots, seq=counts, echo_boot=boots, echo_seq=counts, phase=st.sampled_from(Phase),
    epoch=st.builds(Epoch, counts, nodes | st.just("")), highest=counts, solo=st.booleans(), in_sync=st.booleans(),
    stood_down=st.booleans(),
    returns=st.booleans(), fit=st.booleans(), calls_in_sync=st.integers(-1, 2**63 - 1), asks_release=st.booleans(),
    asks_ping=st.booleans(), ping_after=counts, connected=st.booleans(), pledged_to=boots,
    data=st.sampled_from(["ready", "starting", "copying", "none", "failed", "unknown"]), lsn=st.integers(-1, 2**63 - 1),
    beyond=counts, vip=st.booleans(), suspended=st.booleans(), suspend_version=counts,
    leaving=st.sampled_from(["", "restart", "handover", "off"]),
)  # fmt: skip


@given(fields, st.integers(1, 4))
def test_fields_come_back(sent: dict[str, str | bytes], sending: int) -> None:
    ring = Keyring.of(sending, KEYS, compatible=True)
    assert decode(encode(sent, ring), ring) == sent


@given(st.binary(max_size=400), st.booleans())
def test_noise_is_a_frame_error(noise: bytes, compatible: bool) -> None:
    ring = Keyring.of(1, KEYS, compatible)
    classic = CLASSIC_HEAD + noise + b"auth=1 " + KEYS[0].digest(noise) + b"\n" + CLASSIC_TAIL
    for datagram in (noise, HEAD + noise, HEAD + noise + TAIL, CLASSIC_HEAD + noise + CLASSIC_TAIL, classic):
        with contextlib.suppress(FrameError):
            decode(datagram, ring)


@given(
    st.lists(st.sampled_from([b"1", b"7", b"65", b":", b",", b"(0)", b"(1)", b"(2)", b"a", b"=", b"auth", TAIL, HEAD, b"\xff"]))
)
def test_pieces_of_frames_are_fields_or_a_frame_error(pieces: list[bytes]) -> None:
    """In compatibility mode the parser is reached without a key: whatever it takes must be plain fields."""
    with contextlib.suppress(FrameError):
        taken = decode(HEAD + b"".join(pieces) + TAIL, Keyring.of(1, KEYS, compatible=True))
        assert all(isinstance(name, str) and isinstance(value, str | bytes) for name, value in taken.items())


@given(fields, st.data())
def test_a_damaged_frame_is_never_accepted(sent: dict[str, str | bytes], data: st.DataObject) -> None:
    ring = Keyring.of(1, KEYS)
    frame = encode(sent, ring)
    at = data.draw(st.integers(0, len(frame) - 1))
    damaged = data.draw(
        st.sampled_from([frame[:at], frame[at + 1 :], frame + b"x", frame[:at] + bytes([frame[at] ^ 0x80]) + frame[at + 1 :]])
    )
    try:
        decode(damaged, ring)
    except FrameError:
        return
    raise AssertionError(damaged)


@given(fields)
def test_the_classic_form_carries_the_same_fields(sent: dict[str, str | bytes]) -> None:
    lines = b"".join(
        b"(1)%s=%s\n" % (name.encode(), b64encode(value)) if isinstance(value, bytes) else f"{name}={value}\n".encode()
        for name, value in sent.items()
    )
    frame = CLASSIC_HEAD + lines + b"auth=2 " + KEYS[1].digest(lines) + b"\n" + CLASSIC_TAIL
    assert decode(frame, Keyring.of(1, KEYS, compatible=True)) == sent


@given(st.binary(max_size=80) | st.builds(lambda rest: b"\x45" + bytes(19) + rest, st.binary(max_size=40)))
def test_no_packet_without_the_nonce_is_an_answer(packet: bytes) -> None:
    for kind in (IPV4, IPV6):
        assert answered(packet, 7, b"a nonce!", kind) is None


@given(messages)
def test_messages_come_back(sent: Message) -> None:
    ring = Keyring.of(1, KEYS)
    frame = encode(to_fields(sent, Header(bytes(16))), ring)
    assert message(decode(frame, ring)) == sent
    assert stamp(authentic(frame, ring)) == (sent.node, sent.boot, sent.seq)


@given(messages, st.data())
def test_a_strange_value_is_refused_or_means_what_it_says(sent: Message, data: st.DataObject) -> None:
    frame = to_fields(sent, Header(bytes(16)))
    name = data.draw(st.sampled_from(sorted(frame)))
    with contextlib.suppress(FrameError):
        taken = message(frame | {name: data.draw(texts)})
        if taken is not None:
            assert message(to_fields(taken, Header(bytes(16)))) == taken
