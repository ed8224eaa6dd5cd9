"""What passes between heartbeat and ha_manager: wants there, facts back, as JSON.

Promise: ``facts`` takes exactly the fields of ``model.Facts``, each of its kind (ValueError names the one that isn't); what is
left out has its default. Source: docs/protocols.md, "heartbeat".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import inf
from typing import Any

from heartbeat.model import Database, Epoch, Facts, Names, Want

_KINDS: dict[str, type] = {each.name: type(getattr(Facts(), each.name)) for each in fields(Facts)}


def want_to_json(want: Want) -> dict[str, Any]:
    """The fields of ``want``: enumerations by value, epochs as ``[number, node]``."""
    return {each.name: _plain(getattr(want, each.name)) for each in fields(Want)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Epoch) else value


def facts_from_json(document: object) -> Facts:
    if not isinstance(document, Mapping):
        raise ValueError("facts are an object")
    unknown = sorted(document.keys() - _KINDS.keys())
    if unknown:
        raise ValueError(f"unknown facts: {', '.join(map(str, unknown))}")
    return Facts(**{name: _value(name, value) for name, value in document.items()})


def _value(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    try:
        if kind is Epoch:
            number, node = value
            if _is_whole(number) and number >= 0 and isinstance(node, str):
                return Epoch(number, node)
        elif kind in (Database, Names):
            return kind(value)
        elif kind is float:
            # JSON knows no infinity: what never happened is null.
            if value is None:
                return inf
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif kind is int:
            if _is_whole(value):
                return value
        elif isinstance(value, kind):
            return value
    except (TypeError, ValueError):
        pass
    raise ValueError(f"the fact {name} can't be {value!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
