"""module.xml and ha_manager.conf: what loads, and what each mistake is answered with."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from ha_manager.config import Config, load, pinned_name
from ha_manager.host import Host, load_host
from ha_manager.site import Fence
from ha_manager.turning import advice_on
from manager.modulefile import role_enabled, set_role
from runtime.errors import ConfigError

HERE = [ip_interface("192.168.120.166/24"), ip_interface("10.0.0.166/24")]

#: the reference's own example (Trustwave SWG 11.8, 2.2.1), unchanged
EXAMPLE = """<?xml version="1.0" encoding="UTF-8"?>
<module id="174" name="HA" hide_local="0" type="module" local="1" active="1" display_name="HA"
  show_module_config="1">
  <init>
    <ha enabled="1"/>
    <default_active ip="192.168.120.166"/>
    <default_passive ip="192.168.120.28"/>
    <virtual_ip ip="192.168.120.187"/>
    <device_undef port="5222" timeout="20"/>
    <ha_manager_configuration connection_timeout="300" ha_manager_port="4589"
  heartbeat_cmd_interval="10" passive_status_interval="10"/>
    <files_to_replicate>
      <file inotify="1" name="/etc/policyserver/.license" permissions="www-data:www-data"/>
      <file inotify="1" name="/etc/shadow" permissions="root:shadow"/>
      <file inotify="0" interval="60" name="/etc/logserver/status.conf" permissions="root:root"/>
      <file inotify="0" interval="60" name="/var/logserver/archive" permissions="root:root"/>
    </files_to_replicate>
  </init>
</module>
"""


def loaded(folder: Path, xml: str = EXAMPLE, conf: str | None = None, uname: str = "vs-166") -> Config:
    (folder / "module.xml").write_text(xml)
    keys = f"[paths]\netc = {folder}\n"
    (folder / "ha_manager.conf").write_text(keys if conf is None else conf)
    return load(HERE, module_xml=folder / "module.xml", conf=folder / "ha_manager.conf", uname=uname)


def with_more(more: str) -> str:
    return EXAMPLE.replace("    <files_to_replicate>", f"    {more}\n    <files_to_replicate>")


def test_the_references_example_loads_unchanged(tmp_path: Path) -> None:
    site = loaded(tmp_path).site
    assert (site.enabled, site.virtual_ip, site.port, site.device_port) == (True, "192.168.120.187", 4589, 5222)
    assert [(f.name, f.inotify, f.interval, f.owner) for f in site.files][1:3] == [
        ("/etc/shadow", True, 60, "root:shadow"),
        ("/etc/logserver/status.conf", False, 60, "root:root"),
    ]
    assert (site.synchronous, site.solo, site.boot_alone, site.profile) == (True, "silence", "wait", "recommended")


def test_the_sample_loads(tmp_path: Path) -> None:
    samples = Path(__file__).parents[2] / "conf"
    config = load(
        HERE,
        module_xml=samples / "var/wasp/conf/ha/current/module.xml",
        conf=samples / "etc/ha_manager/ha_manager.conf",
        uname="vs-166",
    )
    assert config.host == Host()
    assert config.site.ping_nodes == ("192.168.120.1",)


def test_optional_elements(tmp_path: Path) -> None:
    more = (
        '<ping_node ip="192.168.120.1"/><ping_node ip="192.168.120.2"/><ping_quorum nodes="2"/>'
        '<link default_active="10.0.0.166" default_passive="10.0.0.28"/>'
        '<timing profile="aggressive" initdead="3s"/><replication synchronous="on" solo="release"/>'
        '<boot_alone mode="after_initdead"/>'
        '<resource name="IPaddr2::192.168.120.188/24"/><resource name="web::a::b"/>'
        '<fence agent="fence_ipmilan" options="ip=10.0.0.9 secrets=/etc/f" of="default_passive"/><fence agent="fence_x"/>'
        '<arp_check enabled="1"/><watchdog device="/dev/watchdog"/>'
    )
    config = loaded(tmp_path, with_more(more).replace('28"/>', '28" name="vs-28"/>', 1))
    site = config.site
    assert site.ping_nodes == ("192.168.120.1", "192.168.120.2") and site.ping_quorum == 2
    assert (site.timing.deadtime, site.timing.initdead) == (0.3, 3.0)
    assert site.resources == ("IPaddr2::192.168.120.188/24", "web::a::b")
    ipmi = Fence("fence_ipmilan", "ip=10.0.0.9 secrets=/etc/f", "default_passive")
    assert (site.fences, site.arp_check, site.watchdog) == ((ipmi, Fence("fence_x")), True, "/dev/watchdog")
    assert site.virtual_addresses == ("192.168.120.187", "192.168.120.188")
    assert (site.solo, site.boot_alone, config.peer, config.node) == ("release", "after_initdead", "vs-28", "vs-166")
    assert config.links == (("192.168.120.166", "192.168.120.28"), ("10.0.0.166", "10.0.0.28"))


@pytest.mark.parametrize(
    "more",
    [
        '<boot_alone mode="after_initdead"/>',
        '<timing profile="aggressive"/>',
        '<link default_active="10.0.0.166" default_passive="10.0.0.28"/>',
        '<resource name="web"/>',
        '<ping_quorum nodes="1"/><ping_node ip="192.168.120.1"/>',
        '<fence agent="fence_apc" options="ip=10.0.0.20"/>',
        '<watchdog device="/dev/watchdog"/>',
    ],
)
def test_what_only_ha_start_brings_to_heartbeat(tmp_path: Path, more: str) -> None:
    assert loaded(tmp_path, with_more(more)).of_heartbeat != loaded(tmp_path).of_heartbeat


def test_the_data_fence_takes_no_restart(tmp_path: Path) -> None:
    plain = loaded(tmp_path)
    assert plain.fence == (True, "silence", 16 * 2**20)
    for more, fence in (
        ('<replication solo="release"/>', (True, "release", 16 * 2**20)),
        ('<replication synchronous="off" maximum_lag_on_failover="512 kB"/>', (False, "silence", 2**19)),
        ('<replication synchronous="off" maximum_lag_on_failover="0"/>', (False, "silence", 0)),
    ):
        other = loaded(tmp_path, with_more(more))
        assert other.fence == fence and other.of_heartbeat == plain.of_heartbeat
    with pytest.raises(ConfigError, match=r"module.xml:\d+: .*maximum_lag_on_failover.*16 parsecs"):
        loaded(tmp_path, with_more('<replication maximum_lag_on_failover="16 parsecs"/>'))


def test_what_is_not_there_when_it_will_be_needed_is_told(tmp_path: Path) -> None:
    more = '<ping_node ip="192.168.120.1"/><link default_active="10.0.0.166" default_passive="10.0.0.28"/>'
    assert advice_on(loaded(tmp_path, with_more(more + '<resource name="192.168.120.188"/>'))) == ()
    (off,) = advice_on(loaded(tmp_path, with_more(more).replace('<ha enabled="1"/>', '<ha enabled="0"/>')))
    assert "HA is off for this pair" in off
    missing = '<resource name="no-such::a"/><watchdog device="/dev/no-such"/>'
    script, watchdog = advice_on(loaded(tmp_path, with_more(more + missing)))
    assert "no script no-such" in script and "there is no /dev/no-such" in watchdog


def test_the_arp_check_too(tmp_path: Path) -> None:
    ping = '<ping_node ip="192.168.120.1"/>'
    asked, not_asked = (loaded(tmp_path, with_more(f'{ping}<arp_check enabled="{each}"/>')).of_heartbeat for each in (1, 0))
    assert asked != not_asked == loaded(tmp_path, with_more(ping)).of_heartbeat


def test_the_passive_sees_the_links_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "module.xml").write_text(with_more('<link default_active="10.0.0.166" default_passive="10.0.0.28"/>'))
    mine = [ip_interface("192.168.120.28/24"), ip_interface("10.0.0.28/24")]
    config = load(mine, module_xml=tmp_path / "module.xml", conf=tmp_path / "none.conf", uname="vs-28")
    assert not config.is_default_active
    assert config.links == (("192.168.120.28", "192.168.120.166"), ("10.0.0.28", "10.0.0.166"))


MISTAKES = [
    ("not xml", "<module>", "is not well-formed XML", 2),
    ("missing ha", EXAMPLE.replace('<ha enabled="1"/>', ""), "lacks <ha>", 4),
    ("ha neither on nor off", EXAMPLE.replace('enabled="1"', 'enabled="maybe"'), "'maybe'", 5),
    ("no address", EXAMPLE.replace('"192.168.120.28"', '"vs-28"'), "'vs-28' is not an IP address", 7),
    ("equal addresses", EXAMPLE.replace(".28", ".166"), "192.168.120.166 is the default active's address too", 7),
    ("neither is ours", EXAMPLE.replace(".166", ".99"), "neither address of the pair is this server's", 6),
    ("vip is a server's", EXAMPLE.replace(".187", ".28"), "192.168.120.28 is a server's own address", 8),
    ("vip in no network", EXAMPLE.replace("192.168.120.187", "172.16.0.1"), "172.16.0.1 is in none of", 8),
    ("loopback", EXAMPLE.replace('"192.168.120.28"', '"127.0.0.1"'), "127.0.0.1 can't be a device's address", 7),
    ("families", EXAMPLE.replace('"192.168.120.28"', '"fd00::28"'), "is of another family", 7),
    ("port", EXAMPLE.replace('"4589"', '"70000"'), "70000", 10),
    ("unknown attribute", EXAMPLE.replace("inotify=", "inotfy=", 1), "inotfy", 13),
    ("unknown element", with_more("<ping_nodes/>"), "ping_nodes", 12),
    ("twice", with_more('<ha enabled="0"/>'), "<ha> stands twice, first in line 5", 12),
    ("relative file", EXAMPLE.replace('"/etc/shadow"', '"etc/shadow"'), "etc/shadow", 14),
    ("file with ..", EXAMPLE.replace('"/etc/shadow"', '"/etc/../shadow"'), "/etc/../shadow can't be replicated", 14),
    ("file twice", EXAMPLE.replace("/etc/shadow", "/var/logserver/archive"), "/var/logserver/archive stands twice", 16),
    ("quorum of none", with_more('<ping_quorum nodes="0"/>'), "ping_quorum", 12),
    ("quorum too large", with_more('<ping_quorum nodes="2"/>'), "2 ping nodes must answer, but there are 0", 12),
    ("ping node is ours", with_more('<ping_node ip="192.168.120.28"/>'), "belongs to the pair itself", 12),
    ("keepalive ≥ deadtime", with_more('<timing keepalive="2" deadtime="1"/>'), "deadtime > 2 × keepalive does not hold", 12),
    ("no time", with_more('<timing keepalive="soon"/>'), "soon", 12),
    ("link equal", with_more('<link default_active="10.0.0.1" default_passive="10.0.0.1"/>'), "both servers have 10.0.0.1", 12),
    ("link not ours", with_more('<link default_active="10.9.9.9" default_passive="10.9.9.8"/>'), "10.9.9.9 is not", 12),
    ("no fence agent", with_more('<fence agent="ipmi"/>'), "'ipmi' is no fence agent", 12),
    ("a secret", with_more('<fence agent="fence_x" options="passwd=geheim"/>'), "passwd is a secret", 12),
    ("fences a stranger", with_more('<fence agent="fence_x" of="vs-1"/>'), "vs-1", 12),
    ("arp check of nobody", with_more('<arp_check enabled="1"/>'), "there is no IPv4 ping node whose ARP table", 12),
    ("arp check elsewhere",
     with_more('<ping_node ip="10.0.0.1"/><arp_check enabled="1"/>'), "no ping_node (IPv4) is on the network", 12),
    ("fence agent of two words", with_more('<fence agent="fence_x ip=10.0.0.9"/>'), "is not one word", 12),
    ("fence with a comment", with_more('<fence agent="fence_x" options="plug=#1"/>'), "a # would end the line", 12),
    ("too many fence agents", with_more('<fence agent="fence_x"/>' * 5), "default_active has 5 fence agents", 12),
    ("quorum no number", with_more('<ping_quorum nodes="all"/>'), "(write a whole number: 1, or up to", 12),
    ("watchdog of two words", with_more('<watchdog device="/dev/watch dog"/>'), "as /dev/watchdog", 12),
    ("watchdog nowhere", with_more('<watchdog device="watchdog"/>'), "watchdog", 12),
    ("resource of two words", with_more('<resource name="web cron"/>'), "'web cron' is not one word", 12),
    ("resource is a comment", with_more('<resource name="web#1"/>'), "is not one word", 12),
    ("resource is a path", with_more('<resource name="../evil"/>'), "can't be a resource script", 12),
    ("resource is no address", with_more('<resource name="IPaddr::192.168.120.300"/>'), "no address of this form", 12),
    ("resource in no network", with_more('<resource name="172.16.0.1"/>'), "element 'resource', attribute 'name'", 12),
    ("resource is the vip", with_more('<resource name="192.168.120.187/24"/>'), "192.168.120.187 is in use already", 12),
    ("resource is a server's", with_more('<resource name="192.168.120.28"/>'), "192.168.120.28 is in use already", 12),
    ("ping node is a resource",
     with_more('<resource name="192.168.120.9"/><ping_node ip="192.168.120.9"/>'), "belongs to the pair itself", 12),
    ("another name", EXAMPLE.replace('166"/>', '166" name="other"/>'), "is called vs-166, not other", 6),
    ("doctype", EXAMPLE.replace("<module id", "<!DOCTYPE module [<!ENTITY x SYSTEM 'file:///x'>]>\n<module id"), "DOCTYPE", 1),
]  # fmt: skip


@pytest.mark.parametrize(("xml", "words", "line"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_each_mistake_names_file_line_and_remedy(tmp_path: Path, xml: str, words: str, line: int) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, xml)
    assert words in str(refused.value)
    assert refused.value.file == str(tmp_path / "module.xml")
    assert abs((refused.value.line or 0) - line) <= 1
    assert refused.value.remedy


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(HERE, module_xml=tmp_path / "module.xml", conf=tmp_path / "ha_manager.conf")


CONF_MISTAKES = [
    ("port = 5432\n", "before any [section]", 1),
    ("[postgres]\nport = many\n", "[postgres] port = many: is not a number between 1 and 65535", 2),
    ("[postgres]\n\nprot = 1\n", "[postgres] prot is unknown", 3),
    ("[postgress]\n", "section [postgress] is unknown", 1),
    ("[commands]\nfull_replicate = full_replicate\n", "a command begins with an absolute path", 2),
    ("[commands]\nfull_replicate = '/a b\n", "No closing quotation", 2),
    ("[paths]\nbase = here\n", "is not an absolute path", 2),
    ("[log]\nfacility = nowhere\n", "is not one of", 2),
    ("[log]\nlevel = info\nlevel = debug\n", "[log] level stands twice", 3),
    ("[log]\nnonsense\n", "neither [section] nor option", 2),
    ("[postgres]\ncluster = main\n", "is not VERSION/NAME", 2),
]


@pytest.mark.parametrize(("text", "words", "line"), CONF_MISTAKES, ids=[row[1] for row in CONF_MISTAKES])
def test_each_mistake_in_the_hosts_file(tmp_path: Path, text: str, words: str, line: int) -> None:
    path = tmp_path / "ha_manager.conf"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_host(path)
    assert words in str(refused.value)
    assert (refused.value.file, refused.value.line) == (str(path), line)
    assert refused.value.remedy


def test_a_host_without_a_file_has_defaults_and_values_override_them(tmp_path: Path) -> None:
    assert load_host(tmp_path / "none") == Host()
    path = tmp_path / "ha_manager.conf"
    path.write_text("[commands]\npolicy_server_start = /bin/sh -c 'exit 0'\n[paths]\netc = /x\n[heartbeat]\nport = 695\n")
    host = load_host(path)
    assert host.commands.policy_server_start == ("/bin/sh", "-c", "exit 0")
    assert (str(host.paths.keys), host.heartbeat_port) == ("/x/keys", 695)


def test_the_peers_name_comes_from_its_pinned_key(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/peer.pub").write_text("ha-key-1 vs-28 ssh-ed25519 AAAA x25519 BBBB\n")
    assert loaded(tmp_path).peer == "vs-28"
    (tmp_path / "keys/peer.pub").write_text("ha-key-1 vs-166 ssh-ed25519 AAAA x25519 BBBB\n")
    with pytest.raises(ConfigError, match="as this server is"):
        loaded(tmp_path)
    (tmp_path / "keys/peer.pub").write_text("something else\n")
    assert pinned_name(tmp_path / "keys/peer.pub") == ""


def test_a_role_is_switched_and_everything_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "module.xml"
    text = '<module name="C">\n <!-- <role name="HA" enabled="0"/> -->\n <init><roles>\n  <role  name="HA" enabled="0" x="1"/>\n </roles></init>\n</module>\n'  # noqa: E501
    path.write_text(text)
    path.chmod(0o640)
    assert set_role(path, "HA", True) and role_enabled(path, "HA")
    assert path.read_text() == text.replace('name="HA" enabled="0" x', 'name="HA" enabled="1" x')
    assert path.stat().st_mode & 0o777 == 0o640
    assert not set_role(path, "HA", True)
    path.write_text(text.replace('name="HA" enabled="0" x', "enabled = '0'\n name = 'HA' x"))
    assert set_role(path, "HA", True) and role_enabled(path, "HA"), "as XML may be written, too"
    with pytest.raises(ConfigError, match="role other is not listed"):
        role_enabled(path, "other")
