"""Whether a notifier acts: heartbeat's word, and only while it is good; without heartbeat, above everything that was heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from heartbeat.model import Epoch, Phase, Role
from heartbeat.rolefile import RoleFile, RoleLine
from manager.holding import Version
from notifier.standing import look
from runtime.clock import boottime

TOPOLOGY = '<module id="174" name="HA"><init><ha enabled="%s"/></init></module>'


@pytest.mark.parametrize(
    ("role", "phase", "expires", "acts", "because"),
    [
        (Role.ACTIVE, Phase.ACTIVE, 60.0, True, "active in epoch 5/vs-28"),
        (Role.ACTIVE, Phase.PREPARING, 60.0, True, "active in epoch 5/vs-28"),
        (Role.ACTIVE, Phase.OPENING, 60.0, False, "becoming active"),
        (Role.ACTIVE, Phase.PROMOTING, 60.0, False, "becoming active"),
        (Role.PASSIVE, Phase.PASSIVE, 60.0, False, "this server is passive"),
        (Role.ACTIVE, Phase.ACTIVE, -0.1, False, "does not renew its word"),
    ],
)
def test_heartbeats_word(tmp_path: Path, role: Role, phase: Phase, expires: float, acts: bool, because: str) -> None:
    RoleFile(tmp_path / "role").write(RoleLine(role, Epoch(5, "vs-28"), boottime() + expires, phase, True, False))
    found = look(tmp_path / "role", tmp_path / "none", "vs-28", Version(9, "vs-28", 1))
    assert (found.acts, found.epoch) == (acts, (5, "vs-28")) and because in found.because


def test_a_role_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "role").write_text("active")
    assert not look(tmp_path / "role", tmp_path / "none", "vs-28", None).acts


@pytest.mark.parametrize(
    ("highest", "epoch"),
    [
        (None, (0, "vs-166")),
        (Version(3, "vs-166", 9), (3, "vs-166")),
        (Version(3, "vs-100", 9), (3, "vs-166")),
        (Version(3, "vs-28", 9), (4, "vs-166")),
    ],
)
def test_without_high_availability(tmp_path: Path, highest: Version | None, epoch: tuple[int, str]) -> None:
    for text in (None, TOPOLOGY % 0, "<module/>", "<module"):
        if text is not None:
            (tmp_path / "module.xml").write_text(text)
        found = look(tmp_path / "role", tmp_path / "module.xml", "vs-166", highest)
        assert found.acts and found.epoch == epoch
        assert highest is None or Version(*found.epoch, highest.number + 1) > highest
    (tmp_path / "module.xml").write_text(TOPOLOGY % 1)
    found = look(tmp_path / "role", tmp_path / "module.xml", "vs-166", highest)
    assert not found.acts and "heartbeat has said nothing yet" in found.because
