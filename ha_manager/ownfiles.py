"""Our own files that a running Postgres goes by, made again where somebody removed them.

Promise: what is written is what Postgres runs with, so that nothing changes at the next reload, least of all who must
acknowledge a commit. A stopped Postgres needs none of this: its files are written before it is started. Source: design §6
(settings in one file of our own).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from ha_manager.cluster import Paths
from ha_manager.settings import LINEAGE, Dynamic
from ha_manager.sql import Session


def missing(state_dir: Path) -> tuple[str, ...]:
    """Those that are gone; without them Postgres refuses each reload, and ha_manager could change nothing."""
    return tuple(path for path in _needed(state_dir) if not os.path.exists(path))


@lru_cache(4)
def _needed(state_dir: Path) -> tuple[str, ...]:
    paths = Paths(state_dir)
    return tuple(str(path) for path in (paths.settings, paths.dynamic, paths.hba, paths.ident))


def running(session: Session, limit: float) -> Dynamic:
    """What depends on the role, as Postgres has it."""
    names = ("synchronous_standby_names", "primary_conninfo", "primary_slot_name", "max_standby_streaming_delay", LINEAGE)
    asked = ", ".join(f"current_setting('{name}', true)" for name in names)
    standby, who, conninfo, slot, delay, lineage = session.row(f"SELECT pg_is_in_recovery()::text, {asked}", limit)
    return Dynamic(who or "", conninfo or "", slot or "", delay == "0", standby == "true", lineage or "")
