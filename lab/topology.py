"""Which machines a lab has and what they are plugged into: data, checked once.

Promise: a ``Topology`` that ``check`` accepts can be built; everything the lab creates is derived from it. Source: design §2.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.errors import ConfigError

#: Frames from one switch port to another; "" is any port
Flow = tuple[str, str]

_NAME = re.compile(r"[a-z][a-z0-9-]*")
#: IFNAMSIZ without its final zero
_LONGEST_INTERFACE = 15


@dataclass(frozen=True)
class Interface:
    """One network card: its name in the machine, the bridge its cable leads to, its address with prefix length."""

    name: str
    bridge: str
    address: str

    @property
    def ip(self) -> str:
        return str(ipaddress.ip_interface(self.address).ip)

    @property
    def mac(self) -> str:
        """Fixed by the address, so that a machine keeps its card through a power cycle."""
        octets = ipaddress.ip_interface(self.address).ip.packed[-4:]
        return "02:01:" + ":".join(f"{octet:02x}" for octet in octets)


@dataclass(frozen=True)
class Machine:
    """One node. ``kind``: server (installed, starts its boot services), gateway, client."""

    name: str
    kind: str
    interfaces: tuple[Interface, ...]
    gateway: str | None = None

    def port(self, interface: Interface) -> str:
        """Name of the other end of the interface's cable, in the switch."""
        return f"{self.name}.{interface.name}"


@dataclass(frozen=True)
class Topology:
    machines: tuple[Machine, ...]
    #: more lines for /etc/hosts of every machine: name -> address
    names: dict[str, str] = field(default_factory=dict)

    @property
    def bridges(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(card.bridge for _, card in self.cards()))

    def cards(self) -> Iterator[tuple[Machine, Interface]]:
        for machine in self.machines:
            for card in machine.interfaces:
                yield machine, card

    def machine(self, name: str) -> Machine:
        """Raises ConfigError with the names that exist."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise ConfigError(f"no machine {name!r} in this lab", remedy=f"it has {known}")

    def ports(self, link: str) -> tuple[str, ...]:
        """Switch ports that ``link`` names: ``NODE:INTERFACE``, ``NODE:BRIDGE`` or ``BRIDGE`` (every port of it)."""
        node, colon, card_name = link.partition(":")
        if colon:
            machine = self.machine(node)
            found = tuple(machine.port(card) for card in machine.interfaces if card_name in (card.name, card.bridge))
        else:
            found = tuple(machine.port(card) for machine, card in self.cards() if card.bridge == link)
        if not found:
            links = [f"{machine.name}:{card.name}" for machine, card in self.cards()]
            raise ConfigError(f"no link {link!r} in this lab", remedy="it has " + ", ".join([*self.bridges, *links]))
        return found

    def check(self) -> None:
        """Raises ConfigError for a name that can't be one, or that is used twice."""
        names = [machine.name for machine in self.machines]
        for name in [*names, *self.bridges]:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} can't name a machine or bridge", remedy="use lower-case letters, digits and -")
        for taken in (names, [card.address for _, card in self.cards()]):
            twice = {one for one in taken if taken.count(one) > 1}
            if twice:
                raise ConfigError(f"used twice in the topology: {', '.join(sorted(twice))}")
        for machine, card in self.cards():
            if len(machine.port(card)) > _LONGEST_INTERFACE:
                raise ConfigError(f"{machine.port(card)} is too long for an interface", remedy="shorten the machine's name")

    def flows(self, link: str, one_way: str | None = None) -> tuple[Flow, ...]:
        """What passes over ``link``: as in ``ports``, or ``NODE/NODE``, ``NODE/NODE:BRIDGE``, the paths between two machines.

        ``one_way``: "out", "in" (seen from the machine, or from the first of two), or the machine that sends.
        """
        whole, _, bridge = link.partition(":")
        first, slash, second = whole.partition("/")
        if slash:
            pairs = self._paths(first, second, bridge)
        else:
            pairs = tuple((port, "") for port in self.ports(link))
            first = whole if ":" in link else ""
        back = tuple((receiver, sender) for sender, receiver in pairs)
        if one_way is None:
            return (*pairs, *back)
        if one_way in ("out", first):
            return pairs
        if one_way == "in" or (slash and one_way == second):
            return back
        if first:
            raise ConfigError(f"{one_way!r} is not at an end of {link!r}", remedy="say in, out or a machine of the link")
        return tuple((port, "") for port in self.ports(f"{one_way}:{link}"))

    def _paths(self, one: str, other: str, bridge: str) -> tuple[Flow, ...]:
        here, there = self.machine(one), self.machine(other)
        found = tuple(
            (here.port(mine), there.port(theirs))
            for mine in here.interfaces
            for theirs in there.interfaces
            if mine.bridge == theirs.bridge and bridge in ("", mine.bridge)
        )
        if not found:
            raise ConfigError(f"{one} and {other} don't meet" + (f" on {bridge!r}" if bridge else " on any bridge"))
        return found

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Topology:
        machines = tuple(
            Machine(one["name"], one["kind"], tuple(Interface(**card) for card in one["interfaces"]), one["gateway"])
            for one in raw["machines"]
        )
        return cls(machines, dict(raw["names"]))


def _server(name: str, number: int) -> Machine:
    cards = (
        Interface("eth0", "lan", f"192.168.120.{number}/24"),
        Interface("eth1", "interconnect", f"10.120.0.{number}/24"),
    )
    return Machine(name, "server", cards, gateway="192.168.120.1")


#: Two policy servers, the gateway that is their ping node, and a client. The VIP is nobody's until a server becomes active.
PAIR = Topology(
    machines=(
        _server("vs-166", 166),
        _server("vs-28", 28),
        Machine("gateway", "gateway", (Interface("eth0", "lan", "192.168.120.1/24"),)),
        Machine("client", "client", (Interface("eth0", "lan", "192.168.120.50/24"),), gateway="192.168.120.1"),
    ),
    names={"vip": "192.168.120.187"},
)
VIP = "192.168.120.187"
