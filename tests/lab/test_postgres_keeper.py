"""The keeper with a real Postgres: whatever is killed, stopped or gone, it never runs on unattended (design §4 rule 5)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_pair import BIN, Node, Pair, pair, until

from ha_manager import keeper, postmaster
from ha_manager.sql import Session
from runtime import commands
from runtime.errors import ConfigError, HaError, Refused
from runtime.proctree import process

pytestmark = pytest.mark.lab


@pytest.fixture
def one() -> Iterator[Node]:
    with pair() as made:
        yield made.active()


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


def keeper_of(node: Node) -> int:
    pid = keeper.living(node.config.run_dir)
    assert pid
    return pid


def gone(node: Node, limit: float) -> float:
    began = time.monotonic()
    until(lambda: not node.processes(), limit, "no process of Postgres is left")
    return time.monotonic() - began


def busy(node: Node) -> Session:
    """A backend that never waits for its client: it commits on and on by itself."""
    session = node.session()
    session.rows("CREATE TABLE IF NOT EXISTS tick (n int)", 2.0)
    session.send("DO $$ BEGIN LOOP INSERT INTO tick VALUES (1); COMMIT; END LOOP; END $$")
    time.sleep(0.1)
    return session


def test_postgres_dies_with_its_keeper_and_starts_again(one: Node) -> None:
    one.sql("INSERT INTO t VALUES (1)")
    # on time itself, while Postgres is an ordinary process
    assert os.sched_getscheduler(keeper_of(one)) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert {os.sched_getscheduler(each.pid) for each in postmaster.processes_of(one.config.data_dir)} == {os.SCHED_OTHER}
    idle = one.session()
    assert one.lease is not None
    one.lease.lapse()
    one.database.renew(20.0)  # the next renewal may be a while away: a new keeper knows of this one
    os.kill(keeper_of(one), signal.SIGKILL)
    print(f"gone {gone(one, 2.0) * 1000:.0f} ms after its keeper")
    idle.close()
    one.database.attach()
    one.database.make_primary(1)
    assert one.sql("SELECT count(*)::text FROM t") == "1"


def _renewed(node: Node) -> bool:
    try:
        node.database.renew(1.0)
    except HaError:
        return False
    return True


def test_a_frozen_backend_that_survived_the_keeper_is_swept_by_the_next_one(one: Node) -> None:
    session = busy(one)
    os.kill(session.pid, signal.SIGSTOP)
    os.kill(keeper_of(one), signal.SIGKILL)
    until(lambda: len(one.processes()) == 1, 5.0, "the frozen backend is what must be left")
    time.sleep(0.2)
    assert len(one.processes()) == 1
    one.database.attach()
    assert one.processes() == []
    session.close()


def test_the_lease_lapses(one: Node) -> None:
    assert one.lease is not None
    one.lease.lapse()
    one.database.renew(0.5)
    took = gone(one, 3.0)
    print(f"gone {took * 1000:.0f} ms after the last renewal of 500 ms")
    assert 0.3 < took < 1.2
    until(lambda: one.facts().state == "stopped", what="the keeper to have seen it as well")
    seen = one.facts()
    assert seen.state == "stopped" and "lease lapsed" in seen.because + str(one.database._watch.status(1.0)["because"])
    with pytest.raises(Refused, match="lease on Postgres has lapsed"):
        one.database.make_primary(1)


@pytest.mark.parametrize("frozen", ["postmaster", "checkpointer", "backend", "all"])
def test_frozen_processes_end_too_when_the_lease_lapses(one: Node, frozen: str) -> None:
    assert one.lease is not None
    session = busy(one)
    pids = {
        "postmaster": [one.postmaster()],
        "checkpointer": [one.find("checkpointer")],
        "backend": [session.pid],
        "all": [each.pid for each in postmaster.processes_of(one.config.data_dir)],
    }[frozen]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    one.lease.lapse()
    one.database.renew(0.3)
    assert gone(one, 3.0) < 1.5
    session.close()


@pytest.mark.parametrize("frozen", ["", "postmaster", "checkpointer"])
def test_a_fast_stop_ends_in_time(one: Node, frozen: str) -> None:
    busy(one)
    if frozen:
        os.kill(one.postmaster() if frozen == "postmaster" else one.find(frozen), signal.SIGSTOP)
    stopped = one.database.make_stopped(immediate=False, limit=6.0)
    print(f"fast stop: {stopped.seconds * 1000:.0f} ms, clean {stopped.clean}")
    assert one.processes() == []
    # Woken, they end as they should.
    assert stopped.clean and stopped.shutdown_lsn > 0
    assert one.database.make_stopped(immediate=False) == stopped.__class__(
        True, stopped.shutdown_lsn, pytest.approx(0, abs=0.5)
    )


@pytest.mark.parametrize("command", ["false", "sleep 1000"])
def test_a_fast_stop_waits_for_no_archive_for_long(one: Node, command: str) -> None:
    """Of Postgres's own, it takes as long as the command does: clients of a planned failover would wait for a dead archive."""
    one.database.make_stopped(immediate=False)
    with open(one.config.config_file, "a") as conf:
        conf.write(f"archive_mode = on\narchive_command = '{command}'\n")
    one.database.make_primary(2)
    one.sql("INSERT INTO t VALUES (1)")
    one.sql("SELECT pg_switch_wal()")
    until(lambda: one.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'") == "1")
    stopped = one.database.make_stopped(immediate=False)
    print(f"fast stop: {stopped.seconds:.1f} s, clean {stopped.clean}")
    assert stopped.clean and stopped.shutdown_lsn > 0
    assert stopped.seconds < keeper.ARCHIVING + 1.5
    assert list((one.config.data_dir / "pg_wal" / "archive_status").glob("*.ready"))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_immediate_stop(one: Node, frozen: bool) -> None:
    session = busy(one)
    if frozen:
        os.kill(session.pid, signal.SIGSTOP)
        os.kill(one.postmaster(), signal.SIGSTOP)
    stopped = one.database.make_stopped(immediate=True)
    print(f"immediate stop: {stopped.seconds * 1000:.0f} ms")
    assert stopped.seconds < 1.0
    assert not stopped.clean and stopped.shutdown_lsn == -1
    assert one.processes() == []
    one.database.make_primary(1)


def test_a_restarted_ha_manager_finds_the_running_postgres(one: Node) -> None:
    before = one.postmaster()
    one.database.release()
    again = one.new_database()
    again.configure()
    assert again.attach() == "running"
    assert again.make_primary(1) == 2
    assert one.postmaster() == before
    again.release()


def test_a_hung_keeper_is_replaced(one: Node) -> None:
    old = keeper_of(one)
    os.kill(old, signal.SIGSTOP)
    assert one.database.attach() == "stopped"
    assert keeper_of(one) != old
    assert one.processes() == []
    until(lambda: _renewed(one), 2.0)
    one.database.make_primary(1)


def test_a_paused_keeper_believes_only_leases_that_are_still_good(one: Node) -> None:
    assert one.lease is not None
    one.lease.lapse()
    one.database.renew(0.4)
    pid = keeper_of(one)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(HaError):
        one.database.renew(0.4, 0.05)
    time.sleep(0.8)
    os.kill(pid, signal.SIGCONT)
    assert gone(one, 2.0) < 1.0


@pytest.mark.parametrize("whom", ["postmaster", "everybody"])
def test_a_stopped_server_does_not_hang_who_looks(one: Node, whom: str) -> None:
    assert one.facts().answers
    pids = [each.pid for each in postmaster.processes_of(one.config.data_dir)]
    stopped = [one.postmaster()] if whom == "postmaster" else pids
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(found is None or found.state == "T" for found in map(process, stopped)), 5.0, "stopped")
    began = time.monotonic()
    seen = one.facts()
    assert time.monotonic() - began < 5
    assert not seen.answers and seen.because
    print(f"{whom}: {seen.because}")
    with pytest.raises(HaError):
        one.database.set_names_relaxed(0.3)
    for pid in pids:
        postmaster.send(pid, signal.SIGCONT)
    until(lambda: one.facts().answers, 3.0)


def test_one_stopped_backend_does_not_make_postgres_look_ill(one: Node) -> None:
    assert one.facts().answers
    backends = [
        each.pid for each in postmaster.processes_of(one.config.data_dir) if "[local] idle" in postmaster.title(each.pid)
    ]
    assert backends, "the look has no connection of its own"
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    assert one.facts().answers
    for pid in backends:
        os.kill(pid, signal.SIGCONT)


def test_the_keeper_notes_whom_to_kill(one: Node) -> None:
    note = keeper.read_note(one.config.run_dir)
    found = process(note["postmaster"])
    assert found is not None and found.start == note["postmaster_start"] and found.parent == note["keeper"]
    assert note["data_dir"] == str(one.config.data_dir)


def test_a_postgres_of_somebody_else_is_stopped_by_configure_and_refused_by_the_keeper(clusters: Pair) -> None:
    one = clusters.one
    one.initdb()
    one.config.log_file.parent.mkdir()
    one.config.socket_dir.mkdir()
    for folder in (one.config.log_file.parent, one.config.socket_dir):
        folder.chmod(0o777)
    start = [str(BIN / "pg_ctl"), "-D", str(one.config.data_dir), "-w", "-l", str(one.config.log_file), "-o",
             f"-p {one.config.port}", "start"]  # fmt: skip
    commands.run(start, timeout=20, user="postgres", cwd="/")
    one.database.attach()
    one.database._write_files()
    one.database.renew(5.0)
    with pytest.raises(Refused, match="another Postgres runs"):
        one.database._orders.start(1.0)
    assert one.processes(), "refused, not killed"
    one.database.configure()
    assert one.processes() == []
    assert any("stopped the Postgres that ran here" in note for note in one.notes)
    assert one.database.make_primary(1) == 2


def test_settings_by_alter_system_that_override_ours_are_an_error(one: Node) -> None:
    one.sql("ALTER SYSTEM SET synchronous_standby_names = 'x'")
    with pytest.raises(ConfigError) as wrong:
        one.database.check()
    assert wrong.value.line and "postgresql.auto.conf" in str(wrong.value) and "ALTER SYSTEM RESET" in str(wrong.value)


def test_turned_off_it_is_a_plain_postgres_again(one: Node) -> None:
    one.sql("INSERT INTO t VALUES (1)")
    with open(one.config.config_file, "a") as conf:
        conf.write(f"port = {one.config.port}\n")
    assert one.database.unconfigure(start=True, writable=True)
    assert not keeper.living(one.config.run_dir)
    left = {path.name for path in one.config.state_dir.iterdir()}
    assert left <= {"lineage"}
    try:
        assert one.sql("SELECT pg_is_in_recovery()::text || (SELECT count(*) FROM pg_replication_slots)") == "false0"
        assert one.sql("SHOW synchronous_standby_names") == ""
    finally:
        commands.run(
            [str(BIN / "pg_ctl"), "-D", str(one.config.data_dir), "-m", "fast", "stop"], timeout=20, user="postgres", cwd="/"
        )


def test_a_stale_pid_file_with_a_living_number_does_not_stop_a_start(one: Node) -> None:
    one.database.make_stopped(immediate=True)
    child = os.spawnlp(os.P_NOWAIT, "setpriv", "setpriv", "--reuid=postgres", "--clear-groups", "sleep", "30")
    try:
        time.sleep(0.1)
        Path(one.config.data_dir / "postmaster.pid").write_text(f"{child}\n{one.config.data_dir}\n0\n{one.config.port}\n\n\n\n")
        one.database.make_primary(1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("left", ["", "\0" * 64, "another Postgres's"], ids=["empty", "zeros", "another Postgres's"])
def test_a_pid_file_that_a_power_cut_left_does_not_stop_a_start(clusters: Pair, left: str) -> None:
    """It may have reached the disk without its content; and after a boot another cluster may have got its number."""
    one, another = clusters.active(), clusters.two
    one.database.make_stopped(immediate=True)
    if left.startswith("another"):
        another.initdb()
        another.up()
        another.database.make_primary(1)
        left = f"{another.postmaster()}\n{one.config.data_dir}\n0\n{one.config.port}\n\n\n\n"
    Path(one.config.data_dir / "postmaster.pid").write_text(left)
    one.database.make_primary(1, 10.0)
    assert one.sql("SELECT count(*)::text FROM t") == "0"
