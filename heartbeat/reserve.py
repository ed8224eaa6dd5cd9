"""Room on the disk, kept for what heartbeat must write: a full /var must keep no server from taking over, or from going solo.

Promise: while the reserve is there, ``write`` succeeds once however full the disk is, and ``keep`` then makes the reserve again
as soon as there is room. A reserve that can't be made is told in words, so that an operator hears of a full disk before a
change of role needs it. Source: design §4 rule 2 (an epoch is on the disk before anything is promoted).
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Protocol

from runtime.durable import write_durably

#: bytes: a record, and what a file system needs besides to put it into place
SIZE = 64 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Replace(Protocol):
    """``durable.write_durably``."""

    def __call__(self, path: Path, data: bytes | str, *, mode: int, durable: bool = True) -> None: ...


class Reserve:
    """A file of its own in ``folder``. Calls may wait for the disk."""

    def __init__(self, folder: Path, replace: Replace = write_durably) -> None:
        self.file = folder / "reserve"
        self._replace = replace

    def write(self, file: Path, text: str, *, durable: bool = True) -> None:
        """Replace ``file`` as ``write_durably`` does, with the reserve's room if there is no other; raises OSError."""
        try:
            self._replace(file, text, mode=0o600, durable=durable)
        except OSError as error:
            if error.errno not in _FULL or not self._spend():
                raise
            self._replace(file, text, mode=0o600, durable=durable)

    def keep(self) -> str:
        """Make the reserve unless it is there; "" or why it can't be made."""
        with contextlib.suppress(OSError):
            if os.stat(self.file, follow_symlinks=False).st_size >= SIZE:
                return ""
        try:
            # nothing that a file system could compress or leave out
            self._replace(self.file, os.urandom(SIZE), mode=0o600)
        except OSError as error:
            return f"{self.file.parent}: {error.strerror}; this server may be unable to take over: make room there"
        return ""

    def _spend(self) -> bool:
        try:
            os.unlink(self.file)
        except OSError:
            return False
        return True
