"""The director's module.xml: what loads, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from director.config import load
from director.settings import Config, Redirect, Track, VirtualIp
from runtime.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "conf/var/wasp/conf/director/current/module.xml"
VIP = '<virtual_ip ip="10.1.1.250/24"/>'
DIRECTOR = '<director priority="99" management_ip="10.1.1.1"/>'


def loaded(folder: Path, *elements: str, mfend: str | None = None, mode: int = 0o600) -> Config:
    file = folder / "module.xml"
    file.write_text("<module><init>\n" + "\n".join(elements) + "\n</init></module>\n")
    file.chmod(mode)
    if mfend is not None:
        (folder / "mfend").write_text(mfend)
    return load(file, folder / "mfend")


def test_the_sample_loads_and_is_turned_off(tmp_path: Path) -> None:
    config = load(SAMPLE, tmp_path / "none")
    assert not config.enabled
    assert (config.priority, config.management_ip) == (99, "10.1.1.1")
    assert config.vips == (VirtualIp("10.1.1.250", 24, "eth0"),)
    assert config.redirects == (Redirect("http", (9090,), 9090),)
    assert (config.vrrp.vrid, config.vrrp.version, config.vrrp.advert, config.vrrp.preempt) == (51, 2, 1.0, True)
    assert (config.balance.lbid, config.balance.lbid_from) == (51, "the default")


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, DIRECTOR, VIP, '<virtual_ip ip="fd00:1::250/64" interface="eth1" comment="clients"/>',
        '<vrrp interface="eth2" vrid="7" version="3" advert="100ms" preempt="0" preempt_delay="5" mac="virtual"'
        ' checksum="plain" port_weight="30" realtime="0"/>',
        '<peer ip="10.1.1.2"/>', '<track interface="eth1" weight="20"/>',
        '<port_redirect ports="80, 443" to="9090" comment="web"><check kind="http" path="/ok" fall="3"/></port_redirect>',
        '<port_redirect protocol="ftp" ports="2121" to="2121" data_ports="50000-50999"/>',
        '<port_redirect protocol="socks" transport="udp" ports="1080" to="1080"/>',
        '<load_balancing lbid="10" buckets="512" by="address_port" own_share="0" mode="whole_node" heartbeat="200ms"/>',
    )  # fmt: skip
    vrrp = config.vrrp
    assert (vrrp.interface, vrrp.vrid, vrrp.version, vrrp.advert, vrrp.preempt) == ("eth2", 7, 3, 0.1, False)
    assert (vrrp.preempt_delay, vrrp.virtual_mac, vrrp.checksum, vrrp.port_weight) == (5.0, True, "plain", 30)
    assert [str(vip) for vip in config.of_router(6)] == ["fd00:1::250/64"]
    assert config.vips[0].interface == "eth2"
    assert config.peers == ("10.1.1.2",)
    assert config.tracks == (Track("eth1", 20),)
    web, ftp, socks = config.redirects
    assert (ftp.data_ports, web.data_ports) == ("50000-50999", "")
    assert (web.ports, web.to, web.check.kind, web.check.path, web.check.fall) == ((80, 443), 9090, "http", "/ok", 3)
    assert (socks.transport, socks.check.kind) == ("udp", "none")
    assert (config.balance.buckets, config.balance.by, config.balance.own_share) == (512, "address_port", 0.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MFEND_LBID=10\n", 10),
        ("### END AUTO GENERATED CONFIG\nMFEND_LBID='20'\n", 20),
        ("MFE_LBID=30 # ours\nOTHER=1\n", 30),
        ("MFEND_LBID=10\nexport MFEND_LBID=\"11\"\n", 11),
        ("# MFEND_LBID=10\n", 51),
        ("", 51),
    ],
)  # fmt: skip
def test_the_lbid_is_taken_over_from_mfend(tmp_path: Path, said: str, expected: int) -> None:
    assert loaded(tmp_path, DIRECTOR, VIP, mfend=said).balance.lbid == expected
    assert loaded(tmp_path, DIRECTOR, VIP, '<load_balancing lbid="9"/>', mfend=said).balance.lbid == 9


@pytest.mark.parametrize("said", ["MFEND_LBID=\n", "MFEND_LBID=0\n", "MFE_LBID=256\n", "MFEND_LBID='1\n", "MFEND_LBID=1 2\n"])
def test_an_lbid_that_is_none_is_refused_with_its_line(tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigError, match=r"mfend:2: .* is no load balancing ID"):
        loaded(tmp_path, DIRECTOR, VIP, mfend="# first\n" + said)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ([VIP], "lacks <director>"),
        ([DIRECTOR], "lacks <virtual_ip>"),
        ([DIRECTOR, DIRECTOR, VIP], "stands twice, first in line 2"),
        (['<director priority="256" management_ip="10.1.1.1"/>', VIP], r"priority: .*0 \(scanning only\) to 255"),
        (['<director priority="9" management_ip="10.1.1.250"/>', VIP], "is this node's management IP"),
        ([DIRECTOR, VIP, VIP], "10.1.1.250 stands twice"),
        ([DIRECTOR, '<virtual_ip ip="10.1.1.300/24"/>'], "no IP address in CIDR notation"),
        ([DIRECTOR, '<virtual_ip ip="10.1.1.255/24"/>'], "network or broadcast address"),
        ([DIRECTOR, '<virtual_ip ip="fd00::1/64"/>'], "VRRP version 2 knows no IPv6"),
        ([DIRECTOR, '<virtual_ip ip="10.1.1.250/24" advertised="0"/>'], "no virtual address is advertised"),
        ([DIRECTOR, VIP, '<vrrp vrid="0"/>'], "1 to 255"),
        ([DIRECTOR, VIP, '<vrrp advert="100ms"/>'], "whole seconds"),
        ([DIRECTOR, VIP, '<vrrp version="3" advert="41"/>'], "out of range"),
        ([DIRECTOR, VIP, '<vrrp version="3" advert="15ms"/>'], "not a multiple of 10 ms"),
        ([DIRECTOR, VIP, '<vrrp advert="soon"/>'], "milliseconds"),
        ([DIRECTOR, VIP, '<vrrp version="3" password="secret"/>'], "version 3 knows no password"),
        ([DIRECTOR, VIP, '<vrrp password="123456789"/>'], "up to 8"),
        ([DIRECTOR, VIP, '<peer ip="10.1.1.1"/>'], "this node's or the group's"),
        ([DIRECTOR, VIP, '<port_redirect ports="80,70000" to="1"/>'], "1 to 65535"),
        ([DIRECTOR, VIP, '<port_redirect ports="80" to="1"/>', '<port_redirect ports="81,80" to="2"/>'], "redirected already"),
        ([DIRECTOR, VIP, '<port_redirect ports="80" to="1"><check kind="command"/></port_redirect>'], "don't fit"),
        ([DIRECTOR, VIP, '<port_redirect ports="80" to="1" transport="udp"><check kind="http"/></port_redirect>'], "UDP"),
        ([DIRECTOR, VIP, '<port_redirect ports="21" to="1" data_ports="9-8"/>'], "no range of ports"),
        ([DIRECTOR, VIP, '<load_balancing own_share="2"/>'], "out of range"),
        ([DIRECTOR, VIP, '<load_balancing buckets="255"/>'], "255"),
        ([DIRECTOR, VIP, "<director_priority/>"], "not expected here"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_place_and_remedy(tmp_path: Path, elements: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        loaded(tmp_path, *elements)
    assert refused.value.line and refused.value.remedy
    assert "secret" not in str(refused.value)


def test_a_password_wants_a_file_that_not_everybody_can_read(tmp_path: Path) -> None:
    elements = [DIRECTOR, VIP, '<vrrp password="secret"/>']
    with pytest.raises(ConfigError, match="everybody can read") as refused:
        loaded(tmp_path, *elements, mode=0o644)
    assert "secret" not in str(refused.value)
    config = loaded(tmp_path, *elements)
    assert config.vrrp.password == "secret"
    assert "secret" not in repr(config)
