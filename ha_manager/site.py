"""module.xml: the topology of the pair, identical on both policy servers.

Promise: the reference's own example loads unchanged; whatever can't be used raises ConfigError with file, line, attribute and
remedy; the result is frozen. No external entity, DTD or network is ever read. Source: Trustwave §2.2.1, design §6.
"""

from __future__ import annotations

import posixpath
from dataclasses import asdict, dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from heartbeat import fence_lines, haresources
from runtime import modulexml
from runtime.errors import ConfigError
from runtime.modulexml import Section
from runtime.sizes import MAXIMUM_LAG, size_of
from runtime.timing import PROFILES, Timing, seconds
from runtime.timing import check as check_timing

MODULE_XML = Path("/var/wasp/conf/ha/current/module.xml")

#: Elements that may stand more than once.
_MANY = frozenset({"ping_node", "link", "resource", "fence"})
#: Agents that one server may be switched off with: heartbeat gives each 60 s, and all of them 280 s.
_AGENTS = 4


@dataclass(frozen=True)
class Server:
    """One policy server: its address, and its name (``uname -n``) if module.xml says it."""

    ip: str
    name: str = ""


@dataclass(frozen=True)
class Link:
    """A further heartbeat link: each server's address on it."""

    default_active: str
    default_passive: str


@dataclass(frozen=True)
class ReplicatedFile:
    """A file or directory that ha_manager copies; ``interval`` in seconds where ``inotify`` is off."""

    name: str
    inotify: bool
    interval: int
    #: "user:group" on the other server; "": as it is here
    owner: str


@dataclass(frozen=True)
class Fence:
    """An agent that switches a server off: ``of`` is "default_active", "default_passive", or "" for either."""

    agent: str
    options: str = ""
    of: str = ""
    #: of module.xml, for errors
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Site:
    enabled: bool
    default_active: Server
    default_passive: Server
    virtual_ip: str = ""
    device_port: int = 5222
    device_timeout: int = 20
    connection_timeout: int = 300
    port: int = 4589
    #: of rsync, for directories and large files of ``files``
    files_port: int = 4590
    heartbeat_cmd_interval: int = 10
    passive_status_interval: int = 10
    logrelay_port: int = 4591
    files: tuple[ReplicatedFile, ...] = ()
    ping_nodes: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    #: further virtual addresses, and scripts, as haresources names them
    resources: tuple[str, ...] = ()
    profile: str = "recommended"
    timing: Timing = PROFILES["recommended"]
    synchronous: bool = True
    solo: str = "silence"
    #: bytes; asynchronous: a passive that lacks more of the log can't take over
    maximum_lag: int = MAXIMUM_LAG
    boot_alone: str = "wait"
    #: so many of the ping nodes must answer
    ping_quorum: int = 1
    fences: tuple[Fence, ...] = ()
    arp_check: bool = False
    watchdog: str = ""

    @property
    def virtual_addresses(self) -> tuple[str, ...]:
        """All of them, ``virtual_ip`` first."""
        further = (_virtual_address(each) for each in self.resources)
        return tuple(each for each in (self.virtual_ip, *further) if each)


def load_site(path: Path = MODULE_XML) -> Site:
    """Read, check against the XSD, apply the rules between fields. Raises ConfigError."""
    root = modulexml.load(path, package="ha_manager", schema="module.xsd", remedies=_REMEDIES)
    return _Reader(root.need("init")).site()


_TIME = 'write seconds ("2", "1.7") or milliseconds ("500ms")'
_REMEDIES = {
    "file@name": "write an absolute path",
    "file@permissions": "write user:group",
    "ping_quorum@nodes": "write a whole number: 1, or up to as many as there are ping nodes",
    "fence@of": "write the server that is switched off, default_active or default_passive; without it: either",
    "watchdog@device": "write the device's path, as /dev/watchdog",
    **{f"timing@{name}": _TIME for name in asdict(PROFILES["recommended"])},
    **{f"{element}@name": "write what `uname -n` prints there" for element in ("default_active", "default_passive")},
}


class _Reader:
    """Takes the checked tree apart and applies the rules that an XSD can't say."""

    def __init__(self, init: Section) -> None:
        self._init = init
        self._one: dict[str, Section] = {}
        self._every: dict[str, list[Section]] = {name: [] for name in _MANY}

    def site(self) -> Site:
        self._sort()
        site = Site(
            enabled=self._init.need("ha").flag("enabled"),
            default_active=self._server("default_active"),
            default_passive=self._server("default_passive"),
            virtual_ip=self._virtual_ip(),
            files=self._files(),
            ping_nodes=tuple(_address(each, "ip") for each in self._every["ping_node"]),
            resources=tuple(_resource(each) for each in self._every["resource"]),
            fences=tuple(_fence(each) for each in self._every["fence"]),
            links=tuple(
                Link(_address(each, "default_active"), _address(each, "default_passive")) for each in self._every["link"]
            ),
        )
        site = self._guarded(self._timed(self._numbers(site)))
        self._check_addresses(site)
        return site

    def _sort(self) -> None:
        for each in self._init.children("*"):
            if each.name in _MANY:
                self._every[each.name].append(each)
            elif each.name in self._one:
                first = self._one[each.name].line
                raise each.error(f"<{each.name}> stands twice, first in line {first}", remedy="remove one of them")
            else:
                self._one[each.name] = each

    def _server(self, name: str) -> Server:
        section = self._init.need(name)
        return Server(_address(section, "ip"), section.text("name", ""))

    def _virtual_ip(self) -> str:
        section = self._one.get("virtual_ip")
        return "" if section is None or not section.text("ip", "") else _address(section, "ip")

    def _numbers(self, site: Site) -> Site:
        device = self._one.get("device_uname") or self._one.get("device_undef")
        if device is not None:
            site = replace(site, device_port=device.whole("port", 5222), device_timeout=device.whole("timeout", 20))
        manager = self._one.get("ha_manager_configuration")
        if manager is not None:
            site = replace(
                site,
                connection_timeout=manager.whole("connection_timeout", site.connection_timeout),
                port=manager.whole("ha_manager_port", site.port),
                files_port=manager.whole("files_port", site.files_port),
                heartbeat_cmd_interval=manager.whole("heartbeat_cmd_interval", site.heartbeat_cmd_interval),
                passive_status_interval=manager.whole("passive_status_interval", site.passive_status_interval),
                logrelay_port=manager.whole("logrelay_port", site.logrelay_port),
            )
        replication = self._one.get("replication")
        if replication is not None:
            site = replace(
                site, synchronous=replication.flag("synchronous", True), solo=replication.text("solo", "silence"),
                maximum_lag=_bytes(replication, "maximum_lag_on_failover", MAXIMUM_LAG),
            )  # fmt: skip
        alone = self._one.get("boot_alone")
        if alone is not None:
            site = replace(site, boot_alone=alone.text("mode", "wait"))
        quorum = self._one.get("ping_quorum")
        return site if quorum is None else replace(site, ping_quorum=quorum.whole("nodes", 1))

    def _guarded(self, site: Site) -> Site:
        """What heartbeat may ask besides, before it decides something by silence."""
        watchdog, check = self._one.get("watchdog"), self._one.get("arp_check")
        asked = check is not None and check.flag("enabled")
        if check is not None and asked and not any(ip_address(node).version == 4 for node in site.ping_nodes):
            remedy = "add the gateway of the virtual IP's network as a <ping_node>"
            raise check.error("there is no IPv4 ping node whose ARP table could be asked", "enabled", remedy=remedy)
        for server in ("default_active", "default_passive"):
            those = [each for each in self._every["fence"] if each.text("of", server) == server]
            if len(those) > _AGENTS:
                said = f"{server} has {len(those)} fence agents; {_AGENTS} at most: each may take 60 s, all of them 280 s"
                raise those[_AGENTS].error(said, remedy="remove some")
        return replace(site, arp_check=asked, watchdog=watchdog.text("device") if watchdog is not None else "")

    def _timed(self, site: Site) -> Site:
        section = self._one.get("timing")
        if section is None:
            return site
        profile = section.text("profile", "recommended")
        given = {name: seconds(section.text(name)) for name in asdict(site.timing) if section.has(name)}
        timing = Timing(**(asdict(PROFILES[profile]) | given))
        if broken := check_timing(timing):
            remedy = f"correct the values or leave them out: profile {profile} is consistent"
            raise section.error("; ".join(broken), ", ".join(given) or "profile", remedy=remedy)
        return replace(site, profile=profile, timing=timing)

    def _files(self) -> tuple[ReplicatedFile, ...]:
        parent = self._one.get("files_to_replicate")
        files: dict[str, ReplicatedFile] = {}
        for each in parent.children("file") if parent else ():
            name = posixpath.normpath(each.text("name")).replace("//", "/")
            if name in files:
                raise each.error(f"{name} stands twice", "name", remedy="remove one of them")
            if ".." in Path(each.text("name")).parts or name == "/":
                raise each.error(
                    f"{each.text('name')} can't be replicated", "name", remedy="write an absolute path without '..'"
                )
            files[name] = ReplicatedFile(
                name, each.flag("inotify", False), each.whole("interval", 60), each.text("permissions", "")
            )
        return tuple(files.values())

    def _check_addresses(self, site: Site) -> None:
        active, passive = site.default_active, site.default_passive
        section = self._one["default_passive"]
        if active.ip == passive.ip:
            raise section.error(f"{passive.ip} is the default active's address too", "ip", remedy="give each server its own")
        if active.name and active.name == passive.name:
            remedy = "each server's name is what `uname -n` prints on it"
            raise section.error(f"{passive.name} is the default active's name too", "name", remedy=remedy)
        if ip_address(active.ip).version != ip_address(passive.ip).version:
            raise section.error(f"{passive.ip} is of another family than {active.ip}", "ip", remedy="use one family for both")
        if site.virtual_ip in (active.ip, passive.ip):
            remedy = "use an address that no device has"
            raise self._one["virtual_ip"].error(f"{site.virtual_ip} is a server's own address", "ip", remedy=remedy)
        for each, resource in zip(self._every["resource"], site.resources, strict=True):
            address = _virtual_address(resource)
            if address and (address in (active.ip, passive.ip) or site.virtual_addresses.count(address) > 1):
                remedy = "use an address that no device has, once"
                raise each.error(f"{address} is in use already", "name", remedy=remedy)
        for each, node in zip(self._every["ping_node"], site.ping_nodes, strict=True):
            if node in (active.ip, passive.ip, *site.virtual_addresses):
                remedy = "use a third device, usually the default gateway"
                raise each.error(f"{node} belongs to the pair itself", "ip", remedy=remedy)
        if site.ping_quorum > max(1, len(site.ping_nodes)):
            remedy = "lower it, or add a <ping_node>"
            said = f"{site.ping_quorum} ping nodes must answer, but there are {len(site.ping_nodes)}"
            raise self._one["ping_quorum"].error(said, "nodes", remedy=remedy)
        for each, link in zip(self._every["link"], site.links, strict=True):
            if link.default_active == link.default_passive:
                remedy = "give each server its own address on the link"
                raise each.error(f"both servers have {link.default_active}", "default_passive", remedy=remedy)


def _address(section: Section, attribute: str) -> str:
    text = section.address(attribute)
    address = ip_address(text)
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise section.error(f"{text} can't be a device's address", attribute, remedy="use an address of the network")
    return text


def _bytes(section: Section, attribute: str, default: int) -> int:
    if not section.has(attribute):
        return default
    try:
        return size_of(section.text(attribute))
    except ValueError as wrong:
        raise section.error(str(wrong), attribute, remedy='write "16MB", or leave it out') from wrong


def _fence(section: Section) -> Fence:
    """An agent and options that heartbeat will take; whether it is installed is asked when HA is turned on."""
    fence = Fence(section.text("agent"), section.text("options", ""), section.text("of", ""), section.line)
    if len(fence.agent.split()) != 1:
        raise section.error(
            f"{fence.agent!r} is not one word", "agent", remedy='write options="KEY=VALUE …" for what follows it'
        )
    if "#" in fence.agent + fence.options:
        remedy = "write that option into a file that only root can read, and secrets=THAT FILE here"
        raise section.error("a # would end the line in ha.cf", "options", remedy=remedy)
    try:
        fence_lines.read_line("*", fence.agent, fence.options.split(), "", section.line)
    except ConfigError as error:
        raise section.error(error.message, remedy=(error.remedy or "").replace("this file", "module.xml")) from error
    return fence


def _resource(section: Section) -> str:
    """A word that heartbeat will understand."""
    word = section.text("name")
    if "#" in word or len(word.split()) != 1:
        remedy = "write one word of haresources, as IPv6addr::fd00:120::187/64/eth0 or script::argument"
        raise section.error(f"{word!r} is not one word", "name", remedy=remedy)
    try:
        _virtual_address(word)
    except ConfigError as error:
        raise section.error(error.message, "name", remedy=error.remedy or "") from error
    return word


def _virtual_address(word: str) -> str:
    """The address that a word of haresources stands for; "" for a script. Raises ConfigError."""
    (group,) = haresources.parse(f"node {word}")
    address = haresources.virtual_address(group.resources[0])
    return address.address if address else ""
