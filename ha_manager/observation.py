"""What is seen of a Postgres, and what one Postgres must know of another to follow it: plain immutable values.

Promise: nothing here interprets; no input or output. Log positions (LSN) are byte offsets as integers, -1 is unknown; times are
seconds. Source: facts/postgres.md, "What a first-class two-node manager must do".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from typing import Any

#: An identifier of Postgres holds 63 bytes.
_NAME_LIMIT = 63


def lsn(text: str | None) -> int:
    """``"16/B374D848"`` as a byte offset; -1 for None or an empty string. Raises ValueError for anything else."""
    if not text:
        return -1
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(position: int) -> str:
    """A byte offset as Postgres writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


@lru_cache
def standby_name(node: str, epoch: int) -> str:
    """The application_name under which ``node`` follows the active of ``epoch``: ``ha_<node>_<epoch>``."""
    tail = f"_{epoch}"
    return f"ha_{_plain(node)}"[: _NAME_LIMIT - len(tail)] + tail


@lru_cache
def epoch_of(name: str) -> int:
    """The epoch number in a name made by ``standby_name``; -1 if it is not one."""
    found = re.fullmatch(r"ha_.*_(\d+)", name)
    return int(found[1]) if found else -1


#: how the name begins under which a copy of the database connects
COPIES = "ha_copy_"


@lru_cache
def slot_name(node: str) -> str:
    """The replication slot that ``node`` uses on its active (lower case letters, digits and _ are allowed)."""
    return f"ha_{re.sub('[^a-z0-9_]', '_', node.lower())}"[:_NAME_LIMIT]


#: libpq's sslmode for an active that has no TLS
PLAIN = "disable"


def is_plain(conninfo: str) -> bool:
    """Was this primary_conninfo made for an active that has no TLS?"""
    return f"sslmode={PLAIN}" in conninfo or f"sslmode='{PLAIN}'" in conninfo


def _plain(node: str) -> str:
    return re.sub(r'[^\x21-\x7e]|["\\]', "_", node)


@dataclass(frozen=True)
class Upstream:
    """The active to follow. ``host`` is an address; ``epoch`` the active's own epoch number; ``tls``: it has a certificate,
    so nothing goes without TLS; None: it has not said.
    """

    node: str
    epoch: int
    host: str
    port: int = 5432
    tls: bool | None = None


@dataclass(frozen=True)
class Identity:
    """What makes a database this one, told over the pinned session; enough to judge whether another can follow it."""

    system_identifier: str
    timeline: int
    #: (timeline, position at which the next one left it), oldest first, ``timeline`` itself not included
    history: tuple[tuple[int, int], ...] = ()
    #: which promotion made a timeline: {2: "7/vs-166"}; two servers can promote to the same number
    lineage: Mapping[int, str] = field(default_factory=dict)
    lsn: int = -1
    #: bytes of all databases; tablespaces beside the two built in
    size: int = 0
    tablespaces: int = 0
    version: int = 0
    #: Postgres's log segment size in bytes
    segment: int = 16 * 1024 * 1024
    #: (folder, bytes) of each tablespace that lies outside the data directory; ``size`` counts them, too
    locations: tuple[tuple[str, int], ...] = ()
    #: bytes of log that the active keeps
    wal: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "system_identifier": self.system_identifier, "timeline": self.timeline,
            "history": [list(pair) for pair in self.history], "lineage": {str(k): v for k, v in self.lineage.items()},
            "lsn": self.lsn, "size": self.size, "tablespaces": self.tablespaces, "version": self.version,
            "segment": self.segment, "locations": [list(pair) for pair in self.locations], "wal": self.wal,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        """Raises KeyError, TypeError or ValueError for what ``as_json`` did not make."""
        return cls(
            system_identifier=str(value["system_identifier"]),
            timeline=int(value["timeline"]),
            history=tuple((int(tli), int(end)) for tli, end in value["history"]),
            lineage={int(tli): str(who) for tli, who in value["lineage"].items()},
            lsn=int(value["lsn"]),
            size=int(value["size"]),
            tablespaces=int(value["tablespaces"]),
            version=int(value["version"]),
            segment=int(value["segment"]),
            locations=tuple((str(folder), int(size)) for folder, size in value.get("locations", ())),
            wal=int(value.get("wal", 0)),
        )


@dataclass(frozen=True)
class Receiver:
    """This standby's connection to its active. ``message_age``: seconds since anything came over it."""

    status: str
    name: str
    host: str
    flushed: int
    message_age: float

    @property
    def streaming(self) -> bool:
        return self.status == "streaming"


@dataclass(frozen=True)
class StandbyRow:
    """One row of pg_stat_replication. ``reply_age``: seconds since its newest message."""

    name: str
    state: str
    sync_state: str
    sent: int
    flushed: int
    replayed: int
    reply_age: float


@dataclass(frozen=True)
class Slot:
    """A replication slot. ``wal_status``: reserved | extended | unreserved | lost."""

    name: str
    active: bool
    wal_status: str
    restart: int
    safe_wal_size: int = -1


#: a standby that lacks no more of the log has caught up (bytes)
NEAR = 1024 * 1024
DATABASE, LOG, STATE, MESSAGES = "the database", "the log of changes", "ha_manager's own state", "Postgres's messages"


@dataclass(frozen=True)
class Disk:
    """A file system, by what lies on it; bytes."""

    use: str
    path: str
    free: int
    total: int
    read_only: bool = False
    #: databases that were replaced are kept on this server (`ha diverged`): room that can be had
    kept: bool = False


@dataclass(frozen=True)
class Vitals:
    """What is looked at every few seconds. ``places``: connections for others than superusers; ``clients``: those taken."""

    clients: int = 0
    places: int = 100
    #: who has most of them, in words
    busiest: str = ""
    #: the replication role is there and may do what it must
    role: bool = True
    #: what replay waits for, in Postgres's words (type and name of its wait_event); "" if for nothing
    replay_waits: str = ""
    #: the oldest transaction of a client, in words
    oldest: str = ""
    #: max_wal_size: bytes that may be written to the log before a checkpoint gives any back
    between_checkpoints: int = 0
    #: bytes of the log that have waited for more than a minute to be archived, where this server is to archive them
    unarchived: int = 0


@dataclass(frozen=True)
class Observation:
    """One look at this server's Postgres."""

    #: CLOCK_BOOTTIME of the look
    at: float = 0.0
    #: the keeper's state: stopped | starting | running | stopping | unknown (no keeper)
    state: str = "unknown"
    #: Postgres answered a query, and took a new connection lately; else ``because`` says what is wrong
    answers: bool = False
    because: str = ""
    in_recovery: bool = False
    timeline: int = 0
    #: primary: insert position; standby: everything before it is flushed here
    lsn: int = -1
    replayed: int = -1
    replay_paused: bool = False
    #: transactions committed since this server's epoch was opened here
    beyond: int = 0
    #: ``synchronous_standby_names`` as this look's backend sees it
    names: str = ""
    primary_conninfo: str = ""
    receiver: Receiver | None = None
    standbys: tuple[StandbyRow, ...] = ()
    slots: tuple[Slot, ...] = ()
    #: commits that wait for the standby, and for how long the oldest of them has been seen waiting
    waiting: int = 0
    stalled: float = 0.0
    #: seconds for which somebody has waited for this server's own disk to take the log, and it took nothing
    unwritten: float = 0.0
    #: seconds for which a client, or replay, has waited for one and the same read or write of the database's files
    unread: float = 0.0
    disks: tuple[Disk, ...] = ()
    system_identifier: str = ""
    #: settings of ours that ALTER SYSTEM overrides
    overridden: tuple[str, ...] = ()
    #: why the administrator's settings can't be used as they are now; "" if they can
    unusable: str = ""
    #: whether what they say counts, or what they said last, has changed: our own settings file is to follow
    settings_due: bool = False
    #: files of ours that Postgres goes by, and that somebody removed
    missing: tuple[str, ...] = ()
    #: a postmaster on this data that isn't the keeper's: its process id; 0: none
    foreign: int = 0
    #: clients have every connection, also those kept for superusers
    crowded: bool = False
    vitals: Vitals | None = None
    #: it offers TLS (``ssl`` as it runs); None: not seen
    tls: bool | None = None
    #: when it last loaded its configuration files
    loaded: str = ""

    @property
    def disk_free(self) -> int:
        """Where the database is; -1: unknown."""
        return next((disk.free for disk in self.disks if disk.use == DATABASE), -1)

    @property
    def disk_total(self) -> int:
        return next((disk.total for disk in self.disks if disk.use == DATABASE), -1)

    def standby(self, name: str) -> StandbyRow | None:
        """The row of ``name``, streaming ones first."""
        rows = [row for row in self.standbys if row.name == name]
        return next((row for row in rows if row.state == "streaming"), rows[0] if rows else None)

    def caught_up(self, name: str, within: int = NEAR) -> bool:
        """``name`` streams and lacks at most ``within`` bytes, so that enforcing its name stalls nobody for long."""
        return 0 <= self.behind(name) <= within

    def behind(self, name: str) -> int:
        """Bytes of log that ``name`` has not flushed yet; -1: it does not stream."""
        row = self.standby(name)
        streams = row is not None and row.state == "streaming" and row.flushed >= 0
        return max(0, self.lsn - row.flushed) if row is not None and streams else -1

    @property
    def following(self) -> int:
        """Epoch number named in the replication connection that streams right now; -1: none."""
        return epoch_of(self.receiver.name) if self.receiver is not None and self.receiver.streaming else -1


NOTHING = Observation(because="Postgres has not been looked at yet")


# --- what a step has just proved, as a look would have seen it (the next look may be a tenth of a second away) ---------------


def stopped(seen: Observation, at: float) -> Observation:
    """No process of it is left."""
    words = "Postgres is not running"
    return Observation(
        at=at, state="stopped", because=words, disks=seen.disks, overridden=seen.overridden, unusable=seen.unusable
    )


def detached(seen: Observation, at: float, position: int) -> Observation:
    """In recovery, everything before ``position`` flushed, and nothing is received any more."""
    return replace(
        _answering(seen, at), in_recovery=True, lsn=max(seen.lsn, position), primary_conninfo="", receiver=None, names=""
    )


def promoted(seen: Observation, at: float, timeline: int) -> Observation:
    """It takes writes, and no commit waits."""
    return replace(
        _answering(seen, at), in_recovery=False, timeline=timeline, primary_conninfo="", receiver=None, names="",
        standbys=seen.standbys if not seen.in_recovery else (), waiting=0, stalled=0.0, unwritten=0.0, unread=0.0,
    )  # fmt: skip


def _answering(seen: Observation, at: float) -> Observation:
    return replace(seen, at=at, state="running", answers=True, because="")


@dataclass(frozen=True)
class Stopped:
    """A proven stop: no process is left. ``shutdown_lsn``: end of the shutdown checkpoint record, -1 if it was not clean."""

    clean: bool
    shutdown_lsn: int = -1
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a copy is. ``total`` may grow; ``rate``: bytes a second lately; ``doing``: while no bytes are counted."""

    done: int
    total: int
    seconds: float
    rate: float = 0.0
    doing: str = ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


#: "never heard"
NEVER = inf
