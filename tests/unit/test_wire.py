"""Messages as fields of frames: all of them travel, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from heartbeat.frames import FrameError, Key, Keyring, Method, Value, decode, encode
from heartbeat.model import Boot, Epoch, Message, Mode, Phase, Times
from heartbeat.wire import Header, macs, message
from heartbeat.wire import fields as to_fields

RING = Keyring.of(1, [Key(1, Method.SHA256, b"s")])
HEADER = Header(uuid=bytes(16), deadtime_ms=7000, ttl=4, time=0x6B00A167)
PLAIN = Message("vs-28", Boot(7, 0xABCDEF), 1)
FULL = Message(
    node="Vs-166.Example", boot=Boot(0x6B00A168, 2**64 - 1), seq=2**40, echo_boot=Boot(5, 6), echo_seq=77,
    phase=Phase.STANDING_DOWN, epoch=Epoch(12, "vs-28"), highest=13, solo=True, in_sync=True, stood_down=True,
    returns=True, fit=True,
    calls_in_sync=0, asks_release=True, asks_ping=True, ping_after=9, connected=True, pledged_to=Boot(3, 4), data="ready",
    lsn=2**62, beyond=3, vip=True, suspended=True, suspend_version=2, leaving="handover", arp=True, fences=True, changes=4,
    mode=Mode(off=True, lax=True),
    times=Times(1.0, 2.5, 3.5),
)  # fmt: skip


def test_the_sample_differs_from_the_default_in_every_field() -> None:
    default = Message("", Boot(), 0)
    assert [each.name for each in fields(Message) if getattr(FULL, each.name) == getattr(default, each.name)] == []


@pytest.mark.parametrize("sent", [PLAIN, FULL])
def test_a_message_survives_the_wire(sent: Message) -> None:
    assert message(decode(encode(to_fields(sent, HEADER), RING), RING)) == sent


def test_what_linux_ha_reads() -> None:
    out = to_fields(FULL, HEADER)
    expected = {"t": "status", "st": "active", "dt": "1b58", "protocol": "1", "src": "Vs-166.Example", "srcuuid": bytes(16),
                "seq": "10000000000", "hg": "6b00a168", "ts": "6b00a167", "ttl": "4"}  # fmt: skip
    assert {name: out[name] for name in expected} == expected
    assert next(iter(out)) == "t"


def test_a_heartbeat_fits_into_one_ethernet_frame() -> None:
    assert len(encode(to_fields(FULL, HEADER), RING)) < 1400


def test_a_linux_ha_peer_is_not_ours() -> None:
    assert message({name: value for name, value in to_fields(FULL, HEADER).items() if not name.startswith("x_")}) is None


def test_fields_of_the_future_are_ignored() -> None:
    assert message(to_fields(FULL, HEADER) | {"x_future": "?"}) == FULL


#: what may be missing
_MAY = {"x_v", "x_mode", "x_times"}


@pytest.mark.parametrize(
    "name", [*sorted({n for n in to_fields(FULL, HEADER) if n.startswith("x_")} - _MAY), "src", "hg", "seq"]
)
def test_a_missing_or_binary_field_is_refused_by_name(name: str) -> None:
    whole = to_fields(FULL, HEADER)
    for frame in ({n: v for n, v in whole.items() if n != name}, whole | {name: b"1"}):
        with pytest.raises(FrameError, match=name):
            message(frame)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("src", ""), ("src", "-a"), ("src", "a b"), ("src", "a" * 65), ("src", "a\n"), ("hg", "G"), ("hg", "-1"), ("hg", "0x1"),
        ("hg", "1_0"), ("hg", "AB"), ("seq", ""), ("seq", "1" * 17), ("x_nonce", "zz"), ("x_eboot", "5"), ("x_eboot", "5/"),
        ("x_eboot", "5/6/7"), ("x_eseq", "-1"), ("x_eseq", "+1"), ("x_eseq", "01"), ("x_eseq", "٣"),
        ("x_eseq", str(2**63)),
        ("x_phase", "dead"), ("x_epoch", "1"), ("x_epoch", "1/a/b"), ("x_epoch", "-1/a"), ("x_epoch", "1/a b"),
        ("x_high", "-1"),
        ("x_solo", "2"), ("x_solo", "true"), ("x_sync", ""), ("x_calls", "-2"), ("x_lsn", "-0"), ("x_lsn", "1e9"),
        ("x_data", "gone"),
        ("x_leave", "soon"), ("x_susp", "yes"), ("x_v", "1"), ("x_v", b"2"), ("x_arp", "-1"), ("x_changes", "-1"),
        ("x_times", ""), ("x_times", "1/2"), ("x_times", "1/2/3/4"), ("x_times", "1/2/-3"), ("x_times", "1/2/3600001"),
        ("x_mode", ""), ("x_mode", "lo"), ("x_mode", "oo"), ("x_mode", "x"), ("x_mode", b"o"),
    ],
)  # fmt: skip
def test_values_are_strict(name: str, value: Value) -> None:
    with pytest.raises(FrameError):
        message(to_fields(FULL, HEADER) | {name: value})


def test_a_server_that_does_not_say_how_commits_are_acknowledged_is_as_strict_as_any() -> None:
    frame = to_fields(FULL, HEADER)
    assert frame.pop("x_mode") == "ol" and message(frame) == replace(FULL, mode=Mode())
    for mode in (Mode(), Mode(True), Mode(release=True), Mode(True, True, True)):
        assert message(to_fields(replace(FULL, mode=mode), HEADER)) == replace(FULL, mode=mode)


def test_a_server_that_does_not_say_its_times_leaves_the_other_one_s_as_they_are() -> None:
    frame = to_fields(FULL, HEADER)
    assert frame.pop("x_times") == "1000/2500/3500" and message(frame) == replace(FULL, times=Times())


def test_an_empty_epoch_travels() -> None:
    sent = replace(PLAIN, epoch=Epoch())
    assert message(to_fields(sent, HEADER)) == sent


def test_the_macs_of_the_sender() -> None:
    named = (bytes.fromhex("02000000a166"), bytes.fromhex("02000000a128"))
    frame = to_fields(FULL, replace(HEADER, macs=named))
    assert macs(frame) == frozenset(named) and message(frame) == FULL
    assert "x_macs" not in to_fields(FULL, HEADER) and macs({}) == frozenset()
    for wrong in (b"02000000a166", "02000000a16", "02:00:00:00:a1:66", " ".join(["02000000a166"] * 17), "02000000a166 "):
        assert macs({"x_macs": wrong}) == frozenset()
