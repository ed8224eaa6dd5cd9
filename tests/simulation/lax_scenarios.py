"""Schedules for asynchronous replication, and for changes of module.xml meanwhile: each with its mutant in ``mutants``.

Promise: as ``scenarios``; what may be lost where commits don't wait is in ``checks``.
"""

from __future__ import annotations

from dataclasses import replace

from .faults import Fault
from .scenarios import Scenario, _s

F = Fault
IC_LAN = ("ic", "lan")


def _lax(name: str, *faults: Fault, outage: float = 30.0, activations: int = 99, copies: int = 99) -> Scenario:
    scenario = _s(name, *faults, outage=outage, activations=activations, copies=copies, links=IC_LAN)
    return replace(scenario, setting=replace(scenario.setting, asynchronous=True))


LAX: tuple[Scenario, ...] = (
    _lax("A1 the active loses power", F(2.0, "power", "A", 5), outage=2),
    _lax("A2 it loses power when the passive has lacked too much for long", F(1.5, "cut", "B", 9, "repl:both"),
         F(6.0, "power", "A", 4)),
    _lax("A3 it yields, and can't send the rest", F(2.0, "cut", "B", 3, "repl:both"), F(2.15, "carrier", "A", 1.0), outage=3),
    _lax("A4 planned failover and back", F(2.0, "failover", "A"), F(5.0, "failover", "B"), activations=2, outage=1, copies=0),
    _lax("A5 the active boots faster than deadtime", F(1.5, "power", "A", 0.2), outage=4),
    _lax("A6 the active stands still, and goes on", F(1.5, "pause", "A", 4.5), outage=2),
    _lax("A8 heartbeat ends its Postgres, nobody knows where that was", F(1.58, "pause", "A", 0.13),
         F(1.75, "ha_manager-hang", "A", 1.73), F(2.11, "postgres-broken", "B", 0.0), outage=5),
    _lax("A9 its ha_manager dies, then the passive, then, when that is back, its own power goes",
         F(1.55, "ha_manager-kill", "A", 4.8), F(2.05, "power", "B", 2.1), F(5.2, "power", "A", 5)),
    _lax("A10 its link goes, and its Postgres starts as a standby before it is succeeded", F(1.437, "carrier", "A", 2.56),
         outage=1, activations=1),
    _lax("A11 nobody knows where the log of the other one ends, whose Postgres is broken", F(1.4, "pause", "B", 6.4),
         F(1.46, "ping", "A", 0.8), F(6.4, "power", "A", 4), F(10.5, "postgres-broken", "A", 1.7)),
    _lax("A12 turned off while a planned failover makes commits wait", F(3.38, "heartbeat-hang", "B", 0.2, "unwatched"),
         F(3.45, "failover", "A"), F(3.55, "leave", "A", 0.0, "off")),
    _lax("A13 a planned failover that made commits wait is given up unheard", F(1.95, "cut", "B", 3, "hb:out"),
         F(2.0, "failover", "A"), F(0.3, "cut", "B", 3, "*:both", "A synchronous:"), activations=1),
    _lax("A7 the passive is gone for long", F(1.5, "power", "B", 15), outage=1, activations=0),
    _s("M1 only one server is changed", F(1.5, "mode", "A", 0, "off"), F(2.5, "cut", "B", 2.2, "repl:both"),
       F(3.0, "power", "A", 5)),
    _s("M2 the passive does not hear that commits stop waiting", F(1.5, "mode", "A", 0, "off"), F(1.6, "mode", "B", 0, "off"),
       F(0.0, "cut", "A", 4, "*:out", "A Persist lax=True")),
    _s("M3 to asynchronous and back, then its power goes", F(1.5, "mode", "A", 0, "off"), F(1.6, "mode", "B", 0, "off"),
       F(3.0, "mode", "B", 0, "on"), F(3.1, "mode", "A", 0, "on"), F(4.5, "power", "A", 5), outage=2),
    _s("M4 the passive alone says release", F(1.5, "mode", "B", 0, "release"), F(2.5, "cut", "A", 6, "*:both"), strict=True),
    _s("M5 its power goes before the proof is on the disk", F(1.5, "mode", "A", 0, "off"), F(1.6, "mode", "B", 0, "off"),
       F(3.0, "mode", "A", 0, "on"), F(0.0, "power", "A", 3, "", "A Persist lax=False"), outage=3),
)  # fmt: skip
