"""What a decision by silence needs besides the silence, on one server: signs, the ARP check, the fence agent, the witnesses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heartbeat.model import (
    Activate,
    Alarm,
    ArpAnswer,
    ArpUnusable,
    AskGrant,
    Database,
    Effect,
    Epoch,
    Fence,
    Fenced,
    Garp,
    Granted,
    LinkChanged,
    Names,
    Persist,
    Phase,
    PingFromVip,
    Probe,
    Record,
    Reply,
    Resume,
    Sign,
    Want,
)
from heartbeat.timing import PROFILES
from tests.unit.server import PEER_ACTIVE, PEER_PASSIVE, SITE, TIMING, Server

MINE = Epoch(4, "vs-166")
STRANGER = Sign("stranger", "eth0", "02:00:00:00:00:99 answers for 192.168.120.187")
VIP = Sign("vip", "eth0", "vs-28's own MAC answers for 192.168.120.187")
HOST = Sign("host", "eth1", "vs-28 answers ping")


def passive(**site: object) -> Server:
    server = Server(site=replace(SITE, **site))  # type: ignore[arg-type]
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    server.run(1.0)
    assert server.core.disk.in_sync and not server.core.rules.unfit()
    return server


def active(**site: object) -> Server:
    server = Server(Record(epoch=MINE, active=True), Resume(MINE, 100.4), site=replace(SITE, **site))  # type: ignore[arg-type]
    server.facts = replace(server.facts, postgres=Database.PRIMARY, proven=900, names=Names.ENFORCED, caught_up=True)
    server.hear(**PEER_PASSIVE, in_sync=True, fit=True)
    server.run(0.5)
    assert server.core.phase is Phase.ACTIVE, server.core.because
    return server


def of(kind: type, effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


# --- rule 1: evidence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [passive(), active()], ids=["passive", "active"])
def test_evidence_is_gathered_from_warntime_of_silence_on(server: Server) -> None:
    server.run(1.0)
    server.did.clear()
    server.run(1.0)
    assert not of(Probe, server.did), "a peer that is heard needs no evidence"
    server.peer_speaks = False
    server.run(TIMING.warntime - TIMING.keepalive - 0.02)
    assert not of(Probe, server.did)
    server.run(TIMING.keepalive)
    assert of(Probe, server.did)
    before = len(of(Probe, server.did))
    server.run(0.24)
    assert len(of(Probe, server.did)) - before >= 4, "each ping period (0.04 s), as far as the steps of the test hit it"
    server.did.clear()
    server.hear()
    server.run(0.2)
    assert not of(Probe, server.did)


@pytest.mark.parametrize("sign,held", [(VIP, True), (STRANGER, False), (HOST, False)])
def test_only_the_peers_own_mac_on_the_vip_holds_a_takeover(sign: Sign, held: bool) -> None:
    server = passive()
    server.peer_speaks = False
    for _ in range(5):
        server.run(0.3)
        server.give(sign)
    assert (server.core.phase is Phase.PASSIVE) is held, server.core.because
    if held:
        assert "answers for 192.168.120.187" in server.core.alarms["held"]


def test_a_silent_active_that_serves_is_asked_to_stand_down_only_by_a_passive_that_could_take_over() -> None:
    """One that was restarted with another key hears nobody, and is not fit: nobody would serve."""
    restarted = Server(Record(Epoch(4, "vs-28"), in_sync=True))
    for _ in range(6):
        restarted.run(1.0)
        restarted.give(VIP)
    assert restarted.core.phase is Phase.PASSIVE and "held" in restarted.core.alarms
    assert restarted.want is not None and restarted.want.ask_stand_down == ""


def test_a_silent_active_is_asked_to_stand_down_for_as_long_as_the_passive_stays_fit_for_what_follows() -> None:
    server = passive()
    server.peer_speaks = False
    asked = []
    for _ in range(30):
        server.run(0.1)
        server.give(VIP)
        assert server.want is not None
        asked.append(bool(server.want.ask_stand_down))
    first, last = asked.index(True), len(asked) - asked[::-1].index(True)
    assert first < 6 and 12 <= last <= 16, asked  # warntime; stale less deadtime
    assert not any(asked[last:])


def test_deadtime_runs_again_from_the_last_sign() -> None:
    server = passive()
    server.peer_speaks = False
    server.run(0.6)
    server.give(VIP)
    server.run(TIMING.deadtime - 0.1)
    assert server.core.phase is Phase.PASSIVE
    server.run(0.3)
    assert server.core.phase is Phase.ACTIVE, server.core.because


def test_a_sign_that_comes_while_the_receiver_is_being_stopped_still_counts() -> None:
    server = passive()
    server.manager = server.peer_speaks = False
    server.run(1.3)
    assert server.core.phase is Phase.DETACHING
    server.give(VIP)
    server.manager = True
    server.run(0.1)
    assert server.core.phase is Phase.PASSIVE and "showed a sign of service again" in server.core.because


def test_a_stranger_on_the_vip_is_an_alarm_for_a_while() -> None:
    server = passive()
    server.give(STRANGER)
    assert "02:00:00:00:00:99" in server.core.alarms["stranger"]
    server.run(TIMING.deadtime + 0.1)
    assert "stranger" not in server.core.alarms


def test_the_vip_at_the_passive_holds_solo_by_silence() -> None:
    server = active()
    server.peer_speaks = False
    for _ in range(10):
        server.run(0.5)
        server.give(VIP)
    assert not server.core.disk.solo
    server.run(TIMING.solo + 0.1)
    assert server.core.disk.solo


# --- the ping node's ARP entry --------------------------------------------------------------------------------------------


def answer(server: Server, seconds: float, answered: bool = True) -> None:
    """Time passes, and the ping node answers the VIP (or doesn't)."""
    for _ in range(round(seconds / 0.02)):
        seen = len(server.did)
        server.run(0.02)
        for ping in of(PingFromVip, server.did[seen:]):
            if answered:
                server.give(ArpAnswer(ping.seq))  # type: ignore[attr-defined]


def test_no_ping_leaves_the_vip_unless_configured() -> None:
    server = active()
    server.peer_speaks = False
    server.run(1.0)
    assert not of(PingFromVip, server.did)


def test_the_active_finds_out_whether_the_ping_node_answers_the_vip() -> None:
    server = active(arp_check=True)
    answer(server, 1.0)
    assert server.core.arp.usable and server.said is not None and server.said.arp
    answer(server, 2.0, answered=False)
    assert not server.said.arp and "arp-check" in server.core.alarms
    assert server.core.phase is Phase.ACTIVE, "its passive is heard to be one"
    answer(server, 1.0)
    assert server.said.arp and "arp-check" not in server.core.alarms


def test_what_the_edge_says_against_it_counts() -> None:
    server = active(arp_check=True)
    answer(server, 0.5)
    server.give(ArpUnusable("the ping node is not on the network of the virtual IP"))
    assert "is not on the network" in server.core.alarms["arp-check"]
    assert server.said is not None and not server.said.arp
    server.peer_speaks = False
    answer(server, 4.0, answered=False)
    assert server.core.disk.solo, "as if it were not configured"


@pytest.mark.parametrize("answered", [True, False])
def test_solo_by_silence_only_while_the_entry_points_here(answered: bool) -> None:
    server = active(arp_check=True)
    answer(server, 7.0)
    server.peer_speaks = False
    answer(server, 1.5)
    answer(server, 3.0, answered)
    assert server.core.disk.solo is answered
    assert (server.core.phase is Phase.ACTIVE) is answered
    if not answered:
        assert server.core.disk.stood_down and "it has taken over" in server.core.because


@pytest.mark.parametrize("announced", ["lately", "since"])
def test_an_entry_that_this_server_announced_itself_says_nothing(announced: str) -> None:
    server = active(arp_check=True)
    answer(server, 2.0 if announced == "lately" else 7.0)
    server.peer_speaks = False
    answer(server, 1.0)
    if announced == "since":
        server.give(LinkChanged("eth0", up=True, carries_vip=True))
    answer(server, 4.0)
    assert not server.core.disk.solo and server.core.phase is Phase.ACTIVE


def opening(arp: bool = True) -> Server:
    server = passive(arp_check=True)
    server.hear(arp=arp)
    server.run(0.1)
    server.peer_speaks = False
    server.run(1.1)
    return server


def test_a_takeover_by_silence_waits_for_the_ping_nodes_word() -> None:
    server = opening()
    assert server.core.phase is Phase.OPENING
    answer(server, 0.5, answered=False)
    assert server.core.phase is Phase.OPENING and not server.core.saving
    assert of(Garp, server.did), "perhaps the first announcement was lost"
    answer(server, 0.1)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.epoch == Epoch(5, "vs-166")


def test_a_takeover_whose_vip_is_not_answered_is_given_up_before_the_active_can_go_on_alone() -> None:
    server = opening()
    answer(server, TIMING.stale - 1.0, answered=False)
    assert server.core.phase is Phase.PASSIVE and server.core.disk.epoch == Epoch(4, "vs-28")
    assert "did not answer the virtual IP" in server.core.because
    assert "DropVip" in server.kinds()


def test_where_the_active_found_it_unusable_nothing_waits_for_it() -> None:
    assert opening(arp=False).core.phase is Phase.ACTIVE


def test_what_was_cut_hears_again_who_holds_the_vip() -> None:
    server = active()
    server.peer_speaks = False
    server.run(1.5)
    server.did.clear()
    server.hear()
    assert of(Garp, server.did)


# --- fence agents ---------------------------------------------------------------------------------------------------------


def test_a_takeover_by_silence_needs_the_fence_agents_success() -> None:
    server = passive(fence=True)
    server.hear(fences=True)
    server.peer_speaks = False
    server.run(2.0)
    (asked,) = of(Fence, server.did)
    assert "silent on every link" in asked.because  # type: ignore[attr-defined]
    assert server.core.phase is Phase.DETACHING and server.want is not None and server.want.postgres is Database.DETACHED
    server.run(30.0)
    assert server.core.phase is Phase.DETACHING, "an agent may take its time: the active fences, too"
    server.give(Fenced(True, "off"))
    server.run(0.1)
    assert server.core.phase is Phase.ACTIVE and len(of(Fence, server.did)) == 1


def test_a_failed_fence_leaves_the_passive_passive_and_is_tried_again() -> None:
    server = passive(fence=True)
    server.hear(fences=True)
    server.peer_speaks = False
    server.run(2.0)
    server.give(Fenced(False, "the power switch does not answer"))
    assert server.core.phase is Phase.PASSIVE
    assert "power switch" in server.core.alarms["fence"] and "power switch" in server.core.because
    server.run(4.0)
    assert server.core.phase is Phase.PASSIVE
    server.run(1.5)
    assert len(of(Fence, server.did)) == 2
    server.give(Fenced(True, "off"))
    server.run(0.2)
    assert server.core.phase is Phase.ACTIVE and "fence" not in server.core.alarms


def test_where_only_this_server_fences_its_fitness_ends_as_ever() -> None:
    server = passive(fence=True)
    server.peer_speaks = False
    server.run(3.0)
    assert server.core.phase is Phase.PASSIVE
    assert "fence-one-sided" in server.core.alarms
    server.give(Fenced(True, "off"))
    server.run(0.5)
    assert server.core.phase is Phase.PASSIVE, "the active may have gone on alone"


def test_a_stood_down_active_needs_no_fence_and_no_grant() -> None:
    server = passive(fence=True, witnesses=3)
    server.hear(phase=Phase.PASSIVE, stood_down=True, calls_in_sync=-1, vip=False)
    server.run(0.2)
    assert server.core.phase is Phase.ACTIVE
    assert not of(Fence, server.did) and not of(AskGrant, server.did)


def test_an_active_that_is_heard_again_ends_the_attempt_whatever_the_agent_says() -> None:
    server = passive(fence=True)
    server.hear(fences=True)
    server.peer_speaks = False
    server.run(1.5)
    server.hear()
    assert server.core.phase is Phase.PASSIVE
    server.give(Fenced(True, "off"))
    server.run(0.1)
    assert server.core.phase is Phase.PASSIVE


@pytest.mark.parametrize("ok", [True, False])
def test_an_active_that_fences_goes_solo_by_silence_only_when_the_passive_is_off(ok: bool) -> None:
    server = active(fence=True)
    server.peer_speaks = False
    server.run(TIMING.solo + 1.0)
    assert not server.core.disk.solo and len(of(Fence, server.did)) == 1
    server.give(Fenced(ok, "" if ok else "no answer"))
    server.run(0.1)
    assert server.core.disk.solo is ok
    server.run(5.0)
    assert len(of(Fence, server.did)) == (1 if ok else 2)


def test_a_released_active_needs_no_fence_and_no_grant() -> None:
    server = active(fence=True, witnesses=1)
    server.hear(in_sync=False, fit=False)
    server.run(0.1)
    server.hear()
    assert server.core.disk.solo and not of(Fence, server.did) and not of(AskGrant, server.did)


# --- witnesses ------------------------------------------------------------------------------------------------------------


def test_a_takeover_by_silence_needs_the_witnesses_grant_for_just_its_epoch() -> None:
    server = passive(witnesses=3)
    server.peer_speaks = False
    server.run(1.1)
    (asked,) = of(AskGrant, server.did)
    assert asked == AskGrant(Epoch(4, "vs-28"), Epoch(5, "vs-166"))
    server.give(Granted(Epoch(6, "vs-166"), True, ""))
    assert server.core.phase is Phase.DETACHING
    server.give(Granted(Epoch(5, "vs-166"), True, ""))
    server.run(0.1)
    assert server.core.phase is Phase.ACTIVE and server.core.disk.epoch == Epoch(5, "vs-166")


@pytest.mark.parametrize("said", [True, False])
def test_a_takeover_that_the_witnesses_do_not_grant_is_given_up(said: bool) -> None:
    server = passive(witnesses=1)
    server.peer_speaks = False
    server.run(1.1)
    if said:
        server.give(Granted(Epoch(5, "vs-166"), False, "epoch 5/vs-28 was granted"))
        assert "epoch 5/vs-28 was granted" in server.core.because
    server.run(1.5)
    assert server.core.phase is Phase.PASSIVE
    assert "witnesses" in server.core.alarms
    assert not [e for e in of(Persist, server.did) if e.record.active]  # type: ignore[attr-defined]


def test_solo_by_silence_needs_the_witnesses_grant() -> None:
    server = active(witnesses=1)
    server.peer_speaks = False
    server.run(TIMING.solo + 0.1)
    assert not server.core.disk.solo and of(AskGrant, server.did) == [AskGrant(MINE, Epoch(5, "vs-166"))]
    server.give(Granted(Epoch(5, "vs-166"), True, ""))
    server.run(0.02)
    assert server.core.disk.solo


def test_an_idle_active_opens_an_epoch_that_takes_the_place_of_one_that_came_to_nothing() -> None:
    """Nothing stalls where nothing is written; but the witnesses would grant nothing to data of this epoch."""
    server = active(witnesses=1)
    server.hear()
    server.hear(highest=5, fit=False)
    server.run(0.1)
    assert server.said is not None and server.said.asks_release
    server.hear(in_sync=False)
    server.run(0.1)
    assert server.core.disk.epoch == Epoch(6, "vs-166")
    assert [e.record.solo for e in of(Persist, server.did)][-2:] == [True, False], "solo by release, and in sync again"  # type: ignore[attr-defined]


# --- both profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_takes_over_after_its_own_deadtime_and_goes_solo_after_its_own_time(profile: str) -> None:
    timing = PROFILES[profile]
    server = Server(timing=timing)
    server.hear(**PEER_ACTIVE)
    server.facts = replace(server.facts, following=Epoch(4, "vs-28"))
    for _ in range(20):
        server.run(0.04)
        server.hear()
    server.peer_speaks = False
    server.run(timing.deadtime - 0.04)
    assert server.core.phase is Phase.PASSIVE
    server.run(0.14)
    assert server.core.phase is Phase.ACTIVE, server.core.because
    wanted = list(dict.fromkeys(e.postgres for e in of(Want, server.did)))  # type: ignore[attr-defined]
    assert wanted[-2:] == [Database.DETACHED, Database.PRIMARY]


def told(server: Server) -> list[str]:
    return [alarm.text for alarm in server.did if isinstance(alarm, Alarm) and alarm.raised and alarm.name == "fence"]


def test_a_fence_that_failed_is_told_in_its_newest_words() -> None:
    server = passive(fence=True)
    server.hear(fences=True)
    server.peer_speaks = False
    server.run(2.0)
    for text in ("no answer after 20 s", "no answer after 21 s", "the login was refused"):
        server.give(Fenced(False, text))
        server.run(6.0)
    assert [text.split(": ")[1].split(";")[0] for text in told(server)] == ["no answer after 20 s", "the login was refused"]
    assert "the login was refused" in server.core.alarms["fence"]


@pytest.mark.parametrize("answer", ["failed", "none yet"])
def test_an_operator_takes_over_without_the_fence_agent(answer: str) -> None:
    server = passive(fence=True)
    server.hear(fences=True)
    server.peer_speaks = False
    server.run(2.0)
    if answer == "failed":
        server.give(Fenced(False, "no answer"))
        server.run(0.1)
    (reply,) = of(Reply, server.give(Activate("root", force=True)))
    server.run(0.3)
    assert reply.ok and server.core.phase is Phase.ACTIVE, server.core.because  # type: ignore[attr-defined]
    assert "forced by root" in server.core.because


@pytest.mark.parametrize("by", ["the peer", "an operator", "time"])
def test_a_fence_that_failed_is_no_alarm_when_it_is_not_tried_again(by: str) -> None:
    server = passive(fence=True)
    server.hear(fences=by != "time")
    server.peer_speaks = False
    server.run(2.0)
    server.give(Fenced(False, "no answer"))
    server.run(0.1)
    assert "fence" in server.core.alarms
    if by == "the peer":
        for _ in range(3):
            server.run(0.2)
            server.hear()
    elif by == "an operator":
        server.give(Activate("root", force=True))
    server.run(3.0)
    assert "fence" not in server.core.alarms
    if by == "the peer":
        server.run(0.9)
        assert "fence" not in server.core.alarms, "silent again, and not tried again yet"
