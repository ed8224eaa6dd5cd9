"""What ha.cf says about the links: its ``ucast``, ``bcast`` and ``mcast`` lines, and which of them make one link.

Promise: plain values. A link is a device and a family of addresses (and a port, which only mcast names itself): all lines for
it share one socket, and whether the peer is heard on it is one question. It has the device's name, as in Linux-HA; the second
one on a device is told apart by its family. Source: facts/linux-ha-heartbeat.md, "ha.cf".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Medium:
    """One ucast, bcast or mcast directive (a bcast line with two devices is two). ``address`` is "" for bcast."""

    kind: str
    device: str
    address: str
    port: int
    line: int = field(default=0, compare=False)
    #: mcast: how many routers may pass it on, and whether this server hears itself
    hops: int = 1
    loop: bool = False

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


@dataclass(frozen=True)
class LinkLine:
    """One link: where it is, and every medium on it."""

    name: str
    device: str
    family: int
    port: int
    media: tuple[Medium, ...]

    @property
    def peers(self) -> frozenset[str]:
        """The peer's addresses as far as ha.cf names them."""
        return frozenset(medium.address for medium in self.media if medium.kind == "ucast")

    @property
    def open(self) -> bool:
        """ha.cf doesn't say who speaks there."""
        return any(medium.kind != "ucast" for medium in self.media)


def links_of(media: Iterable[Medium]) -> tuple[LinkLine, ...]:
    """The links that the lines make, in the order in which they are first named."""
    grouped: dict[tuple[str, int, int], list[Medium]] = {}
    for medium in media:
        grouped.setdefault((medium.device, medium.family, medium.port), []).append(medium)
    links: dict[str, LinkLine] = {}
    for (device, family, port), lines in grouped.items():
        names = (device, f"{device}/ipv{family}", f"{device}/ipv{family}/{port}")
        name = next(name for name in names if name not in links)
        links[name] = LinkLine(name, device, family, port, tuple(lines))
    return tuple(links.values())
