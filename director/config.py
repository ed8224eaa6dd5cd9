"""module.xml of the director, and what is taken over from /etc/sysconfig/mfend.

Promise: whatever can't be used raises ConfigError with file, line, attribute and remedy, and changes nothing; the result is
frozen. A password is never shown, and refused in a file that others than root can read. Source: design §8; the reference's
Proxy HA settings; RFC 3768, RFC 5798 (limits of the intervals).
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

from director import sysconfig
from director.settings import OWNER, Balance, Check, Config, Redirect, Track, VirtualIp, Vrrp
from runtime import modulexml
from runtime.modulexml import Section
from runtime.timing import seconds

MODULE_XML = Path("/var/wasp/conf/director/current/module.xml")

_MANY = frozenset({"peer", "track", "virtual_ip", "port_redirect"})
#: as many as fit into one advertisement
_MOST_VIPS = {4: 255, 6: 80}
#: seconds; the field has 12 bits of centiseconds in version 3, 8 of whole seconds in version 2
_LONGEST = {2: 255.0, 3: 40.95}
_LONGEST_DELAY = 1000.0
_PASSWORD = 8

_TIME = 'write seconds ("1", "0.5") or milliseconds ("100ms")'
_REMEDIES = {
    "director@priority": "write a number from 0 (scanning only) to 255",
    "vrrp@vrid": "write a number from 1 to 255, the same on every member",
    "load_balancing@lbid": "write a number from 1 to 255, the same on every member",
    "port_redirect@ports": 'write ports with commas between them, as "80,443"',
    "port_redirect@to": "write the port that the proxy listens on",
    **dict.fromkeys(("vrrp@advert", "vrrp@preempt_delay", "load_balancing@heartbeat"), _TIME),
    **dict.fromkeys(("check@interval", "check@timeout"), _TIME),
}


def load(path: Path = MODULE_XML, mfend: Path = sysconfig.MFEND) -> Config:
    """Read, check against the XSD, apply the rules between fields. Raises ConfigError."""
    root = modulexml.load(path, package="director", schema="module.xsd", remedies=_REMEDIES)
    return _Reader(root.need("init"), mfend).config()


class _Reader:
    """Takes the checked tree apart and applies the rules that an XSD can't say."""

    def __init__(self, init: Section, mfend: Path) -> None:
        self._init = init
        self._mfend = mfend
        self._one: dict[str, Section] = {}
        self._every: dict[str, list[Section]] = {name: [] for name in _MANY}
        for each in init.children("*"):
            if each.name in _MANY:
                self._every[each.name].append(each)
            elif each.name in self._one:
                first = self._one[each.name].line
                raise each.error(f"<{each.name}> stands twice, first in line {first}", remedy="remove one of them")
            else:
                self._one[each.name] = each

    def config(self) -> Config:
        director = self._init.need("director")
        vrrp = self._vrrp()
        config = Config(
            enabled=director.flag("enabled", True),
            priority=director.whole("priority", least=0, most=OWNER),
            management_ip=_host(director, "management_ip"),
            vrrp=vrrp,
            vips=tuple(_virtual_ip(each, vrrp) for each in self._every["virtual_ip"]),
            peers=tuple(_host(each, "ip") for each in self._every["peer"]),
            tracks=tuple(Track(each.text("interface"), each.whole("weight", 0)) for each in self._every["track"]),
            redirects=tuple(_redirect(each) for each in self._every["port_redirect"]),
            balance=self._balance(),
        )
        self._check_addresses(config)
        self._check_redirects(config)
        return config

    def _vrrp(self) -> Vrrp:
        section = self._one.get("vrrp")
        if section is None:
            return Vrrp()
        version = section.whole("version", 2)
        return Vrrp(
            interface=section.text("interface", "eth0"),
            vrid=section.whole("vrid", 51),
            version=version,
            advert=_advert(section, version),
            preempt=section.flag("preempt", True),
            preempt_delay=_seconds(section, "preempt_delay", 0.0, most=_LONGEST_DELAY),
            password=_password(section, version),
            virtual_mac=section.text("mac", "physical") == "virtual",
            checksum=section.text("checksum", "pseudo_header"),
            port_weight=section.whole("port_weight", 0),
            realtime=section.flag("realtime", True),
        )

    def _balance(self) -> Balance:
        section = self._one.get("load_balancing")
        balance = Balance()
        if section is not None:
            balance = Balance(
                key_file=section.text("key_file", balance.key_file),
                buckets=section.whole("buckets", balance.buckets),
                by=section.text("by", balance.by),
                capacity=section.number("capacity", balance.capacity, least=0.01, most=1000),
                own_share=section.number("own_share", balance.own_share, least=0, most=1),
                heartbeat=_seconds(section, "heartbeat", balance.heartbeat, least=0.05, most=10),
                mode=section.text("mode", balance.mode),
            )
            if section.has("lbid"):
                return replace(balance, lbid=section.whole("lbid"), lbid_from="module.xml")
        imported = sysconfig.lbid(self._mfend)
        return balance if imported is None else replace(balance, lbid=imported, lbid_from=str(self._mfend))

    # --- rules between elements

    def _check_addresses(self, config: Config) -> None:
        if not config.vips:
            raise self._init.error("<init> lacks <virtual_ip>", remedy='add <virtual_ip ip="10.1.1.250/24" …/>')
        seen: set[str] = set()
        for section, vip in zip(self._every["virtual_ip"], config.vips, strict=True):
            if vip.address in seen:
                raise section.error(f"{vip.address} stands twice", "ip", remedy="remove one of them")
            seen.add(vip.address)
            # the owner of the addresses (RFC 3768 §1.6) has them for its own
            if vip.address == config.management_ip and config.priority != OWNER:
                remedy = "use an address that no device has; a member's own is the management_ip"
                raise section.error(f"{vip.address} is this node's management IP", "ip", remedy=remedy)
            if vip.family == 6 and config.vrrp.version == 2 and vip.advertised:
                remedy = 'write version="3" into <vrrp>, or advertised="0" here: then it goes along with the IPv4 addresses'
                raise section.error("VRRP version 2 knows no IPv6", "ip", remedy=remedy)
        if not config.families:
            remedy = 'leave advertised="0" out of one <virtual_ip>'
            raise self._init.error("no virtual address is advertised", remedy=remedy)
        for family, most in _MOST_VIPS.items():
            if len([vip for vip in config.of_router(family) if vip.advertised]) > most:
                said = f"more than {most} virtual addresses of IPv{family}: they don't fit into one advertisement"
                raise self._init.error(said, remedy="use a group of its own, with another vrid, for the rest")
        for section, peer in zip(self._every["peer"], config.peers, strict=True):
            if peer in seen or peer == config.management_ip:
                remedy = "write the other directors' own addresses only"
                raise section.error(f"{peer} is this node's or the group's", "ip", remedy=remedy)

    def _check_redirects(self, config: Config) -> None:
        seen: dict[tuple[str, int], int] = {}
        for section, redirect in zip(self._every["port_redirect"], config.redirects, strict=True):
            for port in redirect.ports:
                if (redirect.transport, port) in seen:
                    first = seen[redirect.transport, port]
                    said = f"port {port} is redirected already, in line {first}"
                    raise section.error(said, "ports", remedy="write each original port once")
                seen[redirect.transport, port] = section.line


def _advert(section: Section, version: int) -> float:
    advert = _seconds(section, "advert", 1.0)
    if version == 2 and advert != int(advert):
        raise section.error("version 2 advertises in whole seconds", "advert", remedy='write "1", or version="3"')
    if not 0.01 <= advert <= _LONGEST[version]:
        least = 1 if version == 2 else "0.01"
        raise section.error(f"{advert:g} s is out of range", "advert", remedy=f"write {least} to {_LONGEST[version]:g} s")
    if abs(advert * 100 - round(advert * 100)) > 1e-6:
        raise section.error("is not a multiple of 10 ms", "advert", remedy="version 3 counts in hundredths of a second")
    return round(advert * 100) / 100


def _password(section: Section, version: int) -> str:
    password = section.text("password", "")
    if not password:
        return ""
    if version == 3:
        remedy = 'leave the password out, or write version="2"'
        raise section.error("version 3 knows no password", "password", remedy=remedy)
    if len(password) > _PASSWORD or not password.isascii() or not password.isprintable():
        remedy = f"write up to {_PASSWORD} ASCII characters: the protocol has no room for more"
        raise section.error("is too long, or not ASCII", "password", remedy=remedy)
    if stat.S_IMODE(os.stat(section.file).st_mode) & 0o007:
        raise section.error("stands in a file that everybody can read", "password", remedy=f"chmod o= {section.file}")
    return password


def _host(section: Section, attribute: str) -> str:
    text = section.address(attribute)
    address = ip_address(text)
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise section.error(f"{text} can't be a device's address", attribute, remedy="use an address of the network")
    return text


def _virtual_ip(section: Section, vrrp: Vrrp) -> VirtualIp:
    text = section.text("ip")
    try:
        wanted = ip_interface(text)
    except ValueError:
        remedy = "write one like 10.1.1.250/24"
        raise section.error(f"{text!r} is no IP address in CIDR notation", "ip", remedy=remedy) from None
    address, network = wanted.ip, wanted.network
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise section.error(f"{text} can't be a device's address", "ip", remedy="use an address of the network")
    if wanted.version == 4 and network.prefixlen < 31 and address in (network.network_address, network.broadcast_address):
        said = f"{address} is the network or broadcast address of {network}"
        raise section.error(said, "ip", remedy="give a host's address")
    interface, comment = section.text("interface", vrrp.interface), section.text("comment", "")
    return VirtualIp(str(address), network.prefixlen, interface, comment, section.flag("advertised", True))


def _redirect(section: Section) -> Redirect:
    ports = tuple(int(word) for word in section.text("ports").split(","))
    if not all(1 <= port <= 65535 for port in ports):
        raise section.error(f"{section.text('ports')!r} has a port that there isn't", "ports", remedy="write 1 to 65535")
    transport = section.text("transport", "tcp")
    return Redirect(
        protocol=section.text("protocol", "http"),
        ports=tuple(dict.fromkeys(ports)),
        to=section.whole("to", least=1, most=65535),
        transport=transport,
        comment=section.text("comment", ""),
        check=_check(section.child("check"), transport),
        data_ports=_range(section, "data_ports"),
    )


def _range(section: Section, attribute: str) -> str:
    text = section.text(attribute, "")
    if text:
        first, last = map(int, text.split("-"))
        if not 1 <= first <= last <= 65535:
            raise section.error(f"{text} is no range of ports", attribute, remedy='write one like "50000-50999"')
        return f"{first}-{last}"
    return ""


def _check(section: Section | None, transport: str) -> Check:
    default = Check(kind="none" if transport == "udp" else "connect")
    if section is None:
        return default
    kind = section.text("kind", default.kind)
    if transport == "udp" and kind in ("connect", "http"):
        raise section.error(f"{kind} can't be tried with UDP", "kind", remedy="write command, or none")
    if (kind == "command") != bool(section.text("command", "")):
        raise section.error("kind and command don't fit", "command", remedy='write kind="command" command="/path …"')
    return Check(
        kind=kind,
        path=section.text("path", default.path),
        command=section.text("command", ""),
        interval=_seconds(section, "interval", default.interval, least=0.1, most=3600),
        timeout=_seconds(section, "timeout", default.timeout, least=0.01, most=60),
        rise=section.whole("rise", default.rise, least=1, most=100),
        fall=section.whole("fall", default.fall, least=1, most=100),
    )


def _seconds(section: Section, attribute: str, default: float, *, least: float = 0.0, most: float = 1e9) -> float:
    """``default`` where there is none. Raises ConfigError."""
    text = section.text(attribute, "")
    if not text:
        return default
    value = seconds(text)
    if not least <= value <= most:
        raise section.error(f"{text} is out of range", attribute, remedy=f"write {least:g} to {most:g} s")
    return value
