"""What a stopped database says of itself: pg_controldata, its history files, and what its log holds.

Promise: reads only; every command is bounded and runs as the OS user of Postgres. Source: facts/postgres.md 5, 7, 8.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from ha_manager.observation import lsn, lsn_text
from ha_manager.rejoin import Control, parse_history
from runtime import commands
from runtime.errors import CommandFailed, ReplicationError

_FLOORS = {
    "max_connections setting": "max_connections", "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders", "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}  # fmt: skip


def parse(text: str) -> Control:
    """The output of pg_controldata (locale C); raises ValueError or KeyError if it is none."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return Control(
        system_identifier=found["Database system identifier"],
        state=found["Database cluster state"],
        checkpoint=lsn(found["Latest checkpoint location"]),
        redo=lsn(found["Latest checkpoint's REDO location"]),
        timeline=int(found["Latest checkpoint's TimeLineID"]),
        previous_timeline=int(found["Latest checkpoint's PrevTimeLineID"]),
        min_recovery=lsn(found["Minimum recovery ending location"]),
        min_recovery_timeline=int(found["Min recovery ending loc's timeline"]),
        backup_start=lsn(found["Backup start location"]),
        segment=int(found["Bytes per WAL segment"]),
        version=int(found["pg_control version number"]),
        floors=_floors(found),
        hints_logged=found.get("wal_log_hints setting") == "on" or found.get("Data page checksum version", "0") != "0",
    )


_READS, _READ_AGAIN = 3, 0.01


def _floors(found: Mapping[str, str]) -> dict[str, int]:
    return {ours: int(found[theirs]) for theirs, ours in _FLOORS.items() if theirs in found}


def read(bin_dir: Path, data_dir: Path, limit: float = 5.0, *, surely: bool = False) -> Control | None:
    """None if there is no database, or none that can be read. What fails its own checksum can't be read: it is tried again,
    because a running Postgres may be writing it. ``surely``: a pg_controldata that is killed or stopped says nothing of the
    database; raises ReplicationError.
    """
    if not (data_dir / "global" / "pg_control").exists():
        return None
    for _ in range(_READS):
        try:
            done = commands.run([bin_dir / "pg_controldata", "-D", data_dir], timeout=limit)
            # On standard output until Postgres 16, as a warning since 17.
            if "CRC checksum does not match" not in done.stdout + done.stderr:
                return parse(done.stdout)
        except CommandFailed as failed:
            if surely and is_cut_short(failed.code):
                raise ReplicationError(f"the database here can't be looked at: {failed}") from failed
            return None
        except (KeyError, ValueError):
            return None
        time.sleep(_READ_AGAIN)
    return None


def is_cut_short(code: int | None) -> bool:
    """A program that did not end by itself: what it said, or didn't say, means nothing."""
    return code is None or code < 0


def history(data_dir: Path, timeline: int) -> tuple[tuple[int, int], ...]:
    """How ``timeline`` came about; empty for the first one, or if the file is gone."""
    try:
        return parse_history((data_dir / "pg_wal" / f"{timeline:08X}.history").read_text())
    except (OSError, ValueError, IndexError):
        return ()


def label_start(data_dir: Path) -> int:
    """Where the recovery of a copy begins, from its backup_label; -1: there is none, or it doesn't say."""
    try:
        found = re.match(r"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)", (data_dir / "backup_label").read_text(errors="replace"))
    except OSError:
        return -1
    return lsn(found[1]) if found else -1


def segment_name(timeline: int, position: int, segment: int) -> str:
    """File name of the log segment that holds ``position``."""
    per_file = 0x100000000 // segment
    number = position // segment
    return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"


def segments(data_dir: Path) -> list[str]:
    """Names of the log segments there, oldest first, of all timelines."""
    return _names(data_dir / "pg_wal")


def _names(wal: Path) -> list[str]:
    try:
        names = sorted(os.listdir(wal))
    except OSError:
        return []
    return [name for name in names if re.fullmatch("[0-9A-F]{24}", name)]


#: what can't be without: rows, and which transactions were committed
_PARTS = ("base", "global", "pg_xact", "pg_multixact")


def missing(data_dir: Path) -> str:
    """A part of the database that is not there any more, "" if none is. A link that leads nowhere is a disk that isn't mounted:
    nothing of that is decided here. What replay makes anew in an emptied ``base`` is no database: that has a PG_VERSION.
    """
    gone = next((part for part in _PARTS if not os.path.lexists(data_dir / part)), "")
    base = data_dir / "base"
    if not gone and base.is_dir() and not any((folder / "PG_VERSION").exists() for folder in base.iterdir()):
        return "base"
    return gone


_PAGE = 8192
_CHECKPOINT_RECORD = 114
#: of a segment's first page
_LONG_HEADER = 40


def shutdown_lsn(control: Control) -> int:
    """End of the shutdown checkpoint record, the last of a clean primary; -1 otherwise. pg_controldata names its start."""
    if control.state != "shut down":
        return -1
    end = control.checkpoint + _CHECKPOINT_RECORD
    boundary = (control.checkpoint // _PAGE + 1) * _PAGE
    if end > boundary:
        # It continues after the header of the next page, which is longer at the begin of a segment.
        end += _LONG_HEADER if boundary % control.segment == 0 else 24
    return (end + 7) // 8 * 8


def holds_beyond(bin_dir: Path, data_dir: Path, timeline: int, fork: int, segment: int, limit: float = 20.0) -> str:
    """ "" if it is proven that no record of ``timeline`` lies at or after ``fork`` here; else what was found, in words.

    Proven: the segment of ``fork`` is here and holds no valid record from ``fork`` on, and no later one begins with a valid
    one; or no segment from there on is here at all, and the one before is.
    """
    first = segment_name(timeline, fork, segment)
    own = [name for name in segments(data_dir) if name.startswith(f"{timeline:08X}")]
    later = [name for name in own if name >= first]
    if not own:
        return "no log of that timeline is here"
    if not later:
        return ""
    if first not in own and own[0] > first:
        return f"its log of that time is gone; the oldest segment is {own[0]}"
    for name in later:
        start = fork if name == first else int(name[8:16], 16) * 0x100000000 + int(name[16:], 16) * segment
        found = first_record(bin_dir, data_dir, timeline, start, limit)
        if found is not None and found >= fork:
            return f"a record at {lsn_text(found)}"
    return ""


def log_files(wal: Path, timeline: int, start: int) -> list[str]:
    """The segments from that of ``start`` on without a gap, the first and the last, as pg_waldump wants them named; none if
    that of ``start`` isn't there or has nothing in it. Where none is named pg_waldump takes the size of a segment from whatever
    file it finds first, and fails if that one was made ahead and is empty yet.
    """
    names = [name for name in _names(wal) if name.startswith(f"{timeline:08X}")]
    size = (wal / names[0]).stat().st_size if names else 0
    found: list[str] = []
    while size and (name := segment_name(timeline, start, size)) in names and not is_blank(wal / name):
        found[1:] = [name]
        start += size
    return found


def is_blank(segment: Path) -> bool:
    """Made ahead, and never written to."""
    with segment.open("rb") as file:
        return not any(file.read(_LONG_HEADER))


_RECORD = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+),")


def first_record(bin_dir: Path, data_dir: Path, timeline: int, start: int, limit: float) -> int | None:
    """Position of the first valid record at or after ``start`` in the segments here; None if there is none. Raises
    ReplicationError where pg_waldump doesn't say so: what it can't read may hold one.
    """
    wal = data_dir / "pg_wal"
    try:
        files = log_files(wal, timeline, start)
    except OSError as wrong:
        raise ReplicationError(f"the log can't be read: {wrong}") from wrong
    if not files:
        return None
    argv = [
        str(bin_dir / "pg_waldump"), "-p", str(wal), "-t", str(timeline), "-s", lsn_text(start), "-n", "1", *files,
    ]  # fmt: skip
    try:
        done = commands.run(argv, timeout=limit, check=False)
    except CommandFailed as failed:
        raise ReplicationError(f"the log can't be read: {failed}") from failed
    if is_cut_short(done.code):
        raise ReplicationError(f"the log can't be read: pg_waldump was killed by signal {-(done.code or 0)}")
    if (found := _RECORD.search(done.stdout)) is not None:
        return lsn(found[1])
    if "could not find a valid record" not in done.stderr:
        raise ReplicationError(f"the log can't be read: {done.stderr.strip()[:200]}")
    return None
