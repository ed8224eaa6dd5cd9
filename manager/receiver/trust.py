"""Whose notifiers this device knows, and how it comes to know more.

Promise: nobody is trusted because he came first. Known are: whom an operator accepted (``notifiers/NODE.pub``), whom one of
those introduced (``notifiers/introduced/``; what an operator said is never replaced by that), this node itself, and the pinned
peer of a policy server. Source: docs/concepts.md; docs/protocols.md ("Files").
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from runtime.errors import ConfigError
from runtime.keys import Keys, PublicKey, parse
from runtime.pins import Pins
from runtime.session import Refusal

#: of each file: path, inode, time of the last change
Mark = tuple[tuple[str, int, int], ...]


class Trust:
    """``keys``: the folder of this node's own keys."""

    def __init__(self, folder: Path) -> None:
        self.keys = Keys(folder)
        self.accepted = Pins(folder / "notifiers")
        self.introduced = Pins(folder / "notifiers/introduced")

    def mark(self) -> Mark:
        """Changes whenever one of the key files may have: cheap, so it can be looked at all the time."""
        folders = (self.keys.directory, self.accepted.directory, self.introduced.directory)
        looks = []
        for folder in folders:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    about = entry.stat(follow_symlinks=False)
                    looks.append((entry.path, about.st_ino, about.st_mtime_ns))
        return tuple(sorted(looks))

    def all(self) -> tuple[PublicKey, ...]:
        """Each node once. Raises ConfigError."""
        own, peer = self.keys.show(), self.keys.peer()
        found = {key.node: key for key in self.introduced.all()}
        found |= {key.node: key for key in ([peer] if peer is not None else [])}
        found |= {key.node: key for key in self.accepted.all()}
        return (*(key for node, key in found.items() if node != own.node), own)

    def key_of(self, node: str) -> PublicKey | None:
        return next((key for key in self.all() if key.node == node), None)

    def accept(self, line: str, *, replace: bool = False) -> PublicKey:
        """An operator's word. Raises ConfigError."""
        key = parse(line)
        if key.node == self.keys.show().node:
            raise ConfigError(
                f"this is the key of {key.node}, this device itself",
                remedy="use the line of `ha keys show` on the policy server",
            )
        self.accepted.pin(
            key,
            replace=replace,
            remedy="if that server was given a new key on purpose, `manager-ctl keys accept --replace` with its line",
        )
        return key

    def introduce(self, line: str) -> None:
        """The word of a notifier that is listened to. Raises Refusal."""
        try:
            key = parse(line)
            known = self.key_of(key.node)
            if known == key:
                return
            if known is not None and (self.accepted.get(key.node) or self.introduced.get(key.node) != known):
                raise Refusal(
                    f"another key of {key.node} was accepted here, {known.fingerprint}; if it was given a new one on purpose, "
                    "`manager-ctl keys accept --replace` with its line on this device",
                    "key",
                )
            self.introduced.pin(key, replace=True)
        except ConfigError as wrong:
            raise Refusal(str(wrong), "malformed") from wrong

    def adopt(self, node: str) -> None:
        """``node`` is the other server of the pair: its ha_manager is to be known, too, if none is yet. Raises ConfigError."""
        key = self.key_of(node)
        if key is not None and self.keys.peer() is None:
            self.keys.accept(key.line)
