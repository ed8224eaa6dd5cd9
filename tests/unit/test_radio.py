"""Frames in and out: what is taken, what is counted, how often the log hears of it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from heartbeat.frames import Key, Keyring, Method, encode
from heartbeat.model import Boot, Heard, Message, PingReply
from heartbeat.radio import PingGroups, Radio
from heartbeat.wire import Header, fields

RING = Keyring.of(1, [Key(1, Method.SHA256, b"right")])
WRONG = Keyring.of(1, [Key(1, Method.SHA256, b"wrong")])
PEER = Message("vs-28", Boot(3, 4), 17)


class Queue:
    def __init__(self, name: str) -> None:
        self.name = name
        self.arrived: list[bytes] = []
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return True

    def receive(self) -> list[bytes]:
        arrived, self.arrived = self.arrived, []
        return arrived


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.links = [Queue("eth0"), Queue("eth1")]
        self.radio = Radio(self.links, RING, "vs-166", 1.0, 3, lambda: self.now)


def frame(said: Message, ring: Keyring = RING) -> bytes:
    return encode(fields(said, Header(bytes(16))), ring)


def test_what_is_said_is_said_on_every_link_and_heard() -> None:
    here, there = Bench(), Bench()
    there.radio.say(PEER)
    here.links[0].arrived, here.links[1].arrived = there.links[0].sent, there.links[1].sent
    assert here.radio.heard() == [Heard("eth0", PEER), Heard("eth1", PEER)]
    assert here.radio.heard() == [] and here.radio.refused["eth0"].total == 0


def test_everything_queued_is_taken_in_order() -> None:
    bench = Bench()
    bench.links[0].arrived = [frame(replace(PEER, seq=seq)) for seq in range(5)]
    assert [heard.message.seq for heard in bench.radio.heard()] == [0, 1, 2, 3, 4]


def test_what_is_not_the_peers_is_counted_by_kind() -> None:
    bench = Bench()
    linux_ha = encode({"t": "status", "st": "active", "src": "vs-28"}, RING)
    strange = encode({"t": "status", "x_v": "3"}, RING)
    bench.links[0].arrived = [b"noise", frame(PEER, WRONG), strange, linux_ha, frame(replace(PEER, node="vs-166")), frame(PEER)]
    assert bench.radio.heard() == [Heard("eth0", PEER)]
    counted = bench.radio.counters()["eth0"]
    assert (counted["unauthentic"], counted["unusable"], counted["foreign"]) == (2, 1, 2)
    assert "vs-166 too" in str(counted["because"])


def test_a_flood_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            bench.now += 1.0
            bench.links[0].arrived = [b"noise"] * 20
            bench.radio.heard()
    assert len(caplog.records) == 5
    assert "1200 frames were not taken" in caplog.records[-1].getMessage()


def test_new_keys_are_used_at_once() -> None:
    bench = Bench()
    bench.radio.keyring = WRONG
    bench.links[1].arrived = [frame(PEER, WRONG), frame(PEER, RING)]
    assert bench.radio.heard() == [Heard("eth1", PEER)]


class Pings:
    def __init__(self) -> None:
        self.sent: list[int] = []
        self.replied: list[tuple[str, int]] = []

    def send(self, seq: int) -> int:
        self.sent.append(seq)
        return 2

    def receive(self) -> list[tuple[str, int]]:
        return self.replied


def test_a_group_answers_when_any_of_its_addresses_does() -> None:
    pings = Pings()
    groups = PingGroups(pings, {"10.0.0.1": ("10.0.0.1",), "routers": ("10.0.0.1", "10.0.0.2")})
    assert groups.ping(5) == ["10.0.0.1", "routers"] and pings.sent == [5]
    pings.replied = [("10.0.0.2", 5), ("10.0.0.1", 4)]
    assert groups.replies() == [PingReply("routers", 5), PingReply("10.0.0.1", 4), PingReply("routers", 4)]
