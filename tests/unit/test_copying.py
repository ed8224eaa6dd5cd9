"""Copies: how far they are, whether they fit, what lies outside the data directory, programs that hang; and what a log kept."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from ha_manager import (
    basebackup,
    differences,
    divergence,
    keepsake,
    linkspeed,
    replacement,
    seeding,
    space,
    tablespaces,
    transfer,
)
from ha_manager.cluster import PostgresConfig
from ha_manager.divergence import Kept
from ha_manager.keeping import Keeping
from ha_manager.observation import Identity, Progress, lsn_text
from ha_manager.progress import Pace, Speed, words
from ha_manager.rejoin import Control, Verdict, Way
from ha_manager.replication import Clock
from ha_manager.sql import Late
from ha_manager.transfer import Cancelled, Watch
from ha_manager.writeback import GROWN, Writeback
from runtime.errors import CommandFailed, ReplicationError

MIB = 1 << 20
USER = pwd.getpwuid(os.getuid()).pw_name
LABEL = "7-20260101T000000"


# --- how far ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "progress, said",
    [
        (Progress(0, 0, 3.0, doing="waiting for the active's checkpoint"), "waiting for the active's checkpoint, 3 s"),
        (Progress(0, 0, 3.0), "preparing, 3 s"),
        (Progress(512 * MIB, 1500 * MIB, 4.0, 121 * MIB), "512 of 1500 MiB, 34 %, 121 MiB/s, 8 s left"),
        (Progress(512 * MIB, 150000 * MIB, 4.0, 1.5 * MIB), "512 of 150000 MiB, 0 %, 1.5 MiB/s, 27 h 41 min left"),
        (Progress(512 * MIB, 1500 * MIB, 4.0), "512 of 1500 MiB, 34 %, nothing is arriving now"),
        (Progress(1500 * MIB, 1500 * MIB, 9.0), "1500 of 1500 MiB, 100 %, being written to the disk, 9 s"),
    ],
)
def test_the_words_of_a_copy(progress: Progress, said: str) -> None:
    assert words(progress) == said


def test_the_rate_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    rates = [speed.rated(Progress(done, 100, float(at))).rate for at, done in enumerate([0, 10, 20, 20, 20, 20, 20, 20, 20])]
    assert rates[1] == 10 and rates[-1] == 0


def test_what_of_a_copys_time_was_what() -> None:
    seen: list[int] = []
    timed = seeding.Timed(lambda done: not seen.append(done.done))
    assert timed(Progress(0, 9, 0.0)) and timed(Progress(5, 9, 0.0)) and timed(Progress(9, 9, 0.0)) and seen == [0, 5, 9]
    began, moved = timed._began, timed._moved
    timed.copied = moved + 3.0
    said = timed.words(moved + 3.5)
    assert said == f"the active's checkpoint took {moved - began:.1f} s, the copy 3.0 s, its way to the disk 0.5 s"


def test_a_log_is_not_flooded() -> None:
    pace = Pace()
    due = [at for at in range(2000) if pace.due(Progress(at, 20000, float(at)))]
    assert due == [5, 305, 605, 905, 1205, 1505, 1805]
    pace = Pace()
    assert [at for at in range(100) if pace.due(Progress(at, 100, float(at)))] == [5, 35, 65, 95]
    assert not Pace().due(Progress(0, 100, 60.0, doing="waiting for the active's checkpoint"))


# --- compression --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, version, rate, method",
    [
        ("auto", 15, 110.0, "lz4"),
        ("auto", 15, 280.0, "lz4"),
        ("auto", 15, 560.0, "none"),
        ("auto", 15, 5000.0, "none"),
        ("auto", 15, 1.2, "zstd"),
        ("auto", 15, 0.0, "lz4"),
        ("auto", 14, 1.2, "none"),
        ("gzip", 14, 1.2, "none"),
        ("gzip", 17, 110.0, "gzip"),
        ("none", 17, 1.0, "none"),
    ],
)
def test_compression_is_chosen_by_the_link(setting: str, version: int, rate: float, method: str) -> None:
    assert basebackup.choose(setting, version, rate) == method


class Link:
    """Each answer comes in two pieces, the second one after so many seconds; None: never."""

    def __init__(self, *seconds: float | None) -> None:
        self._seconds = list(seconds)
        self.asked = 0
        self._pieces: list[float | None] = []

    def send(self, sql: str) -> None:
        self.asked += 1
        self._pieces = [0.0, self._seconds.pop(0), 0.0]

    def fetch(self, limit: float) -> None:
        pass

    def copy_data(self, limit: float) -> bytes:
        pause = self._pieces.pop(0)
        if pause is None:
            raise Late("too slow")
        time.sleep(pause)
        return b"x" * (1 << 20) if self._pieces else b""


@pytest.mark.parametrize(
    "link, asked, least, most",
    [
        (Link(0.0, 0.0, 0.0), 3, 100, inf),
        (Link(0.0, 0.11, 0.0), 2, 1, 9.1),
        (Link(0.11), 1, 1, 9.1),
        (Link(None), 1, 0.01, inf),  # a server is there
    ],
)
def test_a_link_is_measured_for_no_longer_than_the_choice_needs(link: Link, asked: int, least: float, most: float) -> None:
    assert least < linkspeed.rate(link, Clock(1.0)) < most
    assert link.asked == asked


# --- to the disk while it is copied -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(folder: Path, then: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has files open, does ``then`` at the next line that it gets, and ends at the one after it."""
    (folder / "in").mkdir()
    script = f"exec 3>in/large 4>in/small 5>outside; echo; read -r line; {then}\necho; read -r line"
    child = subprocess.Popen(["bash", "-c", script], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child, child.stdin:
        child.stdout.readline()
        yield child


def test_what_grows_goes_to_the_disk_while_it_is_written(tmp_path: Path) -> None:
    synced: list[tuple[str, int]] = []

    def sync(descriptor: int) -> None:
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor).st_size))

    with writing(tmp_path, "exec 3>&-") as child:
        assert child.stdin is not None and child.stdout is not None
        (tmp_path / "link").symlink_to("in")
        writeback = Writeback(child.pid, [tmp_path / "link"], sync)
        for name, size in (("in/large", GROWN), ("in/small", GROWN - 1), ("outside", GROWN)):
            os.truncate(tmp_path / name, size)
        writeback.look()
        writeback.look()  # nothing has grown since
        os.truncate(tmp_path / "in/large", 3 * GROWN)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        writeback.look()  # it is closed, and has grown until then
        assert (synced, writeback.held) == ([("large", GROWN), ("large", 3 * GROWN)], 1)
    writeback.look()
    assert (len(synced), writeback.held) == (2, 0)


def test_a_disk_that_refuses_ends_the_copy(tmp_path: Path) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with writing(tmp_path, "") as child, Writeback(child.pid, [tmp_path / "in"], refuse) as writeback:
        os.truncate(tmp_path / "in/large", GROWN)
        end = time.monotonic() + 10.0
        with pytest.raises(ReplicationError, match="Input/output error"):
            while time.monotonic() < end:
                writeback.check()
                time.sleep(0.01)


# --- room ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> PostgresConfig:
    data = tmp_path / "main"
    data.mkdir()
    return PostgresConfig(15, Path("/nonexistent"), data, data / "postgresql.conf", 5432, tmp_path, user=USER)


def free(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def test_every_file_system_is_asked_for_what_goes_there(config: PostgresConfig) -> None:
    shm = Path("/dev/shm")
    if shm.stat().st_dev == config.data_dir.stat().st_dev:
        pytest.skip("one file system only")
    here, there = free(config.data_dir), free(shm)
    space.check(config, Identity("1", 1, size=here // 2 + there // 2, locations=(("/dev/shm/ts", there // 2),), tablespaces=1))
    with pytest.raises(ReplicationError, match=r"needs \d+ MB in /dev/shm/ts for a tablespace, and \d+ MB are free: make room"):
        space.check(config, Identity("1", 1, size=there + here // 2, locations=(("/dev/shm/ts", there),), tablespaces=1))
    with pytest.raises(ReplicationError, match=f"in {config.data_dir.parent} for the databases, log"):
        space.check(config, Identity("1", 1, size=here))
    space.check(config, Identity("1", 1, size=here), [space.Need(config.data_dir, here, "the old database")])
    with pytest.raises(ReplicationError, match="make room"):
        space.check(config, Identity("1", 1, size=here), [space.Need(shm, here, "elsewhere")])
    with pytest.raises(ReplicationError, match="doesn't say where"):
        space.check(config, Identity("1", 1, tablespaces=1))


# --- outside the data directory -----------------------------------------------------------------------------------------------


def test_what_lies_outside_gets_folders_of_its_own_again_and_again(config: PostgresConfig, tmp_path: Path) -> None:
    place, log = tmp_path / "fast", tmp_path / "log" / "ha-3-20250101T000000"
    place.mkdir()
    log.mkdir(parents=True)
    (config.data_dir / "pg_wal").symlink_to(log)
    active = Identity("1", 1, locations=((f"{place}/ha-6-20251231T235959", 5), (str(tmp_path / "a=b"), 5)))
    sides = basebackup.side_folders(config, active, LABEL)
    assert sides == [place / f"ha-{LABEL}", tmp_path / f"a=b/ha-{LABEL}", tmp_path / f"log/ha-{LABEL}"]
    assert basebackup.mapping(config, active, LABEL) == [
        f"--tablespace-mapping={place}/ha-6-20251231T235959={place}/ha-{LABEL}",
        f"--tablespace-mapping={tmp_path}/a\\=b={tmp_path}/a\\=b/ha-{LABEL}",
        f"--waldir={tmp_path}/log/ha-{LABEL}",
    ]
    (place / f"ha-{LABEL}").mkdir()
    (place / f"ha-{LABEL}" / "leftover").touch()
    for side in sides:
        tablespaces.make_side(config, side)
        assert not list(side.iterdir()) and side.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ReplicationError, match="create /nowhere/at/all, owned by"):
        tablespaces.make_side(config, Path(f"/nowhere/at/all/ha-{LABEL}"))


def test_two_copies_within_a_second_have_folders_of_their_own(config: PostgresConfig, tmp_path: Path) -> None:
    """The second one once emptied the folder that the database in place was using."""
    config = replace(config, diverged_dir=tmp_path / "diverged")
    first = replacement.label(config, 7)
    (tmp_path / "fast").mkdir()
    side = tmp_path / "fast" / f"ha-{first}"
    tablespaces.make_side(config, side)
    (config.data_dir / "pg_tblspc").mkdir()
    (config.data_dir / "pg_tblspc" / "16384").symlink_to(side)
    (side / "row").write_text("x")
    second = replacement.label(config, 7)
    assert second != first and len(second) == len(first)
    with pytest.raises(ReplicationError, match="is in use by the database"):
        tablespaces.make_side(config, side)
    assert (side / "row").exists()
    config.data_dir.rename(tmp_path / f"main.diverged-{second}")
    (tmp_path / "main").mkdir()
    assert replacement.label(config, 7) not in (first, second)


def test_a_tablespace_that_the_log_will_bring_has_a_place(config: PostgresConfig, tmp_path: Path) -> None:
    folders = (f"{tmp_path}/new", f"{tmp_path}/copied/ha-{LABEL}", "/nowhere/at/all")
    active = Identity("1", 1, locations=tuple((folder, 1) for folder in folders))
    (wrong,) = tablespaces.make_places(config, active)
    assert "create /nowhere/at/all" in wrong
    assert (tmp_path / "new").is_dir() and not (tmp_path / "copied").exists()


def database(data: Path, *places: Path) -> None:
    (data / "pg_tblspc").mkdir(parents=True)
    for number, place in enumerate(places):
        (place / "PG_15_202209061").mkdir(parents=True)
        (data / "pg_tblspc" / str(16384 + number)).symlink_to(place)


def test_removing_a_database_spares_the_present_one_and_the_administrators_files(tmp_path: Path) -> None:
    fast, shared = tmp_path / "fast", tmp_path / "shared"
    database(tmp_path / "old", fast, fast / "ha-1-20260101T000000", shared)
    database(tmp_path / "main", fast / f"ha-{LABEL}", tmp_path / "shared2")
    (tmp_path / "main/pg_tblspc/99").symlink_to(shared)
    (fast / "README").touch()
    tablespaces.remove_tree(tmp_path / "old", tmp_path / "main")
    assert not (tmp_path / "old").exists()
    assert sorted(path.name for path in fast.iterdir()) == ["README", f"ha-{LABEL}"]
    assert (fast / f"ha-{LABEL}/PG_15_202209061").is_dir() and (shared / "PG_15_202209061").is_dir()


def test_what_is_kept_is_as_large_as_what_its_removal_frees(tmp_path: Path) -> None:
    """Log folders lie below each other: of the first one's, only the log itself is its own."""
    wal = tmp_path / "wal"
    first, second, present = (tmp_path / name for name in ("main.diverged-1", "main.diverged-2", "main"))
    for data, log in ((first, wal), (second, wal / f"ha-{LABEL}"), (present, wal / "ha-9-20260101T000000")):
        data.mkdir()
        log.mkdir(parents=True)
        (log / f"{1:024X}").write_bytes(bytes(MIB))
        (data / "pg_wal").symlink_to(log)
    sizes = [tablespaces.size_of_trees(databases, present) // MIB for databases in ([first], [second], [first, second])]
    assert sizes == [1, 1, 2]


def test_an_interrupted_copy_goes_with_what_it_has_elsewhere(config: PostgresConfig, tmp_path: Path) -> None:
    new, side = tmp_path / "main.new", tmp_path / f"fast/ha-{LABEL}"
    (new / "data" / "base").mkdir(parents=True)
    (side / "PG_15_202209061").mkdir(parents=True)
    for state in ("copying", "complete"):
        new.mkdir(exist_ok=True)
        side.mkdir(exist_ok=True)
        (new / seeding.MARKER).write_text(f"{state}\n{side}\n")
        assert seeding.recover(config.data_dir, "x") == "removed an interrupted copy"
        assert not new.exists() and not side.exists() and side.parent.exists()


# --- programs -----------------------------------------------------------------------------------------------------------------


def python(body: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, time, os, subprocess\n{body}"]


NOTHING = Watch()


def attend(body: str, watch: Watch = NOTHING, progress: transfer.OnProgress = lambda _: True, limit: float = 20.0) -> None:
    transfer.run(python(body), USER, progress, limit, watch)


def test_progress_is_read_and_what_went_wrong_is_told_without_it() -> None:
    seen: list[Progress] = []

    def take(progress: Progress) -> bool:
        seen.append(progress)
        return True

    with pytest.raises(CommandFailed) as failed:
        attend("print('10/40 kB (25%)', end='\\r', flush=True); time.sleep(0.4); sys.exit('no space left')", progress=take)
    assert (seen[-1].done, seen[-1].total) == (10240, 40960)
    assert failed.value.stderr == "no space left"


BROKEN = """pg_basebackup: error: could not receive data from WAL stream: server closed the connection unexpectedly
\tThis probably means the server terminated abnormally
\tbefore or while processing the request.
pg_basebackup: error: child process exited with exit code 1
pg_basebackup: removing data directory "/var/lib/postgresql/15/main.new/data"
"""


def test_an_alarm_has_what_went_wrong_in_one_line_and_not_the_whole_command(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    argv = [*transfer.as_user(USER), "/usr/lib/postgresql/15/bin/pg_basebackup", "-d", "host=10.0.0.2"]
    assert str(transfer._failed(argv, 1, BROKEN)) == (
        "pg_basebackup ended with exit status 1: could not receive data from WAL stream: server closed the connection"
        " unexpectedly; child process exited with exit code 1"
    )
    assert "setpriv" in caplog.text and "host=10.0.0.2" in caplog.text and "removing data directory" in caplog.text


def test_a_program_that_is_cancelled_goes_with_what_it_started() -> None:
    body = "subprocess.Popen(['sleep', '1000']); print('1/2 kB', flush=True); time.sleep(1000)"
    groups: list[int] = []

    def cancel(progress: Progress) -> bool:
        if not progress.done:
            return True
        groups.extend(each.group for each in transfer.group_of(_child()))
        return False

    with pytest.raises(Cancelled):
        attend(body, progress=cancel)
    assert len(groups) == 2 and transfer.group_of(groups[0]) == []


def _child() -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return next(int(pid) for pid in reversed(children) if b"1/2 kB" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_one_that_is_stopped_is_woken_and_one_that_does_nothing_is_ended() -> None:
    attend(f"os.kill(os.getpid(), {int(signal.SIGSTOP)})", limit=10.0)
    began = time.monotonic()
    with pytest.raises(ReplicationError, match="nothing has moved for 1 s"):
        attend("print('1/2 kB', flush=True); time.sleep(1000)", Watch(later=1.0))
    assert time.monotonic() - began < 10
    attend("print('1/2 kB', flush=True)\nend = time.time() + 2.5\nwhile time.time() < end: pass", Watch(later=1.0))


def test_the_last_of_a_disk_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "RESERVE", free(tmp_path) * 2)
    with pytest.raises(ReplicationError, match=f"are left in {tmp_path}: the copy was ended"):
        attend("time.sleep(1000)", Watch(disks=[tmp_path]))


def test_what_a_killed_ha_manager_left_running_is_ended(config: PostgresConfig, tmp_path: Path) -> None:
    program = tmp_path / "pg_basebackup"
    program.write_bytes(Path("/bin/sh").read_bytes())
    program.chmod(0o755)
    loop = [str(program), "-c", "while :; do read x; done", "-D"]
    ours = subprocess.Popen([*loop, f"{config.data_dir}.new/data"], stdin=subprocess.PIPE)
    other = subprocess.Popen([*loop, f"{config.data_dir}2/data"], stdin=subprocess.PIPE)
    try:
        ours.send_signal(signal.SIGSTOP)
        assert transfer.end_leftovers(config.data_dir) == 1
        assert ours.wait(5.0) == -signal.SIGKILL and other.poll() is None
        assert transfer.end_leftovers(config.data_dir) == 0
    finally:
        other.kill()
        other.wait()


# --- the log that is kept -----------------------------------------------------------------------------------------------------

SEGMENT = 16 * MIB
CONTROL = Control("1", "shut down", 2 * SEGMENT + 100, 2 * SEGMENT + 50, 2)
VERDICT = Verdict(Way.DIVERGED, "it forked", 2 * SEGMENT + 500, 2)


def segment(data: Path, number: int, holds: int = -1, timeline: int = 2) -> Path:
    path = data / "pg_wal" / f"{timeline:08X}{0:08X}{number:08X}"
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = number if holds < 0 else holds
    path.write_bytes(struct.pack("=HHIQ", 0xD110, 2, timeline, begin * SEGMENT) + bytes(1000))
    return path


def test_log_from_the_checkpoint_on_is_kept_but_for_recycled_segments(config: PostgresConfig, tmp_path: Path) -> None:
    for number, holds in ((1, -1), (2, -1), (3, -1), (4, 0)):
        segment(config.data_dir, number, holds)
    kept = keepsake.keep_log(config.data_dir, tmp_path / "diverged", LABEL, CONTROL, VERDICT)
    names = sorted(path.name[-1] for path in (tmp_path / "diverged" / LABEL / "pg_wal").iterdir())
    assert names == ["2", "3"] and not kept.counted and kept.fork == "0/20001F4"


def test_of_log_from_before_the_fork_not_all_is_kept(config: PostgresConfig, tmp_path: Path) -> None:
    """A checkpoint was made since, and a slot held back much that is older."""
    for number in range(1, 60):
        segment(config.data_dir, number)
    later = replace(CONTROL, redo=50 * SEGMENT)
    keepsake.keep_log(config.data_dir, tmp_path / "diverged", LABEL, later, replace(VERDICT, fork=40 * SEGMENT + 5))
    names = sorted(int(path.name[-2:], 16) for path in (tmp_path / "diverged" / LABEL / "pg_wal").iterdir())
    assert names == list(range(24, 60))


def test_log_that_was_removed_while_it_ran_alone_is_told(config: PostgresConfig, tmp_path: Path) -> None:
    """Beyond the fork, and so nowhere else: not all of what it acknowledged can be counted."""
    later = replace(CONTROL, redo=50 * SEGMENT)
    for number, holds in ((44, 12), (45, -1), (46, -1)):
        segment(config.data_dir, number, holds)
    kept = keepsake.keep_log(config.data_dir, tmp_path / "diverged", LABEL, later, replace(VERDICT, fork=40 * SEGMENT + 5))
    assert kept.gap == lsn_text(45 * SEGMENT)
    counted = replace(kept, counted=True, transactions=8, end="0/4", acknowledged="yes")
    said = divergence.words(counted, tmp_path)
    assert "at least 8 transactions" in said and f"from there to {kept.gap} was gone" in said and f"-s {kept.gap}" in said
    divergence.write(tmp_path / "diverged" / LABEL, replace(counted, transactions=0))
    assert "an unknown number of transactions" in divergence.newest(tmp_path / "diverged")


def test_a_replacement_begun_anew_keeps_nothing_twice_and_recounts_what_is_new(config: PostgresConfig, tmp_path: Path) -> None:
    diverged = tmp_path / "diverged"
    segment(config.data_dir, 2)
    assert keepsake.label_for(diverged, LABEL, CONTROL, VERDICT) == LABEL
    kept = keepsake.keep_log(config.data_dir, diverged, LABEL, CONTROL, VERDICT)
    divergence.write(diverged / LABEL, replace(kept, counted=True, transactions=5))
    assert keepsake.label_for(diverged, "8-x", CONTROL, VERDICT) == LABEL
    assert keepsake.label_for(diverged, "8-x", CONTROL, replace(VERDICT, fork=7)) == "8-x"
    assert keepsake.keep_log(config.data_dir, diverged, LABEL, CONTROL, VERDICT).transactions == 5
    segment(config.data_dir, 3)
    assert not keepsake.keep_log(config.data_dir, diverged, LABEL, CONTROL, VERDICT).counted
    keepsake.finished(diverged)
    assert keepsake.label_for(diverged, "8-x", CONTROL, VERDICT) == "8-x"


def test_log_that_does_not_fit_is_refused_and_leaves_nothing(
    config: PostgresConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(config.data_dir, 2)
    monkeypatch.setattr(space, "RESERVE", free(tmp_path) * 2)
    with pytest.raises(ReplicationError, match=r"the log of the database here, to be kept, takes 1 MB in .*: make room"):
        keepsake.keep_log(config.data_dir, tmp_path / "diverged", LABEL, CONTROL, VERDICT)
    assert not list((tmp_path / "diverged").iterdir())


def test_log_that_is_no_longer_to_be_kept_leaves_nothing(config: PostgresConfig, tmp_path: Path) -> None:
    segment(config.data_dir, 2)
    segment(config.data_dir, 3)
    with pytest.raises(Cancelled):
        keepsake.keep_log(
            config.data_dir, tmp_path / "diverged", LABEL, CONTROL, VERDICT,
            still=lambda: not list((tmp_path / "diverged" / LABEL / "pg_wal").iterdir()),
        )  # fmt: skip
    assert not list((tmp_path / "diverged").iterdir())


ROOM = space.Need(Path("/"), 0, "the log")


def test_what_is_kept_beside_a_copy_is_told_as_soon_as_it_is_kept_and_waited_for() -> None:
    go, told = threading.Event(), list[Kept]()
    with Keeping(lambda still: Kept(LABEL) if go.wait(5.0) else pytest.fail("late"), told.append, ROOM) as keeping:
        keeping.begin()
        progress = keeping.beside(lambda done: not go.set())
        assert progress(Progress(0, 0, 0.0))
        keeping.finish(lambda done: True)
        assert told == [Kept(LABEL)] and progress(Progress(0, 0, 0.0))
        keeping.finish(lambda done: True)
    assert told == [Kept(LABEL)]


def test_a_copy_ends_when_what_it_replaces_cannot_be_kept() -> None:
    def keep(still: Callable[[], bool]) -> Kept:
        raise ReplicationError("no room")

    with Keeping(keep, lambda kept: pytest.fail("told"), ROOM) as keeping:
        keeping.begin()
        progress = keeping.beside(lambda done: True)
        with pytest.raises(ReplicationError, match="no room"):
            for _ in range(500):
                progress(Progress(0, 0, 0.0))
                time.sleep(0.01)
        with pytest.raises(ReplicationError, match="no room"):
            keeping.finish(lambda done: True)


def test_a_copy_that_ends_ends_the_keeping_beside_it() -> None:
    ended = threading.Event()

    def keep(still: Callable[[], bool]) -> Kept:
        while still():
            time.sleep(0.01)
        ended.set()
        raise Cancelled("off")

    with pytest.raises(Cancelled, match="no longer wanted"), Keeping(keep, lambda kept: None, ROOM) as keeping:
        keeping.finish(lambda done: False)
    assert ended.is_set()


# --- only what differs --------------------------------------------------------------------------------------------------------


def test_what_belongs_into_a_copy() -> None:
    names = {
        "PG_VERSION": True, "global/pg_control": True, "base/5/16384": True, "base/5/16384_vm": True, "base/5/16384.1": True,
        "base/5/16390_init": True, "base/5/16390": False, "base/5/16390_fsm": False, "base/5/16390.2": False,
        "base/6/16390": True, "pg_xact/0000": True, "pg_wal/000000010000000000000001": False, "pg_stat_tmp/db.stat": False,
        "base/pgsql_tmp/pgsql_tmp9.1": False, "base/5/pgsql_tmp1.2": False, "base/5/pg_internal.init": False,
        "postmaster.pid": False, "backup_label": False, "standby.signal": False, "postgresql.auto.conf": True,
        "pg_tblspc/16390/PG_15_202209061/5/7": True, "pg_tblspc/16390/ha-1-20260101T000000/PG_15_202209061/5/7": False,
        "ha_manager.copy": False, "pg_logical/replorigin_checkpoint": True,
    }  # fmt: skip
    found = [differences.Remote(name, 8192, False) for name in names]
    found += [differences.Remote(folder, 0, True) for folder in ("base/5", "base", "pg_wal")]
    copied = differences.wanted(found)
    assert {each.path for each in copied if not each.folder} == {name for name, belongs in names.items() if belongs}
    assert [each.path for each in copied[:3]] == ["base", "pg_wal", "base/5"] and copied[-1].path == "global/pg_control"
