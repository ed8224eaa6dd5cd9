"""All configuration of ha_manager as one frozen value: the pair (module.xml), this host (ha_manager.conf), which server we are.

Promise: ``load`` returns a ``Config`` that may be used as it is, or raises ConfigError with file, line, attribute and remedy;
it changes nothing and keeps nothing. Source: Trustwave §2.2.1; design §6.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address
from pathlib import Path
from typing import Protocol

from ha_manager.host import CONF, Host, load_host
from ha_manager.site import MODULE_XML, Site, load_site
from runtime.errors import ConfigError

Interface = IPv4Interface | IPv6Interface
#: told when ``of_heartbeat`` has changed
NEEDS_HA_START = (
    "heartbeat's part of module.xml (addresses, links, ping nodes, times, fence agents, …) has changed:"
    " `ha start` on both servers applies it"
)
#: told when ``fence`` has changed
NEEDS_THE_PEER = (
    "synchronous, solo or maximum_lag_on_failover has changed: until the other server has the same, and read it"
    " (`ha start` or SIGHUP there), the stricter counts"
)


class Reachable(Protocol):
    """What it takes to talk with the daemons of this server, and to turn HA off."""

    @property
    def host(self) -> Host: ...
    @property
    def node(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def links(self) -> tuple[tuple[str, str], ...]: ...


@dataclass(frozen=True)
class Reach:
    """The same while the configuration can't be used, because ``wrong``: the usual places, the peer whose key is pinned."""

    host: Host
    node: str
    peer: str
    wrong: str
    #: not known
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Config:
    site: Site
    host: Host
    #: this server is the default active (else the default passive)
    is_default_active: bool
    node: str
    #: "" as long as neither module.xml nor a pinned key says it
    peer: str
    module_xml: Path = MODULE_XML
    conf: Path = field(default=CONF)

    @property
    def own_ip(self) -> str:
        return (self.site.default_active if self.is_default_active else self.site.default_passive).ip

    @property
    def peer_ip(self) -> str:
        return (self.site.default_passive if self.is_default_active else self.site.default_active).ip

    @property
    def default_active(self) -> str:
        return self.node if self.is_default_active else self.peer

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """(own address, peer's address) on each heartbeat link, the servers' main addresses first."""
        further = [(link.default_active, link.default_passive) for link in self.site.links]
        return ((self.own_ip, self.peer_ip), *(pair if self.is_default_active else pair[::-1] for pair in further))

    @property
    def of_heartbeat(self) -> tuple[object, ...]:
        """What goes into heartbeat's own files: only `ha start` brings a change of it there."""
        site = self.site
        return (
            self.links,
            site.ping_nodes,
            site.ping_quorum,
            site.virtual_ip,
            site.resources,
            site.timing,
            site.boot_alone,
            site.fences,
            site.arp_check,
            site.watchdog,
        )

    @property
    def fence(self) -> tuple[bool, str, int]:
        """The data fence (design §4 rule 6), as heartbeat's status tells it; a change of it needs no restart."""
        return (self.site.synchronous, self.site.solo, self.site.maximum_lag)


def load(
    addresses: Sequence[Interface],
    *,
    module_xml: Path = MODULE_XML,
    conf: Path = CONF,
    uname: str | None = None,
) -> Config:
    """Read and check everything. ``addresses`` are this server's, with their networks; ``uname`` for tests."""
    site, host = load_site(module_xml), load_host(conf)
    own = {str(each.ip) for each in addresses}
    is_active = _side(site, own, module_xml)
    _check_networks(site, addresses, is_active, module_xml)
    _check_files(site, host, module_xml)
    if host.linux_ha.cl_status:
        _check_linux_ha(site, module_xml, conf)
    node, peer = _names(site, host, is_active, uname or os.uname().nodename, module_xml)
    return Config(site, host, is_active, node, peer, module_xml, conf)


def reach(wrong: ConfigError, conf: Path = CONF) -> Reach:
    """After ``load`` has failed: what is left of it."""
    try:
        host = load_host(conf)
    except ConfigError:
        host = Host()
    node, peer = (pinned_name(host.paths.keys / name) for name in ("node.pub", "peer.pub"))
    return Reach(host, node or os.uname().nodename, peer or "the other server", str(wrong))


def _side(site: Site, own: set[str], path: Path) -> bool:
    active, passive = site.default_active.ip in own, site.default_passive.ip in own
    if active == passive:
        whose = "both addresses of the pair are" if active else "neither address of the pair is"
        what = f"{whose} this server's (default_active {site.default_active.ip}, default_passive {site.default_passive.ip})"
        mine = ", ".join(sorted(own)) or "none"
        remedy = f"this server has {mine}; correct attribute 'ip' of default_active or default_passive"
        raise ConfigError(what, file=path, line=_line_of(path, "default_active"), remedy=remedy)
    return active


def _check_networks(site: Site, addresses: Sequence[Interface], is_active: bool, path: Path) -> None:
    # The VIP itself may be here, held by heartbeat or left by one that crashed: that is no network.
    networks = [each.network for each in addresses if str(each.ip) not in site.virtual_addresses]
    for address in site.virtual_addresses:
        if any(ip_address(address) in network for network in networks):
            continue
        known = ", ".join(str(network) for network in networks) or "none"
        element, attribute = ("virtual_ip", "ip") if address == site.virtual_ip else ("resource", "name")
        what = f"element '{element}', attribute '{attribute}': {address} is in none of this server's networks ({known})"
        line = _line_of(path, element, "" if element == "virtual_ip" else address) or _line_of(path, element)
        raise ConfigError(what, file=path, line=line, remedy="use a free address of one of them")
    if site.arp_check and not any(_knows_the_vip(network, site) for network in networks):
        what = "element 'arp_check': no ping_node (IPv4) is on the network of a virtual address (IPv4)"
        remedy = "add such a <ping_node>, usually the default gateway; or leave arp_check out"
        raise ConfigError(what, file=path, line=_line_of(path, "arp_check"), remedy=remedy)
    own = {str(each.ip) for each in addresses}
    for link in site.links:
        mine = link.default_active if is_active else link.default_passive
        if mine not in own:
            side = "default_active" if is_active else "default_passive"
            what = f"element 'link', attribute '{side}': {mine} is not an address of this server"
            line = _line_of(path, "link", mine)
            raise ConfigError(what, file=path, line=line, remedy="correct it, or bring that interface up")


def _check_files(site: Site, host: Host, path: Path) -> None:
    """What must never be copied: a server's own identity and state, and what is no file."""
    paths = host.paths
    own = {
        paths.keys: "each server has keys of its own", paths.state: "each server has a state of its own",
        paths.run: "each server has a state of its own", paths.heartbeat_run: "each server has a state of its own",
        Path("/var/lib/heartbeat"): "each server has a state of its own", paths.staging: "copies are kept there",
        **{Path(each): "it holds no files" for each in ("/proc", "/sys", "/dev", "/run")},
    }  # fmt: skip
    for each in site.files:
        name = Path(each.name)
        wrong = next((p for p in own if name == p or p in name.parents or name in p.parents), None)
        if wrong is not None:
            what = f"element 'file', attribute 'name': {each.name} can't be replicated, because of {wrong}: {own[wrong]}"
            line = _line_of(path, "file", each.name)
            raise ConfigError(what, file=path, line=line, remedy="name the files or directories in it that are to be copied")


def _knows_the_vip(network: IPv4Network | IPv6Network, site: Site) -> bool:
    """Its ARP tables do: a virtual address and a ping node are on it."""
    within = [any(ip_address(each) in network for each in some) for some in (site.virtual_addresses, site.ping_nodes)]
    return network.version == 4 and all(within)


def _check_linux_ha(site: Site, path: Path, conf: Path) -> None:
    """Linux-HA can't tell a dead passive from one that took over: an active that guesses would lose what is acknowledged."""
    for element, is_there in (("fence", site.fences), ("arp_check", site.arp_check), ("watchdog", site.watchdog)):
        if is_there:
            what = f"element '{element}': nothing would be done by it on a Linux-HA heartbeat ({conf}, [linux-ha] cl_status)"
            remedy = "remove it; Linux-HA's own ha.cf has stonith_host and watchdog"
            raise ConfigError(what, file=path, line=_line_of(path, element), remedy=remedy)
    if site.synchronous and site.solo == "release":
        return
    wrong = f'solo="{site.solo}"' if site.synchronous else 'synchronous="off"'
    what = f"element 'replication': {wrong} can't be had on a Linux-HA heartbeat ({conf}, [linux-ha] cl_status)"
    remedy = 'write <replication solo="release"/>, or run our own heartbeat'
    raise ConfigError(what, file=path, line=_line_of(path, "replication") or _line_of(path, "init"), remedy=remedy)


def _names(site: Site, host: Host, is_active: bool, uname: str, path: Path) -> tuple[str, str]:
    ours, theirs = (site.default_active, site.default_passive) if is_active else (site.default_passive, site.default_active)
    element = "default_active" if is_active else "default_passive"
    if ours.name and ours.name != uname:
        what = f"element '{element}', attribute 'name': this server ({ours.ip}) is called {uname}, not {ours.name}"
        raise ConfigError(
            what, file=path, line=_line_of(path, element), remedy="write what `uname -n` prints, or leave name out"
        )
    node = ours.name or pinned_name(host.paths.keys / "node.pub") or uname
    peer = theirs.name or pinned_name(host.paths.keys / "peer.pub")
    if peer and peer == node:
        remedy = "give the servers different names (`uname -n`), then exchange keys again: ha keys make, ha keys accept"
        raise ConfigError(f"the peer is called {peer}, as this server is", file=host.paths.keys / "peer.pub", remedy=remedy)
    return node, peer


def pinned_name(path: Path) -> str:
    """The server's name in a key line (``ha-key-1 <name> …``); "" if there is no such file or it is something else."""
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return ""
    return words[1] if len(words) >= 3 and words[0] == "ha-key-1" else ""


def _line_of(path: Path, element: str, text: str = "") -> int | None:
    """Line of the first ``<element`` (that holds ``text``), for errors found after the document was taken apart."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    pattern = re.compile(rf"<{element}\b[^>]*{re.escape(text)}")
    return next((number for number, line in enumerate(lines, 1) if pattern.search(line)), None)
