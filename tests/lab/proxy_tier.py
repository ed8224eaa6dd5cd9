"""A proxy tier on the lab's machines, installed and configured as docs/director.md says: two directors, three scanning nodes, a
node with Debian's keepalived, and a client with forty addresses.

Names and addresses of the directors are those of the reference's troubleshooting. The Manager runs the director; every member
has a proxy on 9090 and 2121. Waiting is for conditions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.proxy_clients import Clients, Served
from lab.api import Lab
from lab.machine import Node
from lab.namespace import Namespace
from lab.topology import Interface, Machine, Topology
from tests.lab.who_answers import longest

VIP = "10.10.74.74"
PRIORITIES = {"jupiter": 99, "nibiru": 89, "scan1": 0, "scan2": 0, "scan3": 0}
MEMBERS = list(PRIORITIES)
ADDRESSES = {
    "jupiter": "10.10.74.70", "nibiru": "10.10.74.86", "scan1": "10.10.74.91", "scan2": "10.10.74.92", "scan3": "10.10.74.93",
    "mars": "10.10.74.90", "client": "10.10.74.50",
}  # fmt: skip
TIER = Topology(
    tuple(
        Machine(name, "server" if name in PRIORITIES else "client", (Interface("eth0", "lan", f"{address}/24"),))
        for name, address in ADDRESSES.items()
    )
)
SOURCES = [f"10.10.74.{number}" for number in range(101, 141)]
REDIRECTS = {"http": ("80,443", 9090), "ftp": ("21", 2121)}
XML = "/var/wasp/conf/director/current/module.xml"
_COMMANDER = "/var/wasp/conf/Commander/current/module.xml"
_ROOT = Path(__file__).resolve().parent.parent.parent
_LIMIT = 30.0


class Tier(Served):
    sources = SOURCES

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._proxies: list[subprocess.Popen[str]] = []
        self._keepalived: subprocess.Popen[bytes] | None = None
        client = self.node("client")
        client.sh("".join(f"ip address add {each}/24 dev eth0\n" for each in SOURCES))
        self.clients = Clients(Namespace(client.pid), VIP)

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    # --- putting it up, as the documents say ------------------------------------------------------------------------------

    def install(self) -> None:
        key = self.node("jupiter").run(["director", "key"]).stdout
        with ThreadPoolExecutor(len(MEMBERS)) as several:
            list(several.map(lambda name: self._configure(name, key), MEMBERS))
        for name in MEMBERS:
            self.serve(name)

    def _configure(self, name: str, key: str) -> None:
        node = self.node(name)
        for file in (_ROOT / "conf-scanner").rglob("*.xml"):  # what install.sh --scanner leaves
            node.write(f"/{file.relative_to(_ROOT / 'conf-scanner')}", file.read_text())
        node.sh("mkdir -p /etc/director; umask 077; cat >/etc/director/lb.key" + f" <<'END'\n{key}END")
        self.write(name)
        self.turn(name, on=True)

    def write(self, name: str, redirects: dict[str, tuple[str, int]] | None = None, vip: str = f"{VIP}/24") -> None:
        """Its module.xml, made from the sample."""
        node = self.node(name)
        text = node.read(f"/opt/ha-manager/share/conf{XML}")
        own = f'enabled="1" priority="{PRIORITIES[name]}" management_ip="{ADDRESSES[name]}"'
        text = text.replace('enabled="0" priority="99" management_ip="10.1.1.1"', own).replace("10.1.1.250/24", vip)
        text = text.replace('buckets="1024"', 'buckets="256"')  # five directors share the processors of one machine
        elements = "\n".join(
            f'<port_redirect protocol="{protocol}" ports="{ports}" to="{to}"/>'
            for protocol, (ports, to) in (redirects or REDIRECTS).items()
        )
        node.write(XML, text.replace('<port_redirect protocol="http" ports="9090" to="9090" comment=""/>', elements))

    def turn(self, name: str, on: bool) -> None:
        """By the Manager's roles."""
        enabled = f's/enabled="{int(not on)}"/enabled="{int(on)}"/'
        self.node(name).sh(f"sed -i '/ProxyHA/{enabled}' {_COMMANDER}; manager-ctl reload")

    def serve(self, name: str) -> None:
        """Its proxy, as long as its power is on."""
        argv = [sys.executable, "-m", "bench.scanning_node", name, "9090", "2121"]
        proxy = self.node(name).popen(argv, files="host", stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(_ROOT)})
        assert proxy.stdout is not None and proxy.stdout.readline() == "ready\n"
        self._proxies.append(proxy)

    def keepalived(self, priority: int) -> None:
        node = self.node("mars")
        node.write("/etc/keepalived/keepalived.conf", (
            f"vrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {priority}\n"
            f" advert_int 1\n virtual_ipaddress {{\n  {VIP}/24 dev eth0\n }}\n}}\n"
        ))  # fmt: skip
        self._keepalived = node.popen(["keepalived", "--vrrp", "--dont-fork"])

    def stop_keepalived(self) -> None:
        if self._keepalived is not None:
            self._keepalived.terminate()
            self._keepalived.wait(20)
            self._keepalived = None

    def close(self) -> None:
        self.stop_keepalived()
        self.clients.close()
        for proxy in self._proxies:
            proxy.kill()
            proxy.wait()

    # --- what is seen -----------------------------------------------------------------------------------------------------

    def holders(self) -> list[str]:
        """Whose ``ip addr show`` has the virtual address."""
        on = [each for each in self.lab.nodes if each.is_on]
        return [each.name for each in on if f" {VIP}/24 " in each.run(["ip", "addr", "show"]).stdout]

    def status(self, on: str) -> dict[str, Any]:
        done = self.node(on).run(["director", "status", "--json"], check=False)
        answer: dict[str, Any] = json.loads(done.stdout or "{}")
        return answer

    def alarms(self, on: str) -> list[str]:
        return [alarm["text"] for alarm in self.status(on).get("alarms", [])]

    def buckets(self, on: str, ports: str = "80,443") -> dict[str, int]:
        services = self.status(on).get("cluster", {}).get("services", [])
        return next((dict(each["buckets"]) for each in services if each["ports"] == [int(p) for p in ports.split(",")]), {})

    def await_director(self, name: str) -> None:
        self.until(lambda: self.holders() == [name], f"{name} alone to hold the address")

    def await_even(self, on: str, members: int = 5, ports: str = "80,443") -> None:
        self.until(
            lambda: len(counts := self.buckets(on, ports)) == members and max(counts.values()) - min(counts.values()) <= 1,
            f"{members} members to share evenly",
        )

    def await_words(self, on: str, since: int, *words: str) -> None:
        """The system log has them, in this order, after its first ``since`` characters."""
        pattern = ".*".join(map(re.escape, words))
        self.until(lambda: re.search(pattern, self.node(on).log()[since:], re.S), f"{on} to say {' … '.join(words)}")

    def until(self, holds: Callable[[], object], what: str, limit: float = _LIMIT) -> None:
        end = time.monotonic() + limit
        while not holds():
            assert time.monotonic() < end, f"waited {limit:g} s for {what}; holders: {self.holders()}"
            time.sleep(0.1)

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """The longest time (seconds) for which two machines answered ARP for the address; known afterwards."""
        argv = [sys.executable, "-m", "tests.lab.who_answers", VIP, "eth0"]
        asker = self.node("client").popen(argv, files="host", stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(_ROOT)})
        found: list[float] = []
        yield found
        asker.terminate()
        found.append(longest(asker.communicate()[0]))
