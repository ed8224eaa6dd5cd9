"""Versions and releases as they travel between a notifier and a device.

Promise: no input or output. What came from elsewhere is believed nothing: anything that is not exactly a version or a release
raises ``Unusable``. Source: docs/protocols.md ("The session with a device").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manager.holding import Release, Version
from manager.manifest import Unusable

_HEX = "0123456789abcdef"
#: of a node's name, as keys have them
_LONGEST_NODE = 63


def version(told: Any) -> Version:
    """Of [epoch, node, number]. Raises Unusable."""
    match told:
        case [int(epoch), str(node), int(number)] if epoch >= 0 and number >= 0 and 0 < len(node) <= _LONGEST_NODE:
            if not isinstance(epoch, bool) and not isinstance(number, bool):
                return Version(epoch, node, number)
    raise Unusable("a version is [epoch, node, number]")


def of_version(one: Version | None) -> list[Any] | None:
    return None if one is None else [one.epoch, one.node, one.number]


def release(told: Any) -> Release:
    """Raises Unusable."""
    match told:
        case {"version": found, "digest": str(digest)} if is_digest(digest):
            return Release(version(found), digest)
    raise Unusable('a release is {"version": [epoch, node, number], "digest": SHA-256}')


def of_release(one: Release | None) -> dict[str, Any] | None:
    return None if one is None else {"version": of_version(one.version), "digest": one.digest}


def is_digest(text: str) -> bool:
    return len(text) == 64 and not text.strip(_HEX)


def listed(told: Mapping[str, Any], word: str) -> list[Any]:
    """The list of that name. Raises Unusable."""
    found = told.get(word)
    if not isinstance(found, list):
        raise Unusable(f"{word} is no list")
    return found
