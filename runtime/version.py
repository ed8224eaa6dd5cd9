"""The version of this installation, to be told to others and compared with theirs.

Promise: the same on two servers that were installed from the same release, whatever the way. importlib.metadata would tell, and
brings 3 MB along, for e-mail.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"
_NAME, _INSTALLED = "ha_manager", ".dist-info"


@cache
def package() -> str:
    """Such as ``0.1.0``. Of a checkout its setup.cfg is read, so that it never says what an older installation says."""
    root = Path(__file__).resolve().parent.parent
    try:
        found = re.search(r"^version *= *(\S+)$", (root / "setup.cfg").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return found[1]
    installed = next(root.glob(f"{_NAME}-*{_INSTALLED}"), None)
    return installed.name.removeprefix(f"{_NAME}-").removesuffix(_INSTALLED) if installed else UNKNOWN


def together(own: str, peer: str, theirs: str, *, suspended: bool) -> str:
    """Why two policy servers of these versions must not work together, with the remedy; "" if they may.

    ``suspended``: an operator suspended high availability for an upgrade; then one step of difference is allowed.
    """
    if own == theirs:
        return ""
    said = f"the policy servers run different versions: {own} here, {theirs} on {peer}"
    one, other = _step(own), _step(theirs)
    if one is None or other is None or one[0] != other[0] or abs(one[1] - other[1]) > 1:
        return f"{said}; install the same version on both"
    if suspended:
        return ""
    return f"{said}; install the same version on both, or, in the middle of an upgrade, `ha suspend` first"


def _step(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)(?:\D|$)", version)
    return (int(found[1]), int(found[2])) if found else None
