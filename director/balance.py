"""What share of the clients a member is to have: its capacity, corrected by what it really carries.

Promise: with equal load per capacity, weights are the capacities; a member that is busier than the others by more than a
fifth is given less, a tenth at a time, never below a quarter of its capacity, and what it was spared comes back when it is busy
no longer. One busy client cannot make weights swing: the load of a period is judged once, after it has had time to follow
the last correction. ``corrected`` is all there is to it. Source: design §8; "takes into account resource usage and
active number of connections" (Skyhigh, Load Balancing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Seconds between two corrections
PERIOD = 10.0
#: Busier or idler than the mean by so much: nothing is done
_TOLERATED = 0.2
_STEP = 0.9
_LEAST = 0.25
#: Below this mean (of the processors), and this many connections for each unit of capacity, load says nothing
_BUSY_CPU, _BUSY_CONNECTIONS = 0.2, 50.0
#: processors that differ from the mean by no more are equally busy
_NOISE_CPU = 0.15


@dataclass(frozen=True)
class Load:
    """One member's: ``cpu`` 0.0 to 1.0, connections of redirected ports, ``capacity`` as configured (above 0)."""

    capacity: float
    cpu: float
    connections: int


def corrected(factors: Mapping[str, float], loads: Mapping[str, Load]) -> dict[str, float]:
    """The factors on capacity for the next period, from those of the last; a new member starts with 1.0."""
    busy = _busyness(loads)
    return {member: _next(factors.get(member, 1.0), busy.get(member)) for member in loads}


def _next(factor: float, busy: float | None) -> float:
    if busy is None:  # the group idles: back to the capacities
        return min(1.0, factor / _STEP)
    if busy > 1 + _TOLERATED:
        return max(_LEAST, factor * _STEP)
    if busy < 1 - _TOLERATED:
        return min(1.0, factor / _STEP)
    return factor


def _busyness(loads: Mapping[str, Load]) -> dict[str, float]:
    """Each member's load against the mean of all, 1.0 the same; empty while the group idles or has one member."""
    if len(loads) < 2:
        return {}
    cpu = {member: load.cpu for member, load in loads.items()}
    connections = {member: load.connections / load.capacity for member, load in loads.items()}
    measures = [(cpu, _BUSY_CPU, _NOISE_CPU), (connections, _BUSY_CONNECTIONS, 0.0)]
    relative = [_relative(values, noise) for values, least, noise in measures if sum(values.values()) / len(values) >= least]
    return {member: max(each[member] for each in relative) for member in loads} if relative else {}


def _relative(values: Mapping[str, float], noise: float) -> dict[str, float]:
    mean = sum(values.values()) / len(values)
    return {member: value / mean if abs(value - mean) > noise else 1.0 for member, value in values.items()}
