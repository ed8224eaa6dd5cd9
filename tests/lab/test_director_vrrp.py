"""Directors and Debian's keepalived on one network: who holds the virtual addresses."""

from __future__ import annotations

from tests.lab.director_lab import VIP, Tier

pytest_plugins = ["tests.lab.director_lab"]


def test_the_reference_troubleshooting(tier: Tier) -> None:
    """Who holds the VIP, failover, and return of the first director, in the reference's words."""
    tier.start("jupiter", 99)
    tier.await_holder("jupiter")
    tier.start("nibiru", 89)
    tier.start("scan1", 0)
    assert tier.router("nibiru")["state"] == "backup" and tier.router("scan1")["state"] == "scanning"
    tier.lab.power_off("jupiter")
    tier.await_holder("nibiru")
    words = tier.log("nibiru")
    for line in (
        "VRRP_Instance(51) Transition to MASTER STATE", "VRRP_Instance(51) Entering MASTER STATE",
        "VRRP_Instance(51) setting protocol VIPs.", f"VRRP_Instance(51) Sending gratuitous ARPs on eth0 for {VIP}",
        "set lbnetwork 1", "state=master previous=backup", f"TX Adding IPV4 Address {VIP}",
    ):  # fmt: skip
        assert line in words
    assert tier.holders() == ["nibiru"]
