"""Scanning nodes and a client as network namespaces on one bridge, for tests that need the data plane and real packets.

``with Group(5) as group:`` nodes 10.9.0.1 … on eth0, the client 10.9.0.100 with 40 more addresses; VIP 10.9.0.200 and
fd09::200. Each node runs ``scanning_node`` on 9090 and 2121. Downloads and idle connections: ``proxy_clients``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.proxy_clients import Clients
from director import plane
from director.buckets import Buckets, Table
from director.dataplane import DataPlane
from director.hashing import bucket
from director.plane import Content, Own, Place
from director.settings import Balance, Config, Redirect, VirtualIp, Vrrp
from lab import network
from lab.namespace import Namespace
from runtime.arp import Announcer

VIP, VIP6, LBID, COUNT = "10.9.0.200", "fd09::200", 51, 1024
CLIENTS = [f"10.9.1.{i}" for i in range(1, 41)]
CLIENTS6 = [f"fd09::1:{i:x}" for i in range(1, 17)]
REDIRECTS = (
    Redirect("http", (80, 443), 9090),
    Redirect("ftp", (21,), 2121, data_ports="50000-50010"),
    Redirect("socks", (1080,), 9090, transport="udp"),
)


class Group:
    def __init__(self, nodes: int, redirects: Sequence[Redirect] = REDIRECTS, proxies: bool = True) -> None:
        """``proxies`` False: wires only."""
        self.switch = Namespace()
        self.nodes = [Node(self, number) for number in range(1, nodes + 1)]
        self.client = Namespace()
        self.redirects, self._proxies = tuple(redirects), proxies
        self.buckets = {plane.key_of(each): Buckets(Table.empty(COUNT)) for each in redirects}
        self.current: dict[str, Table] = {}
        self.dead: set[str] = set()
        self.director: Node | None = None
        self._servers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Group:
        with self.switch:
            network.be_a_plain_switch()
        self.switch.ip("link add lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set lan up")
        for number, ns in enumerate([each.ns for each in self.nodes] + [self.client], start=1):
            mac = f"02:09:00:00:00:{number:02x}"
            self.switch.ip(
                f"link add p{number} index {100 + number} type veth peer name eth0 address {mac} netns {ns.path}",
                f"link set p{number} master lan up",
            )
        for node in self.nodes:
            node.up()
        more = [f"address add {each}/16 dev eth0" for each in CLIENTS]
        more += [f"address add {each}/64 dev eth0 nodad" for each in CLIENTS6]
        without_detection(self.client)
        self.client.ip("address add 10.9.0.100/16 dev eth0", "link set eth0 up", *more)
        for node in self.nodes if self._proxies else ():
            self._servers.append(node.serve(["9090", "2121", "50000", "9091"]))
        for server in self._servers:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        for node in self.nodes:
            node.plane.close()
            node.ns.close()
        self.client.close()
        self.switch.close()

    def config(self, node: Node, by: str) -> Config:
        vips = (VirtualIp(VIP, 16, "eth0"), VirtualIp(VIP6, 64, "eth0"))
        return Config(99, node.ip, Vrrp(version=3), vips, redirects=self.redirects, balance=Balance(lbid=LBID, by=by))

    # --- what the daemons would do

    def load(self, by: str = "address") -> None:
        """Buckets shared out evenly, the rules on every node."""
        everybody = dict.fromkeys((node.name for node in self.nodes), 1.0)
        self.settle(everybody, limit=COUNT)
        self.current = {key: buckets.table for key, buckets in self.buckets.items()}
        for node in self.nodes:
            with node.ns:
                layout = plane.layout(self.config(node, by), {"eth0": Own(node.mac, {4: node.ip, 6: node.ip6})})
                node.plane.load(layout, self.content(node))
                assert node.plane.settings() == []

    def settle(self, weights: dict[str, float], limit: int, dead: Sequence[str] = (), keys: Sequence[str] = ()) -> int:
        alive = [node.name for node in self.nodes if node.name not in dead]
        chosen = [self.buckets[key] for key in keys or self.buckets]
        return sum(len(buckets.settle(weights, alive, alive, limit)) for buckets in chosen)

    def update(self) -> None:
        """As the daemons do it: takers know beforehand, then the director switches, then all others."""
        self._update([node for node in self.nodes if node is not self.director], pending=True)
        self.current = {key: buckets.table for key, buckets in self.buckets.items()}
        self._update([node for node in self.nodes if node is self.director])
        self._update([node for node in self.nodes if node is not self.director])

    def _update(self, nodes: list[Node], pending: bool = False) -> None:
        for node in nodes:
            with node.ns:
                node.plane.update(self.content(node, pending))

    def content(self, node: Node, pending: bool = False) -> Content:
        places = {each.name: {VIP: Place(each.mac, each.ip), VIP6: Place(each.mac, each.ip6)} for each in self.nodes}
        coming = {key: buckets.table for key, buckets in self.buckets.items()} if pending else {}
        alive = frozenset(each.name for each in self.nodes if each.name not in self.dead)
        return Content(node.name, places, self.current, coming, dict.fromkeys(self.buckets, alive), alive)

    def move_vip(self, to: Node) -> None:
        """Announced by the new one before the old one lets go."""
        to.take_vip()
        if self.director is not None and self.director is not to:
            self.director.drop_vip()
        self.director = to

    def owner(self, client: str, key: str = "tcp 80,443") -> str:
        return self.buckets[key].table.owners[bucket(client, COUNT, LBID)]


def without_detection(ns: Namespace) -> None:
    """Of duplicate addresses: a second in which nothing goes."""
    ns.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad"])


class Node:
    def __init__(self, group: Group, number: int) -> None:
        self.name = f"node{number}"
        self.ip, self.ip6 = f"10.9.0.{number}", f"fd09::{number:x}"
        self.mac = f"02:09:00:00:00:{number:02x}"
        self.ns = Namespace()
        self.plane = DataPlane()

    def up(self) -> None:
        without_detection(self.ns)
        self.ns.ip(f"address add {self.ip}/16 dev eth0", f"address add {self.ip6}/64 dev eth0 nodad", "link set eth0 up")

    def serve(self, ports: Sequence[str]) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "bench.scanning_node", self.name, *ports]
        with self.ns:
            return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def take_vip(self) -> None:
        self.ns.ip(f"address add {VIP}/32 dev eth0", f"address add {VIP6}/128 dev eth0 nodad")
        with self.ns:
            announcer = Announcer("eth0")
            for each in (VIP, VIP6):
                announcer.announce(each)
            announcer.close()

    def drop_vip(self) -> None:
        self.ns.ip(f"address del {VIP}/32 dev eth0", f"address del {VIP6}/128 dev eth0")


@contextlib.contextmanager
def clients(group: Group) -> Iterator[Clients]:
    made = Clients(group.client, VIP)
    try:
        yield made
    finally:
        made.close()
