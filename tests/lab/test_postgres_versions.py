"""The pair's life on every major version of Postgres that can be had: copied, in sync, power cut, rewound, handed over, HA off.

Source: issue "Postgres: no acknowledged write lost", Configuration ("Postgres 13 to the newest …"). The other tests of
Postgres run on Debian's version, or on one of these with ``HA_TEST_POSTGRES=18``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from postgres_pair import Node, Pair, Writer, follow, pair, until

from ha_manager import divergence, receiving
from ha_manager.observation import lsn
from lab import postgres
from runtime.errors import HaError

pytestmark = pytest.mark.lab


@pytest.fixture(params=postgres.majors()[1:])
def clusters(request: pytest.FixtureRequest) -> Iterator[Pair]:
    try:
        postgres.provide(request.param)
    except HaError as absent:
        pytest.skip(str(absent))
    with pair(request.param) as made:
        yield made


#: What makes sessions short, strict, or speak and write otherwise; by version
DEFAULTS = {
    13: "statement_timeout = 20\nidle_in_transaction_session_timeout = 20\ndefault_transaction_isolation = serializable\n"
    "timezone = 'Asia/Kathmandu'\ndatestyle = 'German, DMY'\nintervalstyle = iso_8601\nbytea_output = escape\n"
    "standard_conforming_strings = off\nbackslash_quote = off\n",
    14: "idle_session_timeout = 20\n",
    17: "transaction_timeout = 250\n",
}


def strict(node: Node) -> None:
    """An administrator's defaults for all sessions, which must not stop ha_manager."""
    text = "".join(each for since, each in DEFAULTS.items() if node.config.version >= since)
    with open(node.config.config_file, "a") as conf:
        conf.write(text)


def rows(node: Node) -> str:
    return node.sql("SELECT count(*)::text FROM t")


def end_of_log(node: Node, position: int) -> int:
    """Where the shutdown checkpoint ends, as pg_waldump sees it: it names start and length of the last record."""
    control = node.database._control()
    assert control is not None
    segments = sorted((node.config.data_dir / "pg_wal").glob("0*"))
    argv = [str(node.config.bin_dir / "pg_waldump"), "-p", str(node.config.data_dir / "pg_wal"), "-t", str(control.timeline)]
    said = subprocess.run(
        [*argv, "-s", f"{control.checkpoint >> 32:X}/{control.checkpoint & 0xFFFFFFFF:X}"], capture_output=True
    )
    found = re.search(rb"len \(rec/tot\): +\d+/ +(\d+),.*lsn: (\S+), .*CHECKPOINT_SHUTDOWN", said.stdout)
    assert found, (said, segments)
    assert lsn(found[2].decode()) == control.checkpoint
    return control.checkpoint + int(found[1])


def test_a_pair_s_life(clusters: Pair) -> None:
    one, two = clusters.one, clusters.two
    clusters.active()
    clusters.join()
    for node in (one, two):
        strict(node)
        node.database._server.reload()
    one.database.set_names_enforced(1)
    for node in (one, two):
        seen, stock = node.facts(), node.database.inventory()
        assert seen.answers and seen.vitals is not None and seen.vitals.role, seen
        assert stock.used.get("plpgsql 1.0") and "plpgsql" in stock.available
    # power cut of the active, with writes that nobody acknowledged
    writer = Writer(one)
    until(lambda: len(writer.acknowledged) > 20)
    two.database.make_detached()
    writer.stop(0.1)
    written = writer.acknowledged[-1]
    one.database.set_names_relaxed()
    for number in (-1, -2, -3):
        one.sql(f"INSERT INTO t VALUES ({number})")
    one.crash()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    assert int(two.sql("SELECT max(id)::text FROM t")) >= written
    # back by rewind, what lay beyond kept and reported
    one.up()
    way, report = follow(one, two, 2)
    assert way == "diverged" and "beyond that" in report
    assert not list(one.root.glob("data.*")), f"rewound in place, nothing copied whole: {one.notes}"
    (kept,) = divergence.listed(one.config.diverged_dir, one.config.data_dir)
    assert kept.tables and all(count["inserted"] >= 3 for count in kept.tables.values())
    two.database.set_names_enforced(2)
    two.sql("INSERT INTO t VALUES (-4)")
    until(lambda: rows(one) == rows(two), 5.0, "replayed")
    # planned failover and back
    two.database.prepare()
    stopped = two.database.make_stopped(immediate=False)
    assert stopped.clean and 0 <= stopped.shutdown_lsn - end_of_log(two, stopped.shutdown_lsn) < 64
    assert one.database.make_detached() >= stopped.shutdown_lsn
    one.database.make_primary(3)
    one.database.settle_primary(3)
    assert follow(two, one, 3) == ("start", "")
    one.database.set_names_enforced(3)
    one.sql("INSERT INTO t VALUES (-5)")
    told, asked = one.database.identity(), receiving.ask_identity(two.database._server, two.name, one.upstream(3), 3.0)
    assert (asked.system_identifier, asked.timeline, asked.history) == (told.system_identifier, told.timeline, told.history)
    assert asked.lineage == told.lineage and asked.lineage
    # what is damaged is never believed
    control = two.config.data_dir / "global" / "pg_control"
    two.database.make_stopped(immediate=False)
    whole = control.read_bytes()
    control.write_bytes(whole[:100] + os.urandom(8) + whole[108:])
    assert two.database._control() is None
    control.write_bytes(whole)
    assert two.database._control() is not None
    # HA off
    one.database.unconfigure(start=True, writable=True)
    two.database.unconfigure(start=False)
    assert two.processes() == []
