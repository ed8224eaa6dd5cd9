"""A tree on the disk → its manifest.

Promise: what ``scan`` returns was all there at one moment: it looks twice, and what changed between the first look and the
second is read again; a tree that doesn't come to rest is refused. A file that is as it was (size, times, inode) is not read
again: its SHA-256 comes from ``Known``, which only takes what can't have been changed unnoticed since it was read (a change
within the same tick of the file system's clock would leave the times as they are; so files that are so new are waited for).
Nothing but files, folders and links makes a configuration: sockets and devices are refused. Owners and set-id bits are no part
of it. Source: design §7; issue "Manager and notifier".
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import NamedTuple

from manager.manifest import Entry, Kind, Manifest, Unusable
from runtime.clock import boottime
from runtime.durable import write_durably

#: looks at a tree that changes, before it is refused
LOOKS = 6
#: the file system's clock ticks at least so often (nanoseconds)
_TICK = 20_000_000
_CHUNK = 1 << 20
#: what is known is written down at most so often (seconds)
_SELDOM = 60.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}


class Look(NamedTuple):
    """What lstat says of one name; ``target`` of a link. There are thousands, made and compared at each commit."""

    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    target: str = ""

    @property
    def kind(self) -> Kind | None:
        """None: nothing that a configuration may hold."""
        return _KINDS.get(stat.S_IFMT(self.mode))

    @property
    def permissions(self) -> int:
        return self.mode & 0o777


class Changed(Exception):
    """A file was changed, or is gone, while it was read."""


#: (path, its look, its SHA-256 if that is known already) → SHA-256. Raises Changed, OSError.
Read = Callable[[str, Look, str | None], str]


class Known:
    """SHA-256 by path and look, of one tree. Kept in ``file`` for the next process of the same boot."""

    def __init__(self, file: Path | None = None) -> None:
        #: may be given to another tree's, and back
        self.file = file
        self._entries: dict[str, tuple[tuple[int, ...], str]] = {}
        self._changed, self._saved = False, -inf
        if file is not None:
            self._entries = _loaded(file)

    def find(self, name: str, look: Look) -> str | None:
        found = self._entries.get(name)
        return found[1] if found is not None and found[0] == _signature(look) else None

    def put(self, name: str, look: Look, sha: str) -> None:
        """``look`` was old enough when reading began, and was the same when it ended."""
        self._entries[name] = (_signature(look), sha)
        self._changed = True

    def forget(self, name: str) -> None:
        self._changed |= self._entries.pop(name, None) is not None

    def only(self, names: Manifest) -> None:
        """Forget what is gone."""
        if gone := self._entries.keys() - names.entries.keys():
            self._entries = {name: each for name, each in self._entries.items() if name not in gone}
            self._changed = True

    def save_now_and_then(self) -> None:
        """What changed since the last time is read again by the next process, no more. Raises OSError."""
        if boottime() - self._saved > _SELDOM:
            self.save()

    def save(self) -> None:
        """Lost, it costs reading everything once. Raises OSError."""
        self._saved = boottime()
        if self.file is None or not self._changed:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"boot": _boot(), "entries": self._entries}, separators=(",", ":"))
        write_durably(self.file, text, mode=0o600, durable=False)
        self._changed = False


def _loaded(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Of another boot nothing counts: what is on the disk after a power cut may be older than its times say."""
    try:
        kept = json.loads(file.read_bytes())
        if kept["boot"] != _boot():
            return {}
        return {str(name): (tuple(map(int, signature)), str(sha)) for name, (signature, sha) in kept["entries"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _signature(look: Look) -> tuple[int, ...]:
    return (look.size, look.mtime, look.ctime, look.inode)


def scan(root: str | os.PathLike[str], known: Known, read: Read | None = None, *, looks: int = LOOKS) -> Manifest:
    """The manifest of what lies below ``root``. ``looks=1``: nobody else writes there, so one look is enough.

    Raises Unusable (with what can't be in a configuration, or what doesn't come to rest), OSError.
    """
    top = os.fspath(root)
    read = read or hashed
    changing = ""
    for turn in range(looks):
        if turn > 0:
            time.sleep(0.05 * turn)
        before = dict(_walk(top))
        try:
            entries = {name: _entry(top, name, look, known, read) for name, look in before.items()}
        except (Changed, FileNotFoundError, NotADirectoryError) as moved:
            changing = str(getattr(moved, "filename", None) or moved)
            continue
        after = before if looks == 1 else dict(_walk(top))
        if after == before:
            found = Manifest(entries)
            known.only(found)
            return found
        changing = next(name for name in (*after, *before) if after.get(name) != before.get(name))
    raise Unusable(f"{top} does not come to rest: {changing} changed again and again; somebody is still writing there")


def _walk(top: str) -> Iterator[tuple[str, Look]]:
    """Everything below ``top``, a folder before what is in it. What vanishes meanwhile is left out."""
    folders = [""]
    while folders:
        above = folders.pop()
        try:
            with os.scandir(f"{top}/{above}" if above else top) as found:
                inside = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            if not above:
                raise
            continue
        for entry in inside:
            name = f"{above}/{entry.name}" if above else entry.name
            try:
                look = _look(entry.path, entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            yield name, look
            if stat.S_ISDIR(look.mode):
                folders.append(name)


def look_at(path: str) -> Look:
    """Raises OSError."""
    return _look(path, os.lstat(path))


def _look(path: str, about: os.stat_result) -> Look:
    if stat.S_ISDIR(about.st_mode):
        return Look(about.st_mode, 0, 0, 0, about.st_ino)
    target = os.readlink(path) if stat.S_ISLNK(about.st_mode) else ""
    return Look(about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, target)


def _entry(top: str, name: str, look: Look, known: Known, read: Read) -> Entry:
    match look.kind:
        case Kind.FOLDER:
            return Entry(Kind.FOLDER, look.permissions)
        case Kind.LINK:
            return Entry(Kind.LINK, 0o777, look.target)
        case Kind.FILE:
            before = known.find(name, look)
            sha = read(f"{top}/{name}", look, before)
            if before is None and _age(look) > _TICK:
                known.put(name, look, sha)
            return Entry(Kind.FILE, look.permissions, sha, look.size)
    raise Unusable(f"{top}/{name} is neither a file nor a folder nor a link: it can't be part of a configuration")


def hashed(path: str, look: Look, known: str | None) -> str:
    """Read it, unless it is known."""
    if known is not None:
        return known
    with opened(path, look) as fd:
        return digest_of(fd)


class opened:
    """A file for reading, provided that it is what ``look`` says before and after. Raises Changed, OSError."""

    def __init__(self, path: str, look: Look) -> None:
        self._path, self._look = path, look
        self._fd = -1

    def __enter__(self) -> int:
        if 0 <= _age(self._look) <= _TICK:
            time.sleep(2 * _TICK / 1e9)
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as wrong:
            if wrong.errno == errno.ELOOP:
                raise Changed(self._path) from wrong
            raise
        if not self._same():
            os.close(self._fd)
            raise Changed(self._path)
        return self._fd

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        same = self._same()
        os.close(self._fd)
        if kind is None and not same:
            raise Changed(self._path)

    def _same(self) -> bool:
        return _look(self._path, os.fstat(self._fd)) == self._look


def digest_of(fd: int) -> str:
    found = hashlib.sha256()
    while data := os.read(fd, _CHUNK):
        found.update(data)
    return found.hexdigest()


def _age(look: Look) -> int:
    """Nanoseconds since its last change. Above a tick, a change from now on shows in its times; below 0 (a clock that was set
    back), nothing is known."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - look.ctime
