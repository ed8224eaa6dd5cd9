"""Files that survive a power cut, and are never seen half written.

Promise: after ``write_durably`` returns, the new content is on the disk; a crash before that leaves the old content or
the new, never a mixture. A symbolic link in the file's place is replaced, not followed; temporary names are fresh (O_EXCL,
O_NOFOLLOW), so that nobody can plant one. Source: design §4 ("fsynced"), §6 ("temporary name, fsync, rename").
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import secrets
import stat
from pathlib import Path
from typing import Any

from .errors import ConfigError

#: ("user", "group"), numbers allowed; None in either place: as it is.
Owner = tuple[str | int | None, str | int | None]


def write_durably(
    path: str | os.PathLike[str],
    data: bytes | str,
    *,
    mode: int = 0o644,
    owner: Owner | None = None,
    durable: bool = True,
) -> None:
    """Replace ``path`` by a file holding ``data``, with exactly ``mode`` and ``owner``; raises OSError that names ``path``.

    ``durable=False`` leaves out both fsyncs: atomic for readers, but not across a power cut (for files below /run).
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        _replace(Path(path), content, mode, owner, durable)
    except OSError as wrong:  # a call that has only a descriptor names nothing, and nobody knows the temporary name
        raise OSError(wrong.errno, wrong.strerror, os.fspath(path)) from wrong


def _replace(path: Path, content: bytes, mode: int, owner: Owner | None, durable: bool) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{path.name}.{secrets.token_hex(6)}"
    try:
        _write_new(folder, temporary, content, mode, owner, durable)
        try:
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            _unlink(folder, temporary)
            raise
        if durable:
            os.fsync(folder)
    finally:
        os.close(folder)


def _write_new(folder: int, name: str, content: bytes, mode: int, owner: Owner | None, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if owner is not None:
            os.fchown(fd, *_ids(owner))
        os.fchmod(fd, mode)
        if durable:
            os.fsync(fd)
    except BaseException:
        _unlink(folder, name)
        raise
    finally:
        os.close(fd)


def overwrite(path: str | os.PathLike[str], data: bytes | str) -> bool:
    """For a full disk: ``data`` in place, in the blocks that the file has, by one write; lines end it where it was longer.
    False, changing nothing: it has too few. Not across a power cut. Raises OSError.
    """
    content = data.encode() if isinstance(data, str) else data
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        about = os.fstat(fd)
        if len(content) > about.st_blocks * 512:
            return False
        content = content.ljust(about.st_size, b"\n")
        return os.pwrite(fd, content, 0) == len(content)
    finally:
        os.close(fd)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _ids(owner: Owner) -> tuple[int, int]:
    user, group = owner
    try:
        uid = pwd.getpwnam(user).pw_uid if isinstance(user, str) else user
        gid = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    except KeyError as unknown:
        raise ConfigError(f"no such user or group: {user}:{group}") from unknown
    return (-1 if uid is None else uid), (-1 if gid is None else gid)


def write_json(
    path: str | os.PathLike[str], value: Any, *, mode: int = 0o644, owner: Owner | None = None, durable: bool = True
) -> None:
    """``value`` as one JSON document, durably."""
    write_durably(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", mode=mode, owner=owner, durable=durable)


def read_bytes(path: str | os.PathLike[str], limit: int = 16 * 1024 * 1024, *, follow: bool = False) -> bytes | None:
    """Content of a regular file of at most ``limit`` bytes; None if there is none. A link is followed only if ``follow``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError("is not a regular file", file=path)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ConfigError(f"is larger than {limit} bytes", file=path)
    return content


def read_json(path: str | os.PathLike[str], default: Any = None) -> Any:
    """The JSON document in ``path``; ``default`` if there is no file. Damaged content raises ConfigError."""
    content = read_bytes(path)
    if content is None:
        return default
    try:
        return json.loads(content)
    except ValueError as wrong:
        line = getattr(wrong, "lineno", None)
        raise ConfigError(f"is not JSON: {wrong}", file=path, line=line) from wrong


def remove_durably(path: str | os.PathLike[str]) -> bool:
    """Remove a file, and make sure that it stays removed after a power cut. True if it was there."""
    path = Path(path)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_folder(path.parent)
    return True


def sync_folder(path: str | os.PathLike[str]) -> None:
    """fsync a directory: names created, renamed or removed in it are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
