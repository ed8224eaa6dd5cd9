"""The pair as ha.cf, haresources and authkeys describe it together, checked before anything is done with it.

Promise: a ``Config`` names two nodes of which this host is one, at least one link to the other, virtual addresses inside
networks of this host, keys that prove something, and times whose inequalities hold; whatever stands against that is a
ConfigError with file, line and remedy, raised before anything was changed. Source: design §4 ("Timing is validated at start");
house style, 6.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from heartbeat import authkeys, fence_lines, hacf, haresources, linuxha_config
from heartbeat.fence_lines import Agent
from heartbeat.frames import Keyring
from heartbeat.hacf import HaCf
from heartbeat.haresources import Resource, VirtualAddress
from heartbeat.media import LinkLine, links_of
from heartbeat.model import Site
from heartbeat.scripts import SCRIPT_FOLDERS, script_of
from runtime.address import Assigned, choose
from runtime.errors import ConfigError
from runtime.hafiles import TIMES
from runtime.timing import PROFILES, Timing, check, scaled

FOLDER = "/etc/heartbeat"
_LIMIT = 1024 * 1024
#: seconds that all fence agents together may take; below ``backing.FENCE_LIMIT``
FENCE_LIMIT = 280.0


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
    links: tuple[LinkLine, ...]
    ping_groups: dict[str, tuple[str, ...]]
    #: all of them move together; empty: a pair without a virtual address
    vips: tuple[Vip, ...]
    #: the scripts beside them, in the order in which they start
    resources: tuple[Resource, ...]
    keyring: Keyring
    facility: str
    debug: int
    realtime: bool
    priority: int
    #: ha.cf as written, for ``cl_status hbparameter``
    parameters: dict[str, str]
    warnings: tuple[str, ...]
    authkeys_file: str
    #: what switches the peer off, in the order in which they are tried; seconds for each
    fences: tuple[Agent, ...] = ()
    fence_timeout: float = 60.0
    #: "" or the kernel's watchdog
    watchdog: str = ""
    #: the peer is a Linux-HA node: this one is run by ``linuxha``
    linux_ha: bool = False

    @property
    def vip(self) -> Vip | None:
        """The first virtual address."""
        return self.vips[0] if self.vips else None

    @property
    def peer_addresses(self) -> tuple[str, ...]:
        """As far as ha.cf names them: those of the ucast lines."""
        return tuple(medium.address for link in self.links for medium in link.media if medium.kind == "ucast")


def load(folder: str, node: str, assigned: Sequence[Assigned]) -> Config:
    """The configuration in ``folder`` for this host. ``node``: what uname -n says; ``assigned``: its addresses."""
    file = _ha_cf(folder)
    cf = hacf.parse(_read(file), file)
    site_nodes = _nodes(cf, node)
    resources_file = os.path.join(folder, "haresources")
    groups = haresources.parse(_read(resources_file), resources_file)
    preferred, addresses, others = _service(groups, resources_file, site_nodes)
    own = {each.address for each in assigned}
    links = _links(cf, assigned, own)
    _check_ping_nodes(cf, links, own)
    if cf.compatible:
        linuxha_config.check(cf)
    timing = linuxha_config.timing(cf) if cf.compatible else _timing(cf)
    peer = next(name for name in site_nodes if name != node)
    fences = _fences(cf, node, peer)
    for resource in others:
        if not script_of(resource):
            said = f"no script {resource.script} in {', '.join(SCRIPT_FOLDERS)}: {resource} can't be started"
            cf.warnings.append(f"{resources_file}:{resource.line}: {said}")
    keys_file = os.path.join(folder, "authkeys")
    keyring = authkeys.load(keys_file, cf.compatible)
    if cf.compatible:
        linuxha_config.check_keys(keyring, keys_file)
    return Config(
        site=Site(
            node,
            peer,
            preferred,
            tuple(cf.ping_groups),
            tuple(link.name for link in links),
            cf.solo,
            cf.boot_alone,
            synchronous=cf.synchronous,
            maximum_lag=cf.maximum_lag,
            ping_quorum=cf.ping_quorum,
            arp_check=cf.arp_check,
            fence=bool(fences),
        ),
        timing=timing,
        links=links,
        ping_groups=dict(cf.ping_groups),
        vips=tuple(Vip(each.address, _device(each, assigned, resources_file), cf.vip_port) for each in addresses),
        resources=tuple(others),
        keyring=keyring,
        facility=cf.facility,
        debug=cf.debug,
        realtime=cf.realtime,
        priority=cf.priority,
        parameters=dict(cf.parameters),
        warnings=tuple(cf.warnings),
        authkeys_file=keys_file,
        fences=fences,
        fence_timeout=cf.fence_timeout,
        watchdog=cf.watchdog,
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


def _links(cf: HaCf, assigned: Sequence[Assigned], own: Collection[str]) -> tuple[LinkLine, ...]:
    """The links to the peer: a ucast to an address of this host is the other server's line, and left out (as Linux-HA does)."""
    links = links_of(medium for medium in cf.media if not (medium.kind == "ucast" and medium.address in own))
    if not links:
        raise cf.error("no link to the other server", None, "add: ucast INTERFACE ADDRESS OF THE OTHER SERVER (two are better)")
    there = {each.interface for each in assigned if ":" not in each.address}
    for link in links:
        line = link.media[0].line
        if link.family == 4 and link.device not in there:
            cf.warnings.append(f"{cf.file}:{line}: {link.device} has no address now; the link is dead until it has one")
        if len(link.peers) > 1:
            also = " and ".join(sorted(link.peers))
            cf.warnings.append(f"{cf.file}:{line}: {also} on {link.device} are both taken for addresses of the other server")
    return links


def _check_ping_nodes(cf: HaCf, links: Sequence[LinkLine], own: Collection[str]) -> None:
    """Ping nodes tell a server's own failure from the peer's: neither of the two can be one."""
    line = cf.lines.get("ping_quorum")
    if cf.ping_quorum > max(1, len(cf.ping_groups)):
        remedy = "lower it, or add ping nodes (a ping_group counts as one)"
        raise cf.error(f"ping_quorum {cf.ping_quorum}: there are {len(cf.ping_groups)} ping nodes", line, remedy)
    peers = {address for link in links for address in link.peers}
    for group, addresses in cf.ping_groups.items():
        for address in addresses:
            whose = "this server's own address" if address in own else "the other server" if address in peers else ""
            if whose:
                remedy = "name a third machine that lives on when either server dies, as the default gateway"
                raise cf.error(f"ping node {address} is {whose}", cf.ping_lines[group], remedy)


def _fences(cf: HaCf, node: str, peer: str) -> tuple[Agent, ...]:
    """The fence agents of this node; the core gives up on them after ``FENCE_LIMIT``."""
    fences = fence_lines.agents(cf.fences, cf.file, node, peer)
    if not 1 <= cf.fence_timeout * max(1, len(fences)) <= FENCE_LIMIT:
        said = f"fence_timeout {cf.fence_timeout:g} s for {len(fences)} fence agents: together they may take {FENCE_LIMIT:g} s"
        raise cf.error(said, cf.lines.get("fence_timeout"), "lower it, or leave it out (60 s)")
    return fences


# --- the virtual addresses and what moves with them -------------------------------------------------------------------------


def _service(
    groups: Sequence[haresources.Group], file: str, nodes: tuple[str, str]
) -> tuple[str, list[VirtualAddress], list[Resource]]:
    """The preferred node, the virtual addresses, and the resources besides."""
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
            if address and any(address.address == known.address for known in vips):
                raise ConfigError(
                    f"virtual address {address.address} is there twice",
                    file=file,
                    line=address.line,
                    remedy="remove one of them",
                )
            vips += [address] if address else []
            others += [] if address else [resource]
    if not groups:
        raise ConfigError("names no node", file=file, remedy="write: NODE ADDRESS, as in: vs-166 192.168.120.187")
    return groups[0].node, vips, others


def _device(vip: VirtualAddress, assigned: Sequence[Assigned], file: str) -> str:
    """Where the address belongs: inside a network of this host, on the interface that was named, if one was."""
    others = [each for each in assigned if each.address != vip.address]
    if vip.device:
        others = [each for each in others if each.interface == vip.device]
        if not others:
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
