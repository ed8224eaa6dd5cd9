"""What happened when: last acknowledged write, peer declared dead, VIP moved, promoted, first acknowledged write.

Promise: pure; from three independent sources (the ledger's record, the ARP frames that the client saw, heartbeat's history on
the new active), brought to one clock. A step that no source tells of is shown as missing, never guessed. Source: design §2
(one kernel, one CLOCK_BOOTTIME); docs/protocols.md ("heartbeat", ``history``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.arpwatch import Claim
from bench.record import Entry, Gap, Kind, acknowledgements, gaps

#: Phase that a server enters → what that means to a reader
_STEPS = {
    "detaching": "peer declared dead",
    "opening": "VIP taken",
    "promoting": "epoch on the disk",
    "active": "promoted",
}


@dataclass(frozen=True)
class Moment:
    """``at``: CLOCK_BOOTTIME, None if it isn't known to have happened."""

    at: float | None
    what: str
    why: str = ""


@dataclass(frozen=True)
class Outage:
    """What one client noticed. ``others``: further pauses in the same window, milliseconds."""

    ms: float
    begin: float
    end: float | None
    others: tuple[float, ...] = ()


def outage(entries: Sequence[Entry], since: float, until: float) -> Outage:
    """The longest pause of acknowledgements that reaches into the window: last one before it, first one after it.

    No pause at all gives the longest ordinary distance between two; if none came after the window, the pause is infinite: read
    the entries when one has come.
    """
    acks = acknowledgements(entries)
    found = gaps(acks, since, until, 0.0)
    if not found:
        return Outage(float("inf"), since, None)
    longest: Gap = found[0]
    others = tuple(round(gap.ms, 1) for gap in found if gap is not longest and gap.end is not None and gap.ms > 50)
    return Outage(longest.ms, longest.begin, longest.end, others)


@dataclass(frozen=True)
class Sources:
    """``changes``: heartbeat's history on the new active; ``ahead``: wall clock minus CLOCK_BOOTTIME."""

    ledger: Sequence[Entry]
    claims: Sequence[Claim]
    changes: Sequence[Mapping[str, Any]]
    ahead: float
    new_mac: str


def moments(sources: Sources, event_at: float, event: str, pause: Outage) -> list[Moment]:
    """In order of time; what is missing comes last."""
    found = [Moment(event_at, event), Moment(pause.begin, "last acknowledged write"), *_changes(sources, event_at)]
    moved = next((claim for claim in sources.claims if claim.at >= event_at and claim.mac == sources.new_mac), None)
    why = f"the client's network hears {sources.new_mac}" if moved else "no ARP frame told the client"
    found.append(Moment(moved.at if moved else None, "VIP moved", why))
    found.append(Moment(_connected(sources.ledger, pause), "client connected"))
    found.append(Moment(pause.end, "first acknowledged write"))
    known = sorted((one for one in found if one.at is not None), key=lambda one: one.at or 0.0)
    return known + [one for one in found if one.at is None]


def _changes(sources: Sources, event_at: float) -> list[Moment]:
    found: dict[str, Moment] = {}
    for change in sources.changes:
        # History has whole milliseconds: one of the event's own may seem to be from before it.
        at = float(change.get("time", 0.0)) - sources.ahead
        step = _STEPS.get(str(change.get("after")))
        if step is not None and at >= event_at - 0.002 and step not in found:
            if step == "peer declared dead" and "stood down" in str(change.get("because", "")):
                found[step] = Moment(at, "peer stood down", str(change.get("because", "")))
            else:
                found[step] = Moment(at, step, str(change.get("because", "")))
    missing = [Moment(None, step) for step in ("peer declared dead", "promoted") if step not in found]
    return [*found.values(), *missing]


def _connected(ledger: Sequence[Entry], pause: Outage) -> float | None:
    """The connection over which the first acknowledgement came."""
    if pause.end is None:
        return None
    times = [entry.at for entry in ledger if entry.kind is Kind.CONNECTED and pause.begin <= entry.at <= pause.end]
    return times[-1] if times else None
