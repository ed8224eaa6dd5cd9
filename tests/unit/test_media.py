"""Links and ping nodes in ha.cf: which lines make one link, whose address is whose, what is refused with which remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heartbeat.config import Config, load
from heartbeat.media import Medium
from runtime.address import Assigned
from runtime.errors import ConfigError

ADDRESSES = (
    Assigned("eth0", "192.168.120.166", 24), Assigned("eth1", "10.0.0.166", 24), Assigned("lo", "::1", 128),
    Assigned("eth0", "fd00:120::166", 64), Assigned("eth1", "fe80::166", 64),
)  # fmt: skip
NODES = "node vs-166 vs-28\n"


def load_with(tmp_path: Path, lines: str, node: str = "vs-166") -> Config:
    (tmp_path / "ha.cf").write_text(NODES + lines)
    (tmp_path / "haresources").write_text("vs-166 192.168.120.187\n")
    (tmp_path / "authkeys").write_text("auth 1\n1 sha256 a-long-random-word\n")
    (tmp_path / "authkeys").chmod(0o600)
    return load(str(tmp_path), node, ADDRESSES)


def links(config: Config) -> dict[str, list[str]]:
    return {link.name: [f"{m.kind} {m.address}".strip() for m in link.media] for link in config.links}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("bcast eth0 eth1\n", {"eth0": ["bcast"], "eth1": ["bcast"]}),
        (
            "ucast eth0 192.168.120.28\nucast eth0 192.168.120.166\nbcast eth1\n",
            {"eth0": ["ucast 192.168.120.28"], "eth1": ["bcast"]},
        ),
        ("ucast eth0 192.168.120.28\nbcast eth0\n", {"eth0": ["ucast 192.168.120.28", "bcast"]}),
        (
            "ucast eth0 192.168.120.28\nucast6 eth0 fd00:120::28\nucast6 eth0 fd00:120::166\n",
            {"eth0": ["ucast 192.168.120.28"], "eth0/ipv6": ["ucast fd00:120::28"]},
        ),
        ("ucast6 eth1 FE80::0028%eth1\nucast6 eth1 fe80::166\n", {"eth1": ["ucast fe80::28"]}),
        (
            "mcast eth0 239.0.0.1 694 1 0\nmcast6 eth0 ff12::1:2:3:4 694 1 0\nmcast eth0 239.0.0.1 695 1 0\n",
            {"eth0": ["mcast 239.0.0.1"], "eth0/ipv6": ["mcast ff12::1:2:3:4"], "eth0/ipv4": ["mcast 239.0.0.1"]},
        ),
    ],
    ids=["two broadcasts", "ucast and bcast", "both on one device", "both families", "link-local", "multicast"],
)
def test_lines_that_make_links(tmp_path: Path, lines: str, expected: dict[str, list[str]]) -> None:
    config = load_with(tmp_path, lines)
    assert links(config) == expected and config.site.links == tuple(expected)
    assert config.warnings == ()


def test_what_a_link_knows_of_the_peer(tmp_path: Path) -> None:
    first, second, third = load_with(
        tmp_path, "udpport 6940\nucast eth0 192.168.120.28\nbcast eth1\nmcast6 eth1 ff12::1 695 3 1\n"
    ).links
    assert (first.peers, first.open, first.port) == ({"192.168.120.28"}, False, 6940)
    assert (second.peers, second.open, second.port) == (frozenset(), True, 6940)
    assert third.media == (Medium("mcast", "eth1", "ff12::1", 695, hops=3, loop=True),)
    assert load_with(tmp_path, "ucast eth0 192.168.120.28\nbcast eth1\n").peer_addresses == ("192.168.120.28",)


def test_a_peer_with_two_addresses_on_a_device_is_one_link_with_a_warning(tmp_path: Path) -> None:
    config = load_with(tmp_path, "ucast eth0 192.168.120.28\nucast eth0 192.168.120.29\n")
    assert links(config) == {"eth0": ["ucast 192.168.120.28", "ucast 192.168.120.29"]}
    assert "192.168.120.28 and 192.168.120.29 on eth0 are both taken for addresses of the other server" in config.warnings[0]


def test_ping_nodes_of_both_families_and_groups(tmp_path: Path) -> None:
    config = load_with(
        tmp_path,
        "bcast eth0\nping 192.168.120.1 192.168.120.2\nping6 fd00:120::1\nping fe80::1%eth0\n"
        "ping_group routers 10.0.0.1 fd00:1::1 10.0.0.1\nping_quorum 3\n",
    )
    assert config.ping_groups == {
        "192.168.120.1": ("192.168.120.1",), "192.168.120.2": ("192.168.120.2",), "fd00:120::1": ("fd00:120::1",),
        "fe80::1%eth0": ("fe80::1%eth0",), "routers": ("10.0.0.1", "fd00:1::1"),
    }  # fmt: skip
    assert config.site.ping_quorum == 3 and config.site.ping_nodes == tuple(config.ping_groups)
    assert load_with(tmp_path, "bcast eth0\nping 192.168.120.1\n").site.ping_quorum == 1


@pytest.mark.parametrize(
    ("lines", "line", "message", "remedy"),
    [
        ("ucast eth0 fd00::2\n", 2, "ucast: 'fd00::2' is no IPv4 address", "write: ucast6"),
        ("ucast6 eth0 10.0.0.2\n", 2, "ucast6: '10.0.0.2' is no IPv6 address", "fd00"),
        ("ucast6 eth0\n", 2, "ucast6 takes an interface and an address", "ucast6 eth0 fd00"),
        ("ucast6 eth0 fd00::2\nucast6 eth0 FD00::0:2\n", 3, "is there twice", "remove"),
        ("bcast\n", 2, "bcast takes at least one interface", "bcast eth0"),
        ("bcast eth0 eth1\nbcast eth0\n", 3, "bcast eth0 is there twice", "remove"),
        ("mcast eth0 239.0.0.1 694 1\n", 2, "takes interface, group, port, ttl and loop", "mcast eth0 239"),
        ("mcast eth0 239.0.0.1 694 0 0\n", 2, "'0' is not a number from 1 to 255", "mcast"),
        ("mcast eth0 239.0.0.1 694 1 2\n", 2, "'2' is not a number from 0 to 1", "mcast"),
        ("mcast6 eth0 fd00::1 694 1 0\n", 2, "fd00::1 is no multicast group", "ff12"),
        ("mcast6 eth0 239.0.0.1 694 1 0\n", 2, "no IPv6 address", "fd00"),
        ("ucast6 eth0 fd00:120::166\n", None, "no link to the other server", "ucast"),
        ("bcast eth0\nping fe80::1\n", 3, "fe80::1 is there on every link", "fe80::1%eth0"),
        ("bcast eth0\nping\n", 3, "ping takes at least one address", "gateway"),
        ("bcast eth0\nping 10.0.0.1\nping 10.0.0.1\n", 4, "ping node 10.0.0.1 is there twice", "count twice"),
        ("bcast eth0\nping_group g fd00::zz\n", 3, "no IP address", "fd00"),
        ("bcast eth0\nping 192.168.120.1\nping 192.168.120.166\n", 4, "is this server's own address", "third machine"),
        ("bcast eth0\nping_group g 10.0.0.1 fd00:120::166\n", 3, "is this server's own address", "third machine"),
        ("ucast eth1 10.0.0.28\nping 10.0.0.28\n", 3, "ping node 10.0.0.28 is the other server", "third machine"),
        ("bcast eth0\nping_quorum 0\n", 3, "'0' is not a number from 1", "ping_quorum"),
        ("bcast eth0\nping 10.0.0.1\nping_quorum 2\n", 4, "ping_quorum 2: there are 1 ping nodes", "lower it"),
    ],
)
def test_wrong_lines_are_refused_with_their_place(
    tmp_path: Path, lines: str, line: int | None, message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        load_with(tmp_path, lines)
    assert refused.value.line == line
    assert re.search(re.escape(remedy), refused.value.remedy or "")
