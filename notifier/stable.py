"""stable, on the disk: a tree of hard links to kept contents, and beside it the one before, of which the next one is made.

Promise: stable is exchanged at one blow, and is what ``digest`` says or nobody says anything of it; only what differs is
touched. Killed anywhere, the next ``make`` begins with what is known to lie there, or from nothing. Source: Trustwave §2.3
("On commit, the Notifier copies the base directory to the stable directory").
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from manager.manifest import Entry, Kind, Manifest
from runtime.durable import read_bytes, remove_durably, sync_folder, write_durably
from runtime.filesystem import exchange, sync

#: so many folders are flushed one by one; more, with everything else of the file system
_FEW = 32

#: (SHA-256, mode) → where that content lies
Object = Callable[[str, int], str]


class Contents(Protocol):
    """The store."""

    def manifest(self, digest: str) -> Manifest | None: ...
    def object(self, sha: str, mode: int) -> str: ...


class StableTree:
    """``folder``: where the digests of the two trees are noted (``stable``, ``beside``)."""

    def __init__(self, contents: Contents, stable: Path, folder: Path) -> None:
        self._contents, self._stable = contents, stable
        self._beside = stable.with_name(f".{stable.name}.new")
        self._mark, self._mark_beside = folder / "stable", folder / "beside"

    def digest(self) -> str:
        """Of stable; "" if it is not known."""
        return _read(self._mark) if self._stable.is_dir() else ""

    def beside(self) -> str:
        """Of the tree of which the next stable is made; "" if there is none, or it is not known."""
        return _read(self._mark_beside) if self._beside.is_dir() else ""

    def make(self, wanted: Manifest, digest: str) -> None:
        """Raises OSError."""
        if self.digest() == digest:
            return
        before = self._contents.manifest(self.beside()) if self.beside() else None
        remove_durably(self._mark_beside)  # from here on nobody knows what lies there
        if before is None:
            self._from_nothing(wanted)
        else:
            try:
                self._from(before, wanted)
            except OSError:  # somebody has been in it
                self._from_nothing(wanted)
        self._exchange(digest)

    def _from_nothing(self, wanted: Manifest) -> None:
        if os.path.lexists(self._beside):
            shutil.rmtree(self._beside)
        build(wanted, self._beside, self._contents.object)
        sync(self._beside)

    def _from(self, before: Manifest, wanted: Manifest) -> None:
        touched = patch(before, wanted, os.fspath(self._beside), self._contents.object)
        if len(touched) > _FEW:
            sync(self._beside)
        else:
            for folder in touched:
                sync_folder(folder)

    def _exchange(self, digest: str) -> None:
        old = self.digest()
        remove_durably(self._mark)
        if os.path.lexists(self._stable):
            exchange(self._beside, self._stable)
        else:
            os.rename(self._beside, self._stable)
        sync_folder(self._stable.parent)
        write_durably(self._mark, digest, mode=0o600)
        if old:
            write_durably(self._mark_beside, old, mode=0o600)


def _read(file: Path) -> str:
    return (read_bytes(file) or b"").decode("ascii", errors="replace")


def build(manifest: Manifest, top: Path, where: Object) -> None:
    """A tree of hard links. Raises OSError."""
    top.mkdir(mode=0o755, parents=True)
    folders: list[tuple[str, int]] = []
    for name, entry in sorted(manifest.entries.items()):
        path = f"{top}/{name}"
        if entry.kind is Kind.FOLDER:
            os.mkdir(path, 0o700)
            folders.append((path, entry.mode))
        else:
            _put(entry, path, where)
    for path, mode in reversed(folders):
        os.chmod(path, mode)


def patch(before: Manifest, wanted: Manifest, top: str, where: Object) -> set[str]:
    """Make one tree of the other; which folders were touched. Raises OSError: then it is neither."""
    old, new = before.entries, wanted.entries
    touched: set[str] = set()
    for name in sorted(old.keys(), reverse=True):  # what is in a folder before the folder
        if name not in new or old[name].kind is not new[name].kind:
            (os.rmdir if old[name].kind is Kind.FOLDER else os.unlink)(f"{top}/{name}")
            touched.add(os.path.dirname(f"{top}/{name}"))
    for name in sorted(name for name, entry in new.items() if old.get(name) != entry):
        path, entry = f"{top}/{name}", new[name]
        if entry.kind is not Kind.FOLDER:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            _put(entry, path, where)
        elif name not in old or old[name].kind is not Kind.FOLDER:
            os.mkdir(path, 0o700)
        touched.add(os.path.dirname(path))
    for name in sorted((name for name, e in new.items() if e.kind is Kind.FOLDER and old.get(name) != e), reverse=True):
        os.chmod(f"{top}/{name}", new[name].mode)
        touched.add(f"{top}/{name}")
    return {folder for folder in touched if os.path.isdir(folder)}


def _put(entry: Entry, path: str, where: Object) -> None:
    if entry.kind is Kind.LINK:
        os.symlink(entry.content, path)
        return
    source = where(entry.content, entry.mode)
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, or as many links as a file can have.
        shutil.copy2(source, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
