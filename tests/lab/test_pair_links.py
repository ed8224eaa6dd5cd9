"""Cut cables between two real policy servers: either link, both links of one server.

Promise: one cut heartbeat link changes nothing but an alarm; a server cut off from its clients hands over; healed, the pair is
in sync again. Nothing acknowledged is lost (the fixture). Source: design §4 rules 1, 3, 4; docs/failure-modes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.pair import other
from bench.writers import QUICK
from runtime.clock import boottime

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
_SERVICE = 30.0


def acknowledged_from_now(duo: Duo) -> None:
    duo.writers.acknowledged_since(boottime(), QUICK, _SERVICE)


def test_the_second_link_is_cut(duo: Duo) -> None:
    active = duo.settle()
    duo.lab.cut("interconnect")
    seen = duo.pair.until(lambda seen: "link-eth1" in seen.status[active].get("alarms", {}), 10.0, "an alarm about eth1")
    assert seen.active == [active] and seen.status[active]["peer_state"]["fit"]
    duo.writers.steady()
    duo.lab.heal("interconnect")
    duo.pair.until(lambda seen: "link-eth1" not in seen.status[active].get("alarms", {}), 10.0, "the alarm to end")
    assert duo.settle() == active


@pytest.mark.parametrize("links", [("eth0",), ("eth0", "eth1")], ids=["its LAN link", "both links"])
def test_the_active_is_cut_off(duo: Duo, links: tuple[str, ...]) -> None:
    active = duo.settle()
    heir = other(active)
    for link in links:
        duo.lab.cut(f"{active}:{link}")
    duo.pair.until(lambda seen: seen.active == [heir], _SERVICE, f"{heir} alone to be active")
    acknowledged_from_now(duo)
    duo.lab.heal()
    duo.pair.settle(90.0, heir)
    acknowledged_from_now(duo)


@pytest.mark.parametrize("links", [("eth0",), ("eth0", "eth1")], ids=["its LAN link", "both links"])
def test_the_passive_is_cut_off(duo: Duo, links: tuple[str, ...]) -> None:
    active = duo.settle()
    for link in links:
        duo.lab.cut(f"{other(active)}:{link}")
    duo.pair.until(lambda seen: bool(seen.status[active].get("solo")), _SERVICE, f"{active} to go on alone")
    acknowledged_from_now(duo)
    duo.lab.heal()
    duo.pair.settle(90.0, active)
    acknowledged_from_now(duo)


def test_the_ping_node_dies(duo: Duo) -> None:
    """The passive can't confirm that it could do better: nobody moves, and writes go on.

    When it is back, the passive may hear it a moment before the active does, and is then handed the service (rule 3).
    """
    active = duo.settle()
    duo.lab.power_off("gateway")
    alarmed = duo.pair.until(lambda seen: "not-connected" in seen.status[active].get("alarms", {}), 10.0, "an alarm")
    assert alarmed.active == [active]
    duo.writers.steady()
    duo.lab.power_on("gateway")
    duo.settle()
    acknowledged_from_now(duo)
