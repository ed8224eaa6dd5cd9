"""The reference's table of roles on a real Linux-HA: every combination."""

from __future__ import annotations

from itertools import product

import pytest

from ha_manager.orders import Role
from ha_manager.role import Holds, decide

A, P = Role.ACTIVE, Role.PASSIVE
#: status, default active, before, peer → role; "*" stands for every value. The first row that fits counts.
TABLE: list[tuple[str, bool | str, Role | str | None, Role | str | None, Role | None]] = [
    ("all", "*", "*", "*", A),
    ("none", "*", "*", "*", P),
    ("local", True, "*", "*", A),
    ("local", False, P, "*", P),
    ("local", False, "*", A, P),
    ("local", False, A, P, A),
    ("local", False, A, None, None),
    ("local", False, None, P, P),
    ("local", False, None, None, P),
    ("foreign", True, "*", "*", P),
    ("foreign", False, "*", A, P),
    ("foreign", False, "*", P, A),
    ("foreign", False, "*", None, A),
    ("transition", "*", A, A, P),
    ("transition", "*", "*", "*", None),
    ("no answer", "*", A, A, P),
    ("no answer", "*", "*", "*", None),
]
EVERY = list(product(Holds, (True, False), (A, P, None), (A, P, None)))


def expected(*case: object) -> Role | None:
    for *row, role in TABLE:
        if all(cell == "*" or cell is value or cell == value for cell, value in zip(row, case, strict=True)):
            return role
    raise AssertionError(f"the table has no row for {case}")


@pytest.mark.parametrize(("holds", "default_active", "before", "peer"), EVERY)
def test_the_table(holds: Holds, default_active: bool, before: Role | None, peer: Role | None) -> None:
    case = (holds, default_active, before, peer)
    assert decide(holds, default_active=default_active, before=before, peer=peer) is expected(*case)


def test_the_trap_of_a_common_start_gives_one_active() -> None:
    """Both say ``local``; only the preferred one has the address."""
    assert decide(Holds.LOCAL, default_active=True, before=None, peer=None) is A
    assert decide(Holds.LOCAL, default_active=False, before=None, peer=None) is P
