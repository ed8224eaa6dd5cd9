"""ha_manager's connection: wants as levels, facts taken strictly, its loss told once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from math import inf
from typing import Any

import pytest

from heartbeat.manager_link import ManagerLink
from heartbeat.model import Database, Epoch, Facts, ManagerLost, Names, Phase, Want
from heartbeat.wants import facts_from_json, want_to_json

WANT = Want(3, Phase.PASSIVE, Epoch(4, "a"), Database.STANDBY, follow=Epoch(4, "b"), because="so")


class Wire:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed = ""

    def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(message)))

    def close(self, because: str = "") -> None:
        self.closed = because


def test_a_want_as_json() -> None:
    assert json.loads(json.dumps(want_to_json(WANT))) == {
        "serial": 3, "phase": "passive", "epoch": [4, "a"], "postgres": "standby", "names": "relaxed", "stop": "immediate",
        "prepare": False, "follow": [4, "b"], "ask_stand_down": "", "yielded": [0, ""], "because": "so",
    }  # fmt: skip


def test_facts_from_json() -> None:
    facts = facts_from_json(
        {
            "serial": 2, "postgres": "primary", "healthy": True, "because": "", "following": [4, "b"], "names": "enforced",
            "stalled": 1, "sign_age": None, "lsn": 2**62, "peer_stood_down": [0, ""],
        }
    )  # fmt: skip
    assert facts == Facts(
        2, Database.PRIMARY, True, "", following=Epoch(4, "b"), names=Names.ENFORCED, stalled=1.0, sign_age=inf, lsn=2**62
    )
    assert facts_from_json({}) == Facts()


WRONG: dict[str, list[Any]] = {
    "serial": ["1", 1.0, None, True], "postgres": ["gone", None, 1], "healthy": [1, "yes", None], "because": [None, 1],
    "data": [None], "timeline": ["1"], "lsn": [None, 1.5], "beyond": ["0"], "following": [[1], "1/a", [-1, "a"], [1, 2], None],
    "caught_up": [0], "proven": [None], "names": ["some"], "stalled": ["1", True], "sign_age": ["never"], "sign": [1],
    "peer_stood_down": [[1, "a", 2]], "peer_epoch": [[-1, "a"]], "prepared": ["no"], "shutdown_lsn": [True], "behind": ["1"],
}  # fmt: skip


def test_the_table_of_wrong_facts_names_every_field() -> None:
    assert set(WRONG) == {each.name for each in fields(Facts)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_fact_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        facts_from_json({name: value})


@pytest.mark.parametrize("document", [None, [], "x", {"unknown": 1}])
def test_what_are_no_facts(document: object) -> None:
    with pytest.raises(ValueError):
        facts_from_json(document)


def test_the_newest_want_is_sent_at_once_and_as_a_sign_of_life() -> None:
    link, wire = ManagerLink(0.2, 0.45), Wire()
    link.want(WANT, 0.0)
    link.expires = 1.5
    link.connected(wire, 1.0)
    assert wire.sent == [{"push": "want", "want": json.loads(json.dumps(want_to_json(WANT))), "expires": 1.5, "silent": False}]
    assert link.due == pytest.approx(1.2)
    link.tick(1.1)
    link.tick(1.2)
    assert len(wire.sent) == 2
    link.want(Want(4, Phase.ACTIVE, Epoch(5, "a"), Database.PRIMARY), 1.25)
    assert len(wire.sent) == 3 and wire.sent[-1]["want"]["serial"] == 4


def test_nothing_is_due_before_there_is_a_want() -> None:
    link = ManagerLink(0.2, 0.45)
    link.connected(Wire(), 1.0)
    assert link.due == inf and link.tick(5.0) is None


def test_a_sign_of_life_goes_with_each_heartbeat() -> None:
    link, wire = ManagerLink(0.2, 0.45), Wire()
    link.beat(0.9)
    link.connected(wire, 1.0)
    link.beat(1.0)
    assert wire.sent == []
    link.want(WANT, 1.03)
    link.beat(1.03)
    assert len(wire.sent) == 1, "the heartbeat that tells the same change"
    link.beat(1.05)
    assert len(wire.sent) == 2 and link.due == pytest.approx(1.25)
    link.tick(1.25)
    assert len(wire.sent) == 3, "no heartbeat goes out any more"


def test_silence_is_told_once() -> None:
    link, wire = ManagerLink(0.2, 0.45), Wire()
    link.connected(wire, 1.0)
    assert not link.reporting
    assert link.facts(wire, {"serial": 1}, 1.1) == Facts(serial=1)
    assert link.reporting and link.due == pytest.approx(1.55)
    assert link.tick(1.5) is None
    lost = link.tick(1.56)
    assert isinstance(lost, ManagerLost) and "reports nothing" in lost.because
    assert link.tick(9.0) is None and not link.reporting
    assert link.facts(wire, {"serial": 2}, 9.1) is not None and link.reporting


def test_a_restart_within_the_allowance_goes_unnoticed() -> None:
    link, old, new = ManagerLink(0.2, 0.45), Wire(), Wire()
    link.connected(old, 1.0)
    link.facts(old, {}, 1.0)
    link.closed(old)
    link.connected(new, 1.3)
    link.facts(new, {}, 1.4)
    assert link.tick(1.6) is None
    link.closed(old)
    link.closed(new)
    lost = link.tick(1.9)
    assert isinstance(lost, ManagerLost) and "closed" in lost.because


def test_a_pause_of_heartbeat_is_not_ha_managers() -> None:
    link, wire = ManagerLink(0.2, 0.45), Wire()
    link.connected(wire, 1.0)
    link.facts(wire, {}, 1.0)
    link.paused(5.0)
    assert link.tick(6.2) is None
    assert link.tick(6.5) is not None


def test_only_the_newest_connection_is_believed() -> None:
    link, old, new = ManagerLink(0.2, 0.45), Wire(), Wire()
    link.connected(old, 1.0)
    link.connected(new, 1.1)
    assert old.closed
    assert link.facts(old, {"serial": 9}, 1.2) is None and not link.reporting


@pytest.mark.parametrize(("greets", "warned"), [(True, False), (False, True)])
def test_who_only_greeted_is_no_other_ha_manager(greets: bool, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """At every start of one; "another ha_manager connected" sent people to look for a second one."""
    link, early, old, new = ManagerLink(0.2, 0.45), Wire(), Wire(), Wire()
    link.connected(early, 1.0, greets=greets)
    link.connected(old, 1.1)
    assert ("another ha_manager" in caplog.text, bool(early.closed)) == (warned, warned)
    assert link.facts(early, {"serial": 9}, 1.2) is None and link.facts(old, {"serial": 9}, 1.2) is not None
    link.connected(new, 1.3)
    assert old.closed and "another ha_manager" in caplog.text


def test_nonsense_is_no_sign_of_life() -> None:
    link, wire = ManagerLink(0.2, 0.45), Wire()
    link.connected(wire, 1.0)
    assert link.facts(wire, {"healthy": "very"}, 1.0) is None and not link.reporting
