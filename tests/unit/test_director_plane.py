"""The ruleset as text, and a data plane over a kernel that can't."""

from __future__ import annotations

import dataclasses

import pytest

from director import plane, ruleset
from director.buckets import Buckets, Table
from director.cluster import ProxyCluster
from director.dataplane import DataPlane
from director.plane import Content, Own, Place
from director.post import read_key
from director.seam import VrrpView
from director.settings import Balance, Config, Redirect, VirtualIp, Vrrp
from runtime.errors import HaError
from runtime.loop import Loop
from runtime.nft import Nftables, NftError

VIP, VIP6 = "10.0.0.200", "fd00::200"
CONFIG = Config(
    99,
    "10.0.0.1",
    Vrrp(),
    (VirtualIp(VIP, 24, "eth0"), VirtualIp(VIP6, 64, "eth0")),
    redirects=(Redirect("http", (80, 443), 9090), Redirect("ftp", (21,), 2121, data_ports="50000-50999")),
    balance=Balance(buckets=64),
)
OWN = {"eth0": Own("02:00:00:00:00:01", {4: "10.0.0.1", 6: "fd00::1"})}
PLACES = {
    f"m{i}": {VIP: Place(f"02:00:00:00:00:0{i}", f"10.0.0.{i}"), VIP6: Place(f"02:00:00:00:00:0{i}", f"fd00::{i}")}
    for i in (1, 2, 3)
}
HTTP = "tcp 80,443"


def table(*members: str) -> Table:
    buckets = Buckets(Table.empty(64))
    weights = dict.fromkeys(members, 1.0)
    buckets.settle(weights, weights, weights, 64)
    return buckets.table


def content(tables: dict[str, Table], pending: dict[str, Table] | None = None, me: str = "m1") -> Content:
    return Content(me, PLACES, tables, pending or {}, alive=frozenset(PLACES))


def test_every_hash_has_the_groups_seed_and_only_own_tables_are_named() -> None:
    layout = plane.layout(CONFIG, OWN)
    text = ruleset.rules(layout, content({HTTP: table("m1", "m2")}))
    assert text.count("jhash") == text.count("mod 64 seed 0x33") > 4
    names = {
        " ".join(line.split()[1:3]) for line in text.splitlines() if line.startswith(("table", "add table", "delete table"))
    }
    assert {name.removeprefix("table ") for name in names} <= {*plane.TABLES, "netdev", "ip", "ip6"}
    assert "dnat to 10.0.0.1:9090" in text and "dnat to [fd00::1]:9090" in text and f"dnat to {VIP}" not in text
    assert "tcp dport { 21, 50000-50999 }" in text


def test_each_owner_but_this_node_is_written_with_both_macs_of_the_frame() -> None:
    layout = plane.layout(CONFIG, OWN)
    shared = table("m1", "m2", "m3")
    ways = plane.elements(layout, content({HTTP: shared}))[plane.NETDEV, "owner_0_0"]
    frames = {bucket: int(way).to_bytes(12, "big").hex(":") for bucket, way in ways.items()}
    others = {str(bucket): owner for bucket, owner in enumerate(shared.owners) if owner != "m1"}
    assert frames == {bucket: f"{PLACES[owner][VIP].mac}:02:00:00:00:00:01" for bucket, owner in others.items()}
    peers = plane.elements(layout, content({}))[plane.NETDEV, "peers_0"]
    assert {int(each).to_bytes(6, "big").hex(":") for each in peers} == {PLACES[other][VIP].mac for other in ("m2", "m3")}


def test_what_most_packets_are_is_asked_first() -> None:
    """Of what arrives: is it for a VIP, has a member passed it on already. Of what is delivered: is its connection known."""
    text = ruleset.rules(plane.layout(CONFIG, OWN), content({}))
    first = {part.split()[0]: part.splitlines() for part in text.split(" chain ")[1:]}
    assert [line.strip() for line in first["ingress_0"][2:4]] == [
        f"ip daddr {{ {VIP} }} goto vip4_0",
        f"ip6 daddr {{ {VIP6} }} goto vip6_0",
    ]
    assert first["vip4_0"][1].strip() == first["vip6_0"][1].strip() == "@ll,48,48 @peers_0 accept"
    assert first["second"][2].strip() == first["orphan"][2].strip() == "ct state != invalid accept"


def test_data_ports_go_by_address_whatever_the_others_do() -> None:
    config = dataclasses.replace(CONFIG, balance=Balance(buckets=64, by="address_port"))
    text = ruleset.rules(plane.layout(config, OWN), content({}))
    spread = {line.split()[1]: text.split(line)[1].split("}")[0] for line in text.splitlines() if "chain spread4" in line}
    assert "ip saddr . tcp sport" in spread["spread4_0_0"] and "sport" not in spread["spread4_0_1"]


def test_udp_flows_may_go_on_with_whoever_serves_also_without_buckets() -> None:
    config = dataclasses.replace(CONFIG, redirects=(Redirect("socks", (1080,), 1080, transport="udp"),))
    layout = plane.layout(config, OWN)
    one = Content("m1", PLACES, {"udp 1080": table("m1", "m2")}, {}, {"udp 1080": frozenset({"m1", "m2", "m3"})})
    members = plane.elements(layout, one)[plane.NETDEV, "members_0_0"]
    assert sorted(members.values()) == [f"02:00:00:00:00:0{i}" for i in (1, 2, 3)]
    owners = plane.elements(layout, one)[plane.NETDEV, "owner_0_0"]
    assert set(owners.values()) < set(members) and len(owners) == 64
    dead = dataclasses.replace(one, serving={"udp 1080": frozenset({"m1"})})
    assert len(plane.elements(layout, dead)[plane.NETDEV, "members_0_0"]) == 2, "whoever owns buckets can be sent packets"
    assert "udp" not in ruleset.rules(plane.layout(CONFIG, OWN), content({}))


def test_a_difference_names_only_what_differs() -> None:
    layout = plane.layout(CONFIG, OWN)
    one = table("m1", "m2")
    owners = list(one.owners)
    owners[7] = "m2" if owners[7] == "m1" else "m1"
    before = list(one.before)
    before[7] = (one.owners[7],)
    two = Table(tuple(owners), tuple(before))
    old, new = (plane.elements(layout, content({HTTP: each}, me="m3")) for each in (one, two))
    text = plane.difference(old, new)
    assert text.splitlines()[0].startswith("delete element netdev director owner_0_0 { 7 :")
    assert len(text.splitlines()) == 2, "node m3 is in nobody's chain"
    assert plane.difference(new, new) == ""


def test_only_a_taker_asks_the_new_way_before_the_switch() -> None:
    layout = plane.layout(CONFIG, OWN)
    now, then = Table(("m2",) * 64, (("m3",),) * 64), Table(("m3",) * 64, (("m2",),) * 64)

    def asked(me: str, *, pending: bool) -> set[str]:
        tables = content({HTTP: now}, {HTTP: then}, me) if pending else content({HTTP: then}, {}, me)
        return set(plane.elements(layout, tables)[plane.IP, "before_0_0"].values())

    assert asked("m2", pending=True) == {"10.0.0.3"} and asked("m3", pending=True) == {"10.0.0.2"}
    assert asked("m2", pending=False) == set() and asked("m3", pending=False) == {"10.0.0.2"}


def test_an_interface_that_is_away_is_left_out() -> None:
    layout = plane.layout(CONFIG, {})
    text = ruleset.rules(layout, content({HTTP: table("m1")}))
    assert "eth0" not in text and "9090" not in text and "chain second" in text


class Refusing(Nftables):
    def run(self, commands: str) -> str:
        raise NftError("Operation not supported")


class Hooks:
    def __init__(self) -> None:
        self.alarms: dict[str, str] = {}

    def fitness(self, failed: object) -> None: ...
    def unfit(self, on: bool) -> None: ...
    def successor(self, designated: bool) -> None: ...
    def vrrp(self) -> VrrpView:
        return VrrpView(False, 99, 51, "")

    def rule_changes(self) -> int:
        return 0

    def alarm(self, name: str, text: str) -> None:
        self.alarms[name] = text


def test_a_kernel_without_nftables_is_said_and_the_rest_goes_on(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    data_plane = DataPlane(Refusing)
    with pytest.raises(NftError, match=r"the kernel refuses the rules: Operation not supported \(they need CONFIG_NF_TABLES"):
        data_plane.load(plane.layout(CONFIG, OWN), content({}))
    assert not data_plane.loaded and data_plane.settings() == []
    data_plane.close()


def test_a_node_without_key_serves_alone_and_says_so(tmp_path: object) -> None:
    config = Config(99, "127.0.0.1", Vrrp(interface="lo"), (VirtualIp("127.0.0.9", 8, "lo"),))
    hooks, loop = Hooks(), Loop()
    balance = dataclasses.replace(config.balance, key_file="/no/such/key")
    cluster = ProxyCluster(dataclasses.replace(config, balance=balance), loop, hooks)
    cluster.start()
    loop.once(0.05)
    assert "this node hears no other: the group's key /no/such/key: No such file" in hooks.alarms["discovery"]
    assert cluster.status()["members"][0]["self"] and cluster.status()["plane"]["loaded"] is False
    cluster.stop()


@pytest.mark.parametrize(("text", "mode", "why"), [("x" * 32, 0o644, "others than root"), ("short", 0o600, "shorter than 16")])
def test_keys_that_are_no_secret_are_refused(tmp_path: object, text: str, mode: int, why: str) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "lb.key"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(HaError, match=why):
        read_key(str(file))
