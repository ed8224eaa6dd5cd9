"""What a device has to be told so that it knows one manifest by another, in lines that a session takes.

Promise: no input or output; ``parts`` of at most ``PART`` bytes each, at least one; applied to the manifest that they are based
on they give exactly the wanted one. Source: docs/protocols.md ("The session with a device").
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from manager.manifest import Manifest

#: of JSON in one request; a line may have twice as much
PART = 512 * 1024


@dataclass(frozen=True)
class Difference:
    """``gone``: names; ``changed``: [name, kind, mode, content, size] as in a manifest's line."""

    gone: tuple[str, ...]
    changed: tuple[list[Any], ...]

    def parts(self) -> tuple[dict[str, list[Any]], ...]:
        made: list[dict[str, list[Any]]] = [{"gone": [], "changed": []}]
        room = PART
        for word, item in self._items():
            size = len(json.dumps(item)) + 2
            if size > room:
                made.append({"gone": [], "changed": []})
                room = PART
            made[-1][word].append(item)
            room -= size
        return tuple(made)

    def _items(self) -> Iterator[tuple[str, Any]]:
        for name in self.gone:
            yield "gone", name
        for entry in self.changed:
            yield "changed", entry


def difference(before: Manifest | None, after: Manifest) -> Difference:
    """``before``: None if the device has nothing that both know."""
    old = before.entries if before is not None else {}
    changed = [
        [name, entry.kind.value, entry.mode, entry.content, entry.size]
        for name, entry in sorted(after.entries.items())
        if old.get(name) != entry
    ]
    return Difference(tuple(sorted(old.keys() - after.entries.keys())), tuple(changed))
