"""Does what was carried out still hold, and does one want still serve another? Pure.

Promise: a deviation is only what was seen of a Postgres that is neither starting nor stopping, against a want that had been
carried out in full. Source: docs/protocols.md (wants: levels, not edges).
"""

from __future__ import annotations

from dataclasses import replace

from ha_manager.observation import Observation
from ha_manager.orders import Epoch, Names, Postgres, Want
from ha_manager.outlook import Carried, observed_state


def alike(done: Want, want: Want) -> bool:
    same = {"serial": 0, "phase": want.phase, "because": "", "ask_stand_down": "", "yielded": Epoch()}
    return replace(done, **same) == replace(want, **same)  # type: ignore[arg-type]


def same_copy(newest: Want, running: Want) -> bool:
    """A copy that began for ``running`` still serves ``newest``: the same server is to be followed, maybe in a later epoch."""
    if newest.postgres is not Postgres.STANDBY:
        return False
    return newest.follow == running.follow or newest.follow == Epoch() or newest.follow.node == running.follow.node


def deviates(want: Want, carried: Carried, seen: Observation) -> bool:
    """What was carried out no longer holds, or (a standby that doesn't stream) doesn't hold yet."""
    if carried.serial != want.serial or seen.state in ("starting", "stopping", "unknown"):
        return False
    state = observed_state(seen, carried)
    match want.postgres:
        case Postgres.PRIMARY:
            relaxed = want.names is Names.RELAXED and seen.answers and bool(seen.names)
            return seen.state == "stopped" or state is Postgres.STANDBY or (state is Postgres.PRIMARY and relaxed)
        case Postgres.STANDBY:
            if seen.state == "stopped":
                return carried.data == "ready" or want.follow != Epoch()
            return state is Postgres.PRIMARY or (
                want.follow != Epoch() and seen.answers and seen.following != want.follow.number
            )
        case Postgres.DETACHED:
            return seen.state == "stopped" or state is Postgres.STANDBY
        case Postgres.STOPPED:
            return seen.state == "running"
    return False
