"""What a rejoin replaces is kept and reported: the log from before the fork, and the whole directory where it fits.

Promise: nothing is removed that was not reported first (design §4 rule 10). The report names how many transactions the replaced
database had committed beyond the fork; whether they had been acknowledged, only clients know.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ha_manager import controldata, divergence
from ha_manager.divergence import File, Kept
from ha_manager.observation import lsn, lsn_text
from ha_manager.rejoin import Control, Verdict
from runtime import commands, durable
from runtime.errors import CommandFailed

#: Whole directories kept beside the database; older ones go, and it is said.
DIRECTORIES = 2
#: Records of the log that are looked at for the tables they changed; the number of transactions counts them all.
_RECORDS = 200_000
_COMMIT = re.compile(r"^Transaction/COMMIT(?:_PREPARED)?\s+(\d+)", re.MULTILINE)
_END = re.compile(r"(?:at|record at|after) ([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True)
class Report:
    """``transactions``: committed beyond the fork, -1 if the log could not be read. ``folder``: where the log is kept."""

    text: str
    transactions: int
    folder: Path


def keep_log(
    bin_dir: Path,
    data_dir: Path,
    diverged_dir: Path,
    label: str,
    control: Control,
    verdict: Verdict,
    acknowledged: str = "unknown",
) -> Report:
    """Copy the log from before the fork to ``diverged_dir/label`` and report what lies beyond. May be called again."""
    folder = diverged_dir / label
    wal = folder / "pg_wal"
    wal.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = control.redo if verdict.fork < 0 or control.redo <= verdict.fork else 0
    fork = max(verdict.fork, 0) if verdict.fork >= 0 else control.redo
    count, end = _beyond(bin_dir, data_dir, control.last_timeline, fork)
    last = controldata.segment_name(control.last_timeline, end, control.segment) if end >= 0 else "F" * 24
    first = controldata.segment_name(control.last_timeline, start, control.segment)
    for name in controldata.segments(data_dir):
        if name[8:] >= first[8:] and name[8:] <= last[8:]:
            _copy(data_dir / "pg_wal" / name, wal / name)
    for path in (data_dir / "pg_wal").glob("*.history"):
        _copy(path, wal / path.name)
    with contextlib.suppress(OSError):
        _copy(data_dir / "global" / "pg_control", folder / "pg_control")
    text = _words(control, verdict, count, end, folder)
    durable.write_durably(folder / "report.txt", text + "\n", mode=0o600)
    tables = {str(file): dict(rows) for file, rows in _changes(bin_dir, data_dir, control.last_timeline, fork).items()}
    where = lsn_text(verdict.fork) if verdict.fork >= 0 else ""
    divergence.write(
        folder, Kept(label, "", verdict.because, control.last_timeline, where, count, acknowledged if count else "no", tables)
    )
    durable.sync_folder(wal)
    return Report(text, count, folder)


def _copy(source: Path, target: Path) -> None:
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        shutil.copy2(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _beyond(bin_dir: Path, data_dir: Path, timeline: int, fork: int) -> tuple[int, int]:
    """How many transactions were committed from ``fork`` on, and where the log ends; -1 if it can't be read."""
    argv = [
        str(bin_dir / "pg_waldump"), "-p", str(data_dir / "pg_wal"), "-t", str(timeline), "-s", lsn_text(fork),
        "--stats=record",
    ]  # fmt: skip
    try:
        done = commands.run(argv, timeout=120, check=False)
    except CommandFailed:
        return -1, -1
    if "Transaction" not in done.stdout and "WAL statistics" not in done.stdout:
        nothing = "could not find a valid record" in done.stderr
        return (0, fork) if nothing else (-1, -1)
    ends = [lsn(found) for found in _END.findall(done.stderr)]
    return sum(int(found) for found in _COMMIT.findall(done.stdout)), max(ends, default=-1)


def _changes(bin_dir: Path, data_dir: Path, timeline: int, fork: int) -> dict[File, Counter[str]]:
    """Rows changed beyond the fork, per file of a table; of a very long log only the beginning is looked at."""
    argv = [
        str(bin_dir / "pg_waldump"), "-p", str(data_dir / "pg_wal"), "-t", str(timeline), "-s", lsn_text(fork),
        "-n", str(_RECORDS),
    ]  # fmt: skip
    try:
        return divergence.changes(commands.run(argv, timeout=120, check=False).stdout.splitlines())
    except CommandFailed:
        return {}


def _words(control: Control, verdict: Verdict, count: int, end: int, folder: Path) -> str:
    timeline = control.last_timeline
    if verdict.fork < 0:
        extent = "where it left the active's history is not known"
        number = f"at most {count} transactions" if count >= 0 else "an unknown number of transactions"
    else:
        extent = f"it left the active's history at {lsn_text(verdict.fork)} on timeline {timeline}"
        number = f"{count} transactions" if count >= 0 else "an unknown number of transactions"
    until = f" up to {lsn_text(end)}" if end >= 0 else ""
    return (
        f"the database of this server is replaced: {verdict.because}; {extent}, and holds {number} beyond that{until}."
        f" Its log is kept in {folder}; read it with: pg_waldump -p {folder}/pg_wal -t {timeline}"
        + (f" -s {lsn_text(verdict.fork)}" if verdict.fork >= 0 else "")
    )


def prune(data_dir: Path, note: Callable[[str], None], keep: int = DIRECTORIES) -> None:
    """Remove the oldest of the directories kept beside the database, beyond ``keep``."""
    kept = sorted(data_dir.parent.glob(f"{data_dir.name}.diverged-*"), key=lambda path: path.stat().st_ctime)
    for path in kept[: max(0, len(kept) - keep)]:
        note(f"removing {path}, a database replaced earlier; its log is still in the folder of its report")
        shutil.rmtree(path)
