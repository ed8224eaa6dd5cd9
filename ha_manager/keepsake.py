"""What a rejoin replaces is kept: the log from the checkpoint before the fork, and the whole directory where it fits.

Promise: nothing is removed that was not kept and reported first (design §4 rule 10). Keeping takes no longer than copying the
log, may go on beside a copy of the database (``keeping``) and ends when it is told to; what the log holds is counted afterwards
(``counting``). A replacement that was interrupted, or whose disk was full, and begins anew uses the same folder: nothing is
kept twice, nothing that was kept is lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from ha_manager import controldata, divergence, space, tablespaces
from ha_manager.divergence import Kept
from ha_manager.observation import lsn_text
from ha_manager.rejoin import Control, Verdict
from ha_manager.space import Need
from ha_manager.transfer import Cancelled
from runtime import durable
from runtime.errors import ReplicationError

#: Whole directories kept beside the database; older ones go, and it is said.
DIRECTORIES = 2
#: in the folder of a report as long as the replacement that it is about is not complete
_UNFINISHED = "unfinished"
#: segments kept from before the fork where the checkpoint before it is not known
_BEFORE = 16
_SEGMENT = re.compile("[0-9A-F]{24}")
#: XLogPageHeaderData: magic, info, timeline, position
_PAGE_HEADER = struct.Struct("=HHIQ")


def label_for(diverged_dir: Path, fresh: str, control: Control, verdict: Verdict) -> str:
    """``fresh``, or the label under which an interrupted replacement of this very database began."""
    for path in sorted(diverged_dir.glob(f"*/{_UNFINISHED}")):
        with contextlib.suppress(OSError):
            if path.read_text() == _mark(control, verdict):
                return path.parent.name
    return fresh


def _mark(control: Control, verdict: Verdict) -> str:
    return f"{control.system_identifier} {control.last_timeline} {verdict.fork}\n"


def _begin(folder: Path, mark: str) -> None:
    """A folder that says from its first moment on what it is about, so that whoever begins anew finds it."""
    making = folder.with_name(folder.name + ".making")
    for path in folder.parent.glob("*.making"):
        shutil.rmtree(path)
    making.mkdir(mode=0o700)
    durable.write_durably(making / _UNFINISHED, mark)
    making.rename(folder)


def finished(diverged_dir: Path) -> None:
    """The database is replaced: whatever was begun for it is over."""
    for path in diverged_dir.glob(f"*/{_UNFINISHED}"):
        durable.remove_durably(path)


def keep_log(
    data_dir: Path,
    diverged_dir: Path,
    label: str,
    control: Control,
    verdict: Verdict,
    acknowledged: str = "unknown",
    still: Callable[[], bool] = lambda: True,
) -> Kept:
    """Copy the log from before the fork to ``diverged_dir/label``, and write a report that is still to be counted. May be
    called again. Raises ReplicationError where it doesn't fit, Cancelled as soon as ``still`` says no.
    """
    folder = diverged_dir / label
    missing = _missing(data_dir, folder, control, verdict)
    diverged_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = not folder.exists()
    wanted = _need(diverged_dir, missing)
    space.check_for(wanted.place, wanted.amount, wanted.what)
    try:
        if fresh:
            _begin(folder, _mark(control, verdict))
        (folder / "pg_wal").mkdir(mode=0o700, exist_ok=True)
        _copy(missing, folder, still)
        with contextlib.suppress(OSError):
            shutil.copy2(data_dir / "global" / "pg_control", folder / "pg_control")
        kept = _reported(folder, label, control, verdict, acknowledged, anew=bool(missing))
    except (OSError, Cancelled) as wrong:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(wrong, Cancelled):
            raise
        raise ReplicationError(f"the log of the database here can't be kept in {folder}: {wrong.strerror or wrong}") from wrong
    durable.sync_folder(diverged_dir)
    return kept


def need(data_dir: Path, diverged_dir: Path, label: str, control: Control, verdict: Verdict) -> Need:
    """What ``keep_log`` will take."""
    return _need(diverged_dir, _missing(data_dir, diverged_dir / label, control, verdict))


def _need(diverged_dir: Path, missing: list[tuple[Path, Path]]) -> Need:
    return Need(diverged_dir, sum(source.stat().st_size for source, _ in missing), "the log of the database here, to be kept,")


def _missing(data_dir: Path, folder: Path, control: Control, verdict: Verdict) -> list[tuple[Path, Path]]:
    pairs = [(source, folder / "pg_wal" / source.name) for source in _to_keep(data_dir, control, verdict)]
    return [(source, target) for source, target in pairs if not _same(source, target)]


def _reported(folder: Path, label: str, control: Control, verdict: Verdict, acknowledged: str, *, anew: bool) -> Kept:
    before = divergence.report(folder)
    if before is not None and before.counted and not anew:
        return before
    fork = lsn_text(verdict.fork) if verdict.fork >= 0 else ""
    kept = Kept(
        label, because=verdict.because, timeline=control.last_timeline, fork=fork, acknowledged=acknowledged,
        redo=lsn_text(control.redo), gap=_gap((folder / "pg_wal").iterdir(), control, verdict), counted=False,
    )  # fmt: skip
    divergence.write(folder, kept)
    return kept


def beyond(data_dir: Path, control: Control, fork: int) -> int:
    """Bytes of log here from the segment of the fork on."""
    first = controldata.segment_name(control.last_timeline, fork, control.segment)
    names = [name for name in controldata.segments(data_dir) if name[8:] >= first[8:]]
    return sum(control.segment for name in names if _written(data_dir / "pg_wal" / name, control.segment))


def _to_keep(data_dir: Path, control: Control, verdict: Verdict) -> list[Path]:
    """Segments that hold log, not those set aside for later use, from the checkpoint before the fork on; and the histories.
    Where it made a checkpoint since, nobody knows where the one before the fork was: so much as that is likely to be in.
    """
    start = control.redo
    if 0 <= verdict.fork < control.redo:
        start = max(0, verdict.fork - _BEFORE * control.segment)
    first = controldata.segment_name(control.last_timeline, start, control.segment)
    wal = data_dir / "pg_wal"
    names = [name for name in controldata.segments(data_dir) if name[8:] >= first[8:] and _written(wal / name, control.segment)]
    return [*(wal / name for name in names), *sorted(wal.glob("*.history"))]


def gap(data_dir: Path, control: Control, verdict: Verdict) -> str:
    """Where the log that is to be kept begins, if that is beyond the fork; "" if nothing is missing. A server that runs alone
    keeps log back for the other one up to a limit, and the fork lies where that one was lost.
    """
    return _gap(_to_keep(data_dir, control, verdict), control, verdict)


def _gap(files: Iterable[Path], control: Control, verdict: Verdict) -> str:
    if verdict.fork < 0:
        return ""
    fork = controldata.segment_name(control.last_timeline, verdict.fork, control.segment)[8:]
    names = sorted(path.name[8:] for path in files if _SEGMENT.fullmatch(path.name) and _written(path, control.segment))
    if not names or names[0] <= fork:
        return ""
    return lsn_text(int(names[0][:8], 16) * 0x100000000 + int(names[0][8:], 16) * control.segment)


def _written(path: Path, segment: int) -> bool:
    """Does it begin with the position that its name says? One that was recycled still holds an old one."""
    name = path.name
    position = int(name[8:16], 16) * 0x100000000 + int(name[16:], 16) * segment
    try:
        with open(path, "rb") as file:
            header = file.read(_PAGE_HEADER.size)
        return bool(_PAGE_HEADER.unpack(header)[3] == position)
    except (OSError, struct.error):
        return False


def _same(source: Path, target: Path) -> bool:
    try:
        one, two = source.stat(), target.stat()
    except OSError:
        return False
    return one.st_size == two.st_size and one.st_mtime_ns == two.st_mtime_ns


def _copy(files: list[tuple[Path, Path]], folder: Path, still: Callable[[], bool]) -> None:
    """All of them, then all of them to the disk: quicker than one by one."""
    for source, target in files:
        _require(still)
        shutil.copy2(source, target)
    for _, target in files:
        _require(still)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
    durable.sync_folder(folder / "pg_wal")


def _require(still: Callable[[], bool]) -> None:
    if not still():
        raise Cancelled("the log of the database here is no longer to be kept")


def prune(data_dir: Path, note: Callable[[str], None], keep: int = DIRECTORIES) -> None:
    """Remove the oldest of the directories kept beside the database, beyond ``keep``."""
    kept = sorted(data_dir.parent.glob(f"{data_dir.name}.diverged-*"), key=lambda path: path.stat().st_ctime)
    for path in kept[: max(0, len(kept) - keep)]:
        note(f"removing {path}, a database replaced earlier; its log is still in the folder of its report")
        tablespaces.remove_tree(path, data_dir)
