"""A director that nothing reaches."""

from __future__ import annotations

import pytest

from director.hearing import Hearing


@pytest.mark.parametrize(
    ("looks", "deaf"),
    [
        ([(False, 0), (False, 0)], "..."),
        ([(True, 7), (True, 7), (True, 7)], ".DD"),
        ([(True, 7), (True, 8), (True, 8)], "..D"),
        ([(True, 7), (True, 8), (True, 9), (True, 10), (True, 10)], "....."),  # others are there: its members are really dead
        ([(True, 7), (True, 7), (True, 8), (True, 8), (True, 9)], ".DDDD"),  # single ones
        ([(True, 7), (True, 7), (True, 8), (True, 9), (True, 10), (True, 10)], ".DDD.."),  # and then not a second time
        ([(True, 7), (True, 7), (False, 8), (True, 9), (True, 9)], ".D..D"),  # but after a member was heard
    ],
)
def test_deaf_is_who_receives_no_frame_between_two_looks(looks: list[tuple[bool, int]], deaf: str) -> None:
    hearing = Hearing()
    assert "".join(".D"[hearing.look(alone, frames)] for alone, frames in looks) == deaf[: len(looks)]


@pytest.mark.parametrize(
    ("looks", "doubt"),
    [
        ([(False, 0), (False, 0)], ".."),
        ([(True, 7), (True, 7), (False, 7), (False, 7), (False, 7)], "???.."),  # heard again: the others may take a second
        (
            [(True, 7), (True, 9), (True, 11), (True, 13), (True, 13), (False, 0)],
            "?.....",
        ),  # its members are dead: no client waits for them
        ([(True, 7), (True, 7), (True, 8), (True, 8), (False, 0)], "?????"),  # single frames
        ([(True, 7), (False, 0), (False, 0), (True, 7)], "??.?"),
    ],
)
def test_members_that_fell_silent_at_once_may_live(looks: list[tuple[bool, int]], doubt: str) -> None:
    hearing, found = Hearing(), ""
    for alone, frames in looks:
        hearing.look(alone, frames)
        found += ".?"[hearing.doubts(alone)]
    assert found == doubt


def test_a_moment_of_silence_is_doubted_also_when_it_was_between_two_looks() -> None:
    hearing = Hearing()
    assert not hearing.doubts(False)
    assert hearing.doubts(True)
    assert hearing.doubts(False), "the first member is heard again, and the clients of the others are"
    hearing.look(False, 0)
    assert hearing.doubts(False)
    hearing.look(False, 0)
    assert not hearing.doubts(False)
