"""A copy of which only what differs travels: the reference's rsync of the data directory, over Postgres's own connection.

Promise: the same as of pg_basebackup's copy (a side directory, complete or not there at all, the log needed meanwhile kept
by the slot), made of this server's stale database and of those parts of the active's that differ from it. No further
channel, key or program: files are read with the functions that pg_rewind uses. For slow links; on a fast one pg_basebackup
is quicker.

How: the active is put into backup mode (a fast checkpoint); for each of its files it tells a digest of every part; parts
that are the same here are taken from here, the others fetched. A page that changes meanwhile is in the log whole
(full_page_writes), which is replayed from that checkpoint on. That log is not streamed beside the copy, as pg_basebackup does:
the passive's slot on the active keeps it meanwhile, and a copy whose log is given up there ends at once.

Source: Trustwave §2.4.1; manual, 26.3.3 (low-level backup);
what is left out: as in pg_basebackup's own list (basebackup.c).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ha_manager import basebackup, tablespaces
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.copying import Copy
from ha_manager.fetching import ANSWER, Fetching, digests
from ha_manager.observation import COPIES, Progress, lsn, slot_name
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.sql import Session, unlimited
from ha_manager.transfer import BEFORE, Cancelled
from runtime import commands
from runtime.clock import boottime
from runtime.errors import ReplicationError

#: compared in one question at most: not too many round trips of a slow link
_SPAN = 16 << 20
#: so often it is asked whether the log is still kept (seconds)
SLOT = 5.0
#: meanwhile it is looked so often whether the copy is still wanted (seconds)
_LOOK = 0.2
_BACKUP = ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
_BACKUP_BEFORE_15 = ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")

_LIST = """
WITH RECURSIVE files (path, name, size, folder) AS (
  SELECT name, name, s.size, s.isdir FROM pg_ls_dir('.', true, false) name, pg_stat_file(name, true) s WHERE s.size IS NOT NULL
  UNION ALL
  SELECT f.path || '/' || n, n, s.size, s.isdir
  FROM files f, pg_ls_dir(f.path, true, false) n, pg_stat_file(f.path || '/' || n, true) s
  WHERE f.folder AND s.size IS NOT NULL AND f.path <> 'pg_wal'
) SELECT path, size::text, folder::text FROM files ORDER BY path
"""

#: raises where the active no longer keeps the log that a copy needs
Held = Callable[[], None]

#: folders whose content is not copied, as pg_basebackup leaves it out
EMPTY = frozenset(
    {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal"}
)
_LEFT_OUT = re.compile(
    r"(?:^|/)(?:pgsql_tmp[^/]*|pg_internal\.init[^/]*)(?:/|$)|^(?:postmaster\.(?:pid|opts)|backup_label(?:\.old)?|tablespace_map(?:\.old)?"
    r"|backup_manifest|current_logfiles(?:\.tmp)?|postgresql\.auto\.conf\.tmp|standby\.signal|recovery\.signal|ha_manager\.copy)$"
)
_RELATION = re.compile(r"(?P<folder>.*/)(?P<number>\d+)(?P<fork>_init|_fsm|_vm)?(?:\.\d+)?$")
CONTROL = "global/pg_control"


def functions(version: int) -> tuple[str, ...]:
    """What the replication role needs on the active beside ``rewinding.FUNCTIONS``."""
    return _BACKUP if version >= 15 else _BACKUP_BEFORE_15


@dataclass(frozen=True)
class Remote:
    """A file or folder of the active's data directory."""

    path: str
    size: int
    folder: bool


def is_relation(path: str) -> bool:
    """Of a table or an index: a file that the log says again, whatever was read of it."""
    return path.startswith(("base/", "global/", "pg_tblspc/")) and _RELATION.match(path) is not None


def wanted(found: list[Remote]) -> list[Remote]:
    """What belongs into a copy, folders before what is in them; the control file last, as it says what the rest is."""
    unlogged = {
        f"{match['folder']}{match['number']}"
        for each in found
        if (match := _RELATION.match(each.path)) and match["fork"] == "_init"
    }
    kept = [each for each in found if _belongs(each, unlogged)]
    return sorted(kept, key=lambda each: (each.path == CONTROL, not each.folder, each.path.count("/") if each.folder else 0))


def _belongs(each: Remote, unlogged: set[str]) -> bool:
    if _LEFT_OUT.search(each.path):
        return False
    top, _, below = each.path.partition("/")
    if (top in EMPTY and below) or not tablespaces.is_part(each.path):
        return False
    match = _RELATION.match(each.path)
    if match is None or match["fork"] == "_init":
        return True
    # The content of an unlogged table is not copied: recovery begins it anew from its _init fork.
    return f"{match['folder']}{match['number']}" not in unlogged


class Copying(Fetching):
    """One copy under way: ``place`` is the new data directory."""

    def all(self, found: list[Remote], held: Held) -> None:
        """``held`` raises where the active no longer keeps the log from the beginning of the copy on."""
        self.total = sum(each.size for each in found if not each.folder)
        asked = -inf
        for each in found:
            if boottime() - asked >= SLOT:
                asked = boottime()
                held()
            if each.folder:
                self._folder(each.path)
            else:
                self._file(each)
        for name in ("pg_wal", "pg_wal/archive_status"):
            self._folder(name)

    def _folder(self, path: str) -> None:
        if not (self._place / path).exists():
            (self._place / path).mkdir(mode=0o700)
            self._own(path)

    def _file(self, remote: Remote) -> None:
        """Written part by part; one that is removed there meanwhile, or cut, is left so: the log says it again."""
        stale = self._open(self._config.data_dir / remote.path) if remote.path != CONTROL else None
        descriptor = os.open(self._place / remote.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            end = 0
            for offset in range(0, remote.size, _SPAN):
                end = self._span(remote.path, offset, min(_SPAN, remote.size - offset), stale, descriptor)
                if end < min(remote.size, offset + _SPAN):
                    break
            os.ftruncate(descriptor, end)
        finally:
            os.close(descriptor)
            if stale is not None:
                os.close(stale)
        self._own(remote.path)

    def _open(self, path: Path) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def _span(self, path: str, offset: int, length: int, stale: int | None, target: int) -> int:
        """Returns where the active's file ended, or the span."""
        if stale is None:
            cut = self._fetch(path, [(offset, length)], target)
            end = cut if cut >= 0 else offset + length
        else:
            here = os.pread(stale, length, offset)
            os.pwrite(target, here, offset)
            end = self._differing(path, offset, length, self._digests(path, offset, length), digests(here), target)
        self._advance(length)
        return end


def run(copy: Copy, target: Path) -> None:
    """Into ``target``, which is not there yet, from the active and from the database that is here. Not synced."""
    config, clock = copy.config, Clock(copy.limit)
    info = upstream_conninfo(copy.upstream, f"{COPIES}{copy.node}", Paths(config.state_dir).passfile)
    info += unlimited(config.version)
    with contextlib.closing(Session(f"{info} dbname=postgres", min(5.0, clock.left))) as session:
        waiting = Progress(0, 0, 0.0, doing="waiting for the active's checkpoint")
        began = start(session, config.version, clock, lambda: copy.progress(waiting))
        _make(copy, session, target, clock)
        found = listed(session, clock)
        copying = Copying(config, session, target, copy.progress, clock)
        copying.all(found, lambda: require_log(session, slot_name(copy.node), began, clock))
        require_log(session, slot_name(copy.node), began, clock)
        text = stop(session, config.version, clock)
    write_label(config, target, text)
    copy.note(f"{copying.fetched >> 20} of {copying.total >> 20} MiB differed from the database here and were fetched")


def listed(session: Session, clock: Clock) -> list[Remote]:
    """What of the active's files belongs into a copy."""
    rows = session.rows(_LIST, min(ANSWER, clock.need("listing the active's files")))
    return wanted([Remote(path or "", int(size or 0), folder == "true") for path, size, folder in rows])


def start(session: Session, version: int, clock: Clock, still: Callable[[], bool]) -> int:
    """Returns from where on the log is needed. The backup ends with the session, however that ends. Raises ReplicationError, or
    Cancelled as soon as ``still`` says no: the checkpoint that comes first may take minutes.
    """
    call = "pg_backup_start('ha_manager', true)" if version >= 15 else "pg_start_backup('ha_manager', true, false)"
    end = boottime() + min(BEFORE, clock.need("the active's checkpoint"))
    session.send(f"SELECT {call}::text")
    while not session.done(_LOOK):
        if not still():
            raise Cancelled("the copy was cancelled")
        if boottime() > end:
            raise ReplicationError("the active's checkpoint takes too long")
    ((began,),) = session.fetch(0.0)
    return lsn(began)


def require_log(session: Session, slot: str, began: int, clock: Clock) -> None:
    """Raises ReplicationError unless the slot keeps all log from ``began`` on."""
    asked = "SELECT wal_status, restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1"
    found = session.rows(asked, min(ANSWER, clock.need("asking for the slot")), [slot])
    status, kept = found[0] if found else ("", None)
    if status == "lost" or not 0 <= lsn(kept) <= began:
        raise ReplicationError(f"the active does not keep the log that this copy needs (slot {slot}: {status or 'none'})")


def stop(session: Session, version: int, clock: Clock) -> str:
    """What goes into backup_label. The log is not waited for: it comes over the slot."""
    call = "pg_backup_stop(false)" if version >= 15 else "pg_stop_backup(false, false)"
    return session.one(f"SELECT labelfile FROM {call}", min(ANSWER, clock.need("ending the backup")))


def write_label(config: PostgresConfig, data: Path, text: str) -> None:
    """Postgres replays the log from where that says. Not synced."""
    place = data / "backup_label"
    place.write_text(text)
    shutil.chown(place, config.user, commands.identity(config.user)["group"])
    place.chmod(0o600)


def _make(copy: Copy, session: Session, target: Path, clock: Clock) -> None:
    """The data directory with the links that lead out of it."""
    config, label = copy.config, copy.label
    owner = commands.identity(config.user)
    for side in basebackup.side_folders(config, copy.active, label):
        tablespaces.make_side(config, side)
    target.mkdir(mode=0o700)
    os.chown(target, owner["user"], owner["group"])
    log = tablespaces.log_folder(config.data_dir)
    links = {"pg_wal": tablespaces.beside(log, label)} if log is not None else {}
    asked = "SELECT oid::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'"
    for number, folder in session.rows(asked, min(ANSWER, clock.left)):
        if not (target / "pg_tblspc").exists():
            (target / "pg_tblspc").mkdir(mode=0o700)
            os.chown(target / "pg_tblspc", owner["user"], owner["group"])
        links[f"pg_tblspc/{number}"] = tablespaces.beside(Path(folder or ""), label)
    for name, place in links.items():
        if not place.is_dir():
            raise ReplicationError("the active's tablespaces have just changed: the copy is begun anew")
        (target / name).symlink_to(place)
        os.chown(target / name, owner["user"], owner["group"], follow_symlinks=False)
