"""Two real Postgres: who acknowledges what, and the proofs of it (design §4 rules 2, 6, 7; facts/postgres.md)."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_pair import Node, Pair, Writer, make_ahead, pair, until

from ha_manager.observation import standby_name
from runtime.errors import ReplicationError

pytestmark = pytest.mark.lab


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


def hangs(node: Node, number: int, limit: float = 0.3) -> bool:
    """Does an insert get no acknowledgement?"""
    session = node.session()
    try:
        session.send(f"INSERT INTO t VALUES ({number})")
        return not session.done(limit)
    finally:
        session.close()


def test_an_enforced_commit_is_on_the_standby_before_it_is_acknowledged(clusters: Pair) -> None:
    proven = clusters.synchronous()
    one, two = clusters.one, clusters.two
    seen = two.facts()
    assert (seen.in_recovery, seen.following, seen.answers) == (True, 1, True)
    assert seen.lsn >= proven
    os.kill(two.find("startup"), signal.SIGSTOP)
    writer = Writer(one)
    time.sleep(0.5)
    writer.stop()
    flushed = two.database.make_detached()
    assert len(writer.acknowledged) > 10
    row = one.facts().standby(standby_name(two.name, 1))
    assert row is None or flushed >= row.flushed
    os.kill(two.find("startup"), signal.SIGCONT)
    two.database.make_primary(2)
    assert two.sql("SELECT max(id)::text FROM t") == str(writer.acknowledged[-1])


def test_detaching_fences_the_active(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    flushed = two.database.make_detached()
    assert hangs(one, 1, 1.0)
    assert two.facts().receiver is None
    assert two.database.make_detached() == flushed, "something was received afterwards"
    waits = one.facts()
    assert waits.waiting == 1


@pytest.mark.parametrize("frozen", ["walreceiver", "startup"])
def test_a_hung_process_does_not_keep_the_standby_attached(clusters: Pair, frozen: str) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    os.kill(two.find(frozen), signal.SIGSTOP)
    began = time.monotonic()
    two.database.make_detached(5.0)
    assert time.monotonic() - began < 8
    assert hangs(one, 1)
    if frozen == "startup":
        os.kill(two.find("startup"), signal.SIGCONT)
        time.sleep(0.5)
        assert hangs(one, 2), "the startup process brought a walreceiver back"
    two.database.make_primary(2)


def test_relaxing_releases_waiting_commits(clusters: Pair) -> None:
    clusters.synchronous()
    clusters.two.crash()
    session = clusters.one.session()
    session.send("INSERT INTO t VALUES (1)")
    assert not session.done(0.3)
    began = time.monotonic()
    clusters.one.database.set_names_relaxed()
    assert time.monotonic() - began < 5
    assert session.done(0.2)
    assert clusters.one.facts().waiting == 0


def test_nothing_is_proven_before_the_checkpointer_has_applied_the_names(clusters: Pair) -> None:
    """What pg_stat_replication says is no proof: ``sync`` while commits are acknowledged without the standby."""
    clusters.active()
    clusters.join()
    one, two = clusters.one, clusters.two
    checkpointer = one.find("checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)
    name = standby_name(two.name, 1)
    with pytest.raises(ReplicationError, match="checkpointer has not applied the names"):
        one.database.set_names_enforced(1, 0.6)
    os.kill(checkpointer, signal.SIGSTOP)
    one.database._server.change(names=f'"{name}"')
    until(lambda: (row := one.facts().standby(name)) is not None and row.sync_state == "sync", 2.0)
    os.kill(two.find("walreceiver"), signal.SIGSTOP)
    assert not hangs(one, 1), "this Postgres needs no proof: the test has lost its reason"
    os.kill(checkpointer, signal.SIGCONT)
    until(lambda: hangs(one, 2, 0.1), 2.0)


def test_relaxing_wakes_a_stopped_checkpointer(clusters: Pair) -> None:
    clusters.synchronous()
    one = clusters.one
    clusters.two.database.make_detached()
    session = one.session()
    session.send("INSERT INTO t VALUES (1)")
    assert not session.done(0.2)
    os.kill(one.find("checkpointer"), signal.SIGSTOP)
    one.database.set_names_relaxed()
    assert session.done(0.2)


def test_a_failed_proof_wakes_a_stopped_checkpointer(clusters: Pair) -> None:
    """Also where the names stay, left by a proof that was interrupted: nothing that waits shows that they don't count yet."""
    clusters.active()
    clusters.join()
    one = clusters.one
    os.kill(one.find("checkpointer"), signal.SIGSTOP)
    one.database._server.change(names=f'"{standby_name(clusters.two.name, 1)}"')
    with pytest.raises(ReplicationError, match="checkpointer has not applied the names"):
        one.database.set_names_enforced(1, 0.6)
    assert one.database.set_names_enforced(1, 5.0) > 0
    os.kill(one.find("checkpointer"), signal.SIGSTOP)
    one.database.prepare(5.0)


def test_a_standby_that_vanishes_during_the_proof_leaves_nobody_waiting(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    os.kill(clusters.two.find("walreceiver"), signal.SIGSTOP)
    with pytest.raises(ReplicationError, match="can't be proven in sync"):
        clusters.one.database.set_names_enforced(1, 0.5)
    assert clusters.one.facts().names == ""
    assert not hangs(clusters.one, 1)


def test_an_immediate_stop_does_not_wait_for_a_proof(clusters: Pair) -> None:
    """An isolated active has a deadtime to be gone. What acknowledged nothing is not called waited for afterwards."""
    clusters.active()
    clusters.join()
    one = clusters.one
    os.kill(one.find("checkpointer"), signal.SIGSTOP)  # nothing will be proven
    failed: list[str] = []

    def prove() -> None:
        try:
            one.database.set_names_enforced(1, 30.0)
        except ReplicationError as wrong:
            failed.append(str(wrong))

    proving = threading.Thread(target=prove)
    proving.start()
    until(lambda: "ha_proof_1" in one.database._server.dynamic().names, 2.0)
    one.database.stop_ahead()
    until(lambda: one.processes() == [], 5.0)
    proving.join(5.0)
    assert not proving.is_alive() and failed
    assert not one.database.make_stopped(immediate=True).clean
    assert one.database._server.dynamic().names == "", "commits did not wait yet"


@pytest.mark.parametrize("left", ["ha_vs-28_1", "ha_proof_1"])
def test_a_failed_second_proof_never_relaxes_what_was_enforced(clusters: Pair, left: str) -> None:
    """Whoever crashed in the middle of a proof may have been in sync before it: the peer could be about to take over."""
    clusters.synchronous()
    one = clusters.one
    one.database._server.change(names=f'"{left}"')
    os.kill(clusters.two.find("walreceiver"), signal.SIGSTOP)
    restarted = one.new_database()
    with pytest.raises(ReplicationError, match="can't be proven"):
        restarted.set_names_enforced(1, 0.5)
    assert hangs(one, 1)
    restarted.set_names_relaxed()
    assert not hangs(one, 2)
    restarted.release()


def test_enforcing_needs_the_standby_of_this_very_epoch(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    with pytest.raises(ReplicationError, match="ha_vs-28_2 does not stream"):
        clusters.one.database.set_names_enforced(2)
    clusters.two.database.make_standby(clusters.one.upstream(2))
    until(lambda: clusters.one.facts().caught_up(standby_name("vs-28", 2)), 5.0)
    clusters.one.database.set_names_enforced(2)


def test_enforcing_and_relaxing_under_load_stall_commits_shortly(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    one = clusters.one
    enforce, relax, stall = [], [], []
    for _ in range(5):
        writer = Writer(one)
        time.sleep(0.2)
        began = time.monotonic()
        one.database.set_names_enforced(1)
        enforce.append(time.monotonic() - began)
        time.sleep(0.2)
        began = time.monotonic()
        one.database.set_names_relaxed()
        relax.append(time.monotonic() - began)
        assert writer.stop() and not writer.error
        stall.append(writer.longest())
    print(f"enforce {ms(enforce)}, relax {ms(relax)}, longest commit meanwhile {ms(stall)}")
    assert statistics.median(stall) < 3


def ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms (up to {max(seconds) * 1000:.0f})"


def test_promotion_keeps_every_acknowledged_write(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    writer = Writer(one)
    time.sleep(0.5)
    times = [time.monotonic()]
    two.database.make_detached()
    times.append(time.monotonic())
    timeline = two.database.make_primary(2)
    two.sql("INSERT INTO t VALUES (-1)")
    times.append(time.monotonic())
    print(f"detach {(times[1] - times[0]) * 1000:.0f} ms, promote to first write {(times[2] - times[1]) * 1000:.0f} ms")
    assert timeline == 3
    two.database.settle_primary(2)
    assert writer.acknowledged
    assert two.sql(f"SELECT count(*)::text FROM t WHERE id BETWEEN 1 AND {writer.acknowledged[-1]}") == str(
        len(writer.acknowledged)
    )
    assert two.facts().slots[0].name == "ha_vs_166"
    one.crash()
    writer.stop()


def test_a_primary_that_died_is_restarted_in_place_with_its_names(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    timeline = one.facts().timeline
    os.kill(one.postmaster(), signal.SIGKILL)
    until(lambda: one.facts().state == "stopped", 5.0)
    assert one.database.make_primary(1, hold=True) == timeline + 1
    assert one.facts().names == f'"{standby_name(two.name, 1)}"'
    until(lambda: two.facts().following == 1, 10.0, every=0.02)
    assert not hangs(one, 1, 2.0)
    os.kill(two.find("walreceiver"), signal.SIGSTOP)
    assert hangs(one, 2), "acknowledged without the standby after a restart in place"


@pytest.mark.parametrize("state", ["running", "stopped", "stopped, a segment made ahead"])
def test_a_new_timeline_of_which_only_a_part_has_come_hides_nothing(clusters: Pair, state: str) -> None:
    """The active restarts in place, which opens a timeline; it dies while the passive fetches that one's first segment."""
    two = clusters.two
    half = half_of_a_new_timeline(clusters, running=state == "running")
    if state.endswith("ahead"):
        make_ahead(two)
    two.database.make_primary(2)
    assert two.sql("SELECT count(*)::text FROM t") == "20000", "acknowledged rows are gone"
    assert not half.exists()
    assert any("had come only in part" in note for note in two.notes)


def test_a_passive_that_is_turned_off_can_be_started_by_hand_though_a_new_timeline_had_begun_to_come(clusters: Pair) -> None:
    half = half_of_a_new_timeline(clusters, running=False)
    clusters.two.database.unconfigure(start=False, writable=False)
    assert not half.exists(), "Postgres would wait for the rest of it, and let nobody in"


def half_of_a_new_timeline(clusters: Pair, running: bool) -> Path:
    """Its first segment, as a passive that holds 20000 rows in t has it; that is ``running`` or stopped."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    one.sql("INSERT INTO t SELECT generate_series(1, 20000)")
    two.database.make_detached()
    os.kill(one.postmaster(), signal.SIGKILL)
    until(lambda: one.facts().state == "stopped", 5.0)
    timeline = one.database.make_primary(1, hold=True)
    one.crash()
    if not running:
        two.database.make_stopped(immediate=True)
    wal, first = two.config.data_dir / "pg_wal", _first_segment(one, timeline)
    for name in (f"{timeline:08X}.history", first):
        content = (one.config.data_dir / "pg_wal" / name).read_bytes()
        (wal / name).write_bytes(content if name.endswith("history") else content[:65536].ljust(len(content), b"\0"))
        shutil.chown(wal / name, "postgres", "postgres")
    return wal / first


def _first_segment(node: Node, timeline: int) -> str:
    names = (path.name for path in (node.config.data_dir / "pg_wal").iterdir())
    return min(name for name in names if name.startswith(f"{timeline:08X}") and len(name) == 24)


def test_another_epoch_always_starts_as_a_standby(clusters: Pair) -> None:
    one = clusters.active()
    timeline = one.facts().timeline
    one.database.make_stopped(immediate=True)
    assert one.database.make_primary(2) == timeline + 1


def test_clients_that_take_every_connection_do_not_lock_ha_manager_out(clusters: Pair) -> None:
    one = clusters.active()
    one.sql("CREATE ROLE app LOGIN")
    from ha_manager.sql import Session, conninfo

    info = conninfo(host=str(one.config.socket_dir), port=one.config.port, user="app", dbname="postgres")
    held: list[Session] = []
    with pytest.raises(ReplicationError, match=r"remaining connection slots|too many clients"):
        for _ in range(200):
            held.append(Session(info, 2.0))
    assert len(held) > 50
    time.sleep(1.1)
    assert one.facts().answers, one.facts().because
    one.database.set_names_relaxed()
    for session in held:
        session.close()


def test_transactions_of_an_epoch_are_counted(clusters: Pair) -> None:
    one = clusters.active()
    one.database.settle_primary(2)
    before = one.facts().beyond
    for number in range(10):
        one.sql(f"INSERT INTO t VALUES ({number})")
    assert one.facts().beyond - before == 10
    assert before < 5


def test_the_password_is_neither_in_arguments_nor_in_logs(clusters: Pair) -> None:
    clusters.active()
    clusters.join()
    for node in (clusters.one, clusters.two):
        log = node.config.log_file.read_text()
        assert "battery" not in log and "SCRAM-SHA-256" not in log
        passfile = node.config.state_dir / "pgpass"
        assert not passfile.exists() or passfile.stat().st_mode & 0o077 == 0
    assert "battery" not in clusters.two.facts().primary_conninfo
