"""Is there room for a copy? Asked for each file system by itself: data, tablespaces and log may lie on different ones.

Promise: reads only. What is missing is said with how much, where, and what could go. Source: issue "Postgres: no acknowledged
write lost …" ("enough disk checked first").
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ha_manager import tablespaces
from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Identity
from ha_manager.transfer import RESERVE
from runtime.errors import ReplicationError

#: A copy of databases that are being written to may grow by so much; and log arrives meanwhile.
_GROWTH = 1.05
_LOG = 192 * 1024 * 1024


@dataclass(frozen=True)
class Need:
    """``amount`` bytes in (the file system of) ``place`` for ``what``."""

    place: Path
    amount: int
    what: str


def needs(config: PostgresConfig, active: Identity) -> list[Need]:
    """What a copy of that active's takes here."""
    data = config.data_dir.parent
    elsewhere = sum(size for _, size in active.locations)
    found = [Need(data, int(max(0, active.size - elsewhere) * _GROWTH) + RESERVE, "the databases")]
    found += [
        Need(tablespaces.base_of(Path(folder)), int(size * _GROWTH) + RESERVE, "a tablespace")
        for folder, size in active.locations
    ]
    log = tablespaces.log_folder(config.data_dir)
    found.append(Need(tablespaces.base_of(log) if log is not None else data, _LOG, "log that arrives meanwhile"))
    return found


def given_back(config: PostgresConfig) -> list[Need]:
    """What removing the database that is here gives."""
    places = [config.data_dir, *tablespaces.outside(config.data_dir)]
    return [Need(place, tablespaces.size_of(place), "the old database") for place in places]


def check(config: PostgresConfig, active: Identity, reclaim: Iterable[Need] = (), beside: Iterable[Need] = ()) -> None:
    """Raises ReplicationError unless the copy fits with what is ``beside`` it, ``reclaim`` having been removed first."""
    if active.tablespaces > len(active.locations):
        raise ReplicationError(
            f"the active has {active.tablespaces} tablespaces and doesn't say where: install the same ha_manager there"
        )
    reclaimed: dict[int, int] = defaultdict(int)
    for each in reclaim:
        reclaimed[_device(each.place)] += each.amount
    by_device: dict[int, list[Need]] = defaultdict(list)
    for each in (*needs(config, active), *beside):
        by_device[_device(each.place)].append(each)
    wrong = [said for device, wanted in by_device.items() if (said := _lacks(wanted, reclaimed[device]))]
    if wrong:
        raise ReplicationError(f"{'; '.join(wrong)}: make room{_could_go(config)}. Nothing was removed, nothing was copied")


def fits(config: PostgresConfig, active: Identity, *beside: Need) -> bool:
    """Is there room for the copy, and for what is ``beside`` it, while the old database is still there?"""
    try:
        check(config, active, beside=beside)
    except ReplicationError:
        return False
    return True


def check_for(place: Path, amount: int, what: str) -> None:
    """Raises ReplicationError unless ``amount`` bytes and a reserve are free in ``place``."""
    free = _free(place)
    if free < amount + RESERVE:
        raise ReplicationError(
            f"{what} takes {_mb(amount)} MB in {place}, and {_mb(free)} MB are free, {_mb(RESERVE)} of which must stay so:"
            " make room (`ha diverged` lists what is kept of earlier ones). Nothing was removed"
        )


def _lacks(wanted: list[Need], reclaimed: int) -> str:
    needed, free = sum(each.amount for each in wanted), _free(wanted[0].place)
    if free + reclaimed >= needed:
        return ""
    named = ", ".join(dict.fromkeys(each.what for each in wanted))
    also = f" (and {_mb(reclaimed)} in the database here)" if reclaimed > RESERVE // 4 else ""
    return f"a copy needs {_mb(needed)} MB in {wanted[0].place} for {named}, and {_mb(free)} MB are free{also}"


def _could_go(config: PostgresConfig) -> str:
    pattern = f"{config.data_dir.name}.diverged-*"
    kept = sorted(config.data_dir.parent.glob(pattern))
    if not kept:
        return ""
    size = tablespaces.size_of_trees(kept, config.data_dir)
    return f" (`ha diverged remove` frees {_mb(size)} MB kept of earlier databases)"


def _device(place: Path) -> int:
    return _existing(place).stat().st_dev


def _free(place: Path) -> int:
    disk = os.statvfs(_existing(place))
    return disk.f_bavail * disk.f_frsize


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.exists())


def _mb(amount: int) -> int:
    return (amount + (1 << 20) - 1) >> 20
