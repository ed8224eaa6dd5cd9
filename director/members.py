"""What a member says of itself, and how that is written. Pure.

Promise: ``from_json`` returns a complete, plausible Member or raises ValueError; nothing of a message is used unread. Source:
docs/protocols.md, "Protocol 253"; design §8 ("The heartbeat carries MAC, load, connections, capacity, port health, role").
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
#: what one message may list
_MOST, _LONGEST = 256, 128

#: (term, serial) of buckets: a director's term of office, and its tables in it
Serial = tuple[int, int]


@dataclass(frozen=True)
class Member:
    """``places``: VIP → (MAC, address of its family) on the VIP's network. ``ports``: redirect → whether its port answers."""

    mac: str
    name: str
    ip: str
    ip6: str = "::"
    version: str = ""
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: VRRP's, in force; 0: never a director
    priority: int = 0
    capacity: float = 1.0
    #: of its share, taken while it is the director
    own_share: float = 1.0
    cpu: float = 0.0
    connections: int = 0
    ports: Mapping[str, bool] = field(default_factory=dict)
    draining: bool = False
    #: what is wrong with its rules in the kernel, or why nothing gets there; "": nothing
    plane: str = ""
    #: its daemon ends, its rules stay for the connections that it has
    leaving: bool = False
    #: all its redirects fail with one of them
    whole_node: bool = False
    #: redirect → the newest buckets that it holds
    loaded: Mapping[str, Serial] = field(default_factory=dict)

    def serves(self, key: str) -> bool:
        """Whether packets of this redirect may be sent there: also if it drains, or is being stopped and its rules stay."""
        if self.plane or key not in self.ports:
            return False
        return all(self.ports.values()) if self.whole_node else self.ports[key]

    def as_json(self) -> dict[str, Any]:
        return {
            "mac": self.mac,
            "name": self.name,
            "ip": self.ip,
            "ip6": self.ip6,
            "version": self.version,
            "places": {vip: list(place) for vip, place in self.places.items()},
            "priority": self.priority,
            "capacity": self.capacity,
            "own_share": self.own_share,
            "cpu": round(self.cpu, 3),
            "connections": self.connections,
            "ports": dict(self.ports),
            "draining": self.draining,
            "plane": self.plane,
            "leaving": self.leaving,
            "whole_node": self.whole_node,
            "loaded": {key: list(serial) for key, serial in self.loaded.items()},
        }


def from_json(raw: object) -> Member:
    """ValueError for anything that no member would say."""
    said = _object(raw)
    return Member(
        mac=mac(said.get("mac")),
        name=text(said.get("name")),
        ip=_address(said.get("ip"), 4),
        ip6=_address(said.get("ip6"), 6),
        version=text(said.get("version")),
        places={_address(vip): _place(vip, place) for vip, place in _object(said.get("places")).items()},
        priority=whole(said.get("priority"), 255),
        capacity=_number(said.get("capacity"), 0.001, 1e6),
        own_share=_number(said.get("own_share"), 0.0, 1.0),
        cpu=round(_number(said.get("cpu"), 0.0, 1.0), 3),
        connections=whole(said.get("connections"), 10**9),
        ports={text(key): _flag(value) for key, value in _object(said.get("ports")).items()},
        draining=_flag(said.get("draining")),
        plane=text(said.get("plane")),
        leaving=_flag(said.get("leaving")),
        whole_node=_flag(said.get("whole_node")),
        loaded={text(key): serial(value) for key, value in _object(said.get("loaded")).items()},
    )


def mac(value: object) -> str:
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise ValueError(f"{value!r} is no MAC")
    return value


def text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        raise ValueError(f"{value!r:.50} is no line of text")
    return value


def whole(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r:.50} is no number from 0 to {most}")
    return value


def serial(value: object) -> Serial:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r:.50} is no serial")
    return whole(value[0], 2**53), whole(value[1], 2**53)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise ValueError(f"{value!r:.50} is no object of up to {_MOST} things")
    return value


def _place(vip: str, value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r:.50} is no place")
    return mac(value[0]), _address(value[1], 6 if ":" in vip else 4) if value[1] else ""


def _number(value: object, least: float, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{value!r:.50} is no number from {least:g} to {most:g}")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.50} is neither true nor false")
    return value


def _address(value: object, family: int | None = None) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.50} is no address")
    address = ipaddress.ip_address(value)
    if family not in (None, address.version) or "%" in value:
        raise ValueError(f"{value!r:.50} is of the wrong family")
    return str(address)
