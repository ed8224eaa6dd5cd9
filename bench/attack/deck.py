"""What an attack is made of: phase, moment, fault, victim; and all of them, shuffled. Pure.

Promise: a name says everything, so that an attack can be tried again; a seed and filters give one order, each attack once.
*Active* and *passive* are who is it when the phase begins. Source: issue "Postgres: no acknowledged write lost …".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

SIDES = ("active", "passive")
#: how long something is stopped (0: killed), and how long a link or a disk is out of order (seconds)
STOPPED, OUT = (0.0, 0.5, 2.0, 8.0), (0.5, 2.0, 6.0)
_BOTH = (
    "heartbeat", "heartbeat-write", "ha_manager", "keeper", "manager", "files", "logrelay", "sshd",
    "postmaster", "checkpointer", "walwriter", "backend",
)  # fmt: skip
#: process → the sides on which it is to be expected
VICTIMS: dict[str, tuple[str, ...]] = dict.fromkeys(_BOTH, SIDES)
VICTIMS |= {"walsender": ("active",), "walreceiver": ("passive",), "startup": ("passive",)}
#: process that is there for a moment only → phases, and sides, in which it is
BRIEF: dict[str, dict[str, tuple[str, ...]]] = {
    "pg_rewind": {"rejoin": ("active",), "return": ("active",)},
    "crash-recovery": {"rejoin": ("active",), "return": ("active",)},
    "pg_basebackup": {"reseed": ("passive",), "wiped": ("passive",), "rejoin": ("active",)},
    "rsync": {"failover": SIDES, "files": SIDES},
    "sshd-session": {"failover": ("passive",), "files": ("passive",)},
    "command": {
        "failover": ("active",), "files": ("active",), "reseed": ("passive",),
        "stop active": ("active",), "stop passive": ("passive",),
    },
}  # fmt: skip
_APPEARS = ("it appears", "it appears + 0.1 s", "it appears + 0.5 s")
_TAKEOVER = ("passive step promoted", "passive step place", "passive step policy_start", "passive step checkpoint")
_COPY = ("passive says copying the database", "passive says copying with pg_basebackup", "passive says its way to the disk")
_OFF_AND_ON = ("+ 0.3 s", "+ 1 s", "+ 2 s", "+ 4 s", "+ 7 s")
#: phase → moments in it
PHASES = {
    "power cut": ("+ 0.2 s", "passive says -> detaching", "passive says -> promoting", *_TAKEOVER),
    "failover": (
        "+ 0 s", "active says -> preparing", "active says -> standing-down", "passive says -> opening", *_TAKEOVER,
        "active step policy_stop", "active step standby",
    ),
    "return": ("+ 1 s", "+ 2 s", "active says Postgres is starting", "active step standby"),
    "rejoin": (
        "+ 0 s", "active says copying the database", "active says was rewound", "active step standby",
    ),
    "reseed": ("+ 0 s", *_COPY),
    "wiped": ("+ 1 s", *_COPY),
    "stop active": _OFF_AND_ON,
    "stop passive": _OFF_AND_ON,
    "asynchronous": ("+ 0 s", "active says asynchronous from now on", "+ 2 s"),
    "release": ("+ 0 s", "+ 0.5 s"),
    "files": ("+ 0.3 s", "+ 1 s"),
}  # fmt: skip
#: phases that take a server's memory, and the disks that are mounted in it
POWER = ("power cut", "return")
#: phases whose moments begin when the passive has taken over already
TAKEN_OVER = ("return", "rejoin")
LINKS = (*(f"{side}:{card}" for side in SIDES for card in ("eth0", "eth1")), "between", "between:lan", "between:interconnect")
WAYS = ("cut", "cut out", "cut in", "lose 30 %")
DISKS = {"database": "/var/lib/postgresql", "state": "/var/lib/ha_manager", "record": "/var/lib/heartbeat"}


@dataclass(frozen=True)
class Attack:
    """``seconds`` 0: for good (a kill)."""

    phase: str
    moment: str
    way: str
    victim: str
    side: str
    seconds: float

    def __str__(self) -> str:
        words = (self.way, self.victim, f"of {self.side}" if self.side else "", f"{self.seconds:g} s" if self.seconds else "")
        return f"{self.phase} | {self.moment} | {' '.join(filter(None, words))}"


def deck(seed: int, kinds: tuple[str, ...], only: tuple[str, ...] = (), solo: float = 3.5) -> list[Attack]:
    """``only``: texts or patterns that a name must have, all. ``solo``: seconds after which an active goes on alone; with
    nothing passing between the two for longer than that both may acknowledge (concepts.md), so that isn't tried.
    """
    makers = {"steps": _steps, "links": _links, "disks": _disks}
    found = [attack for phase in PHASES for kind in kinds for attack in makers[kind](phase)]
    found = [
        one
        for one in found
        if all(text in str(one) or re.search(text, str(one)) for text in only) and not ("disks" in kinds and one.phase in POWER)
    ]
    found = [one for one in found if one.victim != "between" or "lose" in one.way or one.seconds + 1.0 < solo]
    random.Random(seed).shuffle(found)
    return found


def _steps(phase: str) -> Iterator[Attack]:
    for victim in (*VICTIMS, *BRIEF):
        sides = VICTIMS[victim] if victim in VICTIMS else BRIEF[victim].get(phase, ())
        if phase in TAKEN_OVER and victim in VICTIMS and len(sides) == 1:
            sides = tuple(side for side in SIDES if side not in sides)
        for side, moment, seconds in product(sides, PHASES[phase] if victim in VICTIMS else _APPEARS, STOPPED):
            if (phase, side) != ("power cut", "active"):
                yield Attack(phase, moment, "stop" if seconds else "kill", victim, side, seconds)


def _links(phase: str) -> Iterator[Attack]:
    for moment, way, link, seconds in product(PHASES[phase], WAYS, LINKS, OUT):
        yield Attack(phase, moment, way, link, "", seconds)


def _disks(phase: str) -> Iterator[Attack]:
    for moment, disk, side, seconds in product(PHASES[phase], DISKS, SIDES, OUT[1:]):
        yield Attack(phase, moment, "fill", disk, side, seconds)
