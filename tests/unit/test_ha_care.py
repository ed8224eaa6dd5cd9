"""What ails a Postgres that is watched: which alarm, which remedy, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha_manager import settings
from ha_manager.care import (
    ALONE,
    ATTEMPTS,
    COPY_AGAIN,
    DEAD_RECEIVER,
    DEAD_REPLAY,
    DEATH_WINDOW,
    HUNG_COPY,
    HUNG_RECEIVER,
    HUNG_SENDER,
    LAG_BYTES,
    LAG_SECONDS,
    MIB,
    STUCK_REPLAY,
    Care,
    Deaths,
    Findings,
    Remedy,
    disk_trouble,
    enforces,
    is_damaged,
)
from ha_manager.observation import DATABASE, LOG, MESSAGES, STATE, Disk, Observation, Receiver, Slot, StandbyRow, Vitals
from ha_manager.orders import Epoch, Names, Phase, Postgres, Want
from ha_manager.settings import Setting

E5 = Epoch(5, "vs-166")
GIB = 1024 * MIB
SLOT = Slot("ha_vs_28", True, "reserved", 900, 4 * GIB)
ROW = StandbyRow("ha_vs-28_5", "streaming", "sync", 1000, 1000, 1000, 0.1)
ACTIVE = Observation(
    state="running", answers=True, lsn=1000, replayed=-1, names='"ha_vs-28_5"', standbys=(ROW,), slots=(SLOT,), vitals=Vitals()
)
REIGN = Want(7, Phase.ACTIVE, E5, Postgres.PRIMARY, Names.ENFORCED)
SOLO = replace(REIGN, names=Names.RELAXED)
RECEIVER = Receiver("streaming", "ha_vs-28_5", "10.0.0.1", 1000, 0.2)
PASSIVE = Observation(
    state="running", answers=True, in_recovery=True, lsn=GIB, replayed=GIB, receiver=RECEIVER, vitals=Vitals()
)
FOLLOW = Want(7, Phase.PASSIVE, E5, Postgres.STANDBY, follow=E5)


def told(findings: Findings) -> dict[str, str]:
    return {name: text for name, text in findings.alarms.items() if text}


def look(seen: Observation, want: Want = REIGN, proven: int = 900, lasting: float = 0.0) -> Findings:
    """``lasting``: it has been seen so for as many seconds, ten times a second."""
    care = Care("vs-28" if want.postgres is Postgres.PRIMARY else "vs-166", 64 * MIB)
    for tick in range(int(lasting * 10)):
        care.look(want, proven, seen, tick / 10)
    return care.look(want, proven, seen, lasting)


@pytest.mark.parametrize(("seen", "want"), [(ACTIVE, REIGN), (PASSIVE, FOLLOW)])
def test_a_postgres_that_is_well_has_no_alarm_and_needs_nothing(seen: Observation, want: Want) -> None:
    for lasting in (0.0, 100.0):
        findings = look(seen, want, lasting=lasting)
        assert (told(findings), findings.remedies) == ({}, ())


BEHIND = replace(ROW, flushed=1000)
ROWS = [
    # active
    ("names relaxed by hand", replace(ACTIVE, names=""), REIGN, 0.0, "names", "stopped waiting for vs-28", Remedy.PROVE),
    ("names of another epoch", replace(ACTIVE, names='"ha_vs-28_4"'), REIGN, 0.0, "names", "ha_vs-28_4", Remedy.PROVE),
    ("slot dropped", replace(ACTIVE, slots=()), REIGN, 2.0, "slot", "slot of vs-28 was dropped", Remedy.SETTLE),
    ("slot lost", replace(ACTIVE, slots=(replace(SLOT, active=False, wal_status="lost"),)), REIGN, 2.0, "slot",
     "copied afresh when it is back", Remedy.SETTLE),
    ("role dropped", replace(ACTIVE, vitals=Vitals(role=False)), REIGN, 2.0, "slot", "role was dropped", Remedy.SETTLE),
    ("log nearly given up", replace(ACTIVE, lsn=4 * GIB, slots=(Slot("ha_vs_28", False, "extended", 1, GIB),)), REIGN, 0.0,
     "slot", "after more than 1024 MiB more", None),
    ("kept back on a full disk", replace(ACTIVE, lsn=4 * GIB, slots=(Slot("ha_vs_28", False, "extended", 1, 9 * GIB),),
     disks=(Disk(DATABASE, "/d", 100 * MIB, GIB),)), SOLO, 0.0, "slot", "they are given up", Remedy.RELEASE_LOG),
    ("passive lags", replace(ACTIVE, lsn=1001 + LAG_BYTES), REIGN, LAG_SECONDS + 1, "lag",
     "vs-28 lacks more than 256 MiB", None),
    # both
    ("connections taken", replace(ACTIVE, vitals=Vitals(clients=93, places=95, busiest="web from 10.0.0.9")), REIGN, 0.0,
     "connections", "web from 10.0.0.9", None),
    ("all of them", replace(ACTIVE, crowded=True, vitals=Vitals(clients=1, places=95)), REIGN, 0.0, "connections",
     "refused", None),
    ("not archived", replace(ACTIVE, vitals=Vitals(unarchived=100 * MIB)), REIGN, 0.0, "archive",
     "more than 64 MiB of the log of changes have waited", None),
    ("foreign", replace(ACTIVE, foreign=4711), REIGN, 0.0, "foreign", "process 4711", Remedy.END_FOREIGN),
    ("foreign, and mute", Observation(state="stopped", foreign=4711), REIGN, 0.0, "foreign", "by hand", Remedy.END_FOREIGN),
    ("overridden", replace(ACTIVE, overridden=("port",)), REIGN, 0.0, "overridden", "ALTER SYSTEM set port", Remedy.RESET),
    ("overridden there", replace(PASSIVE, overridden=("port",)), FOLLOW, 0.0, "overridden", "port", Remedy.RESET),
    ("settings", replace(ACTIVE, unusable="/c:5: not a setting"), REIGN, 0.0, "settings", "/c:5: not a setting: until then",
     None),
    ("settings while it is down", replace(PASSIVE, unusable="/c:5: not a setting", answers=False), FOLLOW, 0.0, "settings",
     "goes by the settings that it had before", None),
    ("own files gone", replace(ACTIVE, missing=("/s/role.conf",)), REIGN, 0.0, "own-files", "removed /s/role.conf",
     Remedy.REMAKE),
    ("own files gone there", replace(PASSIVE, missing=("/s/role.conf",)), FOLLOW, 0.0, "own-files", "as Postgres runs",
     Remedy.REMAKE),
    ("disk nearly full", replace(ACTIVE, disks=(Disk(DATABASE, "/d", 200 * MIB, GIB),)), REIGN, 0.0, "disk-database",
     "nearly full: less than 256 MiB", None),
    ("messages full", replace(ACTIVE, disks=(Disk(MESSAGES, "/var/log", 0, GIB),)), REIGN, 0.0, "disk-messages",
     "isn't touched", None),
    ("sender hangs", replace(ACTIVE, standbys=(replace(ROW, name="ha_vs-28_4", reply_age=HUNG_SENDER + 1),)), SOLO, 0.0,
     "sender", "hangs", Remedy.WAKE),
    ("a copy's sender hangs", replace(ACTIVE, standbys=(replace(ROW, name="ha_copy_vs-28", reply_age=HUNG_COPY + 1),)), SOLO,
     0.0, "sender", "hangs", Remedy.WAKE),
    # passive
    ("promoted by hand", replace(PASSIVE, in_recovery=False), FOLLOW, 0.0, "promoted", "by hand", None),
    ("paused", replace(PASSIVE, replay_paused=True, replayed=GIB - 5 * MIB), FOLLOW, 100.0, "replay",
     "more than 4 MiB wait", None),
    ("stuck", replace(PASSIVE, replayed=GIB - MIB), FOLLOW, STUCK_REPLAY + 1, "replay", "startup process", Remedy.WAKE),
    ("stuck for long", replace(PASSIVE, replayed=GIB - MIB), FOLLOW, DEAD_REPLAY + 1, "replay", "15 min", Remedy.RESTART),
    ("a conflict", replace(PASSIVE, replayed=1, vitals=Vitals(replay_waits="Lock relation", oldest="process 9 of joe")),
     FOLLOW, STUCK_REPLAY + 1, "replay", "process 9 of joe", Remedy.WAKE),
    ("much to replay", replace(PASSIVE, replayed=GIB - LAG_BYTES - 1), FOLLOW, LAG_SECONDS + 1, "lag", "wait for replay",
     Remedy.WAKE),
    ("receiver hangs", replace(PASSIVE, receiver=replace(RECEIVER, message_age=HUNG_RECEIVER)), FOLLOW, 0.0, "receiver",
     "hangs", Remedy.WAKE),
    ("receiver does not end", replace(PASSIVE, receiver=replace(RECEIVER, status="stopping", message_age=HUNG_RECEIVER)),
     FOLLOW, 0.0, "receiver", "hangs", Remedy.WAKE),
    ("receiver is dead", replace(PASSIVE, receiver=replace(RECEIVER, message_age=DEAD_RECEIVER + 1)), FOLLOW, 0.0, "receiver",
     "hangs", Remedy.END_RECEIVER),
]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "want", "lasting", "alarm", "words", "remedy"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_alarm_and_remedy(seen: Observation, want: Want, lasting: float, alarm: str, words: str, remedy: Remedy | None) -> None:
    findings = look(seen, want, lasting=lasting)
    assert words in findings.alarms[alarm]
    assert set(told(findings)) <= {alarm, "lag", "replay", "disk-database"}
    assert (remedy in findings.remedies) if remedy else not findings.remedies


def test_what_has_not_lasted_is_no_alarm() -> None:
    for seen, want, lasting in (
        (replace(ACTIVE, slots=()), REIGN, 0.5),
        (replace(PASSIVE, replayed=GIB - MIB), FOLLOW, STUCK_REPLAY - 1),
        (replace(ACTIVE, standbys=(replace(ROW, reply_age=HUNG_SENDER - 1),)), REIGN, 100.0),
        (replace(ACTIVE, standbys=(ROW, replace(ROW, name="copying", reply_age=99.0))), REIGN, 100.0),
        (replace(ACTIVE, standbys=(ROW, replace(ROW, name="ha_copy_vs-28", reply_age=HUNG_COPY - 1))), REIGN, 100.0),
        (replace(ACTIVE, standbys=(replace(ROW, state="backup", reply_age=99.0),)), REIGN, 100.0),
        (replace(PASSIVE, receiver=replace(RECEIVER, message_age=HUNG_RECEIVER - 1)), FOLLOW, 100.0),
        (replace(PASSIVE, replayed=GIB - 100), FOLLOW, 100.0),
        (replace(PASSIVE, receiver=replace(RECEIVER, status="waiting", message_age=99.0)), FOLLOW, 100.0),
    ):
        assert look(seen, want, lasting=lasting).remedies == ()


def test_log_is_kept_back_for_a_passive_that_is_there_or_that_commits_wait_for_or_while_there_is_room() -> None:
    slot = Slot("ha_vs_28", False, "extended", 1, 9 * GIB)
    full = replace(ACTIVE, lsn=4 * GIB, slots=(slot,), disks=(Disk(DATABASE, "/d", 100 * MIB, GIB),))
    assert Remedy.RELEASE_LOG in look(full, SOLO).remedies
    soon = replace(full, disks=(Disk(DATABASE, "/d", 200 * MIB, GIB),), vitals=Vitals(between_checkpoints=100 * MIB))
    assert Remedy.RELEASE_LOG in look(soon, SOLO).remedies
    little = replace(full, slots=(replace(slot, restart=4 * GIB - 100 * MIB),))
    assert Remedy.RELEASE_LOG in look(replace(little, disks=(Disk(LOG, "/wal", 50 * MIB, GIB),)), SOLO).remedies
    for seen, want in (
        (full, REIGN),
        (replace(full, slots=(replace(slot, active=True),)), SOLO),
        (replace(full, slots=(replace(slot, restart=4 * GIB - MIB),)), SOLO),
        (little, SOLO),
        (replace(full, disks=(Disk(DATABASE, "/d", 200 * MIB, GIB),)), SOLO),
        (replace(full, disks=(*full.disks, Disk(LOG, "/wal", GIB, GIB))), SOLO),
    ):
        assert Remedy.RELEASE_LOG not in look(seen, want).remedies


def test_replay_that_goes_on_is_not_stuck() -> None:
    care = Care("vs-166", 64 * MIB)
    for tick in range(200):
        seen = replace(PASSIVE, replayed=GIB - MIB + tick * 100)
        assert care.look(FOLLOW, -1, seen, tick / 10).remedies == ()


@pytest.mark.parametrize(
    ("want", "proven"), [(REIGN, -1), (replace(REIGN, names=Names.RELAXED), 900), (replace(REIGN, postgres=Postgres.KEEP), 900)]
)
def test_names_that_are_not_proven_or_not_wanted_are_nobodys_fault(want: Want, proven: int) -> None:
    assert look(replace(ACTIVE, names=""), want, proven).remedies == ()


DISKS = [
    (Disk(DATABASE, "/d", 63 * MIB, GIB), "is full"),
    (Disk(DATABASE, "/d", 63 * MIB, GIB, kept=True), "needed; `ha diverged` lists what is kept here"),
    (Disk(DATABASE, "/d", 64 * MIB, GIB, kept=True), ""),
    (Disk(DATABASE, "/d", 64 * MIB, GIB), ""),
    (Disk(LOG, "/wal", 63 * MIB, GIB), "is full"),
    (Disk(LOG, "/wal", GIB, GIB, read_only=True), "can't be written to"),
    (Disk(STATE, "/var", 7 * MIB, GIB), "is full"),
    (Disk(STATE, "/var", 9 * MIB, GIB), ""),
    (Disk(MESSAGES, "/var/log", 0, GIB, read_only=True), ""),
]


@pytest.mark.parametrize(("disk", "words"), DISKS)
def test_which_disk_a_server_can_not_serve_with(disk: Disk, words: str) -> None:
    found = disk_trouble(disk, 64 * MIB)
    assert (words in found) if words else found == ""


START = [
    (ATTEMPTS - 1, "PANIC: could not locate a valid checkpoint record", 1e9, False),
    (ATTEMPTS, "PANIC: could not locate a valid checkpoint record", 1e9, True),
    (ATTEMPTS, "PANIC: could not locate a valid checkpoint record", COPY_AGAIN - 1, False),
    (ATTEMPTS, "", 1e9, True),
    (ATTEMPTS, 'FATAL: could not write lock file "postmaster.pid": No space left on device', 1e9, False),
    (ATTEMPTS, "FATAL: configuration file contains errors", 1e9, False),
    (ATTEMPTS, 'FATAL: role "postgres" is not permitted to log in', 1e9, False),
    (ATTEMPTS, 'FATAL: database "postgres" does not exist', 1e9, False),
    (ATTEMPTS, 'FATAL: database "postgres" does not exist DETAIL: The database subdirectory "base/5" is missing.', 1e9, True),
    (ATTEMPTS, 'FATAL: could not open file "global/pg_filenode.map": No such file or directory', 1e9, True),
    (ATTEMPTS, 'FATAL: data directory "/x" has invalid permissions', 1e9, True),
    (ATTEMPTS, 'FATAL: could not bind IPv4 address "0.0.0.0": Address already in use', 1e9, False),
]


@pytest.mark.parametrize(("attempts", "words", "since", "copy"), START)
def test_when_a_standby_that_does_not_start_is_copied_afresh(attempts: int, words: str, since: float, copy: bool) -> None:
    assert is_damaged(attempts, words, since) is copy


@pytest.mark.parametrize(
    ("names", "holds"),
    [
        ('"ha_vs-28_5"', True),
        ("ha_vs-28_5", True),
        ("", False),
        ("*", False),
        ('"ha_proof_5"', False),
        ("ha_vs-28_5, x", False),
    ],
)
def test_whose_acknowledgement_the_names_ask_for(names: str, holds: bool) -> None:
    assert enforces(names, "vs-28", E5) is holds


def test_what_alter_system_may_not_decide(tmp_path: object) -> None:
    def auto(**values: str) -> tuple[str, ...]:
        return settings.overridden({name: Setting(value, None, 1) for name, value in values.items()})  # type: ignore[arg-type]

    assert auto(work_mem="64MB", synchronous_commit="on", fsync="on") == ()
    assert auto(synchronous_standby_names="") == ("synchronous_standby_names",)
    assert auto(synchronous_commit="off", fsync="off") == ("fsync", "synchronous_commit")
    assert auto(recovery_min_apply_delay="5min", port="5433") == ("port", "recovery_min_apply_delay")


@pytest.mark.parametrize(
    ("died", "now", "alone", "restarted"),
    [
        ((0.0,), 0.1, False, True),
        ((0.0, 1.0, 2.0), 2.1, False, True),
        ((0.0, 1.0, 2.0, 3.0), 3.1, False, False),
        ((0.0, 1.0, 2.0, 3.0), DEATH_WINDOW - 1, False, False),
        ((0.0, 1.0, 2.0, 3.0), DEATH_WINDOW + 0.5, False, True),
        ((0.0, 1.0, 2.0, 3.0), 3.1, True, False),
        ((0.0, 1.0, 2.0, 3.0), 3.0 + ALONE, True, True),
        ((0.0, 1.0, 2.0, 3.0, 9.0), 10.0, True, False),
    ],
)
def test_when_one_that_dies_is_restarted_in_place(died: tuple[float, ...], now: float, alone: bool, restarted: bool) -> None:
    deaths = Deaths()
    for at in died:
        deaths.died(at)
    assert (deaths.too_often(now, alone) == "") is restarted
