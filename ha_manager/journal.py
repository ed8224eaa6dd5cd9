"""The journal of the current role change: intent before, outcome after, on the disk.

Promise: what ``begin`` or ``note`` returned from survives a power cut; a last line cut short by one is ignored; anything else
that can't be read counts as no journal, because every step of the plan can be done again. Source: design §6.

Lines of JSON: first the header (``plan.Change``), then one line per state of a step.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from ha_manager.orders import Role, epoch_from
from ha_manager.plan import Change, Journal, State, known
from runtime.durable import read_bytes, write_durably


class JournalFile:
    """The one journal of this server. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def load(self) -> Journal | None:
        """What an earlier run left, or None if there is nothing that can be gone on with."""
        try:
            content = read_bytes(self._path)
        except OSError:
            return None
        return _parse(content) if content else None

    def begin(self, change: Change) -> None:
        """Replace the journal by an empty one for ``change``. Raises OSError."""
        self.close()
        header = asdict(change) | {"role": change.role.value, "epoch": list(change.epoch), "steps": list(change.steps)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps(header) + "\n", mode=0o600)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, step: str, state: State, error: str = "") -> None:
        """Append one line and fsync it. Raises OSError."""
        if self._fd is None:
            self._fd = self._open_whole()
        line = json.dumps({"step": step, "state": state.value, "error": error}) + "\n"
        os.write(self._fd, line.encode())
        os.fdatasync(self._fd)

    def _open_whole(self) -> int:
        """Open for appending, without the torn last line of a crash, which would swallow the next one."""
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        content = self._path.read_bytes()
        os.ftruncate(fd, content.rfind(b"\n") + 1)
        return fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _parse(content: bytes) -> Journal | None:
    lines = content.split(b"\n")[:-1]
    if not lines:
        return None
    try:
        change = _change(json.loads(lines[0]))
        states: dict[str, State] = {}
        for line in lines[1:]:
            entry = json.loads(line)
            states[str(entry["step"])] = State(entry["state"])
    except (ValueError, KeyError, TypeError):
        return None
    return Journal(change, states) if known(change.steps, change.role) else None


def _change(header: dict[str, object]) -> Change:
    steps = header["steps"]
    if not isinstance(steps, list):
        raise ValueError("steps is not a list")
    return Change(
        role=Role(str(header["role"])),
        epoch=epoch_from(header["epoch"]),
        because=str(header["because"]),
        was_passive=bool(header["was_passive"]),
        steps=tuple(str(step) for step in steps),
    )
