"""module.xml: the topology of the pair, identical on both policy servers.

Promise: the reference's own example loads unchanged; whatever can't be used raises ConfigError with file, line, attribute and
remedy; the result is frozen. No external entity, DTD or network is ever read. Source: Trustwave §2.2.1, design §6.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lxml import etree

from runtime.errors import ConfigError
from runtime.timing import PROFILES, Timing
from runtime.timing import check as check_timing

MODULE_XML = Path("/var/wasp/conf/ha/current/module.xml")

#: Elements that may stand more than once.
_MANY = frozenset({"ping_node", "link"})


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
    owner: str


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
    heartbeat_cmd_interval: int = 10
    passive_status_interval: int = 10
    files: tuple[ReplicatedFile, ...] = ()
    ping_nodes: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    profile: str = "recommended"
    timing: Timing = PROFILES["recommended"]
    synchronous: bool = True
    solo: str = "silence"
    boot_alone: str = "wait"


def load_site(path: Path = MODULE_XML) -> Site:
    """Read, check against the XSD, apply the rules between fields. Raises ConfigError."""
    root = _parse(path)
    init = root.find("init")
    assert init is not None  # the XSD says so
    return _Reader(path, init).site()


@cache
def _schema() -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(str(Path(__file__).with_name("module.xsd"))))


def _parse(path: Path) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        tree = etree.fromstring(path.read_bytes(), parser)
    except FileNotFoundError as wrong:
        remedy = "the policy server writes it on commit; /usr/share/doc or conf/ of the distribution holds a sample"
        raise ConfigError("does not exist", file=path, remedy=remedy) from wrong
    except OSError as wrong:
        raise ConfigError(f"can't be read: {wrong.strerror}", file=path, remedy="run as root, check its permissions") from wrong
    except etree.XMLSyntaxError as wrong:
        line = wrong.position[0] or None
        raise ConfigError(f"is not XML: {wrong.msg}", file=path, line=line, remedy="correct that line") from wrong
    schema = _schema()
    if not schema.validate(tree):
        line, what = _first_error(schema)
        raise ConfigError(what, file=path, line=line, remedy="correct that attribute or element")
    return tree


def _first_error(schema: etree.XMLSchema) -> tuple[int, str]:
    """libxml2's first complaint, which names element and attribute; the ones after it often follow from it."""
    entries: Any = schema.error_log
    return int(entries[0].line), str(entries[0].message).replace("Element ", "element ", 1)


class _Reader:
    """Takes the checked tree apart and applies the rules that an XSD can't say."""

    def __init__(self, path: Path, init: etree._Element) -> None:
        self._path = path
        self._init = init
        self._one: dict[str, etree._Element] = {}
        self._every: dict[str, list[etree._Element]] = {name: [] for name in _MANY}

    def site(self) -> Site:
        self._sort()
        ha = self._required("ha", '<ha enabled="1"/>')
        site = Site(
            enabled=ha.get("enabled") == "1",
            default_active=self._server("default_active"),
            default_passive=self._server("default_passive"),
            virtual_ip=self._virtual_ip(),
            files=self._files(),
            ping_nodes=tuple(self._address(e, "ip") for e in self._every["ping_node"]),
            links=tuple(
                Link(self._address(e, "default_active"), self._address(e, "default_passive")) for e in self._every["link"]
            ),
        )
        site = self._timed(self._numbers(site))
        self._check_addresses(site)
        self._check_files(site)
        return site

    def _sort(self) -> None:
        for element in self._init.iterchildren("*"):
            name = str(element.tag)
            if name in _MANY:
                self._every[name].append(element)
            elif name in self._one:
                first = self._one[name].sourceline
                raise self._wrong(element, f"element '{name}' stands twice (first in line {first})", "remove one of them")
            else:
                self._one[name] = element

    def _required(self, name: str, sample: str) -> etree._Element:
        if name not in self._one:
            raise self._wrong(self._init, f"element '{name}' is missing in <init>", f"add {sample}")
        return self._one[name]

    def _server(self, name: str) -> Server:
        element = self._required(name, f'<{name} ip="…"/>')
        return Server(self._address(element, "ip"), element.get("name", ""))

    def _virtual_ip(self) -> str:
        element = self._one.get("virtual_ip")
        return "" if element is None or not element.get("ip", "").strip() else self._address(element, "ip")

    def _address(self, element: etree._Element, attribute: str) -> str:
        text = element.get(attribute, "").strip()
        try:
            address = ip_address(text)
        except ValueError:
            what = f"element '{element.tag}', attribute '{attribute}': {text!r} is not an IP address"
            raise self._wrong(element, what, "write it like 192.168.120.166") from None
        if address.is_unspecified or address.is_multicast or address.is_loopback:
            what = f"element '{element.tag}', attribute '{attribute}': {text} can't be a server's address"
            raise self._wrong(element, what, "use an address of the network")
        return str(address)

    def _numbers(self, site: Site) -> Site:
        device = self._one.get("device_uname", self._one.get("device_undef"))
        if device is not None:
            site = replace(site, device_port=int(device.get("port", "5222")), device_timeout=int(device.get("timeout", "20")))
        manager = self._one.get("ha_manager_configuration")
        if manager is not None:
            site = replace(
                site,
                connection_timeout=int(manager.get("connection_timeout", site.connection_timeout)),
                port=int(manager.get("ha_manager_port", site.port)),
                heartbeat_cmd_interval=int(manager.get("heartbeat_cmd_interval", site.heartbeat_cmd_interval)),
                passive_status_interval=int(manager.get("passive_status_interval", site.passive_status_interval)),
            )
        replication = self._one.get("replication")
        if replication is not None:
            synchronous = replication.get("synchronous", "on") == "on"
            site = replace(site, synchronous=synchronous, solo=replication.get("solo", "silence"))
        alone = self._one.get("boot_alone")
        return site if alone is None else replace(site, boot_alone=alone.get("mode", "wait"))

    def _timed(self, site: Site) -> Site:
        element = self._one.get("timing")
        if element is None:
            return site
        profile = element.get("profile", "recommended")
        given = {str(k): _seconds(str(v)) for k, v in element.attrib.items() if k != "profile"}
        timing = Timing(**(asdict(PROFILES[profile]) | given))
        broken = check_timing(timing)
        if broken:
            names = ", ".join(f"'{name}'" for name in given) or "'profile'"
            what = f"element 'timing', attribute {names}: {'; '.join(broken)}"
            raise self._wrong(element, what, f"correct the values or leave them out: profile {profile} is consistent")
        return replace(site, profile=profile, timing=timing)

    def _files(self) -> tuple[ReplicatedFile, ...]:
        parent = self._one.get("files_to_replicate")
        elements = [] if parent is None else list(parent.iterchildren("file"))
        return tuple(
            ReplicatedFile(
                e.get("name", ""), e.get("inotify") == "1", int(e.get("interval", "60")), e.get("permissions", "root:root")
            )
            for e in elements
        )

    def _check_addresses(self, site: Site) -> None:
        active, passive = self._one["default_active"], self._one["default_passive"]
        if site.default_active.ip == site.default_passive.ip:
            what = f"element 'default_passive', attribute 'ip': {site.default_passive.ip} is the default active's address too"
            raise self._wrong(passive, what, "give each server its own")
        if site.default_active.name and site.default_active.name == site.default_passive.name:
            what = f"element 'default_passive', attribute 'name': {site.default_passive.name} is the default active's name too"
            raise self._wrong(passive, what, "each server's name is what `uname -n` prints on it")
        if site.virtual_ip in (site.default_active.ip, site.default_passive.ip):
            what = f"element 'virtual_ip', attribute 'ip': {site.virtual_ip} is a server's own address"
            raise self._wrong(self._one["virtual_ip"], what, "use an address that no device has")
        for element, node in zip(self._every["ping_node"], site.ping_nodes, strict=True):
            if node in (site.default_active.ip, site.default_passive.ip, site.virtual_ip):
                what = f"element 'ping_node', attribute 'ip': {node} belongs to the pair itself"
                raise self._wrong(element, what, "use a third device, usually the default gateway")
        for element, link in zip(self._every["link"], site.links, strict=True):
            if link.default_active == link.default_passive:
                what = f"element 'link': both servers have {link.default_active}"
                raise self._wrong(element, what, "give each server its own address on the link")
        if ip_address(site.default_active.ip).version != ip_address(site.default_passive.ip).version:
            raise self._wrong(active, "one server has an IPv4 address, the other an IPv6 address", "use one family for both")

    def _check_files(self, site: Site) -> None:
        seen: set[str] = set()
        parent = self._one.get("files_to_replicate")
        elements = [] if parent is None else list(parent.iterchildren("file"))
        for element, file in zip(elements, site.files, strict=True):
            if file.name in seen:
                raise self._wrong(element, f"element 'file', attribute 'name': {file.name} stands twice", "remove one of them")
            if ".." in Path(file.name).parts or file.name == "/":
                what = f"element 'file', attribute 'name': {file.name} can't be replicated"
                raise self._wrong(element, what, "write an absolute path without '..'")
            seen.add(file.name)

    def _wrong(self, element: etree._Element, what: str, remedy: str) -> ConfigError:
        line: Any = element.sourceline
        return ConfigError(what, file=self._path, line=line, remedy=remedy)


def _seconds(text: str) -> float:
    """Linux-HA's times: ``2``, ``1.7``, ``1.7s``, ``500ms``; in seconds."""
    text = text.strip()
    if text.endswith("ms"):
        return float(text[:-2]) / 1000
    return float(text.removesuffix("s"))
