"""The staging directory: where the passive keeps the active's files, each below it under its whole path.

Promise: nothing outside of it is ever touched, whatever path is asked for: every component is opened by itself, and one that
is a link, or ``..``, is refused. A reader never sees half a file: content goes to a temporary name, is flushed, and renamed.
Only root gets in. Source: design §6 ("resolved component by component without following links").
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ha_manager.files.items import Item, Kind, ids
from runtime.durable import read_json, write_json
from runtime.errors import HaError

#: of our own, in any directory: what a transfer has not finished
PARTIAL = ".ha-partial"
TEMPORARY = ".ha-new-"
_STATE = ".ha-state"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Escape(HaError):
    """A path that would lead out of the staging directory."""


def components(path: str) -> list[str]:
    """Of an absolute path. Raises Escape for what is none, or holds ``..``."""
    parts = path.split("/")
    if parts[0] != "" or "\0" in path:
        raise Escape(f"{path!r} is no absolute path")
    named = [part for part in parts if part]
    if not named or any(part in (".", "..") for part in named) or named[0] == _STATE:
        raise Escape(f"{path!r} is no path of a replicated file")
    return named


class Staging:
    """Used by several threads; what one of them does to a path is one rename."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make it if it isn't there."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.root, 0o700)

    # --- what is known of it ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """``epoch``: whose files these are; ``complete``: by entry, when a full pass of it ended (seconds since 1970)."""
        try:
            found = read_json(self.root / _STATE, {})
        except (HaError, OSError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, state: dict[str, object]) -> None:
        write_json(self.root / _STATE, state, mode=0o600)

    # --- changing it --------------------------------------------------------------------------------------------------------

    def put(self, path: str, item: Item, content: bytes) -> str:
        """Make ``path`` like ``item``. Returns who of its owners is not known here (""). Raises OSError, Escape."""
        *above, name = components(path)
        uid, gid, unknown = ids(item.owner)
        with self.folder(above, make=True) as folder:
            if item.kind is Kind.FOLDER:
                _folder(folder, name)
                fd = os.open(name, _FOLDER, dir_fd=folder)
                try:
                    _dress(fd, item, uid, gid)
                finally:
                    os.close(fd)
            else:
                temporary = f"{TEMPORARY}{secrets.token_hex(6)}"
                try:
                    if item.kind is Kind.LINK:
                        os.symlink(item.target, temporary, dir_fd=folder)
                        os.chown(temporary, uid, gid, dir_fd=folder, follow_symlinks=False)
                        os.utime(temporary, ns=(item.mtime, item.mtime), dir_fd=folder, follow_symlinks=False)
                    else:
                        _write(folder, temporary, item, content, uid, gid)
                    _rename(folder, temporary, name)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=folder)
                    raise
            os.fsync(folder)
        return unknown

    def remove(self, path: str) -> None:
        """Whatever is there, with all below it."""
        *above, name = components(path)
        try:
            with self.folder(above) as folder:
                _remove(folder, name)
                os.fsync(folder)
        except (FileNotFoundError, NotADirectoryError):
            return

    def only(self, path: str, names: set[str]) -> None:
        """Remove all but ``names`` from a directory."""
        with self.folder(components(path)) as folder:
            for name in set(os.listdir(folder)) - names:
                _remove(folder, name)

    @contextlib.contextmanager
    def folder(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory below the staging directory, reached without following anything."""
        fd = os.open(self.root, _FOLDER)
        try:
            for number, part in enumerate(parts):
                try:
                    inner = os.open(part, _FOLDER, dir_fd=fd)
                except OSError as wrong:
                    inner = self._inner(fd, parts[: number + 1], wrong, make)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _inner(self, fd: int, parts: list[str], wrong: OSError, make: bool) -> int:
        """Could not be opened: made if it isn't there, refused if it is a link."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(parts[-1], dir_fd=fd, follow_symlinks=False).st_mode):
                raise Escape(f"{self.root}/{'/'.join(parts)} is a link: nothing is written through it") from wrong
        if wrong.errno != errno.ENOENT or not make:
            raise wrong
        with contextlib.suppress(FileExistsError):
            os.mkdir(parts[-1], 0o755, dir_fd=fd)
        return os.open(parts[-1], _FOLDER, dir_fd=fd)


def _folder(above: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=above)
            os.mkdir(name, 0o700, dir_fd=above)


def _write(folder: int, name: str, item: Item, content: bytes, uid: int, gid: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        _dress(fd, item, uid, gid)
        os.fsync(fd)
    finally:
        os.close(fd)


def _dress(fd: int, item: Item, uid: int, gid: int) -> None:
    """Owner, mode, attributes and time, in the order in which none of them undoes another."""
    os.fchown(fd, uid, gid)
    os.fchmod(fd, item.mode)
    for name in set(os.listxattr(fd)) - set(item.xattrs):
        with contextlib.suppress(OSError):
            os.removexattr(fd, name)
    for name, value in item.xattrs.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as wrong:
            if wrong.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
    os.utime(fd, ns=(item.mtime, item.mtime))


def _rename(folder: int, temporary: str, name: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except (IsADirectoryError, FileExistsError):
        _remove(folder, name)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=folder)
    except FileNotFoundError:
        return
