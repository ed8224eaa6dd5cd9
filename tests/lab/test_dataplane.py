"""The data plane with real packets: who serves whom, and which connections survive what."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.proxy_clients import Clients, Download, broken
from bench.proxy_group import CLIENTS, CLIENTS6, COUNT, LBID, VIP, VIP6, Group, clients
from director import virtualmac
from director.buckets import Table
from director.hashing import bucket
from runtime.arp import Announcer
from runtime.reset import clients_of

LOOSE = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with Group(5) as made:
        made.load()
        made.move_vip(made.nodes[0])
        yield made


@pytest.fixture
def even(group: Group) -> Group:
    """All five share evenly, node1 is the director."""
    group.dead.clear()
    group.settle(dict.fromkeys((node.name for node in group.nodes), 1.0), limit=COUNT)
    group.update()
    if group.director is not group.nodes[0]:
        group.move_vip(group.nodes[0])
    return group


@pytest.fixture
def those(group: Group) -> Iterator[Clients]:
    with clients(group) as made:
        yield made


def until(condition: Callable[[], bool], what: str, limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def running(downloads: list[Download], lines: int = 5) -> bool:
    return all(len(each.chunks) >= lines or each.broken for each in downloads)


def go_on(downloads: list[Download], lines: int = 25) -> None:
    """Each receives so many more lines."""
    had = [len(each.chunks) for each in downloads]
    until(lambda: all(len(d.chunks) >= n + lines or d.broken for d, n in zip(downloads, had, strict=True)), "downloads hang")


def test_the_kernel_finds_the_bucket_that_we_compute_and_keeps_the_clients_address(even: Group, those: Clients) -> None:
    for source in CLIENTS:
        assert those.ask(source) == [even.owner(source), source]
        assert those.ask(source, port=443)[0] == even.owner(source)
    for source in CLIENTS6:
        assert those.ask(source, VIP6) == [even.owner(source), source]
    assert {even.owner(source) for source in CLIENTS} == {node.name for node in even.nodes}


def test_what_is_sent_to_the_virtual_routers_own_mac_is_shared_out_too(even: Group, those: Clients) -> None:
    """The director's own share reaches it by the macvlan that the virtual addresses are on."""
    node, own, device = even.nodes[0], virtualmac.mac_of(51, 4), "vrrp.51"
    try:
        node.drop_vip()
        node.ns.ip(f"link add link eth0 name {device} address {own} type macvlan mode bridge")
        settings = {"eth0/arp_ignore": 1, "eth0/arp_announce": 2, f"{device}/arp_ignore": 1, f"{device}/rp_filter": 2}
        for name, value in settings.items():
            node.ns.run(["sh", "-c", f"echo {value} >/proc/sys/net/ipv4/conf/{name}"])
        node.ns.ip(f"address add {VIP}/32 dev {device}", f"address add {VIP6}/128 dev {device} nodad", f"link set {device} up")
        with node.ns:
            announcer = Announcer(device)
            for each in (VIP, VIP6):
                announcer.announce(each)
            announcer.close()
        for vip in (VIP, VIP6):
            until(lambda vip=vip: own in even.client.run(["ip", "neigh", "show", vip]), f"{vip} is {own}")  # type: ignore[misc]
        for source, vip in [(each, VIP) for each in CLIENTS] + [(each, VIP6) for each in CLIENTS6]:
            assert those.ask(source, vip) == [even.owner(source), source]
        assert "node1" in {even.owner(each) for each in CLIENTS} & {even.owner(each) for each in CLIENTS6}
    finally:
        node.ns.ip(f"link del {device}")
        node.take_vip()


def test_ports_that_are_not_redirected_stay_with_the_director(even: Group, those: Clients) -> None:
    for source in CLIENTS[:10]:
        assert those.ask(source, port=9091)[0] == "node1"
    with pytest.raises(ConnectionRefusedError):
        those.ask(CLIENTS[0], port=8080)


def test_data_connections_follow_their_control_connection(even: Group, those: Clients) -> None:
    for source in CLIENTS[:20]:
        assert those.ask(source, port=21)[0] == those.ask(source, port=50000)[0] == even.owner(source, "tcp 21")


def test_udp_is_balanced_too(even: Group, those: Clients) -> None:
    with even.client:
        for source in CLIENTS[:15]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(2)
                s.bind((source, 0))
                s.sendto(b"x", (VIP, 1080))
                assert s.recvfrom(100) == (even.owner(source, "udp 1080").encode(), (VIP, 1080))


def test_a_udp_flow_stays_with_its_node_while_that_serves(even: Group) -> None:
    """Wherever its bucket moves: SOCKS and QUIC have their state there. A new one goes to the bucket's owner."""
    source, six = (next(each for each in some if even.owner(each, "udp 1080") == "node3") for some in (CLIENTS, CLIENTS6))
    with even.client:
        flows = [Flow(source, VIP), Flow(six, VIP6)]
    assert [each.served() for each in flows] == ["node3", "node3"]
    rest = {node.name: 1.0 for node in even.nodes if node.name != "node3"}
    while even.settle(rest, limit=256):
        even.update()
        assert [each.served() for each in flows] == ["node3", "node3"]
    with even.client:
        flows += [Flow(source, VIP), Flow(six, VIP6)]
    elsewhere = [even.owner(each, "udp 1080") for each in (source, six)]
    assert [each.served() for each in flows] == ["node3", "node3", *elsewhere]
    even.dead.add("node3")
    even.update()
    assert [each.served() for each in flows] == [*elsewhere, *elsewhere]
    node = even.nodes[0]
    with node.ns:  # what the director remembers is nothing that another program changed
        node.plane._seen = None
        assert node.plane.check(even.content(node)) == ""


class Flow:
    """Datagrams from one port of a client."""

    def __init__(self, source: str, vip: str) -> None:
        self._vip = vip
        self._socket = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(2)
        self._socket.bind((source, 0))

    def served(self) -> str:
        self._socket.sendto(b"x", (self._vip, 1080))
        return self._socket.recv(100).decode()


def test_forty_downloads_and_idle_connections_survive_a_clean_move_of_the_director(even: Group, those: Clients) -> None:
    downloads = [those.start(source) for source in CLIENTS]
    six = [those.start(source, VIP6) for source in CLIENTS6]
    idle = [those.idle(source) for source in CLIENTS[:10]]
    served = [each.says()[0] for each in idle]
    until(lambda: running(downloads + six), "downloads don't begin")
    at = time.monotonic()
    even.move_vip(even.nodes[1])
    go_on(downloads + six)
    assert broken(downloads + six) == []
    assert max(each.gap(at - 0.1) for each in downloads) < 1.0
    assert [each.says()[0] for each in idle] == served
    even.move_vip(even.nodes[0])
    go_on(downloads + six)
    assert broken(downloads + six) == []


@pytest.mark.parametrize("drained", [0, 2])  # the director itself, another node
def test_draining_a_node_breaks_nothing(even: Group, those: Clients, drained: int) -> None:
    name = even.nodes[drained].name
    downloads = [those.start(source) for source in CLIENTS] + [those.start(source, VIP6) for source in CLIENTS6]
    idle = {source: those.idle(source) for source in CLIENTS}
    served = {source: each.says()[0] for source, each in idle.items()}
    assert name in served.values()
    until(lambda: running(downloads), "downloads don't begin")
    rest = {node.name: 1.0 for node in even.nodes if node.name != name}
    while even.settle(rest, limit=16):
        even.update()
    go_on(downloads)
    assert broken(downloads) == []
    assert {source: each.says()[0] for source, each in idle.items()} == served
    for source in CLIENTS:
        assert those.ask(source)[0] == even.owner(source) != name
    even.move_vip(even.nodes[1])
    go_on(downloads)
    assert broken(downloads) == []


def test_a_clients_reset_finds_the_connection_too(even: Group, those: Clients) -> None:
    """Else its node would go on sending to nobody."""
    source = next(each for each in CLIENTS if even.owner(each) == "node2")
    with even.client:
        s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it resets
    s.bind((source, 0))
    s.connect((VIP, 80))
    s.sendall(b"id\n")
    assert s.recv(100).startswith(b"node2 ")
    even.settle({node.name: 1.0 for node in even.nodes if node.name != "node2"}, limit=COUNT)
    even.update()
    node = even.nodes[1]

    def connections() -> int:
        with node.ns:
            return clients_of([9090])[source]

    had = connections()
    assert had >= 1
    s.close()
    until(lambda: connections() < had, "the reset does not arrive")


def test_a_bucket_that_moved_from_node_to_node_still_finds_its_connections(even: Group, those: Clients) -> None:
    names = [node.name for node in even.nodes]
    downloads = [those.start(source) for source in CLIENTS]
    until(lambda: running(downloads), "downloads don't begin")
    for here in names:
        even.settle({here: 1.0}, limit=COUNT)
        even.update()
        go_on(downloads, 5)
    assert broken(downloads) == []
    assert {those.ask(source)[0] for source in CLIENTS} == {names[4]}


def test_clients_behind_one_address_are_spread_by_their_ports(even: Group, those: Clients) -> None:
    even.load(by="address_port")
    try:
        table = even.buckets["tcp 80,443"].table
        served = set()
        for source, vip in [(CLIENTS[0], VIP)] * 25 + [(CLIENTS6[0], VIP6)] * 25:
            with even.client:
                s = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET)
            with s:
                s.settimeout(5)
                s.bind((source, 0))
                s.connect((vip, 80))
                s.sendall(b"id\n")
                node = s.recv(100).decode().split()[0]
                assert node == table.owners[bucket(source, COUNT, LBID, s.getsockname()[1])]
                served.add(node)
        assert served == {node.name for node in even.nodes}
        assert {those.ask(CLIENTS[0], port=21)[0] for _ in range(10)} == {even.owner(CLIENTS[0], "tcp 21")}
    finally:
        even.load()


def test_what_nobody_knows_gets_a_reset_at_once(even: Group, those: Clients) -> None:
    idle = {source: those.idle(source) for source in CLIENTS[:10]}
    for each in idle.values():
        each.says()
    for buckets in even.buckets.values():  # the memory of earlier owners is lost
        names = [node.name for node in even.nodes]
        moved = tuple(names[(names.index(owner) + 1) % 5] for owner in buckets.table.owners)
        buckets.__init__(Table(moved, ((),) * COUNT))  # type: ignore[misc]
    even.update()
    for each in idle.values():
        with pytest.raises(ConnectionResetError):
            each.says()


def test_a_node_that_knows_no_buckets_yet_resets_nothing(even: Group, those: Clients) -> None:
    """One that was just started, and directs."""
    idle = {source: those.idle(source) for source in CLIENTS}
    served = {source: each.says()[0] for source, each in idle.items()}
    director, known = even.nodes[0], even.current
    even.current = {}
    with director.ns:
        director.plane.update(even.content(director))
    asked = {source: each.send() for source, each in idle.items()}
    time.sleep(0.3)
    even.current = known
    with director.ns:
        director.plane.update(even.content(director))
    assert {source: each.result(10)[0] for source, each in asked.items()} == served


def test_a_dead_port_takes_only_that_port_away(even: Group, those: Clients) -> None:
    """node3's FTP is dead: its FTP clients go elsewhere, its HTTP clients stay, connections too."""
    downloads = [those.start(source) for source in CLIENTS]
    until(lambda: running(downloads), "downloads don't begin")
    before = {source: even.owner(source) for source in CLIENTS}
    rest = {node.name: 1.0 for node in even.nodes if node.name != "node3"}
    alive = [node.name for node in even.nodes]
    even.buckets["tcp 21"].settle(rest, rest, alive, 0)
    even.update()
    assert {those.ask(source)[0] for source in CLIENTS} == set(alive)
    assert all(those.ask(source)[0] == before[source] for source in CLIENTS)
    assert "node3" not in {those.ask(source, port=21)[0] for source in CLIENTS}
    go_on(downloads, 5)
    assert broken(downloads) == []


def test_power_loss_of_a_node_leaves_the_others_connections(even: Group, those: Clients) -> None:
    downloads = [those.start(source) for source in CLIENTS]
    until(lambda: running(downloads), "downloads don't begin")
    even.switch.ip("link set p4 down")
    try:
        rest = {node.name: 1.0 for node in even.nodes if node.name != "node4"}
        even.settle(rest, limit=0, dead=["node4"])
        even.update()
        others = [each for each in downloads if each.node != "node4"]
        go_on(others)
        assert broken(others) == []
        assert "node4" not in {those.ask(source)[0] for source in CLIENTS}
    finally:
        even.switch.ip("link set p4 up")
        for each in even.nodes:
            even.switch.run(["true"])
            each.ns.run(["ip", "neigh", "flush", "dev", "eth0"])


def test_a_flushed_ruleset_is_noticed_said_and_repaired(even: Group, those: Clients) -> None:
    node = even.nodes[0]
    another = even.current["tcp 80,443"].owners.index("node2")
    with node.ns:
        assert node.plane.check(even.content(node)) == ""
        assert not node.plane.disturbed()
    for harm, said in (
        ("flush ruleset", "table netdev director was removed by another program"),
        ("flush chain ip director second", "table ip director was changed by another program"),
        (f"delete element netdev director owner_0_0 {{ {another} }}", "elements of owner_0_0 in table netdev director were"),
        ("flush set netdev director peers_0", "elements of peers_0 in table netdev director were changed"),
    ):
        node.ns.run(["nft", harm])
        with node.ns:
            assert node.plane.disturbed()
            assert said in node.plane.check(even.content(node))
            assert not node.plane.disturbed()
    node.ns.run(["nft", "add table ip somebody"])
    with node.ns:
        assert node.plane.disturbed() and node.plane.check(even.content(node)) == "" and not node.plane.disturbed()
        node.plane.update(even.content(node))
    for source in CLIENTS:
        assert those.ask(source)[0] == even.owner(source)
    assert "table ip somebody" in node.ns.run(["nft", "list", "tables"])


def test_an_update_over_missing_tables_loads_them_again(even: Group, those: Clients) -> None:
    node = even.nodes[0]
    node.ns.run(["nft", "delete", "table", "netdev", "director"])
    even.settle({node.name: 1.0 for node in even.nodes[1:]}, limit=COUNT)
    even.update()
    for source in CLIENTS:
        assert those.ask(source)[0] == even.owner(source)


def test_nothing_is_left_behind(even: Group) -> None:
    node = even.nodes[4]
    with node.ns:
        before = LOOSE.read_text()
        node.plane.remove()
        after = LOOSE.read_text()
    assert (before.strip(), after.strip()) == ("0", "1")
    assert "director" not in node.ns.run(["nft", "list", "tables"])
