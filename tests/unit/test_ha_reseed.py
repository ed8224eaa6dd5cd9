"""``ha reseed``: when a fresh copy of the active's database is made on purpose, and when not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ha_manager.orders import Epoch, Phase, Postgres, Want
from ha_manager.requests import why_not_reseed

E6 = Epoch(6, "vs-28")
FOLLOWS = Want(4, Phase.PASSIVE, E6, Postgres.STANDBY, follow=E6)
SAYS: dict[str, Any] = {"epoch": [6, "vs-28"], "phase": "active", "heartbeat": True}

REFUSED: list[tuple[str, Want | None, str, dict[str, Any], str]] = [
    ("nothing is wanted yet", None, "", SAYS, "heartbeat has not said"),
    ("the active", replace(FOLLOWS, phase=Phase.ACTIVE, postgres=Postgres.PRIMARY), "", SAYS, "this server is active"),
    ("about to take over", replace(FOLLOWS, phase=Phase.DETACHING, postgres=Postgres.DETACHED), "", SAYS, "is detaching"),
    ("stood down", replace(FOLLOWS, phase=Phase.STANDING_DOWN, postgres=Postgres.STOPPED), "", SAYS, "is standing-down"),
    ("waits", replace(FOLLOWS, phase=Phase.WAITING), "", SAYS, "this server is waiting"),
    ("nobody is followed", replace(FOLLOWS, follow=Epoch()), "", SAYS, "nothing to copy"),
    ("copies already", FOLLOWS, "the database is being copied from vs-28", SAYS, "already"),
    ("no session", FOLLOWS, "", {}, "can't be asked"),
    ("an older epoch", FOLLOWS, "", SAYS | {"epoch": [5, "vs-28"]}, "does not say that it is the active"),
    ("a passive", FOLLOWS, "", SAYS | {"phase": "passive"}, "does not say that it is the active"),
    ("without its heartbeat", FOLLOWS, "", SAYS | {"heartbeat": False}, "does not say that it is the active"),
]


@pytest.mark.parametrize(("want", "copying", "peer", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(want: Want | None, copying: str, peer: dict[str, Any], words: str) -> None:
    assert words in why_not_reseed(want, copying, peer, "vs-28")


@pytest.mark.parametrize("phase", ["active", "preparing"])
def test_of_a_proven_active(phase: str) -> None:
    assert why_not_reseed(FOLLOWS, "", SAYS | {"phase": phase}, "vs-28") == ""
