"""What is concluded from the sources of an event: the outage a client saw, the order of the moments, the figures.

Promise: a step without evidence is shown as missing; no acknowledgement ever again is infinity, and null in the figures.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.arpwatch import Claim, claim_of
from bench.drill import Result, figures
from bench.pair import Seen, module_xml
from bench.record import Entry, Kind, Tail, Verdict
from bench.timeline import Moment, Outage, Sources, moments, outage

OLD, NEW = "02:01:c0:a8:78:a6", "02:01:c0:a8:78:1c"
AHEAD = 1_000_000.0


def acks(*times: float) -> list[Entry]:
    return [Entry(at, Kind.ACK, number) for number, at in enumerate(times, 1)]


@pytest.mark.parametrize(
    ("times", "window", "expected"),
    [
        ([9.9, 10.0, 11.5, 11.505], (10.01, 11.503), Outage(1500.0, 10.0, 11.5)),
        ([9.99, 10.02, 11.5, 11.505], (10.01, 11.503), Outage(1480.0, 10.02, 11.5)),
        ([10.0, 10.1, 10.3, 10.305], (9.99, 10.303), Outage(200.0, 10.1, 10.3, (100.0,))),
        ([10.0], (10.01, 60.0), Outage(math.inf, 10.0, None)),
        ([], (10.0, 20.0), Outage(math.inf, 10.0, None)),
    ],
    ids=["cut", "an answer on its way", "two pauses", "never again", "never at all"],
)
def test_the_outage(times: list[float], window: tuple[float, float], expected: Outage) -> None:
    found = outage(acks(*times), *window)
    assert (found.begin, found.end, found.others) == (expected.begin, expected.end, expected.others)
    assert found.ms == pytest.approx(expected.ms)


def change(at: float, after: str, because: str = "because") -> dict[str, object]:
    return {"time": at + AHEAD, "before": "-", "after": after, "because": because, "epoch": [2, "vs-28"]}


def sources(changes: list[dict[str, object]], claims: list[Claim]) -> Sources:
    entries = [Entry(10.0, Kind.ACK, 1), Entry(11.38, Kind.CONNECTED), Entry(11.4, Kind.ACK, 3)]
    return Sources(entries, claims, changes, AHEAD, NEW)


def test_the_moments_are_in_order_and_from_this_event_only() -> None:
    changes = [
        change(3.0, "detaching", "an earlier event"), change(11.0, "detaching", "silent"), change(11.1, "opening"),
        change(11.2, "promoting"), change(11.3, "active"),
    ]  # fmt: skip
    claims = [Claim(2.0, NEW), Claim(5.0, OLD), Claim(11.11, NEW)]
    found = moments(sources(changes, claims), 10.01, "power cut", Outage(1400.0, 10.0, 11.4))
    assert [(moment.what, moment.at and round(moment.at, 3)) for moment in found] == [
        ("last acknowledged write", 10.0), ("power cut", 10.01), ("peer declared dead", 11.0), ("VIP taken", 11.1),
        ("VIP moved", 11.11), ("epoch on the disk", 11.2), ("promoted", 11.3), ("client connected", 11.38),
        ("first acknowledged write", 11.4),
    ]  # fmt: skip
    assert found[2].why == "silent"


def test_what_nobody_saw_is_missing() -> None:
    found = moments(sources([], [Claim(2.0, NEW)]), 10.01, "power cut", Outage(math.inf, 10.0, None))
    missing = [moment.what for moment in found if moment.at is None]
    assert sorted(missing) == ["VIP moved", "client connected", "first acknowledged write", "peer declared dead", "promoted"]


def test_a_planned_failover_declares_nobody_dead() -> None:
    found = moments(sources([change(11.0, "detaching", "the active stood down")], []), 10.01, "asked", Outage(1.0, 10.0, 11.4))
    assert Moment(pytest.approx(11.0), "peer stood down", "the active stood down") in found


def frame(sender: bytes, mac: bytes, operation: int = 1) -> bytes:
    return b"\xff" * 6 + mac + b"\x08\x06\0\x01\x08\0\x06\x04\0" + bytes([operation]) + mac + sender + b"\0" * 6 + sender


def test_arp_frames() -> None:
    vip, mac = bytes([192, 168, 120, 187]), bytes.fromhex(NEW.replace(":", ""))
    assert claim_of(frame(vip, mac)) == ("192.168.120.187", NEW)
    assert claim_of(frame(vip, mac, 2)) == ("192.168.120.187", NEW)
    assert claim_of(frame(bytes(4), mac)) is None
    assert claim_of(frame(vip, mac)[:41]) is None
    assert claim_of(b"\0" * 60) is None


def test_a_growing_record_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "acks"
    tail = Tail(path)
    assert tail.entries() == []
    path.write_text("1.0 sent 1\n1.1 ack 1\n1.2 se")
    assert [entry.kind for entry in tail.entries()] == [Kind.SENT, Kind.ACK]
    with path.open("a") as file:
        file.write("nt 2\n")
    assert tail.entries()[2:] == [Entry(1.2, Kind.SENT, 2)]


def result(kind: str, ms: float, lost: tuple[int, ...] = (), seconds: float = 0.0) -> Result:
    pause = Outage(ms, 1.0, None if ms == math.inf else 1.0 + ms / 1000)
    return Result(
        kind, kind, "vs-166", quick=pause, plain=pause, seconds=seconds, verdicts=[Verdict("c", 9, lost, (), (), 0, 0)]
    )


def test_the_figures() -> None:
    results = [result("crash", 1400.04), result("crash", math.inf, (4, 5)), result("rejoin", 20.0, seconds=6.125)]
    found = figures(results)
    assert found["crash"] == {"outage_ms": [1400.0, None], "plain_outage_ms": [1400.0, None], "lost": 2}
    assert found["switchover"] == {"outage_ms": [], "plain_outage_ms": [], "lost": 0}
    assert found["rejoin"] == {"seconds": [6.12], "pause_ms": [20.0], "lost": 0}
    assert "passive_cut" not in found


ACTIVE = {"phase": "active", "solo": False, "peer_state": {"fit": True}}
PASSIVE = {"phase": "passive", "fit": True}


@pytest.mark.parametrize(
    ("active", "passive", "settled"),
    [
        (ACTIVE, PASSIVE, True),
        (ACTIVE | {"solo": True}, PASSIVE, False),
        (ACTIVE, PASSIVE | {"fit": False}, False),
        (ACTIVE | {"peer_state": {"fit": False}}, PASSIVE, False),
        (ACTIVE, ACTIVE, False),
        (ACTIVE, {}, False),
        ({}, {}, False),
    ],
    ids=["in sync", "solo", "unfit", "not heard to be fit", "two", "one off", "both off"],
)
def test_settled(active: dict[str, object], passive: dict[str, object], settled: bool) -> None:
    assert Seen({"vs-166": active, "vs-28": passive}).settled is settled
    assert Seen({"vs-166": passive, "vs-28": active}).settled is settled


def test_the_labs_module_xml_can_be_changed_in_one_place() -> None:
    assert module_xml() != module_xml(ping_node="192.168.120.254")
    assert '<timing profile="aggressive"/>' in module_xml("aggressive")
