"""What a device is told: applied to what it knows, it is exactly what it is to have; every part fits into a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.manifest import Entry, Kind, Manifest
from notifier.difference import PART, difference
from runtime.version import together
from tests.unit.test_manifest import FLAT, file


def applied(before: Manifest | None, parts: tuple[dict[str, list[object]], ...]) -> Manifest:
    entries = dict(before.entries) if before is not None else {}
    for part in parts:
        for name in part["gone"]:
            del entries[str(name)]
        for name, kind, mode, content, size in part["changed"]:  # type: ignore[misc]
            entries[name] = Entry(Kind(kind), mode, content, size)
    return Manifest(entries)


@given(st.one_of(st.none(), FLAT), FLAT)
def test_it_gives_exactly_the_wanted_one(before: Manifest | None, after: Manifest) -> None:
    parts = difference(before, after).parts()
    assert applied(before, json.loads(json.dumps(parts))) == after


def test_equal_ones_take_one_empty_part() -> None:
    tree = Manifest({"a": file("one")})
    assert difference(tree, tree).parts() == ({"gone": [], "changed": []},)


def test_large_ones_come_in_parts_that_fit() -> None:
    before = Manifest({f"old {n:05d} {'x' * 100}": file("") for n in range(9000)})
    after = Manifest({f"new {n:05d} \udce9 {'y' * 100}": file(str(n)) for n in range(9000)})
    parts = difference(before, after).parts()
    assert len(parts) > 3 and all(len(json.dumps(part)) < PART + 100 for part in parts)
    assert applied(before, parts) == after


@pytest.mark.parametrize(
    ("own", "theirs", "suspended", "why"),
    [
        ("0.1.0", "0.1.0", False, ""),
        ("0.1.0", "0.2.0", True, ""),
        ("1.5.2", "1.4.9", True, ""),
        ("0.1.0", "0.2.0", False, "`ha suspend` first"),
        ("0.1.0", "0.1.1", False, "`ha suspend` first"),
        ("0.1.0", "0.3.0", True, "install the same version on both"),
        ("1.0.0", "2.0.0", True, "install the same version on both"),
        ("1.0.0", "unknown", True, "install the same version on both"),
    ],
)
def test_which_versions_may_work_together(own: str, theirs: str, suspended: bool, why: str) -> None:
    said = together(own, "vs-28", theirs, suspended=suspended)
    assert said.endswith(why) and bool(said) == bool(why)
