"""A proxy group with real daemons: who serves whom, what clients notice, and what the commands say."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from bench.proxy_daemons import ADDRESSES, MEMBERS, SOURCES, Daemons

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with Daemons(buckets=256) as made:  # the least; the other tests want the processors, too
        yield made


@pytest.fixture
def group(daemons: Daemons) -> Daemons:
    """jupiter directs, all five share evenly."""
    daemons.await_director("jupiter")
    daemons.await_even()
    return daemons


def test_connections_survive_the_directors_move_a_drain_and_a_flushed_ruleset(group: Daemons) -> None:
    downloads = group.downloads()
    assert {each.node for each in downloads} == set(MEMBERS)
    idle = {source: group.clients.idle(source) for source in SOURCES[:15]}
    served = {source: each.says()[0] for source, each in idle.items()}

    # a clean move of the director, and back
    jupiter = group.node("jupiter")
    jupiter.configure(priority=50)
    at = time.monotonic()
    assert "priority" in jupiter.run("cli", "reload").stdout
    group.await_director("nibiru")
    group.go_on(downloads)
    assert max(each.gap(at - 0.1) for each in downloads) < 2.0
    assert sorted(group.buckets("nibiru").values()) == group.even(5)
    jupiter.configure(priority=99)
    jupiter.run("cli", "reload")
    group.await_director("jupiter")
    group.go_on(downloads)

    # a node is drained, asked of another one
    assert group.node("mars").run("cli", "drain", "scan1").stdout.startswith("scan1 drains")
    group.until(lambda: "scan1" not in group.buckets("mars"), "scan1 has no buckets")
    assert group.member("nibiru", "scan1")["state"] == "draining"
    group.go_on(downloads)
    assert {source: each.says()[0] for source, each in idle.items()} == served
    assert "scan1" not in {group.served_by(source) for source in SOURCES}
    assert group.node("scan1").run("cli", "drain", "--undo").returncode == 0
    group.await_even("scan2")
    group.go_on(downloads)

    # another program flushes the director's ruleset
    jupiter.wire.ns.run(["nft", "flush", "ruleset"])
    group.until(lambda: "removed by another program: repaired" in jupiter.log(), "it is noticed and said")
    group.go_on(downloads)
    assert {source: each.says()[0] for source, each in idle.items()} == served


def test_a_stopped_directors_connections_go_on_and_nothing_is_left_when_they_end(group: Daemons) -> None:
    downloads = group.downloads()
    idle = {source: group.clients.idle(source) for source in SOURCES}
    served = {source: each.says()[0] for source, each in idle.items()}
    assert "jupiter" in served.values()
    jupiter = group.node("jupiter")
    jupiter.end()
    group.await_director("nibiru")
    group.until(lambda: "jupiter" not in group.buckets("nibiru"), "its buckets are served by others")
    group.go_on(downloads, 100)  # longer than a silent member is waited for
    assert {source: each.says()[0] for source, each in idle.items()} == served
    assert group.member("mars", "jupiter")["state"] == "stopped"
    group.clients.cancel()
    group.until(lambda: "director" not in jupiter.wire.ns.run(["nft", "list", "tables"]), "its rules are removed")
    jupiter.start()
    group.await_director("jupiter")
    group.await_even()


def test_a_dead_port_takes_only_that_port_away_and_commands_say_so(group: Daemons) -> None:
    downloads = group.downloads()
    before = {source: group.served_by(source) for source in SOURCES}
    assert {group.served_by(source, 21) for source in SOURCES} == set(MEMBERS)
    scan2 = group.node("scan2")
    scan2.end_proxy(2121)
    group.until(lambda: "scan2" not in group.buckets("jupiter", "tcp 21"), "scan2 gets no clients of FTP")
    assert "scan2" not in {group.served_by(source, 21) for source in SOURCES}
    assert {source: group.served_by(source) for source in SOURCES} == before
    group.go_on(downloads, 5)
    group.until(lambda: group.member("mars", "scan2")["state"] == "some ports", "any member shows it")
    done = scan2.run("swg_mon", "-c")
    assert done.stdout == "current state: failure\nport 9090 reachable\nport 2121 not reachable\n"
    assert done.returncode == 1
    assert "ftp 21 → 2121: connection refused" in scan2.run("swg_mon", "-v", "-c").stdout
    for words in ("swg-mon: port 2121 not reachable: connection refused", "swg-mon: current state: failure"):
        assert words in scan2.log()
    assert "nobody listens on port 2121" in scan2.run("cli", "check").stdout
    scan2.serve(2121)
    group.until(lambda: group.buckets("jupiter", "tcp 21").get("scan2", 0) >= group.even(5)[0], "scan2 has its share again")

    # what the commands say
    assert group.node("jupiter").run("swg_mon", "-c").stdout.startswith("current state: ok\n")
    devices = [line for line in group.node("jupiter").run("mfend_lb", "-s").stdout.splitlines() if "device" in line]
    assert devices[:2] == ["device: jupiter", "device: __SELF__"] and len(devices) == 7
    devices = [line for line in group.node("scan1").run("mfend_lb", "-s").stdout.splitlines() if "device" in line]
    assert devices == ["device: jupiter", "device: jupiter", "device: __SELF__"]
    for source in SOURCES[:5]:
        said = group.node("nibiru").run("cli", "explain", source).stdout
        assert said.startswith(f"http 80,443 → 9090: {before[source]} {ADDRESSES[before[source]]}\n")
    check = group.node("mars").run("cli", "check")
    assert (check.stdout, check.returncode) == ("no mistake was found\n", 0)


def test_a_killed_director_that_is_back_takes_the_buckets_over(group: Daemons) -> None:
    assert group.node("scan1").run("cli", "drain").returncode == 0
    group.until(lambda: "scan1" not in group.buckets("jupiter"), "scan1 has no buckets")
    before = {source: group.served_by(source) for source in SOURCES}
    downloads = [each for each in group.downloads() if each.node != "jupiter"]
    group.node("jupiter").end(hard=True)
    group.await_director("nibiru")
    group.until(lambda: "jupiter" not in group.buckets("nibiru"), "its buckets are served by others")
    group.node("jupiter").start()
    group.await_director("jupiter")
    group.go_on(downloads)
    group.until(lambda: sorted(group.buckets("jupiter").values()) == group.even(4), "four share evenly")
    after = {source: group.served_by(source) for source in SOURCES}
    elsewhere = [source for source in SOURCES if "jupiter" not in (before[source], after[source])]
    assert {source: after[source] for source in elsewhere} == {source: before[source] for source in elsewhere}
    assert group.node("jupiter").run("cli", "drain", "scan1", "--undo").returncode == 0
    group.await_even("scan1")


def test_a_killed_director_that_is_started_at_once_breaks_nothing_of_others(group: Daemons) -> None:
    """As the Manager does it: clients go on sending to its MAC, and its rules go on until it knows who owns what."""
    downloads = group.downloads()
    idle = {source: group.clients.idle(source) for source in SOURCES[:15]}
    served = {source: each.says()[0] for source, each in idle.items()}
    killed = ("jupiter", "scan1")
    downloads = [each for each in downloads if each.node not in killed]  # theirs go on if they are back within a second
    for name in killed:
        group.node(name).end(hard=True)
        group.node(name).start()
        group.go_on(downloads, 100)
        group.await_director("jupiter")
        group.await_even("scan2")
    group.go_on(downloads)
    assert all(each.says()[0] == served[source] for source, each in idle.items() if served[source] not in killed)


def test_a_kernel_without_nftables_is_told_and_the_node_gets_no_clients(group: Daemons) -> None:
    """Nor does it direct, if another one can."""
    downloads = group.downloads()
    without = (sys.executable, "-m", "tests.lab.no_nftables")
    for name in ("scan2", "jupiter"):
        node = group.node(name)
        node.end()
        node.wire.ns.run(["nft", "flush", "ruleset"])  # such a kernel has none
        node.start(*without)
        group.until(lambda node=node: "this node can't share out clients" in node.log(), "it is told")  # type: ignore[misc]
        assert "CONFIG_NETFILTER_NETLINK" in node.log()
        director = "jupiter" if name == "scan2" else "nibiru"
        group.await_director(director)
        group.until(lambda d=director, n=name: n not in group.buckets(d), f"{name} gets no clients")  # type: ignore[misc]
        assert group.member("mars", name)["state"] == "no rules"
        downloads = [each for each in downloads if each.node != name]
        group.go_on(downloads)
        node.end()
        node.start()
        group.await_director("jupiter")
        group.until(lambda n=name: group.buckets("jupiter").get(n, 0) > 25, f"{name} serves again")  # type: ignore[misc]


def test_an_interface_that_disappears_and_returns(group: Daemons) -> None:
    """The director's own: another one directs meanwhile."""
    downloads = [each for each in group.downloads() if each.node != "jupiter"]
    jupiter = group.node("jupiter")
    jupiter.lose_interface()
    group.until(lambda: "interface eth0 is away" in group.alarms("jupiter"), "it is an alarm")
    group.until(lambda: sorted(group.buckets("nibiru")) == ["mars", "nibiru", "scan1", "scan2"], "nibiru directs four")
    group.go_on(downloads)
    jupiter.regain_interface()
    group.await_director("jupiter")
    group.await_even()
    group.go_on(downloads)
    assert {group.served_by(source) for source in SOURCES} == set(MEMBERS)
    group.until(lambda: group.alarms("jupiter") == [], "all alarms are over")


def test_a_deaf_director_that_nobody_can_replace_keeps_everybodys_connections(group: Daemons) -> None:
    """Nothing reaches it for longer than a silent member is waited for; its backup may not take over."""
    nibiru, jupiter = group.node("nibiru"), group.node("jupiter")
    nibiru.configure(priority=0)
    nibiru.run("cli", "reload")
    downloads = group.downloads()
    idle = {source: group.clients.idle(source) for source in SOURCES}
    served = {source: each.says()[0] for source, each in idle.items()}
    before, since = group.buckets("jupiter"), len(jupiter.log())
    for _ in range(2):
        jupiter.deafen(True)
        group.until(lambda: any("nothing reaches this node" in each for each in group.alarms("jupiter")), "it is told")
        assert group.buckets("jupiter") == before == group.buckets("mars")
        group.until(lambda: group.member("mars", "jupiter")["problem"] == "nothing reaches it", "the others hear it")
        jupiter.deafen(False)
        assert {source: each.says()[0] for source, each in idle.items()} == served
        group.go_on(downloads)
        group.until(lambda: group.alarms("jupiter") == [], "it is over")
    assert "has failed" not in jupiter.log()[since:]
    nibiru.configure(priority=89)
    nibiru.run("cli", "reload")


def test_another_key_is_told_and_power_loss_leaves_the_others_connections(group: Daemons) -> None:
    """The last of this module: mars stays off."""
    downloads = group.downloads()
    scan2 = group.node("scan2")
    scan2.end()
    scan2.key("some other key of nobody")
    scan2.start()
    group.until(lambda: any("with another key" in each for each in group.alarms("jupiter")), "another key is an alarm")
    assert "with another key" in group.node("jupiter").run("cli", "check").stdout
    group.until(lambda: "scan2" not in group.buckets("jupiter"), "scan2 gets no clients")  # its farewell may be lost
    group.node("mars").power_off()
    said = f"TX Scanning partner has failed {ADDRESSES['mars']}"
    group.until(lambda: said in group.node("jupiter").log(), "its failure is said")
    group.until(lambda: sorted(group.buckets("nibiru")) == ["jupiter", "nibiru", "scan1"], "three serve")
    group.go_on([each for each in downloads if each.node not in ("mars", "scan2")])
    assert {group.served_by(source) for source in SOURCES} == {"jupiter", "nibiru", "scan1"}
