"""Memory that stays where it is: no wait for a disk in the middle of something that others wait for.

Promise: asked for, not needed: what the system refuses is returned in words. Children don't inherit it. Source: mlockall(2),
malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import os

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


def lock(who: str, *, touched: bool = False) -> str:
    """Lock this process's memory; "" or why not. ``touched``: only what it has used once, which leaves out most of the stacks
    of many threads (8 MiB each).
    """
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | (_MCL_ONFAULT if touched else 0)) == 0:
        return ""
    because = os.strerror(ctypes.get_errno())
    return f"memory can't be locked ({because}): short of memory, {who} may be late"


def give_back() -> None:
    """To the system, what C libraries have freed: where memory is locked, it would stay."""
    _libc.malloc_trim(0)
