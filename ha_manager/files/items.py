"""What is at a path of this server, and all that is copied of it besides its content.

Promise: nothing is followed: a link is a link. A file's content is read from the file that was looked at, and only if it did
not change meanwhile. Owners go by name, as the numbers of the two servers may differ. Source:
facts/file-replication-and-libraries.md.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runtime.errors import HaError

#: -1 in 32 bits: to chown, "as it is"
_NOBODYS = (1 << 32) - 1


class Kind(StrEnum):
    ABSENT = "absent"
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    #: device, socket, pipe: not copied
    OTHER = "other"


class Changing(HaError):
    """The file was changed while it was read."""


@dataclass(frozen=True)
class Item:
    """``mtime`` in nanoseconds since 1970; ``owner`` by name, or a number where it has none."""

    kind: Kind
    size: int = 0
    mtime: int = 0
    mode: int = 0
    owner: tuple[str, str] = ("root", "root")
    links: int = 1
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        """For a message; strings may hold bytes that aren't UTF-8 (surrogateescape)."""
        return {
            "mtime": self.mtime, "mode": self.mode, "owner": list(self.owner), "target": self.target,
            "xattrs": {name: base64.b64encode(value).decode() for name, value in self.xattrs.items()},
        }  # fmt: skip


def dress(fd: int, item: Item) -> str:
    """Give an open file or directory its owner, mode, attributes and time, in the order in which none of them undoes another.

    Returns, in words, what this server can't give it ("": nothing): an owner that is not known here becomes root, without the
    right to be run as root by anybody.
    """
    uid, gid, unknown = ids(item.owner)
    os.fchown(fd, uid, gid)
    os.fchmod(fd, item.mode & ~(stat.S_ISUID | stat.S_ISGID) if unknown else item.mode)
    missing = [unknown] if unknown else []
    for name in set(os.listxattr(fd)) - set(item.xattrs):
        with contextlib.suppress(OSError):
            os.removexattr(fd, name)
    for name, value in item.xattrs.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as wrong:
            if wrong.errno not in (errno.ENOTSUP, errno.EPERM):
                missing.append(f"attribute {name} can't be kept ({os.strerror(wrong.errno or 0)})")
    os.utime(fd, ns=(item.mtime, item.mtime))
    return "; ".join(missing)


def dress_link(path: str, item: Item, folder: int | None = None) -> str:
    """The same for a symbolic link, relative to the directory that is open as ``folder``."""
    uid, gid, unknown = ids(item.owner)
    os.chown(path, uid, gid, dir_fd=folder, follow_symlinks=False)
    os.utime(path, ns=(item.mtime, item.mtime), dir_fd=folder, follow_symlinks=False)
    return unknown


def item_of(kind: Kind, header: dict[str, Any]) -> Item:
    """The other way round. Raises ValueError, KeyError or TypeError for anything else."""
    user, group = header["owner"]
    xattrs = {str(name): base64.b64decode(value) for name, value in header["xattrs"].items()}
    mtime, mode = int(header["mtime"]), int(header["mode"])
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"mode {mode:o}")
    return Item(kind, 0, mtime, mode, (str(user), str(group)), 1, str(header["target"]), xattrs)


def look(path: str) -> Item:
    """What is at ``path`` now. Raises OSError if that can't be seen."""
    try:
        about = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Item(Kind.ABSENT)
    kind = kind_of(about.st_mode)
    target = os.readlink(path) if kind is Kind.LINK else ""
    xattrs = {} if kind in (Kind.LINK, Kind.OTHER) else xattrs_of(path)
    return _item(kind, about, target, xattrs)


def read(path: str, limit: int) -> tuple[Item, bytes] | None:
    """A file and its content; None if it is no file any more, or larger than ``limit``. Changing: it is being written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as wrong:
        if wrong.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    with open(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_size > limit:
            return None
        content = file.read(limit + 1) or b""
        while more := file.read(limit + 1 - len(content)) if len(content) <= limit else b"":
            content += more
        after = os.fstat(fd)
        xattrs = xattrs_of(fd)
    if _signature(before) != _signature(after) or len(content) != after.st_size:
        raise Changing(f"{path} is being written")
    return _item(Kind.FILE, after, "", xattrs), content


def _signature(about: os.stat_result) -> tuple[int, ...]:
    return (about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def walk(folder: str) -> Iterator[str]:
    """Every path below ``folder``, each directory before what is in it. What vanishes meanwhile is left out."""
    waiting = [folder]
    while waiting:
        try:
            found = sorted(os.scandir(waiting.pop()), key=lambda each: each.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for each in found:
            yield each.path
        waiting += [each.path for each in found if each.is_dir(follow_symlinks=False)]


def kind_of(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def xattrs_of(path: str | int) -> dict[str, bytes]:
    """Extended attributes, access control lists among them; what a file system doesn't have or show is left out."""
    found: dict[str, bytes] = {}
    try:
        names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=False)
        for name in names:
            found[name] = os.getxattr(path, name) if isinstance(path, int) else os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return found
    return found


def _item(kind: Kind, about: os.stat_result, target: str, xattrs: dict[str, bytes]) -> Item:
    owner = (_user(about.st_uid), _group(about.st_gid))
    mode = stat.S_IMODE(about.st_mode)
    return Item(kind, about.st_size, about.st_mtime_ns, mode, owner, about.st_nlink, target, xattrs)


@functools.lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.lru_cache(maxsize=256)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def ids(owner: tuple[str, str]) -> tuple[int, int, str]:
    """The numbers here of an owner by name, and in words who is not known ("" if both are): that one becomes root."""
    user, group = owner
    uid = _number(user, lambda name: pwd.getpwnam(name).pw_uid)
    gid = _number(group, lambda name: grp.getgrnam(name).gr_gid)
    unknown = [*([f"user {user}"] if uid is None else []), *([f"group {group}"] if gid is None else [])]
    words = f"{' and '.join(unknown)} {'do' if len(unknown) > 1 else 'does'} not exist: root instead" if unknown else ""
    return uid or 0, gid or 0, words


def _number(name: str, find: Callable[[str], int]) -> int | None:
    if name.isdecimal():
        return int(name) if int(name) < _NOBODYS else None
    try:
        return find(name)
    except KeyError:
        return None
