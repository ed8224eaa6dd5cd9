"""What was committed: base → stable, and everything that a device may still have to get, by content.

Promise: a crash between any two lines loses nothing that was committed and leaves nothing half made. A commit first keeps every
content of base (by SHA-256 and mode, flushed), then both manifests, then stable (made beside it of hard links, exchanged at one
blow); only then does the caller ``save`` targets that name it. What a file in base becomes meanwhile changes nothing: contents
are copies. ``collect`` removes what no target, and nobody named to it, needs. One thread at a time, except ``open_content``
and ``manifest``. Source: design §7; Trustwave §2.3.

Below ``/var/lib/notifier``: ``objects/ab/SHA-MODE``, ``manifests/DIGEST``, ``trees/DIGEST/`` (for rsync, made when asked for),
``targets.json``, ``stable`` (the digest of stable), ``known`` (stat cache of base).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from manager.holding import Release, Version
from manager.manifest import Kind, Manifest, decoded, for_scanners
from manager.tree import Known, Look, opened, scan
from notifier import model
from runtime.durable import read_bytes, read_json, sync_folder, write_durably, write_json
from runtime.errors import ConfigError, HaError
from runtime.filesystem import exchange, sync

#: what concerns the policy servers alone: whom to bring the configuration, and their keys (design §7)
PRIVATE = "global/notifier"
_CHUNK = 1 << 20
#: so many new contents are flushed one by one; more, together
_FEW = 16
_READ_LIMIT = 1 << 30


class StoreError(HaError):
    """Base can't be committed, or something of the store is gone; nothing was changed."""


@dataclass(frozen=True)
class Committed:
    """Digests of what each kind of device gets."""

    policy: str
    scanning: str

    def of(self, kind: model.Kind) -> str:
        return self.policy if kind is model.Kind.POLICY else self.scanning


@dataclass(frozen=True)
class Saved:
    """What outlives this process. ``highest``: of all versions that were ever given or heard."""

    highest: Version | None
    targets: Mapping[str, Release]


class Store:
    def __init__(self, folder: Path, base: Path, stable: Path) -> None:
        self.folder, self.base, self.stable = folder, base, stable
        self._objects, self._manifests, self._trees = (folder / name for name in ("objects", "manifests", "trees"))
        self._new = folder / "objects" / "new"
        #: the next stable while it is made, then the one before
        self._beside = stable.with_name(f".{stable.name}.new")
        self._known = Known(folder / "known")
        self._lock = threading.Lock()
        self._cache: dict[str, Manifest] = {}
        for each in (self._new, self._manifests, self._trees):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for left in (*self._new.iterdir(), *self._manifests.glob(".*")):
            left.unlink()
        for tree in (*self._trees.glob(".*"), self._beside):
            if os.path.lexists(tree):
                shutil.rmtree(tree)

    # --- base → stable ----------------------------------------------------------------------------------------------------

    def commit(self, source: Path | None = None) -> Committed:
        """Keep what base (``source``) is now, and make it stable. Raises HaError in words; then nothing of it counts."""
        fresh = _Fresh(self._objects, self._new)
        known, source = (Known(), source) if source is not None else (self._known, self.base)
        try:
            whole = scan(source, known, fresh.keep)
            fresh.settle()
            part = for_devices(whole, model.Kind.SCANNING)
            committed = Committed(self._keep(whole), self._keep(part))
            self._make_stable(whole, committed.policy)
            known.save()
        except FileNotFoundError as gone:
            if not source.is_dir():
                raise StoreError(f"there is no {source}: the policy server has to write its configuration there") from gone
            raise StoreError(f"{source} can't be committed: {gone.strerror}: {gone.filename}") from gone
        except OSError as wrong:
            raise StoreError(f"{source} can't be committed: {wrong.strerror}: {wrong.filename or self.folder}") from wrong
        finally:
            fresh.discard()
        return committed

    def _keep(self, manifest: Manifest) -> str:
        data = manifest.encoded()
        digest = manifest.digest
        if not (self._manifests / digest).exists():
            write_durably(self._manifests / digest, data, mode=0o600)
        with self._lock:
            self._cache[digest] = manifest
        return digest

    def _make_stable(self, manifest: Manifest, digest: str) -> None:
        mark = self.folder / "stable"
        if read_bytes(mark) == digest.encode() and self.stable.is_dir():
            return
        fresh = self._beside
        mark.unlink(missing_ok=True)  # from here on nobody knows what lies there
        if os.path.lexists(fresh):
            shutil.rmtree(fresh)
        self._build(manifest, fresh)
        sync(fresh)
        if os.path.lexists(self.stable):
            exchange(fresh, self.stable)
        else:
            os.rename(fresh, self.stable)
        sync_folder(self.stable.parent)
        write_durably(mark, digest, mode=0o600)
        shutil.rmtree(fresh, ignore_errors=True)

    def _build(self, manifest: Manifest, top: Path) -> None:
        """As hard links: nothing is copied, and nobody may write into it."""
        top.mkdir(mode=0o755, parents=True)
        folders: list[tuple[str, int]] = []
        for name, entry in sorted(manifest.entries.items()):
            path = f"{top}/{name}"
            match entry.kind:
                case Kind.FOLDER:
                    os.mkdir(path, 0o700)
                    folders.append((path, entry.mode))
                case Kind.LINK:
                    os.symlink(entry.content, path)
                case Kind.FILE:
                    _link(_object(self._objects, entry.content, entry.mode), path)
        for path, mode in reversed(folders):
            os.chmod(path, mode)

    # --- what devices get ---------------------------------------------------------------------------------------------------

    def manifest(self, digest: str) -> Manifest | None:
        """None if it is not known here (any more)."""
        with self._lock:
            if (found := self._cache.get(digest)) is not None:
                return found
        data = read_bytes(self._manifests / digest, _READ_LIMIT) if digest.isalnum() else None
        if data is None:
            return None
        found = decoded(data)
        with self._lock:
            self._cache[digest] = found
        return found

    def open_content(self, sha: str, mode: int) -> BinaryIO:
        """Raises OSError."""
        return open(_object(self._objects, sha, mode), "rb")

    def discard(self, sha: str, mode: int) -> None:
        """It is not what its name says: the next commit keeps it anew."""
        _object(self._objects, sha, mode).unlink(missing_ok=True)

    def tree(self, digest: str) -> Path:
        """All of it as a folder, for rsync. Raises HaError."""
        path, fresh = self._trees / digest, self._trees / f".{digest}"
        with self._lock:
            if path.is_dir():
                return path
        manifest = self.manifest(digest)
        if manifest is None:
            raise StoreError(f"the configuration {digest[:12]} is not kept here any more")
        with self._lock:
            if not path.is_dir():
                shutil.rmtree(fresh, ignore_errors=True)
                try:
                    self._build(manifest, fresh)
                    os.rename(fresh, path)
                except OSError as wrong:
                    raise StoreError(f"{path} can't be made: {wrong.strerror}") from wrong
        return path

    # --- targets --------------------------------------------------------------------------------------------------------------

    def saved(self) -> Saved:
        """Raises ConfigError for a damaged file: it is not guessed what devices should have."""
        file = self.folder / "targets.json"
        kept = read_json(file, {"highest": None, "targets": {}})
        try:
            highest = Version(*kept["highest"]) if kept["highest"] else None
            return Saved(highest, {name: Release(Version(*v), d) for name, (v, d) in kept["targets"].items()})
        except (TypeError, ValueError, KeyError, AttributeError) as wrong:
            raise ConfigError("is damaged", file=file, remedy="remove it, and commit again") from wrong

    def save(self, saved: Saved) -> None:
        """Durably. Raises OSError."""
        targets = {name: [_version(each.version), each.digest] for name, each in sorted(saved.targets.items())}
        highest = _version(saved.highest) if saved.highest is not None else None
        write_json(self.folder / "targets.json", {"highest": highest, "targets": targets}, mode=0o600)

    # --- what is not needed any more --------------------------------------------------------------------------------------

    def collect(self, needed: Iterable[str], based_on: Iterable[str] = ()) -> int:
        """Remove what is not of the releases ``needed`` (digests), nor of stable. Of those in ``based_on`` the manifests are
        kept: devices hold them, so differences can be told. Returns how many contents were removed."""
        mark = read_bytes(self.folder / "stable")
        whole = {*needed, *([mark.decode()] if mark else [])}
        kept: set[str] = set()
        for digest in whole:
            manifest = self.manifest(digest)
            kept |= {_name(e.content, e.mode) for e in manifest.entries.values() if e.kind is Kind.FILE} if manifest else set()
        removed = 0
        for path in self._all_objects():
            if path.name not in kept:
                path.unlink(missing_ok=True)
                removed += 1
        for path in self._manifests.iterdir():
            if path.name not in whole and path.name not in set(based_on):
                path.unlink(missing_ok=True)
        for path in self._trees.iterdir():
            if path.name not in whole:
                shutil.rmtree(path, ignore_errors=True)
        with self._lock:
            self._cache = {digest: each for digest, each in self._cache.items() if digest in whole or digest in set(based_on)}
        return removed

    def _all_objects(self) -> Iterator[Path]:
        for folder in self._objects.iterdir():
            if folder != self._new:
                yield from folder.iterdir()


class _Fresh:
    """Contents that one commit brings: copied while they are hashed, put in their place when all are on the disk."""

    def __init__(self, objects: Path, new: Path) -> None:
        self._objects, self._new = objects, new
        #: what its place will be → where it lies
        self._pending: dict[Path, Path] = {}

    def keep(self, path: str, look: Look, known: str | None) -> str:
        """For ``scan``: its SHA-256, when its content is kept here. Raises Changed, OSError."""
        if known is not None and self._has(_object(self._objects, known, look.permissions)):
            return known
        found = hashlib.sha256()
        temporary = self._new / str(len(self._pending))
        try:
            with opened(path, look) as reading, open(temporary, "wb") as writing:
                while data := os.read(reading, _CHUNK):
                    found.update(data)
                    writing.write(data)
                writing.flush()
                os.fchmod(writing.fileno(), look.permissions)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        place = _object(self._objects, found.hexdigest(), look.permissions)
        if self._has(place):
            temporary.unlink()
        else:
            self._pending[place] = temporary
        return found.hexdigest()

    def _has(self, place: Path) -> bool:
        return place in self._pending or os.path.exists(place)

    def settle(self) -> None:
        """All of them flushed, then all in their places. Raises OSError."""
        if len(self._pending) > _FEW:
            sync(self._new)
        else:
            for temporary in self._pending.values():
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
        folders = {place.parent for place in self._pending}
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        for place, temporary in self._pending.items():
            os.rename(temporary, place)
        self._pending = {}
        for folder in folders if len(folders) <= _FEW else ():
            sync_folder(folder)
        if folders:
            sync_folder(self._objects) if len(folders) <= _FEW else sync(self._objects)

    def discard(self) -> None:
        for temporary in self._pending.values():
            temporary.unlink(missing_ok=True)


def for_devices(whole: Manifest, kind: model.Kind) -> Manifest:
    """What a device of that kind gets of it (Trustwave §2.3, §2.6.3; design §7)."""
    if kind is model.Kind.POLICY:
        return whole
    part = for_scanners(whole)
    return Manifest({n: e for n, e in part.entries.items() if n != PRIVATE and not n.startswith(f"{PRIVATE}/")})


def _name(sha: str, mode: int) -> str:
    return f"{sha}-{mode:o}"


def _object(objects: Path, sha: str, mode: int) -> Path:
    return objects / sha[:2] / _name(sha, mode)


def _version(version: Version) -> list[int | str]:
    return [version.epoch, version.node, version.number]


def _link(source: Path, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, or as many links as a file can have.
        shutil.copy2(source, target)
        with contextlib.suppress(OSError), open(target, "rb") as file:
            os.fsync(file.fileno())
