"""Ten thousand hostile packets a second at two directors: nothing changes, all is counted, adverts and heartbeats go on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.lab.director_lab import ADDRESSES, Machine, Tier

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.director_lab"]

SECONDS, RATE = 4, 10_000
REDIRECT = '<port_redirect protocol="http" ports="80" to="9090"><check kind="none"/></port_redirect>'


def figures(machine: Machine) -> tuple[float, int]:
    """Seconds of processor, and memory in KB, of its daemon."""
    assert machine.director is not None
    proc = Path(f"/proc/{machine.director.pid}")
    words = (proc / "stat").read_text().rpartition(") ")[2].split()
    pages = int((proc / "statm").read_text().split()[1])
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") // 1024


def test_a_flood_of_forged_and_replayed_packets_changes_nothing(tier: Tier) -> None:
    names = ("jupiter", "nibiru")
    for name, priority in zip(names, (100, 90), strict=True):
        tier.start(name, priority, 'version="3" advert="100ms"', REDIRECT)
    tier.await_holder("jupiter")
    director = {"name": "jupiter", "ip": ADDRESSES["jupiter"]}

    def settled() -> bool:
        clusters = [tier.status(name)["cluster"] for name in names]
        return all(
            each["director"] == director and [m["state"] for m in each["members"]] == ["ok", "ok"]
            and dict(each["services"][0]["buckets"]) == {"jupiter": 512, "nibiru": 512} for each in clusters
        )  # fmt: skip

    tier.until(settled, "two share evenly")
    before = {name: (tier.router(name)["changes"], figures(tier.node(name))) for name in names}
    argv = (sys.executable, "-m", "tests.lab.director_flood", str(SECONDS), str(RATE), "eth0", ADDRESSES["jupiter"])
    done = tier.client.run(*argv)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= RATE  # on a busy machine
    for name in names:
        changes, (cpu, memory) = before[name]
        status, router = tier.status(name), tier.router(name)
        assert router["changes"] == changes, tier.node(name).log()[-2000:]
        later, grown = figures(tier.node(name))
        print(f"{name}: {(later - cpu) / SECONDS:.1%} of a core, {grown - memory} KB more")
        assert grown - memory < 8192 and later - cpu < SECONDS
        assert set(router["counters"]["dropped"]) >= {"ttl", "checksum", "length", "version", "type"}
        dropped = status["cluster"]["discovery"]["dropped"]
        assert {"not a message", "another group", "authentication"} <= dropped.keys(), dropped
        assert name == "jupiter" or dropped["replayed"] > 100
        alarms = [alarm["text"] for alarm in status["alarms"]]
        assert all("with another key" in each for each in alarms), alarms
        assert not any("Scanning partner has failed" in line for line in tier.node(name).log().splitlines())
    assert settled() and tier.holders() == ["jupiter"]
    log = tier.node("nibiru").log()
    assert log.count("dropped a message") <= 6, log  # each kind is told once


def test_what_was_said_before_a_restart_counts_for_nothing_after_it(tier: Tier, tmp_path: Path) -> None:
    """Of the receiver, of the sender, of both."""
    for name, priority in (("jupiter", 100), ("nibiru", 90)):
        tier.start(name, priority, 'version="3" advert="100ms"', REDIRECT)
    file = str(tmp_path / "overheard")

    def even(on: str) -> bool:
        services = tier.status(on)["cluster"]["services"]
        return dict(services[0]["buckets"]) == {"jupiter": 512, "nibiru": 512}

    def both() -> None:
        tier.until(lambda: even("jupiter") and even("nibiru"), "two share evenly")

    def replayed() -> int:
        return int(tier.status("nibiru")["cluster"]["discovery"]["dropped"].get("replayed", 0))

    def again(counted: bool) -> None:
        both()
        before = replayed()
        done = tier.client.run(sys.executable, "-m", "tests.lab.director_replay", "eth0", file, ADDRESSES["jupiter"])
        assert done.returncode == 0, done.stderr
        if counted:
            tier.until(lambda: replayed() == before + 40, "each is dropped and counted")
        assert even("nibiru") and tier.status("nibiru")["cluster"]["director"]["name"] == "jupiter"

    both()
    assert tier.client.run(sys.executable, "-m", "tests.lab.director_replay", "eth0", file).returncode == 0
    again(counted=True)
    tier.start("nibiru", 90, 'version="3" advert="100ms"', REDIRECT)
    again(counted=True)
    tier.start("jupiter", 100, 'version="3" advert="100ms"', REDIRECT)
    again(counted=True)
    tier.start("nibiru", 90, 'version="3" advert="100ms"', REDIRECT)
    again(counted=False)  # by whom, nibiru can't know: answered, and not believed
    assert "has failed" not in tier.node("nibiru").log()
