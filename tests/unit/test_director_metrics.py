"""The status as numbers for Prometheus."""

from __future__ import annotations

import re
from typing import Any

from director.metrics import measured

ROUTER = {
    "vrid": 51, "family": 4, "interface": "eth0", "state": "master", "effective_priority": 99, "changes": 2,
    "counters": {"sent": 1, "received": 2, "dropped": {"ttl": 3}},
}  # fmt: skip
MEMBER = {
    "name": "scan1", "ip": "10.1.1.3", "state": "ok", "share": 0.25, "cpu": 0.1, "connections": 7, "ports": {"tcp 80": True},
    "buckets": {"tcp 80": 256},
}  # fmt: skip
CLUSTER = {
    "members": [MEMBER], "discovery": {"sent": 4, "received": 5, "dropped": {"authentication": 6}},
    "plane": {"loaded": True, "problem": "", "repaired": 1},
}  # fmt: skip


def status(**more: Any) -> dict[str, Any]:
    return {"routers": [ROUTER], "alarms": [], "alarms_raised": 3, "cluster": CLUSTER} | more


def test_every_line_is_of_the_format_and_every_figure_is_there() -> None:
    lines = measured(status())
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.e+]+')
    assert all(line.startswith(("# HELP director_", "# TYPE director_")) or sample.fullmatch(line) for line in lines)
    for line in (
        'director_vrrp_state{vrid="51",family="4",interface="eth0",state="master"} 1',
        'director_vrrp_state{vrid="51",family="4",interface="eth0",state="backup"} 0',
        'director_vrrp_adverts_dropped_total{vrid="51",family="4",interface="eth0",reason="ttl"} 3',
        "director_alarms_raised_total 3", "director_alarms 0", "director_rules_loaded 1",
        'director_member_port_up{member="scan1",ip="10.1.1.3",redirect="tcp 80"} 1',
        'director_member_buckets{member="scan1",ip="10.1.1.3",redirect="tcp 80"} 256',
        'director_discovery_dropped_total{reason="authentication"} 6',
    ):  # fmt: skip
        assert line in lines, line


def test_an_alarm_is_a_series_with_its_text_while_it_stands() -> None:
    alarm = {"name": "x", "text": 'said "no"\\\n', "since": 1764381234.5}
    said = r'director_alarm_since_seconds{name="x",text="said \"no\"\\\n"} 1764381234'
    assert any(line.startswith(said) for line in measured(status(alarms=[alarm]))), measured(status(alarms=[alarm]))
    assert not any("alarm_since" in line for line in measured(status()))


def test_without_a_group_there_is_nothing_of_it() -> None:
    assert not any("member" in line or "rules" in line for line in measured(status(cluster={})))
