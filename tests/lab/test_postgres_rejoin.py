"""Two real Postgres: how a former active comes back, and what becomes of data that can't (design §4 rules 8, 10)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from postgres_pair import BIN, Node, Pair, Writer, follow, keep_going, make_ahead, pair, until

from ha_manager import divergence, rewinding, space, tablenames, transfer
from ha_manager.observation import Identity, Progress
from ha_manager.rejoin import Verdict, Way
from ha_manager.sql import Late
from runtime.errors import ReplicationError

pytestmark = pytest.mark.lab


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


def rows(node: Node) -> int:
    return int(node.sql("SELECT count(*)::text FROM t"))


def test_a_planned_switchover_and_back_needs_no_copy(clusters: Pair) -> None:
    clusters.synchronous()
    active, passive = clusters.one, clusters.two
    for epoch in (2, 3):
        writer = Writer(active)
        time.sleep(0.3)
        active.database.prepare()
        began = time.monotonic()
        stopped = active.database.make_stopped(immediate=False)
        assert stopped.clean
        received = passive.database.make_detached()
        assert received >= stopped.shutdown_lsn > 0, "the shutdown checkpoint did not reach the standby"
        passive.database.make_primary(epoch)
        passive.sql(f"INSERT INTO t VALUES ({-epoch})")
        print(f"stop {stopped.seconds * 1000:.0f} ms, all {(time.monotonic() - began) * 1000:.0f} ms")
        passive.database.settle_primary(epoch)
        writer.stop()
        assert rows(passive) >= len(writer.acknowledged)
        began = time.monotonic()
        way, report = follow(active, passive, epoch)
        print(f"back in {time.monotonic() - began:.2f} s")
        assert (way, report) == ("start", "")
        passive.database.set_names_enforced(epoch)
        active, passive = passive, active


def test_a_crashed_primary_with_more_log_is_kept_reported_and_replaced(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_detached()
    one.database.set_names_relaxed()
    for number in range(7):
        one.sql(f"INSERT INTO t VALUES ({number})")
    one.crash()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.up()
    assert one.database.data() == "ready"
    way, report = follow(one, two, 2)
    assert way == "diverged"
    assert one.database.reports.settle(20.0)
    assert rows(one) == rows(two) == 0
    folder = next(one.config.diverged_dir.iterdir())
    told = (folder / "report.txt").read_text().strip()
    # Seven inserts and the probe of relaxing.
    assert "holds 8 transactions beyond that" in told and one.notes.count(told) == 1
    fork = report.split("left the active's history at ")[1].split()[0]
    dumped = subprocess.run(
        [BIN / "pg_waldump", "-p", folder / "pg_wal", "-t", "2", "-s", fork],
        capture_output=True, text=True,
    )  # fmt: skip
    assert dumped.stdout.count("desc: COMMIT") == 8
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert (kept.transactions, kept.acknowledged, kept.directory) == (8, "yes", "")
    names = tablenames.of(one.config, map(divergence.File.of, kept.tables))
    assert {names[divergence.File.of(file)]: rows for file, rows in kept.tables.items()} == {"postgres: t": {"inserted": 7}}
    assert not list(one.root.glob("data.*")), f"rewound in place, nothing copied whole: {one.notes}"
    two.database.set_names_enforced(2)


def test_a_segment_made_ahead_hides_nothing_that_diverged(clusters: Pair) -> None:
    """pg_waldump can't read anything then, unless it is told which segments."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_detached()
    one.database.set_names_relaxed()
    one.sql("INSERT INTO t VALUES (1)")
    one.crash()
    make_ahead(one)
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.up()
    way, _ = follow(one, two, 2)
    assert way == "diverged"
    assert one.database.reports.settle(20.0)
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert (kept.transactions, kept.acknowledged) == (2, "yes"), "the insert and the probe of relaxing"
    assert rows(one) == rows(two) == 0


def test_a_log_of_which_a_part_is_gone_is_told_and_its_database_kept(clusters: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone for longer than log is kept back: what is counted is a least, and the database goes nowhere where it is the only
    copy of the rest."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_detached()
    one.database.set_names_relaxed()
    for number in range(6):
        one.sql(f"INSERT INTO t VALUES ({number})")
        one.sql("SELECT pg_switch_wal()")
    one.database.prepare()
    one.crash()
    segments = sorted((one.config.data_dir / "pg_wal").glob("0" * 7 + "?" * 17), key=lambda path: path.name[8:])
    for gone in segments[:4]:  # the one of the fork among them
        gone.unlink()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.up()
    monkeypatch.setattr(space, "fits", lambda *_: False)  # by the first estimate; else it would be removed before the copy
    way, report = follow(one, two, 2)
    assert way == "diverged" and "was gone, because it ran alone for longer than log is kept back" in report
    assert one.database.reports.settle(20.0)
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert 1 <= kept.transactions < 7 and kept.gap and kept.directory, kept
    two.database.set_names_enforced(2)


def test_what_waited_for_the_peer_is_not_called_acknowledged(clusters: Pair) -> None:
    """As after every yield: stopped while commits wait, a standby of nobody for a moment, and then of its successor."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_detached()

    def write() -> None:
        with contextlib.suppress(Exception):
            one.sql("INSERT INTO t VALUES (1)")

    writing = threading.Thread(target=write)
    writing.start()
    time.sleep(0.5)
    one.crash()
    writing.join()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.up()
    one.database.make_standby(None)
    one.database.make_stopped(immediate=False)
    way, _ = follow(one, two, 2)
    assert way == "diverged"
    assert one.database.reports.settle(20.0)
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert kept.transactions >= 1 and kept.acknowledged == "no"
    two.database.set_names_enforced(2)


def test_a_rewound_database_keeps_its_own_configuration_and_serves_again(clusters: Pair) -> None:
    one, two = clusters.diverge()
    one.up()
    before = (one.config.data_dir / "postgresql.conf").read_text()
    assert before != (two.config.data_dir / "postgresql.conf").read_text()
    follow(one, two, 2)
    assert (one.config.data_dir / "postgresql.conf").read_text() == before
    two.database.set_names_enforced(2)
    two.sql("INSERT INTO t VALUES (4)")
    two.database.make_stopped(immediate=False)
    one.database.make_detached()
    one.database.make_primary(3)
    assert one.sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t") == "1 3 4"


def test_the_checkpoint_that_ends_crash_recovery_leaves_the_log_that_a_rewind_reads(clusters: Pair) -> None:
    """Alone it wrote more than Postgres keeps by itself, without a checkpoint. Where a copy takes less time, it is copied."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_detached()
    one.database.set_names_relaxed()
    for _ in range(18):
        one.sql("SELECT pg_logical_emit_message(true, 'test', 'alone'); SELECT pg_switch_wal()")
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.crash()
    one.up()
    follow(one, two, 2)
    assert any("rewound to" in note for note in one.notes), one.notes
    two.database.set_names_enforced(2)
    one.config = replace(one.config, rejoin="quickest")
    one.database = one.new_database()
    one.database.make_detached()
    two.database.set_names_relaxed()
    two.sql("SELECT pg_logical_emit_message(true, 'test', 'alone')")
    one.database.make_primary(3)
    one.database.settle_primary(3)
    one.database.make_stopped(immediate=False)
    two.database.settle_primary(4)
    follow(one, two, 4)
    assert any("sooner than making it follow in place" in note for note in one.notes), one.notes
    assert len(list(one.root.glob("data.diverged-4-*"))) == 1


def by_pages(node: Node) -> None:
    """``node``'s database is compared with the active's when it comes back."""
    node.config = replace(node.config, rejoin="quickest", copy="differences")
    node.database = node.new_database()


TABLES = "SELECT md5(string_agg(g || x, '' ORDER BY g)) FROM "


def test_only_pages_that_differ_are_fetched_in_place(clusters: Pair) -> None:
    """Both wrote, made and removed tables and databases, cut and lengthened files; one crashed, the other goes on writing."""
    one = clusters.active()
    place = clusters.root / "fast"
    place.mkdir()
    shutil.chown(place, "postgres", "postgres")
    indexes = one.sql("SELECT count(*)::text FROM pg_available_extensions WHERE name = 'amcheck'") != "0"
    if indexes:  # not everyone packages it
        one.sql("CREATE EXTENSION amcheck")
    one.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    for name, more in (("big", "TABLESPACE fast"), ("cut", ""), ("grown", ""), ("shorter", ""), ("gone", ""), ("dropped", "")):
        one.sql(f"CREATE TABLE {name} {more} AS SELECT g, repeat('x', 900) AS x FROM generate_series(1, 10000) g")
        one.sql(f"CREATE UNIQUE INDEX {name}_g ON {name} (g)")
        one.sql(f"VACUUM FREEZE {name}")
    one.sql("CREATE DATABASE old")
    clusters.join()
    two = clusters.two
    two.database.make_detached()
    one.database.set_names_relaxed()
    one.sql("UPDATE big SET x = 'one' WHERE g % 500 = 7; INSERT INTO big SELECT g, 'one' FROM generate_series(20000, 24000) g")
    one.sql("CHECKPOINT")
    one.sql(
        "TRUNCATE cut; DROP TABLE gone; CREATE TABLE mine AS SELECT g, repeat('y', 900) AS x FROM generate_series(1, 9000) g"
    )
    one.sql("CREATE DATABASE mine")
    one.sql("CREATE UNLOGGED TABLE lost AS SELECT generate_series(1, 100000) g; SELECT count(*) FROM shorter")
    one.sql("INSERT INTO grown SELECT g, repeat('z', 900) FROM generate_series(20000, 26000) g")
    one.crash()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    two.sql("UPDATE big SET x = 'two' WHERE g % 700 = 8; DELETE FROM shorter WHERE g > 5000; DROP TABLE dropped")
    two.sql("VACUUM shorter")
    two.sql("DROP DATABASE old")
    two.sql("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) g")
    two.sql("CREATE TABLE new AS SELECT g, repeat('w', 900) AS x FROM generate_series(1, 3000) g")
    by_pages(one)
    one.up()
    writing = Writer(two)
    assert follow(one, two, 2)[0] == "diverged"
    writing.stop()
    (told,) = [note for note in one.notes if "pages of the database that differed from vs-28's were fetched" in note]
    total, fetched = (int(word) for word in re.findall(r"\d+(?= (?:MiB|of them))", told))
    assert total > 50 and fetched < total / 2, told
    assert not list(one.root.glob("data.*"))
    until(lambda: one.facts().lsn >= two.facts().lsn, 10.0, every=0.05)
    for table in ("big", "cut", "grown", "shorter", "gone", "new"):
        assert one.sql(TABLES + table) == two.sql(TABLES + table), table
    assert one.sql("SELECT max(id)::text FROM t") == two.sql("SELECT max(id)::text FROM t") == str(max(writing.acknowledged))
    names = "SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database"
    assert one.sql(names) == two.sql(names)
    if indexes:
        one.sql("SELECT bt_index_check(oid, true) FROM pg_class WHERE relkind = 'i' AND relpersistence = 'p'", 30.0)
    folders = [{each.name for each in (node.config.data_dir / "base").iterdir()} for node in (one, two)]
    assert folders[0] == folders[1]
    one.database.make_stopped(immediate=False)
    checked = subprocess.run([BIN / "pg_checksums", "--check", "-D", one.config.data_dir], capture_output=True, text=True)
    assert checked.returncode == 0 and re.search(r"Bad checksums: +0", checked.stdout), checked.stdout + checked.stderr


def test_a_comparison_that_cannot_begin_changes_nothing_and_one_that_is_interrupted_ends_in_a_copy(clusters: Pair) -> None:
    one, two = clusters.diverge()
    by_pages(one)
    one.up()
    identity = two.database.identity()
    verdict = one.database.judge(identity)
    with pytest.raises(rewinding.NotYet, match="can't be compared with now"):
        one.database.rejoin(verdict, replace(two.upstream(2), port=1), identity, keep_going)
    two.sql("SELECT pg_drop_replication_slot('ha_vs_166')")
    with pytest.raises(ReplicationError, match="does not keep the log"):
        one.database.rejoin(verdict, two.upstream(2), identity, keep_going)
    assert any("comparing it failed (the active does not keep the log" in note for note in one.notes), one.notes
    assert one.database.data() == "ready" and not rewinding.interrupted(one.config)
    two.database.settle_primary(2)
    with pytest.raises(transfer.Cancelled):
        one.database.rejoin(verdict, two.upstream(2), identity, lambda progress: not rewinding.interrupted(one.config))
    assert one.database.data() == "failed"
    assert follow(one, two, 2)[0] == "copy"
    assert one.database.data() == "ready" and rows(one) == rows(two) == 2


def test_a_database_that_was_given_away_belongs_to_postgres_again(clusters: Pair) -> None:
    one, two = clusters.diverge()
    by_pages(one)
    for path in (one.config.data_dir, one.config.data_dir / "base", one.config.data_dir / "global" / "1262"):
        os.chown(path, 0, 0)
        path.chmod(0)
    one.up()
    assert follow(one, two, 2)[0] == "diverged"
    assert any("pages of the database that differed" in note for note in one.notes), one.notes
    assert rows(one) == rows(two) == 2


def test_a_database_that_has_other_tablespaces_is_copied(clusters: Pair) -> None:
    one, two = clusters.diverge()
    place = clusters.root / "other"
    place.mkdir()
    shutil.chown(place, "postgres", "postgres")
    two.sql(f"CREATE TABLESPACE other LOCATION '{place}'")
    two.sql("CREATE TABLE elsewhere TABLESPACE other AS SELECT generate_series(1, 100) g")
    by_pages(one)
    one.up()
    assert follow(one, two, 2)[0] == "diverged"
    assert any("the tablespaces of the two servers differ" in note for note in one.notes), one.notes
    assert one.sql("SELECT count(*)::text FROM elsewhere") == "100"


def test_an_interrupted_rewind_is_never_started_and_ends_in_a_copy(clusters: Pair) -> None:
    one, two = clusters.diverge()
    one.up()
    identity = two.database.identity()
    verdict = one.database.judge(identity)
    with pytest.raises(transfer.Cancelled):
        one.database.rejoin(verdict, two.upstream(2), identity, lambda progress: not rewinding.interrupted(one.config))
    assert one.database.data() == "failed"
    for start in (lambda: one.database.make_standby(two.upstream(2)), lambda: one.database.make_primary(3)):
        with pytest.raises(ReplicationError, match=r"a rewind of th.* was interrupted"):
            start()
    assert follow(one, two, 2)[0] == "copy"
    assert one.database.data() == "ready" and rows(one) == rows(two) == 2


def test_a_database_that_cannot_be_rewound_is_copied(clusters: Pair) -> None:
    one, two = clusters.diverge()
    one.up()
    two.sql("REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM ha_replication")
    two.sql("REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) FROM ha_replication")
    way, report = follow(one, two, 2)
    assert way == "diverged" and "is kept in" in report
    assert len(list(one.root.glob("data.diverged-2-*"))) == 1
    assert not list(one.root.glob("data.rewinding*"))
    assert rows(one) == rows(two) == 2


def test_a_crashed_primary_without_more_log_just_follows(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    for number in range(7):
        one.sql(f"INSERT INTO t VALUES ({number})")
    os.kill(one.find("background writer"), signal.SIGSTOP)
    os.kill(one.find("walwriter"), signal.SIGSTOP)
    one.crash()
    two.database.make_detached()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    two.sql("INSERT INTO t VALUES (100)")
    one.up()
    assert follow(one, two, 2) == ("start", "")
    assert rows(one) == rows(two) == 8


def test_two_promotions_to_the_same_timeline_are_told_apart(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    one.database.make_stopped(immediate=False)
    two.database.make_detached()
    assert two.database.make_primary(2) == 3
    two.database.settle_primary(2)
    two.database.make_stopped(immediate=False)
    assert one.database.make_primary(3) == 3
    one.database.settle_primary(3)
    verdict = two.database.judge(one.database.identity())
    assert verdict.way is Way.DIVERGED
    assert "timeline 3 here was opened by another promotion" in verdict.because
    assert follow(two, one, 3)[0] == "diverged"


def test_a_former_primary_compares_itself_before_it_follows(clusters: Pair) -> None:
    """Without ha_manager's session: the active's past is asked over the replication connection."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    one.database.make_stopped(immediate=False)
    with pytest.raises(ReplicationError, match="can't be compared with vs-28's"):
        one.database.make_standby(replace(two.upstream(2), port=1))
    two.database.make_detached()
    assert two.database.make_primary(2) == 3
    one.database.make_standby(None)
    one.database.make_standby(two.upstream(2))
    assert one.facts().following == -1, "it can't stream before it has a slot"
    two.database.settle_primary(2)
    until(lambda: one.facts().following == 2, 10.0, every=0.05)
    one.database.make_stopped(immediate=False)
    two.database.make_stopped(immediate=False)
    # Both promote to timeline 4, neither knowing of the other.
    assert one.database.make_primary(3) == two.database.make_primary(3) == 4
    one.database.make_stopped(immediate=False)
    with pytest.raises(ReplicationError, match="timeline 4 here was opened by another promotion"):
        one.database.make_standby(two.upstream(3))


def test_another_cluster_is_kept_aside_and_replaced(clusters: Pair) -> None:
    clusters.active()
    two = clusters.two
    two.initdb(fresh=True)
    two.up()
    way, report = follow(two, clusters.one, 1)
    assert way == "foreign" and "another cluster" in report
    assert len(list(two.root.glob("data.diverged-1-*"))) == 1
    assert f"unix_socket_directories = '{two.config.socket_dir}'" in (two.config.data_dir / "postgresql.conf").read_text()


def test_log_that_is_gone_leads_to_a_fresh_copy(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    one, two = clusters.one, clusters.two
    assert two.database.why_not_following(one.upstream(1)) is None
    two.database.make_stopped(immediate=False)
    one.sql("SELECT pg_drop_replication_slot('ha_vs_28')")
    one.sql("ALTER SYSTEM SET wal_keep_size = 0")
    one.database._server.reload()
    for number in range(4):
        one.sql(f"INSERT INTO t VALUES ({number})")
        one.sql("SELECT pg_switch_wal()")
        one.database.prepare()
    one.database.settle_primary(1)
    two.database.make_standby(one.upstream(1))
    until(lambda: "already been removed" in (two.database.why_not_following(one.upstream(1)) or ""), 5.0, every=0.2)
    reason = two.database.why_not_following(one.upstream(1))
    two.database.make_stopped(immediate=False)
    identity = one.database.identity()
    two.database.rejoin(Verdict(Way.COPY, reason or ""), one.upstream(1), identity, keep_going)
    two.database.make_standby(one.upstream(1))
    until(lambda: two.facts().following == 1, 10.0, every=0.05)


def test_a_standby_that_is_ahead_of_the_fork_is_told(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    one, two = clusters.one, clusters.two
    two.database.make_detached()
    for number in range(5):
        one.sql(f"INSERT INTO t VALUES ({number})")
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.database.make_stopped(immediate=False)
    one.database.make_standby(None)
    one.database._follow(two.upstream(2), reload=True)
    reason = one.database.why_not_following(two.upstream(2))
    assert reason is not None and "the active left timeline 2" in reason


def test_a_cancelled_copy_leaves_everything_as_it_was(clusters: Pair) -> None:
    clusters.active()
    one, two = clusters.one, clusters.two
    one.sql("CREATE TABLE big AS SELECT g, repeat('x', 900) AS x FROM generate_series(1, 60000) g")
    two.empty()
    two.up()
    identity = one.database.identity()
    verdict = two.database.judge(identity)
    assert verdict.way is Way.COPY
    seen: list[Progress] = []

    def cancel(progress: Progress) -> bool:
        seen.append(progress)
        assert two.database.data() == "copying"
        return False

    with pytest.raises(transfer.Cancelled):
        two.database.rejoin(verdict, one.upstream(1), identity, cancel)
    assert seen
    assert two.database.data() in ("none", "failed")
    assert not (two.config.data_dir / "PG_VERSION").exists()
    until(lambda: not one.facts().standbys, 5.0)
    follow(two, one, 1)
    assert two.sql("SELECT count(*)::text FROM big") == "60000"
    assert not two.root.joinpath("data.new").exists()


def test_what_does_not_fit_is_refused_before_anything_happens(clusters: Pair) -> None:
    clusters.active()
    clusters.two.empty()
    clusters.two.up()
    two = clusters.two
    identity = clusters.one.database.identity()
    verdict = two.database.judge(identity)
    for changed, words in (
        (replace(identity, size=1 << 50), "MB are free"),
        (replace(identity, tablespaces=1), "doesn't say where"),
    ):
        with pytest.raises(ReplicationError, match=words):
            two.database.rejoin(verdict, clusters.one.upstream(1), changed, keep_going)
    assert not two.root.joinpath("data.new").exists()


def test_identity_survives_the_session(clusters: Pair) -> None:
    one = clusters.active()
    identity = one.database.identity()
    assert Identity.from_json(identity.as_json()) == identity
    assert identity.timeline == 2 and identity.history[0][0] == 1 and identity.lineage == {2: "1/vs-166"}


#: of a backup that was made long ago
LABEL = """START WAL LOCATION: 0/28 (file 000000010000000000000000)
CHECKPOINT LOCATION: 0/60
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2024-01-01 00:00:00 UTC
LABEL: x
START TIMELINE: 1
"""


def label(node: Node) -> Path:
    path = node.config.data_dir / "backup_label"
    path.write_text(LABEL)
    shutil.chown(path, "postgres", "postgres")
    return path


def test_a_backup_label_that_was_left_in_a_primary_makes_it_no_copy(clusters: Pair) -> None:
    one, two = clusters.diverge()
    left = label(one)
    assert one.database.judge(two.database.identity()).way is Way.DIVERGED
    two.crash()
    label(two)
    two.up()
    with pytest.raises(Late):
        two.database.make_primary(2, 3.0)
    assert any("remove the file, unless a backup was restored here" in note for note in two.notes)
    two.database.make_stopped(immediate=True)
    label(two).unlink()  # as an administrator who reads that
    two.database.make_primary(2, 10.0)
    assert two.sql("SELECT count(*)::text FROM t") == "2" and left.exists()


def test_a_standby_whose_recovery_needs_log_that_is_gone_is_told_before_it_takes_connections(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.database.make_stopped(immediate=True)
    label(two)
    with pytest.raises(Late):
        two.database.make_standby(one.upstream(1), 3.0)
    assert "already been removed" in (two.database.why_not_following(one.upstream(1)) or "")
