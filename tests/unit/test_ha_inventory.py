"""Extensions and collations of two servers, compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha_manager.inventory import Inventory, aging, compare, loose
from ha_manager.stock import Stock
from runtime.errors import ReplicationError

A = Inventory(
    "vs-166", {"plpgsql 1.0": ("logs", "reports"), "hstore 1.8": ("logs",)}, {"plpgsql": ("1.0",), "hstore": ("1.7", "1.8")},
    {"libc en_US.utf8": "2.36"}, {"libc en_US.utf8": "2.36"},
)  # fmt: skip
B = replace(A, node="vs-28")


class Tick:
    """A clock: a minute later whenever it is looked at."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 60.0
        return self.now


ROWS = [
    (A, B, "", ""),
    (A, replace(B, available={"plpgsql": ("1.0",)}), "hstore (used in logs) is not installed on vs-28", ""),
    (A, replace(B, available={"plpgsql": ("1.0",), "hstore": ("1.6", "1.7")}),
     "hstore 1.8 (used in logs): vs-28 has only 1.6, 1.7", ""),
    (A, replace(B, available=A.available | {"postgis": ("3",)}), "", ""),
    (A, replace(B, collations={"libc en_US.utf8": "2.31"}, recorded={}), "", "2.36 on vs-166, 2.31 on vs-28"),
    (A, replace(B, collations={"libc de_DE.utf8": "2.31"}, recorded={}), "", ""),
    (replace(A, preloads=("pgaudit",)), B, "differ: vs-166 pgaudit; vs-28 none", ""),
    (replace(A, preloads=("a", "b")), replace(B, preloads=("b", "a")), "", ""),
    (replace(A, recorded={"libc en_US.utf8": "2.31"}), B, "", "built with libc en_US.utf8 version 2.31, vs-166 has 2.36"),
    (A, replace(B, recorded={"libc en_US.utf8": "2.31"}), "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("mine", "theirs", "extensions", "collations"), ROWS)
def test_what_differs(mine: Inventory, theirs: Inventory, extensions: str, collations: str) -> None:
    found = compare(mine, Inventory.from_json(theirs.as_json()))
    assert (extensions in found["extensions"]) if extensions else found["extensions"] == ""
    assert (collations in found["collations"]) if collations else found["collations"] == ""
    assert compare(theirs, mine)["extensions"] == found["extensions"], "both say the same"


def test_what_can_not_be_looked_at_leaves_the_alarms_alone() -> None:
    told: list[dict[str, str]] = []

    def broken() -> Inventory:
        raise ReplicationError("down")

    assert not Stock(broken, B.as_json, told.append, Tick()).turn()
    assert not Stock(lambda: A, lambda: None, told.append, Tick()).turn()
    assert not Stock(lambda: A, lambda: {"node": 3}, told.append, Tick()).turn()
    assert [each for each in told if "torn" not in each] == []
    assert Stock(lambda: A, B.as_json, told.append, Tick()).turn() and told[-1] == {"extensions": "", "collations": ""}


def test_wrong_checksums_count_from_the_first_look() -> None:
    told: list[dict[str, str]] = []
    seen = [replace(A, torn=3), replace(A, torn=5)]
    stock = Stock(lambda: seen.pop(0), lambda: None, told.append, Tick())
    assert not stock.turn() and not stock.turn()
    assert told[0] == {"torn": "", "aging": "", "loose": ""} and "2 pages" in told[1]["torn"]


def test_the_peer_is_told_what_is_no_older_than_it_wants() -> None:
    clock, looks = [100.0], []
    stock = Stock(lambda: looks.append(1) or A, lambda: None, lambda alarms: None, lambda: clock[0])  # type: ignore[func-returns-value]
    assert stock.own(2.0) == A and stock.own(2.0) == A and len(looks) == 1
    clock[0] += 3.0
    assert stock.own(2.0) == A and len(looks) == 2


@pytest.mark.parametrize(
    ("recovering", "used", "holders", "words"),
    [
        (False, 10**6, (), ""),
        (False, 10**6, ("process 9",), "because of process 9"),
        (False, 2_000_000_000, (), "less than 200 million"),
        (False, 2_000_000_000, ("process 9", "x"), "less than 200 million"),
        (True, 2_000_000_000, ("process 9",), ""),
    ],
)
def test_what_slowly_ends_a_database(recovering: bool, used: int, holders: tuple[str, ...], words: str) -> None:
    found = aging(recovering, used, holders)
    assert (words in found) if words else found == ""
    assert all(each in found for each in holders) or recovering


def test_whose_commits_do_not_wait_is_told() -> None:
    told: list[dict[str, str]] = []
    Stock(lambda: replace(A, loose=loose("role batch")), B.as_json, told.append, Tick()).turn()
    assert told[0]["loose"].startswith("commits of role batch don't wait") and loose("") == ""
