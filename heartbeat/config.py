"""The pair as ha.cf, haresources and authkeys describe it together, checked before anything is done with it.

Promise: a ``Config`` names two nodes of which this host is one, at least one link to the other, one virtual address inside a
network of this host, keys that prove something, and times whose inequalities hold; whatever stands against that is a
ConfigError with file, line and remedy, raised before anything was changed. Source: design §4 ("Timing is validated at start");
house style, 6.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface

from heartbeat import authkeys, hacf, haresources, linuxha_config
from heartbeat.frames import Keyring
from heartbeat.hacf import HaCf, Medium
from heartbeat.haresources import Resource, VirtualAddress
from heartbeat.model import Site
from runtime.address import Assigned, choose
from runtime.errors import ConfigError
from runtime.hafiles import TIMES
from runtime.timing import PROFILES, Timing, check, scaled

FOLDER = "/etc/heartbeat"
_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Vip:
    address: str
    device: str
    #: the port that the gate opens and closes
    port: int


@dataclass(frozen=True)
class Config:
    site: Site
    timing: Timing
    media: tuple[Medium, ...]
    ping_groups: dict[str, tuple[str, ...]]
    #: None: a pair without a virtual address
    vip: Vip | None
    keyring: Keyring
    facility: str
    debug: int
    realtime: bool
    priority: int
    #: ha.cf as written, for ``cl_status hbparameter``
    parameters: dict[str, str]
    warnings: tuple[str, ...]
    authkeys_file: str
    #: the peer is a Linux-HA node: this one is run by ``linuxha``
    linux_ha: bool = False

    @property
    def peer_addresses(self) -> tuple[str, ...]:
        return tuple(medium.address for medium in self.media)


def load(folder: str, node: str, assigned: Sequence[Assigned]) -> Config:
    """The configuration in ``folder`` for this host. ``node``: what uname -n says; ``assigned``: its addresses."""
    file = _ha_cf(folder)
    cf = hacf.parse(_read(file), file)
    site_nodes = _nodes(cf, node)
    resources_file = os.path.join(folder, "haresources")
    groups = haresources.parse(_read(resources_file), resources_file)
    preferred, address, others = _service(groups, resources_file, site_nodes, assigned)
    media = _media(cf, assigned)
    if cf.compatible:
        linuxha_config.check(cf)
    timing = linuxha_config.timing(cf) if cf.compatible else _timing(cf)
    peer = next(name for name in site_nodes if name != node)
    for resource in others:
        cf.warnings.append(f"{resources_file}:{resource.line}: {resource} is not started: only the address is moved")
    keys_file = os.path.join(folder, "authkeys")
    return Config(
        site=Site(
            node,
            peer,
            preferred,
            tuple(cf.ping_groups),
            tuple(m.device for m in media),
            cf.solo,
            cf.boot_alone,
            synchronous=cf.synchronous,
        ),
        timing=timing,
        media=media,
        ping_groups=dict(cf.ping_groups),
        vip=_vip(address, cf.vip_port, assigned, resources_file),
        keyring=authkeys.load(keys_file, cf.compatible),
        facility=cf.facility,
        debug=cf.debug,
        realtime=cf.realtime,
        priority=cf.priority,
        parameters=dict(cf.parameters),
        warnings=tuple(cf.warnings),
        authkeys_file=keys_file,
        linux_ha=cf.compatible,
    )


def _ha_cf(folder: str) -> str:
    """ha.cf, or Ha.cf as the reference spells it."""
    for name in ("ha.cf", "Ha.cf"):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return os.path.join(folder, "ha.cf")


def _read(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            content = opened.read(_LIMIT + 1)
    except OSError as error:
        raise ConfigError(
            f"can't be read: {error.strerror}", file=file, remedy="`ha start` writes it from module.xml"
        ) from error
    if len(content) > _LIMIT or b"\0" in content:
        raise ConfigError("isn't a text file", file=file, remedy="`ha start` writes it from module.xml")
    return content.decode(errors="replace")


# --- nodes and links ------------------------------------------------------------------------------------------------------


def _nodes(cf: HaCf, node: str) -> tuple[str, str]:
    line = cf.lines.get("node")
    if len(cf.nodes) != 2:
        said = f"names {len(cf.nodes)} nodes" if cf.nodes else "has no node directive"
        raise cf.error(f"{said}; a pair has exactly two", line, "add one line `node NAME` for each server (uname -n)")
    if node not in cf.nodes:
        near = next((name for name in cf.nodes if name.lower() == node.lower()), "")
        remedy = (
            f"write {node} instead of {near}: upper and lower case count" if near else "correct the names, or the host's name"
        )
        raise cf.error(f"this host is {node!r}, which is none of the nodes {' and '.join(cf.nodes)}", line, remedy)
    first, second = cf.nodes
    return first, second


def _media(cf: HaCf, assigned: Sequence[Assigned]) -> tuple[Medium, ...]:
    """The links to the peer: a ucast to an address of this host is the other server's line, and left out (as Linux-HA does)."""
    own = {each.address for each in assigned}
    there = {each.interface for each in assigned}
    found: list[Medium] = []
    for medium in cf.media:
        if medium.kind != "ucast":
            raise cf.error(
                f"{medium.kind} {medium.device}: the pair speaks to known addresses only", medium.line,
                f"write: ucast {medium.device} ADDRESS OF THE OTHER SERVER",
            )  # fmt: skip
        if medium.address in own:
            continue
        if any(medium.device == other.device for other in found):
            raise cf.error(
                f"a second address of the other server on {medium.device}",
                medium.line,
                "keep one ucast line for each interface",
            )
        if medium.device not in there:
            cf.warnings.append(
                f"{cf.file}:{medium.line}: {medium.device} has no address now; the link is dead until it has one"
            )
        found.append(medium)
    if not found:
        raise cf.error("no link to the other server", None, "add: ucast INTERFACE ADDRESS OF THE OTHER SERVER (two are better)")
    return tuple(found)


# --- the virtual address --------------------------------------------------------------------------------------------------


def _service(
    groups: Sequence[haresources.Group], file: str, nodes: tuple[str, str], assigned: Sequence[Assigned]
) -> tuple[str, VirtualAddress | None, list[Resource]]:
    """The preferred node, the virtual address if there is one, and the resources besides."""
    vips: list[VirtualAddress] = []
    others: list[Resource] = []
    for group in groups:
        if group.node not in nodes:
            raise ConfigError(
                f"{group.node} is none of the nodes {' and '.join(nodes)}", file=file, line=group.line,
                remedy="write a name from ha.cf; upper and lower case count",
            )  # fmt: skip
        if group.node != groups[0].node:
            raise ConfigError(
                "both nodes are preferred by something, but only one server is active at a time", file=file, line=group.line,
                remedy=f"write {groups[0].node} in front of every group",
            )  # fmt: skip
        for resource in group.resources:
            address = haresources.virtual_address(resource, file)
            vips += [address] if address else []
            others += [] if address else [resource]
    if not groups:
        raise ConfigError("names no node", file=file, remedy="write: NODE ADDRESS, as in: vs-166 192.168.120.187")
    if len(vips) > 1:
        raise ConfigError(
            f"names {len(vips)} virtual addresses; the pair has one", file=file, line=vips[1].line,
            remedy="keep the one that clients know",
        )  # fmt: skip
    return groups[0].node, vips[0] if vips else None, others


def _vip(address: VirtualAddress | None, port: int, assigned: Sequence[Assigned], file: str) -> Vip | None:
    return None if address is None else Vip(address.address, _device(address, assigned, file), port)


def _device(vip: VirtualAddress, assigned: Sequence[Assigned], file: str) -> str:
    """Where the address belongs: inside a network of this host, on the interface that was named, if one was."""
    others = [each for each in assigned if each.address != vip.address]
    if vip.device:
        others = [each for each in others if each.interface == vip.device]
        networks = [str(IPv4Interface(f"{each.address}/{each.prefix}").network) for each in others]
        if not networks:
            raise ConfigError(
                f"interface {vip.device} of the virtual address has no address", file=file, line=vip.line,
                remedy="correct its name, or leave it out: the network tells",
            )  # fmt: skip
    try:
        return choose(vip.address, others)
    except ConfigError as error:
        raise ConfigError(error.message, file=file, line=vip.line, remedy=error.remedy) from error


# --- times ----------------------------------------------------------------------------------------------------------------


def _timing(cf: HaCf) -> Timing:
    """The profile, or the recommended one stretched to ``deadtime``, with every time that the file names put into it."""
    stretched = not cf.profile and "deadtime" in cf.times
    base = scaled(cf.times["deadtime"]) if stretched else PROFILES[cf.profile or "recommended"]
    timing = replace(base, **{TIMES[name]: seconds for name, seconds in cf.times.items()})
    broken = check(timing)
    if broken:
        raise cf.error(f"the times don't fit together: {broken[0]}", _blamed(cf, broken[0]), _advice(cf, broken[0]))
    return timing


#: words of the rules → the directive that sets it
_WORDS = {
    "keepalive": "keepalive", "warntime": "warntime", "ping-dead": "deadping", "ping period": "ping_period",
    "isolation": "isolation", "deadtime": "deadtime", "lease": "lease", "role file expiry": "role_expiry",
    "restart allowance": "allowance", "stale": "stale", "solo": "solo_time", "initdead": "initdead",
}  # fmt: skip


def _named(rule: str) -> list[str]:
    """The directives that a broken rule is about."""
    return [name for word, name in _WORDS.items() if word in rule]


def _blamed(cf: HaCf, rule: str) -> int | None:
    """The last line that has a part in it."""
    return max((cf.lines[name] for name in _named(rule) if name in cf.lines), default=None)


def _advice(cf: HaCf, rule: str) -> str:
    written = [name for name in _named(rule) if name in cf.lines]
    if written:
        return f"correct {' or '.join(written)}, or leave the times to `profile recommended`"
    return f"set {' or '.join(_named(rule))} too, or leave the times to `profile recommended`"
