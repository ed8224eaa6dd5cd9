"""What the administrator wrote counts where it can be used, else what could be last; Postgres is asked once a change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ha_manager import administrator
from ha_manager.administrator import PERIOD, Watch, judge, read
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.settings import quote
from runtime.errors import ConfigError

#: knows no ``nonsense``, and notes that it was asked
POSTGRES = """#!/bin/sh
echo >>{root}/asked
grep -qs nonsense {root}/postgresql.conf {root}/conf.d/*.conf || exit 0
echo '2026-01-01 GMT [1] LOG:  skipping missing configuration file "x/postgresql.auto.conf"' >&2
echo '2026-01-01 GMT [1] LOG:  unrecognized configuration parameter "nonsense" in file "f" line 7' >&2
echo '2026-01-01 GMT [1] FATAL:  configuration file "f" contains errors' >&2
exit 1
"""


@pytest.fixture
def config(tmp_path: Path) -> PostgresConfig:
    program = tmp_path / "postgres"
    program.write_text(POSTGRES.format(root=tmp_path))
    program.chmod(0o755)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "state").mkdir()
    made = PostgresConfig(
        version=15, bin_dir=tmp_path, data_dir=tmp_path / "data", config_file=tmp_path / "postgresql.conf", port=5432,
        socket_dir=tmp_path, user="root", state_dir=tmp_path / "state",
    )  # fmt: skip
    made.config_file.write_text("work_mem = 4MB\ninclude_dir = 'conf.d'\n")
    keep(made)
    return made


def keep(config: PostgresConfig) -> None:
    """As our own files are written."""
    found, paths = read(config), Paths(config.state_dir)
    paths.settings.write_text(f"include {quote(str(found.file))}\n")
    if not found.wrong:
        paths.kept.write_text(administrator.text(found.found))


def test_what_cannot_be_used_is_told_with_its_place_and_what_was_used_last_counts(config: PostgresConfig) -> None:
    kept = Paths(config.state_dir).kept
    assert read(config).file == config.config_file and judge(config) == ("", False)
    file = config.config_file.parent / "conf.d" / "mine.conf"
    for line, said in (
        ("nonsense = 5", 'unrecognized configuration parameter "nonsense" (correct it)'),
        ("work_mem", "not a setting: 'work_mem' (write name = 'value')"),
        ("fsync = off", "fsync is off: a power cut would destroy the database (set it to on)"),
    ):
        file.write_text(f"\n{line}\n")
        found = read(config)
        assert (found.wrong, found.file) == (f"{file}:2: {said}", kept)
        assert found.found["work_mem"].value == "4MB"
        assert judge(config) == (found.wrong, True)
        keep(config)
        assert judge(config) == (found.wrong, False)
        file.write_text("work_mem = 4MB\n")
        assert judge(config) == ("", True), "it counts again"
        keep(config)
        assert judge(config) == ("", False)
    file.write_text("work_mem = 6MB\n")
    assert judge(config) == ("", True), "our copy is old"
    kept.unlink()
    file.write_text("nonsense = 5\n")
    with pytest.raises(ConfigError, match=r"mine\.conf:1: unrecognized"):
        read(config)


def test_postgres_is_asked_when_a_file_has_changed_and_what_is_due_is_told_until_our_files_have(config: PostgresConfig) -> None:
    watch, now = Watch(), 0.0

    def turn() -> tuple[str, bool]:
        nonlocal now
        now += PERIOD
        watch.look(config, now)
        assert watch._asking is not None
        watch._asking.join(10.0)
        return watch.look(config, now)

    def asked() -> int:
        return (config.bin_dir / "asked").read_text().count("\n")

    assert turn() == ("", False)
    before = asked()
    assert [turn() for _ in range(3)] == [("", False)] * 3 and asked() == before
    (config.bin_dir / "conf.d" / "new.conf").write_text("nonsense = 5\n")
    os.utime(config.bin_dir / "conf.d", (time.time() + 5, time.time() + 5))
    wrong, due = turn()
    assert "new.conf:1" in wrong and due and asked() == before + 1
    keep(config)
    assert watch.look(config, now) == (wrong, False), "before it is found out anew"
    assert turn() == (wrong, False)
