"""The proxy tier on the lab's machines: two directors, three scanning nodes, a keepalived, clients with long downloads and idle
connections.

Promise: whatever happens to one machine, the clients of the others notice nothing, and everybody is served again when it is
over. Source: Skyhigh, "Troubleshooting"; issue "director".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from bench.proxy_clients import Download, Idle
from lab.api import Lab
from tests.lab.proxy_tier import ADDRESSES, MEMBERS, SOURCES, TIER, VIP, Tier

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def built() -> Iterator[Tier]:
    with Lab(f"tier-{os.getpid()}", TIER, packages=("keepalived",)) as lab:
        tier = Tier(lab)
        try:
            tier.install()
            yield tier
        finally:
            tier.close()


@pytest.fixture
def tier(built: Tier) -> Iterator[Tier]:
    """jupiter directs, five share evenly, nobody has connections."""
    built.lab.heal()
    built.await_director("jupiter")
    built.await_even("jupiter")
    yield built
    built.clients.cancel()


def idle_ones(tier: Tier) -> tuple[dict[str, Idle], dict[str, str]]:
    """Connections that say nothing for the time being, and who serves them."""
    idle = {source: tier.clients.idle(source) for source in SOURCES[::2]}
    return idle, {source: each.says()[0] for source, each in idle.items()}


def of_others(downloads: list[Download], *names: str) -> list[Download]:
    return [each for each in downloads if each.node not in names]


def still(idle: dict[str, Idle], served: dict[str, str], *but: str) -> None:
    for source, node in served.items():
        if node not in but:
            assert idle[source].says()[0] == node


def test_the_commands_of_a_group_just_put_up(tier: Tier) -> None:
    for name in MEMBERS:
        check = tier.node(name).run(["director", "check"], check=False)
        assert (check.stdout, check.code) == ("no mistake was found\n", 0), name
        assert tier.node(name).run(["mwg-mon", "-c"]).stdout == (
            "current state: ok\nport 9090 reachable\nport 2121 reachable\n"
        )
    shown = tier.node("jupiter").run(["mfend-lb", "-s"]).stdout
    assert [shown.count(f"state: {word}\n") for word in ("NETWORK", "REDUNDANT", "OK")] == [1, 1, 5]
    for source in SOURCES[:10]:
        said = tier.node("scan2").run(["director", "explain", source]).stdout
        node = tier.served_by(source)
        assert said.startswith(f"http 80,443 → 9090: {node} {ADDRESSES[node]}\n")
    assert "ProxyHA" in tier.node("scan1").run(["manager-ctl", "status"]).stdout
    assert tier.node("jupiter").run(["/etc/init.d/director", "status"]).code == 0


def test_the_references_troubleshooting(tier: Tier) -> None:
    """The director goes down, its backup takes the VIP; it is back, and takes it back. Clients of the others notice nothing."""
    downloads = tier.downloads()
    idle, served = idle_ones(tier)
    since = len(tier.node("nibiru").log())
    tier.lab.power_off("jupiter")
    tier.await_director("nibiru")
    name = "VRRP_Instance(51)"
    garp = f"{name} Sending gratuitous ARPs on eth0 for {VIP}"
    takes = (
        f"{name} Transition to MASTER STATE", f"{name} Entering MASTER STATE", f"{name} setting protocol VIPs.", garp,
        "set lbnetwork 1", "state=master previous=backup", f"TX Adding IPV4 Address {VIP}",
    )  # fmt: skip
    tier.await_words("nibiru", since, *takes, garp)
    tier.await_words("nibiru", since, *takes[:1], f"TX Scanning partner has failed {ADDRESSES['jupiter']}")
    tier.await_even("nibiru", 4)
    shown = tier.node("nibiru").run(["mfend-lb", "-s"]).stdout
    assert shown.startswith("device: nibiru\n") and "state: NETWORK\n" in shown and "state: FAILED\n" in shown
    tier.go_on(of_others(downloads, "jupiter"))
    still(idle, served, "jupiter")
    assert {tier.served_by(source) for source in SOURCES} == set(MEMBERS) - {"jupiter"}

    lets_go = len(tier.node("nibiru").log())
    since = len(tier.node("jupiter").log())
    tier.lab.power_on("jupiter")
    tier.serve("jupiter")
    tier.await_director("jupiter")
    tier.await_words("jupiter", since, f"{name} forcing a new MASTER election", *takes)
    tier.await_words(
        "nibiru", lets_go, f"{name} Received higher prio advert", f"{name} Entering BACKUP STATE",
        f"{name} removing protocol VIPs.", "set lbnetwork 0", "state=backup previous=master", f"TX Removing IPV4 Address {VIP}",
    )  # fmt: skip
    tier.await_even("jupiter")
    tier.go_on(of_others(downloads, "jupiter"))
    still(idle, served, "jupiter")
    assert {tier.served_by(source) for source in SOURCES} == set(MEMBERS)


def test_a_director_is_shut_down_and_a_node_drained_and_no_connection_breaks(tier: Tier) -> None:
    downloads = tier.downloads()
    idle, served = idle_ones(tier)
    tier.node("scan3").run(["director", "drain", "scan1"])
    tier.until(lambda: "scan1" not in tier.buckets("scan3"), "scan1 to have no buckets")
    tier.turn("jupiter", on=False)
    tier.await_director("nibiru")
    tier.go_on(downloads, 100)  # longer than a silent member is waited for
    still(idle, served)
    tier.turn("jupiter", on=True)
    tier.await_director("jupiter")
    tier.node("scan1").run(["director", "drain", "--undo"])
    tier.await_even("jupiter")
    tier.go_on(downloads)
    still(idle, served)


def test_other_redirects_while_clients_are_served(tier: Tier) -> None:
    """A port more on every node, one after the other, and without it again."""
    downloads = tier.downloads()
    idle, served = idle_ones(tier)
    more = {"http": ("80,443,8080", 9090), "ftp": ("21", 2121), "socks": ("1080", 9090)}
    for redirects, ports in ((more, "80,443,8080"), (None, "80,443")):
        for name in MEMBERS:
            tier.write(name, redirects)
            said = tier.node(name).run(["director", "reload"]).stdout
            assert said == "changed: redirects\n"
        tier.await_even("jupiter", ports=ports)
        tier.go_on(downloads)
        still(idle, served)
        if redirects:
            tier.await_even("jupiter", ports="1080")
            assert all(tier.served_by(source, 8080) == tier.served_by(source) for source in SOURCES[:10])
    assert tier.holders() == ["jupiter"]


def test_a_director_killed_hung_or_half_cut_off_is_replaced_and_never_two_answer_for_long(tier: Tier) -> None:
    """Longer than the lease, that is: 3 s at adverts of a second, and the second that the kernel rounds up."""
    downloads = tier.downloads()
    jupiter = tier.node("jupiter")
    with tier.watched() as seen:
        for fault in (signal.SIGKILL, signal.SIGSTOP):
            since = len(tier.node("nibiru").log())
            jupiter.kill("director", fault)
            tier.await_words("nibiru", since, "Entering MASTER STATE")
            tier.await_director("jupiter")  # the Manager has started it again, or killed it before, as it hung
            tier.await_even("jupiter")
            tier.go_on(of_others(downloads, "jupiter"))
    assert seen[0] < 4.5, seen
    for direction in ("in", "out"):  # it hears nobody, and is heard; and the other way round
        since = len(tier.node("nibiru").log())
        tier.lab.cut("jupiter:eth0", one_way=direction)
        tier.await_words("nibiru", since, "Entering MASTER STATE")
        said = "nothing reaches this node" if direction == "in" else "a second master"
        tier.until(lambda said=said: any(said in each for each in tier.alarms("jupiter")), f"jupiter to tell: {said}")  # type: ignore[misc]
        tier.go_on(of_others(downloads, "jupiter"))
        tier.lab.heal()
        tier.await_director("jupiter")
        tier.await_even("jupiter")
    assert {tier.served_by(source) for source in SOURCES} == set(MEMBERS)
    tier.until(lambda: tier.alarms("jupiter") == [], "all alarms to be over")


def test_a_keepalived_takes_over_from_both_directors_and_gives_back(tier: Tier) -> None:
    tier.keepalived(50)
    try:
        for name in ("nibiru", "jupiter"):
            tier.node(name).sh("/etc/init.d/manager stop; /etc/init.d/director stop")
        tier.await_director("mars")
        for name in ("nibiru", "jupiter"):
            tier.node(name).sh("/etc/init.d/manager start")
            tier.await_director(name)
        tier.await_even("jupiter")
        assert [tier.alarms(name) for name in MEMBERS] == [[]] * 5
        assert {tier.served_by(source) for source in SOURCES} == set(MEMBERS)
    finally:
        tier.stop_keepalived()
