"""Turning HA off and on again on two real servers, in every order, half way and with one of them gone.

Promise: the active is left with a plain Postgres that takes writes and keeps no slot, the passive with a stopped one that is
read-only when somebody starts it; Debian starts them again as before; whatever was written meanwhile is served after the next
`ha start`, or kept and reported. Source: issue "Postgres: no acknowledged write lost" ("Turning HA off"); Trustwave §2.2.2, §4.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.pair import MODULE_XML, SERVERS, Pair, other
from tests.lab.test_pair_scenarios import eventually, has_vip, is_marked

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
ENSURE = "ensure that the passive policy server is connected to the active policy server"


def sql(pair: Pair, node: str, statement: str) -> str:
    return (
        pair.node(node)
        .run(["runuser", "-u", "postgres", "--", "psql", "-XAqtc", statement, "policy_server"], check=False)
        .stdout.strip()
    )


def write(pair: Pair, node: str, text: str) -> None:
    pair.node(node).run(
        ["runuser", "-u", "postgres", "--", "psql", "-Xqc", f"INSERT INTO configuration VALUES ('{text}')", "policy_server"]
    )


def holds(pair: Pair, node: str, text: str) -> bool:
    return sql(pair, node, f"SELECT count(*) > 0 FROM configuration WHERE text = '{text}'") == "t"


def plain(pair: Pair, node: str) -> None:
    """What the active is left with."""
    assert sql(pair, node, "SELECT pg_is_in_recovery()") == "f" and sql(pair, node, "SHOW synchronous_standby_names") == ""
    assert sql(pair, node, "SELECT count(*) FROM pg_replication_slots") == "0"
    assert "/var/lib/ha_manager" not in sql(pair, node, "SHOW config_file")
    quiet(pair, node)


def quiet(pair: Pair, node: str) -> None:
    """HA is off: no process of it, no address, Debian's autostart as before."""
    assert not has_vip(pair, node) and pair.ha(node, "status", check=False).stdout.strip() == "0"
    assert pair.node(node).sh("cat /etc/postgresql/*/main/start.conf | grep -v '^#' | grep .").strip() == "auto"
    assert not pair.node(node).path("/run/ha_manager/keeper.pid").exists() or not pair.node(node).find("keeper")
    assert not pair.node(node).path("/var/lib/ha_manager/turning-off").exists()


def stopped(pair: Pair, node: str) -> None:
    """What the passive is left with: nothing runs, and what somebody starts takes no writes."""
    quiet(pair, node)
    assert pair.node(node).find("postgres") == []
    pair.node(node).sh("pg_ctlcluster $(ls /etc/postgresql) main start", timeout=60.0)
    assert sql(pair, node, "SELECT pg_is_in_recovery()") == "t"
    pair.node(node).sh("pg_ctlcluster $(ls /etc/postgresql) main stop", timeout=60.0)


def on(pair: Pair, *nodes: str) -> None:
    for node in nodes:
        pair.ha(node, "start", timeout=120.0)


def test_the_active_first_and_then_the_passive(installed: Duo) -> None:
    pair, active = installed.pair, installed.settle()
    passive = other(active)
    said = pair.ha(active, "stop").stdout
    assert f"not replicated to {passive}" in said and "warning" not in said, said
    plain(pair, active)
    write(pair, active, "alone")
    assert pair.node(active).read("/etc/ha_manager/ha_manager_status").startswith("role=off\n")
    again = pair.ha(active, "stop").stdout
    assert "already" in again and holds(pair, active, "alone"), "the second one changes nothing"
    status = pair.status(passive)
    assert status["role"] == "passive" and not status["in_sync"], "it was told, and doesn't take over"
    said = pair.ha(passive, "stop").stdout
    assert f"{active} is not connected" in said and ENSURE in said and "Postgres is stopped" in said, said
    stopped(pair, passive)
    on(pair, passive)
    assert pair.status(passive)["role"] == "passive", "the older data waits"
    eventually(lambda: is_marked(pair, passive, "passive"), "it says so, though its epoch is the same")
    on(pair, active)
    pair.settle(60.0, active)
    assert holds(pair, active, "alone")
    eventually(lambda: holds(pair, passive, "alone"), "and so does the other one")


def test_the_passive_first_then_the_active_and_one_that_is_dead(installed: Duo) -> None:
    pair, active = installed.pair, installed.settle()
    passive = other(active)
    said = pair.ha(passive, "stop").stdout
    assert "Postgres is stopped" in said and "warning" not in said, said
    stopped(pair, passive)
    write(pair, active, "solo")
    assert has_vip(pair, active)
    said = pair.ha(active, "stop").stdout
    assert f"warning: {passive} is not connected" in said and ENSURE in said, said
    plain(pair, active)
    on(pair, active, passive)
    pair.settle(60.0, active)
    eventually(lambda: holds(pair, passive, "solo"), "what was written alone is copied")
    # the passive is dead: an operator turns HA off all the same
    pair.lab.power_off(passive)
    eventually(lambda: not pair.status(active)["peer_state"]["contact"], "it is missed")
    said = pair.ha(active, "stop", timeout=90.0).stdout
    assert f"{passive} is not connected" in said
    plain(pair, active)
    write(pair, active, "after the crash")
    pair.lab.power_on(passive, wait=False)
    eventually(lambda: pair.status(passive).get("phase") == "passive", "it waits", 60.0)
    on(pair, active)
    pair.settle(60.0, active)
    eventually(lambda: holds(pair, passive, "after the crash"), "it follows")


@pytest.mark.parametrize("after", [0.5, 1.5])
def test_killed_half_way_and_called_again(installed: Duo, after: float) -> None:
    pair, active = installed.pair, installed.settle()
    for node in (active, other(active)):
        pair.node(node).run(["timeout", "-s", "KILL", f"{after:g}", "ha", "stop"], check=False, timeout=60.0)
        if node == active:
            pair.ha(node, "stop")
            plain(pair, node)
            write(pair, node, f"killed after {after:g}")
    # the passive's is left half way: turned on again from wherever it is
    on(pair, active, other(active))
    pair.settle(60.0)
    assert holds(pair, pair.active(), f"killed after {after:g}")


def test_two_databases_that_both_went_on(installed: Duo) -> None:
    pair, old = installed.pair, installed.settle()
    new = other(old)
    pair.ha(old, "stop")
    write(pair, old, "of the plain one")
    pair.ha(new, "activate", "--force", timeout=90.0)
    eventually(lambda: pair.status(new).get("phase") == "active", "an operator makes the passive active")
    write(pair, new, "of the new active")
    on(pair, old)
    pair.settle(60.0, new)
    eventually(lambda: holds(pair, old, "of the new active"), "the older epoch follows")
    assert not holds(pair, old, "of the plain one")
    kept = json.loads(pair.ha(old, "diverged", "--json").stdout)[-1]
    assert kept["transactions"] >= 1 and kept["acknowledged"] == "yes", kept
    assert "transaction, acknowledged to clients, beyond the fork" in pair.ha(old, "show").stdout


def test_disabled_in_module_xml(installed: Duo) -> None:
    pair, active = installed.pair, installed.settle()
    before = pair.node(active).read(MODULE_XML)
    for node in SERVERS:
        pair.node(node).write(MODULE_XML, before.replace('<ha enabled="1"/>', '<ha enabled="0"/>'))
        pair.node(node).sh("kill -HUP $(cat /run/ha_manager/ha_manager.pid)")
    for node in SERVERS:
        eventually(lambda node=node: "HA is off on this server" in pair.node(node).log().rpartition("turned off")[2],  # type: ignore[misc]
                   f"HA is off on {node}", 60.0)  # fmt: skip
    plain(pair, active)
    stopped(pair, other(active))
    refused = pair.ha(active, "start", check=False)
    assert refused.code == 6 and "HA is off for this pair" in refused.stderr
    for node in SERVERS:
        pair.node(node).write(MODULE_XML, before)
    on(pair, active, other(active))
    pair.settle(60.0, active)


def test_during_a_copy(installed: Duo) -> None:
    pair, active = installed.pair, installed.settle()
    passive = other(active)
    pair.ha(passive, "stop")
    pair.node(passive).sh("rm -rf /var/lib/postgresql/*/main/*")
    pair.node(passive).sh("ha start >/dev/null 2>&1 &")
    eventually(lambda: pair.status(passive).get("phase") == "passive", "it runs", 60.0)
    pair.ha(active, "stop")
    plain(pair, active)
    write(pair, active, "during a copy")
    pair.ha(passive, "stop", timeout=90.0)
    quiet(pair, passive)
    on(pair, active, passive)
    pair.settle(90.0, active)
    eventually(lambda: holds(pair, passive, "during a copy"), "the copy is complete")
