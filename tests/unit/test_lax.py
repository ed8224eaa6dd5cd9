"""Asynchronous replication (rule 6, synchronous="off"): who may take over, what is said to be lost, each step of a switch."""

from __future__ import annotations

from dataclasses import replace

from heartbeat.model import (
    Database,
    Effect,
    Epoch,
    ForceStopped,
    Leave,
    ManagerLost,
    Mode,
    Names,
    Persist,
    Phase,
    Record,
    Replication,
    Resume,
    RoleChanged,
    Send,
    Standby,
    Stop,
    Want,
)
from tests.unit.server import PEER_ACTIVE, PEER_PASSIVE, SITE, Server

MIB = 2**20
LAX_SITE = replace(SITE, synchronous=False, maximum_lag=MIB)
OFF, LAX = Mode(off=True), Mode(off=True, lax=True)
MINE, THEIRS = Epoch(4, "vs-166"), Epoch(4, "vs-28")


def lax_passive(lacks: int = 0) -> Server:
    """The fit passive of an active whose commits don't wait for it, and that has ``lacks`` bytes more."""
    server = Server(site=LAX_SITE)
    server.facts = replace(server.facts, following=THEIRS, lsn=10 * MIB)
    server.hear(**PEER_ACTIVE | {"calls_in_sync": 9 * MIB, "lsn": 10 * MIB}, mode=LAX)
    server.run(0.5)
    server.hear(lsn=10 * MIB + lacks)
    assert server.core.disk.in_sync and server.core.disk.lax and server.core.rules.lag() == lacks
    return server


def lagging(behind: int, **site: object) -> Server:
    """An active whose commits don't wait for the passive, which lacks ``behind`` bytes (-1: it does not stream)."""
    resume = Resume(MINE, 100.4)
    server = Server(Record(MINE, active=True, lax=True), resume, site=replace(LAX_SITE, **site))  # type: ignore[arg-type]
    server.facts = replace(
        server.facts, postgres=Database.PRIMARY, proven=-1, names=Names.RELAXED, caught_up=True, behind=behind, lsn=10 * MIB
    )
    server.hear(**PEER_PASSIVE, in_sync=True, fit=True, mode=LAX)
    server.run(0.5)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.lax, server.core.because
    return server


def wanted(server: Server) -> Names:
    assert server.want is not None
    return server.want.names


def called(server: Server) -> int:
    assert server.said is not None
    return server.said.calls_in_sync


# --- fitness and takeover -----------------------------------------------------------------------------------------------


def test_commits_do_not_wait_and_the_passive_is_called_as_long_as_it_lags_little() -> None:
    server = lagging(1000)
    assert wanted(server) is Names.RELAXED and called(server) == 9 * MIB
    server.facts = replace(server.facts, behind=MIB + 1)
    server.run(0.5)
    assert called(server) == -1 and not server.core.disk.solo, "its fitness ends by itself"
    server.run(1.5)
    assert "more log than maximum_lag_on_failover (1 MiB)" in server.core.alarms["lag"]
    server.facts = replace(server.facts, behind=0)
    server.run(0.5)
    assert called(server) == 9 * MIB and "lag" not in server.core.alarms


def test_a_passive_that_can_not_take_over_for_long_is_released() -> None:
    server = lagging(-1)
    server.run(9.0)
    assert not server.core.disk.solo and not server.core.ask_release_seq
    server.run(2.0)
    assert server.core.ask_release_seq and called(server) == -1
    server.hear(in_sync=False, fit=False, mode=LAX)
    server.run(0.1)
    assert server.core.disk.solo and not server.core.disk.lax and "has lagged too far behind" in server.core.because


def test_a_takeover_says_how_much_may_be_lost() -> None:
    server = lax_passive(lacks=4096)
    server.peer_speaks = False
    server.run(1.5)
    assert server.core.phase is Phase.ACTIVE
    assert "this server lacks 4 KiB of log that vs-28 had when last heard, 1.0 s ago; that, and what was" in server.core.because


def test_it_does_not_take_over_when_it_lacked_more_than_the_maximum_when_the_active_was_last_heard() -> None:
    server = lax_passive(lacks=MIB + 1)
    server.peer_speaks = False
    server.run(2.0)
    assert server.core.phase is Phase.PASSIVE
    told = server.core.rules.unfit()
    assert told == "it lacks 1 MiB that the active had when last heard, more than maximum_lag_on_failover (1 MiB)"
    assert "this server lacks 1 MiB of log that vs-28 had" in "\n".join(server.core.explain(server.now))


def test_from_one_that_stood_down_nothing_is_taken_that_it_holds_in_addition() -> None:
    down = {"phase": Phase.PASSIVE, "stood_down": True, "calls_in_sync": -1, "vip": False, "data": "ready", "connected": True}
    server = lax_passive()
    server.hear(**down | {"lsn": -1})
    server.run(0.2)
    assert server.core.phase is Phase.PASSIVE, "what it holds is not known yet"
    server.hear(lsn=10 * MIB + 100)
    server.run(0.2)
    assert server.core.phase is Phase.PASSIVE and server.core.rules.elect() == "theirs", "the longer log wins"
    clean = lax_passive()
    clean.facts = replace(clean.facts, lsn=10 * MIB + 100)
    clean.run(0.1)
    clean.hear(**down | {"lsn": 10 * MIB + 100})
    clean.run(0.2)
    assert clean.core.phase is Phase.ACTIVE and "nothing is lost: this server holds all log" in clean.core.because


def test_one_that_let_go_does_not_say_where_it_was_before_its_postgres_ended() -> None:
    server = lagging(100)
    server.manager = False
    server.give(ManagerLost("it hangs"))
    server.core.handle(ForceStopped(), server.now)
    server.core.phase = Phase.PASSIVE
    server.core._send()
    assert server.core.said is not None and server.core.said.lsn == -1
    server.core.manager_lost = ""  # it reports again
    server.core.facts = replace(server.core.facts, postgres=Database.STOPPED, shutdown_lsn=77)
    server.core._send()
    assert server.core.said.lsn == 77


def test_an_active_that_yields_stops_cleanly_so_that_the_passive_gets_the_rest() -> None:
    server = lagging(100)
    server.pings = False
    for _ in range(40):
        server.run(0.05)
        assert server.said is not None
        server.hear(ping_after=server.said.seq)
    assert server.core.disk.stood_down or server.core.phase is Phase.STANDING_DOWN
    stops = [want.stop for want in server.did if isinstance(want, Want) and want.postgres is Database.STOPPED]
    assert stops and set(stops) == {Stop.FAST}


def test_a_former_active_that_is_back_at_once_does_not_give_up_what_only_it_holds() -> None:
    server = Server(Record(MINE, active=True, lax=True), site=LAX_SITE)
    server.hear(**PEER_PASSIVE, in_sync=True, fit=True, lsn=900, mode=LAX)
    server.run(0.5)
    assert server.core.phase is Phase.PASSIVE and not server.core.disk.stood_down
    assert server.core.rules.elect() == "mine", "it has the longer log"


# --- planned failover ---------------------------------------------------------------------------------------------------


def test_a_planned_failover_makes_commits_wait_first() -> None:
    server = lagging(1000)
    server.give(Standby("root"))
    server.run(0.1)
    assert server.core.phase is Phase.PREPARING and wanted(server) is Names.RELAXED, "a checkpoint first"
    server.facts = replace(server.facts, prepared=True)
    server.run(0.3)
    assert server.core.phase is Phase.PREPARING and wanted(server) is Names.ENFORCED and server.core.disk.lax
    server.facts = replace(server.facts, names=Names.ENFORCED, proven=10 * MIB)
    server.run(0.3)
    assert server.core.disk.stood_down and not server.core.disk.lax, "every commit was seen to wait"


def test_a_planned_failover_to_one_that_does_not_catch_up_is_given_up() -> None:
    server = lagging(1000)
    server.give(Standby("root"))
    server.facts = replace(server.facts, prepared=True, caught_up=False)
    server.run(61.0)
    assert server.core.phase is Phase.ACTIVE and "vs-28 did not catch up" in server.core.because
    assert wanted(server) is Names.RELAXED and server.core.disk.lax


# --- switched while it runs ---------------------------------------------------------------------------------------------


def strict() -> Server:
    """In sync, in both servers' configuration, too."""
    server = Server(Record(MINE, active=True), Resume(MINE, 100.4), site=replace(SITE, maximum_lag=MIB))
    server.facts = replace(
        server.facts, postgres=Database.PRIMARY, proven=900, names=Names.ENFORCED, caught_up=True, behind=0, lsn=10 * MIB
    )
    server.hear(**PEER_PASSIVE, in_sync=True, fit=True)
    server.run(0.5)
    return server


def told(effects: list[Effect]) -> list[str]:
    """What matters of the order: records, messages' word, and names."""
    words = []
    for effect in effects:
        match effect:
            case Persist(_, record):
                words.append(f"disk lax={record.lax}")
            case Send(message) if f"said lax={message.mode.lax}" not in words[-1:]:
                words.append(f"said lax={message.mode.lax}")
            case Want():
                words.append(f"names {effect.names}")
    return words


def test_to_asynchronous_disk_word_the_passives_disk_and_only_then_commits_stop_waiting() -> None:
    server = strict()
    server.give(Replication(False, "silence", MIB))
    server.run(0.5)
    assert wanted(server) is Names.ENFORCED and not server.core.disk.lax, "the other server still says on"
    assert "the stricter counts" in server.core.alarms["mode-differs"]
    server.did.clear()
    server.hear(mode=OFF)
    server.run(0.5)
    assert server.core.disk.lax and wanted(server) is Names.ENFORCED, "the passive does not know of it yet"
    server.hear(mode=LAX)
    server.run(0.1)
    words = told(server.did)
    assert words.index("disk lax=True") < words.index("said lax=True") < words.index("names relaxed"), words
    assert "mode-differs" not in server.core.alarms


def test_another_configuration_is_told_and_is_no_reason_for_what_a_server_is() -> None:
    server = strict()
    server.manager = server.pings = server.peer_speaks = False  # Postgres does not stop yet
    server.run(1.0)
    assert server.core.phase is Phase.STANDING_DOWN
    why = server.core.because
    server.did.clear()
    server.give(Replication(False, "silence", MIB))
    server.manager = True
    server.run(0.5)
    changes = [effect.because for effect in server.did if isinstance(effect, RoleChanged)]
    assert changes[0].startswith("configured anew: ") and changes[1] == f"stood down in epoch 4/vs-166: {why}", changes
    server.give(Replication(True, "release", MIB))
    assert server.core.because == changes[1]


def test_to_synchronous_proven_on_the_disk_and_only_then_said() -> None:
    server = lagging(1000)
    server.did.clear()
    server.give(Replication(True, "silence", MIB))
    server.run(0.3)
    assert wanted(server) is Names.ENFORCED and server.core.disk.lax and called(server) == 9 * MIB
    server.run(1.0)
    assert "commits don't wait for vs-28 yet" in server.core.alarms["mode-pending"]
    server.facts = replace(server.facts, names=Names.ENFORCED, proven=10 * MIB)
    server.run(0.3)
    assert not server.core.disk.lax and called(server) == 10 * MIB
    words = told(server.did)
    assert words[0] == "names enforced" and words.index("disk lax=False") < words.index("said lax=False"), words


def test_either_server_makes_it_strict_again() -> None:
    server = lagging(1000)
    server.hear(mode=Mode(lax=True))
    server.run(0.2)
    assert wanted(server) is Names.ENFORCED, "the passive says on"


def test_a_proof_that_fails_leaves_commits_as_they_were() -> None:
    server = lagging(1000)
    server.give(Replication(True, "silence", MIB))
    server.run(5.5)
    assert server.core.disk.lax and wanted(server) is Names.RELAXED
    server.run(1.2)
    assert wanted(server) is Names.ENFORCED, "tried again"


def test_the_passive_stores_what_it_hears() -> None:
    server = lax_passive()
    server.hear(calls_in_sync=10 * MIB, mode=Mode())
    server.run(0.1)
    assert server.core.disk.in_sync and not server.core.disk.lax and server.core.rules.lag() == 0
    server.facts = replace(server.facts, lsn=MIB)
    server.run(0.1)
    server.hear(mode=LAX)
    server.run(0.1)
    assert not server.core.disk.lax, "it does not hold what it must to be called"


def test_release_is_the_stricter_also_when_only_the_other_server_says_so() -> None:
    server = strict()
    server.hear(mode=Mode(release=True))
    server.peer_speaks = False
    server.run(6.0)
    assert not server.core.disk.solo and wanted(server) is Names.ENFORCED
    assert 'solo="silence" is configured here, "release" on vs-28' in server.core.alarms["solo-differs"]
    server.give(Replication(True, "release", MIB))
    server.run(0.1)
    assert "solo-differs" not in server.core.alarms


def test_to_silence_while_the_passive_is_dead_goes_on_if_that_was_said_so_too() -> None:
    server = strict()
    server.give(Replication(True, "release", MIB))
    server.peer_speaks = False
    server.run(6.0)
    assert not server.core.disk.solo
    server.give(Replication(True, "silence", MIB))
    server.run(0.2)
    assert server.core.disk.solo and "silent on every link" in server.core.because


def test_from_solo_the_passive_may_take_over_as_soon_as_it_follows_closely() -> None:
    server = lagging(1000)
    server.hear(in_sync=False, fit=False)
    server.run(0.1)
    server.hear()
    server.run(0.1)
    server.hear()
    server.run(0.1)
    assert server.core.disk.lax and not server.core.disk.solo and wanted(server) is Names.RELAXED
    reasons = [effect.because for effect in server.did if isinstance(effect, Want)]
    assert any("solo" in because for because in reasons) and "follows again, asynchronously" in server.core.because


# --- leaving --------------------------------------------------------------------------------------------------------------


def test_an_active_that_can_not_tell_a_silent_passive_leaves_all_the_same() -> None:
    server = strict()
    server.give(Replication(True, "release", MIB))
    server.peer_speaks = False
    server.run(2.0)
    server.give(Leave("ha stop", "off"))
    server.run(5.0)
    assert server.core.phase is Phase.ACTIVE, "it may be heard again"
    server.run(1.0)
    assert server.core.phase is Phase.LEFT and not server.core.disk.solo
    assert server.core.because == "heartbeat was stopped (off, vs-28 could not be told)"


def test_an_active_that_is_turned_off_goes_solo_and_leaves() -> None:
    server = lagging(1000)
    server.give(Leave("ha stop", "off"))
    server.run(0.1)
    assert server.core.ask_release_seq
    server.hear(in_sync=False, fit=False)
    server.run(0.1)
    assert server.core.phase is Phase.LEFT and server.core.disk.solo and server.core.disk.active
