"""What a program is writing goes to the disk while it writes, not all at once when it has ended.

Promise: only regular files that the program itself has open below the folders named, and each only after it has grown by much,
so that a slow copy costs the disk nothing; nobody waits for it, but for a moment at its end. It makes nothing durable that
is counted on: whoever called the program syncs everything afterwards, which finds little left. A disk that refuses is told.
The kernel would begin only when a tenth of the memory holds such pages, which a database of 1.5 GB is not (docs/lab.md).
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from runtime.errors import ReplicationError

#: seconds between two looks; bytes that a file has to grow by
_LOOK, GROWN = 0.1, 16 << 20
#: what is being written when the program has ended may take so long (seconds)
_END = 1.0


class Writeback:
    """Of what ``pid`` writes below ``folders``, as long as the ``with`` lasts. ``sync``: what writes one open file."""

    def __init__(self, pid: int, folders: Sequence[Path], sync: Callable[[int], None] = os.fdatasync) -> None:
        self._pid, self._folders, self._sync = pid, tuple(f"{folder.resolve()}/" for folder in folders), sync
        #: path → our own descriptor, and how much of it was written when it was synced last
        self._open: dict[str, tuple[int, int]] = {}
        self._off = threading.Event()
        self._wrong: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="writeback", daemon=True)

    @property
    def held(self) -> int:
        """Files that it has open."""
        return len(self._open)

    def check(self) -> None:
        """Raises ReplicationError if the disk refused."""
        if self._wrong is not None:
            raise ReplicationError(f"what was copied can't be written to the disk: {self._wrong.strerror or self._wrong}")

    def _run(self) -> None:
        try:
            while not self._off.is_set():
                self.look()
                self._off.wait(_LOOK)
        except OSError as wrong:
            self._wrong = wrong
        finally:
            for descriptor, _ in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def look(self) -> None:
        """Sync what has grown; let go of what is no longer being written."""
        found = set(self._opened())
        for path, (descriptor, synced) in list(self._open.items()):
            size = os.fstat(descriptor).st_size
            if size - synced >= GROWN:
                self._sync(descriptor)
                self._open[path] = (descriptor, size)
            if path not in found:
                del self._open[path]
                os.close(descriptor)

    def _opened(self) -> Iterator[str]:
        """The files below our folders that the program has open now; each gets a descriptor of ours."""
        folder = f"/proc/{self._pid}/fd"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    path = os.readlink(f"{folder}/{name}")
                    if not path.startswith(self._folders):
                        continue
                    if path not in self._open:
                        self._take(path, f"{folder}/{name}")
                    if path in self._open:
                        yield path

    def _take(self, path: str, link: str) -> None:
        if not stat.S_ISREG(os.stat(link).st_mode):
            return
        self._open[path] = (os.open(link, os.O_RDONLY | os.O_CLOEXEC), 0)

    def __enter__(self) -> Writeback:
        if self._folders:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._off.set()
        if self._thread.is_alive():
            self._thread.join(_END)
