"""Synchronous or not, solo by silence or by release only: switched by SIGHUP on two real servers, and what a crash then loses.

Promise: clients write all the time; while commits wait nothing acknowledged is ever missing (the fixture), and where they
don't, what is missing was announced by the takeover and kept by the server that had it.
Source: issue "Postgres: no acknowledged write lost" ("Modes", "Explain").
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.pair import ACTIVE, MODULE_XML, PASSIVE, SERVERS, Pair, module_xml, other
from bench.record import Kind, acknowledgements
from bench.writers import PLAIN, QUICK, TABLES, local_name
from runtime.clock import boottime
from tests.lab.test_pair_scenarios import eventually

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
OFF = 'synchronous="off" maximum_lag_on_failover="8MB"'
RELEASE = 'solo="release"'


def configure(pair: Pair, node: str, replication: str = "") -> None:
    """module.xml of one server, and SIGHUP to its ha_manager: nothing else."""
    more = f'<timing profile="recommended"/><replication {replication}/>'
    pair.node(node).write(MODULE_XML, module_xml(timing=more if replication else '<timing profile="recommended"/>'))
    pair.node(node).sh("kill -HUP $(cat /run/ha_manager/ha_manager.pid)")


def mode(pair: Pair, node: str) -> str:
    return str(pair.status(node).get("replication", {}).get("mode"))


def shown(pair: Pair, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pair.ha(node, "show", "--json").stdout)
    return found


def alarms(pair: Pair, node: str) -> str:
    return " ".join(shown(pair, node)["alarms"].values())


def sql(pair: Pair, node: str, statement: str) -> str:
    return pair.node(node).sh(f"runuser -u postgres -- psql -XAtc '{statement}' postgres", check=False).strip()


def names(pair: Pair, node: str) -> str:
    return sql(pair, node, "SHOW synchronous_standby_names")


def became(pair: Pair, active: str, wanted: str) -> None:
    eventually(lambda: all(mode(pair, node) == wanted for node in SERVERS), f"both servers are {wanted}")
    eventually(lambda: bool(names(pair, active)) == (wanted == "synchronous"), "so is Postgres")
    assert pair.status(active)["peer_state"]["fit"], "the passive could take over all the time"


def test_switched_by_sighup_while_clients_write(duo: Duo) -> None:
    pair, active = duo.pair, duo.settle()
    passive = other(active)
    beats = duo.processes(passive)["heartbeat"]
    configure(pair, active, OFF)
    eventually(lambda: "the stricter counts" in alarms(pair, active), "an alarm while the two differ")
    assert mode(pair, active) == "synchronous" and names(pair, active)
    configure(pair, passive, OFF)
    became(pair, active, "asynchronous")
    eventually(lambda: "the stricter counts" not in alarms(pair, active), "the alarm is over")
    duo.writers.steady()
    said = pair.ha(active, "explain").stdout
    assert f"{passive} follows asynchronously" in said and f"Commits don't wait for {passive}" in said
    told = shown(pair, active)["replication"]
    assert told["mode"] == "asynchronous" and told["configured"]["maximum_lag"] == 8 * 2**20
    assert told["if_active_died"]["taken_over"] and told["lag_bytes"] < 8 * 2**20
    assert "asynchronous from now on" in pair.ha(active, "history").stdout
    assert "asynchronous from now on" in pair.node(active).log()
    # nothing is lost by a planned failover: the fixture counts
    duo.drill.switchover()
    became(pair, passive, "asynchronous")
    # as the file says after a restart, too (of the passive: a takeover could lose something here)
    pair.node(active).sh("kill -9 $(cat /run/heartbeat/heartbeat.pid) $(cat /run/ha_manager/ha_manager.pid)")
    now = duo.settle()
    became(pair, now, "asynchronous")
    for node in SERVERS:
        configure(pair, node, RELEASE)
    became(pair, now, "synchronous")
    assert "every commit waits for the passive" in pair.ha(now, "history").stdout
    configure(pair, now)
    eventually(lambda: "the stricter counts" in alarms(pair, now), "release on one server only")
    configure(pair, other(now))
    eventually(lambda: "the stricter counts" not in alarms(pair, now), "silence on both")
    assert duo.processes(passive)["heartbeat"] == beats, "nothing was restarted for it"


def acknowledged(duo: Duo, client: str, since: float) -> list[float]:
    return acknowledgements(duo.writers.entries(client), since)


def test_by_release_only_one_server_acknowledges_whatever_is_cut_or_dead(duo: Duo) -> None:
    pair, active = duo.pair, duo.settle()
    heir = other(active)
    for node in SERVERS:
        configure(pair, node, RELEASE)
    eventually(lambda: all(pair.status(node)["replication"]["release_only"] for node in SERVERS), "release on both")
    # nothing passes between the two, and both see the ping node: the case that silence has to guess
    pair.lab.cut(f"{ACTIVE}/{PASSIVE}")
    pair.until(lambda seen: heir in seen.active, 20.0, f"{heir} to take over")
    taken = boottime()
    solo = 2.0 + pair.status(active)["replication"]["solo_after"]
    duo.writers.wait(local_name(heir), lambda entries: acknowledgements(entries)[-1] > taken + solo, 20.0)
    eventually(lambda: f"commits wait for {heir}" in alarms(pair, active), "the old active says that it acknowledges nothing")
    assert not acknowledged(duo, local_name(active), taken) and pair.status(active)["phase"] == "active"
    pair.lab.heal()
    pair.settle(60.0, heir)
    duo.keep_writing()
    # the passive dies: the active waits for it, and does not go on alone
    pair.lab.power_off(active)
    eventually(lambda: f"commits wait for {active}" in alarms(pair, heir), "the active says what it waits for")
    waiting = boottime()
    duo.writers.wait(local_name(heir), lambda _: boottime() > waiting + solo, 20.0)
    assert not acknowledged(duo, local_name(heir), waiting) and not pair.status(heir).get("solo")
    pair.lab.power_on(active, wait=False)
    pair.settle(60.0, heir)
    duo.keep_writing()
    for client in (QUICK, PLAIN):
        duo.writers.acknowledged_since(waiting, client, 20.0)
    for node in SERVERS:
        configure(pair, node)
    eventually(lambda: not any(pair.status(node)["replication"]["release_only"] for node in SERVERS), "silence on both")


def test_ha_show_tells_the_state_also_when_module_xml_is_wrong(duo: Duo) -> None:
    pair, active = duo.pair, duo.settle()
    before = pair.node(active).read(MODULE_XML)
    pair.node(active).write(MODULE_XML, before.replace("<virtual_ip", "<virtual_up"))
    page = pair.ha(active, "show", check=False)
    lines = page.stdout.splitlines()
    assert page.code == 6 and f"{active} is active, {other(active)} is ready to take over; 1 alarm" in lines[0]
    assert "the configuration can't be used" in lines[1] and "virtual_up" in lines[1]
    assert f"{active} is active" in pair.ha(active, "explain").stdout
    pair.node(active).write(MODULE_XML, before)


def test_what_a_crash_loses_asynchronously_is_told_and_kept(installed: Duo) -> None:
    """The last test of this module: what is lost is lost, so the next module begins with another pair."""
    try:
        lose(installed)
    finally:
        forget(installed)


def lose(duo: Duo) -> None:
    duo.keep_writing()
    pair, active = duo.pair, duo.settle()
    heir = other(active)
    for node in SERVERS:
        configure(pair, node, OFF)
    became(pair, active, "asynchronous")
    follows = f"{heir} follows asynchronously and lacks"
    eventually(lambda: held_back(pair, active) and lags(shown(pair, active)["replication"]), "the lag is shown")
    eventually(lambda: held_back(pair, active) and follows in pair.ha(active, "explain").stdout, "the lag is explained")
    eventually(lambda: held_back(pair, active), "the passive lags at this moment")
    cut = time.clock_gettime(time.CLOCK_BOOTTIME)
    pair.lab.power_off(active)
    pair.until(lambda seen: heir in seen.active, 20.0, f"{heir} to take over")
    reign = [change["because"] for change in pair.history(heir) if change["after"] == "active"][-1]
    assert "asynchronous: this server lacks" in reign and "of log that" in reign, reign
    # Where the last insert has reached the server whose power was cut, plain libpq waits for an answer that nobody ever sends.
    duo.writers.start_client(PLAIN)
    duo.writers.steady()
    lost = {verdict.client: set(verdict.lost) for verdict in duo.writers.verdicts() if verdict.client in TABLES}
    assert all(lost.values()), "a second of writes was not there yet"
    for client, ids in lost.items():
        at = {entry.id: entry.at for entry in duo.writers.entries(client) if entry.kind is Kind.ACK}
        assert all(cut - 4.0 < at[each] <= cut + 0.5 for each in ids), "nothing older than the lag"
    pair.lab.power_on(active, wait=False)
    pair.settle(60.0, heir)
    kept = json.loads(pair.ha(active, "diverged", "--json").stdout)[-1]
    assert kept["acknowledged"] == "yes" and kept["transactions"] >= sum(map(len, lost.values())), kept
    assert "transactions, acknowledged to clients, beyond the fork" in pair.ha(active, "show").stdout
    part(duo, heir)


def held_back(pair: Pair, active: str) -> bool:
    """The walreceiver is stopped, again where it was woken since; true when the passive lacks what clients wrote meanwhile."""
    heir = other(active)
    receiver = sql(pair, heir, "SELECT pid FROM pg_stat_wal_receiver")
    pair.node(heir).sh(f"kill -STOP {receiver}", check=False)
    lacks = "pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)"
    return bool(receiver) and sql(pair, active, f"SELECT {lacks} > 65536 FROM pg_stat_replication") == "t"


def lags(told: dict[str, Any]) -> bool:
    return bool(told["lag_bytes"] and (told["lag_seconds"] or 0) > 0.3 and (told["lag_transactions"] or 0) > 10)


def part(duo: Duo, active: str) -> None:
    """Nothing passes between the two: both serve their own clients, and what the one that yields had acknowledged is kept."""
    pair = duo.pair
    duo.keep_writing()
    became(pair, active, "asynchronous")
    before = {node: len(json.loads(pair.ha(node, "diverged", "--json").stdout)) for node in SERVERS}
    pair.lab.cut(f"{ACTIVE}/{PASSIVE}")
    pair.until(lambda seen: set(SERVERS) == set(seen.active), 20.0, "both to be active")
    parted = boottime()
    for node in SERVERS:
        duo.writers.wait(local_name(node), lambda entries: len(acknowledgements(entries, parted)) > 10, 20.0)
    pair.lab.heal()
    pair.settle(60.0)
    stays = pair.active()
    yielded = other(stays)
    kept = json.loads(pair.ha(yielded, "diverged", "--json").stdout)
    assert len(kept) > before[yielded], "of the one that yielded"
    duo.writers.start_client(PLAIN)
    duo.keep_writing()
    verdicts = {verdict.client: verdict for verdict in duo.writers.verdicts()}
    gone = {entry.id for entry in duo.writers.entries(local_name(yielded)) if entry.kind is Kind.ACK and entry.at > parted}
    lost = gone & set(verdicts[local_name(yielded)].lost)
    assert lost and kept[-1]["acknowledged"] == "yes" and kept[-1]["transactions"] >= len(lost), (kept[-1], len(lost))


def forget(duo: Duo) -> None:
    """Its ledger has gaps now: nobody may check it again."""
    duo.writers.stop()
    for node in SERVERS:
        duo.lab.reinstall(node)
