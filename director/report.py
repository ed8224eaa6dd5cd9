"""What operators are told of the group: its status, who serves a client and why, and the reference's common mistakes. Pure.

Promise: nothing here changes anything; every finding says what to do. Source: the reference's "Common Scenarios".
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from typing import Any

from director import interfaces, plane
from director.group import Group
from director.groupmodel import Known
from director.hashing import bucket
from director.members import Member
from director.settings import Config, Redirect
from runtime.address import Assigned
from runtime.errors import HaError

#: connections from which on it matters who they are from, and the part of one address that is too much
_MANY, _MOST_OF_ONE = 20, 0.8


def status(config: Config, group: Group, discovery: Mapping[str, Any], rules: Mapping[str, Any], now: float) -> dict[str, Any]:
    """``cluster`` of the control socket's ``status``; docs/protocols.md lists the fields."""
    director = group.known.get(group.director)
    counts = {key: table.counts() for key, table in group.tables.current.items()}
    return {
        "lbid": config.balance.lbid,
        "director": {"name": director.member.name, "ip": director.member.ip} if director else None,
        "is_director": group.is_director,
        "members": [_member(config, group, known, counts, now) for known in _ordered(group)],
        "services": [_service(group, each, counts) for each in config.redirects],
        "discovery": dict(discovery),
        "plane": dict(rules),
    }


def _ordered(group: Group) -> list[Known]:
    """The director first, then by address."""
    return sorted(group.known.values(), key=lambda k: (k.member.mac != group.director, ip_address(k.member.ip)))


def _member(config: Config, group: Group, known: Known, counts: Mapping[str, Any], now: float) -> dict[str, Any]:
    member = known.member
    weights = {plane.key_of(each): group.sharing.weights(plane.key_of(each)) for each in config.redirects}
    shares = [each.get(member.mac, 0.0) / sum(each.values()) for each in weights.values() if each]
    return {
        "name": member.name,
        "mac": member.mac,
        "ip": member.ip,
        "ip6": member.ip6,
        "version": member.version,
        "role": role(group, member),
        "state": state(group, known),
        "self": member.mac == group.me.mac,
        "priority": member.priority,
        "capacity": member.capacity,
        "weight": round(member.capacity * group.sharing.factors.get(member.mac, 1.0), 3),
        "share": round(sum(shares) / len(shares), 4) if shares else 0.0,
        "cpu": round(member.cpu, 3),
        "connections": member.connections,
        "age": round(0.0 if member.mac == group.me.mac else max(0.0, now - _told(group, known)), 3),
        "since": round(now - known.since, 1),
        "ports": dict(member.ports),
        "problem": member.plane,
        "buckets": {key: count[member.mac] for key, count in counts.items()},
    }


def _told(group: Group, known: Known) -> float:
    """When this node last knew of it: a director by its own ears, others by the director's word."""
    return known.heard if group.is_director and known.heard > 0 else known.counts_from


def role(group: Group, member: Member) -> str:
    if member.mac == group.director:
        return "director"
    return "redundant" if member.priority else "scanning"


def state(group: Group, known: Known) -> str:
    """One of ok, failed, stopped, draining, no ports, some ports, no rules."""
    member = known.member
    if known.failed:
        return "failed"
    if member.leaving:
        return "stopped"
    if member.plane:
        return "no rules"
    well = [member.serves(key) for key in member.ports]
    if well and not any(well):
        return "no ports"
    if member.draining:
        return "draining"
    return "ok" if all(well) else "some ports"


def _service(group: Group, redirect: Redirect, counts: Mapping[str, Any]) -> dict[str, Any]:
    key = plane.key_of(redirect)
    return {
        "key": key,
        "protocol": redirect.protocol,
        "ports": list(redirect.ports),
        "to": redirect.to,
        "transport": redirect.transport,
        "comment": redirect.comment,
        "buckets": [[_name(group, mac), count] for mac, count in sorted(counts.get(key, {}).items())],
        "moving": group.sharing.moving(key),
    }


def _name(group: Group, mac: str) -> str:
    return group.known[mac].member.name if mac in group.known else mac


def find(group: Group, wanted: str) -> Member:
    """A member by name, address or MAC; "" is this node. HaError lists who there is."""
    for known in group.known.values():
        if wanted in ("", known.member.name, known.member.ip, known.member.mac) and (wanted or known.member is group.me):
            return known.member
    names = ", ".join(sorted(known.member.name for known in group.known.values()))
    raise HaError(f"no member {wanted!r} is known; known are {names}")


# --- explain


def explain(config: Config, group: Group, client: str, port: object = None) -> list[str]:
    """Which node serves ``client``, for each redirect, and why. HaError if that is no address."""
    try:
        address = str(ip_address(client))
    except ValueError:
        raise HaError(f"{client!r} is no IP address; as in: director explain 10.1.1.100") from None
    if not config.redirects:
        return ["no port redirect is configured: whoever holds the virtual IP serves everything itself"]
    lines = []
    for redirect in config.redirects:
        lines += _explained(config, group, redirect, address, port)
    lines.append("every other port is served by whoever holds the virtual IP")
    return lines


def _explained(config: Config, group: Group, redirect: Redirect, address: str, port: object) -> list[str]:
    key = plane.key_of(redirect)
    by_port = config.balance.by == "address_port" and not redirect.data_ports
    if by_port and not isinstance(port, int):
        return [f"{redirect}: goes by address and source port; say which: director explain {address} --port PORT"]
    table = group.tables.current.get(key)
    if table is None:
        return [f"{redirect}: no buckets are known here: no director is heard"]
    number = bucket(address, config.balance.buckets, config.balance.lbid, port if by_port and isinstance(port, int) else None)
    owner = table.owners[number]
    known = group.known.get(owner)
    shown = f"{known.member.name} {known.member.ip}" if known else owner or "nobody"
    counts = table.counts()
    lines = [
        f"{redirect}: {shown}",
        f"  {address}{f' port {port}' if by_port else ''} hashes to bucket {number} of {config.balance.buckets} (seed: load"
        f" balancing ID {config.balance.lbid}), which {known.member.name if known else owner} owns, with {counts[owner] - 1}"
        " others",
    ]
    if before := [_name(group, mac) for mac in table.before[number]]:
        lines.append(f"  its earlier connections are still served by {', then '.join(before)}, who had the bucket before")
    pending = group.tables.pending.get(key)
    if pending is not None and pending.owners[number] != owner:
        lines.append(f"  about to move to {_name(group, pending.owners[number])}")
    if known and (reasons := _reasons(group, known, key)):
        lines.append(f"  {known.member.name}: {reasons}")
    return lines


def _reasons(group: Group, known: Known, key: str) -> str:
    if known.failed:
        return "does not answer"
    if not known.member.serves(key):
        return known.member.plane or "its port does not answer"
    return "drains, and keeps this bucket until its turn" if known.member.draining else ""


# --- check


def check(
    config: Config,
    group: Group,
    clients: Mapping[str, int],
    networks: Mapping[str, list[Assigned]],
    dropped: Mapping[str, int],
) -> list[str]:
    """The mistakes that can be seen from this node's daemon; empty: none."""
    found = []
    if not config.redirects:
        found.append("no port redirect is configured: the director serves all clients itself; add <port_redirect> elements")
    found += interfaces.misplaced(config, networks)
    if len(group.known) == 1:
        found.append(
            "no other member is heard: all clients stay here; are the others on this subnet, with the same load balancing ID"
            " and key?"
        )
    if count := dropped.get("authentication", 0):
        found.append(
            f"load balancing ID {config.balance.lbid} is used with another key, too ({count} messages): give this group an"
            " ID of its own, or all members the same key"
        )
    if count := dropped.get("another group", 0):
        found.append(f"note: another group is on this network, with another load balancing ID ({count} messages dropped)")
    found += _differences(config, group)
    found += _elsewhere(config, group, networks)
    whole = sum(clients.values())
    if whole >= _MANY and config.balance.by == "address":
        busiest, count = max(clients.items(), key=lambda item: item[1])
        if count > _MOST_OF_ONE * whole:
            found.append(
                f"{count} of {whole} connections here come from {busiest}: a proxy or NAT before it? Then"
                ' <load_balancing by="address_port"/> spreads them'
            )
    return found


def _differences(config: Config, group: Group) -> list[str]:
    found = []
    mine = {plane.key_of(each) for each in config.redirects}
    vips = {vip.address for vip in config.vips}
    for known in group.known.values():
        member = known.member
        if member.mac == group.me.mac or known.failed:
            continue
        if lacking := mine - member.ports.keys():
            found.append(f"{member.name} has no port redirect {', '.join(sorted(lacking))}: it gets no clients of it")
        if not vips <= member.places.keys():
            found.append(f"{member.name} has other virtual IPs: make the lists equal")
        if member.version != group.me.version:
            found.append(f"{member.name} runs version {member.version}, this node {group.me.version}")
    return found


def _elsewhere(config: Config, group: Group, networks: Mapping[str, list[Assigned]]) -> list[str]:
    own = [
        ip_interface(f"{each.address}/{each.prefix}").network
        for there in networks.values()
        for each in there
        if each.address == config.management_ip
    ]
    found = []
    for known in group.known.values():
        if own and not any(ip_address(known.member.ip) in network for network in own):
            found.append(
                f"{known.member.name} {known.member.ip} is on another subnet than this node: clients can't be sent there"
            )
    for peer in config.peers:
        if ip_address(peer).version == 4 and own and not any(ip_address(peer) in network for network in own):
            found.append(f"VRRP peer {peer} is on another subnet: it can take the virtual IP, and gets no clients")
    return found
