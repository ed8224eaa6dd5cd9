"""Numbers of bytes, as people write and read them; pure.

Promise: ``size_of`` takes what Postgres takes (``16MB``, ``1 GB``), or a bare number of bytes, and nothing else; 1 kB is 1024
bytes.
"""

from __future__ import annotations

import re

_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_UNITS = {"": 1} | {f"{letter}{i}b": 1 << power for letter, power in _POWERS.items() for i in ("", "i")[: 1 + bool(letter)]}
_SIZE = re.compile(r"([0-9]{1,15})\s*([A-Za-z]*)\Z")
_MOST = 2**50

#: an asynchronous passive that lacks more of the log than this can't take over (bytes): one log segment of Postgres
MAXIMUM_LAG = 16 * 2**20


def size_of(text: str) -> int:
    """Bytes. Raises ValueError, saying what is wrong."""
    found = _SIZE.match(text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no number of bytes, with kB, MB or GB behind it")
    count = int(found[1]) * unit
    if count > _MOST:
        raise ValueError(f"{text!r} is more than any log")
    return count


def size(count: int) -> str:
    """``1536`` as ``1.5 KiB``."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:.1f} {unit}".replace(".0 ", " ")
    return f"{count} bytes"
