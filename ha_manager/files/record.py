"""What the passive knows of what it has staged: whose it is, what of it is complete, and what may be damaged.

Promise: on the disk before anything rests on it, in ``.ha-state`` of the staging directory. rsync doesn't flush what it brings
(flushing each file of a large tree takes many times as long as bringing it), so an entry is marked before rsync writes to it,
and the mark goes when all of it has been flushed. A mark from before this server's last start says that power may have been
lost in between: whatever came since the mark may be empty or cut off. It is then not put in place, and the entry is compared by
content when there is an active again. Any thread may call anything. Source: issue "Replicated files".
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ha_manager.files.direction import NONE, Epoch, Standing, why_not_take
from ha_manager.files.staging import Staging
from runtime.errors import HaError

log = logging.getLogger(__name__)

#: pause before a flush (seconds): by then the kernel has written nearly all of it by itself, and no commit waits for the rest
SETTLE = 30.0


class Refusal(HaError):
    """The other server may not write here now."""


@dataclass(frozen=True)
class Held:
    """Times are seconds since 1970."""

    #: the active that it comes from
    epoch: Epoch = NONE
    #: entry → when its last full pass ended
    complete: Mapping[str, float] = field(default_factory=dict)
    #: entry → (start of this server, since when) something may not be on the disk
    unflushed: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        unflushed = {entry: list(mark) for entry, mark in self.unflushed.items()}
        return {"epoch": list(self.epoch), "complete": dict(self.complete), "unflushed": unflushed}


def parse(found: Mapping[str, Any]) -> Held:
    """What is no record, or damaged, counts as none."""
    try:
        number, node = found.get("epoch", NONE)
        complete = {str(entry): float(at) for entry, at in found.get("complete", {}).items()}
        marks = {str(entry): (str(start), float(at)) for entry, (start, at) in found.get("unflushed", {}).items()}
        return Held((int(number), str(node)), complete, marks)
    except (AttributeError, TypeError, ValueError):
        return Held()


class Record:
    """``start`` names this start of the server. ``run`` flushes, in a thread of its own, until ``end``."""

    def __init__(self, staging: Staging, start: str, settle: float = SETTLE) -> None:
        self._staging, self._start, self.settle = staging, start, settle
        self.held = parse(staging.state())
        #: one change at a time; whoever only reads doesn't wait for the disk
        self._changing = threading.Lock()
        self._turn = threading.Condition()
        #: entry → transfers that write to it now, and those that ever did
        self._open: dict[str, int] = {}
        self._ever: dict[str, int] = {}
        self._ended = False

    # --- who may write ------------------------------------------------------------------------------------------------------

    def admit(self, own: Standing, epoch: Epoch) -> None:
        """Raises Refusal. A newer epoch is written down before its first file is taken. Raises OSError."""
        if epoch == self.held.epoch and not why_not_take(own, epoch, epoch):
            return
        with self._changing:
            if why := why_not_take(own, self.held.epoch, epoch):
                raise Refusal(why)
            if epoch != self.held.epoch:
                self._write(replace(self.held, epoch=epoch, complete={}))

    def complete(self, entry: str, epoch: Epoch, took: float, *, by_content: bool) -> None:
        """A full pass that took so long has ended: what is not staged did not exist when it began."""
        with self._changing:
            if epoch != self.held.epoch:
                raise Refusal(f"epoch {epoch[0]}/{epoch[1]} is over")
            complete = {**self.held.complete, entry: time.time() - max(0.0, took)}
            marks = dict(self.held.unflushed)
            if by_content and self._is_doubt(entry):
                marks[entry] = (self._start, time.time())  # what repaired it is not on the disk yet
            self._write(replace(self.held, complete=complete, unflushed=marks))
        self._nudge()

    # --- what is not on the disk --------------------------------------------------------------------------------------------

    def opened(self, entry: str) -> None:
        """rsync is about to write there; ``closed`` follows. Raises OSError: then it must not."""
        with self._turn:
            self._open[entry] = self._open.get(entry, 0) + 1
            self._ever[entry] = self._ever.get(entry, 0) + 1
        try:
            with self._changing:
                if entry not in self.held.unflushed:
                    self._write(replace(self.held, unflushed={**self.held.unflushed, entry: (self._start, time.time())}))
        except BaseException:
            self.closed(entry)
            raise

    def closed(self, entry: str) -> None:
        with self._turn:
            self._open[entry] -= 1
            self._turn.notify_all()

    def doubts(self) -> dict[str, float]:
        """Entry → since when what came may be damaged."""
        return {entry: at for entry, (_, at) in self.held.unflushed.items() if self._is_doubt(entry)}

    def _is_doubt(self, entry: str) -> bool:
        return entry in self.held.unflushed and self.held.unflushed[entry][0] != self._start

    def end(self) -> None:
        self._ended = True
        self._nudge()

    def run(self) -> None:
        while not self._ended:
            with self._turn:
                if not self._closed():
                    self._turn.wait()
                    continue
            self._rest()
            try:
                self.flush(self._closed())
            except OSError as wrong:
                log.warning("what was received of replicated files can't be flushed: %s", wrong.strerror)

    def _rest(self) -> None:
        end = time.monotonic() + self.settle
        with self._turn:
            while not self._ended and (left := end - time.monotonic()) > 0:
                self._turn.wait(left)

    def flush(self, entries: Iterable[str]) -> None:
        """Raises OSError."""
        before = {entry: self._ever.get(entry) for entry in entries}
        sync_file_system(self._staging.root)
        with self._changing:
            # One that was opened meanwhile keeps its mark, and is flushed again when it is closed.
            done = {entry for entry, number in before.items() if self._ever.get(entry) == number}
            left = {entry: mark for entry, mark in self.held.unflushed.items() if entry not in done}
            self._write(replace(self.held, unflushed=left))

    def _closed(self) -> list[str]:
        return [
            entry for entry, (start, _) in self.held.unflushed.items() if start == self._start and not self._open.get(entry)
        ]

    def _nudge(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def _write(self, held: Held) -> None:
        self._staging.note(held.as_json())
        self.held = held


def sync_file_system(path: Path) -> None:
    """All that was written to the file system that ``path`` lies on is on the disk. Raises OSError."""
    done = subprocess.run(["sync", "--file-system", path], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EIO, done.stderr.decode(errors="replace").strip(), os.fspath(path))


def start_of_this_server() -> str:
    """Another one after each boot, of a container, too: the kernel's word, and when process 1 was started."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/1/stat').read_text().rpartition(')')[2].split()[19]}"
