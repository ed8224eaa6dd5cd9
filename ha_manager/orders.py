"""What heartbeat wants of ha_manager and what ha_manager reports back, as they travel on the control socket.

Promise: a line of the socket becomes a frozen value or a ``ValueError`` that says what is wrong with it; nothing is guessed.
Source: docs/protocols.md ("heartbeat"); the same fields as heartbeat's own vocabulary, which a test compares, because the two
packages don't import each other. Times are seconds, log positions byte offsets, -1 is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from math import inf, isfinite
from typing import NamedTuple


class Role(StrEnum):
    ACTIVE = "active"
    PASSIVE = "passive"


class Phase(StrEnum):
    WAITING = "waiting"
    RESUMING = "resuming"
    PASSIVE = "passive"
    DETACHING = "detaching"
    OPENING = "opening"
    PROMOTING = "promoting"
    ACTIVE = "active"
    PREPARING = "preparing"
    STANDING_DOWN = "standing-down"
    LEFT = "left"


#: The role that a phase means for markers, hooks and the policy server; None: not known yet, everything stays as it is.
#: Opening doesn't count as active: an epoch that was announced and never promoted is forgotten (design §4, rule 2).
ROLE_OF: Mapping[Phase, Role | None] = {
    Phase.WAITING: None,
    Phase.RESUMING: None,
    Phase.PASSIVE: Role.PASSIVE,
    Phase.DETACHING: Role.PASSIVE,
    Phase.OPENING: None,
    Phase.PROMOTING: Role.ACTIVE,
    Phase.ACTIVE: Role.ACTIVE,
    Phase.PREPARING: Role.ACTIVE,
    Phase.STANDING_DOWN: Role.PASSIVE,
    Phase.LEFT: None,
}


class Epoch(NamedTuple):
    number: int = 0
    node: str = ""

    def __str__(self) -> str:
        return f"{self.number}/{self.node or '-'}"


class Postgres(StrEnum):
    KEEP = "keep"
    STOPPED = "stopped"
    STANDBY = "standby"
    DETACHED = "detached"
    PRIMARY = "primary"
    UNKNOWN = "unknown"


class Names(StrEnum):
    RELAXED = "relaxed"
    ENFORCED = "enforced"


class Stop(StrEnum):
    FAST = "fast"
    IMMEDIATE = "immediate"


@dataclass(frozen=True)
class Want:
    """What is to be made true and kept true. Levels, not edges: the newest one replaces all before it."""

    serial: int
    phase: Phase
    epoch: Epoch
    postgres: Postgres
    names: Names = Names.RELAXED
    stop: Stop = Stop.IMMEDIATE
    prepare: bool = False
    follow: Epoch = Epoch()
    ask_stand_down: str = ""
    yielded: Epoch = Epoch()
    because: str = ""


@dataclass(frozen=True)
class Facts:
    """What was observed. ``serial``: the newest ``Want`` that had been carried out in full before this was looked at."""

    serial: int = 0
    postgres: Postgres = Postgres.UNKNOWN
    healthy: bool = False
    because: str = "ha_manager has not reported yet"
    data: str = "unknown"
    timeline: int = 0
    lsn: int = -1
    beyond: int = 0
    following: Epoch = Epoch()
    caught_up: bool = False
    proven: int = -1
    names: Names = Names.RELAXED
    stalled: float = 0.0
    sign_age: float = inf
    sign: str = ""
    peer_stood_down: Epoch = Epoch()
    peer_epoch: Epoch = Epoch()
    prepared: bool = False
    shutdown_lsn: int = -1
    behind: int = -1


_MAY_BE_ENDLESS = tuple(each.name for each in fields(Facts) if isinstance(each.default, float))


def epoch_from(value: object) -> Epoch:
    """``[number, node]`` as an Epoch; anything else is a ValueError."""
    match value:
        case [int(number), str(node)] if not isinstance(number, bool):
            return Epoch(number, node)
    raise ValueError(f"an epoch is [number, node], not {value!r}")


def want_from(line: Mapping[str, object]) -> Want:
    """The ``want`` in a pushed line. Fields may stand at its top level or under ``want``; unknown ones are ignored."""
    inner = line.get("want", line)
    if not isinstance(inner, Mapping):
        raise ValueError(f"want is {inner!r}, not an object")
    try:
        return Want(
            serial=int(inner["serial"]),
            phase=Phase(inner["phase"]),
            epoch=epoch_from(inner["epoch"]),
            postgres=Postgres(inner["postgres"]),
            names=Names(inner.get("names", Names.RELAXED)),
            stop=Stop(inner.get("stop", Stop.IMMEDIATE)),
            prepare=bool(inner.get("prepare", False)),
            follow=epoch_from(inner.get("follow", [0, ""])),
            ask_stand_down=str(inner.get("ask_stand_down", "")),
            yielded=epoch_from(inner.get("yielded", [0, ""])),
            because=str(inner.get("because", "")),
        )
    except (KeyError, TypeError) as wrong:
        raise ValueError(f"want lacks {wrong}") from wrong


def facts_to(facts: Facts) -> dict[str, object]:
    """``facts`` as ``json`` writes it: epochs as lists, enumerations as words. JSON knows no infinity: what never happened is
    told as null.
    """
    endless = {name: None for name in _MAY_BE_ENDLESS if not isfinite(getattr(facts, name))}
    return vars(facts) | endless
