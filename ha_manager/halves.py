"""Segments of the log of which a standby has received only a part, beside the whole one of the timeline before.

Promise: finds those, and only those, that hold nothing which the same segment of the timeline before doesn't hold.

A standby that goes over to a new timeline asks for its log from the begin of the segment in which it forked. Postgres then
reads the new timeline's file for all of that segment, also where the old one's holds more. If the active dies before the
rest has come, a promotion ends in a PANIC (the last record is looked for in the new file), and a start recovers only what
has come: acknowledged transactions between the two would be lost, silently. Seen with 15.
"""

from __future__ import annotations

from pathlib import Path

from ha_manager import controldata, divergence
from ha_manager.observation import lsn, lsn_text
from runtime import commands
from runtime.errors import CommandFailed, ReplicationError

_CHUNK = 1 << 20


def newest_fork(data_dir: Path) -> int:
    """Where the newest timeline with log here left the one before; -1 if none did. A standby that has replayed beyond it has
    read that one's own file beyond it, and what lies before was written earlier: there is no half segment.
    """
    names = controldata.segments(data_dir)
    left = controldata.history(data_dir, max((int(name[:8], 16) for name in names), default=0))
    return left[-1][1] if left else -1


def find(bin_dir: Path, data_dir: Path, limit: float = 10.0) -> list[Path]:
    """Newest timeline first; to be removed while Postgres is stopped. Raises ReplicationError if that can't be told."""
    names = controldata.segments(data_dir)
    found: list[Path] = []
    for timeline in sorted({int(name[:8], 16) for name in names}, reverse=True):
        left = controldata.history(data_dir, timeline)
        if not left:
            break
        before, fork = left[-1]
        try:
            half = _half(bin_dir, data_dir / "pg_wal", set(names), timeline, before, fork, limit)
        except FileNotFoundError:
            break  # recycled just now: a standby that runs has gone beyond it
        except OSError as wrong:
            raise ReplicationError(f"the log can't be read: {wrong}") from wrong
        if half is None:
            break
        found.append(half)
    return found


def _half(bin_dir: Path, wal: Path, names: set[str], timeline: int, before: int, fork: int, limit: float) -> Path | None:
    size = (wal / min(names)).stat().st_size
    new, old = (wal / controldata.segment_name(each, fork, size) for each in (timeline, before))
    if not {new.name, old.name} <= names or _same(new, old, fork % size):
        return None
    start = fork - fork % size
    ends = [_end(bin_dir, wal, each, start, start + size, limit) for each in (timeline, before)]
    return new if ends[0] < min(ends[1], fork) else None


def _same(new: Path, old: Path, count: int) -> bool:
    """Their first ``count`` bytes: a primary's new timeline begins with a copy of the old one's."""
    with new.open("rb") as one, old.open("rb") as other:
        while count > 0:
            step = min(count, _CHUNK)
            if one.read(step) != other.read(step):
                return False
            count -= step
    return True


def _end(bin_dir: Path, wal: Path, timeline: int, start: int, end: int, limit: float) -> int:
    """Where the last valid record between ``start`` and ``end`` begins, or a little further; ``end`` if all are valid."""
    name = controldata.segment_name(timeline, start, end - start)
    if controldata.is_blank(wal / name):
        return start
    argv: list[str | Path] = [
        bin_dir / "pg_waldump", "-p", wal, "-t", str(timeline), "-s", lsn_text(start), "-e", lsn_text(end), "--stats", name,
    ]  # fmt: skip
    try:
        done = commands.run(argv, timeout=limit, check=False)
    except CommandFailed as failed:
        raise ReplicationError(f"the log can't be read: {failed}") from failed
    if controldata.is_cut_short(done.code):
        raise ReplicationError(f"the log can't be read: pg_waldump was killed by signal {-(done.code or 0)}")
    if done.code == 0:
        return end
    said = divergence.ENDS.findall(done.stderr)
    if not said:
        raise ReplicationError(f"the log can't be read: {done.stderr.strip()[:200]}")
    return lsn(said[-1])
