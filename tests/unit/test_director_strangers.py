"""Others with our load balancing ID and another key: named, few of them, and forgotten."""

from __future__ import annotations

from director.strangers import FORGET, Strangers


def test_who_they_are_and_when_it_is_over() -> None:
    strangers = Strangers()
    assert strangers.text(51, 0.0) == ""
    strangers.heard("10.1.1.9", 1.0)
    assert strangers.text(51, 1.0).startswith("10.1.1.9 uses load balancing ID 51 with another key")
    strangers.heard("10.1.1.10", 2.0)
    assert strangers.text(51, 2.0).startswith("10.1.1.10, 10.1.1.9 use ")
    assert strangers.text(51, FORGET + 1.5).startswith("10.1.1.10 uses ")
    assert strangers.text(51, FORGET + 2.0) == ""


def test_a_flood_from_everywhere_is_a_short_sentence_that_stays_the_same() -> None:
    strangers = Strangers()
    for number in range(10_000):
        strangers.heard(f"10.2.{number // 250}.{number % 250}", 1.0)
    text = strangers.text(51, 1.0)
    assert "10.2.0.0, 10.2.0.1, 10.2.0.10 and others use load balancing ID 51" in text
    for number in range(10_000):
        strangers.heard(f"10.3.{number // 250}.{number % 250}", 2.0)
    assert strangers.text(51, 2.0) == text
