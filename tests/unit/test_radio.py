"""Frames in and out: what is taken, what is counted, how often the log hears of it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from heartbeat.frames import Key, Keyring, Method, encode
from heartbeat.links import Datagram
from heartbeat.media import LinkLine, Medium
from heartbeat.model import Boot, Heard, Message, PingReply
from heartbeat.radio import FLOOD, SHIELDED, PingGroups, Radio
from heartbeat.timing import PROFILES
from heartbeat.wire import Header, fields

RING = Keyring.of(1, [Key(1, Method.SHA256, b"right")])
WRONG = Keyring.of(1, [Key(1, Method.SHA256, b"wrong")])
TIMING = PROFILES["recommended"]
PEER = Message("vs-28", Boot(3, 4), 17)


THERE, ALSO_THERE, STRANGER = "10.0.0.28", "10.0.0.29", "10.0.0.66"


class Queue:
    """A link; what arrives comes from the peer's address unless ``sender`` says otherwise."""

    def __init__(self, name: str, kind: str = "ucast") -> None:
        address = THERE if kind == "ucast" else ""
        self.line = LinkLine(name, name, 4, 694, (Medium(kind, name, address, 694),))
        self.name = name
        self.sender = THERE
        self.arrived: list[bytes] = []
        self.sent: list[bytes] = []
        self.lets_through: frozenset[str] = frozenset()

    @property
    def shielded(self) -> bool:
        return bool(self.lets_through)

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return True

    def receive(self) -> list[Datagram]:
        arrived, self.arrived = self.arrived, []
        return [Datagram(frame, self.sender) for frame in arrived]

    def shield(self, senders: Collection[str]) -> None:
        self.lets_through = frozenset(senders)


class Bench:
    def __init__(self, kind: str = "ucast") -> None:
        self.now = 100.0
        self.links = [Queue("eth0", kind), Queue("eth1", kind)]
        self.radio = Radio(self.links, RING, "vs-166", TIMING, 3, lambda: self.now)
        self.seq = 17

    def arrives(self, sender: str, count: int = 1, content: bytes = b"") -> list[Heard]:
        """From ``sender`` on eth0: so many new frames of the peer, or of ``content``."""
        self.links[0].sender = sender
        for _ in range(count):
            self.seq += 1
            self.links[0].arrived.append(content or frame(replace(PEER, seq=self.seq)))
        return self.radio.heard()

    def counted(self) -> dict[str, Any]:
        return self.radio.counters()["eth0"]


def frame(said: Message, ring: Keyring = RING) -> bytes:
    return encode(fields(said, Header(bytes(16))), ring)


def test_what_is_said_is_said_on_every_link_and_heard() -> None:
    here, there = Bench(), Bench()
    there.radio.say(PEER)
    here.links[0].arrived, here.links[1].arrived = there.links[0].sent, there.links[1].sent
    assert here.radio.heard() == [Heard("eth0", PEER), Heard("eth1", PEER)]
    assert here.radio.heard() == [] and here.counted()["senders"] == {}


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


def test_a_frame_that_was_good_is_not_good_under_other_keys() -> None:
    """It is read once for all links, but not trusted for ever."""
    bench = Bench()
    bench.links[0].arrived = [frame(PEER)]
    assert bench.radio.heard() == [Heard("eth0", PEER)]
    bench.radio.keyring = WRONG
    bench.links[1].arrived = [frame(PEER)]
    assert bench.radio.heard() == []
    assert bench.radio.counters()["eth1"]["unauthentic"] == 1


# --- who may speak --------------------------------------------------------------------------------------------------------


def test_while_the_peer_is_heard_a_replay_from_elsewhere_is_not_even_looked_at() -> None:
    bench = Bench()
    assert len(bench.arrives(THERE)) == 1
    assert bench.arrives(STRANGER, 3) == []
    assert (bench.counted()["stranger"], bench.counted()["senders"]) == (3, {STRANGER: 3})
    assert "ha.cf doesn't name" in bench.counted()["because"]
    assert bench.links[0].lets_through == frozenset()


def test_a_peer_that_speaks_from_another_of_its_addresses_is_heard_before_deadtime(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.arrives(THERE)
    heard_after = 0.0
    while not bench.arrives(ALSO_THERE):  # its address on the link was changed
        bench.now += 0.05
        heard_after += 0.05
    assert heard_after < TIMING.deadtime
    assert f"vs-28 speaks from {ALSO_THERE}, which ha.cf doesn't name" in caplog.text
    assert len(bench.arrives(ALSO_THERE)) == len(bench.arrives(THERE)) == 1
    assert bench.arrives(STRANGER) == []


def test_a_peer_that_never_speaks_from_its_named_address_is_heard_at_once() -> None:
    bench = Bench()
    assert len(bench.arrives(ALSO_THERE)) == 1 and len(bench.arrives(ALSO_THERE)) == 1


def test_a_peer_that_answers_on_one_link_from_its_address_on_the_other() -> None:
    bench = Bench()
    bench.links[1].line = replace(bench.links[1].line, media=(Medium("ucast", "eth1", ALSO_THERE, 694),))
    bench.radio = Radio(bench.links, RING, "vs-166", TIMING, 3, lambda: bench.now)
    assert len(bench.arrives(THERE)) == len(bench.arrives(ALSO_THERE)) == 1


def test_noise_never_makes_an_address_known() -> None:
    bench = Bench()
    bench.arrives(STRANGER, 3, b"noise")
    bench.arrives(THERE)
    bench.arrives(STRANGER, 1)
    assert (bench.counted()["unauthentic"], bench.counted()["stranger"]) == (3, 1)


def test_on_a_broadcast_link_everybody_is_listened_to_and_believed_with_the_key_only() -> None:
    bench = Bench("bcast")
    assert len(bench.arrives(THERE)) == len(bench.arrives(ALSO_THERE)) == 1
    assert bench.arrives(STRANGER, 1, b"noise") == [] and bench.counted()["unauthentic"] == 1


def test_ones_own_broadcast_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("bcast")
    bench.radio.say(replace(PEER, node="vs-166", boot=Boot(9, 9)))
    bench.links[0].arrived = bench.links[0].sent
    assert bench.radio.heard() == [] and bench.counted()["senders"] == {} and caplog.text == ""


@pytest.mark.parametrize("kind", ["ucast", "bcast"])
def test_a_replay_is_counted_and_goes_no_further(kind: str) -> None:
    bench = Bench(kind)
    old = [frame(replace(PEER, seq=seq)) for seq in (10, 11)]
    bench.links[0].arrived = [*old, *old, frame(replace(PEER, boot=Boot(2, 9), seq=99))]
    assert [heard.message.seq for heard in bench.radio.heard()] == [10, 11]
    assert bench.counted()["again"] == 3
    bench.links[0].arrived = [frame(replace(PEER, boot=Boot(4, 9), seq=1)), *old]
    assert [heard.message.boot for heard in bench.radio.heard()] == [Boot(4, 9)]


def test_the_copy_on_the_second_link_is_no_replay() -> None:
    bench = Bench()
    bench.links[0].arrived = bench.links[1].arrived = [frame(PEER)]
    assert [heard.link for heard in bench.radio.heard()] == ["eth0", "eth1"]


def test_another_node_with_the_key_does_not_make_the_peers_frames_old() -> None:
    bench = Bench("bcast")
    bench.links[0].arrived = [frame(replace(PEER, node="vs-99", boot=Boot(500, 9), seq=99)), frame(PEER)]
    assert [heard.message.node for heard in bench.radio.heard()] == ["vs-99", "vs-28"]


def test_strangers_are_counted_one_by_one_up_to_a_number() -> None:
    bench = Bench()
    bench.arrives(THERE)
    for i in range(40):
        bench.arrives(f"10.9.9.{i}")
    assert len(bench.counted()["senders"]) == 17 and bench.counted()["senders"]["others"] == 24


# --- floods ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ucast", "bcast"])
def test_a_flood_raises_a_shield_that_the_peer_passes(kind: str) -> None:
    bench = Bench(kind)
    bench.arrives(THERE)
    bench.arrives(STRANGER, FLOOD, b"noise")
    assert bench.links[0].lets_through == {THERE} and not bench.links[1].shielded
    bench.now += SHIELDED / 2
    bench.arrives(THERE)
    assert bench.links[0].lets_through == {THERE}
    for _ in range(40):
        bench.now += SHIELDED / 40
        bench.arrives(THERE)
    assert not bench.links[0].shielded


def test_no_shield_while_nothing_is_known_of_the_peer() -> None:
    bench = Bench()
    bench.arrives(STRANGER, 3 * FLOOD, b"noise")
    assert not bench.links[0].shielded
    assert len(bench.arrives(THERE)) == 1


def test_the_shield_is_lowered_as_soon_as_the_peer_is_not_heard() -> None:
    """It may have another address now."""
    bench = Bench()
    bench.arrives(THERE)
    bench.arrives(STRANGER, FLOOD, b"noise")
    bench.now += TIMING.warntime
    assert bench.radio.heard() == [] and not bench.links[0].shielded
    assert len(bench.arrives(ALSO_THERE)) == 1


def test_few_refused_frames_over_a_long_time_are_no_flood() -> None:
    bench = Bench()
    for _ in range(3 * FLOOD):
        bench.now += 0.01
        bench.arrives(THERE)
        bench.arrives(STRANGER)
    assert bench.counted()["stranger"] == 3 * FLOOD and not bench.links[0].shielded


# --- pings ----------------------------------------------------------------------------------------------------------------


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
    assert not groups.asked
    assert groups.ping(5) == ["10.0.0.1", "routers"] and pings.sent == [5] and groups.asked
    pings.replied = [("10.0.0.2", 5), ("10.0.0.1", 4)]
    assert groups.replies() == [PingReply("routers", 5), PingReply("10.0.0.1", 4), PingReply("routers", 4)]
    assert not groups.asked
