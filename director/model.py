"""The vocabulary of a virtual router: what is heard, what happens, what is to be done. Pure values.

Times are seconds of CLOCK_BOOTTIME, handed in as ``now``. Source: RFC 3768 (version 2), RFC 5798 and 9568 (version 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address


class State(StrEnum):
    INITIALIZE = "init"
    BACKUP = "backup"
    MASTER = "master"
    #: priority 0: listens only
    SCANNING = "scanning"
    #: can't be master for the time being: no link, or what it tracks failed
    FAULT = "fault"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Instance:
    """One virtual router as this node is configured to take part in it; of one address family."""

    vrid: int
    version: int
    #: 0: scanning only; 255: owner of the addresses
    priority: int
    #: seconds between two advertisements
    advert: float
    addresses: tuple[str, ...]
    #: the address that this node's advertisements come from
    own: str
    preempt: bool = True
    preempt_delay: float = 0.0
    password: str = ""

    @property
    def family(self) -> int:
        return 6 if ":" in self.addresses[0] else 4

    @property
    def name(self) -> str:
        return str(self.vrid) if self.family == 4 else f"{self.vrid}/IPv6"

    def __repr__(self) -> str:
        return f"Instance({self.name}, priority {self.priority}, {self.advert:g} s)"  # no password


@dataclass(frozen=True)
class Advertisement:
    """One VRRP message, decoded and whole. ``interval`` in seconds; ``password`` is None without authentication; ``strange``
    names an authentication that isn't understood here ("": none).
    """

    source: str
    version: int
    vrid: int
    priority: int
    interval: float
    addresses: tuple[str, ...]
    password: str | None = None
    strange: str = ""

    def __repr__(self) -> str:
        return f"Advertisement({self.source}, vrid {self.vrid}, version {self.version}, priority {self.priority})"


def rank(address: str) -> bytes:
    """What decides between equal priorities: the higher address (RFC 3768 §6.4.3)."""
    return ip_address(address.partition("%")[0]).packed


# --- events


@dataclass(frozen=True)
class Start:
    """The process runs and its sockets are open."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Heard:
    advert: Advertisement


@dataclass(frozen=True)
class Link:
    """The router's interface has its link, or not (any more); ``because`` in words."""

    up: bool
    because: str = ""


@dataclass(frozen=True)
class Weighed:
    """What is tracked lowers the priority by ``lowered``; ``barred`` (a reason) keeps this node from being master."""

    lowered: int = 0
    barred: str = ""


@dataclass(frozen=True)
class Designated:
    """The master has named this node as its successor, or another one."""

    successor: bool


@dataclass(frozen=True)
class Configured:
    """The same virtual router, configured otherwise."""

    instance: Instance


@dataclass(frozen=True)
class Leave:
    """A clean stop."""

    because: str


Event = Start | Tick | Heard | Link | Weighed | Designated | Configured | Leave


# --- effects, carried out in their order


@dataclass(frozen=True)
class TakeAddresses:
    """Hold exactly the instance's addresses, from now on."""


@dataclass(frozen=True)
class DropAddresses:
    pass


@dataclass(frozen=True)
class Announce:
    """Gratuitous ARP, unsolicited neighbour advertisements: now, and repeated."""


@dataclass(frozen=True)
class SendAdvert:
    priority: int


@dataclass(frozen=True)
class Became:
    state: State
    previous: State
    because: str


@dataclass(frozen=True)
class Say:
    """For the log."""

    text: str


@dataclass(frozen=True)
class Alarm:
    """Logged when its text changes, kept in the status; "" clears it."""

    name: str
    text: str


@dataclass(frozen=True)
class Drop:
    """The message was not for this router's ears; counted under the reason."""

    reason: str


Effect = TakeAddresses | DropAddresses | Announce | SendAdvert | Became | Say | Alarm | Drop
