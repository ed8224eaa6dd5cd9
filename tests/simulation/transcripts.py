"""The holes H1 to H17 as prose: what happens to a pair in each of them, step by step.

Promise: chance is taken out (``Middling``), so that a transcript changes only when the pair decides or times something
otherwise; ``tests/scenarios/*.txt`` are these texts, compared by a test, and written anew by
``python -m tests.simulation --transcripts``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from heartbeat.model import (
    Alarm,
    Database,
    DropVip,
    Effect,
    Event,
    Garp,
    Gate,
    Names,
    Persist,
    Record,
    RoleChanged,
    TakeVip,
    Want,
)

from .faults import Fault
from .scenarios import HOLES, Scenario
from .world import ARMED, World

FOLDER = Path(__file__).parent.parent / "scenarios"
#: what begins; {n} the server, {p} its peer, {a} the fault's argument
BEGINS = {
    "power": "{n} loses its power", "pause": "{n}'s machine is stopped", "crash": "{n} is about to crash ({a})",
    "heartbeat-kill": "{n}'s heartbeat is killed", "heartbeat-hang": "{n}'s heartbeat hangs",
    "ha_manager-kill": "{n}'s ha_manager is killed", "ha_manager-hang": "{n}'s ha_manager hangs",
    "postgres-kill": "{n}'s Postgres is killed", "postgres-hang": "{n}'s Postgres hangs",
    "postgres-broken": "{n}'s Postgres is broken", "ping": "{n} and the ping node no longer reach each other",
    "port": "{n}'s port on the LAN is dead", "carrier": "{n}'s virtual IP's interface has no link",
    "slow": "{n}'s disk is slow ({a} s a write)", "full": "{n}'s disk is full",
    "checkpointer": "{n}'s checkpointer is slow ({a} s)", "failover": "an operator asks {n} to hand over",
    "leave": "an operator stops {n}'s heartbeat ({a})", "activate": "an operator activates {n}, whatever is lost",
}  # fmt: skip
CUTS = {"lan": "the LAN", "ic": "the interconnect", "*": "every link", "hb": "heartbeats", "repl": "the replication",
        "session": "the session"}  # fmt: skip
WAYS = {"out": "{n} → {p}", "in": "{p} → {n}", "both": "between {n} and {p}"}


class Told(World):
    """A world whose trace is for reading."""

    def __init__(self, scenario: Scenario) -> None:
        self._wanted: dict[str, str] = {}
        setting = replace(scenario.setting, middling=True, links=scenario.setting.links or ("lan", "ic"))
        super().__init__(0, scenario.schedule, setting, tracing=True)

    def note(self, who: str, text: str) -> None:
        if self.engine.now >= ARMED:
            server = "  " if who in ("fault", "check") else f"{who:2}"
            self.lines.append(f"{self.engine.now:7.2f}  {server} {_plain(text)}")

    def note_fault(self, fault: Fault, over: bool = False) -> None:
        if over and not fault.length:
            return
        length = f", for {fault.length:g} s" if fault.length else ""
        self.note("fault", f"-- over: {_fault(fault)}" if over else f"-- {_fault(fault)}{length}")

    def note_step(self, who: str, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            text = self._prose(who, effect)
            if text:
                self.note(who, text)

    def _prose(self, who: str, effect: Effect) -> str:
        match effect:
            case RoleChanged(before, after, _, because):
                return because if before is after else f"{after}: {because}"
            case Persist(_, record):
                return f"writes {_record(record)}"
            case TakeVip():
                return "takes the virtual IP"
            case DropVip():
                return "drops the virtual IP"
            case Garp():
                return "announces the virtual IP"
            case Gate(is_open):
                return "lets clients in" if is_open else "refuses clients"
            case Alarm(name, raised, text):
                return f"alarm {name}: {text}" if raised else f"alarm {name} is over"
            case Want():
                wanted = _want(effect)
                told, self._wanted[who] = self._wanted.get(who, ""), wanted
                return f"wants {wanted}" if wanted != told and effect.postgres is not Database.KEEP else ""
        return ""


def _plain(text: str) -> str:
    return re.sub(r"Record\(.*?\)+|Resume\(.*?\)+", "", text).replace(", disk , ", "").replace(", disk ", "")


def _fault(fault: Fault) -> str:
    names = {"n": fault.node, "p": "B" if fault.node == "A" else "A", "a": fault.arg}
    if fault.kind == "cut":
        what, way = fault.arg.split(":")
        text = f"cut: {CUTS[what]}, {WAYS[way].format(**names)}"
    elif fault.kind == "ping" and fault.arg:
        text = "the ping node is gone"
    else:
        text = BEGINS[fault.kind].format(**names)
    return text


def _record(record: Record) -> str:
    flags = [
        name.replace("_", " ") for name in ("active", "solo", "in_sync", "stood_down", "tentative") if getattr(record, name)
    ]
    return f"epoch {record.epoch}{': ' if flags else ''}{', '.join(flags)}"


def _want(want: Want) -> str:
    names = ", every commit waiting for the passive" if want.names is Names.ENFORCED else ""
    follow = f", following {want.follow}" if want.follow.number else ""
    return f"Postgres {want.postgres}{names}{follow}"


def tell(scenario: Scenario) -> str:
    """One scenario from the first fault to the end."""
    world = Told(scenario)
    world.run()
    checks = world.checks
    outage = max((length for _, length in checks.outages), default=0.0)
    failures = "; ".join(checks.failures) or "nothing acknowledged is lost, nobody acknowledges beside another"
    end = f"{failures}; {checks.activations} takeovers; {outage:.1f} s without service at the most"
    return "\n".join([scenario.name, "", *world.lines, "", end, ""])


def transcripts() -> dict[str, str]:
    """By file name: H1.txt to H17.txt, each with all schedules of that hole."""
    told: dict[str, list[str]] = {}
    for scenario in HOLES:
        hole = scenario.name.split()[0]
        if re.fullmatch(r"H\d+", hole):
            told.setdefault(f"{hole}.txt", []).append(tell(scenario))
    return {name: "\n\n".join(texts) for name, texts in told.items()}


def write() -> list[str]:
    """Write the files anew; returns the names of those that changed."""
    FOLDER.mkdir(exist_ok=True)
    changed = []
    for name, text in transcripts().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
    return changed
