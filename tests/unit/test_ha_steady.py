"""What ha_manager asks again and again while nothing happens, answered from what it knows: as true as asked anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ha_manager.link import HeartbeatLink
from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Want
from ha_manager.rolelease import RoleLease
from runtime.loop import Loop

# --- nobody else can become active --------------------------------------------------------------------------------------------

ALONE = Want(4, Phase.ACTIVE, Epoch(5, "vs-166"), Postgres.PRIMARY)


@pytest.mark.parametrize(
    ("want", "role", "synchronous", "alone"),
    [
        (ALONE, "active 5 vs-166 99.5 active 1 1", True, True),
        (ALONE, "active 5 vs-166 99.5 active 1 1", False, False),
        (ALONE, "active 5 vs-166 99.5 active 1 0", True, False),
        (ALONE, "active 4 vs-166 99.5 active 1 1", True, False),
        (ALONE, "passive 5 vs-166 99.5 passive 0 1", True, False),
        (ALONE, "", True, False),
        (replace(ALONE, names=Names.ENFORCED), "active 5 vs-166 99.5 active 1 1", True, False),
        (replace(ALONE, phase=Phase.PREPARING), "active 5 vs-166 99.5 active 1 1", True, False),
        (None, "active 5 vs-166 99.5 active 1 1", True, False),
    ],
)
def test_alone(tmp_path: Path, want: Want | None, role: str, synchronous: bool, alone: bool) -> None:
    if role:
        (tmp_path / "role").write_text(role + "\n")
    link = HeartbeatLink(tmp_path / "control", Loop(), cast(Any, None), Facts)
    link.want = want
    paths, site = SimpleNamespace(heartbeat_run=tmp_path), SimpleNamespace(synchronous=synchronous)
    config = SimpleNamespace(host=SimpleNamespace(paths=paths), site=site)
    assert RoleLease(link, lambda: cast(Any, config)).alone() is alone
