"""Pinned keys of other nodes, a file each: the notifiers that a device obeys, the devices that a notifier writes to.

Promise: a pinned key is never replaced silently; what lies in the folder and is no key of the node that the file is named after
is an error, and then nobody of the folder is trusted. Source: docs/protocols.md ("Files"); docs/concepts.md (trust).
"""

from __future__ import annotations

from pathlib import Path

from runtime.durable import remove_durably, write_durably
from runtime.errors import ConfigError
from runtime.keys import PublicKey, parse


class Pins:
    """``NODE.pub`` in ``directory``, a line of ``PublicKey`` each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def all(self) -> tuple[PublicKey, ...]:
        """Sorted by node. Raises ConfigError."""
        try:
            files = sorted(self.directory.glob("[!.]*.pub"))
        except OSError as wrong:
            raise ConfigError(f"can't be read: {wrong.strerror}", file=self.directory) from wrong
        return tuple(self._read(file) for file in files)

    def get(self, node: str) -> PublicKey | None:
        """None if no key of ``node`` is pinned. Raises ConfigError."""
        file = self.file(node)
        return self._read(file) if file.exists() else None

    def file(self, node: str) -> Path:
        return self.directory / f"{node}.pub"

    def pin(self, key: PublicKey, *, replace: bool = False, remedy: str = "") -> None:
        """ConfigError, with ``remedy``, if another key of that node is pinned and ``replace`` is not given."""
        pinned = self.get(key.node)
        if pinned == key:
            return
        if pinned is not None and not replace:
            raise ConfigError(
                f"another key is pinned for {key.node}: {pinned.fingerprint}, not {key.fingerprint}",
                file=self.file(key.node),
                remedy=remedy,
            )
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_durably(self.file(key.node), key.line + "\n", mode=0o644)

    def forget(self, node: str) -> bool:
        """False if no key of ``node`` was pinned."""
        return remove_durably(self.file(node))

    def _read(self, file: Path) -> PublicKey:
        try:
            key = parse(file.read_text(encoding="ascii"), file)
        except (OSError, UnicodeDecodeError) as wrong:
            raise ConfigError(f"can't be read: {wrong}", file=file) from wrong
        if key.node != file.name.removesuffix(".pub"):
            raise ConfigError(f"holds the key of {key.node}", file=file, remedy=f"name it {key.node}.pub, or remove it")
        return key
