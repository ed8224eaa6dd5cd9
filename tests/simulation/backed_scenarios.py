"""Schedules for what a decision by silence needs besides the silence, and for restraint: each with its mutant in ``mutants``.

Promise: as ``scenarios``. In those with a cut both servers live and see the ping node while nothing passes between them, so
that without the ARP check, a fence device or a witness a write would be lost.
"""

from __future__ import annotations

from dataclasses import replace

from heartbeat.timing import PROFILES

from .faults import Fault, Schedule
from .scenarios import LAN, WORD, Scenario, _s
from .world import COARSE

F = Fault
CUT = F(1.5, "cut", "A", 8, "*:both")
#: later than the announcements of the start, and their repeats
LATE = F(8, "cut", "A", 8, "*:both")


def _talk(at: float) -> Schedule:
    """Neither heartbeats nor the session nor the replication pass; the LAN itself does."""
    return tuple(F(at, "cut", "A", 8, f"{what}:both") for what in ("hb", "session", "repl"))


def _flapping(times: int) -> Schedule:
    return tuple(F(1.5 + 3 * n, "ping", "AB"[n % 2], 2.0) for n in range(times))


BACKED: tuple[Scenario, ...] = (
    _s("E1 the VIP is answered, nothing else passes", *_talk(1.5), strict=True, activations=0, outage=4.5),
    _s("E2 the active dies, a stranger answers for the VIP", F(1, "stranger", "B", 20), F(1.5, "power", "A", 12), outage=3),
    _s("E3 the active's heartbeat dies, its host lives", F(1.5, "heartbeat-kill", "A", 12), outage=3),
    _s("E4 only the VIP is answered, and for less than deadtime not even that", *_talk(1.5), F(2.6, "cut", "A", 0.85, "*:both"),
       strict=True, activations=0, outage=4.5),
    _s("R1 nothing passes, the gateway is seen", LATE, arp_check=True, activations=1, outage=4, strict=True),
    _s("R2 the passive dies", F(8, "power", "B", 12), arp_check=True, activations=0, outage=4.5),
    _s("R3 the VIP moves late", *_talk(8), F(8.25, "cut", "A", 8, "*:both"), arp_check=True, timing=PROFILES["aggressive"]),
    _s("R4 the takeover's announcement is lost", LATE, F(8.9, "ping", "B", 1.9), arp_check=True, outage=6),
    _s("R5 the old active's link comes up, and that is announced", LATE, F(9.4, "port", "A", 0.15, "carrier"), arp_check=True),
    _s("F1 nothing passes, fence devices", CUT, fence=True, outage=7),
    _s("F2 the active dies and can't be fenced", F(1.5, "power", "A", 15), F(1, "unfenced", "A", 8), fence=True, outage=19),
    _s("F3 a planned failover, no fence device works", F(1, "unfenced", "A", 20), F(1.5, "failover", "A"), fence=True,
       outage=1, activations=1),
    _s("F4 the active dies and can't be fenced, an operator goes on", F(1.5, "power", "A", 25), F(1, "unfenced", "A", 30),
       F(9, "activate", "B"), fence=True, outage=9),
    _s("F5 nothing passes from a hand-over on, fence devices", F(1.5, "failover", "A"), F(0, "cut", "A", 8, "*:both", WORD),
       fence=True, outage=7),
    _s("W7 nothing passes from a hand-over on, three witnesses", F(1.5, "failover", "A"), F(0, "cut", "A", 8, "*:both", WORD),
       witnesses=3, outage=4.5),
    _s("R6 nothing passes from a hand-over on", F(8, "failover", "A"), F(0, "cut", "A", 8, "*:both", WORD), arp_check=True,
       outage=4.5),
    _s("nothing passes from a hand-over on, solo=release", F(1.5, "failover", "A"), F(0, "cut", "A", 8, "*:both", WORD),
       solo="release", outage=4.5, strict=True),
    _s("W1 nothing passes, one witness", CUT, witnesses=1, outage=4.5),
    _s("W2 nothing passes, two of three witnesses", CUT, F(1, "witness", "A", 12, "1"), witnesses=3, outage=4.5),
    _s("W3 the active dies, no witness", F(1.5, "power", "A", 4), F(1, "witness", "A", 20, "0"), witnesses=1, outage=9),
    _s("W3 a granted takeover comes to nothing, and later the passive dies", F(1.5, "cut", "A", 1.6, "*:both"),
       F(0, "full", "B", 0.5, "", "B TakeVip"), F(8, "power", "B", 12), witnesses=1, outage=4.5,
       timing=replace(COARSE, stall=60.0)),
    _s("W4 a planned failover, no witness", F(1, "witness", "A", 20, "0"), F(1.5, "failover", "A"), witnesses=1, outage=1,
       activations=1),
    _s("W5 the successor boots, hears the old active, and is not heard", F(1.5, "cut", "A", 4.5, "*:both"),
       F(2.97, "power", "B", 0.5), F(5.5, "cut", "B", 4, "hb:out"), F(5.5, "cut", "B", 4, "session:both"), witnesses=1),
    _s("W6 the old active learns of its successor over the session only", F(2, "cut", "A", 1.33, "*:out"),
       F(2.78, "cut", "B", 8, "hb:both"), witnesses=1),
    _s("Q1 nothing passes, the passive sees one of three ping nodes", CUT, F(1.3, "ping", "B", 8.5, "gw"),
       F(1.3, "ping", "B", 8.5, "r1"), F(1.3, "ping", "B", 8.5, "r2"), ping_quorum=2, activations=0, outage=4.5, strict=True),
    _s("Q2 the active sees one of three ping nodes", F(1.5, "ping", "A", 12, "gw"), F(1.5, "ping", "A", 12, "gw2"),
       ping_quorum=2, activations=1, outage=1.5),
    _s("Q3 one ping node is off, and half of a group", F(1.5, "ping", "A", 12, "gw both"), F(1.5, "ping", "A", 12, "r1 both"),
       ping_quorum=2, activations=0, outage=0.5),
    _s("Q4 the active dies, the passive sees two of three", F(1.2, "ping", "B", 12, "gw2"), F(1.5, "power", "A", 12),
       ping_quorum=2, activations=1, outage=3),
    _s("S1 the ping node comes and goes for one after the other", *_flapping(8), most_changes=2, activations=3, links=LAN),
    _s("S2 the same, then the active dies", *_flapping(5), F(18, "power", "B", 12), most_changes=2, activations=5, outage=3),
)  # fmt: skip
