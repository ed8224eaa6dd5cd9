"""The start fence: whoever starts a Postgres on this data, it doesn't open as a primary. Only a promotion makes it one.

Promise: while HA is on, whenever another postmaster could take the data, ``standby.signal`` lies in it, or the data is
*barred*: Postgres refuses to start on a directory that others may write to (checkDataDir). The file is read at a start and at
no other time, so it lies there while a primary runs, too; Postgres itself removes it amid a promotion, which is therefore begun
barred, and the bar goes when the file is back. Nobody removes it to start Postgres (but for ``rewinding``, whose database alone
serves nobody): the keeper's own comes up as a standby and is promoted, after a crash as well (facts/postgres.md 4). A foreign
one is a standby of nobody, which takes no writes, until it is ended; what it would have acknowledged waited for nobody.
Source: design §4 rules 2, 6, 11.

Others' permission to write to a folder lets nobody in without that to pass through it: the bar opens nothing.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from runtime import durable

#: what Postgres demands to be unset (PG_MODE_MASK_GROUP), and the one of these that bars
_REFUSED = stat.S_IWGRP | stat.S_IRWXO
_BAR = stat.S_IWOTH


def up(data_dir: Path, user: str, *, fsync: bool = True) -> None:
    """A Postgres that is started on it is a standby. Without ``fsync``: call ``sync`` soon."""
    signal = data_dir / "standby.signal"
    if not signal.exists():
        entry = pwd.getpwnam(user)
        durable.write_durably(signal, b"", mode=0o600, owner=(entry.pw_uid, entry.pw_gid), durable=fsync)
    _set(data_dir, 0)


def bar(data_dir: Path) -> None:
    """No Postgres can be started on it, until ``up`` or ``down``."""
    _set(data_dir, _BAR)


def sync(data_dir: Path) -> None:
    """It stays up across a power cut."""
    durable.sync_folder(data_dir)


def down(data_dir: Path) -> None:
    """HA is off here: whoever starts it may have a primary."""
    durable.remove_durably(data_dir / "standby.signal")
    _set(data_dir, 0)


def is_up(data_dir: Path) -> bool:
    return (data_dir / "standby.signal").exists()


def _set(data_dir: Path, wanted: int) -> None:
    """The permissions of those whom Postgres demands to have none."""
    now = stat.S_IMODE(data_dir.stat().st_mode)
    if now & _REFUSED != wanted:
        os.chmod(data_dir, now & ~_REFUSED | wanted)
