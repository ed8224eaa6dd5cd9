"""conf_ready and its staging tree on the disk.

Promise: conf_ready is exchanged with the staging tree by one rename and is otherwise never written; whoever reads it finds one
release, whole. The staging tree is built from what was received, and by hard links to what is in force; ``verify`` says what
really lies there. Everything is on the disk before ``flush`` returns. A crash between any two lines leaves a conf_ready that is
whole; what the staging tree is then, ``begin`` finds out. No link in a tree is followed. Source: design §7; renameat2(2).

Beside ``/var/wasp/conf_ready``: ``.conf_ready.staging``, and ``.conf_ready.incoming``, contents that have no place
yet, by SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manager.manifest import Entry, Kind, Manifest, Unusable, lacking
from manager.tree import Known, look_at, scan
from runtime.durable import sync_folder
from runtime.errors import HaError
from runtime.filesystem import exchange, sync

#: so many new files and folders are flushed one by one; more, together
_FEW = 64
_EMPTY = Manifest({})
#: SHA-256 → name in conf_ready, mode; (SHA-256, mode) → path in the staging tree
_Sources = dict[str, tuple[str, int]]
_Placed = dict[tuple[str, int], str]


class Wrong(HaError):
    """What was received is not what was announced."""


class Trees:
    """One thread at a time. ``before`` is called before each change on the disk (a test ends the process there)."""

    def __init__(self, conf_ready: Path, state: Path, before: Callable[[str], None] = lambda what: None) -> None:
        self.front = Path(os.path.realpath(conf_ready))
        self.staging = self.front.with_name(f".{self.front.name}.staging")
        self.incoming = self.front.with_name(f".{self.front.name}.incoming")
        self._before = before
        self._known = {self.front: Known(state / "front.known"), self.staging: Known(state / "staging.known")}
        #: what lies in conf_ready and in the staging tree, as far as it is known
        self.in_force, self.staged = _EMPTY, _EMPTY
        #: files since the last flush, and folders in which a name was made or removed
        self._new = 0
        self._folders: set[str] = set()

    def begin(self) -> None:
        """Look at what is there; make what is missing. Raises OSError."""
        self._empty(self.incoming)
        self.look()

    def look(self) -> None:
        """Both trees as they are now. One that holds what no configuration can hold counts as empty, and is. There is no
        conf_ready before the first switch: one that is empty would be taken for a configuration."""
        self.staging.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.in_force = (self._look(self.front) if self.front.is_dir() else None) or _EMPTY
        found = self._look(self.staging)
        if found is None:
            self._empty(self.staging)
        self.staged = found or _EMPTY

    def _look(self, tree: Path) -> Manifest | None:
        try:
            return scan(tree, self._known[tree], looks=1 if tree is self.staging else 6)
        except Unusable:
            return None

    def _empty(self, folder: Path) -> None:
        self._before("empty")
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        folder.chmod(0o755 if folder == self.staging else 0o700)

    def lacks(self, wanted: Manifest) -> tuple[tuple[str, ...], int]:
        """Contents that must be sent for it, and their bytes together."""
        lack = lacking(wanted, (self.in_force, self.staged))
        sizes = wanted.contents
        missing = tuple(sha for sha in lack.contents if not self._received(sha).exists())
        return missing, sum(sizes[sha] for sha in missing)

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.front.parent)
        return found.f_bavail * found.f_frsize

    # --- contents -----------------------------------------------------------------------------------------------------------

    def _received(self, sha: str) -> Path:
        return self.incoming / sha

    def receive(self, sha: str, size: int) -> Incoming:
        """A content of ``size`` bytes that is about to come."""
        return Incoming(self._received(sha), sha, size)

    # --- building -----------------------------------------------------------------------------------------------------------

    def build(self, wanted: Manifest) -> None:
        """Make the staging tree ``wanted``. Raises OSError, Wrong; then it is as far as it got, and known."""
        try:
            self._build(wanted)
        except BaseException:
            self.verify()
            raise
        self.staged = wanted  # to be verified where that matters

    def _build(self, wanted: Manifest) -> None:
        there = self.staged.entries
        self._keep(wanted)
        for name in sorted(there.keys() - wanted.entries.keys(), reverse=True):
            self._remove(name)
        placed: _Placed = {}
        sources = _sources(self.in_force)
        for name, entry in sorted(wanted.entries.items()):
            old = there.get(name)
            if old == entry:
                continue
            if old is not None and old.kind is not entry.kind:
                self._remove(name)
                old = None
            self._make(name, entry, old, sources, placed)

    def _keep(self, wanted: Manifest) -> None:
        """What only the staging tree has, under a name or with a mode that will not stay: it may be needed elsewhere in it."""
        elsewhere = wanted.contents.keys() & self.staged.contents.keys() - self.in_force.contents.keys()
        for name, entry in self.staged.entries.items():
            if entry.kind is Kind.FILE and entry.content in elsewhere and wanted.entries.get(name) != entry:
                target = self._received(entry.content)
                if not target.exists():
                    self._before("keep")
                    os.link(self._path(name), target, follow_symlinks=False)

    def _make(
        self,
        name: str,
        entry: Entry,
        old: Entry | None,
        sources: dict[str, tuple[str, int]],
        placed: dict[tuple[str, int], str],
    ) -> None:
        path = self._path(name)
        self._folders.add(os.path.dirname(path))
        match entry.kind:
            case Kind.FOLDER:
                self._before("folder")
                if old is None:
                    os.mkdir(path, 0o700)
                os.chmod(path, entry.mode)
                self._folders.add(path)
            case Kind.LINK:
                self._replace(path, lambda temporary: os.symlink(entry.content, temporary))
            case Kind.FILE:
                source, mode = sources.get(entry.content, ("", -1))
                place = _Place(entry, f"{self.front}/{source}" if source else "", mode == entry.mode)
                proven = place.linked and self._proven(source, entry.content)
                self._replace(path, lambda temporary: self._file(temporary, place, placed))
                if proven or place.received:
                    self._note(name, entry, source if place.linked else "")
                placed[entry.content, entry.mode] = path

    def _proven(self, name: str, sha: str) -> bool:
        """Nobody has touched that file of conf_ready since it was read."""
        return self._known[self.front].find(name, look_at(f"{self.front}/{name}")) == sha

    def _note(self, name: str, entry: Entry, source: str) -> None:
        """What was just put there need not be read again: this process alone writes there."""
        look = look_at(self._path(name))
        self._known[self.staging].put(name, look, entry.content)
        if source:  # the new link has changed a time of the file
            self._known[self.front].put(source, look, entry.content)

    def _file(self, temporary: str, place: _Place, placed: _Placed) -> None:
        """By a hard link where one of that mode is there, else by a copy: a mode belongs to all links of a file."""
        sha, mode = place.entry.content, place.entry.mode
        received = self._received(sha)
        if place.linked:
            os.link(place.source, temporary, follow_symlinks=False)
        elif (sha, mode) in placed:
            os.link(placed[sha, mode], temporary, follow_symlinks=False)
        elif received.exists() and os.lstat(received).st_nlink == 1:
            os.chmod(received, mode)
            os.link(received, temporary, follow_symlinks=False)
            place.received = True
            self._flush_one(temporary)
        elif received.exists() or place.source:
            shutil.copyfile(received if received.exists() else place.source, temporary, follow_symlinks=False)
            os.chmod(temporary, mode)
            self._flush_one(temporary)
        else:
            raise Wrong(f"the content {sha[:12]}… was not received")

    def _flush_one(self, path: str) -> None:
        self._new += 1
        if self._new > _FEW:
            return  # ``flush`` flushes all
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _replace(self, path: str, make: Callable[[str], None]) -> None:
        temporary = f"{path[: path.rindex('/')]}/.{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:24]}.new"
        self._before("make")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        make(temporary)
        self._before("rename")
        os.rename(temporary, path)
        with contextlib.suppress(FileNotFoundError):  # rename does nothing to two names of one file
            os.unlink(temporary)

    def _remove(self, name: str) -> None:
        path = self._path(name)
        self._before("remove")
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._folders.add(os.path.dirname(path))

    def _path(self, name: str) -> str:
        return f"{self.staging}/{name}"

    def verify(self) -> Manifest:
        """What really lies in the staging tree."""
        found = self._look(self.staging)
        if found is None:
            self._empty(self.staging)
        self.staged = found or _EMPTY
        return self.staged

    def flush(self) -> None:
        """The staging tree is on the disk. Raises OSError."""
        self._before("flush")
        folders = [folder for folder in self._folders if os.path.isdir(folder)]
        if self._new > _FEW or len(folders) > _FEW:
            sync(self.staging)
        else:
            for folder in folders:
                sync_folder(folder)
        self._new, self._folders = 0, set()

    def open_to_others(self) -> None:
        """Somebody else is about to write into the staging tree: nothing in it may be a link to what is in force."""
        self._empty(self.staging)
        self.staged = _EMPTY

    def take_back(self) -> None:
        """Nobody else writes there any more. Raises OSError."""
        for above, folders, files in os.walk(self.staging):
            for name in (*folders, *files):
                about = os.lstat(f"{above}/{name}")
                if about.st_mode & 0o7000 and not stat.S_ISLNK(about.st_mode):
                    os.chmod(f"{above}/{name}", about.st_mode & 0o777)
        self._new = _FEW + 1
        self.verify()

    # --- in force -----------------------------------------------------------------------------------------------------------

    def switch(self) -> None:
        """The staging tree becomes conf_ready, and conf_ready the staging tree. Raises OSError."""
        self._before("exchange")
        if self.front.exists():
            exchange(self.staging, self.front)
        else:
            os.rename(self.staging, self.front)
            self._before("first")
            self.staging.mkdir(mode=0o755)
        self._before("sync")
        front, staging = self._known[self.front], self._known[self.staging]
        front.file, staging.file = staging.file, front.file
        self._known = {self.front: staging, self.staging: front}
        self.in_force, self.staged = self.staged, self.in_force
        sync_folder(self.front.parent)

    def mirror(self) -> None:
        """Make the staging tree like conf_ready, so that the next release is a small change; forget what was received."""
        self._empty(self.incoming)
        self.build(self.in_force)
        self._new, self._folders = 0, set()

    def save(self) -> None:
        """What is known, for the next process; lost, it costs reading everything."""
        for known in self._known.values():
            known.save_now_and_then()


def _sources(manifest: Manifest) -> _Sources:
    return {entry.content: (name, entry.mode) for name, entry in manifest.entries.items() if entry.kind is Kind.FILE}


@dataclass
class _Place:
    """How a file gets its place: ``source`` in conf_ready ("": not there), ``linked`` to it as it has the right mode."""

    entry: Entry
    source: str
    linked: bool
    received: bool = False


class Incoming:
    """One content on its way: a temporary file, checked when it is all there."""

    def __init__(self, path: Path, sha: str, size: int) -> None:
        self._path, self._sha, self._size = path, sha, size
        self._temporary = path.with_name(f".{path.name}")
        self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, data: bytes) -> None:
        """Raises Wrong, OSError."""
        if self.count + len(data) > self._size:
            raise Wrong(f"{self._sha[:12]}… is longer than announced")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.count += len(data)

    def finish(self) -> None:
        """Raises Wrong, OSError."""
        if self.count != self._size or self._hash.hexdigest() != self._sha:
            raise Wrong(f"{self._sha[:12]}… arrived damaged")
        self.close()
        os.rename(self._temporary, self._path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)
