"""The events that are measured: power cut of the active, rejoin, planned failover, power cut and clean stop of the passive.

Promise: each begins with a pair in sync and both clients being acknowledged, ends when service is back, and compares everything
acknowledged with what the database holds. Client-visible outage: from the last acknowledgement before to the first after.
Source: issue "A pair of policy servers …" ("Held to").
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

from bench import timeline
from bench.pair import Pair, Seen, other
from bench.record import Verdict, acknowledgements, complaints
from bench.timeline import Moment, Outage, Sources
from bench.writers import PLAIN, QUICK, Writers, local_name
from runtime.clock import boottime

#: What a power cut may take until service is back, and a boot until the pair is in sync, before it counts as failed (seconds)
_SERVICE, _REJOIN = 40.0, 90.0
#: How often a client on the server that is cut off writes (seconds), as in facts/postgres.md
_BESIDE = 0.02
#: acknowledged writes that it has before the cut
_BEFORE = 40


@dataclass
class Result:
    """One event. ``seconds``: from it until the pair was in sync again, of a rejoin and of a switchover."""

    kind: str
    title: str
    node: str
    moments: list[Moment] = field(default_factory=list)
    at: float = 0.0
    quick: Outage | None = None
    plain: Outage | None = None
    seconds: float = 0.0
    verdicts: list[Verdict] = field(default_factory=list)
    #: errors that clients got besides dropped connections
    complaints: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(len(verdict.lost) for verdict in self.verdicts)

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts) and not self.complaints


class Measured:
    """Events are measured by what the clients ``writers`` wrote down."""

    def __init__(self, writers: Writers) -> None:
        self.writers = writers
        self.results: list[Result] = []

    def _outages(self, result: Result) -> Outage:
        """What both clients noticed since the event. Each is acknowledged once more first, so that no pause is cut short."""
        until = boottime()
        for name in self.writers.names:
            self.writers.acknowledged_since(until, name, _SERVICE)
        if PLAIN in self.writers.names:
            result.plain = timeline.outage(self.writers.entries(PLAIN), result.at, until)
        result.quick = timeline.outage(self.writers.entries(QUICK), result.at, until)
        return result.quick

    def _finish(self, result: Result) -> Result:
        result.complaints = [text for name in self.writers.names for text in complaints(self.writers.entries(name), result.at)]
        result.verdicts = self.writers.verdicts()
        self.results.append(result)
        return result


class Drill(Measured):
    def __init__(self, pair: Pair, writers: Writers, local: bool = False) -> None:
        super().__init__(writers)
        self.pair = pair
        self._local = local

    # --- the active ---------------------------------------------------------------------------------------------------------

    def crash(self) -> Result:
        """Cut the power of the active; wait until both clients are acknowledged by the other one."""
        node = self._ready()
        heir = other(node)
        self.pair.say(f"Cutting the power of {node}, the active: its links go dead, then everything on it")
        at = _boottime_of(self.pair.lab.power_off(node))
        self.pair.until(lambda seen: heir in seen.active, _SERVICE, f"{heir} to take over")
        return self._measure(Result("crash", f"power cut of {node}, the active", node, at=at), heir, f"power of {node} cut")

    def rejoin(self, node: str) -> Result:
        """Power on; wait until it is in sync as the passive. The clients go on writing."""
        self.pair.say(f"Powering {node} on again; it must come back as the passive, with the other's data")
        at = _boottime_of(self.pair.lab.power_on(node, wait=False))
        self.pair.settle(_REJOIN, other(node))
        back = boottime()
        if self._local:
            self.writers.start_local(node)
        self.writers.steady()
        result = Result("rejoin", f"return of {node}, as the passive", node, at=at, seconds=back - at)
        self._outages(result)
        return self._finish(result)

    def switchover(self) -> Result:
        """``ha failover`` on the active; wait until the roles have changed and the pair is in sync again."""
        node = self._ready()
        heir = other(node)
        self.pair.say(f"ha failover on {node}: it hands over to {heir}, in an order that loses nothing")
        at = boottime()
        self.pair.ha(node, "failover")
        self.pair.until(lambda seen: heir in seen.active, _SERVICE, f"{heir} to take over")
        self.pair.settle(_REJOIN, heir)
        result = Result("switchover", f"planned failover: ha failover on {node}", node, at=at, seconds=boottime() - at)
        return self._measure(result, heir, "`ha failover` called")

    def link_cut(self) -> Result:
        """Cut every link of the active, with a client on it that goes on writing; then heal, and let it rejoin."""
        node = self._ready()
        heir = other(node)
        cables = [f"{node}:{card.name}" for card in self.pair.node(node).machine.interfaces]
        begun = boottime()
        self.writers.start_local(node, _BESIDE)
        self.writers.wait(local_name(node), lambda found: len(acknowledgements(found, begun)) >= _BEFORE, _SERVICE)
        self.pair.say(f"Cutting every link of {node}, the active, while a client on {node} itself goes on writing")
        at = boottime()
        for cable in cables:
            self.pair.lab.cut(cable)
        try:
            self.pair.until(lambda seen: heir in seen.active, _SERVICE, f"{heir} to take over")
            result = Result("link_cut", f"every link of {node}, the active, cut", node, at=at)
            self.writers.steady(_SERVICE)
        finally:
            self.pair.lab.heal()
        self.pair.settle(_REJOIN, heir)
        self.writers.stop_local(node)
        return self._measure(result, heir, f"links of {node} cut")

    # --- the passive --------------------------------------------------------------------------------------------------------

    def passive_cut(self) -> Result:
        """Cut the power of the passive: writes pause until the active goes on alone."""
        active = self._ready()
        node = other(active)
        self.pair.say(f"Cutting the power of {node}, the passive: writes wait until {active} may go on alone")
        at = _boottime_of(self.pair.lab.power_off(node))
        return self._pause(Result("passive_cut", f"power cut of {node}, the passive", node, at=at), active)

    def passive_stop(self) -> Result:
        """Shut the passive down cleanly: it releases the active first."""
        active = self._ready()
        node = other(active)
        self.pair.say(f"Shutting {node} down, the passive: it releases {active} before it goes")
        at = boottime()
        self.pair.lab.shutdown(node)
        return self._pause(Result("passive_stop", f"clean stop of {node}, the passive", node, at=at), active)

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _ready(self) -> str:
        self.pair.settle(_REJOIN)
        self.writers.steady()
        return self.pair.active()

    def _pause(self, result: Result, active: str) -> Result:
        def alone(seen: Seen) -> bool:
            return seen.active == [active] and bool(seen.status[active].get("solo"))

        self.pair.until(alone, _SERVICE, f"{active} to go on alone")
        self.writers.steady(_SERVICE)
        self._outages(result)
        return self._finish(result)

    def _measure(self, result: Result, heir: str, event: str) -> Result:
        since = boottime()
        for name in self.writers.names:
            self.writers.acknowledged_since(since, name, _SERVICE)
        self.writers.steady(_SERVICE)
        pause = self._outages(result)
        sources = Sources(
            self.writers.entries(QUICK),
            self.writers.claims(),
            self.pair.history(heir),
            ahead=time.time() - boottime(),
            new_mac=self.pair.node(heir).machine.interfaces[0].mac,
        )
        result.moments = timeline.moments(sources, result.at, event, pause)
        return self._finish(result)


def _boottime_of(monotonic: float) -> float:
    return monotonic + boottime() - time.monotonic()


# --- figures -----------------------------------------------------------------------------------------------------------------

#: Kind of event → name of its list of milliseconds
_LISTS = {
    "crash": "outage_ms", "switchover": "outage_ms", "link_cut": "outage_ms",
    "passive_cut": "pause_ms", "passive_stop": "pause_ms",
}  # fmt: skip


def figures(results: list[Result]) -> dict[str, dict[str, object]]:
    """What --json writes. ``lost``: acknowledged writes that were missing after any event of the kind; null: never resumed."""
    found: dict[str, dict[str, object]] = {}
    for kind, name in _LISTS.items():
        mine = [result for result in results if result.kind == kind]
        if mine or kind in ("crash", "switchover"):
            found[kind] = {
                name: [_ms(result.quick) for result in mine],
                f"plain_{name}": [_ms(result.plain) for result in mine],
                "lost": sum(result.lost for result in mine),
            }
    rejoins = [result for result in results if result.kind == "rejoin"]
    found["rejoin"] = {
        "seconds": [round(result.seconds, 2) for result in rejoins],
        "pause_ms": [_ms(result.quick) for result in rejoins],
        "lost": sum(result.lost for result in rejoins),
    }
    return found


def _ms(outage: Outage | None) -> float | None:
    return None if outage is None or outage.end is None else round(outage.ms, 1)


def spread(values: list[float]) -> str:
    """median (least to most)"""
    if not values:
        return "-"
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else f"{values[0]:.0f}"
