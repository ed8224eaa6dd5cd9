"""What changes below the replicated paths, as the kernel tells it (inotify, through pyinotify's calls).

Promise: nothing that changes after ``watch`` returned is missed: it is noted, or a full pass of its entry is asked for. Files
are watched through their directory, since whatever replaces a file strands a watch on the file itself; a path that does not
exist yet is watched through the directories above it. Directories that come are watched before anybody looks what is in them.
Names may be any bytes (pyinotify's own reader stops at the first that isn't UTF-8, so events are read here). Source:
inotify(7); facts/file-replication-and-libraries.md ("Events").
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyinotify

log = logging.getLogger(__name__)

MASK = (
    pyinotify.IN_CLOSE_WRITE | pyinotify.IN_MOVED_TO | pyinotify.IN_MOVED_FROM | pyinotify.IN_DELETE | pyinotify.IN_ATTRIB
    | pyinotify.IN_CREATE | pyinotify.IN_MODIFY | pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_ONLYDIR
)  # fmt: skip
_GONE = pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM
_CAME = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO
_SELF = pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF | pyinotify.IN_UNMOUNT
_HEAD = struct.Struct("iIII")
_BUFFER = 256 * 1024
#: reads in one turn of the loop
_TURN = 16


class Listener(Protocol):
    """Who hears of changes. ``entry`` is a path of module.xml."""

    def written(self, entry: str, path: str) -> None:
        """Written in place, and closed."""

    def modified(self, entry: str, path: str) -> None:
        """Written in place, and not closed yet."""

    def moved(self, entry: str, path: str, tree: bool) -> None:
        """Renamed, made, deleted, or given other attributes."""

    def full(self, entry: str) -> None:
        """Anything may have changed."""

    def unwatched(self, entry: str, because: str) -> None:
        """This entry can't be watched ("": it is)."""


@dataclass
class _Watch:
    path: str
    #: the entry whose tree this directory belongs to; "" above all of them
    inside: str


class Watcher:
    """Register ``fd`` for reading with a loop, and call ``read``."""

    def __init__(self, listener: Listener) -> None:
        calls = pyinotify.INotifyWrapper.create()
        if calls is None:
            raise OSError(errno.ENOSYS, "inotify can't be used here")
        self._calls, self._listener = calls, listener
        self.fd = calls.inotify_init()
        if self.fd < 0:
            raise OSError(calls.get_errno(), "inotify can't be used here (fs.inotify.max_user_instances?)")
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        self._watches: dict[int, _Watch] = {}
        self._entries: tuple[str, ...] = ()
        #: each entry's path, and every directory above it → the entries that hang on it
        self._above: dict[str, list[str]] = {}
        self._trouble: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def watch(self, entries: Sequence[str]) -> None:
        """Watch these from now on, and nothing else."""
        for wd in list(self._watches):
            self._drop(wd)
        self._entries = tuple(sorted(entries, key=len, reverse=True))
        self._above = {}
        for entry in entries:
            for path in (entry, *_parents(entry)):
                self._above.setdefault(path, []).append(entry)
        for entry in entries:
            self._arm(entry)

    def close(self) -> None:
        os.close(self.fd)

    # --- reading --------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take what has come."""
        overflow = False
        left: list[str] = []
        for _ in range(_TURN):
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                break
            offset = 0
            while offset < len(data):
                wd, mask, _, length = _HEAD.unpack_from(data, offset)
                offset += _HEAD.size + length
                name = data[offset - length : offset].rstrip(b"\0")
                if mask & pyinotify.IN_Q_OVERFLOW:
                    overflow = True
                elif mask & pyinotify.IN_IGNORED:
                    self._watches.pop(wd, None)
                elif wd in self._watches:
                    self._event(self._watches[wd], mask, os.fsdecode(name), left)
        for path in left:
            self._forget_below(path)
        if overflow:
            log.warning(
                "more changed at once than the kernel keeps (fs.inotify.max_queued_events): everything is compared anew"
            )
            for entry in self._entries:
                self._arm(entry)
                self._listener.full(entry)

    def _event(self, watch: _Watch, mask: int, name: str, left: list[str]) -> None:
        if not name:
            if mask & _SELF:
                self._lost(watch)
            elif watch.inside:
                self._listener.moved(watch.inside, watch.path, False)
            return
        path = f"{watch.path.rstrip('/')}/{name}"
        if path in self._above:
            self._of_an_entry(path, mask, left)
            return
        if not watch.inside:
            return
        if mask & pyinotify.IN_ISDIR:
            self._directory(watch.inside, path, mask, left)
        elif mask & pyinotify.IN_CLOSE_WRITE:
            self._listener.written(watch.inside, path)
        elif mask & pyinotify.IN_MODIFY:
            self._listener.modified(watch.inside, path)
        elif not mask & pyinotify.IN_CREATE or _is_whole(path):
            self._listener.moved(watch.inside, path, False)

    def _directory(self, entry: str, path: str, mask: int, left: list[str]) -> None:
        if mask & _CAME:
            self._tree(entry, path)
        elif mask & pyinotify.IN_MOVED_FROM:
            left.append(path)
        self._listener.moved(entry, path, bool(mask & _CAME))

    def _of_an_entry(self, path: str, mask: int, left: list[str]) -> None:
        """An entry itself, or a directory above some."""
        for entry in self._above[path]:
            if (mask & (_CAME | _GONE) and mask & pyinotify.IN_ISDIR) or (path != entry and mask & (_CAME | _GONE)):
                left.extend([path] if mask & pyinotify.IN_MOVED_FROM else [])
                self._arm(entry)
                self._listener.moved(entry, entry, True)
            elif path != entry:
                continue
            elif mask & pyinotify.IN_CLOSE_WRITE:
                self._listener.written(entry, path)
            elif mask & pyinotify.IN_MODIFY:
                self._listener.modified(entry, path)
            elif not mask & pyinotify.IN_CREATE or _is_whole(path):
                self._listener.moved(entry, path, False)

    def _lost(self, watch: _Watch) -> None:
        """A watched directory is gone from its place. In a tree its parent's event says so, too."""
        if watch.path not in self._above and watch.inside:
            return
        for entry in self._above.get(watch.path, [watch.inside]):
            if entry:
                self._arm(entry)
                self._listener.full(entry)

    def _forget_below(self, path: str) -> None:
        if os.path.lexists(path):
            return
        for wd, watch in list(self._watches.items()):
            if watch.path == path or watch.path.startswith(path + "/"):
                self._drop(wd)

    # --- watching -------------------------------------------------------------------------------------------------------

    def _arm(self, entry: str) -> None:
        """Every directory above it, the highest first, and all directories below it."""
        self._trouble.pop(entry, None)
        above = [self._add(path, self._owner(path), entry) for path in reversed(_parents(entry))]
        if all(above) and _is_directory(entry):
            self._tree(entry, entry)
        self._listener.unwatched(entry, self._trouble.get(entry, ""))

    def _tree(self, entry: str, path: str) -> None:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            # Watched before it is read: what comes in between is told by an event.
            if not self._add(folder, self._owner(folder), entry):
                continue
            with contextlib.suppress(OSError), os.scandir(folder) as found:
                waiting += [each.path for each in found if each.is_dir(follow_symlinks=False)]

    def _owner(self, folder: str) -> str:
        return next((entry for entry in self._entries if folder == entry or folder.startswith(entry + "/")), "")

    def _add(self, path: str, inside: str, entry: str) -> bool:
        mask = MASK | (pyinotify.IN_DONT_FOLLOW if inside else 0)
        try:
            path.encode()
        except UnicodeEncodeError:
            wd = self._add_bytes(path, mask)
        else:
            wd = self._calls.inotify_add_watch(self.fd, path, mask)
        if wd >= 0:
            self._watches[wd] = _Watch(path, inside)
            return True
        code = self._calls.get_errno()
        if code not in (errno.ENOENT, errno.ENOTDIR):
            self._trouble[entry] = _words(code, path)
            self._listener.unwatched(entry, self._trouble[entry])
        return False

    def _add_bytes(self, path: str, mask: int) -> int:
        """pyinotify encodes strictly; the directory has another name that it can."""
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return -1
        try:
            return self._calls.inotify_add_watch(self.fd, f"/proc/self/fd/{fd}", mask & ~pyinotify.IN_DONT_FOLLOW)
        finally:
            os.close(fd)

    def _drop(self, wd: int) -> None:
        self._calls.inotify_rm_watch(self.fd, wd)
        self._watches.pop(wd, None)


def _words(code: int, path: str) -> str:
    if code == errno.ENOSPC:
        return (
            "the kernel watches no more directories: raise fs.inotify.max_user_watches (sysctl); until then it is looked at"
            " in its interval"
        )
    return f"{path} can't be watched: {os.strerror(code)}; it is looked at in its interval"


def _parents(path: str) -> list[str]:
    """Every directory above ``path``, the nearest first."""
    found = []
    while path != "/":
        path = os.path.dirname(path)
        found.append(path)
    return found


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_whole(path: str) -> bool:
    """Just made, and complete: a link of either kind. (A file is being written; its end is told, too.)"""
    try:
        about = os.lstat(path)
    except OSError:
        return True
    return stat.S_ISLNK(about.st_mode) or about.st_nlink > 1
