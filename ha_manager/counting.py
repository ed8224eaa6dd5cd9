"""What a replaced database had committed beyond the fork: counted from its kept log by a process of its own.

Promise: nobody waits for it: it runs beside a rejoin with the lowest priority, on the log that was kept, and ends with
ha_manager; a report that it did not finish is counted anew. Memory does not grow with the length of the log, time has a limit,
and a report that is cut short by it says so. Source: design §4 rule 10; the manual's page on pg_waldump.

    python -m ha_manager.counting FOLDER BIN_DIR
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from ha_manager import controldata, divergence
from ha_manager.divergence import Committed, Kept, Rows
from ha_manager.observation import lsn, lsn_text
from runtime import commands
from runtime.errors import HaError

#: for each of the two passes over the log (seconds)
LIMIT = 900.0
#: several --rmgr can be given from this version on
_FILTERS = 15
_LINES = 20_000


class _Late(Exception):
    """The limit is over; what was counted so far counts."""


def start(folder: Path, bin_dir: Path) -> None:
    """Count in a process of its own; returns when it has ended. Raises HaError."""
    argv = [
        "setpriv", "--pdeathsig=KILL", "nice", "-n", "19", "ionice", "-c", "3", sys.executable, "-P", "-m", __name__,
        str(folder), str(bin_dir),
    ]  # fmt: skip
    here = str(Path(__file__).resolve().parent.parent)
    commands.run(argv, timeout=2 * LIMIT + 60, env={"PYTHONPATH": here}, cwd="/")


def count(folder: Path, bin_dir: Path, limit: float = LIMIT) -> Kept:
    """Read the log kept in ``folder``, write the report anew; returns it."""
    kept = divergence.report(folder)
    if kept is None:
        raise HaError(f"{folder} holds no report")
    try:
        done = _counted(kept, folder, bin_dir, limit)
    except OSError as wrong:
        raise HaError(f"pg_waldump can't be run: {wrong}") from wrong
    divergence.write(folder, done)
    return done


def _counted(kept: Kept, folder: Path, bin_dir: Path, limit: float) -> Kept:
    start = kept.gap or kept.fork or kept.redo
    committed, said = Committed(), ""
    log = _Log(bin_dir, folder / "pg_wal", kept.timeline, start)
    first = log.read(["Transaction"], committed.see, limit)
    said = log.said
    transactions, end = _extent(committed, said, lsn(start))
    if transactions <= 0:
        acknowledged = "no" if transactions == 0 and not kept.gap else kept.acknowledged
        return replace(kept, transactions=transactions, end=end, acknowledged=acknowledged, counted=True, whole=first)
    rows = Rows(committed)
    managers = ["Heap", "Heap2"] if _version(bin_dir) >= _FILTERS else []
    whole = log.read(managers, rows.see, limit) and first
    return replace(kept, transactions=transactions, end=end, tables=rows.by_file(), counted=True, whole=whole)


def _extent(committed: Committed, said: str, start: int) -> tuple[int, str]:
    """How many transactions, and where the log ends; -1 if it can't be read."""
    ends = [lsn(found) for found in divergence.ENDS.findall(said)]
    if not committed.transactions and not ends:
        nothing = "could not find a valid record" in said
        return (0, lsn_text(start)) if nothing else (-1, "")
    return committed.transactions, lsn_text(max(ends)) if ends else ""


class _Log:
    """pg_waldump's lines, one after the other."""

    def __init__(self, bin_dir: Path, wal: Path, timeline: int, start: str) -> None:
        self._argv = [str(bin_dir / "pg_waldump"), "-p", str(wal), "-t", str(timeline), "-s", start]
        self._files = controldata.log_files(wal, timeline, lsn(start))
        self.said = ""

    def read(self, managers: list[str], see: Callable[[str], None], limit: float) -> bool:
        """Every line to ``see``; False if the limit came first."""
        argv = [*self._argv, *(f"--rmgr={name}" for name in managers), *self._files]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        assert child.stdout is not None and child.stderr is not None
        try:
            for line in _until(child.stdout, time.monotonic() + limit):
                see(line)
            self.said = child.stderr.read(8000)
            if (code := child.wait()) < 0:
                raise HaError(f"pg_waldump was killed by signal {-code}")
        except _Late:
            return False
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            child.stderr.close()
        return True


def _until(lines: IO[str], end: float) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number % _LINES == 0 and time.monotonic() > end:
            raise _Late
        yield line


def _version(bin_dir: Path) -> int:
    words = commands.run([bin_dir / "pg_waldump", "--version"], timeout=10).stdout.split()
    return int(words[2].split(".")[0].rstrip("abcdefghijklmnopqrstuvwxyz") or 0) if len(words) > 2 else 0


def main() -> None:
    folder, bin_dir = (Path(word) for word in sys.argv[1:])
    try:
        count(folder, bin_dir)
    except HaError as wrong:
        print(wrong, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    os.umask(0o077)
    main()
