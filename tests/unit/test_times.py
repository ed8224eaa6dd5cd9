"""Times that are configured differently on the two servers: the longer ones count, and a person is told."""

from __future__ import annotations

from heartbeat.model import Phase, Times
from tests.unit.server import active_in_sync


def test_the_longer_times_count_and_an_alarm_names_both() -> None:
    server = active_in_sync()
    core = server.core
    own = core.timing
    assert (core.rules.deadtime(), core.rules.stale(), core.rules.solo()) == (own.deadtime, own.stale, own.solo)
    longer = Times(own.deadtime + 1, own.stale + 1, own.solo + 1)
    server.hear(times=longer)
    assert Times(core.rules.deadtime(), core.rules.stale(), core.rules.solo()) == longer
    text = core.alarms["times-differ"]
    assert f"solo {own.solo:g} s" in text and f"{own.solo + 1:g} s on vs-28" in text and "ha start" in text
    server.hear(times=Times(own.deadtime / 2, own.stale / 2, own.solo / 2))
    assert core.rules.solo() == own.solo and "times-differ" in core.alarms
    server.hear(times=core.times)
    assert "times-differ" not in core.alarms


def test_an_active_goes_alone_only_after_the_passives_solo_time() -> None:
    server = active_in_sync()
    own = server.core.timing
    server.hear(times=Times(own.deadtime, own.stale + 2, own.solo + 2))
    server.peer_speaks = False
    server.run(own.solo + 1.0)
    assert server.core.phase is Phase.ACTIVE and not server.core.disk.solo
    server.run(1.5)
    assert server.core.disk.solo
