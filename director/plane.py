"""The data plane as a value: whose packets go to whom, and what of that is in the kernel's sets and maps. Pure.

Promise: ``elements`` is all that changes with the members; it says the same on every member but for its own MACs, and
``difference`` turns one into another, touching just what differs. The rules that look into it: ``ruleset``. Source:
facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from director.buckets import Table
from director.settings import Config, Redirect

NETDEV, IP, IP6 = "netdev director", "ip director", "ip6 director"
TABLES = (NETDEV, IP, IP6)
#: the set of redirects whose buckets are known here
KNOWN = "known"
SETS = ("peers_", KNOWN)


@dataclass(frozen=True)
class Place:
    """Where a member is found on the network of one VIP: its MAC there, and an address of the VIP's family ("": none)."""

    mac: str
    ip: str


@dataclass(frozen=True)
class Own:
    """This node on one interface: its MAC, and its own address of each family (none of the VIPs)."""

    mac: str
    addresses: Mapping[int, str]


@dataclass(frozen=True)
class Segment:
    """The VIPs on one interface."""

    index: int
    interface: str
    vips: Mapping[int, tuple[str, ...]]  # family → addresses


@dataclass(frozen=True)
class Service:
    """One port redirect; ``key`` is the same on all members that redirect the same ports."""

    key: str
    index: int
    redirect: Redirect

    @property
    def ports(self) -> str:
        """All ports that are balanced, as an nft set."""
        return f"{{ {', '.join([*map(str, self.redirect.ports), *self.data_ports])} }}"

    @property
    def data_ports(self) -> tuple[str, ...]:
        return (self.redirect.data_ports,) if self.redirect.data_ports else ()


@dataclass(frozen=True)
class Layout:
    """What only a change of configuration changes."""

    lbid: int
    buckets: int
    by: str
    segments: tuple[Segment, ...]
    services: tuple[Service, ...]
    own: Mapping[str, Own]  # by interface

    def by_port(self, service: Service) -> bool:
        """Data connections come from other ports than the control connection that they belong to."""
        return self.by == "address_port" and not service.data_ports


@dataclass(frozen=True)
class Content:
    """What changes with the members: each one's places (by VIP), and who owns which bucket of which service."""

    me: str
    places: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    #: what the director is about to switch to: whoever is to take a bucket knows beforehand whom to ask about its connections;
    #: all others go on asking whom they asked, since the packets still come the old way
    pending: Mapping[str, Table] = field(default_factory=dict)
    #: by redirect, who may go on with what it serves: also a member that drains
    serving: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: who can be asked about connections
    alive: frozenset[str] = frozenset()

    def place(self, member: str, segment: Segment, family: int) -> Place | None:
        known = self.places.get(member, {})
        return next((known[vip] for vip in segment.vips.get(family, ()) if vip in known), None)


def key_of(redirect: Redirect) -> str:
    return f"{redirect.transport} {','.join(map(str, sorted(redirect.ports)))}"


def layout(config: Config, own: Mapping[str, Own]) -> Layout:
    interfaces = tuple(dict.fromkeys(vip.interface for vip in config.vips))
    segments = []
    for index, interface in enumerate(interfaces):
        here = [vip for vip in config.vips if vip.interface == interface]
        families = {family: tuple(vip.address for vip in here if vip.family == family) for family in (4, 6)}
        segments.append(Segment(index, interface, {family: vips for family, vips in families.items() if vips}))
    services = tuple(Service(key_of(each), index, each) for index, each in enumerate(config.redirects))
    balance = config.balance
    return Layout(balance.lbid, balance.buckets, balance.by, tuple(segments), services, dict(own))


# --- sets and maps ------------------------------------------------------------------------------------------------------------

#: (table, name) → key → value ("" in a set)
Elements = dict[tuple[str, str], dict[str, str]]


def elements(layout: Layout, content: Content) -> Elements:
    """What is in every set and map."""
    found: Elements = {}
    for segment in (each for each in layout.segments if each.interface in layout.own):
        found[NETDEV, f"peers_{segment.index}"] = _peers(content, segment)
        for service in layout.services:
            table = content.tables.get(service.key)
            name, macs = f"{segment.index}_{service.index}", _macs(layout, content, segment, service.key)
            owned = {bucket: owner for bucket, owner in enumerate(table.owners if table else ()) if owner in macs}
            if service.redirect.transport == "tcp":
                mine = layout.own[segment.interface].mac
                ways = {owner: _octets(mac + mine) for owner, mac in macs.items() if owner != content.me}
                found[NETDEV, f"owner_{name}"] = {str(bucket): ways[owner] for bucket, owner in owned.items() if owner in ways}
                continue
            found[NETDEV, f"owner_{name}"] = {str(bucket): _number(owner) for bucket, owner in owned.items()}
            found[NETDEV, f"members_{name}"] = {_number(member): mac for member, mac in macs.items()}
        for family, name in ((4, IP), (6, IP6)):
            found[name, KNOWN] = {str(each.index): "" for each in layout.services if each.key in content.tables}
            for service in layout.services if family in segment.vips else ():
                if service.redirect.transport == "tcp":
                    before = _before(content, segment, family, _asked(content, service.key))
                    found[name, f"before_{segment.index}_{service.index}"] = before
    return found


def difference(old: Elements, new: Elements) -> str:
    """The commands that lead from one to the other; both of one layout. One transaction: no packet misses its bucket."""
    gone = {name: {k: v for k, v in old[name].items() if new[name].get(k) != v} for name in new}
    come = {name: {k: v for k, v in new[name].items() if old[name].get(k) != v} for name in new}
    lines = [*commands(gone, "delete"), *commands(come, "add")]
    return "\n".join(lines) + "\n" if lines else ""


def commands(elements: Mapping[tuple[str, str], Mapping[str, str]], verb: str) -> Iterator[str]:
    for (table, name), content in elements.items():
        if content:
            listed = (f"{key} : {value}" if value else key for key, value in content.items())
            yield f"{verb} element {table} {name} {{ {', '.join(listed)} }}"


def _peers(content: Content, segment: Segment) -> dict[str, str]:
    others = [member for member in content.places if member != content.me]
    places = [content.place(member, segment, family) for member in others for family in segment.vips]
    return {_octets(place.mac): "" for place in places if place is not None}


def _octets(macs: str) -> str:
    """As a number, which is how nftables lists what it knows no type of."""
    return str(int(macs.replace(":", ""), 16))


def _macs(layout: Layout, content: Content, segment: Segment, key: str) -> dict[str, str]:
    """Of all who may be sent packets of the redirect: its buckets' owners, and who goes on with what it has."""
    table = content.tables.get(key)
    owners = set(table.owners) - {""} if table else set()
    found = {}
    for member in owners | content.serving.get(key, frozenset()):
        for family in segment.vips:
            if (place := content.place(member, segment, family)) is not None:
                found[member] = place.mac
    if content.me in owners or content.me in content.serving.get(key, ()):
        found[content.me] = layout.own[segment.interface].mac
    return found


def _number(member: str) -> str:
    """What stands for a member where nftables wants a number; the same on every member and after a restart."""
    return str(crc32(member.encode()))


def _asked(content: Content, key: str) -> dict[int, str]:
    """Whom this node asks about what it doesn't know."""
    table, pending = content.tables.get(key), content.pending.get(key)
    asked = {}
    if table is not None:
        asked = {b: table.next_of(content.me, b, content.alive) for b, before in enumerate(table.before) if before}
    if pending is not None:
        for bucket, owner in enumerate(pending.owners):
            if owner == content.me and (table is None or table.owners[bucket] != owner):
                asked[bucket] = pending.next_of(content.me, bucket, content.alive)
    return {bucket: member for bucket, member in asked.items() if member}


def _before(content: Content, segment: Segment, family: int, asked: Mapping[int, str]) -> dict[str, str]:
    places = {member: content.place(member, segment, family) for member in set(asked.values())}
    return {str(bucket): place.ip for bucket, member in asked.items() if (place := places[member]) is not None and place.ip}
