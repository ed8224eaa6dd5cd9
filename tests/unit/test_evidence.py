"""Looking for a silent peer: what answers, as which sign. The network is played; the lab has a real one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from heartbeat.evidence import FRESH, Evidence
from heartbeat.model import ArpAnswer, Sign
from heartbeat.signs import HOST, STRANGER, VIP
from heartbeat.vip_ping import Announce, VipPing, ping_node
from runtime.address import Assigned, NetworkError
from runtime.arpwatch import ANSWER, Claim

OURS, THEIRS, ANOTHER = (bytes.fromhex(f"02000000000{n}") for n in (1, 2, 3))
ADDRESS = "192.168.120.187"


class Network:
    """Both interfaces, and everything that was made to ask on them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.claims: list[Claim] = []
        self.replies: dict[str, list[tuple[str, int]]] = {"eth0": [], "eth1": []}
        self.down: set[str] = set()
        self.asked: list[str] = []
        self.peers: dict[str, Iterable[str]] = {"eth0": ["192.168.120.28"], "eth1": ["10.77.0.28"]}
        self.peers_macs: frozenset[bytes] = frozenset({THEIRS})
        self.closed: list[str] = []
        self.evidence = Evidence(
            "vs-28", [(ADDRESS, "eth0"), ("fd00::187", "eth0")], lambda: self.peers, lambda: self.peers_macs,
            lambda device, nodes: Echoes(self, device, nodes), lambda device, addresses: Watch(self, device), lambda: self.now,
        )  # fmt: skip
        self.evidence.own = frozenset({OURS})

    def signs(self, *claims: Claim) -> list[Sign]:
        self.evidence.probe()
        self.claims += claims
        return self.evidence.signs()


class Echoes:
    def __init__(self, network: Network, device: str, nodes: tuple[str, ...]) -> None:
        if device in network.down:
            raise OSError(19, "No such device")
        self.network, self.device, self.nodes = network, device, nodes

    def send(self, seq: int) -> int:
        if self.device in self.network.down:
            return 0
        self.network.asked += [f"ping {node} on {self.device}" for node in self.nodes]
        return len(self.nodes)

    def receive(self) -> list[tuple[str, int]]:
        replies, self.network.replies[self.device] = self.network.replies[self.device], []
        return replies

    def close(self) -> None:
        self.network.closed.append(self.device)


class Watch:
    def __init__(self, network: Network, device: str) -> None:
        self.network, self.device = network, device

    def probe(self, address: str) -> None:
        if self.device in self.network.down:
            raise NetworkError("down")
        self.network.asked.append(f"who has {address} on {self.device}")

    def drain(self) -> list[Claim]:
        claims, self.network.claims = self.network.claims, []
        return claims

    def close(self) -> None:
        self.network.closed.append("watch")


def test_everybody_is_asked_on_every_link() -> None:
    network = Network()
    network.evidence.probe()
    assert network.asked == [
        "ping 192.168.120.28 on eth0", "ping 10.77.0.28 on eth1", f"who has {ADDRESS} on eth0", "who has fd00::187 on eth0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mac", "kind", "said"),
    [
        (THEIRS, VIP, f"vs-28 (02:00:00:00:00:02) answers for {ADDRESS}"),
        (ANOTHER, STRANGER, f"02:00:00:00:00:03 answers for {ADDRESS}: neither server of the pair, find out whose it is"),
        (OURS, "", ""),
    ],
)
def test_whose_answer_it_is_decides_what_it_means(mac: bytes, kind: str, said: str) -> None:
    signs = Network().signs(Claim(ADDRESS, mac, ANSWER))
    assert signs == ([Sign(kind, "eth0", said)] if kind else [])


def test_before_the_peer_named_its_macs_nobody_is_taken_for_it() -> None:
    network = Network()
    network.peers_macs = frozenset()
    (sign,) = network.signs(Claim(ADDRESS, THEIRS, ANSWER))
    assert sign.kind == STRANGER and "vs-28 or a stranger" in sign.text and "neither" not in sign.text


def test_a_host_that_answers_pings_is_told_once_for_each_link() -> None:
    network = Network()
    network.evidence.probe()
    network.replies = {"eth0": [], "eth1": [("10.77.0.28", 1), ("10.77.0.28", 1)]}
    assert network.evidence.signs() == [Sign(HOST, "eth1", "vs-28 answers pings at 10.77.0.28")]
    assert network.evidence.signs() == []


def test_what_was_said_before_the_question_counts_for_nothing() -> None:
    network = Network()
    network.evidence.probe()
    network.now += FRESH
    assert not network.evidence.asking
    network.claims = [Claim(ADDRESS, THEIRS, ANSWER)]
    assert network.evidence.signs() == [], "nobody asked lately"
    network.evidence.probe()
    assert network.evidence.signs() == [], "it was queued before the question"


def test_an_interface_that_is_gone_hides_no_other() -> None:
    network = Network()
    network.evidence.probe()
    network.down = {"eth0"}
    network.asked = []
    network.evidence.probe()
    assert network.asked == ["ping 10.77.0.28 on eth1"]
    network.down = set()
    network.asked = []
    network.evidence.probe()
    assert "ping 192.168.120.28 on eth0" in network.asked and f"who has {ADDRESS} on eth0" in network.asked
    network.evidence.close()
    assert sorted(network.closed) == ["eth0", "eth0", "eth1", "watch"]


def test_another_address_of_the_peer_is_asked_from_then_on() -> None:
    network = Network()
    network.evidence.probe()
    network.peers = {"eth0": ["192.168.120.29"]}
    network.asked = []
    network.evidence.probe()
    assert network.asked[0] == "ping 192.168.120.29 on eth0"


# --- the ping node's ARP table ---------------------------------------------------------------------------------------------


def test_only_a_ping_node_on_the_same_network_knows_where_the_address_is() -> None:
    here = [Assigned("eth0", "192.168.120.166", 24), Assigned("eth0", ADDRESS, 32), Assigned("eth1", "10.77.0.166", 24)]
    assert ping_node(ADDRESS, "eth0", ["10.77.0.1", "fd00::1", "192.168.120.1", "192.168.120.2"], here) == "192.168.120.1"
    assert ping_node(ADDRESS, "eth0", ["10.77.0.1"], here) == "" == ping_node("fd00::187", "eth0", ["192.168.120.1"], here)
    assert ping_node(ADDRESS, "eth1", ["192.168.120.1"], here) == ""


class Echo:
    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self.sent: list[int] = []

    def send(self, seq: int) -> int:
        self.sent.append(seq)
        return 1

    def receive(self) -> list[tuple[str, int]]:
        return [("192.168.120.1", seq) for seq in self.sent]


def test_arp_requests_name_the_servers_own_address_while_it_asks(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    setting = tmp_path / "eth0" / "arp_announce"
    setting.write_text("0\n")
    echo = Echo()
    check = VipPing(echo, Announce("eth0", str(tmp_path)))
    assert setting.read_text() == "2\n" and check.unusable == ""
    check.send(7)
    assert check.answers() == [ArpAnswer(7)]
    check.close()
    assert setting.read_text() == "0\n"


def test_a_setting_that_somebody_changed_meanwhile_is_left(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    setting = tmp_path / "eth0" / "arp_announce"
    for before, meanwhile in (("2\n", "2\n"), ("0\n", "1\n")):
        setting.write_text(before)
        check = VipPing(Echo(), Announce("eth0", str(tmp_path)))
        setting.write_text(meanwhile)
        check.close()
        assert setting.read_text() == meanwhile


def test_nothing_is_asked_where_asking_would_change_the_answer(tmp_path: Path) -> None:
    echo = Echo()
    check = VipPing(echo, Announce("eth0", str(tmp_path)))
    check.send(7)
    assert "arp_announce: No such file" in check.unusable and echo.sent == []
    assert VipPing(None, None, "no ping node is there").unusable == "no ping node is there"
