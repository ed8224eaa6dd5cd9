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
