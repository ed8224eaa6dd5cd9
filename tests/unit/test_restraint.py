"""Rule 12: flapping suspends yields and planned failovers, and nothing else, until it was quiet for a while."""

from __future__ import annotations

from dataclasses import replace

from heartbeat.model import Epoch, Persist, Phase, Record, Reply, Resume, Standby, Suspend
from heartbeat.restraint import Restraint
from tests.unit.server import SITE, Server, active_in_sync, passive_in_sync

FEW = replace(SITE, most_changes=3, quiet_window=100.0)


def test_more_takeovers_than_allowed_in_the_window_suspend() -> None:
    restraint = Restraint(FEW, 0, 0.0)
    for now in (0.0, 40.0, 80.0, 120.0):
        restraint.took_over(now)
    assert not restraint.suspended, "the first one is out of the window"
    restraint.took_over(121.0)
    assert restraint.suspended


def test_both_servers_takeovers_count() -> None:
    restraint = Restraint(FEW, 0, 0.0)
    restraint.took_over(0.0)
    restraint.took_over(1.0)
    restraint.heard(1, 2.0)
    assert not restraint.suspended
    restraint.heard(2, 3.0)
    assert restraint.suspended


def test_it_ends_when_it_was_quiet_for_the_window_on_both() -> None:
    restraint = Restraint(FEW, 3, 0.0)
    restraint.heard(1, 10.0)
    assert restraint.suspended
    restraint.heard(2, 50.0)
    restraint.pass_time(149.0)
    assert restraint.suspended and restraint.ends_in(149.0) == 1.0
    restraint.heard(1, 149.5)  # one of the peer's ran out, which is no change
    restraint.pass_time(150.0)
    assert not restraint.suspended
    restraint.heard(1, 151.0)
    assert not restraint.suspended


def test_what_was_counted_before_a_restart_counts_as_new() -> None:
    restraint = Restraint(FEW, 4, 1000.0)
    assert restraint.count(1099.0) == 4 and restraint.count(1100.0) == 0


def restrained(server: Server) -> Server:
    server.core.restraint.heard(99, server.now)
    server.hear(changes=99)
    assert server.core.rules.restrained()
    return server


def test_a_restrained_active_neither_yields_nor_hands_over() -> None:
    server = restrained(active_in_sync())
    (reply,) = [e for e in server.give(Standby("root")) if isinstance(e, Reply)]
    assert not reply.ok and "more than 10 takeovers in 10 minutes" in reply.text and "`ha resume`" in reply.text
    server.pings = False
    server.run(2.0)
    assert server.core.ask_ping_seq == 0 and server.core.phase is Phase.ACTIVE
    (reply,) = [e for e in server.give(Standby("vs-28")) if isinstance(e, Reply)]
    assert not reply.ok
    (reply,) = [e for e in server.give(Standby("root", force=True)) if isinstance(e, Reply)]
    assert reply.ok


def test_a_restrained_passive_takes_over_when_nobody_is_active() -> None:
    server = restrained(passive_in_sync())
    assert "takeovers in 10 minutes" in server.core.alarms["flapping"]
    server.peer_speaks = False
    server.run(1.6)
    assert server.core.phase is Phase.ACTIVE


def test_a_takeover_is_counted_on_the_disk_and_said() -> None:
    server = passive_in_sync()
    server.peer_speaks = False
    server.run(1.6)
    assert server.core.disk.changes == 1 and server.said is not None and server.said.changes == 1


def test_what_an_operator_asked_for_is_not_counted() -> None:
    server = passive_in_sync()
    server.hear(phase=Phase.PREPARING)
    server.hear(phase=Phase.PASSIVE, stood_down=True, calls_in_sync=-1, vip=False)
    server.run(0.2)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.changes == 0


def test_the_count_leaves_the_disk_after_a_quiet_window() -> None:
    mine = Epoch(4, "vs-166")
    server = Server(Record(mine, active=True, solo=True, changes=2), Resume(mine, 100.4), site=replace(SITE, quiet_window=5.0))
    server.run(4.0)
    assert server.core.disk.changes == 2
    server.run(1.5)
    assert server.core.disk.changes == 0
    assert len([e for e in server.did if isinstance(e, Persist)]) == 1


def test_an_operators_resume_ends_it_here_and_there() -> None:
    server = restrained(active_in_sync())
    server.give(Suspend("root", False))
    assert not server.core.rules.restrained() and "flapping" not in server.core.alarms
    server = restrained(passive_in_sync())
    server.hear(suspended=False, suspend_version=7, changes=0)
    assert not server.core.rules.restrained()


def test_an_operators_suspension_is_another_thing() -> None:
    server = passive_in_sync()
    server.hear(suspended=True, suspend_version=1)
    assert "an operator" in server.core.rules.unfit() and "flapping" not in server.core.alarms
    server.peer_speaks = False
    server.run(3.0)
    assert server.core.phase is Phase.PASSIVE
