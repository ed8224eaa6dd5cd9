"""What is done to a real Postgres in place: one pair, one trouble after the other (``care``, ``mending``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from postgres_pair import BIN, Node, Pair, Writer, follow, pair, until

from ha_manager import keeper, postmaster
from ha_manager.care import Care, Remedy
from ha_manager.observation import slot_name, standby_name
from ha_manager.orders import Epoch, Names, Phase, Postgres, Want
from ha_manager.rejoin import Way
from ha_manager.sql import Session, conninfo
from runtime.errors import DidNotStart, HaError, ReplicationError

pytestmark = pytest.mark.lab


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


def streams(clusters: Pair, epoch: int = 1) -> bool:
    return clusters.one.facts().caught_up(standby_name(clusters.two.name, epoch))


def test_clients_that_take_every_connection_do_not_lock_ha_manager_out(clusters: Pair) -> None:
    """Superusers, so that they have the places kept for superusers as well."""
    clusters.synchronous()
    one, taken = clusters.one, []
    with pytest.raises(ReplicationError, match="too many clients"):
        for _ in range(500):
            taken.append(one.session())
    until(lambda: one.facts().crowded, 5.0)
    until(lambda: (seen := one.facts().vitals) is not None and seen.clients >= len(taken), 5.0)
    seen = one.facts()
    assert seen.answers and [row.name for row in seen.standbys] == [standby_name(clusters.two.name, 1)]
    assert seen.vitals is not None and "postgres from this server" in seen.vitals.busiest
    one.database.set_names_relaxed()
    one.database.settle_primary(1)
    assert one.database.set_names_enforced(1) > 0
    for each in taken:
        each.close()
    until(lambda: not one.facts().crowded, 5.0)


def test_clients_that_take_every_process_do_not_make_postgres_unhealthy(clusters: Pair) -> None:
    """Connections that don't even say who they are count as well; then nobody gets in any more, but what is connected works."""
    one = clusters.active()
    one.facts()
    held = []
    for _ in range(260):
        time.sleep(0.002)
        sock = socket.socket()
        sock.settimeout(5.0)
        sock.connect(("127.0.0.1", one.config.port))
        held.append(sock)
    until(lambda: one.facts().crowded, 10.0, every=0.1)
    with pytest.raises(ReplicationError, match="too many clients"):
        one.session()
    for _ in range(3):
        seen = one.facts()
        assert seen.answers and seen.crowded, seen
    for sock in held:
        sock.close()
    until(lambda: not one.facts().crowded, 10.0)


def test_what_alter_system_overrides_is_taken_back_and_proven_again(clusters: Pair) -> None:
    clusters.synchronous()
    one = clusters.one
    for statement in ("SET synchronous_standby_names = ''", "SET synchronous_commit = 'off'", "SET work_mem = '5MB'"):
        one.sql(f"ALTER SYSTEM {statement}")
    one.sql("SELECT pg_reload_conf()")
    until(lambda: one.facts().names == "", 5.0)
    assert one.facts().overridden == ("synchronous_standby_names", "synchronous_commit")
    assert "synchronous_commit" in one.database.mend(Remedy.RESET)
    one.database.mend(Remedy.PROVE)
    assert one.database.set_names_enforced(1) > 0
    assert one.facts().overridden == () and one.sql("SHOW work_mem") == "5MB"
    assert one.facts().names == f'"{standby_name(clusters.two.name, 1)}"'
    assert one.database.mend(Remedy.RESET) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no_such_setting = 5", 'unrecognized configuration parameter "no_such_setting" (correct it)'),
        ("work_mem", "not a setting: 'work_mem'"),
        ("work_mem = much", 'invalid value for parameter "work_mem": "much"'),
        ("synchronous_commit = off", "commits would be acknowledged that the passive server does not hold"),
    ],
)
def test_settings_of_the_administrator_that_cannot_be_used_do_not_keep_the_role_from_changing(
    clusters: Pair, line: str, words: str
) -> None:
    """Postgres takes all of its files or nothing: commits would wait for a passive that is gone, and a new primary refuse
    writes.
    """
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    want = Want(1, Phase.ACTIVE, Epoch(1, one.name), Postgres.PRIMARY, Names.ENFORCED)
    for node in (one, two):
        with open(node.config.config_file, "a") as conf:
            conf.write(f"{line}\n")
        os.kill(node.postmaster(), signal.SIGHUP)
        until(lambda node=node: words in node.facts().unusable, 10.0, words)  # type: ignore[misc]
        mended(node)
    findings = Care(two.name, 0).look(want, 1, one.facts(), time.monotonic())
    assert words in findings.alarms["settings"] and str(one.config.config_file) in findings.alarms["settings"]
    assert findings.remedies == ()
    until(lambda: setting(one, "synchronous_commit") == "on", 5.0)
    two.database.make_detached()
    one.database.set_names_relaxed()
    one.sql("INSERT INTO t VALUES (1)")
    one.crash()
    two.database.make_primary(2)
    two.sql("INSERT INTO t VALUES (2)")
    two.database.make_stopped(immediate=True)
    two.database.make_primary(2)
    two.sql("INSERT INTO t VALUES (3)")
    text = two.config.config_file.read_text()
    two.config.config_file.write_text(text.replace(line, "work_mem = 5MB"))
    until(lambda: not two.facts().unusable, 10.0)
    mended(two)
    until(lambda: setting(two, "work_mem") == "5MB", 5.0)


def setting(node: Node, name: str) -> str:
    """As a client has it that says nothing about it."""
    info = conninfo(host=str(node.config.socket_dir), port=node.config.port, user="postgres", dbname="postgres")
    with contextlib.closing(Session(info, 2.0)) as session:
        return session.one(f"SHOW {name}", 2.0)


def mended(node: Node) -> None:
    """Its settings file follows, once."""
    until(lambda: node.facts().settings_due, 5.0)
    assert node.database.mend(Remedy.SETTINGS) == ""
    time.sleep(1.5)
    assert not node.facts().settings_due


def test_files_of_ours_that_somebody_removed_are_made_again_as_postgres_runs(clusters: Pair) -> None:
    """Before that, neither server could change a setting: nobody took over, nobody let go."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    before = {node.name: (node.database.configured(), node.facts().names) for node in (one, two)}
    for node in (one, two):
        loaded = node.facts().loaded
        shutil.rmtree(node.config.state_dir)
        gone = {Path(path).name for path in node.facts().missing}
        assert gone == {"postgresql.conf", "role.conf", "pg_hba.conf", "pg_ident.conf"}
        assert "role.conf" in node.database.mend(Remedy.REMAKE) and node.facts().missing == ()
        assert node.database.mend(Remedy.REMAKE) == ""
        until(lambda node=node, loaded=loaded: node.facts().loaded != loaded, 5.0)  # type: ignore[misc]
    assert {node.name: (node.database.configured(), node.facts().names) for node in (one, two)} == before
    os.kill(two.find("walreceiver"), signal.SIGTERM)
    until(lambda: streams(clusters), 10.0)  # by the password that was written again
    one.sql("INSERT INTO t VALUES (1)")
    two.database.make_detached()
    two.database.make_primary(2)
    assert two.sql("SELECT count(*)::text FROM t") == "1"
    assert one.new_database().identity().lineage == one.database.identity().lineage != {}, "who promoted what is kept, too"


def test_slot_and_role_that_were_dropped_are_made_again(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    os.kill(two.find("walreceiver"), signal.SIGSTOP)
    one.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots", sync="local")
    until(lambda: not one.facts().slots[0].active, 5.0)
    one.sql(f"SELECT pg_drop_replication_slot('{slot_name(two.name)}')", sync="local")
    one.sql("DROP OWNED BY ha_replication; DROP ROLE ha_replication", sync="local")
    two.database.mend(Remedy.END_RECEIVER)
    until(lambda: (seen := one.facts().vitals) is not None and not seen.role, 5.0)
    assert one.facts().slots == ()
    one.database.settle_primary(1)
    until(lambda: streams(clusters), 10.0)
    one.sql("ALTER ROLE ha_replication NOLOGIN", sync="local")
    until(lambda: (seen := one.facts().vitals) is not None and not seen.role, 5.0)
    one.database.settle_primary(1)
    until(lambda: (seen := one.facts().vitals) is not None and seen.role, 5.0)


def test_event_triggers_of_the_administrator_do_not_keep_the_peer_from_following(clusters: Pair) -> None:
    """What a promotion owes is a GRANT, too; one that was refused would leave the peer without its slot."""
    one = clusters.active()
    one.sql("REVOKE EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) FROM ha_replication")
    one.sql(f"SELECT pg_drop_replication_slot('{slot_name(clusters.two.name)}')")
    one.sql("CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL here'; END $$")
    one.sql("CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no()")
    with pytest.raises(ReplicationError, match="no DDL here"):
        one.sql("CREATE TABLE refused (id int)")
    one.database.settle_primary(1)
    assert one.facts().slots != ()


def test_what_alter_system_left_smaller_here_than_on_the_active_is_taken_back(clusters: Pair) -> None:
    """A copy brings the active's ALTER SYSTEM along; raised there later, by the same means, it would be too small here."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.sql("ALTER SYSTEM SET work_mem = '5MB'")
    for follows in (True, False):
        two.sql("ALTER SYSTEM SET max_connections = 20")
        two.database.make_stopped(immediate=False)
        if follows:
            two.database.make_standby(one.upstream(1))
            until(lambda: streams(clusters), 15.0)
        else:
            two.database.make_primary(2)
        assert (two.sql("SHOW max_connections"), two.sql("SHOW work_mem")) == ("100", "5MB")
        assert "max_connections = 20 (the active has 100) here" in two.notes[-1]
    assert "max_connections" not in (two.config.data_dir / "postgresql.auto.conf").read_text()


def test_a_pause_of_replay_keeps_no_standby_from_following_in_another_epoch(clusters: Pair) -> None:
    """The active went solo, say: until its standby has the new epoch's name, it can't be in sync again."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.sql("SELECT pg_wal_replay_pause()")
    two.database.make_standby(one.upstream(1))
    assert two.facts().replay_paused, "it streams: nobody needs the end of what somebody wanted"
    two.database.make_standby(one.upstream(2))
    until(lambda: streams(clusters, 2), 10.0, "following in epoch 2", every=0.05)
    assert "replay was paused" in two.notes[-1]


def test_log_that_is_not_archived_is_seen_where_it_is_to_be(clusters: Pair) -> None:
    one = clusters.active()
    one.database.make_stopped(immediate=False)
    with open(one.config.config_file, "a") as conf:
        conf.write("archive_mode = on\narchive_command = 'false'\n")
    one.database.make_primary(2)
    one.sql("SELECT pg_switch_wal()")
    marks = one.config.data_dir / "pg_wal" / "archive_status"
    until(lambda: list(marks.glob("*.ready")))
    seen = one.facts().vitals
    assert seen is not None and seen.unarchived == 0, "it has waited for a moment only"
    for mark in marks.glob("*.ready"):
        os.utime(mark, (time.time() - 61, time.time() - 61))
    until(lambda: (seen := one.facts().vitals) is not None and seen.unarchived >= 16 << 20, 10.0, every=0.1)
    one.database.make_stopped(immediate=False)
    one.database.make_standby(None)
    until(
        lambda: (seen := one.facts().vitals) is not None and one.facts().in_recovery and seen.unarchived == 0, 10.0, every=0.1
    )


def test_a_lost_slot_is_replaced_and_only_a_fresh_copy_helps(clusters: Pair) -> None:
    one, two = clusters.active(), clusters.two
    with open(one.config.config_file, "a") as conf:
        conf.write("max_slot_wal_keep_size = 32MB\nwal_keep_size = 0\nmax_wal_size = 48MB\nmin_wal_size = 32MB\n")
    one.database.configure()
    clusters.join()
    two.database.make_stopped(immediate=False)
    until(lambda: not one.facts().slots[0].active, 5.0)
    for _ in range(8):
        one.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 12000000))", 30.0)
        one.sql("CHECKPOINT", 30.0)
    seen = one.facts().slots[0]
    assert seen.wal_status == "lost"
    one.database.settle_primary(1)
    assert one.facts().slots[0].wal_status == "reserved"
    one.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 12000000))", 30.0)
    kept = one.facts().slots[0].restart
    assert "given up" in one.database.mend(Remedy.RELEASE_LOG)
    one.database.prepare()
    one.database.settle_primary(1)
    assert one.facts().slots[0].restart > kept
    two.database.make_standby(one.upstream(1))
    until(lambda: two.database.why_not_following(one.upstream(1)) is not None, 10.0)
    assert "removed" in (two.database.why_not_following(one.upstream(1)) or "")


def test_a_standby_promoted_by_hand_refuses_writes_and_one_promoted_by_us_does_not(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.sql("SELECT pg_promote(true)")
    with pytest.raises(ReplicationError, match="read-only"):
        two.sql("INSERT INTO t VALUES (1)")
    seen = two.facts()
    assert seen.answers and not seen.in_recovery
    two.database.make_stopped(immediate=True)
    follow(two, one, 1)
    two.database.make_detached()
    two.database.make_primary(2)
    two.sql("INSERT INTO t VALUES (1)")


def test_a_promotion_ends_a_pause_and_wakes_what_is_stopped(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.sql("SELECT pg_wal_replay_pause()")
    writer = Writer(one)
    time.sleep(0.3)
    assert writer.stop() and len(writer.acknowledged) > 10
    assert two.facts().replay_paused and two.facts().lsn > two.facts().replayed
    os.kill(two.find("startup"), signal.SIGSTOP)
    two.database.make_detached()
    two.database.make_primary(2)
    assert two.sql("SELECT count(*)::text FROM t") == str(len(writer.acknowledged))


@pytest.mark.parametrize("process", ["walreceiver", "startup"])
def test_a_stopped_process_of_the_passive_is_woken(clusters: Pair, process: str) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    os.kill(two.find(process), signal.SIGSTOP)
    one.sql("INSERT INTO t VALUES (1)", sync="local")
    if process == "walreceiver":
        until(lambda: (seen := two.facts().receiver) is not None and seen.message_age > 4.5, 10.0)
    two.database.mend(Remedy.WAKE)
    until(lambda: two.sql("SELECT count(*)::text FROM t") == "1", 10.0)
    until(lambda: streams(clusters), 10.0)


def test_a_stopped_walsender_is_seen_and_woken_and_the_slot_is_free_again(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    os.kill(one.find("walsender"), signal.SIGSTOP)
    os.kill(two.find("walreceiver"), signal.SIGKILL)
    care = Care(two.name, 0)
    want = Want(1, Phase.ACTIVE, Epoch(1, one.name), Postgres.PRIMARY, Names.RELAXED)
    until(lambda: Remedy.WAKE in care.look(want, -1, one.facts(), time.monotonic()).remedies, 15.0)
    assert one.facts().slots[0].active and one.database.mend(Remedy.WAKE) == ""
    until(lambda: Remedy.WAKE not in care.look(want, -1, one.facts(), time.monotonic()).remedies, 10.0)
    until(lambda: not one.facts().slots[0].active or streams(clusters), 10.0)


def test_a_long_query_holds_replay_up_for_no_more_than_seconds(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    one.sql("INSERT INTO t VALUES (1)")
    reader = two.session()
    until(lambda: reader.one("SELECT count(*)::text FROM t", 5.0) == "1", 5.0)
    reader.rows("BEGIN ISOLATION LEVEL REPEATABLE READ", 5.0)
    reader.rows("SELECT * FROM t", 5.0)
    one.sql("TRUNCATE t; INSERT INTO t VALUES (2)")
    until(lambda: (seen := two.facts().vitals) is not None and seen.replay_waits.startswith("Lock"), 5.0)
    assert "since" in (two.facts().vitals or pytest.fail("none")).oldest
    until(lambda: two.sql("SELECT max(id)::text FROM t") == "2", 12.0)
    reader.close()


def test_a_postgres_started_by_hand_is_seen_and_ended(clusters: Pair) -> None:
    one = clusters.active()
    argv = [str(BIN / "pg_ctl"), "-D", str(one.config.data_dir), "-m", "fast", "-w"]
    subprocess.run(["runuser", "-u", "postgres", "--", *argv, "stop"], check=True, capture_output=True)
    until(lambda: one.facts().state == "stopped", 5.0)
    options = f"-p {one.config.port} -k {one.config.socket_dir}"
    subprocess.run(
        ["runuser", "-u", "postgres", "--", *argv, "-o", options, "-l", "/dev/null", "start"], check=True, capture_output=True
    )
    assert one.facts().foreign == one.postmaster()
    assert "by hand" in one.database.mend(Remedy.END_FOREIGN)
    assert one.facts().foreign == 0
    one.database.make_primary(1)
    assert one.sql("SELECT pg_is_in_recovery()::text") == "false" and one.facts().foreign == 0
    assert one.database.mend(Remedy.END_FOREIGN) == "", "ours is left alone"
    assert keeper.living(one.config.run_dir) == (postmaster.postmaster_of(one.config.data_dir) or pytest.fail("none")).parent


@pytest.mark.parametrize("damage", ["control", "filenodes", "version", "permissions"])
def test_damaged_data_is_told_in_postgres_own_words_and_copied_afresh(clusters: Pair, damage: str) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    two.crash()
    spoil(two, damage)
    two.up()
    with pytest.raises(HaError) as told:
        two.database.make_standby(one.upstream(1))
    if damage != "version":
        assert isinstance(told.value, DidNotStart) and told.value.last_words, told.value
        assert any(said in told.value.last_words for said in ("FATAL", "could not open file")), told.value
    two.database.make_stopped(immediate=True)
    identity = one.database.identity()
    verdict = two.database.judge(identity)
    if damage in ("control", "version"):
        assert verdict.damaged and verdict.way is Way.COPY
    damaged = replace(verdict, way=Way.COPY, damaged=True, because="damaged")
    two.database.rejoin(damaged, one.upstream(1), identity, lambda _: True, 60.0)
    follow(two, one, 1)
    assert list(two.config.data_dir.parent.glob("data.diverged-*")), "the damaged one is kept"


def spoil(node: Node, damage: str) -> None:
    data = node.config.data_dir
    match damage:
        case "control":
            (data / "global" / "pg_control").write_bytes(os.urandom(8192))
        case "filenodes":
            (data / "global" / "pg_filenode.map").unlink()
        case "version":
            (data / "PG_VERSION").unlink()
        case "permissions":
            shutil.chown(data, "root", "root")


def test_what_is_installed_is_seen(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    others = "SELECT name FROM pg_available_extensions WHERE name <> 'plpgsql' ORDER BY name = 'hstore' DESC LIMIT 1"
    name = one.sql(others) or "plpgsql"  # not every build of Postgres brings others
    one.sql(f"CREATE EXTENSION IF NOT EXISTS {name}")
    assert one.database.inventory().loose == ""
    one.sql("CREATE ROLE batch; ALTER ROLE batch SET synchronous_commit = 'local'")
    one.sql("ALTER DATABASE postgres SET synchronous_commit = 'off'")
    one.sql("ALTER ROLE batch IN DATABASE postgres SET synchronous_commit = off")
    mine = one.database.inventory()
    assert "role batch in database postgres, role batch, database postgres don't wait" in mine.loose
    assert any(each.startswith(f"{name} ") for each in mine.used) and "plpgsql" in mine.available
    until(lambda: two.database.inventory().used == mine.used, 5.0)
    assert mine.as_json() == two.database.inventory().as_json() | {"node": mine.node}


def test_a_database_whose_removal_broke_off_keeps_nothing_of_the_others_from_being_seen(clusters: Pair) -> None:
    """Postgres lets nobody connect to it any more; it stays until it is dropped again."""
    one = clusters.active()
    one.sql("CREATE DATABASE broken")
    one.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'")
    assert any(each.startswith("plpgsql ") for each in one.database.inventory().used)


def test_a_walsender_that_hangs_gives_the_slot_of_a_copy_back(clusters: Pair) -> None:
    """It can't end by itself, and no other copy begins while it holds the slot."""
    one = clusters.active()
    words = f"host={one.config.socket_dir} port={one.config.port} application_name=ha_copy_{one.peer}"
    slot, target = slot_name(one.peer), one.root / "copy"
    target.mkdir()
    shutil.chown(target, "postgres", "postgres")
    argv = [BIN / "pg_basebackup", "-d", words, "-D", target, "-X", "stream", "-S", slot, "-c", "fast", "--max-rate=100k"]
    copy = subprocess.Popen(["runuser", "-u", "postgres", "--", *argv], start_new_session=True)
    try:
        until(lambda: any(row.state == "streaming" for row in one.facts().standbys), 10.0)
        sender = int(one.sql("SELECT pid::text FROM pg_stat_replication WHERE state = 'streaming'"))
        os.kill(sender, signal.SIGSTOP)
    finally:
        os.killpg(copy.pid, signal.SIGKILL)
        copy.wait()
    held = "SELECT active::text FROM pg_replication_slots"
    time.sleep(1.0)
    assert one.sql(held) == "true"
    seen = one.facts()
    late = replace(seen, standbys=tuple(replace(row, reply_age=30.0) for row in seen.standbys))
    want = Want(1, Phase.ACTIVE, Epoch(1, one.name), Postgres.PRIMARY)
    assert Remedy.WAKE in Care(one.peer, 0).look(want, -1, late, 100.0).remedies
    one.database.mend(Remedy.WAKE)
    until(lambda: one.sql(held) == "false", 10.0)


@contextlib.contextmanager
def on_a_disk_of_its_own(node: Node) -> Iterator[Path]:
    """Its tables on a file system that can be frozen."""
    base, image, place = node.config.data_dir / "base", node.root / "image", node.root / "disk"
    place.mkdir()
    for line in (
        ["truncate", "-s", "300M", image], ["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, place],
        ["mv", base, place / "base"], ["ln", "-s", place / "base", base], ["chown", "postgres:", place],
    ):  # fmt: skip
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", place], stderr=subprocess.DEVNULL)
        node.database.make_stopped(immediate=True)
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices")
def test_a_disk_of_the_database_that_hangs_is_noticed_though_the_log_is_written(clusters: Pair) -> None:
    one = clusters.one
    one.initdb()
    with on_a_disk_of_its_own(one) as disk:
        one.up()
        one.database.make_primary(1)
        one.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS id")
        client = one.session()
        client.rows(
            "INSERT INTO t SELECT generate_series(1, 10000)", 5.0
        )  # where it is frozen nothing can be opened, where it hangs it can
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        client.send("INSERT INTO t SELECT generate_series(1, 100000)")
        until(lambda: one.facts().unread > 1.0, 10.0, every=0.1)
        assert one.sql("SELECT pg_logical_emit_message(true, 'test', 'the log is written')") != ""
        seen = one.facts()
        assert seen.answers and seen.unwritten == 0.0 and not client.done(0.0)
        subprocess.run(["fsfreeze", "-u", disk], check=True)
        until(lambda: client.done(0.1), 10.0)
        client.close()
        until(lambda: one.facts().unread == 0.0, 5.0)
