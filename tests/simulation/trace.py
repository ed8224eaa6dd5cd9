"""Events, effects and facts on one line each, for people.

Promise: what differs from a field's default is shown, nothing else; enumerations by value, epochs as "number/node".
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from heartbeat.model import Epoch


def _default(field: Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def brief(value: object) -> str:
    """``value`` in short."""
    if isinstance(value, Epoch):
        return str(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:.3f}"
    if is_dataclass(value):
        parts = []
        for field in fields(value):
            item = getattr(value, field.name)
            if item != _default(field):
                parts.append(f"{field.name}={brief(item)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    return repr(value)
