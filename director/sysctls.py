"""Settings of the kernel that the director changes while it runs, put back as they were found.

Promise: what was found stands in a file before anything is changed, so that a killed director's settings are put back by the
next one's clean stop. The file lies below /run: at a boot the settings are the system's own again, and it is gone. Source:
docs/director.md, "What it does to the system".
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

ROOT = Path("/proc/sys")
KEPT = Path("/run/director/settings")


class Sysctls:
    """Files below /proc/sys. ``kept``: where what was found stands; None: nowhere."""

    def __init__(self, kept: Path | None = None, root: Path = ROOT) -> None:
        self._kept = kept
        self._root = root
        self._found = _read(kept) if kept is not None else {}
        self._unkept = False

    def ensure(self, wanted: dict[str, str]) -> list[str]:
        """Set what isn't so; what can't be set, or kept, in words."""
        problems = []
        for name, value in wanted.items():
            file = self._root / name
            try:
                found = file.read_text().strip()
                if found == value:
                    continue
                if name not in self._found:
                    self._found[name] = found
                    self._unkept = True
                    problems += self._keep()
                file.write_text(value)
            except OSError as error:
                problems.append(f"{file} can't be set to {value}: {error.strerror}")
        return problems or self._keep()

    @property
    def found(self) -> dict[str, str]:
        """What was changed, as it was before."""
        return dict(self._found)

    def restore(self) -> None:
        restore(self._found, self._kept, self._root)
        self._found = {}

    def _keep(self) -> list[str]:
        if self._kept is None or not self._unkept:
            return []
        new = self._kept.with_name(f".{self._kept.name}.new")
        try:
            new.write_text(json.dumps(self._found))
            os.replace(new, self._kept)
            self._unkept = False
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            return [f"{self._kept} can't be written, so a killed director's settings stay: {error.strerror}"]
        return []


def restore(found: dict[str, str], kept: Path | None = None, root: Path = ROOT) -> None:
    for name, value in found.items():
        with contextlib.suppress(OSError):  # the interface may be gone
            (root / name).write_text(value)
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.unlink()


def _read(kept: Path) -> dict[str, str]:
    """What a predecessor found; nothing if that can't be read."""
    try:
        said = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}
