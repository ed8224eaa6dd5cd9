"""How often a server asks its ping node: seldom while all is well, at the ping period when an answer may decide something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from heartbeat.model import Facts, Heard, Ping, RefreshLease, Send, Tick
from runtime.timing import PROFILES, Timing
from tests.unit.server import TIMING, Server, active_in_sync, passive_in_sync


def pings(server: Server, seconds: float) -> int:
    server.did.clear()
    server.run(seconds)
    return sum(isinstance(effect, Ping) for effect in server.did)


def _silent(server: Server) -> None:
    server.peer_speaks = False
    server.run(TIMING.warntime)


def _unanswered(server: Server) -> None:
    server.pings = False
    server.run(TIMING.calm_ping_period)


def _asked(server: Server) -> None:
    server.hear(asks_ping=True)


def _stalled(server: Server) -> None:
    server.facts = replace(server.facts, stalled=0.2)


@pytest.mark.parametrize("make", [active_in_sync, passive_in_sync])
def test_calm(make: Callable[[], Server]) -> None:
    server = make()
    assert 8 <= pings(server, 2.0) <= 11
    assert server.core.deadline() is not None and server.core.calm


@pytest.mark.parametrize("make", [active_in_sync, passive_in_sync])
@pytest.mark.parametrize("what", [_silent, _unanswered, _asked, _stalled])
def test_not_calm(make: Callable[[], Server], what: Callable[[Server], None]) -> None:
    server = make()
    what(server)
    assert pings(server, 0.4) >= 8
    assert not server.core.calm


def test_the_next_ping_after_one_without_answer_comes_at_the_ping_period() -> None:
    server = active_in_sync()
    server.run(0.3)
    server.pings = False
    while not any(isinstance(effect, Ping) for effect in server.give(Tick())):
        server.now += 0.001
    asked = server.now
    while not any(isinstance(effect, Ping) for effect in server.give(Tick())):
        server.now += 0.001
    assert server.now - asked <= TIMING.ping_period + 0.001


@pytest.mark.parametrize("timing", PROFILES.values())
def test_a_lost_calm_ping_leaves_time_for_others_before_ping_dead(timing: Timing) -> None:
    assert timing.ping_period <= timing.calm_ping_period <= timing.keepalive
    assert (timing.ping_dead - timing.calm_ping_period) / timing.ping_period >= 4


@pytest.mark.parametrize("make", [active_in_sync, passive_in_sync])
def test_a_calm_ping_goes_out_with_a_heartbeat(make: Callable[[], Server]) -> None:
    server = make()
    server.run(1.0)
    for _ in range(100):
        server.now += 0.01
        server.did.clear()
        if server.now - server.beat_at >= TIMING.keepalive:
            server.hear()
        server.give(Tick())
        pinged, said = (any(isinstance(effect, kind) for effect in server.did) for kind in (Ping, Send))
        assert pinged is said


def test_a_solo_active_without_its_peer_is_not_calm() -> None:
    server = active_in_sync()
    server.facts = Facts()
    server.peer_speaks = False
    server.run(1.0)
    assert not server.core.calm


def test_a_calm_active_speaks_with_its_passive_and_is_woken_up_once_for_both() -> None:
    server = active_in_sync()
    server.run(1.0)
    heard = Heard("eth0", replace(server.peer, seq=1000, echo_boot=server.boot, echo_seq=server.core.seq))
    server.now += TIMING.keepalive / 2
    effects = server.core.handle(heard, server.now)
    assert {type(effect) for effect in effects} == {RefreshLease, Ping, Send}
    deadline = server.core.deadline()
    assert deadline is not None and deadline > server.now + TIMING.keepalive / 2
    server.now += 0.001
    again = Heard("eth0", replace(heard.message, seq=1001))
    assert server.core.handle(again, server.now) == [], "just spoken"


def test_an_active_with_a_decision_ahead_keeps_its_own_time() -> None:
    server = active_in_sync()
    server.run(1.0)
    server.hear()
    _stalled(server)
    server.give(server.facts)
    server.now += TIMING.keepalive * 0.9
    assert not [effect for effect in server.give(Tick()) if isinstance(effect, Send)]
    server.did.clear()
    server.hear()
    assert not [effect for effect in server.did if isinstance(effect, Send)]


def test_a_calm_passive_keeps_to_its_beat_however_late_it_wakes_up() -> None:
    server = passive_in_sync()
    server.run(1.0)
    while not any(isinstance(effect, Send) for effect in server.give(Tick())):
        server.now += 0.001
    began = server.now
    for beat in range(1, 6):
        server.hear()
        server.now = began + beat * TIMING.keepalive + 0.004
        assert any(isinstance(effect, Send) for effect in server.give(Tick())), beat
    server.hear()
    server.now = began + 6 * TIMING.keepalive + 0.1
    assert any(isinstance(effect, Send) for effect in server.give(Tick()))
    server.now = began + 7 * TIMING.keepalive + 0.05
    assert not any(isinstance(effect, Send) for effect in server.give(Tick())), "too late to catch up"
