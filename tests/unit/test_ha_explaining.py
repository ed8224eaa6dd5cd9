"""The trail of a log's positions, and what `ha explain` says of the two databases."""

from __future__ import annotations

from typing import Any

import pytest

from ha_manager.explaining import data, lines
from ha_manager.observation import Observation, Receiver
from ha_manager.requests import database
from ha_manager.trail import NOTHING_BEHIND, Behind, Trail

MIB = 2**20


def test_seconds_and_transactions_behind_a_position() -> None:
    trail = Trail()
    assert trail.behind(5) is None
    for second in range(10):
        trail.note(100.0 + second, 1000 * second, 10 * second)
    assert trail.behind(9000) == trail.behind(9999) == NOTHING_BEHIND
    assert trail.behind(7000) == Behind(2000, 2.0, 20) and trail.behind(7999) == Behind(1001, 2.0, 20)
    assert trail.behind(-1) is None
    trail.note(200.0, 9000, 90)
    trail.note(201.0, 9500, 91)
    assert trail.behind(9000) == Behind(500, 1.0, 1), "it was at 9000 until 200"


def test_what_is_older_than_the_trail_is_not_known() -> None:
    trail = Trail()
    trail.note(1.0, 5000, 3)
    assert trail.behind(4000) == Behind(1000, None, None)
    trail.note(2.0, 4000, 3)
    assert trail.behind(4000) == NOTHING_BEHIND, "another database"
    for each in range(30_000):
        trail.note(10.0 + each / 10, 5000 + each, each)
    assert trail.behind(5000) == Behind(29_999, None, None) and len(trail._at) < 15_000


def streaming(lsn: int, replayed: int) -> dict[str, Any]:
    """As ha_manager answers."""
    return database(
        Observation(in_recovery=True, lsn=lsn, replayed=replayed, receiver=Receiver("streaming", "ha_vs-166_4", "", lsn, 0.0))
    )


def found(role: str, mode: str, **more: Any) -> dict[str, Any]:
    active = role == "active"
    heartbeat = {
        "epoch": [4, "vs-166"], "fit": not active, "in_sync": not active,
        "peer_state": {"fit": active and mode != "solo"},
        "replication": {"mode": mode, "configured": {"synchronous": mode == "synchronous"}, "lag": 0, "solo_after": 3.5,
                        "release_only": False},
    }  # fmt: skip
    manager: dict[str, Any] = {"postgres": "primary" if active else "standby", "behind": None, "facts": {"beyond": 7}}
    if not active:
        manager["database"] = streaming(80 * MIB, 80 * MIB)
    page: dict[str, Any] = {"node": "vs-166", "peer": "vs-28", "role": role, "explain": ["vs-166 is so.", "Alarm: x."],
            "heartbeat": heartbeat, "ha_manager": manager}  # fmt: skip
    page["ha_manager"] |= more
    return page


LAG = {"bytes": 3 * MIB, "seconds": 1.26, "transactions": 31}
NONE = {"bytes": 0, "seconds": 0.0, "transactions": 0}
TOLD = {"connected": True, "state": {"because": "the disk of the database is full"}}
SAID = [
    (found("active", "synchronous", behind=NONE), "vs-28 is in sync: it holds every acknowledged commit, and holds the whole"),
    (found("active", "synchronous", behind=LAG),
     "and lacks 3 MiB of log, 1.3 s, up to 31 transactions, of which nothing is acknowledged yet. A failover now would lose"),
    (found("active", "synchronous"), "does not stream: no commit is acknowledged without it"),
    (found("active", "asynchronous", behind=LAG),
     "vs-28 follows asynchronously and lacks 3 MiB of log, 1.3 s, up to 31 transactions. A crash now would lose up to that;"),
    (found("active", "asynchronous", behind=NONE), "holds the whole log at this moment. A crash now would lose nothing"),
    (found("active", "solo", behind={"bytes": 3 * MIB, "seconds": None, "transactions": None}),
     "vs-28 streams and lacks 3 MiB of log, but is not in sync yet"),
    (found("active", "solo"), "It lacks what is written here: up to 7 transactions since epoch 4/vs-166 began;"),
    (found("active", "solo", session=TOLD), "if it had to serve.\nvs-28 says: the disk of the database is full."),
    (found("passive", "synchronous"), "This database streams from vs-28 and holds every commit that was acknowledged there."),
    (found("passive", "asynchronous"), "This database streams from vs-28."),
    (found("passive", "synchronous", database={"receiver": None}), "This database does not stream from vs-28"),
    (found("passive", "synchronous", replication="copying", facts={"because": "the database is copied from VS-28: 5 MiB"}),
     "The database is copied from VS-28: 5 MiB."),
    (found("passive", "synchronous", database=streaming(9 * MIB, MIB)),
     "; 8 MiB of its log are not applied yet"),
]  # fmt: skip


def test_what_the_passive_said_last_against_itself_is_over_when_heartbeat_calls_it_fit() -> None:
    page = found("active", "synchronous", behind=NONE, session=TOLD)
    assert "vs-28 says" not in "\n".join(lines(page))
    page["heartbeat"]["peer_state"]["fit"] = False
    assert "vs-28 says: the disk of the database is full." in lines(page)


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_no_failover_is_promised_from_an_active_whose_passive_could_not_take_over(mode: str) -> None:
    page = found("active", mode, behind=NONE)
    assert "would lose nothing" in lines(page)[1]
    page["heartbeat"]["peer_state"]["fit"] = False
    said = lines(page)[1]
    assert "holds the whole log at this moment." in said and "would lose" not in said, "heartbeat says what a crash means"


def test_an_active_whose_postgres_is_down_is_no_passive_that_does_not_stream() -> None:
    page = found("active", "solo", postgres="stopped", database={"receiver": None}, session=TOLD)
    assert lines(page)[1:-1] == ["vs-28 says: the disk of the database is full."], "heartbeat says why it takes no writes"


@pytest.mark.parametrize(("page", "sentence"), SAID, ids=[row[1][:50] for row in SAID])
def test_what_is_said_of_the_databases(page: dict[str, Any], sentence: str) -> None:
    said = lines(page)
    assert said[0] == "vs-166 is so." and said[-1] == "Alarm: x." and sentence in "\n".join(said[1:-1]), said


def test_without_ha_manager_it_is_said_that_nothing_is_known() -> None:
    assert "is not known: ha_manager does not answer" in lines(found("active", "synchronous") | {"ha_manager": {}})[1]


def test_the_same_as_data() -> None:
    told = data(found("active", "asynchronous", behind=LAG))
    assert (told["mode"], told["lag_bytes"], told["lag_seconds"], told["lag_transactions"]) == (
        "asynchronous",
        3 * MIB,
        1.26,
        31,
    )
    assert told["if_active_died"] == {"taken_over": True, "by": "vs-28", "lost": LAG}
    assert told["if_passive_died"] == {"waits": 0.0} and told["passive_streams"]
    told = data(found("active", "synchronous", behind=LAG))
    assert told["if_active_died"]["lost"] == NONE and told["if_passive_died"] == {"waits": 3.5}
    told = data(found("active", "solo"))
    assert told["if_active_died"] == {"taken_over": False, "by": "vs-28", "lost": NONE} and not told["passive_streams"]
    told = data(found("passive", "asynchronous"))
    assert told["if_active_died"] == {
        "taken_over": True,
        "by": "vs-166",
        "lost": {"bytes": 0, "seconds": None, "transactions": None},
    }
    nothing = {"heartbeat": {}, "ha_manager": {}, "role": "unknown", "node": "a", "peer": "b"}
    assert data(nothing)["mode"] == "unknown" and data(nothing)["if_active_died"]["lost"] is None
