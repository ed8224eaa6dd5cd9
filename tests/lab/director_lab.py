"""The proxy tier in the lab: two directors, three further nodes, one of which may run Debian's keepalived, and a client.

Up once a module, for the tests that say ``pytest_plugins``. Names and addresses of the first two are the reference's
("Troubleshooting").
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.api import Lab, Node
from lab.topology import Interface, Machine, Topology

#: of Debian's: the peer, and who decodes what is on the wire
PACKAGES = ("keepalived", "tcpdump", "tshark")

VIP, VIP6 = "10.10.74.74", "fd00:74::74"
ADDRESSES = {
    "jupiter": "10.10.74.70", "nibiru": "10.10.74.86", "mars": "10.10.74.90", "scan1": "10.10.74.91", "scan2": "10.10.74.92",
    "client": "10.10.74.50",
}  # fmt: skip
TOPOLOGY = Topology(
    machines=tuple(
        Machine(name, "client" if name == "client" else "server", (Interface("eth0", "lan", f"{address}/24"),))
        for name, address in ADDRESSES.items()
    ),
    names={"vip": VIP},
)
MODULE_XML = "/var/wasp/conf/director/current/module.xml"
LIMIT = 20.0


def six(name: str) -> str:
    return f"fd00:74::{ADDRESSES[name].rpartition('.')[2]}"


@pytest.fixture(scope="module")
def proxies() -> Iterator[Lab]:
    with Lab(f"director-{os.getpid()}", TOPOLOGY, packages=PACKAGES) as lab:
        for node in lab.nodes:
            _prepare(node)
        yield lab


def _prepare(node: Node) -> None:
    if node.name != "client":
        node.run(["/etc/init.d/manager", "stop"])
        node.write("/etc/director/lb.key", "0123456789abcdef" * 4 + "\n", mode=0o600)
    node.sh(f"ip -6 addr add {six(node.name)}/64 dev eth0 nodad")


@pytest.fixture
def tier(proxies: Lab) -> Iterator[Tier]:
    """All machines on and all links whole; nobody is director or runs keepalived."""
    proxies.heal()
    tier = Tier(proxies)
    for node in proxies.nodes:
        if not node.is_on:
            tier.power_on(node.name)
    yield tier
    tier.clear()


class Tier:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.client = lab.node("client")
        self._marks: dict[str, int] = {}

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    def power_on(self, name: str) -> None:
        self.lab.power_on(name)
        _prepare(self.node(name))

    # --- our directors

    def write(self, name: str, priority: int, vrrp: str = "", *elements: str, vips: tuple[str, ...] = (f"{VIP}/24",)) -> None:
        lines = [
            f'<director priority="{priority}" management_ip="{ADDRESSES[name]}"/>',
            f"<vrrp {vrrp}/>",
            *(f'<virtual_ip ip="{vip}"/>' for vip in vips),
            *elements,
        ]
        text = "<module><init>\n" + "\n".join(lines) + "\n</init></module>\n"
        self.node(name).write(MODULE_XML, text, mode=0o600)

    def start(self, name: str, priority: int, vrrp: str = "", *elements: str, vips: tuple[str, ...] = (f"{VIP}/24",)) -> None:
        self.write(name, priority, vrrp, *elements, vips=vips)
        self._marks[name] = len(self.node(name).log())
        self.node(name).run(["/etc/init.d/director", "start"])

    def stop(self, name: str) -> None:
        self.node(name).run(["/etc/init.d/director", "stop"])

    def status(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.node(name).run(["director", "status", "--json"]).stdout)
        return answer

    def router(self, name: str, family: int = 4) -> dict[str, Any]:
        return next(one for one in self.status(name)["routers"] if one["family"] == family)

    def alarms(self, name: str) -> list[str]:
        return [alarm["text"] for alarm in self.status(name)["alarms"]]

    def log(self, name: str) -> str:
        """What was said since the director was started last."""
        return self.node(name).log()[self._marks.get(name, 0) :]

    # --- keepalived

    def keepalived(self, name: str, priority: int, *, version: int = 2, advert: str = "1", state: str = "BACKUP",
                   vips: tuple[str, ...] = (f"{VIP}/24",), more: str = "") -> None:  # fmt: skip
        addresses = "\n".join(f"    {vip} dev eth0" for vip in vips)
        self.node(name).write("/etc/keepalived/keepalived.conf", (
            f"global_defs {{\n vrrp_version {version}\n}}\n"
            f"vrrp_instance VI_1 {{\n state {state}\n interface eth0\n virtual_router_id 51\n priority {priority}\n"
            f" advert_int {advert}\n {more}\n virtual_ipaddress {{\n{addresses}\n }}\n}}\n"
        ))  # fmt: skip
        self._marks[name] = len(self.node(name).log())
        self.node(name).sh("mkdir -p /run && keepalived --vrrp --log-facility 0 && sleep 0.2")

    def stop_keepalived(self, name: str, how: str = "TERM") -> None:
        script = (
            f"[ -e /run/keepalived.pid ] || exit 0; pid=$(cat /run/keepalived.pid); kill -{how} $pid $(pgrep -P $pid) || true;"
            " while kill -0 $pid 2>/dev/null; do sleep 0.02; done"
        )
        self.node(name).sh(script)

    # --- what is seen

    def holds(self, name: str, vip: str = VIP) -> bool:
        return f" {vip}/" in self.node(name).sh("ip addr show eth0")

    def holders(self, vip: str = VIP) -> list[str]:
        return [node.name for node in self.lab.nodes if node.is_on and self.holds(node.name, vip)]

    def await_holder(self, name: str, vip: str = VIP) -> None:
        self.until(lambda: self.holders(vip) == [name], f"{name} alone holds {vip}")
        answers = ["ping", "-c", "1", "-W", "1", vip]
        self.until(lambda: self.client.run(answers, check=False).code == 0, f"{vip} answers the client")

    def until(self, holds: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        end = time.monotonic() + limit
        while not holds():
            assert time.monotonic() < end, f"not within {limit:g} s: {what}; holders: {self.holders()}"
            time.sleep(0.05)

    def clear(self) -> None:
        for node in self.lab.nodes:
            if node.is_on and node.name != "client":
                with contextlib.suppress(Exception):
                    node.run(["/etc/init.d/director", "stop"])
                self.stop_keepalived(node.name)
                node.sh(f"rm -f {MODULE_XML}")
