"""A fresh copy of the active's database, made beside the old one and switched in at one blow.

Promise: the data directory is the old one or the complete new one, whenever the power goes; what was there before is kept or
was empty; leftovers of an interrupted copy are told from other people's files by a marker and removed. Nothing begins without
enough disk. Source: facts/postgres.md 7 ("copy afresh into a side directory and keep the old one"); design §4 rule 10.

The marker file ``ha_manager.copy`` travels with the new directory: ``copying`` → ``complete`` → (switched in) removed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from ha_manager import basebackup, cluster, differences, space, startfence, tablespaces, transfer
from ha_manager.cluster import PostgresConfig
from ha_manager.copying import Copy
from ha_manager.observation import Progress
from ha_manager.transfer import Cancelled, OnProgress
from runtime import commands, durable
from runtime.clock import boottime
from runtime.errors import ReplicationError

MARKER = "ha_manager.copy"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Places:
    """Where a copy happens."""

    data: Path

    @property
    def new(self) -> Path:
        return self.data.with_name(self.data.name + ".new")

    @property
    def making(self) -> Path:
        return self.data.with_name(self.data.name + ".new.making")

    def kept(self, label: str) -> Path:
        return self.data.with_name(f"{self.data.name}.{label}")


def empty(config: PostgresConfig) -> None:
    """Remove what is in the data directory, and outside it, but for this server's own configuration files."""
    own = _own_files(config)
    tablespaces.clear(tablespaces.outside(config.data_dir))
    for path in config.data_dir.iterdir():
        if any(file == path or path in file.parents for file in own):
            continue
        if path == config.data_dir / "pg_wal" and path.is_symlink():
            continue  # where the log lies is this server's own choice, too
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    durable.sync_folder(config.data_dir)


def copy(wanted: Copy) -> None:
    """The active's database in the side directory, complete and marked so. Raises Cancelled, CommandFailed or ReplicationError;
    what fails leaves nothing behind, what is cancelled is removed by whoever comes next.
    """
    config = wanted.config
    places = Places(config.data_dir)
    transfer.end_leftovers(config.data_dir)
    _remove(places)
    space.check(config, wanted.active)
    new, sides = places.new, basebackup.side_folders(config, wanted.active, wanted.label)
    _begin(config, places, sides)
    differing = config.copy == "differences" and (config.data_dir / "PG_VERSION").exists()
    try:
        timed = Timed(wanted.progress)
        (differences.run if differing else basebackup.run)(replace(wanted, progress=timed), new / "data")
        timed.copied = boottime()
        keep_own_files(config, new / "data")
        startfence.up(new / "data", config.user, fsync=False)
        transfer.sync([new, *sides], wanted.progress, wanted.limit)
        wanted.note(timed.words(boottime()))
        _flatten(new, sides)
    except Cancelled:
        raise
    except Exception:
        _remove(places)
        raise


class Timed:
    """A copy's progress, and what of its time was what."""

    def __init__(self, progress: OnProgress) -> None:
        self._progress = progress
        self._began = boottime()
        self._moved = inf
        self.copied = inf

    def __call__(self, done: Progress) -> bool:
        if done.done:
            self._moved = min(self._moved, boottime())
        return self._progress(done)

    def words(self, synced: float) -> str:
        moved = min(self._moved, self.copied)
        before, copying, after = moved - self._began, self.copied - moved, synced - self.copied
        return f"the active's checkpoint took {before:.1f} s, the copy {copying:.1f} s, its way to the disk {after:.1f} s"


def _begin(config: PostgresConfig, places: Places, sides: list[Path]) -> None:
    """The side directory never exists without its marker."""
    places.making.mkdir(mode=0o700)
    shutil.chown(places.making, config.user, commands.identity(config.user)["group"])
    _mark(places.making, "copying", sides)
    places.making.rename(places.new)
    durable.sync_folder(places.new.parent)


def _flatten(new: Path, sides: list[Path]) -> None:
    """pg_basebackup wants an empty directory, the marker wants to lie beside the data from the first moment on."""
    for each in list((new / "data").iterdir()):
        each.rename(new / each.name)
    (new / "data").rmdir()
    durable.sync_folder(new)
    _mark(new, "complete", sides)


def _mark(new: Path, state: str, sides: list[Path]) -> None:
    durable.write_durably(new / MARKER, "".join(f"{line}\n" for line in (state, *sides)))


def keep_own_files(config: PostgresConfig, data: Path) -> None:
    """Outside Debian the administrator's files lie in the data directory; this server's, not the active's, belong to it."""
    for path in _own_files(config):
        target = data / path.relative_to(config.data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        shutil.chown(target, config.user, commands.identity(config.user)["group"])


def _own_files(config: PostgresConfig) -> list[Path]:
    """Those of them that lie in the data directory."""
    found = cluster.usable_settings(config) if config.config_file.exists() else {}
    names = [found[name].value if name in found else default for name, default in _OWN_FILES]
    paths = (config.config_file, *(config.data_dir / name for name in names if name))
    return [path for path in paths if path.is_relative_to(config.data_dir) and path.is_file()]


_OWN_FILES = (
    ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf"), ("ssl_cert_file", "server.crt"),
    ("ssl_key_file", "server.key"), ("ssl_ca_file", ""), ("ssl_crl_file", ""),
)  # fmt: skip


# --- switching in -------------------------------------------------------------------------------------------------------------


def switch_in(data_dir: Path, label: str) -> Path | None:
    """The complete copy takes the place of the database; returns where the old one is kept, None if there was nothing in it."""
    places = Places(data_dir)
    if _marker(places.new) != "complete":
        raise ReplicationError(f"{places.new} holds no complete copy")
    if places.data.exists():
        if not _exchange(places.new, places.data):
            places.data.rename(places.kept(label))
            places.new.rename(places.data)
    else:
        places.new.rename(places.data)
    durable.sync_folder(data_dir.parent)
    return _finish(places, label)


def _finish(places: Places, label: str) -> Path | None:
    """After the switch: what is now in the side directory is the old database."""
    kept: Path | None = places.kept(label)
    if places.new.exists():
        if is_empty(places.new):
            tablespaces.remove_tree(places.new, places.data)
            kept = None
        else:
            places.new.rename(places.kept(label))
    elif not places.kept(label).exists():
        kept = None
    durable.remove_durably(places.data / MARKER)
    durable.sync_folder(places.data.parent)
    return kept


def recover(data_dir: Path, label: str) -> str:
    """After a crash at any line above: finish or undo. Returns what was done in words, "" for nothing."""
    places = Places(data_dir)
    _sweep(places)
    if not places.data.exists() and _marker(places.new) == "complete":
        places.new.rename(places.data)
        _finish(places, label)
        return "finished switching in a copy that had been completed"
    if _marker(places.data) == "complete":
        kept = _finish(places, label)
        return "finished switching in a copy" + (f"; the database before it is kept in {kept}" if kept else "")
    if _marker(places.new):
        transfer.end_leftovers(data_dir)
        _remove(places)
        return "removed an interrupted copy"
    if places.new.exists():
        raise ReplicationError(f"{places.new} is in the way, and was not made by ha_manager: move it elsewhere")
    return ""


def switching(data_dir: Path) -> bool:
    """A complete copy is in the database's place, or nothing is in its way: ``recover`` finishes that."""
    places = Places(data_dir)
    return _marker(places.data) == "complete" or (not places.data.exists() and _marker(places.new) == "complete")


def in_progress(data_dir: Path) -> bool:
    """Is there a copy that recover() would have to look at?"""
    places = Places(data_dir)
    return bool(_marker(places.new) or _marker(places.data))


def _marker(folder: Path) -> str:
    """copying | complete | "" (no copy of ours)"""
    return next(iter(_marked(folder)), "")


def _marked(folder: Path) -> list[str]:
    """The marker's lines: the state, then the folders that the copy has outside."""
    try:
        return (folder / MARKER).read_text().splitlines()
    except OSError:
        return []


def is_empty(folder: Path) -> bool:
    """Nothing but configuration files, which a copy takes over."""
    return not (folder / "PG_VERSION").exists() and not (folder / "global").exists()


def _remove(places: Places) -> None:
    """An unfinished copy with all that it has elsewhere; the marker goes last."""
    _sweep(places)
    if not places.new.exists():
        return
    for line in _marked(places.new)[1:]:
        tablespaces.remove_folder(Path(line))
    for path in list(places.new.iterdir()):
        if path.name == MARKER:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (places.new / MARKER).unlink(missing_ok=True)
    places.new.rmdir()


def _sweep(places: Places) -> None:
    """The first and the last moment of a side directory."""
    shutil.rmtree(places.making, ignore_errors=True)
    if places.new.is_dir() and not any(places.new.iterdir()):
        places.new.rmdir()


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically; False where the file system can't."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one))
