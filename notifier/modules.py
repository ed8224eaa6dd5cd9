"""The module files in base: whether devices will be able to use them.

Promise: what a device would refuse to put in place (``manager.receiver.applying``) is refused before anything is committed,
with its place in base and what to do; a file that was looked at once is not read again. Source: Trustwave §2, §3.2; house
style, 6.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ha_manager.site import load_site
from manager.config import load_enabled
from manager.manifest import Entry, Kind, Manifest
from manager.modulefile import COMMANDER, HA, MODULE
from runtime import modulexml
from runtime.errors import ConfigError


class Modules:
    def __init__(self) -> None:
        self._good: set[str] = set()

    def check(self, whole: Manifest, base: Path, lies: Callable[[Entry], str]) -> None:
        """``lies``: where an entry's content is kept. Raises ConfigError."""
        present = {name: entry for name, entry in whole.entries.items() if _is_module(name) and entry.kind is Kind.FILE}
        for name, entry in present.items():
            if f"{name} {entry.content}" not in self._good:
                _check(name, lies(entry), base)
        self._good = {f"{name} {entry.content}" for name, entry in present.items()}


def _is_module(name: str) -> bool:
    """``global/Scan/module.xml``, ``7/Scan/module.xml``."""
    return name.endswith(f"/{MODULE}") and name.count("/") == 2


def _check(name: str, kept: str, base: Path) -> None:
    module = name.split("/")[1].casefold()
    try:
        if module == COMMANDER:
            load_enabled(Path(kept))
            return
        section = modulexml.parse(kept).child("init/ha")
        if module == HA and section is not None and section.flag("enabled", False):
            load_site(Path(kept))
    except ConfigError as wrong:
        file = os.fspath(base / name) if wrong.file == kept else wrong.file
        raise ConfigError(wrong.message, file=file, line=wrong.line, remedy=wrong.remedy) from wrong
