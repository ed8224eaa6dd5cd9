"""Directors and Debian's keepalived on one network: who holds the virtual addresses, and what is said about it."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from tests.lab.director_lab import ADDRESSES, VIP, VIP6, Tier, six

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.director_lab"]

FAST = 'version="3" advert="100ms"'


def test_the_reference_troubleshooting(tier: Tier) -> None:
    """Who holds the VIP, failover, and return of the first director, in the reference's words."""
    tier.start("jupiter", 99)
    tier.await_holder("jupiter")
    tier.start("nibiru", 89)
    tier.start("scan1", 0)
    tier.until(lambda: tier.router("nibiru")["master"] == ADDRESSES["jupiter"], "nibiru knows its master")
    assert tier.router("nibiru")["state"] == "backup" and tier.router("scan1")["state"] == "scanning"
    tier.power_off("jupiter")
    tier.await_holder("nibiru")
    takes = (
        "VRRP_Instance(51) Transition to MASTER STATE", "VRRP_Instance(51) Entering MASTER STATE",
        "VRRP_Instance(51) setting protocol VIPs.", f"VRRP_Instance(51) Sending gratuitous ARPs on eth0 for {VIP}",
        "set lbnetwork 1", "state=master previous=backup", f"TX Adding IPV4 Address {VIP}",
    )  # fmt: skip
    assert [line for line in takes if line not in tier.node("nibiru").log()] == []
    tier.power_on("jupiter")
    tier.start("jupiter", 99)
    tier.await_holder("jupiter")
    assert [
        line for line in ("VRRP_Instance(51) forcing a new MASTER election", *takes) if line not in tier.node("jupiter").log()
    ] == []
    lets_go = (
        "VRRP_Instance(51) Received higher prio advert", "VRRP_Instance(51) Entering BACKUP STATE",
        "VRRP_Instance(51) removing protocol VIPs.", "set lbnetwork 0", "state=backup previous=master",
        f"TX Removing IPV4 Address {VIP}",
    )  # fmt: skip
    tier.until(lambda: all(line in tier.node("nibiru").log() for line in lets_go), "nibiru says that it lets go")
    assert tier.router("scan1")["master"] == ADDRESSES["jupiter"]
    assert [tier.alarms(name) for name in ("jupiter", "nibiru", "scan1")] == [[], [], []]


@dataclass(frozen=True)
class Beside:
    """Ours, configured so, beside a keepalived configured so."""

    vrrp: str
    version: int = 3
    advert: str = "0.1"
    more: str = ""
    elements: tuple[str, ...] = ()
    vips: tuple[str, ...] = (f"{VIP}/24",)

    @property
    def vip(self) -> str:
        return self.vips[0].partition("/")[0]


V2 = Beside('version="2" advert="1"', version=2, advert="1")
PASSWORD = Beside(
    'version="2" advert="1" password="secret"', 2, "1", "authentication {\n auth_type PASS\n auth_pass secret\n }"
)
V3 = Beside(FAST, vips=(f"{VIP}/24", "10.10.74.75/32", "172.16.5.1/24"))
IPV6 = Beside(FAST, vips=(f"{VIP6}/64",))
UNICAST = Beside(
    FAST, more=f"unicast_src_ip {ADDRESSES['mars']}\n unicast_peer {{\n {ADDRESSES['jupiter']}\n }}",
    elements=(f'<peer ip="{ADDRESSES["mars"]}"/>',),
)  # fmt: skip
UNICAST6 = Beside(
    FAST, more=f"unicast_src_ip {six('mars')}\n unicast_peer {{\n {six('jupiter')}\n }}",
    elements=(f'<peer ip="{six("mars")}"/>',), vips=(f"{VIP6}/64",),
)  # fmt: skip


BESIDE = {"v2": V2, "password": PASSWORD, "v3": V3, "ipv6": IPV6, "unicast": UNICAST, "unicast6": UNICAST6}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_as_one_with_keepalived(tier: Tier, beside: Beside) -> None:
    """Each of the two as master and as backup, stopped and killed; the higher one preempts."""
    vip, vips = beside.vip, beside.vips

    def keepalived(priority: int) -> None:
        tier.keepalived("mars", priority, version=beside.version, advert=beside.advert, vips=vips, more=beside.more)

    tier.start("jupiter", 100, beside.vrrp, *beside.elements, vips=vips)
    tier.await_holder("jupiter", vip)
    keepalived(90)
    tier.until(lambda: "Entering BACKUP STATE" in tier.node("mars").log("keepalived"), "keepalived is the backup")
    tier.stop("jupiter")  # says so: keepalived takes over after the skew
    tier.await_holder("mars", vip)
    tier.start("jupiter", 100, beside.vrrp, *beside.elements, vips=vips)
    tier.await_holder("jupiter", vip)  # preempts
    tier.stop_keepalived("mars")
    keepalived(110)
    tier.await_holder("mars", vip)  # and is preempted
    assert tier.router("jupiter", 6 if ":" in vip else 4)["master_priority"] == 110
    tier.stop_keepalived("mars")  # priority 0
    tier.await_holder("jupiter", vip)
    assert tier.alarms("jupiter") == []
    assert all(tier.holds("jupiter", each.partition("/")[0]) for each in vips)
    dropped = tier.router("jupiter", 6 if ":" in vip else 4)["counters"]["dropped"]
    assert dropped == {}


def test_who_does_not_preempt_and_the_first_of_equals(tier: Tier) -> None:
    tier.keepalived("mars", 90, version=3, advert="0.1")
    tier.await_holder("mars")
    tier.start("jupiter", 100, f'{FAST} preempt="0"')
    tier.start("nibiru", 90, f"{FAST}")  # equal to keepalived, and of a lower address
    tier.start("scan1", 255, f'{FAST} preempt_delay="600"')  # no owner waits: it preempts at once
    tier.await_holder("scan1")
    tier.stop("scan1")
    tier.until(lambda: len(tier.holders()) == 1 and tier.holders() != ["scan1"], "one of the others")
    tier.await_holder("jupiter")  # of those who are there, the highest
    tier.stop_keepalived("mars")
    tier.keepalived("mars", 120, version=3, advert="0.1", more="nopreempt")
    tier.start("scan2", 100, FAST)
    tier.until(lambda: tier.router("scan2")["master"] == ADDRESSES["jupiter"], "scan2 hears its equal")
    assert tier.holders() == ["jupiter"]
    tier.node("jupiter").kill()
    tier.await_holder("mars")


def test_every_disagreement_is_an_alarm_told_once(tier: Tier) -> None:
    tier.start("jupiter", 100, "")
    tier.await_holder("jupiter")
    cases: list[tuple[str, dict[str, object]]] = [
        ("another password|a password", {"more": "authentication {\n auth_type PASS\n auth_pass other\n }"}),
        ("an authentication header (AH)", {"more": "authentication {\n auth_type AH\n auth_pass other\n }"}),
        ("advertises every 2 s, here every 1 s", {"advert": "2"}),
        ("VRRP version 3, here 2", {"version": 3}),
        ("in use by another group: 10.10.74.99", {"vips": ("10.10.74.99/24",)}),
        ("other virtual addresses: 10.10.74.74, 10.10.74.99", {"vips": (f"{VIP}/24", "10.10.74.99/24")}),
    ]
    for said, peer in cases:
        tier.keepalived("mars", 10, **{"state": "MASTER"} | peer)  # type: ignore[arg-type]
        words = said.split("|")
        tier.until(lambda words=words: any(w in a for w in words for a in tier.alarms("jupiter")), said)  # type: ignore[misc]
        assert tier.holds("jupiter")
        tier.stop_keepalived("mars")
    told = [
        line for line in tier.node("jupiter").log().splitlines() if "VRRP version 3, here 2" in line and "over:" not in line
    ]
    assert len(told) == 1, told
    for reason in ("password", "authentication", "interval", "version", "vrid"):
        assert tier.router("jupiter")["counters"]["dropped"].get(reason, 0) > 0, reason


FORGED = """
import socket, struct, sys
sys.path.insert(0, sys.argv[1])
from director.packets import encode
from director.model import Advertisement
vip, own, group = sys.argv[2:5]
good = encode(Advertisement(own, 2, 51, 254, 1.0, (vip,)), group)
cases = [(good, 254), (good[:6] + b"\\0\\0" + good[8:], 255), (good[:-1], 255), (good + b"\\0" * 8, 255),
         (b"\\x51" + good[1:], 255), (b"\\x22" + good[1:], 255), (b"", 255), (b"\\xff" * 200, 255)]
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
for _ in range(20):
    for message, ttl in cases:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        s.sendto(message, (group, 0))
"""


def test_bad_adverts_are_counted_and_change_nothing(tier: Tier) -> None:
    tier.start("jupiter", 100, "")
    tier.await_holder("jupiter")
    sent = tier.client.run(sys.executable, "-c", FORGED, os.getcwd(), VIP, ADDRESSES["client"], "224.0.0.18")
    assert sent.returncode == 0, sent.stderr
    tier.until(lambda: sum(tier.router("jupiter")["counters"]["dropped"].values()) >= 160, "all are counted")
    dropped = tier.router("jupiter")["counters"]["dropped"]
    assert dropped == {"ttl": 20, "checksum": 20, "length": 60, "version": 40, "type": 20}, dropped
    assert tier.router("jupiter")["changes"] == 2 and tier.holders() == ["jupiter"]


def test_killed_hung_unplugged_and_without_an_interface(tier: Tier) -> None:
    tier.start("jupiter", 100, FAST)
    tier.start("nibiru", 90, FAST)
    tier.await_holder("jupiter")
    jupiter = tier.node("jupiter")
    jupiter.sh(f"ip addr del {VIP}/24 dev eth0")
    tier.until(lambda: f"virtual address {VIP} was removed from eth0" in jupiter.log(), "that is told")
    tier.await_holder("jupiter")
    with tier.watched() as seen:
        jupiter.kill()
        tier.await_holder("nibiru")  # alone: the kernel has taken the address from the dead one
    assert seen == [0.0]  # and before that, the dead one was silent
    jupiter.sh("nft flush ruleset")
    tier.start("jupiter", 100, FAST)
    tier.await_holder("jupiter")
    jupiter.sh("nft flush ruleset")
    tier.until(lambda: "arp director_lease were removed by another program: repaired" in jupiter.log(), "that is mended")
    with tier.watched() as seen:
        jupiter.kill(signal.SIGSTOP)
        tier.await_holder("nibiru")
    assert seen == [0.0]
    jupiter.kill(signal.SIGCONT)
    tier.await_holder("jupiter")
    tier.cable("jupiter", whole=False)
    tier.await_holder("nibiru")
    assert tier.status("jupiter")["role"] == "fault"
    tier.cable("jupiter", whole=True)
    tier.await_holder("jupiter")
    jupiter.sh("ip link set eth0 down")
    tier.await_holder("nibiru")
    jupiter.address()
    tier.await_holder("jupiter")
    jupiter.sh("ip link set eth0 name other")
    tier.await_holder("nibiru")
    jupiter.sh("ip link set other name eth0")
    tier.await_holder("jupiter")
    tier.node("nibiru").kill(signal.SIGSTOP)  # a backup that stood still has heard its master all the same
    time.sleep(1.0)
    changes = tier.router("jupiter")["changes"]
    tier.node("nibiru").kill(signal.SIGCONT)
    tier.until(lambda: tier.router("nibiru")["state"] == "backup", "nibiru answers")
    assert tier.router("jupiter")["changes"] == changes and tier.holders() == ["jupiter"]
    tier.until(lambda: tier.alarms("jupiter") == [], "nothing is wrong any more")


def test_a_clean_stop_and_the_virtual_routers_own_mac(tier: Tier) -> None:
    """The designated successor takes over at once; clients keep the MAC that they know."""
    virtual, vips = f'{FAST} mac="virtual"', (f"{VIP}/24", f"{VIP6}/64")
    tier.start("jupiter", 100, virtual, vips=vips)
    tier.await_holder("jupiter")
    tier.start("nibiru", 90, virtual, vips=vips)
    macs = {VIP: "00:00:5e:00:01:33", VIP6: "00:00:5e:00:02:33"}
    for director in ("jupiter", "nibiru"):
        for vip, mac in macs.items():
            tier.await_holder(director, vip)
            assert mac in tier.client.sh(f"ip neigh show {vip} dev eth0")
        assert tier.answering(*macs) == {vip: [mac] for vip, mac in macs.items()}
        if director == "jupiter":
            tier.until(lambda: tier.router("nibiru")["designated"], "nibiru is the designated successor")
            tier.stop("jupiter")
            assert "10.10.74.70 stops, and this node is its designated successor" in tier.node("nibiru").log()
    assert "vrrp" not in tier.node("jupiter").sh("ip link show")
    assert tier.node("jupiter").sh("cat /proc/sys/net/ipv4/conf/eth0/arp_ignore").strip() == "0"
    assert tier.alarms("nibiru") == []


def test_another_configuration_while_it_runs(tier: Tier) -> None:
    track = '<track interface="spare" weight="20"/>'
    tier.node("jupiter").sh(
        "ip link add spare type veth peer name spare-end && ip link set spare up && ip link set spare-end up"
    )
    tier.start("jupiter", 100, FAST)
    tier.await_holder("jupiter")
    more = (f"{VIP}/24", "10.10.74.75/24", f"{VIP6}/64")
    tier.write("jupiter", 100, FAST, track, vips=more[:2])
    tier.node("jupiter").kill(signal.SIGHUP)
    tier.await_holder("jupiter", "10.10.74.75")
    assert tier.router("jupiter")["changes"] == 2  # it was master all along
    tier.start("nibiru", 90, FAST, vips=more[:2])
    tier.node("jupiter").sh("ip link set spare down")
    tier.await_holder("nibiru")
    assert tier.router("jupiter")["effective_priority"] == 80
    tier.node("jupiter").sh("ip link set spare up")
    tier.await_holder("jupiter")
    file = tier.node("jupiter").module_xml
    file.write_text(file.read_text().replace("100ms", "soon"))
    refused = tier.node("jupiter").director_command("reload")
    assert refused.returncode == 1 and "module.xml:3" in refused.stderr and "left as it was" in refused.stderr
    tier.stop("nibiru")
    tier.write("jupiter", 100, FAST, vips=more)
    assert "vips" in tier.node("jupiter").director_command("reload").stdout
    tier.await_holder("jupiter", VIP6)
    tier.write("jupiter", 0, FAST, vips=more)
    tier.node("jupiter").director_command("reload")
    tier.until(lambda: tier.holders() == [], "priority 0 holds nothing")
    tier.node("jupiter").sh("ip link del spare")


def test_tcpdump_and_tshark_have_no_complaint(tier: Tier) -> None:
    """Adverts of both versions and families, with and without a password."""
    kinds = [
        ('version="2" advert="1" password="secret"', (f"{VIP}/24",), "VRRPv2, Advertisement, vrid 51, prio 99"),
        (FAST, (f"{VIP}/24", "10.10.74.75/24"), "VRRPv3, Advertisement, vrid 51, prio 99"),
        (FAST, (f"{VIP6}/64",), "VRRPv3, Advertisement, vrid 51, prio 99"),
    ]
    for vrrp, vips, words in kinds:
        tier.start("jupiter", 99, vrrp, vips=vips)
        tier.await_holder("jupiter", vips[0].partition("/")[0])
        tier.client.sh("timeout 10 tcpdump -i eth0 -c 3 -U -w /tmp/adverts proto 112 or ip6 proto 112 2>/dev/null")
        tier.stop("jupiter")
        said = tier.client.sh("tcpdump -nn -vvv -r /tmp/adverts 2>/dev/null")
        assert said.count(words) == 3 and "bad" not in said and "wrong" not in said, said
        fields = "-e vrrp.checksum.status -e _ws.expert.message -e _ws.malformed"
        fields = tier.client.sh(f"tshark -o vrrp.v3_checksum_as_in_v2:FALSE -r /tmp/adverts -T fields {fields} 2>/dev/null")
        assert [line.split() for line in fields.splitlines()] == [["1"]] * 3 or fields.split() == ["Good"] * 3, fields


def test_a_full_run_folder_is_told_and_ends_nobody(tier: Tier) -> None:
    """Without room it doesn't start, and says why; one that runs goes on, is reloaded and stopped, and leaves nothing."""
    jupiter, run = tier.node("jupiter"), "/run/director"
    redirect = '<port_redirect protocol="http" ports="80" to="9090"><check kind="none"/></port_redirect>'
    kept, loose = f"{run}/settings", "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"
    tier.start("jupiter", 100, FAST, redirect)
    tier.stop("jupiter")
    before = jupiter.sh(f"cat {loose}")

    def refused(options: str, fill: str = "true") -> None:
        jupiter.sh(f"mount -t tmpfs -o mode=755,{options} none {run}; {fill}")
        jupiter.start()
        assert jupiter.director is not None and jupiter.director.wait(20) == 1
        jupiter.director = None
        assert "director.pid" in jupiter.log() and "No space left on device" in jupiter.log(), jupiter.log()
        assert jupiter.sh(f"umount {run}; ls {run}") == ""

    refused("nr_inodes=1")  # the folder itself
    refused("size=4k", f"head -c 4096 /dev/zero >{run}/full")

    jupiter.sh(f"mount -t tmpfs -o mode=755,nr_inodes=3 none {run}")  # pid file, socket, and nothing else
    tier.start("jupiter", 100, FAST, redirect)
    tier.await_holder("jupiter")
    said = f"{kept} can't be written, so a killed director's settings stay: No space left on device"
    tier.until(lambda: any(said in each for each in tier.alarms("jupiter")), "it is told")
    time.sleep(6.0)  # longer than until the next look
    assert any(said in each for each in tier.alarms("jupiter"))
    tier.write("jupiter", 101, FAST, redirect)
    assert jupiter.director_command("reload").stdout == "changed: priority\n"
    assert tier.holders() == ["jupiter"]
    jupiter.sh(f"mount -o remount,nr_inodes=9 {run}")
    tier.until(lambda: tier.alarms("jupiter") == [], "there is room again")
    assert "nf_conntrack_tcp_loose" in jupiter.sh(f"cat {kept}")
    jupiter.sh(f"head -c 100000000 /dev/zero >{run}/full || true; mount -o remount,nr_inodes=5,size=4k {run} || true")
    tier.stop("jupiter")
    assert jupiter.sh(f"rm {run}/full; ls -A {run}; nft list tables; ip -o addr show | grep {VIP} || true") == ""
    assert jupiter.sh(f"cat {loose}") == before
    jupiter.sh(f"umount {run}")


def test_a_killed_director_s_leftovers_go_when_the_init_script_is_to_stop_it(tier: Tier) -> None:
    """The virtual MAC, the addresses, their lease and the rules; the kernel's settings are as they were."""
    jupiter, vips = tier.node("jupiter"), (f"{VIP}/24", f"{VIP6}/64")
    redirect = '<port_redirect protocol="http" ports="80" to="9090"><check kind="none"/></port_redirect>'
    shown = "sysctl -a 2>/dev/null | grep -E 'nf_conntrack_(tcp_|checksum)|conf.(all|eth0).(arp_|rp_|.*redirects)'"
    cases: list[tuple[str, tuple[str, ...]]] = [(f'{FAST} mac="virtual"', (redirect,)), (FAST, (redirect,)), (FAST, ())]
    for vrrp, elements in cases:
        tier.start("scan1", 100, vrrp, *elements)  # the kernel's modules are loaded
        tier.stop("scan1")
        before = jupiter.sh(shown)
        tier.start("jupiter", 100, vrrp, *elements, vips=vips)
        tier.await_holder("jupiter", VIP6)
        jupiter.kill()
        assert "director" in jupiter.sh("nft list tables")
        done = jupiter.run(sys.executable, "-m", "director.custodian", "--leftovers")  # what the init script calls
        assert done.returncode == 0, done.stderr
        assert VIP not in jupiter.sh("ip -o addr show") and "vrrp" not in jupiter.sh("ip link show")
        tier.until(lambda: jupiter.sh("nft list tables") == "", "no rules are left")
        tier.until(lambda before=before: jupiter.sh(shown) == before, "the settings are as they were")  # type: ignore[misc]
        assert jupiter.sh("ls /run/director").split() in ([], ["control", "director.pid"])
