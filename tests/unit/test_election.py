"""The safety rules, one by one, on one server: each holds when it should, and does not when one condition is missing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from heartbeat import speech
from heartbeat.model import (
    Activate,
    Alarm,
    Boot,
    Database,
    DropVip,
    Epoch,
    ForceStop,
    Gate,
    Leave,
    LinkChanged,
    ManagerLost,
    Message,
    Names,
    Persist,
    Persisted,
    PersistFailed,
    Phase,
    Record,
    Reply,
    Resume,
    RoleChanged,
    Send,
    Standby,
    Stop,
    Suspend,
    TakeVip,
    Tick,
    Want,
)
from heartbeat.state import SPACING
from tests.unit.server import PEER_ACTIVE, PEER_PASSIVE, SITE, TIMING, Server, active_in_sync, let_go, passive_in_sync


def test_a_fit_passive_takes_over_after_silence_in_the_order_of_rule_2() -> None:
    server = passive_in_sync()
    server.did.clear()
    server.peer_speaks = False
    server.run(1.6)
    assert server.core.phase is Phase.ACTIVE
    assert server.core.disk.epoch == Epoch(5, "vs-166")
    wanted = [e for e in server.did if isinstance(e, (Want, TakeVip, Persist, Gate)) or (isinstance(e, Send) and e.message.vip)]
    kinds = [e.postgres if isinstance(e, Want) else type(e).__name__ for e in wanted]
    kinds = list(dict.fromkeys(kinds[kinds.index(Database.DETACHED) :]))
    assert kinds[:5] == [Database.DETACHED, "TakeVip", "Send", "Persist", Database.PRIMARY]


@pytest.mark.parametrize(
    "what",
    [
        "not in sync",
        "unhealthy",
        "no ping",
        "higher epoch",
        "stale",
        "sign of service",
        "suspended",
        "no ha_manager",
        "one-way",
    ],
)
def test_a_passive_does_not_take_over(what: str) -> None:
    server = passive_in_sync()
    server.peer_speaks = what == "one-way"
    match what:
        case "not in sync":
            server.hear(asks_release=True, calls_in_sync=-1)
        case "unhealthy":
            server.facts = replace(server.facts, healthy=False, because="disk full")
        case "no ping":
            server.pings = False
        case "higher epoch":
            server.hear(highest=9, calls_in_sync=-1)
        case "stale":
            server.pings = False
            server.run(2.6)
            server.pings = True
        case "sign of service":
            server.facts = replace(server.facts, sign_age=0.1, sign="replication delivers")
        case "suspended":
            server.hear(suspended=True, suspend_version=1)
        case "no ha_manager":
            server.manager = False
            server.give(ManagerLost("killed"))
        case "one-way":
            server.peer_hears = False
    server.run(3.0)
    assert server.core.phase is Phase.PASSIVE, server.core.because


def test_every_field_of_a_message_is_a_word_or_alone_worth_no_message() -> None:
    quiet = {"node", "boot", "seq", "echo_boot", "echo_seq", "highest", "calls_in_sync", "ping_after", "lsn", "beyond", "times"}
    assert {field.name for field in fields(Message)} == quiet | set(speech.Word._fields)


def test_an_epoch_that_never_came_to_be_no_longer_counts_when_the_active_calls_in_sync() -> None:
    server = passive_in_sync()
    server.hear(highest=9, calls_in_sync=-1)
    assert "an epoch 9 is known" in server.core.rules.unfit()
    server.hear(highest=9, calls_in_sync=900)
    assert server.core.rules.unfit() == ""
    server.peer_speaks = False
    server.run(1.6)
    assert server.core.phase is Phase.ACTIVE
    assert server.core.disk.epoch == Epoch(10, "vs-166")


def test_a_passive_without_a_link_for_the_virtual_ip_takes_over_but_is_not_yielded_to() -> None:
    server = passive_in_sync()
    assert server.said is not None and server.said.fit
    server.give(LinkChanged("eth0", False, carries_vip=True))
    assert not server.said.fit
    server.peer_speaks = False
    server.run(1.6)
    assert server.core.phase is Phase.ACTIVE


def test_a_takeover_that_cannot_be_written_is_tried_again() -> None:
    server = passive_in_sync()
    server.peer_speaks = server.disk = False
    while not (failed := [effect for effect in server.did if isinstance(effect, Persist) and effect.record.tentative]):
        server.run(0.1)
    server.give(PersistFailed(failed[0].serial, "no space left on device"))
    assert server.core.phase is Phase.PASSIVE
    server.disk = True
    server.run(1.2)
    assert server.core.phase is Phase.ACTIVE


def test_a_full_disk_is_tried_again_after_a_rest() -> None:
    """The writer says so within a millisecond: asked again at once, the two would do nothing else."""
    server = passive_in_sync()
    server.disk = False
    server.hear(asks_release=True, calls_in_sync=-1)
    refused = next(effect for effect in reversed(server.did) if isinstance(effect, Persist))
    server.did.clear()
    server.give(PersistFailed(refused.serial, "no space left on device"))
    server.run(TIMING.deadtime - 0.1)
    assert "Persist" not in server.kinds() and server.core.disk.in_sync
    server.disk = True
    server.run(0.2)
    assert not server.core.disk.in_sync


def test_a_takeover_is_given_up_when_the_active_speaks_before_the_announcement() -> None:
    server = passive_in_sync()
    server.manager = server.peer_speaks = False
    server.run(1.2)
    assert server.core.phase is Phase.DETACHING
    server.hear()
    assert server.core.phase is Phase.PASSIVE
    assert server.core.disk.epoch == Epoch(4, "vs-28")
    server.give(ManagerLost("killed"))
    flips = [e for e in server.did if isinstance(e, RoleChanged) and e.after is Phase.DETACHING]
    assert len(flips) == 1, "it rests before it tries again"


def test_an_epoch_is_not_promoted_before_it_is_on_disk() -> None:
    server = passive_in_sync()
    server.peer_speaks = server.disk = False
    server.run(1.6)
    assert server.core.phase is Phase.OPENING
    assert server.want is not None and server.want.postgres is Database.DETACHED
    serial = next(e.serial for e in reversed(server.did) if isinstance(e, Persist))
    server.give(Persisted(serial))
    assert server.want.postgres is Database.PRIMARY and server.want.epoch == Epoch(5, "vs-166")


def test_a_stood_down_active_is_succeeded_at_once() -> None:
    server = passive_in_sync()
    server.hear(phase=Phase.PASSIVE, stood_down=True, calls_in_sync=-1, vip=False)
    server.run(0.2)
    assert server.core.phase is Phase.ACTIVE


def test_a_stand_down_in_another_epoch_says_nothing() -> None:
    server = passive_in_sync()
    server.hear(phase=Phase.PASSIVE, stood_down=True, calls_in_sync=-1, vip=False, epoch=Epoch(3, "vs-28"))
    server.run(0.2)
    assert server.core.phase is Phase.PASSIVE


def test_one_that_may_come_back_is_succeeded_when_it_has_heard_of_it() -> None:
    server = passive_in_sync()
    server.peer_hears = False
    server.hear(phase=Phase.PASSIVE, stood_down=True, returns=True, calls_in_sync=-1, vip=False)
    server.run(0.5)
    assert server.core.phase is Phase.OPENING and "Persist" not in server.kinds()[-40:]
    server.peer_hears = True
    server.hear()
    server.run(0.1)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.epoch.number == 5


@pytest.mark.parametrize("what", ["takes back its word", "falls silent"])
def test_a_takeover_is_given_up_when_the_one_that_stood_down(what: str) -> None:
    server = passive_in_sync()
    server.peer_hears = False
    server.hear(phase=Phase.PASSIVE, stood_down=True, returns=True, calls_in_sync=-1, vip=False)
    server.run(0.3)
    assert server.core.phase is Phase.OPENING
    if what == "falls silent":
        # the word was worth what silence is worth: from now on it counts as that, with everything that it needs
        server.peer_speaks = False
        server.run(1.5)
        assert "silent on every link" in server.core.takeover.because
    else:
        server.hear(phase=Phase.DETACHING)
        assert server.core.phase is Phase.PASSIVE and "DropVip" in server.kinds()


def test_one_that_let_go_takes_up_again_when_its_successor_dies() -> None:
    server = let_go()
    assert server.said is not None and server.said.stood_down and server.said.returns
    server.peer_speaks = False
    server.run(3.3)
    assert server.core.phase is Phase.PASSIVE
    server.run(0.5)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.solo and server.core.disk.epoch == Epoch(5, "vs-166")
    order = [kind for kind in server.kinds() if kind in ("TakeVip", "Persist")]
    assert order[-3:] == ["TakeVip", "Persist", "Persist"]  # the epoch as solo and tentative, then as promoted


@pytest.mark.parametrize(
    "what",
    [
        "announced",
        "higher by the session",
        "deaf before",
        "unconnected since",
        "paused since",
        "unhealthy",
        "suspended",
        "restarted",
    ],
)
def test_one_that_let_go_waits_when_its_successor(what: str) -> None:
    server = let_go()
    match what:
        case "announced":
            server.hear(phase=Phase.OPENING, epoch=Epoch(5, "vs-28"), fit=False)
        case "higher by the session":
            server.facts = replace(server.facts, peer_epoch=Epoch(5, "vs-28"))
        case "deaf before":
            server.peer_hears = False
            server.run(0.8)
        case "unconnected since":
            server.peer_speaks = server.pings = False
            server.run(0.8)
            server.pings = True
        case "paused since":
            server.now += 1.0
        case "unhealthy":
            server.facts = replace(server.facts, healthy=False, because="the disk is full")
        case "suspended":
            server.give(Suspend("root", True))
        case "restarted":
            disk, now = server.core.disk, server.now
            server = Server(disk)
            server.hear(**PEER_PASSIVE, in_sync=True, fit=True)
            server.now += max(0.0, now - server.now)
    server.peer_speaks = False
    server.run(8.0)
    assert server.core.phase is Phase.PASSIVE and not server.core.disk.solo


def test_one_that_let_go_takes_up_again_when_its_successor_announced_itself_gave_up_and_died() -> None:
    server = let_go()
    server.hear(phase=Phase.OPENING, epoch=Epoch(5, "vs-28"), highest=5, fit=False, vip=True)
    server.run(1.0)
    assert server.said is not None and not server.said.returns
    server.hear(phase=Phase.PASSIVE, epoch=Epoch(4, "vs-166"), vip=False)
    assert server.core.returns
    server.peer_speaks = False
    server.run(4.0)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.epoch == Epoch(6, "vs-166")


@pytest.mark.parametrize("what", ["promoted", "another run of it"])
def test_one_that_let_go_waits_when_its_successor_may_have_served_since(what: str) -> None:
    server = let_go()
    server.hear(phase=Phase.OPENING, epoch=Epoch(5, "vs-28"), highest=5, fit=False, vip=True)
    if what == "promoted":
        server.hear(phase=Phase.PROMOTING, epoch=Epoch(5, "vs-28"))
        server.hear(phase=Phase.PASSIVE, epoch=Epoch(4, "vs-166"), vip=False)
    else:
        server.hear(boot=Boot(4, 44), phase=Phase.PASSIVE, epoch=Epoch(4, "vs-166"), vip=False)
    server.peer_speaks = False
    server.run(8.0)
    assert server.core.phase is Phase.PASSIVE


@pytest.mark.parametrize("heard", [True, False])
def test_a_takeover_whose_epoch_does_not_get_to_the_disk_is_given_up_where_somebody_else_may_serve(heard: bool) -> None:
    server = passive_in_sync()
    server.disk = False
    server.hear(phase=Phase.PASSIVE, stood_down=True, returns=True, calls_in_sync=-1, vip=False)
    server.run(0.3)
    assert server.core.phase is Phase.OPENING and server.core.saving
    server.peer_speaks = heard
    server.run(5.5)
    if not heard:
        assert server.core.phase is Phase.OPENING, "nobody else is there: as soon as the disk answers it goes on"
        return
    assert server.core.phase is Phase.PASSIVE and "does not answer" in server.core.because and "DropVip" in server.kinds()
    late = [effect for effect in server.did if isinstance(effect, Persist) and effect.record.tentative]
    server.disk = True
    server.give(Persisted(late[-1].serial))
    server.run(0.3)
    disk = server.core.disk
    assert (disk.epoch, disk.active, disk.solo, disk.in_sync, disk.tentative) == (Epoch(4, "vs-28"), False, False, False, False)


def test_one_that_let_go_for_silence_waits() -> None:
    server = active_in_sync()
    server.pings = server.peer_speaks = False
    server.run(1.0)
    assert server.core.phase is Phase.PASSIVE and server.core.disk.stood_down
    server.pings = True
    server.hear()
    server.run(8.0)
    assert server.core.phase is Phase.PASSIVE


@pytest.mark.parametrize("timeline,expected", [(1, Epoch(4, "vs-28")), (2, Epoch(5, "vs-166"))])
def test_an_epoch_announced_but_never_promoted_is_forgotten(timeline: int, expected: Epoch) -> None:
    record = Record(Epoch(5, "vs-166"), active=True, solo=True, tentative=True, previous=Epoch(4, "vs-28"), timeline=1)
    server = Server(record)
    server.facts = replace(server.facts, timeline=timeline)
    server.run(0.5)
    assert server.core.disk.epoch == expected
    assert server.core.disk.active == (timeline == 2)


def test_an_active_without_ping_node_hands_over_only_when_the_passive_confirms_a_later_ping() -> None:
    server = active_in_sync()
    server.pings = False
    server.run(1.0)
    assert server.core.phase is Phase.ACTIVE
    assert server.said is not None and server.said.asks_ping
    server.hear(ping_after=server.core.ask_ping_seq)
    assert server.core.phase is Phase.ACTIVE, "it asks the ping node once more"
    server.run(TIMING.ping_period + 0.02)
    assert server.core.phase is Phase.STANDING_DOWN
    server.run(0.1)
    assert server.core.disk == Record(Epoch(4, "vs-166"), stood_down=True)
    assert server.said.stood_down


def test_clients_are_reset_while_postgres_is_restarted_in_place() -> None:
    """It comes up as a standby: they would be told that they may only read."""
    server = active_in_sync()
    seen = []
    for postgres in (
        Database.UNKNOWN,
        Database.STOPPED,
        Database.STANDBY,
        Database.UNKNOWN,
        Database.PRIMARY,
        Database.PRIMARY,
    ):
        server.did.clear()
        server.give(replace(server.facts, postgres=postgres))
        seen.append([effect.open for effect in server.did if isinstance(effect, Gate)])
    assert seen == [[], [False], [], [], [True], []] and server.core.phase is Phase.ACTIVE


def test_vip_goes_before_postgres_before_disk_before_word() -> None:
    server = active_in_sync()
    server.did.clear()
    server.peer_speaks = server.pings = False
    server.run(1.2)
    kinds = [type(e).__name__ for e in server.did if isinstance(e, (Gate, DropVip, Want, Persist))]
    assert kinds[:4] == ["Gate", "DropVip", "Want", "Persist"]
    first = next(e for e in server.did if isinstance(e, Want))
    assert (first.postgres, first.stop) == (Database.STOPPED, Stop.IMMEDIATE)
    said = [e.message for e in server.did if isinstance(e, Send)]
    persisted = server.did.index(next(e for e in server.did if isinstance(e, Persist)))
    assert not any(m.stood_down for e in server.did[:persisted] if isinstance(e, Send) for m in [e.message])
    assert said[-1].stood_down


def test_isolation_counts_from_the_last_of_both() -> None:
    server = active_in_sync()
    server.peer_speaks = False
    server.run(2.0)
    assert server.core.phase is Phase.ACTIVE  # the ping node still answers
    server.pings = False
    server.run(0.6)
    assert server.core.phase is Phase.ACTIVE
    server.run(0.1)
    assert server.core.phase is Phase.STANDING_DOWN or server.core.disk.stood_down


def test_an_active_that_did_not_run_for_its_lease_has_lost_the_role() -> None:
    server = active_in_sync()
    server.now += 0.7
    server.run(0.02)
    assert server.core.phase is not Phase.ACTIVE


def test_a_solo_active_keeps_its_role_over_a_pause() -> None:
    server = active_in_sync()
    server.hear(in_sync=False, fit=False)
    server.run(0.1)
    server.hear()
    assert server.core.disk.solo
    server.now += 5.0
    server.run(0.1)
    assert server.core.phase is Phase.ACTIVE


@pytest.mark.parametrize("late", [False, True])
def test_a_restarted_active_resumes_only_within_its_lease(late: bool) -> None:
    record = Record(Epoch(4, "vs-166"), active=True)
    server = Server(record, Resume(Epoch(4, "vs-166"), 100.4))
    server.facts = replace(server.facts, postgres=Database.PRIMARY)
    assert server.core.phase is Phase.RESUMING
    server.run(0.5 if late else 0.1)
    server.hear(**PEER_PASSIVE)
    server.run(0.1)
    assert (server.core.phase is Phase.ACTIVE) is not late


def test_a_restarted_active_whose_peer_is_taking_over_does_not_resume() -> None:
    server = Server(Record(Epoch(4, "vs-166"), active=True), Resume(Epoch(4, "vs-166"), 100.4))
    server.hear(**{**PEER_PASSIVE, "phase": Phase.OPENING, "epoch": Epoch(5, "vs-28")})
    assert server.core.phase is Phase.STANDING_DOWN


def test_solo_by_release_is_on_disk_before_commits_stop_waiting() -> None:
    server = active_in_sync()
    server.facts = replace(server.facts, stalled=0.6, caught_up=False)
    server.run(0.1)
    assert server.said is not None and server.said.asks_release and server.said.calls_in_sync == -1
    assert server.want is not None and server.want.names is Names.ENFORCED
    server.disk = False
    server.hear(in_sync=False, fit=False)
    assert server.want.names is Names.ENFORCED
    server.give(Persisted(next(e.serial for e in reversed(server.did) if isinstance(e, Persist))))
    assert server.core.disk.solo and server.core.disk.epoch == Epoch(5, "vs-166")
    assert server.want.names is Names.RELAXED
    assert "commits have waited for the passive" in server.core.because, "why it asked, not what the release brought about"


def test_commits_stop_waiting_before_the_standby_of_the_last_epoch_could_pass_for_one_of_this() -> None:
    """One whose walreceiver hangs still streams, as far as is seen here."""
    server = active_in_sync()
    server.facts = replace(server.facts, stalled=0.6)
    server.run(0.1)
    server.disk = False
    server.hear(in_sync=False, fit=False)
    server.did.clear()
    server.disk = True
    server.give(Persisted(next(iter(server.core.saves))))
    server.give(Tick())
    wants = [effect for effect in server.did if isinstance(effect, Want)]
    assert wants and wants[0].names is Names.RELAXED and server.want is not None and server.want.names is Names.RELAXED
    server.run(0.1)
    assert server.want.names is Names.ENFORCED, "carried out: what streams now has the name of this epoch"


def test_no_release_is_asked_without_a_ping_answered_since_the_stall() -> None:
    server = active_in_sync()
    server.pings = False
    server.run(0.8)
    server.facts = replace(server.facts, stalled=0.6)
    server.run(0.1)
    assert server.said is not None and not server.said.asks_release
    server.pings = True
    server.run(0.1)
    assert server.said.asks_release


def test_a_word_sent_before_the_question_releases_nobody() -> None:
    server = active_in_sync()
    server.facts = replace(server.facts, stalled=0.6, caught_up=False)
    server.run(0.06)
    asked = server.core.ask_release_seq
    assert asked
    server.peer_hears = False
    server.peer = replace(server.peer, echo_seq=asked - 1)  # type: ignore[type-var]
    server.hear(in_sync=False)
    assert not server.core.disk.solo and not server.core.saving


def test_solo_by_silence_and_never_with_solo_release() -> None:
    for solo, expected in (("silence", True), ("release", False)):
        server = active_in_sync()
        server.core.site = replace(SITE, solo=solo)
        server.peer_speaks = False
        server.run(3.3)
        assert not server.core.disk.solo
        server.run(0.5)
        assert server.core.disk.solo is expected


def test_solo_by_silence_starts_again_after_a_moment_without_connection() -> None:
    server = active_in_sync(replace(TIMING, ping_dead=0.3))
    server.peer_speaks = False
    server.run(2.8)
    server.pings = False
    server.run(0.4)
    server.pings = True
    server.run(3.2)
    assert not server.core.disk.solo and server.core.phase is Phase.ACTIVE
    server.run(0.5)
    assert server.core.disk.solo


def test_in_sync_is_published_only_after_solo_is_cleared_on_disk() -> None:
    server = active_in_sync()
    server.hear(in_sync=False, fit=False)
    server.run(0.1)
    server.hear()
    server.facts = replace(server.facts, proven=-1)
    server.run(0.5)
    assert server.want is not None and server.want.names is Names.ENFORCED and server.core.disk.solo
    server.disk = False
    server.facts = replace(server.facts, proven=1234)
    server.run(0.5)
    assert server.said is not None and server.said.calls_in_sync == -1
    server.give(Persisted(next(e.serial for e in reversed(server.did) if isinstance(e, Persist))))
    assert server.said.calls_in_sync == 1234 and not server.said.solo


def test_the_passive_stores_in_sync_only_when_it_holds_what_is_named() -> None:
    server = Server()
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"), lsn=899)
    server.run(0.5)
    assert not server.core.disk.in_sync
    server.facts = replace(server.facts, lsn=900, following=Epoch(3, "vs-28"))
    server.run(0.5)
    assert not server.core.disk.in_sync
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    server.run(0.5)
    assert server.core.disk.in_sync and server.core.disk.epoch == Epoch(4, "vs-28")


@pytest.mark.parametrize("data", ["failed", "copying"])
def test_a_passive_whose_database_is_no_good_or_about_to_go_says_that_it_is_not_in_sync(data: str) -> None:
    """By itself, so that the active goes on alone at once; asked for it is only when commits have waited for a while."""
    server = Server()
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    server.run(0.5)
    assert server.core.disk.in_sync
    server.facts = replace(server.facts, data=data, healthy=False)
    server.run(0.05)
    assert not server.core.disk.in_sync and server.said is not None and not server.said.in_sync


def test_in_sync_on_its_way_to_the_disk_is_never_denied() -> None:
    """Denying it would release the active while this server may wake up in sync."""
    server = Server()
    server.disk = False
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    server.run(0.2)
    assert server.core.saving
    server.hear(asks_release=True, calls_in_sync=-1)
    assert server.said is not None and server.said.in_sync
    for effect in [e for e in server.did if isinstance(e, Persist)]:
        server.give(Persisted(effect.serial))
    server.run(0.02)
    assert not server.said.in_sync and not server.core.disk.in_sync


def test_an_active_of_an_older_epoch_is_not_followed() -> None:
    server = Server(Record(Epoch(5, "vs-166"), active=True, solo=True))
    server.hear(**PEER_ACTIVE)
    server.run(0.1)
    assert server.core.phase is Phase.PASSIVE and server.want is not None and server.want.follow == Epoch()
    server.hear(epoch=Epoch(6, "vs-28"))
    assert server.want.follow == Epoch(6, "vs-28")


def test_a_higher_epoch_wins_even_from_a_passive() -> None:
    server = active_in_sync()
    server.hear(epoch=Epoch(5, "vs-28"), highest=5)
    assert server.core.phase is Phase.STANDING_DOWN


def test_two_actives_with_equal_numbers_the_one_with_less_to_lose_yields() -> None:
    for mine, theirs, stays in ((3, 10, False), (10, 3, True), (5, 5, True)):
        server = active_in_sync()
        server.facts = replace(server.facts, beyond=mine)
        server.run(0.1)
        server.hear(phase=Phase.ACTIVE, epoch=Epoch(4, "vs-28"), beyond=theirs, vip=True)
        server.hear()
        server.hear()
        assert (server.core.phase is Phase.ACTIVE) is stays
        assert "Garp" in server.kinds()
        assert ("two-actives" in server.core.alarms) is stays, "the one that let go has no rival any more"
        server.hear(phase=Phase.PASSIVE)
        assert "two-actives" not in server.core.alarms
        assert server.core.want.yielded == (Epoch(4, "vs-28") if stays else Epoch())


def test_an_active_says_that_nothing_is_acknowledged() -> None:
    server = active_in_sync()
    server.core.site = replace(server.core.site, solo="release")
    server.peer_speaks = False
    server.facts = replace(server.facts, stalled=1.2, caught_up=False)
    server.run(5.0)
    assert server.core.alarms["stalled"] == "no write is acknowledged: commits wait for vs-28, until it is back (solo=release)"
    server.facts = replace(server.facts, stalled=0.0)
    server.run(0.1)
    assert "stalled" not in server.core.alarms


def test_held_is_said_only_while_there_are_signs_of_service() -> None:
    server = passive_in_sync()
    server.peer_speaks = server.pings = False
    server.facts = replace(server.facts, sign_age=0.1, sign="the replication connection still delivers")
    server.run(1.2)
    assert "held" in server.core.alarms
    server.facts = replace(server.facts, sign_age=1.1)
    server.run(0.1)
    assert "held" not in server.core.alarms, "nobody is held: no ping node answers, and that is said"
    assert "not-connected" in server.core.alarms


def test_an_alarm_that_holds_is_not_over_because_the_phase_changes() -> None:
    """A promotion that takes longer than deadtime, as with the aggressive profile; and one who lets go of what ails it."""
    server = passive_in_sync()
    server.peer_speaks = server.manager = False
    for postgres in (Database.DETACHED, Database.STANDBY):
        server.run(1.3)
        assert server.want is not None
        server.facts = replace(server.facts, serial=server.want.serial, postgres=postgres)
        server.give(server.facts)
    assert server.core.phase is Phase.PROMOTING and "solo" in server.core.alarms, server.core.because
    assert "is on disk: the active is silent" in server.core.because, "what others are told of as the reason"
    server.did.clear()
    server.manager = True
    server.run(0.2)
    assert server.core.phase is Phase.ACTIVE
    server.manager = False
    server.give(ManagerLost("killed"))
    server.run(1.1)
    assert "ha-manager" in server.core.alarms
    server.core.handle(Leave("signal SIGTERM", "handover"), server.now)
    server.run(0.1)
    assert server.core.phase is Phase.STANDING_DOWN
    assert [(e.name, e.raised) for e in server.did if isinstance(e, Alarm)] == [("ha-manager", True)], "and solo goes on"


ELECTIONS = [
    # mine: epoch, active, in sync, lsn · theirs: epoch, in sync, lsn, data · outcome
    (Record(Epoch(4, "vs-166"), active=True), 100, Epoch(4, "vs-166"), True, 90, "ready", "mine"),
    (Record(Epoch(4, "vs-28"), in_sync=True), 100, Epoch(4, "vs-28"), False, 90, "ready", "mine"),
    (Record(Epoch(4, "vs-28"), in_sync=True), 80, Epoch(4, "vs-28"), False, 90, "ready", "theirs"),
    (Record(Epoch(4, "vs-28"), in_sync=False), 100, Epoch(4, "vs-28"), False, 90, "ready", "theirs"),
    (Record(Epoch(4, "vs-166"), active=True), 100, Epoch(5, "vs-28"), False, 90, "ready", "theirs"),
    (Record(Epoch(4, "vs-28"), in_sync=True), 80, Epoch(4, "vs-28"), False, 90, "copying", "mine"),
    (Record(Epoch(4, "vs-28"), in_sync=False), 80, Epoch(4, "vs-28"), False, 90, "failed", "nobody"),
    (Record(), 5, Epoch(), False, 900, "ready", "mine"),
    (Record(Epoch(4, "vs-166"), active=True), 100, Epoch(4, "vs-166"), True, 90, "starting", ""),
    # one that was rewound can't start without the log of this one, and couldn't win
    (Record(Epoch(5, "vs-166"), active=True, solo=True), 100, Epoch(4, "vs-28"), False, 90, "starting", "mine"),
    (Record(Epoch(5, "vs-166"), active=True, solo=True), 100, Epoch(5, "vs-166"), False, 90, "unknown", "mine"),
    (Record(Epoch(5, "vs-166"), active=True, solo=True), 100, Epoch(6, "vs-28"), False, 90, "starting", ""),
]


@pytest.mark.parametrize("record,lsn,epoch,in_sync,their_lsn,data,outcome", ELECTIONS)
def test_who_wins_when_nobody_is_active(
    record: Record, lsn: int, epoch: Epoch, in_sync: bool, their_lsn: int, data: str, outcome: str
) -> None:
    server = Server(record)
    server.facts = replace(server.facts, lsn=lsn)
    fields = {**PEER_PASSIVE, "epoch": epoch, "in_sync": in_sync, "lsn": their_lsn, "data": data}
    server.disk = False  # so that a pledge does not change what is asked about
    server.hear(**fields)
    server.run(0.02)
    server.hear()
    server.core.saves.clear()
    assert server.core.rules.elect() == outcome


def test_one_that_was_rewound_and_waits_for_log_gives_way() -> None:
    """Heartbeat died on the active when the other one, rewound, was about to start: nobody was active for good."""
    server = Server(Record(Epoch(4, "vs-166"), stood_down=True))
    server.facts = replace(server.facts, data="starting", healthy=False)
    server.hear(**{**PEER_PASSIVE, "epoch": Epoch(5, "vs-28"), "in_sync": False, "lsn": 100, "data": "ready"})
    server.run(0.5)
    assert server.core.rules.elect() == "theirs" and server.core.pledged_to != Boot()


def test_an_operator_may_give_up_newer_data_that_cannot_be_served() -> None:
    """Its server is heard, passive, its database damaged: nobody becomes active by itself, and the way out is said."""
    server = Server(Record(Epoch(4, "vs-28"), in_sync=False))
    newer = {**PEER_PASSIVE, "epoch": Epoch(6, "vs-28"), "in_sync": False, "data": "failed"}
    server.hear(**newer)
    server.run(1.0)
    assert server.core.phase is Phase.PASSIVE
    told = "\n".join(server.core.explain(server.now))
    assert "Neither server is active" in told and "ha activate --force" in told
    assert "epoch 6 is known: what the other server acknowledged in it is lost" in told
    server.give(Activate("operator", False))
    server.run(0.2)
    assert server.core.phase is Phase.PASSIVE
    server.give(Activate("operator", True))
    server.run(1.0)
    assert server.core.phase is Phase.ACTIVE, server.core.because
    assert server.core.disk.epoch == Epoch(7, "vs-166")


def test_the_winner_waits_for_the_pledge() -> None:
    server = Server(Record(Epoch(4, "vs-166"), active=True))
    server.hear(**PEER_PASSIVE, in_sync=True, lsn=10)
    server.run(1.0)
    assert server.core.phase is Phase.PASSIVE
    server.hear(in_sync=False, pledged_to=Boot(7, 76))
    server.run(0.2)
    assert server.core.phase is Phase.PASSIVE
    server.hear(pledged_to=Boot(7, 77))
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE


@pytest.mark.parametrize(
    "solo,boot_alone,alone", [(True, "wait", True), (False, "wait", False), (False, "after_initdead", True)]
)
def test_boot_alone(solo: bool, boot_alone: str, alone: bool) -> None:
    record = Record(Epoch(4, "vs-166"), active=True, solo=solo)
    server = Server(record, site=replace(SITE, boot_alone=boot_alone))
    server.run(2.9)
    assert server.core.phase in {Phase.WAITING, Phase.PASSIVE}
    server.run(4.5)
    assert (server.core.phase is Phase.ACTIVE) is alone, server.core.because


def test_a_planned_failover_is_refused_in_words() -> None:
    server = active_in_sync()
    server.hear(fit=False, in_sync=True)
    (reply,) = [e for e in server.give(Standby("root")) if isinstance(e, Reply)]
    assert not reply.ok and "not fit" in reply.text
    server = passive_in_sync()
    (reply,) = [e for e in server.give(Standby("root")) if isinstance(e, Reply)]
    assert not reply.ok and "only the active" in reply.text


def test_a_planned_failover_checkpoints_then_stops_fast() -> None:
    server = active_in_sync()
    (reply,) = [e for e in server.give(Standby("root")) if isinstance(e, Reply)]
    assert reply.ok
    assert server.core.phase is Phase.PREPARING and server.want is not None and server.want.prepare
    server.facts = replace(server.facts, prepared=True)
    server.run(0.5)
    assert server.core.disk.stood_down
    stops = [e.stop for e in server.did if isinstance(e, Want) and e.postgres is Database.STOPPED]
    assert stops == [Stop.FAST]


def test_nobody_is_stood_down_for_who_died_before_a_planned_failover() -> None:
    server = active_in_sync()
    server.peer_speaks = False
    server.give(Standby("root"))
    server.facts = replace(server.facts, prepared=True)
    server.run(2.0)
    assert server.core.phase is Phase.ACTIVE and not server.core.disk.stood_down
    assert "was given up: the passive is no longer fit" in server.core.because


def test_a_planned_failover_is_given_up_by_who_can_not_serve() -> None:
    server = active_in_sync()
    server.give(Standby("root"))
    server.manager = False
    server.give(ManagerLost("it has not reported for 500 ms"))
    server.run(0.2)
    assert server.core.phase is Phase.PREPARING, "it may be back within its allowance"
    server.run(1.0)
    assert server.core.phase is Phase.ACTIVE and "given up: ha_manager is gone" in server.core.because


def test_an_operator_may_let_an_active_go_on_alone() -> None:
    server = active_in_sync()
    server.core.site = replace(SITE, solo="release")
    (reply,) = [e for e in server.give(Activate("root", force=True)) if isinstance(e, Reply)]
    assert not reply.ok and "vs-28 is heard" in reply.text
    server.peer_speaks = False
    server.run(5.0)
    (reply,) = [e for e in server.give(Activate("root")) if isinstance(e, Reply)]
    assert not reply.ok and "`ha activate --force`" in reply.text and not server.core.disk.solo
    (reply,) = [e for e in server.give(Activate("root", force=True)) if isinstance(e, Reply)]
    assert reply.ok
    server.run(0.1)
    assert server.core.disk.solo and server.core.disk.epoch == Epoch(5, "vs-166") and server.core.phase is Phase.ACTIVE
    assert server.want is not None and server.want.names is Names.RELAXED
    (reply,) = [e for e in server.give(Activate("root", force=True)) if isinstance(e, Reply)]
    assert not reply.ok and reply.text == "this server is active already"


def test_activation_says_what_is_at_risk_and_needs_force() -> None:
    server = Server(Record(Epoch(4, "vs-28"), in_sync=True))
    server.run(4.0)
    (reply,) = [e for e in server.give(Activate("root")) if isinstance(e, Reply)]
    assert not reply.ok and "ha activate --force" in reply.text
    server.give(Activate("root", force=True))
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE


def test_suspension_holds_on_both_and_the_higher_version_wins() -> None:
    server = active_in_sync()
    server.give(Suspend("root", True))
    assert server.core.disk.suspended and server.core.disk.suspend_version == 1
    server.hear(suspended=False, suspend_version=2)
    assert not server.core.disk.suspended
    server.hear(suspended=True, suspend_version=1)
    assert not server.core.disk.suspended


def test_a_leaving_passive_goes_only_when_the_active_is_solo() -> None:
    server = passive_in_sync()
    server.give(Leave("init", "handover"))
    server.run(0.1)
    assert not server.core.disk.in_sync and "Exit" not in server.kinds()
    server.hear(calls_in_sync=-1, solo=True, epoch=Epoch(5, "vs-28"))
    server.run(0.1)
    assert server.kinds()[-1] == "Exit"
    assert server.want is not None and server.want.postgres is Database.KEEP


def test_a_hung_ha_manager_does_not_keep_a_stand_down_waiting() -> None:
    server = active_in_sync()
    server.manager = False
    server.give(ManagerLost("no report for 450 ms"))
    server.run(TIMING.allowance)
    server.hear(ping_after=server.core.ask_ping_seq)
    server.run(0.6)
    assert any(isinstance(e, ForceStop) for e in server.did)


def test_an_ha_manager_that_is_being_restarted_is_waited_for() -> None:
    server = active_in_sync()
    server.manager = False
    server.give(ManagerLost("its connection is gone"))
    server.run(TIMING.allowance - 0.1)
    server.hear(ping_after=server.core.seq)
    assert server.core.ask_ping_seq == 0
    assert server.core.phase is Phase.ACTIVE


def test_an_epoch_that_was_announced_and_forgotten_does_not_keep_two_passives_from_electing() -> None:
    server = Server(Record(epoch=Epoch(4, "vs-166")))
    server.hear(phase=Phase.PASSIVE, epoch=Epoch(4, "vs-166"), highest=5, data="ready", lsn=900)
    server.run(0.3)
    server.hear(pledged_to=server.boot)
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE
    assert server.core.disk.epoch == Epoch(6, "vs-166")


def test_what_an_active_asked_is_not_asked_any_more_when_it_let_go() -> None:
    """Two servers that ask each other would answer each other without end."""
    server = active_in_sync()
    server.facts = replace(server.facts, stalled=0.6, caught_up=False)
    server.run(0.1)
    assert server.said is not None and server.said.asks_release
    server.hear(epoch=Epoch(5, "vs-28"), highest=5)
    server.run(0.3)
    assert server.core.phase is Phase.PASSIVE and not server.said.asks_release


def test_a_flood_of_questions_is_answered_at_a_bounded_rate() -> None:
    server = passive_in_sync()
    server.did.clear()
    for step in range(1000):
        server.now += 0.0001
        server.hear(asks_ping=True, beyond=step)
    assert sum(isinstance(e, Send) for e in server.did) <= 0.1 / SPACING + 1


def test_nonsense_from_the_disk_raises_and_changes_nothing() -> None:
    server = active_in_sync()
    before = server.core.disk
    with pytest.raises(ValueError):
        server.give(Persisted(999))
    assert server.core.disk == before


def test_two_words_on_suspension_given_apart_end_in_one() -> None:
    server = Server(Record(epoch=Epoch(4, "vs-28"), in_sync=True, suspended=False, suspend_version=2))
    server.hear(**PEER_ACTIVE, suspended=True, suspend_version=2)
    assert server.core.disk.suspended
    server = Server(Record(epoch=Epoch(4, "vs-28"), in_sync=True, suspended=True, suspend_version=2))
    server.hear(**PEER_ACTIVE, suspended=False, suspend_version=2)
    assert server.core.disk.suspended


def test_an_active_restarted_before_its_promotion_was_written_down_writes_it_later() -> None:
    record = Record(epoch=Epoch(5, "vs-166"), active=True, solo=True, tentative=True, previous=Epoch(4, "vs-28"), timeline=1)
    server = Server(record, Resume(Epoch(5, "vs-166"), 100.4))
    server.facts = replace(server.facts, postgres=Database.PRIMARY, timeline=2)
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE
    assert not server.core.disk.tentative


def test_of_two_that_gave_way_to_each_other_none_goes_on_before_the_other_has_heard_it() -> None:
    server = Server(Record(epoch=Epoch(4, "vs-166")))
    server.facts = replace(server.facts, lsn=900)
    longer = {"phase": Phase.PASSIVE, "epoch": Epoch(4, "vs-28"), "highest": 4, "data": "ready", "connected": True}
    server.hear(**longer, in_sync=False, beyond=5)
    server.run(0.3)
    assert server.said is not None
    assert server.said.pledged_to == server.peer.boot  # type: ignore[union-attr]
    server.hear(connected=False, pledged_to=server.boot)
    assert server.core.phase is Phase.PASSIVE
    assert server.said.pledged_to == Boot()
    server.hear()
    assert server.core.phase is Phase.DETACHING


def test_a_ping_node_that_comes_back_for_both_moves_nothing() -> None:
    server = active_in_sync()
    server.pings = False
    server.run(0.8)
    server.hear(connected=True)
    assert server.said is not None and server.said.asks_ping
    server.pings = True
    server.hear(ping_after=server.core.ask_ping_seq)
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE
