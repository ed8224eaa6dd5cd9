"""The role file: its line, its age, and what a successor may conclude from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from heartbeat.model import Epoch, Phase, Resume, Role
from heartbeat.rolefile import RoleFile, RoleLine, parse

ACTIVE = RoleLine(Role.ACTIVE, Epoch(12, "vs-166"), 1234.567, Phase.ACTIVE, True, False)


def test_the_line() -> None:
    assert str(ACTIVE) == "active 12 vs-166 1234.56 active 1 0\n"
    assert str(RoleLine(Role.PASSIVE, Epoch(), 5.0, Phase.STANDING_DOWN, False, True)) == "passive 0 - 5.00 standing-down 0 1\n"


def test_never_good_for_longer_than_was_said() -> None:
    for thousandths in range(1000, 1100):
        said = thousandths / 1000
        line = parse(str(RoleLine(Role.ACTIVE, Epoch(1, "a"), said, Phase.ACTIVE, True, True)))
        assert line is not None and said - 0.011 < line.expires <= said


@pytest.mark.parametrize("line", [ACTIVE, RoleLine(Role.PASSIVE, Epoch(), 0.25, Phase.WAITING, False, False)])
def test_a_line_comes_back(tmp_path: Path, line: RoleLine) -> None:
    file = RoleFile(tmp_path / "role")
    file.write(line)
    read = file.read()
    assert read is not None and str(read) == str(line)
    assert [each.name for each in tmp_path.iterdir()] == ["role"]


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    file = RoleFile(tmp_path / "role")
    file.write(ACTIVE)
    before = (tmp_path / "role").stat().st_ino
    file.write(replace(ACTIVE))
    assert (tmp_path / "role").stat().st_ino == before
    file.write(replace(ACTIVE, solo=True))
    assert str(file.read()) == str(replace(ACTIVE, expires=1234.56, solo=True))
    file.remove()
    file.write(replace(ACTIVE, solo=True))
    assert (tmp_path / "role").exists()


@pytest.mark.parametrize(
    "text",
    ["", "active\n", "active 1 a 5 active 1 0\n", "king 1 a 5.00 active 1 0\n", "active 1 a 5.00 reigning 1 0\n",
     "active 1 a 5.00 active 2 0\n", "active -1 a 5.00 active 1 0\n", "active 1 a 5.00 active 1 0\nmore\n",
     "active 1 a inf active 1 0\n"],
)  # fmt: skip
def test_rubbish_is_no_line(text: str) -> None:
    assert parse(text) is None


def test_what_may_be_resumed(tmp_path: Path) -> None:
    file = RoleFile(tmp_path / "role")
    assert file.resume(1000.0) == Resume()
    file.write(ACTIVE)
    assert file.resume(1234.55) == Resume(Epoch(12, "vs-166"), 1234.56)
    assert file.resume(1234.56) == Resume()
    file.write(RoleLine(Role.PASSIVE, Epoch(12, "vs-28"), 2000.0, Phase.PASSIVE, False, False))
    assert file.resume(1000.0) == Resume()
    file.remove()
    file.remove()
    assert file.read() is None
