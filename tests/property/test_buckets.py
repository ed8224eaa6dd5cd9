"""Buckets over many sequences of joining, leaving, draining, weights: shares, moves, the chain of earlier owners."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.buckets import DEPTH, Buckets, Table, settled

COUNT = 1024
#: where they move in many rounds, each over all of them
FEW = 64
NAMES = [f"node{i:02}" for i in range(20)]
ALL = 10**9


def share(weights: dict[str, float], name: str, count: int = COUNT) -> float:
    return count * weights.get(name, 0.0) / sum(weights.values())


def made(weights: dict[str, float], count: int = COUNT) -> Buckets:
    buckets = Buckets(Table.empty(count))
    buckets.settle(weights, weights, weights, ALL)
    return buckets


weights_of_some = st.dictionaries(st.sampled_from(NAMES), st.floats(0.05, 8.0), min_size=1)


@given(weights_of_some)
def test_everybody_gets_the_weights_share(weights: dict[str, float]) -> None:
    counts = made(weights).table.counts()
    assert sum(counts.values()) == COUNT
    assert all(abs(counts[name] - share(weights, name)) < 1.001 for name in weights)


@given(st.lists(weights_of_some, min_size=2, max_size=6), st.integers(1, 40))
def test_shares_hold_after_any_sequence_a_few_at_a_time(sequence: list[dict[str, float]], limit: int) -> None:
    buckets = Buckets(Table.empty(FEW))
    for weights in sequence:
        rounds = 0
        alive = set(weights) | {owner for owner in buckets.table.owners if owner}
        while moves := buckets.settle(weights, alive, alive, limit):
            planned = [move for move in moves if move.giver]
            assert len(planned) <= limit
            rounds += 1
            assert rounds <= FEW, "settling does not end"
        counts = buckets.table.counts()
        assert all(abs(counts[name] - share(weights, name, FEW)) < 1.001 for name in weights)
        assert set(counts) <= set(weights)
        assert settled(buckets.table, weights, alive)


@pytest.mark.parametrize("n", range(1, 20))
def test_a_share_moves_when_a_node_joins_and_nothing_else(n: int) -> None:
    buckets = made(dict.fromkeys(NAMES[:n], 1.0))
    after = dict.fromkeys(NAMES[: n + 1], 1.0)
    moves = buckets.settle(after, after, after, ALL)
    assert 0 < len(moves) <= ceil(COUNT / (n + 1))
    assert {move.taker for move in moves} == {NAMES[n]}


@pytest.mark.parametrize("n", range(2, 21))
def test_only_the_lost_nodes_buckets_move(n: int) -> None:
    for lost in NAMES[:n]:
        buckets = made(dict.fromkeys(NAMES[:n], 1.0))
        held = buckets.table.counts()[lost]
        rest = {name: 1.0 for name in NAMES[:n] if name != lost}
        moves = buckets.settle(rest, rest, rest, 0)
        assert len(moves) == held and {move.giver for move in moves} == {lost}
        assert settled(buckets.table, rest, rest)


@given(st.lists(st.sampled_from(NAMES[:8]), min_size=1, max_size=30))
def test_equals_that_come_and_go_move_as_few_as_they_can(turns: list[str]) -> None:
    present = dict.fromkeys(NAMES[8:10], 1.0)
    buckets = made(present, FEW)
    for name in turns:
        held = buckets.table.counts()[name]
        joins = name not in present
        present = {**present, name: 1.0} if joins else {each: 1.0 for each in present if each != name}
        moves = buckets.settle(present, present, present, ALL)
        assert len(moves) <= (ceil(FEW / len(present)) if joins else held)


@given(st.data())
def test_the_chain_of_earlier_owners_ends_and_nobody_dead_is_asked(data: st.DataObject) -> None:
    present = dict.fromkeys(NAMES[:5], 1.0)
    buckets = made(present, FEW)
    for _ in range(data.draw(st.integers(1, 12))):
        weights = data.draw(st.dictionaries(st.sampled_from(NAMES[:5]), st.floats(0.1, 4.0), min_size=1))
        known = set(weights) | set(data.draw(st.sets(st.sampled_from(NAMES[:5]))))
        alive = {each for each in known if each in weights or data.draw(st.booleans())}
        buckets.settle(weights, alive, known, data.draw(st.integers(0, 200)))
        table = buckets.table
        for bucket, before in enumerate(table.before):
            assert len(before) <= DEPTH and len(set(before)) == len(before)
            assert table.owners[bucket] not in before and set(before) <= known
            seen, at = [], table.owners[bucket]
            while at:
                seen.append(at)
                at = table.next_of(at, bucket, alive)
            assert seen == [table.owners[bucket], *(each for each in before if each in alive)]


def test_a_drained_node_gives_all_a_few_at_a_time_and_is_still_asked() -> None:
    everybody = dict.fromkeys(NAMES[:5], 1.0)
    buckets = made(everybody)
    rest = dict.fromkeys(NAMES[1:5], 1.0)
    held = {bucket for bucket, owner in enumerate(buckets.table.owners) if owner == NAMES[0]}
    first = buckets.settle(rest, everybody, everybody, 16)
    assert len(first) == 16
    while buckets.settle(rest, everybody, everybody, 16):
        pass
    assert NAMES[0] not in buckets.table.owners
    assert {bucket for bucket, before in enumerate(buckets.table.before) if before == (NAMES[0],)} == held


def test_who_returns_gets_the_same_buckets() -> None:
    everybody = dict.fromkeys(NAMES[:5], 1.0)
    buckets = made(everybody)
    before = buckets.table.owners
    rest = dict.fromkeys(NAMES[1:5], 1.0)
    buckets.settle(rest, rest, everybody, ALL)
    buckets.settle(everybody, everybody, everybody, ALL)
    assert buckets.table.owners == before


def test_with_nobody_to_own_them_buckets_stay() -> None:
    buckets = made({"a": 1.0})
    assert buckets.settle({}, {}, {}, ALL) == []
    assert set(buckets.table.owners) == {"a"}
    assert buckets.settle({"a": 0.0}, {"a"}, {"a"}, ALL) == []
