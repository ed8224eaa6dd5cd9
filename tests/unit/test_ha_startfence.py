"""The start fence: whatever is cut short, a Postgres that somebody starts finds the file, or refuses the directory."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from ha_manager import startfence

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(params=[0o700, 0o750], ids=oct)
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


def mode(data: Path) -> int:
    return stat.S_IMODE(data.stat().st_mode)


def opens_as_primary(data: Path) -> bool:
    """As Postgres decides: checkDataDir, then the signal file."""
    refused = mode(data) & (stat.S_IWGRP | stat.S_IRWXO)
    return not refused and not (data / "standby.signal").exists()


def test_at_every_step_of_a_promotion_one_of_the_two_holds(data: Path) -> None:
    before = mode(data)
    assert opens_as_primary(data), "HA is off"
    startfence.up(data, USER)
    seen = [opens_as_primary(data)]
    startfence.bar(data)
    seen.append(opens_as_primary(data))
    (data / "standby.signal").unlink()  # Postgres's own doing
    seen.append(opens_as_primary(data))
    startfence.up(data, USER, fsync=False)
    seen.append(opens_as_primary(data))
    assert not any(seen) and mode(data) == before
    startfence.down(data)
    assert opens_as_primary(data) and mode(data) == before


def test_the_bar_stays_where_the_file_cannot_be_made(data: Path) -> None:
    startfence.bar(data)
    with pytest.raises(KeyError):
        startfence.up(data, "nobody-of-that-name")
    assert not startfence.is_up(data) and not opens_as_primary(data)


def test_the_bar_lets_nobody_in(data: Path) -> None:
    group = mode(data) & stat.S_IRWXG
    startfence.bar(data)
    assert mode(data) & stat.S_IRWXG == group
    assert mode(data) & stat.S_IXOTH == 0, "nobody else passes"


def test_what_is_up_already_is_left_alone(data: Path) -> None:
    startfence.up(data, USER)
    made = (data / "standby.signal").stat()
    startfence.up(data, USER)
    assert (data / "standby.signal").stat().st_mtime_ns == made.st_mtime_ns and startfence.is_up(data)
