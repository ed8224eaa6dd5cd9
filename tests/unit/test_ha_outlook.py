"""What heartbeat is told: observations, the worker's state and signs, mapped to facts."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf
from typing import cast

import pytest

from ha_manager import orders
from ha_manager.observation import DATABASE, LOG, Disk, Observation, Receiver, StandbyRow
from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Want, facts_to, want_from
from ha_manager.outlook import MIB, Carried, Look, Outlook, PeerSigns, is_calm
from ha_manager.postgres import Observer, Server
from heartbeat import model
from heartbeat.wants import facts_from_json, want_to_json
from runtime.channel import decode, encode

E5 = Epoch(5, "vs-166")
STANDBY = Observation(at=10.0, state="running", answers=True, in_recovery=True, timeline=3, lsn=100)
DISK = Disk(DATABASE, "/var/lib/postgresql", 900 * MIB, 2000 * MIB)
STANDBY = replace(STANDBY, disks=(DISK,))
PRIMARY = replace(STANDBY, in_recovery=False)
ROW = StandbyRow("ha_vs-28_5", "streaming", "sync", 100, 100, 100, 0.1)


READY, SILENT = Carried(serial=7, data="ready"), PeerSigns()


def told(
    seen: Observation,
    postgres: Postgres = Postgres.STANDBY,
    carried: Carried = READY,
    signs: PeerSigns = SILENT,
    now: float = 10.0,
    outlook: Outlook | None = None,
    keeper: str = "",
) -> Facts:
    want = Want(7, Phase.PASSIVE, E5, postgres)
    return (outlook or Outlook("vs-166", "vs-28")).facts(want, carried, Look(seen, 7, 0, seen.at), signs, now, keeper)


STATES = [
    (STANDBY, Carried(data="ready"), Postgres.STANDBY),
    (STANDBY, Carried(data="ready", detached=True), Postgres.DETACHED),
    (replace(STANDBY, primary_conninfo="host=x"), Carried(data="ready", detached=True), Postgres.STANDBY),
    (PRIMARY, Carried(data="ready"), Postgres.PRIMARY),
    (replace(STANDBY, state="stopped", answers=False), Carried(data="ready"), Postgres.STOPPED),
    (replace(STANDBY, answers=False), Carried(data="ready"), Postgres.UNKNOWN),
    (replace(STANDBY, state="starting", answers=False), Carried(data="ready"), Postgres.UNKNOWN),
]


@pytest.mark.parametrize(("seen", "carried", "state"), STATES)
def test_state_of_postgres(seen: Observation, carried: Carried, state: Postgres) -> None:
    assert told(seen, carried=carried).postgres is state


ACTIVE = Want(7, Phase.ACTIVE, E5, Postgres.PRIMARY, names=Names.ENFORCED)
PASSIVE = Want(7, Phase.PASSIVE, E5, Postgres.STANDBY, follow=E5)
PROVEN = Carried(serial=7, data="ready", proven=90)
FOLLOWING = replace(STANDBY, receiver=Receiver("streaming", "ha_vs-166_5", "192.168.120.28", 100, 0.1))
SYNCED = replace(PRIMARY, standbys=(ROW,), waiting=3)
CALM = [
    (ACTIVE, PROVEN, SYNCED, True),
    (ACTIVE, PROVEN, replace(SYNCED, stalled=0.1), False),
    (ACTIVE, PROVEN, replace(SYNCED, standbys=()), False),
    (ACTIVE, PROVEN, replace(SYNCED, answers=False), False),
    (ACTIVE, replace(PROVEN, proven=-1), SYNCED, False),
    (ACTIVE, replace(PROVEN, serial=6), SYNCED, False),
    (ACTIVE, replace(PROVEN, trouble="a disk"), SYNCED, False),
    (replace(ACTIVE, names=Names.RELAXED), PROVEN, SYNCED, False),
    (replace(ACTIVE, phase=Phase.PREPARING), PROVEN, SYNCED, False),
    (PASSIVE, READY, FOLLOWING, True),
    (PASSIVE, READY, STANDBY, False),
    (replace(PASSIVE, follow=Epoch(6, "vs-28")), READY, FOLLOWING, False),
    (replace(PASSIVE, phase=Phase.DETACHING), READY, FOLLOWING, False),
]


@pytest.mark.parametrize(("want", "carried", "seen", "calm"), CALM)
def test_it_is_calm_while_all_is_as_wanted(want: Want, carried: Carried, seen: Observation, calm: bool) -> None:
    assert is_calm(want, carried, seen, "vs-28") is calm


TROUBLES = [
    ({"seen": STANDBY}, ""),
    ({"seen": replace(STANDBY, disks=(replace(DISK, free=1),))}, "disk of the database (/var/lib/postgresql) is full"),
    ({"seen": replace(STANDBY, disks=(DISK, Disk(LOG, "/wal", 1, 5)))}, "disk of the log of changes (/wal) is full"),
    ({"seen": replace(STANDBY, disks=(replace(DISK, read_only=True),))}, "can't be written to"),
    ({"seen": PRIMARY}, "promoted the database of this passive server by hand"),
    ({"seen": PRIMARY, "postgres": Postgres.PRIMARY}, ""),
    ({"seen": replace(STANDBY, answers=False, because="hangs")}, "does not answer: hangs"),
    ({"seen": replace(STANDBY, state="stopped")}, "Postgres is stopped"),
    ({"seen": STANDBY, "now": 11.5}, "could not be looked at for 1.5 s"),
    ({"seen": STANDBY, "keeper": "gone"}, "keeper of Postgres is in trouble: gone"),
    ({"seen": STANDBY, "carried": Carried(trouble="no space")}, "no space"),
    (
        {"seen": replace(STANDBY, disks=(replace(DISK, free=1),)), "carried": Carried(trouble="the connection is lost")},
        "disk of the database (/var/lib/postgresql) is full",
    ),
    ({"seen": STANDBY, "carried": Carried(copying="copied from B: 3 of 9 MiB")}, "copied from B"),
    ({"seen": replace(STANDBY, state="stopped"), "postgres": Postgres.STOPPED}, ""),
]


@pytest.mark.parametrize(("arguments", "words"), TROUBLES, ids=[row[1] or "well" for row in TROUBLES])
def test_healthy_and_because(arguments: dict, words: str) -> None:  # type: ignore[type-arg]
    facts = told(**arguments)
    assert facts.healthy is not bool(words) and words in facts.because


@pytest.mark.parametrize(
    ("state", "because", "words"),
    [
        ("running", "Postgres does not answer (connecting to Postgres)", "Postgres does not answer (connecting to Postgres)"),
        ("running", "too many clients", "Postgres does not answer: too many clients"),
        ("starting", "Postgres does not answer (connecting to Postgres)", "Postgres is starting"),
        ("starting", "Postgres is not running", "Postgres is starting"),
        ("stopped", "Postgres is not running", "Postgres is stopped"),
        ("stopped", "it ended with 1", "Postgres is stopped: it ended with 1"),
        ("unknown", "it is starting up", "whether Postgres runs is not known yet: it is starting up"),
    ],
)
def test_nothing_is_said_twice_of_a_postgres_that_does_not_serve(state: str, because: str, words: str) -> None:
    assert told(replace(STANDBY, state=state, answers=False, because=because)).because == words


def test_how_far_a_copy_is_changes_no_alarm() -> None:
    assert told(STANDBY, carried=Carried(copying="copied from B: 3 of 9 MiB")).because == "copied from B"


def test_a_serial_of_another_connection_is_never_reported() -> None:
    assert told(STANDBY).serial == 7
    assert told(STANDBY, carried=Carried(serial=0, link=1, data="ready")).serial == 0


def test_data_is_starting_or_copying_before_it_is_ready() -> None:
    assert told(STANDBY).data == "ready"
    assert told(replace(STANDBY, state="starting", answers=False)).data == "starting"
    assert told(STANDBY, carried=Carried(data="ready", copying="x")).data == "copying"
    assert told(STANDBY, carried=Carried(data="none")).data == "none"


def test_following_names_the_epoch_of_the_stream() -> None:
    receiver = Receiver("streaming", "ha_vs-166_5", "192.168.120.28", 100, 0.2)
    theirs = Epoch(5, "vs-28")
    assert told(replace(STANDBY, receiver=receiver), carried=Carried(follow=theirs)).following == theirs
    assert told(replace(STANDBY, receiver=replace(receiver, status="waiting"))).following == Epoch()


def test_signs_of_service_age_with_the_messages_and_outlive_the_connection() -> None:
    outlook = Outlook("vs-166", "vs-28")
    receiver = Receiver("streaming", "ha_vs-166_5", "192.168.120.28", 100, 0.2)
    first = told(replace(STANDBY, receiver=receiver), outlook=outlook)
    assert first.sign_age == pytest.approx(0.2) and "replication" in first.sign
    later = told(replace(STANDBY, at=10.5), outlook=outlook, now=10.5)
    assert later.sign_age == pytest.approx(0.7), "a connection that ended is as old as its last message"
    asked = told(replace(STANDBY, at=10.5), outlook=outlook, now=10.6, signs=PeerSigns(active_at=10.55))
    assert asked.sign_age == pytest.approx(0.05) and "ha_manager" in asked.sign
    assert told(STANDBY).sign_age == inf
    assert told(STANDBY, signs=PeerSigns(epoch=Epoch(9, "vs-28"))).peer_epoch == Epoch(9, "vs-28")


def test_stalled_counts_waiting_commits_and_an_absent_standby_only_while_enforced() -> None:
    enforced = replace(PRIMARY, names='"ha_vs-28_5"')
    outlook = Outlook("vs-166", "vs-28")
    assert told(replace(enforced, standbys=(ROW,)), Postgres.PRIMARY, outlook=outlook).stalled == 0
    assert told(enforced, Postgres.PRIMARY, outlook=outlook, now=10.3).stalled == pytest.approx(0.3)
    assert told(replace(enforced, at=10.6), Postgres.PRIMARY, outlook=outlook, now=10.6).stalled == pytest.approx(0.6)
    assert told(replace(enforced, at=10.7, standbys=(ROW,)), Postgres.PRIMARY, outlook=outlook, now=10.7).stalled == 0
    waiting = replace(enforced, standbys=(ROW,), stalled=0.4)
    assert told(waiting, Postgres.PRIMARY, now=10.1).stalled == pytest.approx(0.5)
    assert told(replace(PRIMARY, at=10.0), Postgres.PRIMARY, now=10.5).stalled == 0


def test_proof_holds_only_for_an_enforcing_primary() -> None:
    carried = Carried(proven=80, data="ready")
    enforced = replace(PRIMARY, names='"ha_vs-28_5"')
    assert told(enforced, Postgres.PRIMARY, carried).proven == 80
    assert told(enforced, Postgres.PRIMARY, carried).names is Names.ENFORCED
    assert told(PRIMARY, Postgres.PRIMARY, carried).proven == -1
    assert told(STANDBY, carried=carried).proven == -1
    assert told(replace(PRIMARY, names='"another"'), Postgres.PRIMARY, carried).proven == -1
    assert told(replace(PRIMARY, standbys=(ROW,)), Postgres.PRIMARY).caught_up


def test_names_that_somebody_took_away_for_good_count_as_a_stall() -> None:
    """Commits no longer wait, and it can't be mended: the passive must be asked for its release as if it were gone."""
    outlook = Outlook("vs-166", "vs-28")
    want = Want(7, Phase.ACTIVE, E5, Postgres.PRIMARY, Names.ENFORCED)

    def stalled(now: float, names: str = "", serial: int = 7) -> float:
        look = Look(replace(PRIMARY, at=now, names=names, standbys=(ROW,)), serial, 0, now)
        return outlook.facts(want, replace(READY, serial=serial), look, SILENT, now).stalled

    assert [stalled(10.0), stalled(10.9)] == [0.0, 0.0], "it is being set again"
    assert stalled(11.5) == pytest.approx(1.5)
    assert stalled(11.6, '"ha_vs-28_5"') == 0.0
    assert [stalled(20.0, serial=6), stalled(22.0, serial=6)] == [0.0, 0.0], "not carried out yet: nothing was promised"


def test_the_vocabulary_is_heartbeats() -> None:
    """The two packages don't import each other; what they say must be the same."""
    for ours, theirs in ((Want, model.Want), (Facts, model.Facts)):
        assert [f.name for f in fields(ours)] == [f.name for f in fields(theirs)]
    for name in ("Phase", "Names", "Stop", "Role"):
        assert {str(v) for v in getattr(orders, name)} == {str(v) for v in getattr(model, name)}
    assert {str(v) for v in Postgres} == {str(v) for v in model.Database}
    theirs = model.Want(3, model.Phase.ACTIVE, model.Epoch(5, "a"), model.Database.PRIMARY, follow=model.Epoch(4, "b"))
    ours = want_from({"push": "want", "want": want_to_json(theirs), "expires": 1.0})
    assert (ours.serial, ours.epoch, ours.follow, ours.postgres) == (3, Epoch(5, "a"), Epoch(4, "b"), Postgres.PRIMARY)
    one = Facts(serial=3, postgres=Postgres.PRIMARY, following=Epoch(5, "a"), names=Names.ENFORCED, stalled=0.5)
    two = model.Facts(3, model.Database.PRIMARY, following=model.Epoch(5, "a"), names=model.Names.ENFORCED, stalled=0.5)
    line = encode({"facts": facts_to(one)})
    assert facts_from_json(decode(line)["facts"]) == two
    assert one.sign_age == inf and b'"sign_age":null' in line


@pytest.mark.parametrize(
    "line", [{}, {"want": 3}, {"want": {"serial": 1, "phase": "flying", "epoch": [1, "a"], "postgres": "keep"}}]
)
def test_nonsense_is_no_want(line: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError):
        want_from(line)


def test_a_disk_that_takes_nothing_of_the_log_is_unhealthy() -> None:
    """Everything can still be read, so nothing else would tell."""
    assert told(replace(PRIMARY, unwritten=3.0), Postgres.PRIMARY).healthy
    facts = told(replace(PRIMARY, unwritten=5.0), Postgres.PRIMARY)
    assert not facts.healthy and "gets to the disk" in facts.because


def test_how_long_the_disk_has_taken_nothing() -> None:
    observer = Observer(cast(Server, None))
    unwritten = observer._unwritten
    assert unwritten("0/10", False, 100.0) == 0.0
    assert unwritten("0/10", True, 200.0) == 0.0, "idle for long, and somebody just began to wait"
    assert unwritten("0/10", True, 203.0) == 3.0
    assert unwritten("0/20", True, 204.0) == 0.0, "slow, but it moves"
    assert unwritten("0/20", True, 206.0) == 2.0 and unwritten("0/20", False, 207.0) == 0.0
    assert unwritten(None, True, 300.0) == unwritten(None, True, 310.0) == 0.0, "a standby"


@pytest.mark.parametrize(("wanted", "seen"), [(Postgres.PRIMARY, "primary"), (Postgres.STANDBY, "standby")])
def test_a_hanging_disk_of_the_database_is_unhealthy(wanted: Postgres, seen: str) -> None:
    """The log may lie elsewhere, and be written all the time."""
    looked = PRIMARY if seen == "primary" else replace(PRIMARY, in_recovery=True)
    assert told(replace(looked, unread=5.0), wanted).healthy
    facts = told(replace(looked, unread=6.5), wanted)
    assert not facts.healthy and "disk of the database does not answer" in facts.because


def test_how_long_one_read_has_taken() -> None:
    observer, calls = Observer(cast(Server, None)), {1: ("5", "0"), 2: ("9", "1")}

    def unread(now: float, *waiting: int) -> float:
        return observer._unread(list(waiting), now, lambda pid: calls.get(pid, ()))

    assert unread(100.0, 1) == 0.0 and unread(103.0, 1, 2) == 3.0
    calls[1] = ("6", "0")
    assert unread(105.0, 1, 2) == 2.0, "the first one goes on, the second doesn't"
    assert unread(106.0, 1) == 1.0 and unread(107.0, 1, 2) == 2.0, "which waited for something else in between"
    del calls[1], calls[2]
    assert unread(109.0, 1, 2) == 0.0, "no process that waits for a device"
