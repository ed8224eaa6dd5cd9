"""What of a database lies outside its data directory: tablespaces, and a log folder on a disk of its own.

Promise: a copy gets folders of its own (``<place>/ha-<label>``) inside the same places, so that the old database and the new
one exist side by side and the links in the data directory, switched in with it, tell which are used. Removing a database
removes what its links lead to, never what the present one uses, and of a folder that an administrator made only Postgres's
part. Source: manual, 23.6 (tablespaces), pg_basebackup ``--tablespace-mapping``, ``--waldir``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Identity
from runtime import commands, durable
from runtime.errors import ReplicationError

PREFIX = "ha-"
_OURS = re.compile(rf"{PREFIX}[0-9]+-[0-9]{{8}}T[0-9]{{6}}\Z")
_VERSION = re.compile(r"PG_[0-9.]+_[0-9]+\Z")
_LOG = re.compile(r"[0-9A-F]{24}(?:\.partial)?\Z|[0-9A-F]{8}\.history\Z|[0-9A-F]{24}\.[0-9A-F]{8}\.backup\Z")


def base_of(folder: Path) -> Path:
    """The administrator's place: without what a copy made in it."""
    return folder.parent if _OURS.match(folder.name) else folder


def beside(folder: Path, label: str) -> Path:
    """Where the copy named ``label`` puts what lies in ``folder`` on this server or the other."""
    return base_of(folder) / f"{PREFIX}{label}"


def is_part(path: str) -> bool:
    """Does that path in a data directory belong to its database? In a tablespace's place there may be other things."""
    parts = path.split("/")
    return parts[0] != "pg_tblspc" or len(parts) < 3 or bool(_VERSION.match(parts[2]))


def log_folder(data_dir: Path) -> Path | None:
    """Where the log lies if not in the data directory."""
    return _target(data_dir / "pg_wal")


def outside(data_dir: Path) -> list[Path]:
    """Every folder that the links of a data directory lead to."""
    links = [data_dir / "pg_wal"]
    with contextlib.suppress(OSError):
        links += (data_dir / "pg_tblspc").iterdir()
    return [found for link in links if (found := _target(link)) is not None]


def _target(link: Path) -> Path | None:
    try:
        found = os.readlink(link)
    except OSError:
        return None
    return link.parent / found


def make_place(config: PostgresConfig, base: Path) -> None:
    """The place of a tablespace, as on the active. Raises ReplicationError if not even the folder above it is here."""
    if base.is_dir():
        return
    if not base.parent.is_dir():
        raise ReplicationError(
            f"the active has a tablespace in {base}, and there is no {base.parent} here: create {base}, owned by {config.user}"
        )
    _make(config, base)


def make_places(config: PostgresConfig, active: Identity) -> list[str]:
    """A standby whose log says CREATE TABLESPACE ends if there is no such folder. Returns what couldn't be made, in words."""
    wrong = []
    for folder, _ in active.locations:
        if base_of(Path(folder)) == Path(folder):
            try:
                make_place(config, Path(folder))
            except (OSError, ReplicationError) as failed:
                wrong.append(str(failed))
    return wrong


def make_side(config: PostgresConfig, folder: Path) -> None:
    """An empty folder for a copy. Raises ReplicationError if the database that is here uses it."""
    if os.path.realpath(folder) in {os.path.realpath(each) for each in outside(config.data_dir)}:
        raise ReplicationError(f"{folder} is in use by the database in {config.data_dir}: no copy is put there")
    make_place(config, folder.parent)
    remove_folder(folder)
    _make(config, folder)


def _make(config: PostgresConfig, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    shutil.chown(folder, config.user, commands.identity(config.user)["group"])
    durable.sync_folder(folder.parent)


def remove_tree(data_dir: Path, present: Path | None = None) -> None:
    """A data directory with everything that its links lead to, but for what ``present``'s lead to."""
    if not data_dir.exists():
        return
    kept = {os.path.realpath(path) for path in outside(present)} if present is not None else set()
    clear(path for path in outside(data_dir) if os.path.realpath(path) not in kept)
    shutil.rmtree(data_dir)


def size_of_trees(databases: Iterable[Path], present: Path) -> int:
    """Bytes on the disk that ``remove_tree`` would free, each data directory with all that its links lead to."""
    used = {os.path.realpath(path) for path in outside(present)}
    places = {os.path.realpath(path): path for each in databases for path in outside(each)}
    return sum(map(size_of, databases)) + sum(_size_outside(path) for real, path in places.items() if real not in used)


def _size_outside(folder: Path) -> int:
    """Of what ``clear`` removes: other databases may lie in folders below."""
    if _OURS.match(folder.name) or not folder.is_dir():
        return size_of(folder)
    mine = [path for path in folder.iterdir() if _VERSION.match(path.name) or path.name == "archive_status"]
    log = sum(path.lstat().st_blocks * 512 for path in folder.iterdir() if _LOG.match(path.name))
    return log + sum(map(size_of, mine))


def clear(folders: Iterable[Path]) -> None:
    """What a database has in these places."""
    for folder in folders:
        if _OURS.match(folder.name):
            remove_folder(folder)
            continue
        with contextlib.suppress(FileNotFoundError):
            for each in folder.iterdir():
                if _VERSION.match(each.name) or each.name == "archive_status":
                    shutil.rmtree(each)
                elif _LOG.match(each.name):
                    each.unlink()


def remove_folder(folder: Path) -> None:
    """Complete, or gone already."""
    if folder.exists():
        shutil.rmtree(folder)


def size_of(path: Path) -> int:
    """Bytes on the disk below ``path``, links not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
