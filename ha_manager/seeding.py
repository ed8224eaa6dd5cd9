"""A fresh copy of the active's database, made beside the old one and switched in at one blow.

Promise: the data directory is the old one or the complete new one, whenever the power goes; what was there before is kept or
was empty; leftovers of an interrupted copy are told from other people's files by a marker and removed. Nothing begins without
enough disk. Source: facts/postgres.md 7 ("copy afresh into a side directory and keep the old one"); design §4 rule 10.

The marker file ``ha_manager.copy`` travels with the new directory: ``copying`` → ``complete`` → (switched in) removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ha_manager import cluster
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.observation import Identity, Progress, Upstream, slot_name
from ha_manager.replication import upstream_conninfo
from runtime import commands, durable
from runtime.clock import boottime
from runtime.errors import CommandFailed, ReplicationError, without_secrets

MARKER = "ha_manager.copy"
#: Beyond the copy itself: log that arrives meanwhile.
_SPARE = 256 * 1024 * 1024
_LOOK = 0.2
_PROGRESS = re.compile(r"(\d+)/(\d+) kB")
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


class Cancelled(ReplicationError):
    """The caller ended the copy."""


@dataclass(frozen=True)
class Places:
    """Where a copy happens."""

    data: Path

    @property
    def new(self) -> Path:
        return self.data.with_name(self.data.name + ".new")

    def kept(self, label: str) -> Path:
        return self.data.with_name(f"{self.data.name}.{label}")


def check_space(config: PostgresConfig, active: Identity, reclaim: int = 0) -> None:
    """Raises ReplicationError unless the copy fits. ``reclaim``: bytes that removing the old database first would give."""
    if active.tablespaces:
        raise ReplicationError(
            f"the active has {active.tablespaces} tablespace(s) outside its data directory; they can't be copied yet:"
            " move what is in them into the default tablespace and drop them"
        )
    parent = config.data_dir.parent
    disk = os.statvfs(parent)
    free, needed = disk.f_bavail * disk.f_frsize, int(active.size * 1.05) + _SPARE
    if free + reclaim < needed:
        raise ReplicationError(
            f"a copy needs {needed >> 20} MB in {parent}, and {free >> 20} MB are free: make room"
            f" (older copies are named {config.data_dir.name}.diverged-…)"
        )


def fits_beside(config: PostgresConfig, active: Identity) -> bool:
    """Is there room for the copy while the old database is still there?"""
    try:
        check_space(config, active)
    except ReplicationError:
        return False
    return True


def empty(config: PostgresConfig) -> None:
    """Remove what is in the data directory but this server's own configuration files."""
    own = _own_files(config)
    for path in config.data_dir.iterdir():
        if any(file == path or path in file.parents for file in own):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    durable.sync_folder(config.data_dir)


def folder_size(path: Path) -> int:
    """Bytes on the disk below ``path``."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def copy(config: PostgresConfig, node: str, upstream: Upstream, progress: Callable[[Progress], bool], limit: float) -> None:
    """pg_basebackup into the side directory, complete and marked so. Raises Cancelled, CommandFailed or ReplicationError."""
    places = Places(config.data_dir)
    _remove(places.new)
    new = places.new
    new.mkdir(mode=0o700)
    shutil.chown(new, config.user, commands.identity(config.user)["group"])
    info = upstream_conninfo(upstream.host, upstream.port, f"ha_copy_{node}", str(Paths(config.state_dir).passfile))
    argv = [
        *as_user(config.user), str(config.bin_dir / "pg_basebackup"), "-d", info, "-D", str(new / "data"), "-c", "fast",
        "-X", "stream", "-S", slot_name(node), "-P", "-w", "--no-manifest",
    ]  # fmt: skip
    durable.write_durably(new / MARKER, "copying\n")
    run(argv, config.user, progress, limit)
    keep_own_files(config, new / "data")
    _flatten(new)


def as_user(user: str) -> list[str]:
    """It dies with the thread that waits for it: a copy without a ha_manager serves nobody."""
    group = commands.identity(user)["group"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--pdeathsig=KILL"]


def _flatten(new: Path) -> None:
    """pg_basebackup wants an empty directory, the marker wants to lie beside the data from the first moment on."""
    for each in list((new / "data").iterdir()):
        each.rename(new / each.name)
    (new / "data").rmdir()
    durable.write_durably(new / MARKER, "complete\n")
    durable.sync_folder(new)


def keep_own_files(config: PostgresConfig, data: Path) -> None:
    """Outside Debian the administrator's files lie in the data directory; this server's, not the active's, belong to it."""
    for path in _own_files(config):
        target = data / path.relative_to(config.data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        shutil.chown(target, config.user, commands.identity(config.user)["group"])


def _own_files(config: PostgresConfig) -> list[Path]:
    """Those of them that lie in the data directory."""
    found = cluster.read_settings(config.config_file) if config.config_file.exists() else {}
    names = [found[name].value if name in found else default for name, default in _OWN_FILES]
    paths = (config.config_file, *(config.data_dir / name for name in names if name))
    return [path for path in paths if path.is_relative_to(config.data_dir) and path.is_file()]


_OWN_FILES = (
    ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf"), ("ssl_cert_file", "server.crt"),
    ("ssl_key_file", "server.key"), ("ssl_ca_file", ""), ("ssl_crl_file", ""),
)  # fmt: skip


def run(argv: list[str], user: str, progress: Callable[[Progress], bool], limit: float) -> None:
    """A program of Postgres's that reports its progress. Raises Cancelled or CommandFailed; nothing of it is left running."""
    began = boottime()
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0, cwd="/",
        env=commands.environment(user=user),
    )  # fmt: skip
    assert child.stderr is not None
    os.set_blocking(child.stderr.fileno(), False)
    said = b""
    try:
        ended = False
        while not ended:
            said = (said + (child.stderr.read() or b""))[-8000:]
            if not progress(_progress(said, boottime() - began)):
                raise Cancelled("the copy was cancelled")
            if boottime() - began > limit:
                raise CommandFailed(argv, None, said.decode(errors="replace"), because=f"did not end within {limit:g} s")
            ended = _ended(child, _LOOK)
        said += child.stderr.read() or b""
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stderr.close()
    if child.returncode != 0:
        text = without_secrets(said.decode(errors="replace").replace("\r", "\n"))
        raise CommandFailed(argv, child.returncode, "\n".join(line for line in text.splitlines() if not _PROGRESS.search(line)))


def _ended(child: subprocess.Popen[bytes], limit: float) -> bool:
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        return False
    return True


def _progress(said: bytes, seconds: float) -> Progress:
    found = _PROGRESS.findall(said.decode(errors="replace"))
    done, total = found[-1] if found else ("0", "0")
    return Progress(int(done) * 1024, int(total) * 1024, seconds)


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
            _remove(places.new)
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
    if not places.data.exists() and _marker(places.new) == "complete":
        places.new.rename(places.data)
        _finish(places, label)
        return "finished switching in a copy that had been completed"
    if _marker(places.data) == "complete":
        kept = _finish(places, label)
        return "finished switching in a copy" + (f"; the database before it is kept in {kept}" if kept else "")
    if _marker(places.new):
        _remove(places.new)
        return "removed an interrupted copy"
    if places.new.exists():
        raise ReplicationError(f"{places.new} is in the way, and was not made by ha_manager: move it elsewhere")
    return ""


def in_progress(data_dir: Path) -> bool:
    """Is there a copy that recover() would have to look at?"""
    places = Places(data_dir)
    return bool(_marker(places.new) or _marker(places.data))


def _marker(folder: Path) -> str:
    try:
        return (folder / MARKER).read_text().strip()
    except OSError:
        return ""


def is_empty(folder: Path) -> bool:
    """Nothing but configuration files, which a copy takes over."""
    return not (folder / "PG_VERSION").exists() and not (folder / "global").exists()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically; False where the file system can't."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one))
