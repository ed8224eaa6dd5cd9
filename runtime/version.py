"""The version of this installation, to be told to others and compared with theirs.

Promise: the same on two servers that were installed from the same release, whatever the way.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"


@cache
def package() -> str:
    """Such as ``0.1.0``. Of a checkout its setup.cfg is read, so that it never says what an older installation says."""
    checkout = Path(__file__).resolve().parent.parent / "setup.cfg"
    try:
        found = re.search(r"^version *= *(\S+)$", checkout.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return found[1]
    try:
        return metadata.version("ha_manager")
    except metadata.PackageNotFoundError:
        return UNKNOWN
