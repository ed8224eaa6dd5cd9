"""What a copy of the active's database is made of.

Promise: one value for all ways of copying (``basebackup``, ``differences``) and for ``seeding``, which puts it in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Identity, Upstream
from ha_manager.transfer import OnProgress


@dataclass(frozen=True)
class Copy:
    """Of ``active``, reached as ``upstream``, for this server (``node``); ``label``: of what lies outside the data directory.
    ``progress`` ends it by False, ``limit`` (seconds) and a failure by an exception; ``note`` gets sentences for the log.
    ``link``: MiB a second from the active, measured when asked for; 0: not known.
    """

    config: PostgresConfig
    node: str
    upstream: Upstream
    active: Identity
    label: str
    progress: OnProgress
    limit: float
    note: Callable[[str], None]
    link: Callable[[], float]
