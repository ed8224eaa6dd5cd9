"""The virtual router's rules, one by one: what is done, in which order, and when (RFC 3768, RFC 5798)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from director.model import (
    Advertisement,
    Alarm,
    Announce,
    Became,
    Configured,
    Designated,
    Drop,
    DropAddresses,
    Effect,
    Event,
    Heard,
    Instance,
    Leave,
    Link,
    Say,
    SendAdvert,
    Start,
    State,
    TakeAddresses,
    Tick,
    Weighed,
)
from director.vrrp import Router

VIP = "10.1.1.250"
V2 = Instance(51, 2, 99, 1.0, (VIP,), "10.1.1.2")
V3 = replace(V2, version=3, advert=0.1)
HIGHER, LOWER = "10.1.1.3", "10.1.1.1"


def advert(priority: int, source: str = HIGHER, like: Instance = V2, **more: object) -> Heard:
    one = Advertisement(source, like.version, like.vrid, priority, like.advert, like.addresses, like.password or None)
    return Heard(replace(one, **more))  # type: ignore[arg-type]


def started(instance: Instance = V2, *events: Event) -> Router:
    """At time 0."""
    router = Router(instance, 0.0)
    for event in (*events, Start()):
        router.handle(event, 0.0)
    return router


def master(instance: Instance = V2) -> Router:
    """Since time 10."""
    router = started(instance)
    router.handle(Tick(), 10.0)
    assert router.state is State.MASTER
    return router


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


@pytest.mark.parametrize(
    ("instance", "seconds"),
    [
        (V2, 3 + (256 - 99) / 256),
        (replace(V2, priority=254), 3 + 2 / 256),
        (replace(V2, advert=5.0), 15 + (256 - 99) / 256),  # the skew of version 2 is of a second
        (V3, 0.3 + (256 - 99) / 2560),
    ],
)
def test_a_node_that_hears_nobody_becomes_master_after_master_down(instance: Instance, seconds: float) -> None:
    router = started(instance)
    assert (router.state, router.deadline()) == (State.BACKUP, pytest.approx(seconds))
    assert router.handle(Tick(), seconds - 0.001) == []
    effects = router.handle(Tick(), seconds + 1e-9)
    assert effects == [
        TakeAddresses(), Announce(), SendAdvert(instance.priority),
        Became(State.MASTER, State.BACKUP, "nobody else advertises"),
    ]  # fmt: skip
    assert router.deadline() == pytest.approx(seconds + instance.advert)


def test_the_owner_is_master_at_once() -> None:
    assert started(replace(V2, priority=255)).state is State.MASTER


def test_priority_0_listens_and_is_never_master() -> None:
    router = started(replace(V2, priority=0))
    assert (router.state, router.deadline()) == (State.SCANNING, None)
    router.handle(advert(50), 1.0)
    assert (router.master, router.master_priority) == (HIGHER, 50)
    assert router.handle(advert(0), 2.0) == []
    assert router.handle(Tick(), 1000.0) == []


def test_a_master_keeps_its_beat_and_finds_a_new_one_after_a_pause() -> None:
    router = master()
    assert router.deadline() == 11.0
    assert router.handle(Tick(), 11.02) == [SendAdvert(99)]
    assert router.deadline() == 12.0
    router.handle(Tick(), 15.5)
    assert router.deadline() == 16.5


def test_silence_of_the_master_is_counted_from_its_latest_advert() -> None:
    router = started()
    router.handle(advert(99), 2.0)  # equal: the first to appear stays, whatever its address
    router.handle(advert(99, LOWER), 2.5)
    assert router.deadline() == 2.5 + 3 + (256 - 99) / 256
    effects = router.handle(Tick(), 7.0)
    assert effects[-1] == Became(State.MASTER, State.BACKUP, f"{LOWER} is silent")


def test_version_3_learns_the_masters_interval() -> None:
    router = started(V3)
    router.handle(advert(200, like=V3, interval=1.0), 0.1)
    assert router.deadline() == pytest.approx(0.1 + 3 + (256 - 99) / 256)
    router.handle(Tick(), 5.0)
    assert router.deadline() == 5.1  # as master, its own again


def test_a_lower_master_is_not_respected_and_that_is_said_once() -> None:
    router = started()
    due = router.deadline()
    assert router.handle(advert(50), 1.0) == [Say(f"forcing a new MASTER election: {HIGHER} has priority 50")]
    assert router.handle(advert(49), 2.0) == []
    assert router.deadline() == due
    router.handle(Tick(), 4.0)
    assert router.because == f"{HIGHER} has priority 49"


def test_without_preempting_a_lower_master_stays() -> None:
    router = started(replace(V2, preempt=False))
    router.handle(advert(50), 3.0)
    assert router.deadline() == 3.0 + 3 + (256 - 99) / 256
    assert started(replace(V2, preempt=False, priority=255)).state is State.MASTER  # RFC 5798 §6.1: the owner always does


def test_preempt_delay_counts_from_the_lower_masters_first_advert() -> None:
    router = started(replace(V2, preempt_delay=10.0))
    for second in range(1, 11):
        assert router.handle(advert(50), float(second)) == []
    assert router.handle(advert(50), 11.0) == [Say(f"forcing a new MASTER election: {HIGHER} has priority 50")]
    assert router.deadline() == 10.0 + 3 + (256 - 99) / 256


def test_a_master_that_stops_is_succeeded_after_the_skew() -> None:
    router = started()
    router.handle(advert(150), 1.0)
    router.handle(advert(0, LOWER), 1.5)  # not the master: somebody who left before
    assert router.deadline() == 1.0 + 3 + (256 - 99) / 256
    router.handle(advert(0), 2.0)
    assert router.deadline() == 2.0 + (256 - 99) / 256


def test_the_designated_successor_takes_over_at_once() -> None:
    router = started()
    router.handle(advert(150), 1.0)
    router.handle(Designated(True), 1.5)
    assert kinds(router.handle(advert(0, LOWER), 2.0)) == []  # only its master's word counts
    effects = router.handle(advert(0), 2.0)
    assert kinds(effects) == [TakeAddresses, Announce, SendAdvert, Became]


@pytest.mark.parametrize(("priority", "source"), [(100, LOWER), (100, HIGHER), (99, HIGHER)])
def test_a_master_gives_way_to_a_higher_one(priority: int, source: str) -> None:
    router = master()
    effects = router.handle(advert(priority, source), 10.5)
    assert kinds(effects) == [Say, DropAddresses, Became]
    assert (router.state, router.master) == (State.BACKUP, source)
    assert router.deadline() == 10.5 + 3 + (256 - 99) / 256


@pytest.mark.parametrize(("priority", "source"), [(98, HIGHER), (99, LOWER)])
def test_a_lower_one_is_told_at_once_and_the_segment_too(priority: int, source: str) -> None:
    router = master()
    assert router.handle(advert(priority, source), 11.5) == [SendAdvert(99), Announce()]
    assert router.handle(advert(priority, source), 11.51) == []  # a flood isn't answered by one


def test_a_second_master_is_an_alarm_once_and_ends_with_it() -> None:
    router = master()
    said = []
    for second in range(11, 20):
        said += [e for e in router.handle(advert(50), second + 0.5) if isinstance(e, Alarm)]
        router.handle(Tick(), second + 0.9)
    assert said == [Alarm("second-master", f"{HIGHER} is a second master of virtual router 51, with priority 50")]
    ended = [e for second in range(20, 30) for e in router.handle(Tick(), float(second)) if isinstance(e, Alarm)]
    assert ended == [Alarm("second-master", "")]


def test_equal_addresses_are_ranked_as_numbers() -> None:
    router = master(replace(V2, own="10.1.1.9"))
    router.handle(advert(99, "10.1.1.10"), 10.5)
    assert router.state is State.BACKUP


def test_a_master_answers_one_that_stops() -> None:
    assert master().handle(advert(0), 10.5) == [SendAdvert(99)]


def test_a_clean_stop_says_so_first_and_then_lets_go() -> None:
    router = master()
    effects = router.handle(Leave("asked to"), 10.5)
    assert effects == [SendAdvert(0), DropAddresses(), Became(State.STOPPED, State.MASTER, "asked to")]
    assert router.deadline() is None
    assert router.handle(Tick(), 100.0) == router.handle(advert(1), 100.0) == []


def test_a_backup_stops_without_a_word() -> None:
    assert kinds(started().handle(Leave("asked to"), 1.0)) == [Became]


def test_no_link_no_master_and_back() -> None:
    router = master()
    effects = router.handle(Link(False, "eth0 has no link"), 10.5)
    assert effects == [SendAdvert(0), DropAddresses(), Became(State.FAULT, State.MASTER, "eth0 has no link")]
    assert router.handle(Tick(), 100.0) == []
    router.handle(Link(True, "eth0 has its link again"), 100.0)
    assert (router.state, router.deadline()) == (State.BACKUP, 103 + (256 - 99) / 256)
    assert started(V2, Link(False, "no eth0")).state is State.FAULT


def test_what_is_tracked_lowers_the_priority_which_is_said_at_once() -> None:
    router = master()
    effects = router.handle(Weighed(lowered=30), 10.5)
    assert effects == [Say("Changing effective priority from 99 to 69"), SendAdvert(69)]
    assert router.handle(Weighed(lowered=200), 10.6)[-1] == SendAdvert(1)
    router.handle(advert(70), 10.7)
    assert router.state is State.BACKUP
    router.handle(Weighed(), 10.8)
    assert router.priority == 99


def test_barred_is_a_fault() -> None:
    router = master()
    effects = router.handle(Weighed(barred="eth1 has no link"), 10.5)
    assert SendAdvert(0) in effects
    assert (router.state, router.because) == (State.FAULT, "eth1 has no link")
    router.handle(Weighed(), 11.0)
    assert router.state is State.BACKUP


def test_configured_anew_a_master_stays_and_says_what_is_new() -> None:
    router = master()
    assert router.handle(Configured(replace(V2, priority=120)), 10.5) == [SendAdvert(120)]
    more = replace(V2, addresses=(VIP, "10.1.1.251"))
    assert kinds(router.handle(Configured(more), 10.6)) == [TakeAddresses, Announce, SendAdvert]
    assert router.handle(Configured(replace(more, priority=0)), 10.7)[:2] == [SendAdvert(0), DropAddresses()]
    assert router.state is State.SCANNING
    router.handle(Configured(more), 11.0)
    assert router.state is State.BACKUP


def test_after_a_pause_a_master_that_does_not_preempt_gives_way_to_whoever_is_there() -> None:
    patient = replace(V2, preempt=False)
    router = master(patient)
    router.handle(advert(50), 20.0)
    assert router.state is State.BACKUP
    router = master(patient)
    router.handle(Tick(), 20.0)  # nobody was there: it goes on
    router.handle(advert(50), 20.1)
    assert router.state is State.MASTER
    router = master()
    router.handle(advert(50), 20.0)  # this one would take it back anyway
    assert router.state is State.MASTER


@pytest.mark.parametrize(
    ("like", "message", "kind", "counts"),
    [
        (V2, {"version": 3}, "version", False),
        (V3, {"version": 2}, "version", False),
        (replace(V2, password="secret"), {"password": "sesame"}, "password", False),
        (replace(V2, password="secret"), {"password": None}, "password", False),
        (V2, {"password": "secret"}, "password", False),
        (V2, {"strange": "an authentication header (AH)"}, "authentication", False),
        (V2, {"interval": 2.0}, "interval", False),
        (V3, {"interval": 0.2}, "interval", True),
        (V2, {"addresses": ("10.1.1.77",)}, "vrid", False),
        (V2, {"addresses": ()}, "vrid", False),
        (V2, {"addresses": (VIP, "10.1.1.77")}, "addresses", True),
    ],
)
def test_what_does_not_fit_is_an_alarm_once(like: Instance, message: dict[str, object], kind: str, counts: bool) -> None:
    router = master(like)
    effects = router.handle(advert(200, like=like, **message), 10.05)
    assert effects[0].name == f"{kind}-{HIGHER}"  # type: ignore[union-attr]
    assert "secret" not in effects[0].text and "sesame" not in effects[0].text  # type: ignore[union-attr]
    assert (Drop(kind) in effects) is not counts
    assert router.state is (State.BACKUP if counts else State.MASTER)
    again = router.handle(advert(200, like=like, **message), 10.06)
    assert not any(isinstance(effect, Alarm) for effect in again)
    cured = router.handle(advert(200, like=like), 11.1)
    assert Alarm(f"{kind}-{HIGHER}", "") in cured


def test_an_alarm_ends_when_its_sender_is_silent() -> None:
    router = master()
    router.handle(advert(200, version=3), 10.05)
    assert Alarm(f"version-{HIGHER}", "") not in router.handle(Tick(), 19.0)
    assert Alarm(f"version-{HIGHER}", "") in router.handle(Tick(), 20.1)


def test_a_sender_of_all_kinds_of_nonsense_does_not_fill_the_log() -> None:
    router = master()
    kinds = ({"version": 3}, {"interval": 3.0}, {}, {"addresses": ("10.1.1.77",)})
    said = [router.handle(advert(50, **kinds[n % 4]), 10.0 + n / 1000) for n in range(3000)]  # type: ignore[arg-type]
    alarms = [effect for effects in said for effect in effects if isinstance(effect, Alarm)]
    assert 3 <= len([each for each in alarms if each.text]) <= 5 and len(alarms) <= 9
    assert sum(isinstance(effect, Drop) for effects in said for effect in effects) == 2250  # each was judged by itself


def test_forged_senders_are_remembered_up_to_a_number() -> None:
    router = master()
    said = [router.handle(advert(200, f"10.2.{n // 250}.{n % 250 + 1}", version=3), 10.05) for n in range(200)]
    assert sum(isinstance(effect, Alarm) for effects in said for effect in effects) == 64


@pytest.mark.parametrize("message", [{"vrid": 52}, {"source": V2.own}])
def test_other_routers_and_our_own_echo_are_nothing(message: dict[str, object]) -> None:
    assert master().handle(advert(200, **message), 10.1) == []  # type: ignore[arg-type]
