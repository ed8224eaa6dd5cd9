"""From the staging directory to the original places, when this server becomes active; and back, by ``ha files restore``.

Promise: only what the *local* module.xml names is touched. Each file is replaced at one blow, and what it replaces is kept,
with its owner, mode and time, below one folder; a file here that is newer than its staged copy stays, and is told; nothing in
a staged tree is followed. Done twice is done once. Source: Trustwave §2.1 (2c); issue "Replicated files".
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ha_manager.files import shadow
from ha_manager.files.items import Item, Kind, dress, dress_link, look
from ha_manager.files.staging import PARTIAL, TEMPORARY
from runtime.durable import sync_folder

#: of what was replaced, the newest are kept
KEPT = 5
_PLACING = ".ha-placing-"
_OURS = (TEMPORARY, _PLACING)


@dataclass(frozen=True)
class Wanted:
    """An entry of module.xml; ``owner``: "user:group", or "" for as it was sent. ``complete``: seconds since 1970 at which the
    last full pass ended, None: there was none, so what is not staged may still be missing there. ``doubt``: this server lost
    power after what came since then, which may be damaged; None: it didn't.
    """

    path: str
    owner: str = ""
    complete: float | None = None
    doubt: float | None = None


@dataclass
class Outcome:
    placed: int = 0
    same: int = 0
    removed: int = 0
    #: in words: newer here than staged, so kept
    newer: list[str] = field(default_factory=list)
    #: in words: refused, or could not be done
    wrong: list[str] = field(default_factory=list)


class Placing:
    """One run. ``kept``: folder for what is replaced; ``check`` is called between files, and may raise to end it."""

    def __init__(self, staging: Path, kept: Path, check: Callable[[], None], root: str = "") -> None:
        self._staging, self._kept, self._check, self._root = staging, kept, check, root
        self._inner: frozenset[str] = frozenset()
        self._doubt: float | None = None
        #: staged files with several names → where the first is in place
        self._several: dict[tuple[int, int], str] = {}
        self.outcome = Outcome()

    def run(self, entries: Sequence[Wanted]) -> Outcome:
        # What takes a moment first: nobody who needs to log in waits for an archive.
        for entry in sorted(entries, key=lambda each: os.path.isdir(f"{self._staging}{each.path}")):
            self._inner = frozenset(each.path for each in entries if each.path.startswith(entry.path + "/"))
            self._doubt = entry.doubt
            self._entry(entry)
        return self.outcome

    def put_back(self, kept: Path) -> Outcome:
        """What an earlier run replaced and kept in ``kept`` to its places again, however new what is there now."""
        for above, _, files in os.walk(kept):
            for name in sorted(files):
                self._check()
                source = os.path.join(above, name)
                target = self._root + source[len(os.fspath(kept)) :]
                self._guarded(target, lambda source=source, target=target: self._replace(source, look(source), target))  # type: ignore[misc]
        return self.outcome

    def _entry(self, entry: Wanted) -> None:
        staged, target = f"{self._staging}{entry.path}", f"{self._root}{entry.path}"
        try:
            self._no_link_above(entry.path)
            item = _like(look(staged), entry.owner)
        except OSError as wrong:
            self._wrong(entry.path, wrong)
            return
        if item.kind is Kind.ABSENT:
            return
        if entry.path == shadow.PATH and (why := self._shadow(staged, target)):
            self.outcome.wrong.append(f"{entry.path} is not put in place: {why}")
            return
        if item.kind is Kind.FOLDER and os.path.isdir(target):
            target = os.path.realpath(target)  # an administrator's link to another disk stays one
        if item.kind is Kind.FOLDER:
            self._guarded(entry.path, lambda: self._tree(staged, item, target, entry))
        else:
            _sweep(os.path.dirname(target))
            self._guarded(entry.path, lambda: self._file(staged, item, target))

    def _no_link_above(self, path: str) -> None:
        above = os.path.dirname(path)
        while above != "/":
            if os.path.islink(f"{self._staging}{above}"):
                raise OSError(errno.ELOOP, f"{self._staging}{above} is a link that leads out of the staging directory")
            above = os.path.dirname(above)

    def _shadow(self, staged: str, target: str) -> str:
        if look(staged).kind is not Kind.FILE:
            return "it is no file"
        texts = [_content(path) for path in (staged, target, f"{self._root}/etc/passwd")]
        return shadow.why_not(*texts)

    # --- trees ----------------------------------------------------------------------------------------------------------

    def _tree(self, staged: str, item: Item, target: str, entry: Wanted) -> None:
        self._folder(item, target)
        names = set()
        for each in sorted(os.scandir(staged), key=lambda found: found.name):
            path = f"{staged}/{each.name}"
            if each.name == PARTIAL or each.name.startswith(_OURS) or path[len(os.fspath(self._staging)) :] in self._inner:
                continue
            self._check()
            names.add(each.name)
            inner, there = _like(look(path), entry.owner), f"{target}/{each.name}"
            if inner.kind is Kind.FOLDER:
                self._guarded(there, lambda p=path, i=inner, t=there: self._tree(p, i, t, entry))  # type: ignore[misc]
            elif inner.kind in (Kind.FILE, Kind.LINK):
                self._guarded(there, lambda p=path, i=inner, t=there: self._file(p, i, t))  # type: ignore[misc]
        _sweep(target)
        self._extra(staged, names, target, entry)
        self._told(target, _dress_folder(target, item))

    def _folder(self, item: Item, target: str) -> None:
        there = look(target)
        if there.kind is Kind.FOLDER:
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if there.kind is not Kind.ABSENT:
            self._keep(target)
            os.unlink(target)
        os.mkdir(target, 0o700)
        _dress_folder(target, item)
        sync_folder(os.path.dirname(target))

    def _extra(self, staged: str, names: set[str], target: str, entry: Wanted) -> None:
        """What is here and not there was deleted on the other server, if its last full pass came after it."""
        if entry.complete is None or entry.doubt is not None:
            return
        for each in list(os.scandir(target)):
            path = f"{staged}/{each.name}"[len(os.fspath(self._staging)) :]
            if each.name in names or path in self._inner or any(inner.startswith(path + "/") for inner in self._inner):
                continue
            about = each.stat(follow_symlinks=False)
            if max(about.st_mtime, about.st_ctime) >= entry.complete:
                self.outcome.newer.append(f"{each.path} exists only here, and is newer than the last copy: it stays")
                continue
            self._guarded(each.path, lambda path=each.path: self._take_away(path))  # type: ignore[misc]

    def _take_away(self, path: str) -> None:
        if look(path).kind is Kind.FOLDER:
            for each in list(os.scandir(path)):
                self._take_away(each.path)
            os.rmdir(path)
            return
        self._keep(path)
        os.unlink(path)
        self.outcome.removed += 1

    # --- files ----------------------------------------------------------------------------------------------------------

    def _file(self, staged: str, item: Item, target: str) -> None:
        there, first = look(target), self._first_name(staged, item, target)
        if _same(item, there) and (first == target or os.path.samefile(first, target)):
            self.outcome.same += 1
            return
        if self._doubt is not None and os.lstat(staged).st_ctime > self._doubt - 1.0:
            why = f"its copy came shortly before this server lost power, and may be damaged: {staged}"
            self.outcome.wrong.append(f"{target} stays as it is: {why}")
            return
        if there.kind in (Kind.FILE, Kind.LINK) and there.mtime > item.mtime and _differs(staged, item, target, there):
            older = (there.mtime - item.mtime) / 1e9
            self.outcome.newer.append(f"{target} here is {older:.0f} s newer than its copy: it stays; the copy is {staged}")
            return
        self._replace(staged, item, target, first)

    def _first_name(self, staged: str, item: Item, target: str) -> str:
        """Of a file with several names: where the first of them is in place; else ``target`` itself."""
        if item.kind is not Kind.FILE or item.links < 2:
            return target
        about = os.lstat(staged)
        first = self._several.setdefault((about.st_dev, about.st_ino), target)
        if first != target and not _same(item, look(first)):
            first = self._several[about.st_dev, about.st_ino] = target
        return first

    def _replace(self, source: str, item: Item, target: str, first: str = "") -> None:
        """Beside its place first; what was in the place is kept; then one rename. ``first``: another name of the same file."""
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/{_PLACING}{secrets.token_hex(6)}"
        try:
            missing = self._link_or_copy(first if first != target else "", source, item, temporary)
            if look(target).kind is Kind.FOLDER:
                self._take_away(target)
            elif os.path.lexists(target):
                self._keep(target)
            os.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(folder)
        self.outcome.placed += 1
        self._told(target, missing)

    def _link_or_copy(self, first: str, source: str, item: Item, temporary: str) -> str:
        if first:
            with contextlib.suppress(OSError):  # another file system
                os.link(first, temporary)
                return ""
        return _copy(source, item, temporary)

    def _keep(self, target: str) -> None:
        place = f"{self._kept}{target[len(self._root) :]}"
        if os.path.lexists(place):
            return  # an earlier try of this very run kept what was there before it
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        try:
            os.link(target, place, follow_symlinks=False)
        except OSError:  # another file system
            _copy(target, look(target), place)
        sync_folder(os.path.dirname(place))

    def _guarded(self, path: str, do: Callable[[], None]) -> None:
        """One that can't be done is told, and the others are done."""
        try:
            do()
        except OSError as wrong:
            self._wrong(path, wrong)

    def _told(self, path: str, missing: str) -> None:
        if missing:
            self.outcome.wrong.append(f"{path} is in place, but: {missing}")

    def _wrong(self, path: str, wrong: OSError) -> None:
        self.outcome.wrong.append(f"{path} could not be put in place: {wrong.strerror or wrong}")


def _sweep(folder: str) -> None:
    """What an earlier run left that was killed between writing a file and naming it."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_PLACING):
                os.unlink(f"{folder}/{name}")


def prune(folder: Path, keep: int = KEPT) -> None:
    """Remove all but the newest of what earlier runs kept."""
    for old in labels(folder)[keep:]:
        shutil.rmtree(folder / old, ignore_errors=True)


def labels(folder: Path) -> list[str]:
    """What is kept, the newest first."""
    try:
        found = [each for each in os.scandir(folder) if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [each.name for each in sorted(found, key=lambda each: each.stat().st_mtime_ns, reverse=True)]


def _like(item: Item, owner: str) -> Item:
    if not owner or item.kind is Kind.ABSENT:
        return item
    user, _, group = owner.partition(":")
    return Item(item.kind, item.size, item.mtime, item.mode, (user, group), item.links, item.target, item.xattrs)


def _same(one: Item, two: Item) -> bool:
    if (one.kind, one.owner, one.target) != (two.kind, two.owner, two.target):
        return False
    return one.kind is Kind.LINK or (one.size, one.mtime, one.mode, one.xattrs) == (two.size, two.mtime, two.mode, two.xattrs)


def _differs(staged: str, item: Item, target: str, there: Item) -> bool:
    if item.kind is not there.kind or item.target != there.target or item.size != there.size:
        return True
    return item.kind is Kind.FILE and not _equal(staged, target)


def _equal(one: str, two: str) -> bool:
    with open(one, "rb") as a, open(two, "rb") as b:
        while True:
            left, right = a.read(1 << 20), b.read(1 << 20)
            if left != right:
                return False
            if not left:
                return True


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _copy(source: str, item: Item, target: str) -> str:
    """A new file or link, on the disk. Returns what of it this server can't have ("")."""
    if item.kind is Kind.LINK:
        os.symlink(item.target, target)
        return dress_link(target, item)
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(reading, "rb") as file:
        if not stat.S_ISREG(os.fstat(reading).st_mode):
            raise OSError(errno.EINVAL, "no file any more")
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(writing, "wb") as copy:
            _copy_content(reading, writing)
            shutil.copyfileobj(file, copy, 1 << 20)  # what the kernel could not
            copy.flush()
            missing = dress(writing, item)
            os.fsync(writing)
    return missing


def _dress_folder(path: str, item: Item) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return dress(fd, item)
    finally:
        os.close(fd)


def _copy_content(reading: int, writing: int) -> None:
    """In the kernel, which may share the blocks, as far as the file systems allow it."""
    with contextlib.suppress(OSError):
        while os.copy_file_range(reading, writing, 1 << 30):
            pass
