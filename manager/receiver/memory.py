"""What a device remembers of the notifiers it obeys, across any crash: what it holds, and to whom it listens.

Promise: what ``save`` was given is on the disk before it returns, or nothing has changed. Damaged memory is an error that
names the file: a device that has forgotten which notifier was the newest could be taken back by an old one. Source: design §7;
docs/protocols.md ("Files").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manager import wire
from manager.holding import Holding, Release
from manager.manifest import Unusable
from runtime.durable import read_json, write_json
from runtime.errors import ConfigError

_LIMIT = 1 << 28


@dataclass(frozen=True)
class Memory:
    holding: Holding
    #: the other policy server's node, if this is one and has been told that it is its passive
    passive_of: str = ""
    #: whose part of the configuration is this device's: base/[global|device]
    device: str = ""
    #: the kind of device, in words of devices.xml ("": not told yet)
    kind: str = ""


class Store:
    """``folder``: the Manager's own, with ``holding.json`` and the manifest of what is staged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "holding.json"

    def load(self) -> Memory:
        """Raises ConfigError."""
        kept = read_json(self._file, {})
        try:
            return _memory(kept)
        except (Unusable, AttributeError, KeyError, TypeError) as wrong:
            remedy = "remove it, and what is committed next is taken from whichever notifier comes first"
            raise ConfigError(f"is damaged: {wrong}", file=self._file, remedy=remedy) from wrong

    def save(self, memory: Memory) -> None:
        """Raises OSError."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        held = memory.holding
        write_json(
            self._file,
            {
                "highest": wire.of_version(held.highest),
                "holds": wire.of_release(held.holds),
                "staged": wire.of_release(held.staged),
                "passive_of": memory.passive_of,
                "device": memory.device,
                "kind": memory.kind,
            },
        )


def _memory(kept: dict[str, Any]) -> Memory:
    def of(word: str) -> Release | None:
        return None if kept.get(word) is None else wire.release(kept[word])

    highest = None if kept.get("highest") is None else wire.version(kept["highest"])
    words = {name: str(kept.get(name, "")) for name in ("passive_of", "device", "kind")}
    return Memory(Holding(highest, of("holds"), of("staged")), **words)
