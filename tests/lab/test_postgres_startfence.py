"""The start fence with a real Postgres: whoever starts one by hand, whenever the keeper's died, it takes no writes.

Promise of these tests: looked at from outside, as somebody who starts it would: with the administrator's own files, which know
nothing of ha_manager. The versions are those of HA_TEST_POSTGRES and of ``test_postgres_versions``.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from postgres_pair import BIN, Node, Pair, follow, keep_going, pair, until

from ha_manager import keeper, mending, startfence
from runtime.errors import HaError

pytestmark = pytest.mark.lab


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture
def one(clusters: Pair) -> Node:
    return clusters.active()


@contextlib.contextmanager
def started_by_hand(node: Node) -> Iterator[subprocess.Popen[str]]:
    """As ``pg_ctl start`` would."""
    argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", str(BIN / "postgres"),
            "-D", str(node.config.data_dir), "-p", str(node.config.port)]  # fmt: skip
    child = subprocess.Popen(
        argv, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def takes_writes(node: Node, child: subprocess.Popen[str], number: int) -> bool:
    """Within two seconds; one that ends instead takes none."""
    end = time.monotonic() + 2.0
    while time.monotonic() < end and child.poll() is None:
        try:
            node.sql(f"INSERT INTO t VALUES ({number})", limit=0.5)
        except HaError as wrong:
            if "read-only transaction" in str(wrong):
                return False
            time.sleep(0.02)
        else:
            return True
    assert child.poll() is not None, "neither up nor ended"
    return False


def power_off(node: Node) -> None:
    """Nobody is left to raise a fence that was not up. Lock files go: here their numbers may live on as zombies."""
    os.kill(keeper.living(node.config.run_dir), signal.SIGKILL)
    node.database.kill()
    for lock in (node.config.data_dir / "postmaster.pid", *node.config.socket_dir.glob(".s.PGSQL.*.lock")):
        lock.unlink(missing_ok=True)


def back(node: Node, epoch: int = 1) -> None:
    node.database.attach()
    node.database.renew(1.0)
    node.database.make_primary(epoch)
    node.database.settle_primary(epoch)


def test_a_primary_leaves_nothing_that_could_be_opened_as_one(one: Node) -> None:
    one.sql("INSERT INTO t VALUES (1)")
    power_off(one)
    with started_by_hand(one) as child:
        assert not takes_writes(one, child, 2)
        until(lambda: child.poll() is None and one.sql("SELECT count(*)::text FROM t") == "1", 5.0, "readable")
        one.database.attach()
        one.database.renew(1.0)
        assert one.database.make_primary(1) == 3
        assert child.wait(5) != 0, "ended, and the keeper's runs"
    assert mending.FOREIGN in one.notes
    assert one.sql("INSERT INTO t VALUES (3) RETURNING id::text") == "3" and one.sql("SELECT count(*)::text FROM t") == "2"


def test_without_the_fence_it_would_be_one(one: Node) -> None:
    """So that the others can fail."""
    power_off(one)
    startfence.down(one.config.data_dir)
    with started_by_hand(one) as child:
        assert takes_writes(one, child, 2)


def test_whenever_a_promotion_is_cut_short_nobody_else_opens_it(one: Node) -> None:
    """All of it killed some milliseconds after the promotion began, ha_manager's part included; twelve moments."""
    for number in range(12):
        one.database.make_stopped(immediate=True)
        one.database.attach()
        one.database.renew(1.0)
        one.database.make_standby(None)
        startfence.bar(one.config.data_dir)
        one.sql("SELECT pg_promote(false)")
        time.sleep(random.uniform(0.0, 0.15))
        power_off(one)
        with started_by_hand(one) as child:
            assert not takes_writes(one, child, 100 + number), f"round {number}"
        back(one)


def test_a_backend_that_crashes_is_survived_and_the_fence_is_up_again(one: Node) -> None:
    """Postgres starts anew below the same postmaster, and finds the fence: a standby, which is promoted, if still wanted."""
    victim = one.session()
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: one.facts().answers and one.facts().in_recovery, 10.0, "in recovery")
    with pytest.raises(HaError, match="not wanted"):
        one.database.make_primary(1, hold=True, sure=_not_wanted)
    assert one.facts().in_recovery
    assert one.database.make_primary(1, hold=True) == 3
    one.database.set_names_relaxed()
    one.database.settle_primary(1)
    one.sql("INSERT INTO t VALUES (1)")
    assert startfence.is_up(one.config.data_dir) and one.config.data_dir.stat().st_mode & 0o777 == 0o700


def _not_wanted() -> None:
    raise HaError("not wanted any more")


def test_the_keeper_raises_it_where_ha_manager_could_not(one: Node) -> None:
    (one.config.data_dir / "standby.signal").unlink()
    os.kill(one.postmaster(), signal.SIGKILL)
    until(lambda: one.facts().state == "stopped", 5.0)
    assert startfence.is_up(one.config.data_dir)


def test_a_copy_is_fenced_before_it_is_started(clusters: Pair) -> None:
    one, two = clusters.active(), clusters.two
    two.empty()
    two.up()
    identity = one.database.identity()
    two.database.rejoin(two.database.judge(identity), one.upstream(1), identity, keep_going, 60.0)
    with started_by_hand(two) as child:
        assert not takes_writes(two, child, 1)
    follow(two, one, 1)


def test_ours_comes_up_however_often_somebody_starts_theirs(one: Node) -> None:
    """Theirs is started again and again, and loses or wins the race for the lock."""
    script = f"while :; do {BIN}/postgres -D {one.config.data_dir} -p {one.config.port} 2>/dev/null; done"
    argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-c", script]
    acknowledged: list[int] = []
    ended = threading.Event()

    def write() -> None:
        number = 1000
        while not ended.is_set():
            number += 1
            with contextlib.suppress(HaError):
                one.sql(f"INSERT INTO t VALUES ({number})", limit=0.5)
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    hand = subprocess.Popen(argv, cwd="/", stdout=subprocess.DEVNULL, start_new_session=True)
    writer.start()
    try:
        for _ in range(5):
            os.kill(one.postmaster(), signal.SIGKILL)
            until(lambda: _primary(one), 20.0, "ours")
    finally:
        os.killpg(hand.pid, signal.SIGKILL)
        hand.wait()
        ended.set()
        writer.join()
    until(lambda: _primary(one), 20.0, "ours, alone")
    kept = one.sql("SELECT count(*)::text FROM t WHERE id > 1000")
    assert int(kept) >= len(acknowledged) > 0


def _primary(node: Node) -> bool:
    try:
        node.database.make_primary(1)
        return node.facts().answers and node.facts().foreign == 0
    except HaError:
        return False
