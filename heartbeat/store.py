"""What outlives a heartbeat: the record, the generation of its runs, the history of its roles.

Promise: a record that is there but can't be understood refuses the start, in words; it is never taken for an empty one, because
an empty one forgets an epoch (design §4, "Epoch"). At most one heartbeat uses a folder: the lock is shared with the writer
process and lasts until the last write has ended, so that a late write of a dead heartbeat can't overtake its successor's.
Source: docs/protocols.md, "Files"; facts/linux-ha-heartbeat.md (``hg``).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from heartbeat.model import Epoch, Record
from heartbeat.reserve import Reserve
from runtime.errors import ConfigError

VERSION = 1
FOLDER = "/var/lib/heartbeat"
#: changes of role that are kept
HISTORY = 200

_EPOCHS = ("epoch", "previous")
_NUMBERS = ("timeline", "suspend_version", "changes")
#: fields that a record of an earlier heartbeat doesn't have
_ADDED = {"changes", "lax"}
_LIMIT = 65536
#: no run has so high a number (it begins with seconds since 1970), and no frame could carry a much higher one
_FAR_FUTURE = 1 << 40


def record_to_json(record: Record) -> dict[str, Any]:
    """The document that ``record_from_json`` reads."""
    document: dict[str, Any] = {"version": VERSION}
    for each in fields(record):
        value = getattr(record, each.name)
        document[each.name] = list(value) if each.name in _EPOCHS else value
    return document


def record_from_json(document: object, file: str | os.PathLike[str] | None = None) -> Record:
    """The record in a document; ConfigError unless every field is there and of its kind, and no other is.

    Only what was added to records later may be missing: its default says what was so before.
    """
    if not isinstance(document, dict):
        raise _damaged("isn't a JSON object", file)
    version = document.get("version")
    if version != VERSION:
        raise _damaged(f"is of version {version!r}; this heartbeat reads version {VERSION}", file)
    names = {each.name for each in fields(Record)}
    odd = sorted(names.symmetric_difference(document.keys() - {"version"}) - (_ADDED - document.keys()))
    if odd:
        raise _damaged(f"has missing or unknown fields: {', '.join(odd)}", file)
    return Record(**{name: _value(name, document[name], file) for name in names & document.keys()})


def _value(name: str, value: Any, file: str | os.PathLike[str] | None) -> Any:
    if name in _EPOCHS:
        if isinstance(value, list) and len(value) == 2 and _is_count(value[0]) and isinstance(value[1], str):
            return Epoch(*value)
    elif name in _NUMBERS:
        if _is_count(value):
            return value
    elif isinstance(value, bool):
        return value
    raise _damaged(f"holds {value!r} as {name}", file)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _damaged(what: str, file: str | os.PathLike[str] | None) -> ConfigError:
    return ConfigError(
        f"the record of this node's epoch {what}",
        file=file,
        remedy="restore it from a backup; or, if the other server is active and its data is good, remove the file: this node"
        " then knows of no epoch and joins as a new passive",
    )


class Store:
    """The folder /var/lib/heartbeat. ``hold`` first; everything else presumes it."""

    def __init__(self, folder: str | os.PathLike[str] = FOLDER) -> None:
        self.folder = Path(folder)
        self.record_file = self.folder / "record"
        self.generation_file = self.folder / "generation"
        self.history_file = self.folder / "history"
        self.reserve = Reserve(self.folder)
        self.lock = -1

    def hold(self, limit: float = 10.0) -> None:
        """Make the folder and lock it; a predecessor's unfinished write is waited for, ``limit`` seconds."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(
                f"can't be used: {error.strerror}", file=self.folder, remedy="heartbeat keeps its epoch here"
            ) from error
        end = time.monotonic() + limit
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise ConfigError(
                        "another heartbeat, or an unfinished write of one, holds it",
                        file=self.folder / "lock",
                        remedy=f"see who: fuser -v {self.folder / 'lock'}",
                    ) from None
                time.sleep(0.002)

    def read_record(self) -> Record:
        """The record; an empty one only if there is no file at all."""
        try:
            content = self._read(self.record_file)
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise _damaged(f"can't be read: {error.strerror}", self.record_file) from error
        try:
            document = json.loads(content)
        except ValueError as error:
            raise _damaged(f"isn't JSON ({error})", self.record_file) from error
        return record_from_json(document, self.record_file)

    def next_generation(self, now: float) -> int:
        """The number of this run: above that of every run before it. ``now``: seconds since 1970.

        Written without waiting for the disk, which outlives this process; the writer repeats it with an fsync. A disk that
        takes nothing doesn't keep heartbeat from starting: the time alone is a good number, and the writer tells what is wrong.
        """
        try:
            stored = int(self._read(self.generation_file).strip())
        except (OSError, ValueError):
            stored = 0
        if not 0 <= stored < _FAR_FUTURE:
            stored = 0
        # The time is above any number counted up from an earlier time, one at each start, so a missing or damaged file costs
        # nothing; a peer ignores whoever begins below what it has heard. The file counts where the clock was set back.
        generation = max(stored, int(now)) + 1
        with contextlib.suppress(OSError):
            self.reserve.write(self.generation_file, f"{generation}\n", durable=False)
        return generation

    def read_history(self) -> list[Mapping[str, Any]]:
        """The newest changes that the file holds; lines that can't be read are left out (it decides nothing)."""
        try:
            with open(self.history_file, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LIMIT))
                lines = file.read().splitlines()
        except OSError:
            return []
        found: list[Mapping[str, Any]] = []
        for line in lines[-HISTORY:]:
            try:
                change = json.loads(line)
            except ValueError:
                continue
            if isinstance(change, dict):
                found.append(change)
        return found

    @staticmethod
    def _read(file: Path) -> bytes:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as opened:
            content = opened.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise OSError(27, "larger than any record")
        return content
