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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ha_manager.files.items import Item, Kind, dress, dress_link
from runtime.durable import read_json, write_json
from runtime.errors import HaError

#: of our own, in any directory: what a transfer has not finished
PARTIAL = ".ha-partial"
TEMPORARY = ".ha-new-"
_STATE = ".ha-state"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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

    def sweep(self, paths: Iterable[str]) -> None:
        """Remove what was half written beside these files when this process was killed. (In a tree the next full pass does.)"""
        for parts in {tuple(components(path)[:-1]) for path in paths}:
            with contextlib.suppress(OSError, Escape), self.folder(list(parts)) as folder:
                for name in os.listdir(folder):
                    if name.startswith(TEMPORARY):
                        os.unlink(name, dir_fd=folder)

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
        """Make ``path`` like ``item``, on the disk. Returns what of it can't be had here (""). Raises OSError, Escape."""
        with self.batch() as batch:
            put = batch.put(path, item, content)
            batch.settle()
        if put.wrong is not None:
            raise put.wrong
        return put.missing

    def batch(self) -> Batch:
        """For several at once."""
        return Batch(self)

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
            os.fsync(folder)

    @contextlib.contextmanager
    def folder(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory below the staging directory, reached without following anything."""
        fd = self.open_folder(parts, make=make)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_folder(self, parts: list[str], *, make: bool = False) -> int:
        """The same, to be closed by the caller."""
        fd = os.open(self.root, _FOLDER)
        try:
            for number, part in enumerate(parts):
                try:
                    inner = os.open(part, _FOLDER, dir_fd=fd)
                except OSError as wrong:
                    inner = self._inner(fd, parts[: number + 1], wrong, make)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd

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


@dataclass
class Put:
    """One thing on its way into the staging directory; the last two are told by ``Batch.settle`` at the latest."""

    folder: int
    name: str
    temporary: str = ""
    #: its content, to be flushed
    fd: int = -1
    #: in words: what of it can't be had here
    missing: str = ""
    wrong: OSError | None = None


class Batch:
    """Several things that come together: their contents are flushed side by side, which the disk does at one go; then each gets
    its name; then the directories are flushed. What fails, fails alone. Closed without ``settle``: nothing came.
    """

    #: more than that are settled in between, for the sake of open files
    MOST = 64

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._folders: dict[tuple[str, ...], int] = {}
        self._new: list[Put] = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        for put in self._new:
            _drop(put)
        self._close()

    def put(self, path: str, item: Item, content: bytes) -> Put:
        """Raises OSError, Escape."""
        *above, name = components(path)
        if len(self._new) >= self.MOST or len(self._folders) >= self.MOST:
            self.settle()
        put = Put(self._folder(above), name)
        if item.kind is Kind.FOLDER:
            self._make(put, item)
            return put
        put.temporary = f"{TEMPORARY}{secrets.token_hex(6)}"
        try:
            self._write(put, item, content)
        except BaseException:
            _drop(put)
            raise
        self._new.append(put)
        return put

    def settle(self) -> None:
        """All that was put is on the disk, or says why not."""
        new = self._new
        try:
            list(_flushers.map(_flush, new) if len(new) > 1 else map(_flush, new))
        except RuntimeError:  # this process is ending
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN)) from None
        self._new = []
        for put in new:
            _name(put)
        for folder in self._folders.values():
            os.fsync(folder)
        self._close()

    def _close(self) -> None:
        for folder in self._folders.values():
            os.close(folder)
        self._new, self._folders = [], {}

    def _folder(self, parts: list[str]) -> int:
        key = tuple(parts)
        if key not in self._folders:
            self._folders[key] = self._staging.open_folder(parts, make=True)
        return self._folders[key]

    def _make(self, put: Put, item: Item) -> None:
        try:
            os.mkdir(put.name, 0o700, dir_fd=put.folder)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(put.name, dir_fd=put.folder, follow_symlinks=False).st_mode):
                os.unlink(put.name, dir_fd=put.folder)
                os.mkdir(put.name, 0o700, dir_fd=put.folder)
        fd = os.open(put.name, _FOLDER, dir_fd=put.folder)
        try:
            put.missing = dress(fd, item)
        finally:
            os.close(fd)

    def _write(self, put: Put, item: Item, content: bytes) -> None:
        if item.kind is Kind.LINK:
            os.symlink(item.target, put.temporary, dir_fd=put.folder)
            put.missing = dress_link(put.temporary, item, put.folder)
            return
        put.fd = os.open(put.temporary, _NEW, 0o600, dir_fd=put.folder)
        view = memoryview(content)
        while view:
            view = view[os.write(put.fd, view) :]
        put.missing = dress(put.fd, item)


#: flushed one after the other, each file would wait for a turn of the disk of its own
_flushers = ThreadPoolExecutor(8, "flushing")


def _flush(put: Put) -> None:
    if put.fd < 0:
        return
    try:
        os.fsync(put.fd)
    except OSError as wrong:
        put.wrong = wrong


def _name(put: Put) -> None:
    try:
        if put.wrong is None:
            _rename(put.folder, put.temporary, put.name)
            put.temporary = ""
    except OSError as wrong:
        put.wrong = wrong
    _drop(put)


def _drop(put: Put) -> None:
    """What is left of it, if it came to nothing."""
    if put.fd >= 0:
        os.close(put.fd)
        put.fd = -1
    if put.temporary:
        with contextlib.suppress(OSError):
            os.unlink(put.temporary, dir_fd=put.folder)


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
