"""Two real Postgres: copies and rejoins that are disturbed at every step; tablespaces; full disks."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_at import Rejoin
from postgres_pair import BIN, PASSWORD, Node, Pair, Writer, follow, keep_going, pair, until

from ha_manager import divergence, keepsake, postmaster, seeding, tablespaces, transfer
from ha_manager.divergence import Kept
from ha_manager.observation import Progress
from ha_manager.rejoin import Verdict, Way
from runtime.errors import HaError, ReplicationError
from runtime.proctree import descendants

pytestmark = pytest.mark.lab

HERE = Path(__file__).resolve().parent
#: so many of its steps a rejoin is killed at; at all of them by hand: HA_TEST_EVERY_STEP=1 (a few minutes)
KILLS = 10**6 if os.environ.get("HA_TEST_EVERY_STEP") else 5


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


def rows(node: Node) -> int:
    return int(node.sql("SELECT count(*)::text FROM t"))


def no_leftovers(node: Node) -> None:
    assert not [path for path in node.root.iterdir() if path.name.startswith(("data.new", "data.rewinding"))]
    assert not transfer._leftovers(node.config.data_dir)


# --- killed at every step -----------------------------------------------------------------------------------------------------


def spoil_rewind(clusters: Pair) -> None:
    """pg_rewind fails in the middle; a copy follows."""
    clusters.two.sql("REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) FROM ha_replication")


def by_pages(clusters: Pair) -> None:
    one = clusters.one
    one.config = replace(one.config, rejoin="quickest", copy="differences")
    one.database = one.new_database()


def at_once(clusters: Pair) -> None:
    """So small a database is copied without a try to rewind it; its log is kept meanwhile."""
    clusters.one.config = replace(clusters.one.config, rejoin="quickest")
    clusters.one.database = clusters.one.new_database()


@pytest.mark.parametrize(
    "change", [lambda _: None, spoil_rewind, by_pages, at_once], ids=["rewind", "copy", "pages", "at_once"]
)
def test_a_rejoin_killed_at_any_step_ends_well(clusters: Pair, change: Callable[[Pair], None], tmp_path: Path) -> None:
    one, two = clusters.diverge()
    two.database.prepare()
    change(clusters)
    task = Rejoin(one.config, one.name, one.peer, PASSWORD, two.database.identity(), two.upstream(2))
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    before = one.root.with_name("before")
    subprocess.run(["cp", "-a", str(one.root), str(before)], check=True)
    steps = killed_at(tmp_path / "task", 0).stdout.splitlines()
    print(f"{len(steps)} steps:", *steps, sep="\n")
    assert len(steps) > 20
    every = max(1, len(steps) // KILLS)
    for number in range((every + 1) // 2, len(steps) + 1, every):
        print(f"--- killed at step {number}: {steps[number - 1]}")
        put_back(one, before)
        done = killed_at(tmp_path / "task", number)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        assert done.returncode or number > len(steps) - 5  # not every run has quite as many
        one.up()
        one.database.count_reports()  # as ha_manager does when it starts
        with_patience(one, two)
        assert rows(one) == rows(two) == 2
        assert one.database.reports.settle(20.0)
        kept = [each for each in divergence.listed(one.config.diverged_dir, one.config.data_dir) if each.folder]
        assert [(each.transactions, each.counted) for each in kept] == [(2, True)], one.notes
        no_leftovers(one)


def killed_at(task: Path, number: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent.parent}:{HERE}"}
    argv = [sys.executable, str(HERE / "killed_at.py"), str(task), str(number)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)


def put_back(one: Node, before: Path) -> None:
    one.down()
    shutil.rmtree(one.root)
    subprocess.run(["cp", "-a", str(before), str(one.root)], check=True)
    one.database, one.notes = one.new_database(), one.notes
    one.notes.clear()


def with_patience(passive: Node, active: Node) -> None:
    """As the worker does: what failed is tried again."""
    for _ in range(3):
        with contextlib.suppress(ReplicationError):
            follow(passive, active, 2)
            return
    follow(passive, active, 2)


def test_a_copy_takes_no_place_before_the_log_of_what_is_there_is_kept(clusters: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = clusters.diverge()
    at_once(clusters)
    one.up()
    one.config.diverged_dir.mkdir(parents=True, exist_ok=True)
    with small_disk(one.config.diverged_dir, 300):
        subprocess.run(["mount", "-o", "remount,ro", str(one.config.diverged_dir)], check=True)
        with pytest.raises(ReplicationError, match="the log of the database here can't be kept"):
            follow(one, two, 2)
    no_leftovers(one)
    assert any("sooner than making it follow in place" in note for note in one.notes), one.notes
    keep, seen = keepsake.keep_log, list[bool]()

    def slow(*what: Any) -> Kept:
        marker = one.root / "data.new" / seeding.MARKER
        until(lambda: marker.exists() and marker.read_text().startswith("complete"), 20.0, "the copy to be complete")
        time.sleep(0.5)
        seen.append(marker.exists() and not list(one.root.glob("data.diverged-*")))
        return keep(*what)

    monkeypatch.setattr(keepsake, "keep_log", slow)
    assert follow(one, two, 2)[0] == "diverged" and seen == [True]
    assert len(list(one.root.glob("data.diverged-*"))) == 1 and rows(one) == rows(two) == 2
    assert one.database.reports.settle(20.0)
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert kept.transactions == 2 and kept.directory and kept.folder


# --- programs killed and stopped ----------------------------------------------------------------------------------------------


def ours(name: str) -> list[int]:
    """Processes called ``name`` below this one, parents first: another session of tests may have some, too."""
    found = []
    for each in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{each.pid}/exe")) == name:
                found.append(each.pid)
    return found


@contextlib.contextmanager
def amid_a_copy(strike: Callable[[list[int]], None]) -> Iterator[None]:
    """``strike`` is called once, with the processes of pg_basebackup, when both of them work."""
    ended, struck = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002) and not struck.is_set():
            found = ours("pg_basebackup")
            if len(found) == 2 and any(map(_has_written, found)):
                strike(found)
                struck.set()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    assert struck.is_set(), "no copy was seen"


def _has_written(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0]) > 1 << 20
    return False


def signalled(number: signal.Signals) -> Callable[[list[int]], None]:
    def strike(pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, number)

    return strike


def test_programs_that_are_killed_or_stopped_amid_a_copy(clusters: Pair) -> None:
    one = clusters.active()
    one.sql("CREATE TABLE big AS SELECT g, repeat('x', 900) AS x FROM generate_series(1, 60000) g")
    two = clusters.two
    two.empty()
    two.up()
    identity = one.database.identity()
    verdict = two.database.judge(identity)
    with pytest.raises(HaError, match="pg_basebackup"), amid_a_copy(signalled(signal.SIGKILL)):
        two.database.rejoin(verdict, one.upstream(1), identity, keep_going)
    no_leftovers(two)
    with pytest.raises(HaError), amid_a_copy(lambda pids: one.crash()):
        two.database.rejoin(verdict, one.upstream(1), identity, keep_going)
    no_leftovers(two)
    one.up()
    one.database.make_primary(1)
    # Both of its processes; woken within a second or two.
    with amid_a_copy(signalled(signal.SIGSTOP)):
        two.database.rejoin(verdict, one.upstream(1), identity, keep_going)
    two.database.make_standby(one.upstream(1))
    until(lambda: two.facts().following == 1, 15.0, every=0.05)
    assert two.sql("SELECT count(*)::text FROM big") == "60000"


def test_a_rewind_that_is_stopped_goes_on_and_so_does_its_crash_recovery(clusters: Pair) -> None:
    one, two = clusters.diverge()
    two.database.prepare()
    one.up()
    identity = two.database.identity()
    recovering = 0
    looking = two.session()
    rewinds = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'ha\\_rewind\\_%'"
    struck = False

    def progress(done: Progress) -> bool:
        nonlocal recovering, struck
        if done.doing.startswith("recovering") and not recovering:
            until(lambda: postmaster.postmaster_of(one.config.data_dir), 5.0, "the crash recovery to begin", every=0.001)
            recovering = one.postmaster()
            os.kill(recovering, signal.SIGSTOP)
            assert not one.facts().foreign, "our own crash recovery is nobody else's Postgres"
        if done.doing.startswith("comparing") and not struck:
            # Stopped while it connects it would give up, rightly.
            struck = True
            until(lambda: looking.one(rewinds, 2.0) != "0", 10.0, "pg_rewind to connect", every=0.001)
            signalled(signal.SIGSTOP)(ours("pg_rewind"))
        return True

    one.database.rejoin(one.database.judge(identity), two.upstream(2), identity, progress)
    looking.close()
    assert recovering and struck
    assert any("rewound to" in note for note in one.notes), one.notes
    follow(one, two, 2)
    no_leftovers(one)


# --- tablespaces, and a log folder of its own ---------------------------------------------------------------------------------


def test_tablespaces_and_a_log_folder_elsewhere_come_along(clusters: Pair) -> None:
    one = clusters.active()
    place, log = clusters.root / "fast", clusters.root / "log"
    for folder in (place, log):
        folder.mkdir()
        shutil.chown(folder, "postgres", "postgres")
    one.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    one.sql("CREATE TABLE far (id int) TABLESPACE fast")
    one.sql("INSERT INTO far VALUES (1)")
    two = clusters.two
    two.empty()
    (two.config.data_dir / "pg_wal").symlink_to(log)
    two.up()
    identity = one.database.identity()
    assert [folder for folder, size in identity.locations] == [str(place)] and identity.tablespaces == 1 and identity.wal > 0
    follow(two, one, 1)
    first = tablespaces.outside(two.config.data_dir)
    assert len(first) == 2 and all(path.name.startswith("ha-1-") for path in first)
    assert {path.parent for path in first} == {place, log}
    # Copied again: nothing of the old one is touched, both have their own folders, until the old one is removed.
    one.database.set_names_enforced(1)
    two.database.make_detached()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.database.make_stopped(immediate=False)
    one.database.make_primary(3)
    one.database.settle_primary(3)
    two.database.make_stopped(immediate=False)
    way, _ = follow(two, one, 3)
    second = tablespaces.outside(two.config.data_dir)
    assert way == "diverged" and not {*first} & {*second} and all(path.is_dir() for path in (*first, *second))
    (kept,) = [each for each in divergence.listed(two.config.diverged_dir, two.config.data_dir) if each.directory]
    divergence.remove(kept, two.config.data_dir)
    assert not any(path.exists() for path in first) and all(path.is_dir() for path in second)
    one.sql("INSERT INTO far VALUES (2)")
    until(lambda: two.sql("SELECT count(*)::text FROM far") == "2", 5.0, every=0.05)


# --- only what differs --------------------------------------------------------------------------------------------------------


def test_only_what_differs_from_a_stale_database_is_fetched(clusters: Pair) -> None:
    one = clusters.active()
    place = clusters.root / "fast"
    place.mkdir()
    shutil.chown(place, "postgres", "postgres")
    one.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    one.sql("CREATE TABLE big TABLESPACE fast AS SELECT g, repeat('x', 900) AS x FROM generate_series(1, 60000) g")
    one.sql("VACUUM FREEZE big")  # else reading it changes every page once more
    one.sql("CREATE UNLOGGED TABLE lost AS SELECT generate_series(1, 100000) g")
    clusters.join()
    two = clusters.two
    two.database.make_stopped(immediate=False)
    one.sql("UPDATE big SET x = 'y' WHERE g % 1000 = 7; DELETE FROM t; CREATE TABLE new AS SELECT generate_series(1, 5) g")
    verdict = Verdict(Way.COPY, "the log that it needs is gone")
    two.config = replace(two.config, copy="differences")
    two.database = two.new_database()
    one.sql("SELECT pg_drop_replication_slot('ha_vs_28')")
    with pytest.raises(ReplicationError, match=r"does not keep the log that this copy needs \(slot ha_vs_28: none\)"):
        two.database.rejoin(verdict, one.upstream(1), one.database.identity(), keep_going)
    one.database.settle_primary(1)
    writing = Writer(one)
    two.database.rejoin(verdict, one.upstream(1), one.database.identity(), keep_going)
    writing.stop()
    two.database.make_standby(one.upstream(1))
    until(lambda: two.facts().following == 1, 15.0, every=0.05)
    (told,) = [note for note in two.notes if "differed from the database here" in note]
    fetched, total = (int(word) for word in re.findall(r"\d+", told)[:2])
    assert fetched < total / 4 and total > 70, told
    until(lambda: two.facts().lsn >= one.facts().lsn, 10.0, every=0.05)
    for sql in (
        "SELECT md5(string_agg(g || x, '' ORDER BY g)) FROM big",
        "SELECT sum(g)::text FROM new",
        "SELECT max(id)::text FROM t",
    ):
        assert two.sql(sql) == one.sql(sql)
    two.database.make_stopped(immediate=False)
    checked = subprocess.run([BIN / "pg_checksums", "--check", "-D", two.config.data_dir], capture_output=True, text=True)
    assert checked.returncode == 0 and re.search(r"Bad checksums: +0", checked.stdout), checked.stdout + checked.stderr
    no_leftovers(two)


# --- room ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_amid_a_copy_is_given_back_and_the_copy_begins_anew(clusters: Pair) -> None:
    one = clusters.active()
    one.sql("CREATE TABLE big AS SELECT g, repeat('x', 900) AS x FROM generate_series(1, 300000) g", 30.0)
    two = clusters.two
    with small_disk(two.root, 300):
        two.empty()
        two.up()
        identity = one.database.identity()
        verdict = two.database.judge(identity)
        with pytest.raises(ReplicationError, match="MB are free: make room"):
            two.database.rejoin(verdict, one.upstream(1), identity, keep_going)
        no_leftovers(two)
        # It said less than it is.
        small = replace(identity, size=1 << 20)
        with pytest.raises(HaError, match=r"are left in|No space left"):
            two.database.rejoin(verdict, one.upstream(1), small, keep_going)
        no_leftovers(two)
        subprocess.run(["mount", "-o", "remount,size=900m", str(two.root)], check=True)
        follow(two, one, 1)
        two.down()


def test_a_log_that_has_filled_its_disk_leaves_room_for_the_next_promotion(clusters: Pair) -> None:
    """It could be started, and ended again at each promotion, until somebody made room."""
    one = clusters.one
    one.initdb()
    disk = one.root / "disk"
    disk.mkdir()
    with small_disk(disk, 320):
        subprocess.run(["mv", one.config.data_dir / "pg_wal", disk / "log"], check=True)
        (one.config.data_dir / "pg_wal").symlink_to(disk / "log")
        with open(one.config.config_file, "a") as conf:
            conf.write("max_wal_size = 32MB\nmin_wal_size = 32MB\nwal_keep_size = 0\n")
        one.up()
        one.database.make_primary(1)
        one.database.settle_primary(1)
        one.database.prepare()
        reserve = disk / "data.ha-reserve"
        assert reserve.exists()
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(1 << 16)):
                pass
        with pytest.raises(ReplicationError):
            one.sql("CREATE TABLE big AS SELECT g, repeat(md5(g::text), 30) AS x FROM generate_series(1, 300000) g", 60.0)
        # Postgres has started anew by itself, as a standby.
        until(lambda: one.facts().state == "stopped" or one.facts().in_recovery, 10.0)
        one.database.make_primary(1)
        assert not reserve.exists() and any("room that was kept for that" in note for note in one.notes)
        one.database.prepare()
        one.sql("CREATE TABLE t (id bigint); INSERT INTO t SELECT generate_series(1, 100000)")
        one.down()
