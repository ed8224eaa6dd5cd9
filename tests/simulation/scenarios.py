"""Schedules with a name: the holes H1 to H17 of facts/safety-model.md, and every single fault.

Promise: each says what must hold beyond ``checks``: how long the client on the VIP may go without service, and how often
a server may become active.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from heartbeat.timing import PROFILES

from .faults import Fault, Schedule
from .world import RECOMMENDED, Result, Setting, play

F = Fault
AGGRESSIVE = PROFILES["aggressive"]
LAN, IC = ("lan", "lan"), ("ic", "ic")
#: moments of a hand-over: A begins with a checkpoint; to stand down; says that it has
PREPARES = "A RoleChanged after=preparing"
DOWN, WORD = "A RoleChanged after=standing-down", "A RoleChanged stood down in"


@dataclass(frozen=True)
class Scenario:
    name: str
    schedule: Schedule
    #: seconds without service at the most
    outage: float = 30.0
    activations: int = 99
    #: databases that had to be copied, because they had diverged
    copies: int = 99
    setting: Setting = Setting()

    def wrong(self, seed: int, setting: Setting | None = None) -> str:
        """What is wrong with this scenario under ``seed``; "" if nothing."""
        return self.judge(play(seed, self.schedule, setting or self.setting))

    def judge(self, result: Result) -> str:
        if result.failures:
            return result.failures[0]
        if result.outage > self.outage:
            return f"outage: the client was not served for {result.outage:.2f} s"
        if result.activations > self.activations:
            return f"activations: {result.activations} takeovers, {self.activations} expected at the most"
        if result.copies > self.copies:
            return f"copies: {result.copies} databases had diverged, {self.copies} expected at the most"
        return ""


def _s(name: str, *faults: Fault, outage: float = 30.0, activations: int = 99, links: tuple[str, str] | None = None,
       strict: bool = False, copies: int = 99, **more: object) -> Scenario:  # fmt: skip
    setting = replace(Setting(), links=links, strict=strict, **more)  # type: ignore[arg-type]
    return Scenario(name, tuple(faults), outage, activations, copies, setting)


HOLES: tuple[Scenario, ...] = (
    _s("H1 replication path cut", F(1.5, "cut", "B", 20, "repl:both"), outage=3, activations=0),
    _s("H1 the passive's Postgres broken", F(1.5, "postgres-broken", "B", 20), outage=3, activations=0),
    _s("H1 the passive's ha_manager dead", F(1.5, "ha_manager-kill", "B", 20), outage=5, activations=0),
    _s("H2 the active's heartbeat restarts just too late", F(1.5, "heartbeat-kill", "A", 0.6), outage=2.5),
    _s("H2 the active boots faster than deadtime", F(1.5, "power", "A", 0.2), outage=3),
    _s(
        "H2 the active's heartbeat restarts, the passive unconnected",
        F(1.5, "heartbeat-kill", "A", 1.0),
        F(1.57, "port", "B", 1.46),
        F(2.68, "cut", "A", 2.92, "*:out"),
        F(3.38, "power", "A", 2.55),
    ),
    _s("H3 ping node down for both", F(1.5, "ping", "A", 15, "both"), outage=1, activations=0),
    _s("H4 LAN of the active, with replication on it", F(1.5, "port", "A", 15), outage=2.5, activations=1, links=LAN),
    _s("H5 the active's ha_manager hangs", F(1.5, "ha_manager-hang", "A", 15, "unwatched"), outage=3, activations=1),
    _s(
        "H6 LAN of the active: no release before it notices",
        F(1.65, "port", "A", 15),
        outage=2.5,
        links=LAN,
        timing=RECOMMENDED,
    ),
    _s("H7 the active stands still, the passive takes over and dies", F(1.5, "pause", "A", 4.5), F(4.0, "power", "B", 14)),
    _s(
        "H7 the same, the thawed one has heard nothing",
        F(1.5, "pause", "A", 4.5),
        F(2.2, "cut", "B", 3, "*:out"),
        F(4.0, "power", "B", 14),
    ),
    _s("H7 the same with a slow thaw", F(1.5, "pause", "A", 6.0), F(6.2, "power", "B", 14), F(6.2, "slow", "A", 2, "0.8")),
    _s("H8 heard but not hearing, then neither", F(1.5, "cut", "B", 10, "*:out"), F(4.6, "cut", "A", 7, "*:out"), strict=True),
    _s(
        "H8 the same, with the solo one dead",
        F(1.5, "cut", "B", 8, "*:out"),
        F(1.9, "cut", "A", 8, "*:out"),
        F(2.75, "power", "A", 8),
        strict=True,
    ),
    _s(
        "H9 the passive off, the active solo, both boot, links cut",
        F(1.5, "power", "B", 6.5),
        F(7.0, "power", "A", 1.0),
        F(8.8, "cut", "A", 6, "*:both"),
        strict=True,
    ),
    _s("H9 the passive boots while the solo one is off", F(1.5, "power", "B", 6.5), F(7.0, "power", "A", 12)),
    _s(
        "H9 the passive hears of the solo one, then nothing",
        F(1.5, "power", "B", 5.0),
        F(1.5, "cut", "B", 16, "repl:both"),
        F(9.0, "cut", "A", 6, "*:both"),
        strict=True,
    ),
    _s(
        "H10 the old active holds a longer log, both die",
        F(2.0, "heartbeat-kill", "A", 1.12),
        F(2.0, "cut", "A", 1.1, "*:both"),
        F(3.32, "power", "A", 1.0),
        F(3.32, "power", "B", 1.0),
        strict=True,
    ),
    _s("H11 the new active's heartbeat restarts as a passive", F(1.5, "pause", "A", 1.6), F(3.0, "heartbeat-kill", "B", 0.8)),
    _s(
        "H12 dies while coming back in sync",
        F(1.5, "power", "B", 2.0),
        F(4.6, "crash", "A", 3.0, "4:power"),
        F(8.5, "power", "B", 9.0),
    ),
    _s(
        "H12 in sync again, then first one dies, then the other",
        F(1.5, "power", "B", 5.0),
        F(9.5, "power", "A", 4.0),
        F(13.0, "power", "B", 12),
    ),
    _s("H13 heartbeats blocked, the rest works", F(1.5, "cut", "A", 10, "hb:both"), outage=3),
    _s(
        "H13 the same and the session, replication delivers",
        F(1.5, "cut", "A", 10, "hb:both"),
        F(1.5, "cut", "A", 10, "session:both"),
        outage=1,
        activations=0,
    ),
    _s(
        "H13 heartbeats blocked, then the passive's LAN drops",
        F(1.5, "cut", "A", 10, "hb:both"),
        F(4.0, "port", "B", 0.8),
        links=LAN,
    ),
    _s("H14 long unconnected, then one answer", F(1.5, "port", "B", 5.0), F(1.5, "cut", "B", 5.0, "ic:both"), activations=0),
    _s(
        "H14 unconnected for a moment, heartbeats come last",
        F(1.5, "port", "B", 1.8),
        F(1.5, "cut", "B", 2.1, "ic:both"),
        F(1.5, "cut", "B", 2.1, "lan:both"),
        F(1.5, "cut", "B", 3.0, "session:both"),
        links=IC,
        activations=0,
        timing=RECOMMENDED,
    ),
    _s(
        "H15 dies between its new epoch and the promotion",
        F(1.5, "cut", "A", 1.15, "*:both"),
        F(2.0, "crash", "B", 6.0, "3:power"),
        F(7.0, "power", "A", 12),
        strict=True,
    ),
    _s("H16 unconnected while silent", F(1.5, "power", "B", 4.0), F(1.6, "ping", "A", 0.4), F(2.6, "ping", "A", 0.4)),
    _s(
        "H16 silent and its ping node comes and goes",
        F(1.5, "cut", "A", 9, "*:both"),
        *(F(round(2.2 + 0.7 * i, 2), "ping", "A", 0.58) for i in range(11)),
        strict=True,
        timing=RECOMMENDED,
    ),
    _s("H17 yields, then its successor dies", F(1.5, "ping", "A", 4.0), F(2.5, "power", "B", 12.0)),
    _s(
        "H17 hands over, back again, and its word is not heard",
        F(1.5, "failover", "A"),
        F(2.3, "failover", "B"),
        F(2.51, "cut", "A", 4.0, "hb:both"),
        F(2.51, "cut", "A", 4.0, "session:both"),
    ),
    _s(
        "solo when its power goes, and back without its ping node",
        F(1.5, "power", "B", 5.5),
        F(4.8, "slow", "A", 1.5, "2.5"),
        F(5.4, "power", "A", 1.0),
        F(5.5, "ping", "A", 9),
    ),
    _s(
        "follows a solo one, cut off, and both restart",
        F(1.5, "power", "B", 5.5),
        F(0.0, "cut", "B", 9, "repl:both", "A names=enforced"),
        F(2.0, "power", "A", 1.0, "", "A names=enforced"),
        F(2.2, "power", "B", 0.8, "", "A names=enforced"),
        F(2.0, "ping", "A", 9, "", "A names=enforced"),
    ),
    _s("planned failover", F(1.5, "failover", "A"), outage=1, activations=1, copies=0),
    _s(
        "its successor's disk hangs when it writes the epoch of a planned failover",
        F(1.5, "failover", "A"),
        F(0.0, "slow", "B", 3.0, "30", "B TakeVip"),
        outage=15,
        strict=True,
    ),
    _s(
        "the same, and the active is back from a power cut",
        F(1.5, "power", "A", 2.0),
        F(0.0, "slow", "B", 3.0, "20", "B TakeVip"),
        strict=True,
    ),
    _s(
        "its successor dies before a planned failover",
        F(1.4, "power", "B", 15),
        F(1.5, "failover", "A"),
        outage=5,
        activations=0,
    ),
    _s(
        "its ha_manager dies when it prepares",
        F(1.5, "failover", "A"),
        F(0.0, "ha_manager-kill", "A", 15, "", PREPARES),
        outage=2,
    ),
    _s("its successor dies when it stands down", F(1.5, "failover", "A"), F(0.0, "power", "B", 15, "", DOWN), outage=5),
    _s("its successor dies on its word", F(1.5, "failover", "A"), F(0.0, "power", "B", 15, "", WORD), outage=5),
    _s("its successor dies when it yields", F(1.5, "carrier", "A", 1.0), F(0.0, "power", "B", 15, "", DOWN), outage=5.5),
    _s(
        "its successor is not heard from its word on",
        F(1.5, "failover", "A"),
        F(0.0, "cut", "B", 9, "*:out", WORD),
        outage=5,
        strict=True,
    ),
    _s(
        "its successor does not hear its word, takes over, and dies",
        F(1.5, "failover", "A"),
        F(0.0, "port", "A", 2.5, "", DOWN),
        F(0.0, "cut", "A", 2.5, "ic:both", DOWN),
        F(2.3, "power", "B", 12, "", DOWN),
    ),
    _s(
        "its successor takes over on its word, and dies",
        F(1.5, "failover", "A"),
        F(0.0, "cut", "A", 12, "repl:both", WORD),
        F(0.0, "cut", "A", 12, "session:both", WORD),
        F(2.0, "power", "B", 12, "", WORD),
    ),
    _s(
        "its successor takes over unheard, answers for the virtual IP, and dies",
        F(2.4, "failover", "A"),
        F(0.0, "cut", "B", 5.0, "hb:both", WORD),
        F(0.0, "cut", "B", 5.0, "session:both", WORD),
        F(6.5, "power", "B", 5.0),
    ),
    _s(
        "called in sync, its ha_manager hangs, and it is asked to take over",
        F(1.5, "power", "B", 5.5),
        F(0.0, "ha_manager-hang", "B", 0.4, "unwatched", "A RoleChanged in sync again"),
        F(0.1, "failover", "A", 0.0, "", "A RoleChanged in sync again"),
        activations=0,
    ),
    _s(
        "called in sync too early, replication stops, and the active dies",
        F(1.5, "power", "B", 5.5),
        F(1.5, "checkpointer", "A", 12.0, "0.15"),
        F(0.0, "cut", "B", 8, "repl:both", "A names=enforced"),
        F(0.25, "power", "A", 12.0, "", "A RoleChanged in sync again"),
        hasty=True,
    ),
    _s(
        "activated by an operator in ignorance of a solo one's epoch, that one boots, and its successor dies",
        F(1.5, "cut", "A", 14, "repl:both"),
        F(4.0, "power", "A", 2.75),
        F(4.466, "leave", "B", 0.0, "handover"),
        F(6.0, "activate", "B"),
        F(12.0, "power", "B", 3.0),
    ),
    _s(
        "activated by an operator over a solo one, that one boots, and its successor dies",
        F(1.5, "cut", "A", 14, "repl:both"),
        F(4.0, "power", "A", 5.5),
        F(6.0, "activate", "B"),
        F(12.0, "power", "B", 12),
    ),
    _s(
        "both active after a cut, and one does not hear yet", F(1.7, "cut", "A", 8, "*:out"), F(1.78, "cut", "A", 4.3, "*:both")
    ),
    _s(
        "both active after a cut, and the one that hears writes more meanwhile",
        F(1.7, "cut", "A", 8, "*:out"),
        F(1.76, "cut", "A", 4.3, "*:both"),
        F(0.01, "port", "B", 3.13, "", "B RoleChanged after=promoting"),
    ),
    _s(
        "the active's times are shorter, a cut, and its power goes",
        F(1.5, "cut", "A", 6, "*:both"),
        F(2.45, "power", "A", 5),
        timing=AGGRESSIVE,
        other_timing=RECOMMENDED,
        outage=4,
    ),
    _s("restarts within its lease in a cut", F(1.5, "cut", "A", 8, "*:both"), F(2.35, "heartbeat-kill", "A", 0.0), strict=True),
    _s(
        "an epoch that nobody could write",
        F(1.5, "leave", "B", 0.0, "handover"),
        F(0.0, "full", "A", 0.5, "", "B Persist"),
        F(0.5, "heartbeat-kill", "A", 0.0, "", "A Alarm(name='disk'"),
    ),
    _s(
        "the passive can't write its takeover",
        F(1.5, "power", "A", 14.0),
        F(0.0, "full", "B", 0.5, "", "B TakeVip"),
        outage=6,
    ),
    _s(
        "a pledge of an earlier election, and heartbeats are blocked",
        F(0.004, "cut", "B", 1.3, "hb:both", "A RoleChanged in sync again"),
        cold=True,
    ),
    _s("going solo on a slow disk when the cut heals", F(2.5, "cut", "B", 3.5, "*:both"), F(2.7, "slow", "A", 4.6, "2.5")),
    _s("no link for the virtual IP on both servers", F(1.5, "carrier", "A", 12), F(1.6, "carrier", "B", 11), activations=1),
    _s("silent for a moment", F(1.5, "cut", "A", 0.6, "*:out"), activations=0),
    _s("isolated with its VIP", F(1.5, "port", "A", 8.0), F(1.5, "cut", "A", 8.0, "ic:both"), outage=3),
    _s(
        "planned failover and back, session cut",
        F(1.5, "failover", "A"),
        F(4.0, "failover", "B"),
        F(2.2, "cut", "A", 8, "session:both"),
        outage=1,
        activations=2,
    ),
)


def singles() -> Iterator[Scenario]:
    """Every single fault, at each server, short and long; service is back while it lasts, unless nobody can serve."""
    cases = product(("A", "B"), SINGLE, (0.4, 1.5, 12.0))
    for number, (node, (name, kind, argument, outage), length) in enumerate(cases):
        links = (LAN, IC)[number % 2]
        setting = Setting(links=links)
        what = f"{name} of {node}, {length:g} s, replication on {links[0]}"
        yield Scenario(what, (Fault(1.5, kind, node, length, argument),), outage, setting=setting)


#: name, kind, argument, seconds without service at the most
SINGLE: tuple[tuple[str, str, str, float], ...] = (
    ("power", "power", "", 4.5),
    ("machine pause", "pause", "", 4.5),
    ("heartbeat dead", "heartbeat-kill", "", 5.0),
    ("heartbeat hung", "heartbeat-hang", "", 4.5),
    ("heartbeat hung for good", "heartbeat-hang", "unwatched", 5.0),
    ("ha_manager dead", "ha_manager-kill", "", 5.0),
    ("ha_manager hung", "ha_manager-hang", "", 4.5),
    ("ha_manager hung for good", "ha_manager-hang", "unwatched", 4.5),
    ("Postgres killed", "postgres-kill", "", 3.0),
    ("Postgres hung", "postgres-hang", "", 4.0),
    ("Postgres broken", "postgres-broken", "", 4.0),
    ("ping node", "ping", "", 3.0),
    ("ping node of both", "ping", "both", 1.0),
    ("port", "port", "", 4.0),
    ("port with carrier", "port", "carrier", 4.0),
    ("LAN cut out", "cut", "lan:out", 3.5),
    ("LAN cut in", "cut", "lan:in", 3.5),
    ("interconnect", "cut", "ic:both", 3.5),
    ("all links out", "cut", "*:out", 5.0),
    ("all links in", "cut", "*:in", 5.0),
    ("heartbeats blocked", "cut", "hb:both", 4.0),
    ("heartbeats blocked one way", "cut", "hb:out", 4.0),
    ("replication", "cut", "repl:both", 3.5),
    ("replication one way", "cut", "repl:out", 3.5),
    ("session", "cut", "session:both", 0.5),
    ("disk slow", "slow", "0.8", 8.0),
    ("checkpointer slow", "checkpointer", "2.0", 1.0),
    ("disk full", "full", "", 5.0),
)
