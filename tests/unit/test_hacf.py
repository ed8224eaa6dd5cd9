"""ha.cf, haresources and authkeys: what loads, what is refused, with which line and remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from heartbeat import authkeys, hacf, haresources
from heartbeat.config import Config, load
from heartbeat.frames import Method
from runtime.address import Assigned
from runtime.errors import ConfigError
from runtime.hafiles import HaFiles, differ, set_fence, write
from runtime.timing import PROFILES, check

ADDRESSES = (
    Assigned("lo", "127.0.0.1", 8), Assigned("eth0", "192.168.120.166", 24), Assigned("eth1", "10.0.0.166", 24),
    Assigned("lo", "::1", 128), Assigned("eth0", "fd00:120::166", 64), Assigned("eth0", "fe80::a6", 64),
    Assigned("eth1", "fe80::a7", 64),
)  # fmt: skip
HA_CF = """\
ucast eth0 192.168.120.28
ucast eth0 192.168.120.166
ucast eth1 10.0.0.28   # the second link
ping 192.168.120.1
node vs-166
node vs-28
"""
KEYS = "auth 1\n1 sha256 a-long-random-word\n"


def folder(tmp_path: Path, cf: str = HA_CF, resources: str = "vs-166 192.168.120.187\n", keys: str = KEYS) -> Path:
    (tmp_path / "ha.cf").write_text(cf)
    (tmp_path / "haresources").write_text(resources)
    (tmp_path / "authkeys").write_text(keys)
    (tmp_path / "authkeys").chmod(0o600)
    return tmp_path


def loaded(path: Path, node: str = "vs-166") -> Config:
    return load(str(path), node, ADDRESSES)


def test_a_pair(tmp_path: Path) -> None:
    config = loaded(folder(tmp_path))
    site = config.site
    assert (site.node, site.peer, site.default_active) == ("vs-166", "vs-28", "vs-166")
    assert [(m.device, m.address, m.port) for link in config.links for m in link.media] == [
        ("eth0", "192.168.120.28", 694),
        ("eth1", "10.0.0.28", 694),
    ]
    assert site.links == ("eth0", "eth1") and site.ping_nodes == ("192.168.120.1",)
    assert config.vip is not None
    assert (config.vip.address, config.vip.device, config.vip.port) == ("192.168.120.187", "eth0", 5432)
    assert config.timing == PROFILES["recommended"] and config.warnings == ()
    assert (site.solo, site.boot_alone, site.synchronous) == ("silence", "wait", True)


def test_ha_cf_in_the_references_spelling(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "ha.cf").rename(tmp_path / "Ha.cf")
    assert loaded(tmp_path).site.peer == "vs-28"


def test_the_sample_files_load(tmp_path: Path) -> None:
    conf = Path(__file__).parents[2] / "conf/etc/heartbeat"
    folder(tmp_path, (conf / "ha.cf").read_text(), (conf / "haresources").read_text(), (conf / "authkeys.sample").read_text())
    assert loaded(tmp_path).warnings == ()


#: every directive that Debian's example of heartbeat 3.0.6 shows, commented or not, and those of its manual
LINUX_HA = """\
debugfile /var/log/ha-debug
logfile	/var/log/ha-log
logfacility	local0
keepalive 2
deadtime 30
warntime 10
initdead 120
udpport	694
baud	19200
serial	/dev/ttyS0	# Linux
ucast eth0 192.168.120.28
auto_failback on
stonith baytech /etc/ha.d/conf/stonith.baytech
stonith_host *     baytech 10.0.0.3 mylogin mysecretpassword
watchdog /dev/watchdog
node	vs-166
node	vs-28
ping 192.168.120.254
ping_group group1 192.168.120.253 192.168.120.252
hbaping fc-card-name
respawn userid /path/name/to/run
apiauth ipfail gid=haclient uid=hacluster
hopfudge 1
deadping 15
hbgenmethod time
realtime off
debug 1
msgfmt  netstring
use_logd yes
conn_logd_time 60
compression	bz2
compression_threshold 2
autojoin none
coredumps true
crm no
pacemaker off
uuidfrom nodename
rtprio 50
traditional_compression off
nice_failback on
normalpoll 5
memreserve 6500
"""


def test_a_linux_ha_file_can_be_used_as_it_is(tmp_path: Path) -> None:
    config = loaded(folder(tmp_path, LINUX_HA))
    assert (config.timing.keepalive, config.timing.deadtime, config.timing.warntime) == (2, 30, 10)
    assert (config.timing.initdead, config.timing.ping_dead) == (120, 15) and check(config.timing) == []
    assert config.ping_groups == {"192.168.120.254": ("192.168.120.254",), "group1": ("192.168.120.253", "192.168.120.252")}
    assert (config.facility, config.debug, config.realtime, config.priority) == ("local0", 1, False, 50)
    assert config.parameters["logfile"] == "/var/log/ha-log" and config.parameters["keepalive"] == "2"
    warned = "\n".join(config.warnings)
    for name in ("stonith", "stonith_host", "serial", "respawn", "auto_failback", "nice_failback"):
        assert re.search(rf"ha\.cf:\d+: {name}\b", warned), name


def test_debians_untouched_example_reads_but_names_no_nodes(tmp_path: Path) -> None:
    text = "logfacility\tlocal0\nauto_failback on\n"
    assert hacf.parse(text).facility == "local0"
    with pytest.raises(ConfigError, match="node"):
        loaded(folder(tmp_path, text))


@pytest.mark.parametrize(
    ("cf", "line", "message", "remedy"),
    [
        (HA_CF + "keepalve 2\n", 7, "unknown directive keepalve", "is keepalive meant"),
        (HA_CF + "keepalive two\n", 7, "keepalive: 'two' is not a time", "500ms"),
        (HA_CF + "keepalive 0\n", 7, "keepalive must be longer", "500ms"),
        (HA_CF + "keepalive\n", 7, "keepalive takes one value", "keepalive VALUE"),
        (HA_CF + "keepalive 1\ndeadtime 1\n", 8, "deadtime > 2 × keepalive does not hold", "correct keepalive or deadtime"),
        (HA_CF + "profile recommended\nlease 700ms\n", 8, "VIP lease < isolation", "lease"),
        (HA_CF + "profile fast\n", 7, "profile: 'fast' is none of", "profile recommended"),
        (HA_CF + "deadtime 30\ninitdead 10\n", 8, "initdead ≥ deadtime", "initdead"),
        (HA_CF + "udpport 694\n", 7, "udpport comes after a medium", "move it above"),
        ("udpport 0\n" + HA_CF, 1, "udpport: '0' is not a number", "udpport"),
        (HA_CF + "node vs-3\n", 7, "names 3 nodes", "exactly two|one line"),
        (HA_CF.replace("node vs-28\n", ""), 5, "names 1 nodes", "one line `node NAME`"),
        (HA_CF + "node vs-28\n", 7, "named twice", "once"),
        (
            HA_CF.replace("node vs-166", "node VS-166"),
            6,
            "this host is 'vs-166', which is none",
            "write vs-166 instead of VS-166",
        ),
        (HA_CF.replace("vs-166", "vs-1"), 6, "this host is 'vs-166'", "correct the names"),
        (HA_CF + "node -x\n", 7, "can't be a host's name", "uname -n"),
        ("ucast eth0\n" + HA_CF, 1, "ucast takes an interface and an address", "ucast eth0"),
        ("ucast eth0 vs-28\n" + HA_CF, 1, "no IPv4 address", "192.168"),
        ("ucast eth0 192.168.120.166\nnode vs-166 vs-28\n", None, "no link to the other server", "ucast"),
        (HA_CF + "mcast eth0 10.0.0.1 694 1 0\n", 7, "no multicast group", "239"),
        (HA_CF + "ping gateway\n", 7, "no IP address", "192.168"),
        (HA_CF + "ping_group g\n", 7, "name and addresses", "ping_group"),
        (HA_CF + "auto_failback maybe\n", 7, "neither on nor off", "auto_failback on"),
        (HA_CF + "crm respawn\n", 7, "cluster resource manager", "crm off"),
        (HA_CF + "logfacility local9\n", 7, "no facility", "local0"),
        (HA_CF + "solo maybe\n", 7, "solo: 'maybe'", "silence"),
        (HA_CF + "boot_alone yes\n", 7, "boot_alone", "wait"),
        (HA_CF + "vip_port 99999\n", 7, "vip_port", "65535"),
    ],
)
def test_a_wrong_ha_cf_is_refused_with_its_place(tmp_path: Path, cf: str, line: int | None, message: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        loaded(folder(tmp_path, cf))
    assert (refused.value.file, refused.value.line) == (str(tmp_path / "ha.cf"), line)
    assert re.search(remedy, refused.value.remedy or "")


@pytest.mark.parametrize(
    ("resources", "line", "message"),
    [
        ("", None, "names no node"),
        ("# nothing\n", None, "names no node"),
        ("vs-3 192.168.120.187\n", 1, "vs-3 is none of the nodes"),
        ("VS-166 192.168.120.187\n", 1, "VS-166 is none of the nodes"),
        ("vs-166 192.168.120.187\nvs-28 192.168.120.188\n", 2, "both nodes are preferred"),
        ("vs-166 192.168.120.187 \\\n192.168.120.187/24\n", 1, "is there twice"),
        ("vs-166 fd00:120::187 IPv6addr::fd00:120:0::187/64/eth0\n", 1, "is there twice"),
        ("vs-166 fd00:99::187\n", 1, "in no network of this server"),
        ("vs-166 IPv6addr::192.168.120.187\n", 1, "no address of this form"),
        ("vs-166 IPaddr::fd00:120::187\n", 1, "no address of this form"),
        ("vs-166 fd00:120::187/129\n", 1, "no address of this form"),
        ("vs-166 fe80::187\n", 1, "in the networks of eth0 and eth1"),
        ("vs-166 192.168.120.187/24/eth0/192.168.120.255/more\n", 1, "no address of this form"),
        ("vs-166 192.168.120.187/24/a-name-that-is-too-long\n", 1, "no address of this form"),
        ("vs-166 IPaddr::192.168.120.187::start\n", 1, "no address of this form"),
        ("\nvs-166 \\\n 10.9.9.9\n", 2, "in no network of this server"),
        ("vs-166 192.168.120.187/24/eth7\n", 1, "interface eth7"),
        ("vs-166 192.168.120.187/24/eth1\n", 1, "in no network"),
        ("vs-166 192.168.120.300\n", 1, "no address of this form"),
        ("vs-166 192.168.120.187/64\n", 1, "no address of this form"),
        ("vs-166 IPaddr\n", 1, "no address of this form"),
        ("vs-166 192.168.120.255\n", 1, "broadcast"),
        ("vs-166 ../evil\n", 1, "can't be a resource script"),
    ],
)
def test_a_wrong_haresources_is_refused_with_its_place(tmp_path: Path, resources: str, line: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        loaded(folder(tmp_path, resources=resources))
    assert (refused.value.file, refused.value.line) == (str(tmp_path / "haresources"), line)
    assert refused.value.remedy


@pytest.mark.parametrize(
    "word",
    [
        "192.168.120.187",
        "IPaddr::192.168.120.187",
        "IPaddr2::192.168.120.187/24/eth0",
        "192.168.120.187/24/eth0/192.168.120.255",
        "192.168.120.187/24/192.168.120.255",
        "192.168.120.187/eth0",
        "IPaddr::192.168.120.187/24/eth0:1/192.168.120.255",
    ],
)
def test_forms_of_the_address(tmp_path: Path, word: str) -> None:
    config = loaded(folder(tmp_path, resources=f"vs-28 {word} \\\n  no-such::/dev/sda1::/data  # more\n"))
    assert config.vip is not None and (config.vip.address, config.vip.device) == ("192.168.120.187", "eth0")
    assert config.site.default_active == "vs-28"
    assert [str(resource) for resource in config.resources] == ["no-such::/dev/sda1::/data"]
    assert "haresources:1: no script no-such in /etc/ha.d/resource.d" in config.warnings[0]


@pytest.mark.parametrize(
    "word", ["fd00:120::187", "fd00:120::187/64/eth0", "IPv6addr::fd00:120:0:0::187/64", "FD00:120::187/eth0"]
)
def test_forms_of_an_ipv6_address(tmp_path: Path, word: str) -> None:
    config = loaded(folder(tmp_path, resources=f"vs-28 {word}\n"))
    assert [(vip.address, vip.device) for vip in config.vips] == [("fd00:120::187", "eth0")]


def test_several_addresses_keep_their_order_among_scripts(tmp_path: Path) -> None:
    resources = "vs-28 192.168.120.187 cron fd00:120::187 \\\n IPv6addr::fe80::187/64/eth1\nvs-28 10.0.0.187 ssh\n"
    config = loaded(folder(tmp_path, resources=resources))
    assert [(vip.address, vip.device) for vip in config.vips] == [
        ("192.168.120.187", "eth0"), ("fd00:120::187", "eth0"), ("fe80::187", "eth1"), ("10.0.0.187", "eth1"),
    ]  # fmt: skip
    assert [resource.script for resource in config.resources] == ["cron", "ssh"]


def test_a_pair_without_a_virtual_address(tmp_path: Path) -> None:
    assert loaded(folder(tmp_path, resources="vs-166\n")).vip is None


def test_arguments_of_resources() -> None:
    (group,) = haresources.parse("a 10.0.0.1 Filesystem::/dev/sda1::/data1::ext2\n")
    assert [str(resource) for resource in group.resources] == ["IPaddr::10.0.0.1", "Filesystem::/dev/sda1::/data1::ext2"]


@pytest.mark.parametrize("name", ["ha.cf", "haresources", "authkeys"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (folder(tmp_path) / name).unlink()
    with pytest.raises(ConfigError, match="can't be read: No such file") as refused:
        loaded(tmp_path)
    assert refused.value.file == str(tmp_path / name) and refused.value.remedy


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (folder(tmp_path) / "ha.cf").write_bytes(b"\0\1")
    with pytest.raises(ConfigError, match="text file"):
        loaded(tmp_path)


# --- authkeys -------------------------------------------------------------------------------------------------------------


def test_several_keys() -> None:
    ring = authkeys.parse("# comment\nauth 2\n1 sha1 one\n2 sha256 two\n15 md5 three\n")
    assert ring.sending.number == 2 and ring.sending.secret == b"two"
    assert {number: key.method for number, key in ring.keys.items()} == {1: Method.SHA1, 2: Method.SHA256, 15: Method.MD5}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "no auth directive"),
        ("auth 1\n", 1, "auth names key 1"),
        ("auth 1\nauth 1\n1 sha1 x\n", 2, "auth is there twice"),
        ("auth\n1 sha1 x\n", 1, "auth takes the number"),
        ("auth 1\n1 sha1 x\n1 md5 y\n", 3, "key 1 is there twice"),
        ("auth 16\n16 sha1 x\n", 1, "from 1 to 15"),
        ("auth 1\n1 sha512 x\n", 2, "no known method"),
        ("auth 1\n1\n", 2, "no known method"),
        ("auth 1\n1 sha1\n", 2, "isn't one word"),
        ("auth 1\n1 sha1 two words\n", 2, "isn't one word"),
        ("auth 1\n1 crc\n", 2, "crc proves nothing"),
        ("secret\n", 1, "neither with auth"),
    ],
)
def test_wrong_keys_are_refused_without_quoting_them(text: str, line: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        authkeys.parse(text)
    assert refused.value.line == line and refused.value.remedy
    assert "secret" not in str(refused.value) and "two words" not in str(refused.value)


def test_crc_in_compatibility() -> None:
    assert authkeys.parse("auth 1\n1 crc\n", compatible=True).sending.method is Method.CRC


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_keys_that_others_can_get_at_are_refused(tmp_path: Path, mode: int) -> None:
    file = folder(tmp_path) / "authkeys"
    file.chmod(mode)
    with pytest.raises(ConfigError, match="others than root") as refused:
        authkeys.load(str(file))
    assert refused.value.remedy == f"chmod 600 {file}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_keys_of_somebody_else_are_refused(tmp_path: Path) -> None:
    file = folder(tmp_path) / "authkeys"
    os.chown(file, 12345, 0)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        authkeys.load(str(file))


def test_a_folder_instead_of_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="regular file"):
        authkeys.load(str(tmp_path))


# --- what `ha start` writes -----------------------------------------------------------------------------------------------

PAIR = HaFiles(
    nodes=("vs-166", "vs-28"), links=(("eth0", "192.168.120.28"), ("eth1", "10.0.0.28")), key="k" * 64,
    virtual_ip="192.168.120.187", resources=("no-such::x", "IPv6addr::fd00:120::187/64/eth0"),
    ping_nodes=("192.168.120.1", "192.168.120.2"), profile="aggressive",
    timing=PROFILES["aggressive"], synchronous=False, solo="release", maximum_lag=2**20, boot_alone="after_initdead",
    vip_port=5433, udp_port=6940,
)  # fmt: skip


def test_heartbeat_reads_what_ha_start_writes(tmp_path: Path) -> None:
    assert [file.name for file in write(PAIR, tmp_path)] == ["ha.cf", "haresources", "authkeys"]
    config = loaded(tmp_path)
    site = config.site
    assert (site.default_active, site.solo, site.boot_alone, site.synchronous) == ("vs-166", "release", "after_initdead", False)
    assert site.maximum_lag == 2**20
    assert site.ping_nodes == ("192.168.120.1", "192.168.120.2")
    assert [(m.device, m.address, m.port) for link in config.links for m in link.media] == [
        ("eth0", "192.168.120.28", 6940),
        ("eth1", "10.0.0.28", 6940),
    ]
    assert config.timing == PAIR.timing and len(config.warnings) == 1 and "no script no-such" in config.warnings[0]
    assert [vip.address for vip in config.vips] == ["192.168.120.187", "fd00:120::187"]
    assert [str(resource) for resource in config.resources] == ["no-such::x"]
    assert config.vip is not None and config.vip.port == 5433
    assert config.keyring.sending.secret == b"k" * 64
    assert (tmp_path / "authkeys").stat().st_mode & 0o7777 == 0o600


def test_the_data_fence_is_changed_in_place_as_ha_start_would_write_it(tmp_path: Path) -> None:
    write(PAIR, tmp_path)
    assert set_fence(tmp_path, True, "silence", 2**30) and not set_fence(tmp_path, True, "silence", 2**30)
    site = loaded(tmp_path).site
    assert (site.synchronous, site.solo, site.maximum_lag, site.boot_alone) == (True, "silence", 2**30, "after_initdead")
    assert set_fence(tmp_path, PAIR.synchronous, PAIR.solo, PAIR.maximum_lag)
    assert write(PAIR, tmp_path) == [], "not a byte differs, so that nothing is restarted"
    (tmp_path / "ha.cf").write_text("node a b\n")
    with pytest.raises(ConfigError, match="was not written by `ha start`"):
        set_fence(tmp_path, True, "silence", 1)


def test_what_heartbeat_has_not_got_of_module_xml_is_noticed(tmp_path: Path) -> None:
    from dataclasses import replace

    write(PAIR, tmp_path)
    assert not differ(PAIR, tmp_path) and not differ(replace(PAIR, key="another"), tmp_path)
    assert not differ(replace(PAIR, synchronous=not PAIR.synchronous, maximum_lag=1), tmp_path), "that takes no restart"
    for changed in ({"virtual_ip": "192.168.120.99"}, {"ping_nodes": ("192.168.120.2",)}, {"profile": "recommended"}):
        assert differ(replace(PAIR, **changed), tmp_path)  # type: ignore[arg-type]
    (tmp_path / "ha.cf").write_text("node a b\n")
    assert not differ(PAIR, tmp_path), "somebody else's"


@pytest.mark.parametrize("value", ["-1", "16 parsecs", "MB", "1.5MB", "99999TB"])
def test_a_maximum_lag_that_is_no_number_of_bytes(tmp_path: Path, value: str) -> None:
    write(PAIR, tmp_path)
    text = (tmp_path / "ha.cf").read_text().replace(f"maximum_lag {2**20}", f"maximum_lag {value}")
    (tmp_path / "ha.cf").write_text(text)
    with pytest.raises(ConfigError, match="maximum_lag"):
        loaded(tmp_path)


def test_heartbeat_reads_links_and_ping_nodes_of_ipv6(tmp_path: Path) -> None:
    from dataclasses import replace

    write(
        replace(PAIR, links=(*PAIR.links, ("eth1", "fd00:1::28")), ping_nodes=("192.168.120.1", "fd00:1::1"), ping_quorum=2),
        tmp_path,
    )
    config = loaded(tmp_path)
    assert config.site.links == ("eth0", "eth1", "eth1/ipv6") and config.site.ping_nodes == ("192.168.120.1", "fd00:1::1")
    assert config.links[2].peers == {"fd00:1::28"} and config.site.ping_quorum == 2


def test_heartbeat_reads_what_it_may_ask_besides(tmp_path: Path) -> None:
    from dataclasses import replace

    # any program of the PATH that is named like an agent will do
    write(replace(PAIR, arp_check=True, watchdog="/dev/watchdog", fences=(("vs-28", "fence_no_such plug=1"),)), tmp_path)
    config = loaded(tmp_path)
    assert (config.site.arp_check, config.watchdog) == (True, "/dev/watchdog")
    assert not config.fences and not config.site.fence, "vs-28 runs it, not this one"


def test_every_time_survives_being_written(tmp_path: Path) -> None:
    from dataclasses import fields, replace

    from runtime.timing import Timing, scaled

    timing = replace(scaled(30.0), clock_drift=0.07, delivery=0.0123)
    assert all(getattr(timing, each.name) != getattr(Timing(), each.name) for each in fields(Timing))
    write(replace(PAIR, profile="recommended", timing=timing), tmp_path)
    read = loaded(tmp_path).timing
    assert {each.name: round(getattr(read, each.name), 6) for each in fields(Timing)} == {
        each.name: round(getattr(timing, each.name), 6) for each in fields(Timing)
    }


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    write(PAIR, tmp_path)
    assert write(PAIR, tmp_path) == []
    (tmp_path / "authkeys").chmod(0o644)
    assert [file.name for file in write(PAIR, tmp_path)] == ["authkeys"]


def test_another_authors_file_is_kept_once(tmp_path: Path) -> None:
    (tmp_path / "ha.cf").write_text("node mine\n")
    write(PAIR, tmp_path)
    (tmp_path / "ha.cf").write_text("node mine too\n")
    write(PAIR, tmp_path)
    assert (tmp_path / "ha.cf.orig").read_text() == "node mine\n"


@pytest.mark.parametrize("key", ["", "two words", "line\n"])
def test_a_key_that_would_break_the_file_is_refused(tmp_path: Path, key: str) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match="key"):
        write(replace(PAIR, key=key), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fence_agents_a_watchdog_and_the_arp_check(tmp_path: Path) -> None:
    agent = tmp_path / "fence_test"
    agent.write_text("#!/bin/sh\n")
    agent.chmod(0o755)
    more = (
        f"arp_check on\nfence {agent} plug={{peer}}\nstonith_host vs-166 {agent} ip=10.0.0.9\n"
        f"stonith_host vs-28 {agent} ip=10.0.0.8\nfence_timeout 20\nwatchdog /dev/watchdog\n"
    )
    config = loaded(folder(tmp_path, HA_CF + more))
    assert config.site.arp_check and config.site.fence and config.watchdog == "/dev/watchdog" and config.fence_timeout == 20
    assert [each.options for each in config.fences] == [(("plug", "vs-28"),), (("ip", "10.0.0.9"),)]
    plain = loaded(folder(tmp_path))
    assert not plain.site.arp_check and not plain.site.fence and plain.fences == () and plain.watchdog == ""


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("fence", "fence takes an agent and its options"),
        ("fence fence_nowhere ip=10.0.0.9", "fence agent fence_nowhere is not installed"),
        ("fence fence_apc passwd=sesame", "fence_apc: passwd is a secret"),
        ("stonith_host vs-166", "stonith_host takes a node"),
        ("fence_timeout 300", "fence_timeout 300 s for 0 fence agents"),
        ("fence_timeout 500ms", "fence_timeout 0.5 s for 0 fence agents"),
        ("watchdog softdog", "watchdog: 'softdog' is no full path"),
        ("arp_check maybe", "arp_check: 'maybe' is neither on nor off"),
    ],
)
def test_fences_and_watchdogs_that_are_refused(tmp_path: Path, line: str, error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)) as raised:
        loaded(folder(tmp_path, HA_CF + line + "\n"))
    assert "ha.cf:7" in str(raised.value) and "sesame" not in str(raised.value)
