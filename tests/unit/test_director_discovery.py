"""Protocol 253: what is forged, replayed or garbled is dropped, counted, and changes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director import tables
from director.buckets import Buckets, Table
from director.discovery import Dropped, Freshness, Kind, Message, decode, encode
from director.members import Member, from_json
from tests.unit.proxy_members import KEY, LBID, World, group_of

MAC = "02:00:00:00:00:09"


def message(session: int = 7, counter: int = 1, **body: object) -> Message:
    return Message(Kind.MEMBER, LBID, session, counter, MAC, body)


def echoing(mine: Freshness, session: int = 7, counter: int = 1) -> Message:
    return message(session, counter, echo={"sessions": [f"{mine.session:x}"]})


def reason(data: bytes, key: bytes = KEY, lbid: int = LBID) -> str:
    with pytest.raises(Dropped) as dropped:
        decode(data, key, lbid)
    return dropped.value.because


def test_what_is_encoded_is_decoded() -> None:
    sent = message(2**63, 2**40, me={"name": "jupiter"})
    assert decode(encode(sent, KEY), KEY, LBID) == sent


def test_why_messages_are_dropped() -> None:
    data = encode(message(), KEY)
    assert reason(data[:20]) == reason(b"") == reason(b"x" * 100) == "not a message"
    assert reason(data, lbid=52) == "another group"
    assert reason(data, key=b"other") == "authentication"
    assert reason(data[:4] + b"\x02" + data[5:]) == "version"
    for at in range(10, len(data)):
        assert reason(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) == "authentication"


def signed(head: bytes, body: bytes) -> bytes:
    return head + body + hmac.digest(KEY, head + body, hashlib.sha256)


@given(st.binary(max_size=300))
def test_garbled_bodies_of_key_holders_are_dropped(body: bytes) -> None:
    head = encode(message(), KEY)[:32]
    try:
        decode(signed(head, body), KEY, LBID)
    except Dropped as dropped:
        assert dropped.because in ("garbled", "authentication")


def test_a_body_that_inflates_without_end_is_dropped() -> None:
    head = encode(message(), KEY)[:32]
    assert reason(signed(head, zlib.compress(b"[" * 10_000_000))) == "garbled"
    assert reason(signed(head, zlib.compress(b"[" * 60_000))) == "garbled"


def test_a_message_counts_only_with_our_number_in_it_and_once() -> None:
    mine = Freshness(99)
    assert not mine.accept(message()), "never heard us: only answered"
    assert mine.echo(MAC) == {"sessions": ["7"]}
    assert mine.accept(echoing(mine))
    with pytest.raises(Dropped, match="replayed"):
        mine.accept(echoing(mine))
    assert mine.accept(echoing(mine, counter=2))


def test_an_earlier_life_of_the_sender_or_of_ours_is_void() -> None:
    mine = Freshness(99)
    first, second = echoing(mine, 7, 50), echoing(mine, 8, 1)
    assert mine.accept(first)
    assert mine.accept(second)
    with pytest.raises(Dropped, match="replayed"):
        mine.accept(dataclasses.replace(first, counter=51))
    again = Freshness(100)
    assert not again.accept(second), "it echoes the number of another life"
    assert again.accept(echoing(again, 8, 5))
    with pytest.raises(Dropped, match="replayed"):
        again.accept(second)  # by now it is known to be old, and counted


def test_replays_of_strangers_do_not_push_out_a_member() -> None:
    mine = Freshness(99)
    assert mine.accept(echoing(mine))
    for session in range(100, 200):
        assert not mine.accept(message(session))
    assert "7" in mine.echo(MAC)["sessions"] and len(mine.echo(MAC)["sessions"]) <= 4
    assert mine.accept(echoing(mine, counter=2))


def test_after_many_lives_of_a_sender_a_new_number_is_due() -> None:
    mine = Freshness(99)
    for session in range(1, 100):
        assert mine.accept(echoing(mine, session))
    assert mine.exhausted
    mine.renew(500)
    assert not mine.exhausted and not mine.accept(echoing(Freshness(99), 50, 10**6))


@pytest.mark.parametrize("to", [0, 1])
def test_everything_ever_said_replayed_changes_nothing(to: int) -> None:
    """A whole history, to the director and to a member; while the group lives on, and after a restart of the receiver."""
    world = group_of(4)
    world.hosts[2].report(draining=True)
    world.run(3.0)
    recorded = list(world.recorded)
    world.hosts[2].report(draining=False)
    world.run(8.0)
    host = world.hosts[to]

    def state() -> object:
        known = {mac: (k.member, k.failed) for mac, k in host.group.known.items()}
        return known, host.group.director, host.group.term, host.group.tables.current, host.group.tables.loaded()

    before = state()
    for source, data in recorded:
        if source != host.ip:
            host.receive(data, source)
    world.wire.clear()
    assert state() == before
    assert host.counters.dropped["replayed"] > 50
    host.start()
    for source, data in recorded:
        if source != host.ip:
            host.receive(data, source)
    assert list(host.group.known) == [host.mac] and not host.group.tables.current and not host.group.director


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
@settings(max_examples=50)
def test_nonsense_is_no_member_and_no_table(value: object) -> None:
    with pytest.raises(ValueError):
        from_json(value)
    with pytest.raises(ValueError):
        tables.from_json(value if isinstance(value, dict) else {})


@given(st.data())
@settings(max_examples=100)
def test_a_member_with_one_thing_wrong_is_no_member_or_a_plausible_one(data: st.DataObject) -> None:
    said = Member(MAC, "a", "10.0.0.1", ports={"tcp 80": True}, places={"10.0.0.2": (MAC, "10.0.0.1")}).as_json()
    assert from_json(json.loads(json.dumps(said))).as_json() == said
    said[data.draw(st.sampled_from(sorted(said)))] = data.draw(plain)
    try:
        member = from_json(json.loads(json.dumps(said)))
    except ValueError:
        return
    told = member.as_json()  # rounded
    assert from_json(told).as_json() == told


@given(st.lists(st.dictionaries(st.sampled_from([f"02:00:00:00:00:{i:02x}" for i in range(9)]), st.floats(0.1, 4), min_size=1)))
@settings(max_examples=30)
def test_tables_come_back_as_they_were(sequence: list[dict[str, float]]) -> None:
    buckets = Buckets(Table.empty(256))
    for weights in sequence:
        buckets.settle(weights, weights, weights, 10**6)
    body = json.loads(json.dumps(tables.as_json("tcp 80", buckets.table, (3, 4), True)))
    assert tables.from_json(body) == ("tcp 80", buckets.table, (3, 4), True)


@given(st.sampled_from(["me", "term", "tables", "members", "successor", "wishes", "want", "rows", "serial", "key"]), plain)
@settings(max_examples=25, deadline=None)
def test_a_key_holder_who_talks_nonsense_ends_nobody(field: str, value: object) -> None:
    world = World(2)
    world.run(1.0)
    world.directs(world.hosts[0])
    world.run(0.5)
    talker, listener = world.hosts
    for kind in Kind:
        for _, data in world.recorded[-6:]:
            said = decode(data, KEY, LBID)
            body = {**said.body, field: value, "echo": {"sessions": [f"{listener.freshness.session:x}"]}}
            talker.counter += 10
            nonsense = Message(kind, LBID, talker.freshness.session, talker.counter, talker.mac, body)
            listener.receive(encode(nonsense, KEY), talker.ip)
    world.wire.clear()
    world.run(2.0)
    assert world.agree()
