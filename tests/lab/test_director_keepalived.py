"""Directors beside keepalived in configurations of its own: who is master, that one node answers and no other, what is said.

Each configuration is gone through with both as master and as backup, stopped and killed.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.lab.director_lab import ADDRESSES, VIP, VIP6, Tier

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.director_lab"]

FAST = 'version="3" advert="100ms"'
LOCAL = "fe80::74"


@dataclass(frozen=True)
class Beside:
    """A configuration of keepalived, and ours that goes with it."""

    ours: str = FAST
    vips: tuple[str, ...] = (f"{VIP}/24",)
    elements: tuple[str, ...] = ()
    #: what keepalived has in its instance, besides, before it, and in its global_defs; its addresses, if not ours
    theirs: str = ""
    before: str = ""
    general: str = ""
    listed: tuple[str, ...] = ()
    version: int = 3
    advert: str = "0.1"
    #: ours; keepalived's before and after
    priority: int = 100
    low: int = 90
    high: int = 110
    #: of the client's network
    asked: tuple[str, ...] = (VIP,)
    family: int = 4
    #: whoever is master, until it ends
    stays: bool = False


MANY = tuple(f"10.10.74.{number}/24" for number in range(150, 190))
MANY6 = tuple(f"fd00:74::1:{number:x}/64" for number in range(1, 26))
EXCLUDED = "virtual_ipaddress_excluded {{\n {}\n }}"
SYNC = """vrrp_instance VI_2 {
 state BACKUP
 interface eth0
 virtual_router_id 52
 priority 100
 advert_int 0.5
 virtual_ipaddress {
 10.10.74.80/24 dev eth0
 }
}
vrrp_sync_group G {
 group {
 VI_1
 VI_2
 }
}"""
CASES = {
    "owner, strict, virtual MAC": Beside(
        priority=254, high=255, general="vrrp_strict", theirs="use_vmac vrrp.51\n vmac_xmit_base"
    ),
    "many, on two interfaces, another source, delays": Beside(
        'version="3" advert="0.5" preempt_delay="1"', vips=MANY, advert="0.5",
        elements=('<virtual_ip ip="10.20.0.1/24" interface="spare"/>',), listed=(*MANY, "10.20.0.1/24 dev spare"),
        theirs="preempt_delay 1\n mcast_src_ip 10.10.74.89", asked=tuple(each.partition("/")[0] for each in MANY),
    ),
    "version 2, strict, IPv6 beside": Beside(
        'version="2" advert="1"', version=2, advert="1", general="vrrp_strict", asked=(VIP, VIP6, "10.10.74.75"),
        elements=(f'<virtual_ip ip="{VIP6}/64" advertised="0"/>', '<virtual_ip ip="10.10.74.75/24" advertised="0"/>'),
        theirs=EXCLUDED.format(f"{VIP6}/64 dev eth0\n 10.10.74.75/24 dev eth0"),
    ),
    "IPv6, link-local first, many, virtual MAC, strict": Beside(
        vips=(f"{LOCAL}/64", *MANY6), asked=(LOCAL, "fd00:74::1:19"), family=6, theirs="use_vmac", general="vrrp_strict"
    ),
    "IPv6, link-local first, who came first stays": Beside(
        f'{FAST} preempt="0"', vips=(f"{LOCAL}/64", f"{VIP6}/64"), asked=(LOCAL, VIP6), family=6, stays=True, theirs="nopreempt"
    ),
    "virtual MACs, sync group, announcements": Beside(
        'version="3" advert="0.05" mac="virtual"', advert="0.05", before=SYNC,
        theirs="use_vmac\n no_accept\n garp_master_refresh 1\n garp_master_refresh_repeat 2\n garp_lower_prio_repeat 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_beside_keepalived(tier: Tier, case: Beside) -> None:
    # without ARP at its end, which would else answer for an address of spare: a rival
    spare = "ip link add spare up type veth peer name spare-end && ip link set spare-end arp off up"
    for name in ("jupiter", "mars"):
        tier.node(name).sh(f"ip link show spare >/dev/null 2>&1 || {{ {spare}; }}")
    tier.node("mars").sh("ip addr replace 10.10.74.89/24 dev eth0")
    first = case.asked[0]

    def keepalived(priority: int, reload: bool = False) -> None:
        tier.keepalived(
            "mars", priority, version=case.version, advert=case.advert, vips=case.listed or case.vips, more=case.theirs,
            general=case.general, before=case.before, reload=reload,
        )  # fmt: skip

    def start() -> None:
        tier.start("jupiter", case.priority, case.ours, *case.elements, vips=case.vips)

    def alone(name: str) -> None:
        """Holds all of them, and answers, and nobody else does."""
        held = [each.partition("/")[0] for each in case.vips]
        tier.until(lambda: tier.holders(first) == [name] and all(tier.holds(name, each) for each in held), f"{name} holds all")
        tier.until(lambda: all(len(macs) == 1 for macs in tier.answering(*case.asked).values()), "one answers for each")

    start()
    alone("jupiter")
    keepalived(case.low)
    tier.until(lambda: "Entering BACKUP STATE" in tier.node("mars").log("keepalived"), "keepalived is the backup")
    tier.stop("jupiter")
    alone("mars")
    start()
    if case.stays:
        tier.until(lambda: tier.router("jupiter", case.family)["master_priority"] == case.low, "the master is heard")
        alone("mars")
        tier.stop_keepalived("mars")
    alone("jupiter")
    keepalived(case.high, reload=not case.stays)
    if case.stays:
        tier.until(lambda: "Entering BACKUP STATE" in tier.node("mars").log("keepalived"), "keepalived is the backup")
        alone("jupiter")
        tier.stop("jupiter")
        alone("mars")
        start()
    alone("mars")
    tier.until(lambda: tier.router("jupiter", case.family)["master_priority"] == case.high, "it is known as the master")
    assert tier.alarms("jupiter") == []
    tier.stop_keepalived("mars")
    alone("jupiter")
    assert tier.alarms("jupiter") == []
    assert tier.router("jupiter", case.family)["counters"]["dropped"] == {}


def test_a_keepalived_that_is_killed_lowered_or_learns(tier: Tier) -> None:
    """Its own script lowers it; killed, it keeps the address for ever, which is an alarm here until it is over."""
    script = (
        'vrrp_script well {\n script "/usr/bin/test -e /tmp/well"\n interval 1\n weight 20\n fall 1\n rise 1\n user root\n}'
    )
    tier.node("mars").sh("touch /tmp/well")
    tier.start("jupiter", 100, FAST)
    tier.keepalived(
        "mars", 90, version=3, advert="0.2", more="track_script {\n well\n }", before=script, general="enable_script_security"
    )
    tier.await_holder("mars")  # 110 with its script
    said = f"{ADDRESSES['mars']}, virtual router 51: advertises every 0.2 s, here every 0.1 s"
    tier.until(lambda: any(said in each for each in tier.alarms("jupiter")), "another interval is told, and learnt")
    tier.node("mars").sh("rm /tmp/well")
    tier.await_holder("jupiter")
    tier.node("mars").sh("touch /tmp/well")
    tier.await_holder("mars")
    keepalived = tier.node("mars").keepalived
    assert keepalived is not None
    tier.node("mars").sh("pkill -KILL -P $(cat /run/keepalived.pid) ; kill -KILL $(cat /run/keepalived.pid)")
    keepalived.wait(10)
    tier.until(lambda: tier.holds("jupiter"), "jupiter takes over from the dead one")
    tier.until(lambda: any("claims the virtual address" in each for each in tier.alarms("jupiter")), "it still answers")
    tier.node("mars").sh(f"ip addr del {VIP}/24 dev eth0")
    tier.await_holder("jupiter")
    tier.until(lambda: tier.alarms("jupiter") == [], "all is well")


@pytest.mark.parametrize(("version", "advert"), [(3, "2.55"), (3, "40.95"), (2, "255")])
def test_adverts_that_are_rare(tier: Tier, version: int, advert: str) -> None:
    """Up to what an advertisement can say. The owner doesn't wait, and one that stops says so."""
    ours = f'version="{version}" advert="{advert}"'
    tier.start("jupiter", 255, ours)
    tier.await_holder("jupiter")
    tier.keepalived("mars", 254, version=version, advert=advert)
    tier.until(lambda: "Entering BACKUP STATE" in tier.node("mars").log("keepalived"), "keepalived is the backup")
    tier.stop("jupiter")
    tier.await_holder("mars")
    tier.start("jupiter", 255, ours)
    tier.await_holder("jupiter")
    tier.until(lambda: tier.alarms("jupiter") == [], "nothing is wrong")
    router = tier.router("jupiter")
    assert router["advert"] == float(advert) and router["counters"]["dropped"] == {}
    tier.stop_keepalived("mars")
    assert tier.holders() == ["jupiter"]


def test_a_keepalived_on_another_multicast_group_is_an_alarm(tier: Tier) -> None:
    """The two can't hear each other; that both hold the address shows in ARP."""
    tier.start("jupiter", 100, FAST)
    tier.await_holder("jupiter")
    tier.keepalived("mars", 110, version=3, advert="0.1", general="vrrp_mcast_group4 224.0.0.99")
    tier.until(lambda: tier.holds("mars"), "keepalived is master, too")
    tier.until(lambda: any("claims the virtual address" in each for each in tier.alarms("jupiter")), "it is told")
    tier.stop_keepalived("mars")
    tier.until(lambda: tier.alarms("jupiter") == [], "it is over")
    tier.await_holder("jupiter")


def test_a_keepalived_between_two_directors_that_stands_still_and_goes_on(tier: Tier) -> None:
    tier.start("jupiter", 100, FAST)
    tier.start("nibiru", 90, FAST)
    tier.await_holder("jupiter")
    tier.keepalived("mars", 95, version=3, advert="0.1")
    tier.until(lambda: "Entering BACKUP STATE" in tier.node("mars").log("keepalived"), "keepalived is the backup")
    tier.stop("jupiter")  # nibiru is its designated successor, and gives way
    tier.await_holder("mars")
    tier.until(lambda: tier.router("nibiru")["master_priority"] == 95, "nibiru hears its master")
    pids = "$(cat /run/keepalived.pid) $(pgrep -P $(cat /run/keepalived.pid))"
    tier.node("mars").sh(f"kill -STOP {pids}")
    tier.until(lambda: tier.holds("nibiru"), "nibiru takes over from the one that stands still")
    tier.until(lambda: any("claims the virtual address" in each for each in tier.alarms("nibiru")), "which still answers")
    tier.node("mars").sh(f"kill -CONT {pids}")
    tier.await_holder("mars")
    tier.start("jupiter", 100, FAST)
    tier.await_holder("jupiter")
    tier.node("jupiter").kill()
    tier.await_holder("mars")
    tier.stop_keepalived("mars")
    tier.await_holder("nibiru")
    tier.until(lambda: tier.alarms("nibiru") == [], "all is well")
