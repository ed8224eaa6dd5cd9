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
from manager.manifest import Entry, Kind, Manifest, decoded, for_scanners
from manager.tree import Known, Look, opened, scan
from notifier import model
from notifier.modules import Modules
from notifier.stable import StableTree, build
from runtime.durable import read_bytes, read_json, sync_folder, write_durably, write_json
from runtime.errors import ConfigError, HaError
from runtime.filesystem import begin_writing, sync

#: what concerns the policy servers alone: whom to bring the configuration, and their keys (design §7)
PRIVATE = "global/notifier"
#: of the devices, pinned by operators between commits
KEYS = f"{PRIVATE}/keys"
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
        self._known = Known(folder / "known")
        self._modules = Modules()
        self._tree = StableTree(self, stable, folder)
        self._lock = threading.Lock()
        self._cache: dict[str, Manifest] = {}
        for each in (self._new, self._manifests, self._trees):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for left in (*self._new.iterdir(), *self._manifests.glob(".*")):
            left.unlink()
        for tree in self._trees.glob(".*"):
            shutil.rmtree(tree)
        self._there = {path.name for path in self._all_objects()}

    # --- base → stable ----------------------------------------------------------------------------------------------------

    def commit(self, source: Path | None = None) -> Committed:
        """Keep what base (``source``) is now, and make it stable. Raises HaError in words; then nothing of it counts."""
        known, source = (Known(), source) if source is not None else (self._known, self.base)
        with self._reading(source) as fresh:
            whole = scan(source, known, fresh.keep)
            fresh.settle()
            if source == self.base:
                self._modules.check(whole, self.base, lambda entry: self.object(entry.content, entry.mode))
            part = for_devices(whole, model.Kind.SCANNING)
            committed = Committed(self._keep(whole), self._keep(part))
            self._tree.make(whole, committed.policy)
            known.save_now_and_then()
        return committed

    def with_keys(self, digest: str) -> str:
        """The release ``digest`` of policy servers, with the keys of devices that lie in base now besides; its digest. Raises
        HaError."""
        before = self.manifest(digest)
        if before is None or not (self.base / KEYS).is_dir():
            return digest
        with self._reading(self.base / KEYS) as fresh:
            keys = scan(self.base / KEYS, Known(), fresh.keep)
            fresh.settle()
            folders = {name: Entry(Kind.FOLDER, 0o755) for name in ("global", PRIVATE, KEYS)}
            pinned = {f"{KEYS}/{name}": entry for name, entry in keys.entries.items()}
            return self._keep(Manifest(folders | dict(before.entries) | pinned))

    @contextlib.contextmanager
    def _reading(self, source: Path) -> Iterator[_Fresh]:
        """What goes wrong meanwhile, in words."""
        fresh = _Fresh(self._objects, self._new, self._there)
        try:
            yield fresh
        except FileNotFoundError as gone:
            if not source.is_dir():
                raise StoreError(f"there is no {source}: the policy server has to write its configuration there") from gone
            raise StoreError(f"{source} can't be committed: {gone.strerror}: {gone.filename}") from gone
        except OSError as wrong:
            raise StoreError(f"{source} can't be committed: {wrong.strerror}: {wrong.filename or self.folder}") from wrong
        finally:
            fresh.discard()

    def _keep(self, manifest: Manifest) -> str:
        data = manifest.encoded()
        digest = hashlib.sha256(data).hexdigest()
        if not (self._manifests / digest).exists():
            write_durably(self._manifests / digest, data, mode=0o600)
        with self._lock:
            self._cache[digest] = manifest
        return digest

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

    def object(self, sha: str, mode: int) -> str:
        """Where that content lies."""
        return _object(self._objects, sha, mode)

    def open_content(self, sha: str, mode: int) -> BinaryIO:
        """Raises OSError."""
        return open(self.object(sha, mode), "rb")

    def discard(self, sha: str, mode: int) -> None:
        """It is not what its name says: the next commit keeps it anew."""
        self._there.discard(_name(sha, mode))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.object(sha, mode))

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
                    build(manifest, fresh, self.object)
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
        based_on = {*based_on, self._tree.beside()}
        whole = {*needed, self._tree.digest()} - {""}
        kept: set[str] = set()
        for digest in whole:
            manifest = self.manifest(digest)
            kept |= {_name(e.content, e.mode) for e in manifest.entries.values() if e.kind is Kind.FILE} if manifest else set()
        removed = 0
        for path in self._all_objects():
            if path.name not in kept:
                self._there.discard(path.name)
                path.unlink(missing_ok=True)
                removed += 1
        for path in self._manifests.iterdir():
            if path.name not in whole and path.name not in based_on:
                path.unlink(missing_ok=True)
        for path in self._trees.iterdir():
            if path.name not in whole:
                shutil.rmtree(path, ignore_errors=True)
        with self._lock:
            self._cache = {digest: each for digest, each in self._cache.items() if digest in whole or digest in based_on}
        return removed

    def _all_objects(self) -> Iterator[Path]:
        for folder in self._objects.iterdir():
            if folder != self._new:
                yield from folder.iterdir()


class _Fresh:
    """Contents that one commit brings: copied while they are hashed, put in their place when all are on the disk."""

    def __init__(self, objects: Path, new: Path, there: set[str]) -> None:
        self._objects, self._new, self._there = objects, new, there
        #: what it will be called → where it lies
        self._pending: dict[str, Path] = {}

    def keep(self, path: str, look: Look, known: str | None) -> str:
        """For ``scan``: its SHA-256, when its content is kept here. Raises Changed, OSError."""
        if known is not None and self._has(_name(known, look.permissions)):
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
                begin_writing(writing.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        name = _name(found.hexdigest(), look.permissions)
        if self._has(name):
            temporary.unlink()
        else:
            self._pending[name] = temporary
        return found.hexdigest()

    def _has(self, name: str) -> bool:
        return name in self._there or name in self._pending

    def settle(self) -> None:
        """All of them flushed, then all in their places. Raises OSError."""
        if len(self._pending) > _FEW:
            sync(self._new)
        else:
            for temporary in self._pending.values():
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
        folders = {self._objects / name[:2] for name in self._pending}
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        for name, temporary in self._pending.items():
            os.rename(temporary, self._objects / name[:2] / name)
        names, self._pending = set(self._pending), {}
        for folder in folders if len(folders) <= _FEW else ():
            sync_folder(folder)
        if folders:
            sync_folder(self._objects) if len(folders) <= _FEW else sync(self._objects)
        self._there |= names

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


def _object(objects: Path, sha: str, mode: int) -> str:
    return f"{objects}/{sha[:2]}/{sha}-{mode:o}"


def _version(version: Version) -> list[int | str]:
    return [version.epoch, version.node, version.number]
