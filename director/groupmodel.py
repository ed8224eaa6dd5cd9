"""The vocabulary of a proxy group: what happens to a member, what it is to do, whom it knows. Pure values.

Times are seconds of CLOCK_BOOTTIME, handed in as ``now``. Source: design §8; docs/protocols.md, "Protocol 253".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from director.discovery import Kind, Message
from director.members import Member


@dataclass(frozen=True)
class Heard:
    """A message that counts. ``fresh`` False: its sender is only to be answered."""

    message: Message
    source: str
    fresh: bool


@dataclass(frozen=True)
class Report:
    """What this node says of itself from now on."""

    me: Member


@dataclass(frozen=True)
class Role:
    """This node has the VIPs, or has them no more."""

    director: bool


@dataclass(frozen=True)
class Wish:
    """The operator wants a member (by MAC) drained, or back."""

    mac: str
    drain: bool
    number: int


@dataclass(frozen=True)
class Leave:
    """This node's daemon ends: no new clients; ``rules`` stay for those that it has, or are removed."""

    rules: bool


@dataclass(frozen=True)
class Wire:
    """What ``Listen`` found: any frame came in since the one before, of whomever, or may have."""

    frames: bool


@dataclass(frozen=True)
class Tick: ...


Event = Heard | Report | Role | Wish | Leave | Wire | Tick


@dataclass(frozen=True)
class Send:
    """``to``: an address; "" is a broadcast. ``echo``: whose number goes with it (None: everybody's)."""

    kind: Kind
    body: Mapping[str, Any]
    to: str = ""
    echo: str | None = None


@dataclass(frozen=True)
class Apply:
    """Members or buckets have changed: the kernel is to know before what follows is sent."""


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Successor:
    """The director names this node, or doesn't any more."""

    designated: bool


@dataclass(frozen=True)
class Drain:
    """This node was asked to drain, or to come back."""

    on: bool


@dataclass(frozen=True)
class Listen:
    """All others are silent: does anything come in at all? Ask the neighbours for a sign, and answer with ``Wire`` at once.
    ``on`` False: no more.
    """

    on: bool


@dataclass(frozen=True)
class Deaf:
    """Nothing reaches this node, which directs, or something does again."""

    on: bool


Effect = Send | Apply | Say | Successor | Drain | Listen | Deaf


@dataclass
class Known:
    """A member as this node knows it."""

    member: Member
    #: when this node itself heard it; -inf: never
    heard: float
    #: its silence counts from here
    counts_from: float
    failed: bool = False
    since: float = 0.0
