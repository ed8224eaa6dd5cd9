"""ha_manager and Postgres on top of a real Linux-HA heartbeat, on both servers: put up, handed over, cut, brought back."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.pair import ACTIVE, MODULE_XML, PASSIVE, SERVERS, Pair, module_xml
from lab.api import Lab
from lab.layer import say
from lab.topology import VIP
from tests.lab.linuxha_lab import PACKAGES
from tests.lab.linuxha_pair import THEIRS, LinuxHaPair

pytestmark = pytest.mark.lab

MANAGER_CONF = "/etc/Manager/manager.conf.xml"
LINUX_HA = "\n[linux-ha]\ncl_status = /usr/bin/cl_status\n"


class Servers:
    """The pair, its heartbeats, and a client that counts what was acknowledged."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.pair = lab, Pair(lab, say)
        self.heartbeats = LinuxHaPair(lab, dict.fromkeys(SERVERS, THEIRS))
        self.acknowledged = 0

    def put_up(self) -> None:
        self.heartbeats.configure()
        self.pair.install()
        release = module_xml(
            link='<link default_active="10.120.0.166" default_passive="10.120.0.28"/><replication solo="release"/>'
        )
        for name in SERVERS:
            node = self.lab.node(name)
            node.write(MODULE_XML, re.sub(r'_interval="10"', '_interval="1"', release))
            node.write("/etc/ha_manager/ha_manager.conf", node.read("/etc/ha_manager/ha_manager.conf") + LINUX_HA)
        refused = self.pair.ha(ACTIVE, "start", check=False)
        assert refused.code == 6 and "beside Linux-HA's" in refused.stderr and "nothing was changed" in refused.stderr
        for name in SERVERS:
            node = self.lab.node(name)
            node.write(MANAGER_CONF, re.sub(r'<process name="heartbeat".*?/>', "", node.read(MANAGER_CONF), flags=re.DOTALL))
            self.heartbeats[name].start()
        self.heartbeats.until_settled(ACTIVE)
        for name in SERVERS:
            self.pair.ha(name, "start", timeout=120.0)

    def show(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pair.ha(name, "show", "--json").stdout)
        return found

    def says(self, name: str) -> dict[str, Any]:
        said: dict[str, Any] = self.show(name)["heartbeat"]
        return said

    def in_sync(self, active: str, passive: str) -> bool:
        here, there = self.says(active), self.says(passive)
        return here.get("phase") == "active" and here["solo"] is False and there.get("phase") == "passive" and there["in_sync"]

    def write(self, limit: float = 20.0, count: int = 5) -> None:
        """Through the virtual IP, until so many are acknowledged."""
        for _ in range(count):
            self.until(self._insert, limit, "a write is acknowledged")

    def _insert(self) -> bool:
        statement = f"INSERT INTO ledger (client, id) VALUES ('test', {self.acknowledged + 1})"
        done = self.psql(statement)
        self.acknowledged += done.code == 0
        return bool(done.code == 0)

    def psql(self, statement: str) -> Any:
        """Exit status 124: no answer. Who waits for the passive is not told so."""
        words = ["timeout", "5", "psql", "-X", "-At", "-h", VIP, "-U", "ledger", "-d", "policy_server", "-c", statement]
        return self.lab.node("client").run(words, check=False, timeout=30.0, env={"PGCONNECT_TIMEOUT": "2"})

    def missing(self) -> set[int]:
        """Acknowledged, and not there."""
        there = {int(line) for line in self.psql("SELECT id FROM ledger WHERE client = 'test'").stdout.split()}
        return set(range(1, self.acknowledged + 1)) - there

    def until(self, holds: Callable[[], object], limit: float, what: str) -> None:
        end = time.monotonic() + limit
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {limit:g} s\n{self.pair.explain()}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Lab(f"other-{os.getpid()}", packages=PACKAGES) as lab:
        made = Servers(lab)
        made.put_up()
        yield made


def test_the_address_and_the_database_go_together(servers: Servers) -> None:
    servers.until(lambda: servers.in_sync(ACTIVE, PASSIVE), 90, "the passive is in sync")
    servers.write()
    assert "runs on a real Linux-HA heartbeat" in servers.pair.ha(ACTIVE, "show").stdout
    assert [servers.pair.ha(name, "amIactive", check=False).stdout for name in SERVERS] == ["1\n", "0\n"]
    assert [servers.pair.ha(name, "status", check=False).stdout for name in SERVERS] == ["1\n", "1\n"]
    refused = servers.pair.ha(PASSIVE, "failover", check=False)
    assert refused.code == 1 and "not active" in refused.stderr
    servers.pair.ha(ACTIVE, "failover", timeout=120.0)
    servers.until(lambda: servers.in_sync(PASSIVE, ACTIVE), 90, "the old active is in sync as the passive")
    servers.write()
    assert servers.missing() == set()


def test_a_power_cut_loses_nothing_and_without_the_passive_nothing_is_written(servers: Servers) -> None:
    active = next(name for name in SERVERS if servers.says(name).get("phase") == "active")
    passive = PASSIVE if active == ACTIVE else ACTIVE
    servers.lab.power_off(active)
    servers.until(lambda: servers.says(passive).get("phase") == "active", 60, "the passive takes over")
    servers.write(60)
    assert servers.missing() == set()
    servers.lab.power_on(active)
    servers.heartbeats[active].start()
    servers.until(lambda: servers.in_sync(passive, active), 90, "it is back, in sync")
    servers.write()
    servers.lab.power_off(active)
    assert servers.psql("INSERT INTO ledger (client, id) VALUES ('late', 1)").code == 124, "solo=release: nobody else has it"
    assert servers.says(passive)["solo"] is False
    alone = servers.pair.ha(passive, "activate", "--force", timeout=120.0)
    assert "writes alone" in alone.stdout
    servers.write(60)
    servers.lab.power_on(active)
    servers.heartbeats[active].start()
    servers.until(lambda: servers.in_sync(passive, active), 90, "it is back, in sync, with what was written meanwhile")
    assert servers.missing() == set()
