"""``ha start`` and ``ha stop`` killed before any change on the disk: what they did is completed, or undone, later; and what
a full disk takes all the same.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha_manager import adoption
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.settings import Dynamic

#: What changes something on the disk, as sys.audit tells of it before it happens
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.truncate"}


def killed_before(change: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that dies like by kill -9 before that change on the disk; False if it got to its end."""
    child = os.fork()
    if child == 0:
        left = change

        def watch(event: str, _: object) -> None:
            nonlocal left
            left -= event in CHANGES
            if left < 0:
                os._exit(9)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def every_crash(prepare: Callable[[], None], work: Callable[[], object]) -> Iterator[int]:
    for change in range(1000):
        prepare()
        if not killed_before(change, work):
            assert change > 5, "nothing was seen"
            return
        yield change


@pytest.fixture
def config(tmp_path: Path) -> PostgresConfig:
    """Debian's layout; all of root's."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    for name, text in (("postgresql.conf", "port = 5433\n"), ("pg_hba.conf", "local all all peer\n"), ("pg_ident.conf", "")):
        (folder / name).write_text(text)
    for name in ("hba", "ident"):
        with open(folder / "postgresql.conf", "a") as conf:
            conf.write(f"{name}_file = '{folder}/pg_{name}.conf'\n")
    return PostgresConfig(
        version=15,
        bin_dir=tmp_path,
        data_dir=tmp_path / "data",
        config_file=folder / "postgresql.conf",
        port=5433,
        socket_dir=tmp_path,
        user="root",
        start_conf=folder / "start.conf",
        state_dir=tmp_path / "state" / "postgres",
    )


def on(config: PostgresConfig) -> None:
    adoption.take_autostart(config)
    adoption.write_files(config, None, ("10.0.0.2",))


def off(config: PostgresConfig) -> None:
    adoption.give_autostart_back(config)
    adoption.remove_files(config)


def is_plain(config: PostgresConfig, mode: str, before: dict[str, str]) -> bool:
    left = sorted(path.name for path in config.state_dir.iterdir() if not path.name.startswith("."))
    return left == [] and adoption.start_mode(_start_conf(config)) == mode and _admin(config) == before


def _start_conf(config: PostgresConfig) -> str:
    assert config.start_conf is not None
    return config.start_conf.read_text() if config.start_conf.exists() else "auto\n"


def _admin(config: PostgresConfig) -> dict[str, str]:
    return {path.name: path.read_text() for path in config.config_file.parent.glob("*.conf") if path.name != "start.conf"}


@pytest.mark.parametrize("mode", ["auto", "manual", "disabled", ""])
def test_killed_before_any_change(config: PostgresConfig, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power is cut here

    def write() -> None:
        assert config.start_conf is not None
        if mode:
            config.start_conf.write_text(f"# the administrator's\n{mode}\n")
        else:
            config.start_conf.unlink(missing_ok=True)

    def start_over() -> None:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        off(config)
        write()

    def all_on() -> None:
        start_over()
        on(config)

    before = _admin(config)
    paths = Paths(config.state_dir)
    for _ in every_crash(start_over, lambda: on(config)):
        on(config)
        assert adoption.start_mode(_start_conf(config)) == "disabled" and paths.settings.exists()
        off(config)
        assert is_plain(config, mode or "auto", before)
    for change in every_crash(start_over, lambda: on(config)):
        off(config)
        assert is_plain(config, mode or "auto", before), change
    for change in every_crash(all_on, lambda: off(config)):
        # the uninstaller asks this file whether Postgres would be left without anybody to start it
        assert paths.settings.exists() or adoption.start_mode(_start_conf(config)) == (mode or "auto"), change
        off(config)
        assert is_plain(config, mode or "auto", before), change


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_takes_what_depends_on_the_role(config: PostgresConfig) -> None:
    """Commits that wait for a standby that is gone must not wait until somebody has made room."""
    proof = Dynamic(names='"ha_proof_5"', lineage="2=5/vs-166")
    config.state_dir.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", config.state_dir], check=True)
    try:
        adoption.write_dynamic(config, proof)
        with contextlib.suppress(OSError), open(config.state_dir / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        for now in (Dynamic(lineage="2=5/vs-166"), proof):
            adoption.write_dynamic(config, now)
            assert adoption.read_dynamic(config) == now
        with pytest.raises(OSError, match="No space left"):
            adoption.write_dynamic(config, Dynamic(lineage="x" * 5000))
        assert adoption.read_dynamic(config) == proof
    finally:
        subprocess.run(["umount", config.state_dir], check=True)
