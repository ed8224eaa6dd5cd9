"""From a failing schedule to a small one that fails in the same way.

Promise: the result fails with the same kind of check under the same seed. Faults are taken out one at a time, then
shortened, then simplified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .faults import Schedule

Fails = Callable[[Schedule], bool]


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    for i in range(len(schedule)):
        yield schedule[:i] + schedule[i + 1 :]
    for i, fault in enumerate(schedule):
        for length in (0.0, round(fault.length / 2, 2)):
            if length < fault.length - 0.05 and not (fault.kind in ("power", "crash") and length == 0.0):
                yield (*schedule[:i], fault._replace(length=length), *schedule[i + 1 :])


def shrink(schedule: Schedule, fails: Fails, budget: int = 150) -> Schedule:
    """The smallest schedule found with ``budget`` runs at the most; ``fails`` plays one."""
    while budget > 0:
        for candidate in _smaller(schedule):
            budget -= 1
            if fails(candidate):
                schedule = candidate
                break
            if budget <= 0:
                break
        else:
            break
    return schedule
