"""Weights by load: corrections are small, bounded, and end when the group is even or idle."""

from __future__ import annotations

import pytest

from director.balance import Load, corrected
from director.hashing import bucket, jhash

EVEN = {name: Load(1.0, 0.6, 500) for name in "abc"}


def test_an_even_group_keeps_its_factors() -> None:
    assert corrected({"a": 0.5, "b": 1.0}, EVEN) == {"a": 0.5, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("busy", [Load(1.0, 0.95, 500), Load(1.0, 0.3, 2000)])
def test_the_busier_one_is_given_a_tenth_less(busy: Load) -> None:
    others = {name: Load(1.0, 0.3, 500) for name in "bc"}
    assert corrected({}, {"a": busy} | others) == {"a": 0.9, "b": 1.0, "c": 1.0}


def test_capacity_counts_before_load() -> None:
    loads = {"big": Load(4.0, 0.6, 4000), "small": Load(1.0, 0.6, 1000)}
    assert corrected({}, loads) == {"big": 1.0, "small": 1.0}


def test_never_below_a_quarter_and_back_when_idle() -> None:
    factors: dict[str, float] = {}
    loads = {"a": Load(1.0, 1.0, 0), "b": Load(1.0, 0.1, 0)}
    for _ in range(100):
        factors = corrected(factors, loads)
    assert factors == {"a": 0.25, "b": 1.0}
    for _ in range(20):
        factors = corrected(factors, {name: Load(1.0, 0.01, 0) for name in "ab"})
    assert factors == {"a": 1.0, "b": 1.0}


def test_it_converges_on_what_the_nodes_can_carry() -> None:
    """Node a is half as fast as configured: processors of both are even in the end."""
    factors: dict[str, float] = {}
    for _ in range(60):
        whole = sum(factors.get(name, 1.0) for name in "ab")
        share = {name: factors.get(name, 1.0) / whole for name in "ab"}
        loads = {"a": Load(1.0, min(1.0, 1.2 * share["a"]), 0), "b": Load(1.0, min(1.0, 0.6 * share["b"]), 0)}
        factors = corrected(factors, loads)
    assert abs(loads["a"].cpu - loads["b"].cpu) < 0.35
    assert corrected(factors, loads) == factors


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [(b"\x0a\0\0\1", 0x33, 1447806092), (b"\x0a\0\0\2", 0x33, 306481194)],
)
def test_jhash_of_the_kernel(data: bytes, seed: int, value: int) -> None:
    assert jhash(data, seed) == value


def test_buckets_cover_the_range_evenly() -> None:
    found = [bucket(f"10.1.{i // 250}.{i % 250 + 1}", 16, 51) for i in range(8000)]
    assert set(found) == set(range(16))
    assert max(found.count(b) for b in range(16)) < 2 * min(found.count(b) for b in range(16))
    assert {bucket("10.0.0.1", 1024, 51, port) for port in range(1024, 1100)} != {bucket("10.0.0.1", 1024, 51)}
