"""The order of attacks, their names, and what counts as two servers that acknowledge at once."""

from __future__ import annotations

import pytest

from bench.attack.deck import POWER, deck
from bench.attack.judge import new_lines, together
from bench.record import Entry, Kind


def test_a_seed_gives_an_order_without_repetition_and_a_name_finds_its_attack_again() -> None:
    all_ = deck(1, ("steps", "links"))
    assert all_ == deck(1, ("steps", "links")) and all_ != deck(2, ("steps", "links"))
    names = [str(attack) for attack in all_]
    assert len(set(names)) == len(names) and set(names) == set(map(str, deck(2, ("steps", "links"))))
    assert [attack for name in names[:5] for attack in deck(3, ("steps", "links"), (name,)) if str(attack) == name] == all_[:5]


def test_what_can_only_end_with_two_actives_is_not_tried() -> None:
    cut = [attack for attack in deck(1, ("links",), solo=0.8) if attack.victim == "between" and attack.way == "cut"]
    assert not cut
    assert {one.seconds for one in deck(1, ("links",)) if (one.victim, one.way) == ("between", "cut")} == {0.5, 2.0}
    assert not [attack for attack in deck(1, ("steps", "disks")) if attack.phase in POWER], "their disks are in memory"


def acks(*times: float) -> list[Entry]:
    return [Entry(at, Kind.ACK, number) for number, at in enumerate(times)]


@pytest.mark.parametrize(
    ("one", "two", "flagged"),
    [
        (acks(1.0, 1.1, 1.2), acks(2.0, 2.1), False),
        (acks(1.0, 1.2), acks(1.1, 1.3), True),
        (acks(1.0, 5.0), acks(2.0, 3.0), False),
        (acks(), acks(1.0), False),
    ],
    ids=["one after the other", "in turn", "there and back", "only one"],
)
def test_two_that_acknowledge_at_once(one: list[Entry], two: list[Entry], flagged: bool) -> None:
    assert bool(together({"vs-166": one, "vs-28": two}, 0.0)) is flagged


def test_a_sentence_is_new_once_whatever_its_numbers() -> None:
    known: set[str] = set()
    log = "2026-11-29T10:00:00 vs-28 heartbeat[12]: epoch 3\n2026-11-29T10:00:01 vs-166 heartbeat[13]: epoch 4\n"
    assert len(new_lines([log], known)) == 1 and not new_lines([log], known)
