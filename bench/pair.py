"""A pair of policy servers in a lab, put up as an administrator would: databases, keys, module.xml, ``ha start``.

Promise: everything goes through /usr/bin/ha and files that an administrator writes; waiting is for conditions, read from
heartbeat's control socket, never by time. When something does not come true, the error says what both servers say about it.
Source: issue "A pair of policy servers …"; docs/protocols.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ledger import tables
from bench.writers import ALL_TABLES
from lab.api import Lab, Node
from lab.topology import VIP
from runtime.clock import boottime
from runtime.commands import Completed
from runtime.control import Client
from runtime.errors import CommandFailed, ControlError, HaError

ACTIVE, PASSIVE = "vs-166", "vs-28"  # by default
SERVERS = (ACTIVE, PASSIVE)
DATABASES = ("policy_server", "logs", "reports", "system_logs")
MODULE_XML = "/var/wasp/conf/ha/current/module.xml"
_POLL = 0.02
_LOG_LINES = 25


class NotSo(HaError):
    """Something that should have become true did not; the message says what both servers say."""


@dataclass(frozen=True)
class Seen:
    """What heartbeat says on both servers at one time; an empty status where it doesn't answer."""

    status: Mapping[str, Mapping[str, Any]]

    @property
    def active(self) -> list[str]:
        return [node for node, status in self.status.items() if status.get("phase") in ("active", "preparing")]

    @property
    def settled(self) -> bool:
        """One active that waits for its passive, one passive that would take over."""
        if len(self.active) != 1:
            return False
        active, passive = self.status[self.active[0]], self.status[other(self.active[0])]
        fit = passive.get("phase") == "passive" and bool(passive.get("fit")) and bool(active.get("peer_state", {}).get("fit"))
        return fit and not active.get("solo", True)

    def in_words(self) -> str:
        words = []
        for node, status in self.status.items():
            if not status:
                words.append(f"{node}: heartbeat doesn't answer")
                continue
            details = [str(status.get("phase")), f"epoch {'/'.join(map(str, status.get('epoch', [])))}"]
            details += [name for name in ("solo", "in_sync", "fit") if status.get(name)]
            if status.get("unfit_because"):
                details.append(f"unfit: {status['unfit_because']}")
            words.append(f"{node}: {', '.join(details)}, because {status.get('because')}")
        return "; ".join(words)


def other(node: str) -> str:
    return PASSIVE if node == ACTIVE else ACTIVE


class Pair:
    #: MB of a segment of Postgres's log
    segment = 16
    #: starts the new cluster for a while, to be filled
    start_cluster = 'pg_ctlcluster "$(ls /etc/postgresql)" main start'

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.say = say

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    # --- putting it up ----------------------------------------------------------------------------------------------------

    def install(self, profile: str = "recommended") -> None:
        """From machines as just installed to a pair that is ready for ``ha start``."""
        self.say(f"Creating the databases {', '.join(DATABASES)} on {ACTIVE}; {PASSIVE} has an empty Postgres of its own")
        with ThreadPoolExecutor(2) as both:
            list(both.map(self._postgres, SERVERS))
        self._databases()
        self.say("Making a key on each server and pinning it on the other: ha keys")
        self.exchange_keys()
        self.say(f"Writing module.xml on both: virtual IP {VIP}, ping node 192.168.120.1, a second link, profile {profile}")
        for name in SERVERS:
            self.node(name).write(MODULE_XML, module_xml(profile))

    def _postgres(self, name: str) -> None:
        """An own cluster on each, as two installations have (the lab's machines are copies of one)."""
        node = self.node(name)
        for path, file in _DEVICE.items():
            node.write(path, (_HERE / "device" / file).read_text(), 0o755)
        node.write("/etc/ha_manager/ha_manager.conf", _HA_MANAGER_CONF)
        self.make_cluster(node)

    def make_cluster(self, node: Node) -> None:
        """An empty Postgres of its own, which lets the lab's clients in."""
        node.sh(_NEW_CLUSTER.replace("SEGMENT", str(self.segment)), timeout=120.0)

    def _databases(self) -> None:
        node = self.node(ACTIVE)
        node.sh(self.start_cluster, timeout=60.0)
        statements = ["CREATE ROLE ledger LOGIN", *(f"CREATE DATABASE {name}" for name in DATABASES)]
        statements += ["\\connect policy_server", *tables(ALL_TABLES), *_POLICY]
        statements += [f"GRANT SELECT, INSERT ON {table} TO ledger" for table in ALL_TABLES]
        text = "".join(f"{one}\n" if one.startswith("\\") else f"{one};\n" for one in statements)
        psql = ["runuser", "-u", "postgres", "--", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-"]
        node.run(psql, input=text)

    def exchange_keys(self) -> None:
        for name in SERVERS:
            self.ha(name, "keys", "make")
        for name in SERVERS:
            self.ha(name, "keys", "accept", self.ha(other(name), "keys", "show").stdout.strip().splitlines()[-1])

    def start(self, limit: float = 60.0) -> float:
        """``ha start`` on both; returns the seconds until the passive was in sync for the first time."""
        began = boottime()
        self.say(f"ha start on {ACTIVE} and {PASSIVE}; the passive's database is copied from the active")
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda name: self.ha(name, "start"), SERVERS))
        self.settle(limit)
        return boottime() - began

    # --- asking it --------------------------------------------------------------------------------------------------------

    def ha(self, name: str, *words: str, check: bool = True, timeout: float = 60.0) -> Completed:
        return self.node(name).run(["ha", *words], check=check, timeout=timeout)

    def status(self, name: str) -> dict[str, Any]:
        """heartbeat's own word; empty when it doesn't answer."""
        return self._ask(name, "status")

    def history(self, name: str) -> list[dict[str, Any]]:
        changes = self._ask(name, "history").get("changes", [])
        return changes if isinstance(changes, list) else []

    def _ask(self, name: str, do: str) -> dict[str, Any]:
        node = self.node(name)
        if not node.is_on:
            return {}
        try:
            with Client(node.path("/run/heartbeat/control"), 1.0) as heartbeat:
                return heartbeat.request(do)
        except (ControlError, OSError):
            return {}

    def see(self) -> Seen:
        return Seen({name: self.status(name) for name in SERVERS})

    def active(self) -> str:
        """The only active server. Raises NotSo."""
        seen = self.see()
        if len(seen.active) != 1:
            raise NotSo(f"there is not exactly one active server: {seen.in_words()}")
        return seen.active[0]

    # --- waiting ----------------------------------------------------------------------------------------------------------

    def settle(self, limit: float, active: str = "") -> None:
        """Wait until ``active`` (or whoever) is the active and the other one is in sync and fit. Raises NotSo."""
        what = f"{active or 'one server'} to be active with the other in sync"
        seen = self.until(lambda seen: seen.settled and seen.active[0] in (active or seen.active[0]), limit, what)
        self.forgive(seen)

    def forgive(self, seen: Seen) -> None:
        """Whoever brings about one fault after the other flaps on purpose: a suspension after flapping is ended."""
        for node, status in seen.status.items():
            if "flapping" in status.get("alarms", {}):
                self.ha(node, "resume")

    def until(self, condition: Callable[[Seen], bool], limit: float, what: str) -> Seen:
        end = boottime() + limit
        while True:
            seen = self.see()
            if condition(seen):
                return seen
            if boottime() > end:
                raise NotSo(f"waited {limit:g} s for {what}: {seen.in_words()}")
            time.sleep(_POLL)

    # --- when it fails ----------------------------------------------------------------------------------------------------

    def explain(self) -> str:
        """What both servers say: ``ha show`` and the end of their system logs."""
        parts = []
        for name in SERVERS:
            node = self.node(name)
            parts.append(f"--- {name}: {'on' if node.is_on else 'off'}")
            if node.is_on:
                parts.append(self._show(name))
            parts.append("\n".join(node.log().splitlines()[-_LOG_LINES:]))
        return "\n".join(parts)

    def _show(self, name: str) -> str:
        try:
            shown = self.ha(name, "show", check=False, timeout=10.0)
        except (CommandFailed, HaError) as wrong:
            return str(wrong)
        return (shown.stdout + shown.stderr).strip()


_HERE = Path(__file__).resolve().parent
#: The policy server of the lab: where its programs go
_DEVICE = {
    "/etc/init.d/policyserver": "policyserver",
    "/opt/finjan/bin/policyserver_cli": "policyserver_cli",
    "/opt/finjan/bin/active_request_cli": "active_request_cli",
    "/opt/finjan/bin/full_replicate": "full_replicate",
}
_POLICY = (
    "CREATE TABLE device (id text NOT NULL)",
    "INSERT INTO device VALUES ('vs-166')",
    "CREATE TABLE configuration (text text NOT NULL)",
    "INSERT INTO configuration VALUES ('first')",
)
_HA_MANAGER_CONF = """[commands]
policy_server_start = /etc/init.d/policyserver start
policy_server_stop = /etc/init.d/policyserver stop
policy_server_status = /etc/init.d/policyserver status
active_request_cli = /opt/finjan/bin/active_request_cli
full_replicate = /opt/finjan/bin/full_replicate
"""
_NEW_CLUSTER = """
set -e
version=$(ls /etc/postgresql)
pg_dropcluster --stop "$version" main
pg_createcluster "$version" main -- --wal-segsize=SEGMENT >/dev/null
# The lab's client, from its network and from the server itself
cat >>"/etc/postgresql/$version/main/pg_hba.conf" <<'END'
host policy_server ledger 192.168.120.0/24 trust
END
sed -i '1i local policy_server ledger trust' "/etc/postgresql/$version/main/pg_hba.conf"
"""


def module_xml(profile: str = "recommended", **changed: str) -> str:
    """The lab's module.xml. ``changed``: values in place of vip, ping_node, active, passive, link, timing."""
    link = '<link default_active="10.120.0.166" default_passive="10.120.0.28"/>'
    values = {"vip": VIP, "ping_node": "192.168.120.1", "active": "192.168.120.166", "passive": "192.168.120.28"}
    values |= {"link": link, "timing": f'<timing profile="{profile}"/>'} | changed
    return _MODULE_XML.format(**values)


_MODULE_XML = """<?xml version="1.0" encoding="UTF-8"?>
<module id="174" name="HA" hide_local="0" type="module" local="1" active="1" display_name="HA" show_module_config="1">
  <init>
    <ha enabled="1"/>
    <default_active ip="{active}" name="vs-166"/>
    <default_passive ip="{passive}" name="vs-28"/>
    <virtual_ip ip="{vip}"/>
    <device_undef port="5222" timeout="20"/>
    <ha_manager_configuration connection_timeout="300" ha_manager_port="4589" heartbeat_cmd_interval="10"
      passive_status_interval="10"/>
    <files_to_replicate>
      <file inotify="1" name="/etc/policyserver/.license" permissions="www-data:www-data"/>
      <file inotify="1" name="/etc/shadow" permissions="root:shadow"/>
      <file inotify="0" interval="60" name="/etc/logserver/status.conf" permissions="root:root"/>
      <file inotify="0" interval="60" name="/var/logserver/archive" permissions="root:root"/>
    </files_to_replicate>
    <ping_node ip="{ping_node}"/>
    {link}
    {timing}
  </init>
</module>
"""
