"""What waits to be copied: merged by path, due at once or when quiet, bounded; and who may copy to whom."""

from __future__ import annotations

from math import inf

import pytest

from ha_manager.files.changes import LONGEST, LONGEST_OPEN, QUIET, QUIET_OPEN, Change, Changes
from ha_manager.files.direction import Standing, why_not_send, why_not_take


def paths(changes: Changes, now: float) -> list[str]:
    return [each.path for found in changes.take(now)[0].values() for each in found]


def test_a_rename_is_due_at_once_and_a_write_in_place_when_it_is_quiet() -> None:
    changes = Changes()
    changes.moved("/e", "/e/renamed", 10.0)
    changes.written("/e", "/e/written", 10.0)
    assert paths(changes, 10.0) == ["/e/renamed"]
    assert changes.deadline() == 10.0 + QUIET
    assert paths(changes, 10.0 + QUIET) == ["/e/written"]
    assert changes.deadline() is None


def test_a_file_that_is_written_again_and_again_is_copied_all_the_same() -> None:
    changes, now = Changes(), 0.0
    while not changes.take(now)[0]:
        changes.written("/e", "/e/log", now)
        now += QUIET / 2
    assert LONGEST <= now < LONGEST + QUIET


def test_a_file_that_nobody_closes_is_copied_later_and_at_once_when_it_is_closed() -> None:
    changes, now = Changes(), 0.0
    changes.modified("/e", "/e/open", 0.0)
    assert changes.deadline() == QUIET_OPEN
    changes.written("/e", "/e/open", 0.2)
    assert paths(changes, 0.2 + QUIET) == ["/e/open"]
    while not changes.take(now)[0]:
        changes.modified("/e", "/e/open", now)
        now += QUIET_OPEN / 2
    assert LONGEST_OPEN <= now < LONGEST_OPEN + QUIET_OPEN


def test_a_path_stands_once_and_is_as_old_as_its_first_change() -> None:
    changes = Changes()
    changes.written("/e", "/e/f", 1.0)
    changes.moved("/e", "/e/f", 1.05)
    changes.moved("/e", "/e/f", 1.06, tree=True)
    assert changes.oldest("/e") == 1.0
    assert changes.take(1.06)[0] == {"/e": [Change("/e/f", 1.0, tree=True)]}
    assert changes.oldest("/e") == inf


def test_too_many_become_a_full_pass_as_old_as_the_first_of_them() -> None:
    changes = Changes(limit=10)
    for number in range(1000):
        changes.moved("/e", f"/e/{number}", float(number))
    changes.moved("/other", "/other/f", 5.0)
    assert changes.oldest("/e") == 0.0
    due, full = changes.take(1000.0)
    assert list(due) == ["/other"] and full == {"/e": 0.0}
    assert changes.take(1000.0) == ({}, {})


def test_what_could_not_be_copied_is_due_again_and_no_younger() -> None:
    changes = Changes()
    changes.moved("/e", "/e/f", 1.0)
    (taken,) = changes.take(1.0)[0]["/e"]
    changes.again("/e", [taken], 3.0)
    assert changes.deadline() == 3.0 and changes.oldest("/e") == 1.0


OWN, PEER = (5, "vs-166"), (6, "vs-28")


@pytest.mark.parametrize(
    "own, why",
    [
        (Standing("active", OWN, placed=True), ""),
        (Standing("active", OWN), "put in place"),
        (Standing("passive", OWN, placed=True), "passive, not active"),
        (Standing(), "unknown, not active"),
    ],
)
def test_only_an_active_whose_own_files_are_in_place_sends(own: Standing, why: str) -> None:
    found = why_not_send(own)
    assert why in found and bool(why) == bool(found)


@pytest.mark.parametrize(
    "own, newest, theirs, why",
    [
        (Standing("passive", OWN), (0, ""), PEER, ""),
        (Standing("passive", PEER), PEER, PEER, ""),
        (Standing("active", OWN), (0, ""), PEER, "active, not passive"),
        (Standing("unknown"), (0, ""), PEER, "unknown, not passive"),
        # it was active in epoch 5, was cut off, and comes back
        (Standing("passive", PEER), PEER, OWN, "epoch 5/vs-166 is over"),
        (Standing("passive", (0, "")), PEER, OWN, "epoch 5/vs-166 is over"),
        (Standing("passive", PEER), PEER, (6, "vs-166"), "two servers"),
    ],
)
def test_the_direction_follows_the_epoch(own: Standing, newest: tuple[int, str], theirs: tuple[int, str], why: str) -> None:
    found = why_not_take(own, newest, theirs)
    assert why in found and bool(why) == bool(found)
