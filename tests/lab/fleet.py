"""Two policy servers and three scanning nodes, put up as an administrator would: from machines as just installed, by commits.

Promise: everything goes through notifier-ctl, manager-ctl, the policy server's own commands and the notifier; nobody logs in on
the passive but to make its key and to accept the active's. Waiting is for conditions. Source: Trustwave §3.2; issue "Manager
and notifier".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.pair import ACTIVE, PASSIVE, SERVERS, Pair
from lab.api import Lab
from lab.layer import say
from lab.machine import Node
from lab.topology import PAIR, VIP, Interface, Machine, Topology
from runtime.commands import Completed

SCANNERS = ("scan-1", "scan-2", "scan-3")
DEVICES = (*SERVERS, *SCANNERS)
ROOT = Path(__file__).resolve().parent.parent.parent
FLEET = Topology(
    machines=(
        *PAIR.machines,
        *(
            Machine(name, "server", (Interface("eth0", "lan", f"192.168.120.{30 + number}/24"),), gateway="192.168.120.1")
            for number, name in enumerate(SCANNERS, 1)
        ),
    ),
    names=PAIR.names,
)
CONF_READY = "/var/wasp/conf_ready"
CURRENT = "/var/wasp/conf"
_CLI = "/opt/finjan/bin/policyserver_cli"
_COMMANDER = "/var/wasp/conf/Commander/current/module.xml"
MODULE = '<?xml version="1.0"?>\n<module id="7" name="Scan"><init/></module>\n'


def until(holds: Callable[[], object], what: str, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, f"waited {limit:g} s for {what}"
        time.sleep(0.1)


class Fleet:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pair = Pair(lab, say)

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    # --- putting it up ----------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """One policy server that serves three scanning nodes; the other one stands beside it, with nothing but a key."""
        with ThreadPoolExecutor(3) as several:
            list(several.map(self.pair._postgres, SERVERS))
            list(several.map(self._scanner, SCANNERS))
        self.pair._databases()
        self.node(ACTIVE).sh(f'sed -i \'/name="notifier"/s/enabled="0"/enabled="1"/\' {_COMMANDER}; manager-ctl reload')
        self.pair.ha(ACTIVE, "keys", "make")
        for name in DEVICES[1:]:
            self.node(name).run(["manager-ctl", "keys", "make"])
            self.accept(name, ACTIVE)
        self.policy("add-device", "Management Server", ACTIVE, self.node(ACTIVE).address())
        for name in SCANNERS:
            self.policy("add-device", "Scanning Server", name, self.node(name).address())
            self.policy("set", name, "Commander", "module.xml", text=(ROOT / f"conf-scanner{_COMMANDER}").read_text())
        self.scan("first")
        self.policy("commit", check=False)  # writes devices.xml; nobody is enrolled yet
        for name in (ACTIVE, *SCANNERS):
            self.enroll(name)

    def _scanner(self, name: str) -> None:
        node = self.node(name)
        for file in (ROOT / "conf-scanner").rglob("*.xml"):
            node.write(f"/{file.relative_to(ROOT / 'conf-scanner')}", file.read_text())
        node.sh("rm -f /var/wasp/conf/ha/current/module.xml; manager-ctl reload")

    def accept(self, name: str, notifier: str) -> None:
        """On ``name``, whose administrator compared the fingerprint."""
        line, fingerprint = self.node(notifier).run(["manager-ctl", "keys", "show"]).stdout.splitlines()[:2]
        words = ["manager-ctl", "keys", "accept", *line.split(), "--fingerprint", fingerprint.split()[1]]
        self.node(name).run(words)

    def enroll(self, name: str, active: str = ACTIVE) -> None:
        shown = self.node(name).run(["manager-ctl", "keys", "show"]).stdout.splitlines()[1]
        self.node(active).run(["notifier-ctl", "enroll", name, "--fingerprint", shown.split()[1]])

    def add_passive(self) -> None:
        """The GUI's Add HA Device, and Commit."""
        self.policy("add-passive", PASSIVE, self.node(PASSIVE).address(), VIP, "192.168.120.1")
        self.policy("commit", check=False)  # devices.xml has the passive from now on
        self.enroll(PASSIVE)
        until(lambda: self.pair.status(ACTIVE).get("phase") == "active", f"{ACTIVE} to be active", 90.0)

    # --- the policy server ------------------------------------------------------------------------------------------------

    def policy(self, *words: str, text: str = "", on: str = ACTIVE, check: bool = True) -> Completed:
        return self.node(on).run([_CLI, *words], input=text, timeout=120.0, check=check)

    def scan(self, text: str, on: str = ACTIVE) -> None:
        """What every scanning node has, in the database."""
        self.policy("set", "global", "Scan", "module.xml", text=MODULE, on=on)
        self.policy("set", "global", "Scan", "list", text=text, on=on)

    def commit(self, text: str, on: str = ACTIVE, check: bool = True) -> dict[str, Any]:
        self.scan(text, on)
        done = self.policy("commit", "--json", on=on, check=check)
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found

    # --- looking ------------------------------------------------------------------------------------------------------------

    def told(self, active: str = ACTIVE) -> dict[str, dict[str, Any]]:
        """By device, what ``notifier-ctl status`` says."""
        done = self.node(active).run(["notifier-ctl", "status", "--json", "--now"], check=False)
        answer = json.loads(done.stdout or "{}")
        return {str(row["name"]): row for row in answer.get("devices", [])}

    def connected(self, active: str) -> set[str]:
        return {name for name, row in self.told(active).items() if row["connection"] == "connected"}

    def holds(self, name: str) -> str:
        """What of ``scan`` is in force on a device; "" if nothing is."""
        path = self.node(name).path(f"{CONF_READY}/global/Scan/list")
        return path.read_text() if path.exists() else ""

    def digest(self, name: str) -> str:
        """Of the tree that every device has: what goes to policy servers only is left out."""
        script = (
            f"cd {CONF_READY} && find . -path ./global/notifier -prune -o -type f -print0 | sort -z "
            "| xargs -0r sha256sum | sha256sum"
        )
        return self.node(name).sh(script).split()[0]

    def until_all(self, text: str, names: tuple[str, ...] = DEVICES, limit: float = 60.0) -> None:
        until(lambda: all(self.holds(name) == text for name in names), f"{', '.join(names)} to have {text!r}", limit)
        assert len({self.digest(name) for name in names}) == 1
