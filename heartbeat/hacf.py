"""ha.cf: Linux-HA's directives, and ours beside them, read line by line.

Promise: every directive that heartbeat 3.0.6 knows is accepted; those that mean nothing here are named in a warning, not
refused, so that an existing file can be used as it is; a directive that nobody knows, or a value that can't be meant, is
refused with its line and a remedy. Only the lines are judged here; whether they make a pair is ``config``'s question.
Source: facts/linux-ha-heartbeat.md, "ha.cf"; ha.cf(5). Ours: ``profile``, ``ping_period``, ``isolation``, ``lease``,
``stale``, ``solo_time``, ``role_expiry``, ``allowance``, ``stall``, ``synchronous``, ``maximum_lag``, ``solo``,
``boot_alone``, ``vip_port``, ``compatibility``, ``ping_quorum``, ``arp_check``, ``fence``, ``fence_timeout``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from heartbeat.fence_lines import FenceLine, read_line
from heartbeat.media import Medium
from runtime.errors import ConfigError
from runtime.hafiles import TIMES
from runtime.priority import HEARTBEAT
from runtime.sizes import MAXIMUM_LAG, size_of
from runtime.timing import PROFILES

UDP_PORT = 694
VIP_PORT = 5432


@dataclass
class HaCf:
    """What the file says. Times are seconds, by the name of the directive; ``lines`` tells where each directive stood last."""

    file: str
    nodes: list[str] = field(default_factory=list)
    media: list[Medium] = field(default_factory=list)
    #: name → addresses; a plain ping node is a group of one, named like its address
    ping_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: name → where it is named
    ping_lines: dict[str, int] = field(default_factory=dict)
    ping_quorum: int = 1
    times: dict[str, float] = field(default_factory=dict)
    profile: str = ""
    port: int = UDP_PORT
    vip_port: int = VIP_PORT
    solo: str = "silence"
    boot_alone: str = "wait"
    compatible: bool = False
    synchronous: bool = True
    maximum_lag: int = MAXIMUM_LAG
    facility: str = "daemon"
    debug: int = 0
    realtime: bool = True
    priority: int = HEARTBEAT
    arp_check: bool = False
    fences: list[FenceLine] = field(default_factory=list)
    #: seconds for all that one fence agent does
    fence_timeout: float = 60.0
    watchdog: str = ""
    #: every directive as written, for ``cl_status hbparameter``
    parameters: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def error(self, message: str, line: int | None, remedy: str) -> ConfigError:
        return ConfigError(message, file=self.file, line=line, remedy=remedy)


def parse(text: str, file: str = "ha.cf") -> HaCf:
    """Read a whole file. Raises ConfigError at the first line that can't be used."""
    cf = HaCf(file)
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#", 1)[0].split()
        if not words:
            continue
        name, values = words[0], words[1:]
        reader = _DIRECTIVES.get(name)
        if reader is None:
            raise cf.error(f"unknown directive {name}", number, _similar(name))
        cf.lines[name] = number
        cf.parameters[name] = " ".join(values)
        reader(cf, name, values, number)
    return cf


def _similar(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), _DIRECTIVES, 1)
    return f"is {near[0]} meant?" if near else "remove the line; ha.cf(5) lists the directives"


# --- values ---------------------------------------------------------------------------------------------------------------

_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|usec|ms|msec|s|sec|m|min|h|hr|hour|d)?\Z")
_UNITS = {
    "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hr": 3600.0,
    "hour": 3600.0, "d": 86400.0,
}  # fmt: skip
_TRUE, _FALSE = {"true", "on", "yes", "y", "1"}, {"false", "off", "no", "n", "0"}
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DEVICE = re.compile(r"[^\s/:]{1,15}\Z")

Reader = Callable[[HaCf, str, list[str], int], None]


def _one(cf: HaCf, name: str, values: list[str], line: int) -> str:
    if len(values) != 1:
        raise cf.error(f"{name} takes one value, not {len(values)}", line, f"write: {name} VALUE")
    return values[0]


def _seconds(cf: HaCf, name: str, values: list[str], line: int) -> float:
    text = _one(cf, name, values, line)
    match = _TIME.match(text)
    if match is None:
        raise cf.error(f"{name}: {text!r} is not a time", line, "write seconds (2, 1.7) or milliseconds (500ms)")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _boolean(cf: HaCf, name: str, values: list[str], line: int) -> bool:
    text = _one(cf, name, values, line).lower()
    if text not in _TRUE | _FALSE:
        raise cf.error(f"{name}: {text!r} is neither on nor off", line, f"write: {name} on, or {name} off")
    return text in _TRUE


def _number(cf: HaCf, name: str, values: list[str], line: int, least: int, most: int) -> int:
    text = _one(cf, name, values, line)
    if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
        raise cf.error(f"{name}: {text!r} is not a number from {least} to {most}", line, f"write: {name} {most}")
    return int(text)


def _address(cf: HaCf, name: str, text: str, line: int) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        remedy = f"write: {name}6 …" if ":" in text and name in ("ucast", "mcast") else "write it as in 192.168.120.1"
        raise cf.error(f"{name}: {text!r} is no IPv4 address", line, remedy) from None


def _address6(cf: HaCf, name: str, text: str, line: int) -> str:
    """Without a zone: a link's device is that."""
    try:
        return str(IPv6Address(text.partition("%")[0]))
    except ValueError:
        raise cf.error(f"{name}: {text!r} is no IPv6 address", line, "write it as in fd00:120::1") from None


def _ping_node(cf: HaCf, name: str, text: str, line: int) -> str:
    """Of either family; a link-local address needs its zone, because nothing else says where it is."""
    try:
        address = ip_address(text)
    except ValueError:
        raise cf.error(f"{name}: {text!r} is no IP address", line, "write it as in 192.168.120.1 or fd00:120::1") from None
    if isinstance(address, IPv6Address) and address.is_link_local and not address.scope_id:
        raise cf.error(f"{name}: {text} is there on every link", line, f"name the interface, as in {text}%eth0")
    return str(address)


def _device(cf: HaCf, name: str, text: str, line: int) -> str:
    if not _DEVICE.match(text):
        raise cf.error(f"{name}: {text!r} can't be an interface", line, "write its name as `ip link` shows it")
    return text


# --- directives -----------------------------------------------------------------------------------------------------------


def _read_node(cf: HaCf, name: str, values: list[str], line: int) -> None:
    for node in values or [""]:
        if not _NODE.match(node):
            raise cf.error(f"node: {node!r} can't be a host's name", line, "write what `uname -n` prints on that server")
        if node in cf.nodes:
            raise cf.error(f"node {node} is named twice", line, "name each of the two servers once")
        cf.nodes.append(node)


_EXAMPLES = {"ucast": "192.168.1.2", "ucast6": "fd00:1::2", "mcast": "239.0.0.1", "mcast6": "ff12::1:2:3:4"}


def _read_ucast(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if len(values) != 2:
        remedy = f"write: {name} eth0 {_EXAMPLES[name]} (the other server's)"
        raise cf.error(f"{name} takes an interface and an address", line, remedy)
    device, text = values
    address = (_address6 if name == "ucast6" else _address)(cf, name, text, line)
    _add_medium(cf, Medium("ucast", _device(cf, name, device, line), address, cf.port, line))


def _add_medium(cf: HaCf, medium: Medium) -> None:
    if medium in cf.media:
        raise cf.error(f"{medium.kind} {medium.device} {medium.address}".strip() + " is there twice", medium.line,
                       "remove one of the lines")  # fmt: skip
    cf.media.append(medium)


def _read_bcast(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if not values:
        raise cf.error("bcast takes at least one interface", line, "write: bcast eth0")
    for device in values:
        _add_medium(cf, Medium("bcast", _device(cf, name, device, line), "", cf.port, line))


def _read_mcast(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if len(values) != 5:
        said = f"{name} takes interface, group, port, {'hops' if name == 'mcast6' else 'ttl'} and loop"
        raise cf.error(said, line, f"write: {name} eth0 {_EXAMPLES[name]} 694 1 0")
    device, text, *numbers = values
    group = (_address6 if name == "mcast6" else _address)(cf, name, text, line)
    if not ip_address(group).is_multicast:
        raise cf.error(f"{name}: {group} is no multicast group", line, f"give one like {_EXAMPLES[name]}")
    limits = ((1, 65535), (1, 255), (0, 1))
    port, hops, loop = (_number(cf, name, [text], line, *limit) for text, limit in zip(numbers, limits, strict=True))
    _add_medium(cf, Medium("mcast", _device(cf, name, device, line), group, port, line, hops, bool(loop)))


def _read_udpport(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if cf.media:
        raise cf.error(
            "udpport comes after a medium, for which it would not hold", line, "move it above bcast, mcast and ucast"
        )
    cf.port = _number(cf, name, values, line, 1, 65535)


def _read_ping(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if not values:
        raise cf.error(f"{name} takes at least one address", line, f"write: {name} 192.168.120.1 (usually the default gateway)")
    for text in values:
        address = _ping_node(cf, name, text, line)
        _add_group(cf, address, (address,), line)


def _read_ping_group(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if len(values) < 2:
        raise cf.error("ping_group takes a name and addresses", line, "write: ping_group routers 10.0.0.1 10.0.0.2")
    _add_group(cf, values[0], tuple(dict.fromkeys(_ping_node(cf, name, text, line) for text in values[1:])), line)


def _add_group(cf: HaCf, group: str, addresses: tuple[str, ...], line: int) -> None:
    if group in cf.ping_groups:
        raise cf.error(f"ping node {group} is there twice", line, "remove one: it would count twice")
    cf.ping_groups[group] = addresses
    cf.ping_lines[group] = line


def _read_ping_quorum(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.ping_quorum = _number(cf, name, values, line, 1, 999)


def _read_time(cf: HaCf, name: str, values: list[str], line: int) -> None:
    seconds = _seconds(cf, name, values, line)
    if seconds <= 0:
        raise cf.error(f"{name} must be longer than nothing", line, "write seconds (2, 1.7) or milliseconds (500ms)")
    cf.times[name] = seconds


def _read_auto_failback(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if (len(values) == 1 and values[0].lower() == "legacy") or _boolean(cf, name, values, line):
        because = "the service stays where it is until somebody moves it"
        cf.warnings.append(f"{cf.file}:{line}: auto_failback {values[0]} is not followed: {because}")


def _word(*words: str) -> Reader:
    def read(cf: HaCf, name: str, values: list[str], line: int) -> None:
        text = _one(cf, name, values, line)
        if text not in words:
            raise cf.error(f"{name}: {text!r} is none of {', '.join(words)}", line, f"write: {name} {words[0]}")
        setattr(cf, name, text)

    return read


def _read_vip_port(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.vip_port = _number(cf, name, values, line, 1, 65535)


def _read_compatibility(cf: HaCf, name: str, values: list[str], line: int) -> None:
    """``on`` and ``linux-ha`` are the same: the peer is a Linux-HA node, and this one becomes another (``linuxha``)."""
    cf.compatible = values == ["linux-ha"] or _boolean(cf, name, values, line)


def _read_synchronous(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.synchronous = _boolean(cf, name, values, line)


def _read_maximum_lag(cf: HaCf, name: str, values: list[str], line: int) -> None:
    try:
        cf.maximum_lag = size_of(_one(cf, name, values, line))
    except ValueError as wrong:
        raise cf.error(f"{name} {values[0]}: {wrong}", line, f"write {name} 16MB, say") from wrong


def _read_arp_check(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.arp_check = _boolean(cf, name, values, line)


def _read_fence(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if not values:
        raise cf.error("fence takes an agent and its options", line, "write: fence fence_ipmilan ip=10.0.0.9 plug={peer}")
    cf.fences.append(read_line("*", values[0], values[1:], cf.file, line))


def _read_stonith_host(cf: HaCf, name: str, values: list[str], line: int) -> None:
    """Linux-HA's own plugins (of cluster-glue) are other programs with other arguments."""
    if len(values) < 2:
        raise cf.error(f"{name} takes a node (or *), an agent and its options", line, f"write: {name} * fence_apc ip=10.0.0.9")
    host, agent, *options = values
    if "fence_" in agent:
        cf.fences.append(read_line(host, agent, options, cf.file, line))
    else:
        because = "only the standard fence_* agents are run; NOTHING IS FENCED by this line"
        cf.warnings.append(f"{cf.file}:{line}: {name} … {agent} is not used: {because}")


def _read_fence_timeout(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.fence_timeout = _seconds(cf, name, values, line)


def _read_watchdog(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.watchdog = _one(cf, name, values, line)
    if not cf.watchdog.startswith("/"):
        raise cf.error(f"watchdog: {cf.watchdog!r} is no full path", line, "write: watchdog /dev/watchdog")


def _read_facility(cf: HaCf, name: str, values: list[str], line: int) -> None:
    text = _one(cf, name, values, line).lower()
    if text == "none":
        cf.warnings.append(f"{cf.file}:{line}: logfacility none is not followed: role changes always reach the system log")
        return
    from runtime.syslog import FACILITIES

    if text not in FACILITIES:
        raise cf.error(f"logfacility: {text!r} is no facility of syslog", line, f"one of {', '.join(FACILITIES)}")
    cf.facility = text


def _read_debug(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.debug = _number(cf, name, values, line, 0, 255)


def _read_realtime(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.realtime = _boolean(cf, name, values, line)


def _read_rtprio(cf: HaCf, name: str, values: list[str], line: int) -> None:
    cf.priority = _number(cf, name, values, line, 1, 99)


def _read_crm(cf: HaCf, name: str, values: list[str], line: int) -> None:
    if _one(cf, name, values, line).lower() not in _FALSE:
        raise cf.error(
            f"{name} {values[0]}: this heartbeat doesn't run under a cluster resource manager", line, f"write: {name} off"
        )


def _unused(because: str) -> Reader:
    def read(cf: HaCf, name: str, values: list[str], line: int) -> None:
        cf.warnings.append(f"{cf.file}:{line}: {name} is not used: {because}")

    return read


def _quiet(cf: HaCf, name: str, values: list[str], line: int) -> None:
    """Accepted; what it asks for is so, or makes no difference."""


_OBSOLETE = _unused("it is obsolete")
_LOGGING = _unused("messages go to the system log")
_PROCESSES = _unused("the Manager starts and watches processes")

_DIRECTIVES: dict[str, Reader] = {
    "node": _read_node, "udpport": _read_udpport, "bcast": _read_bcast,
    "ucast": _read_ucast, "ucast6": _read_ucast, "mcast": _read_mcast, "mcast6": _read_mcast,
    "ping": _read_ping, "ping6": _read_ping, "ping_group": _read_ping_group, "ping_quorum": _read_ping_quorum,
    "auto_failback": _read_auto_failback,
    "profile": _word(*PROFILES), "solo": _word("silence", "release"), "boot_alone": _word("wait", "after_initdead"),
    "synchronous": _read_synchronous, "maximum_lag": _read_maximum_lag,
    "vip_port": _read_vip_port, "compatibility": _read_compatibility, "logfacility": _read_facility, "debug": _read_debug,
    "realtime": _read_realtime, "rtprio": _read_rtprio, "crm": _read_crm, "pacemaker": _read_crm,
    **dict.fromkeys(TIMES, _read_time),
    **dict.fromkeys(("logfile", "debugfile", "use_logd", "conn_logd_time"), _LOGGING),
    **dict.fromkeys(("respawn", "apiauth"), _PROCESSES),
    "arp_check": _read_arp_check, "fence": _read_fence, "stonith_host": _read_stonith_host,
    "fence_timeout": _read_fence_timeout, "watchdog": _read_watchdog,
    "stonith": _unused("fence agents are named by fence, or stonith_host; NOTHING IS FENCED by this line"),
    **dict.fromkeys(("compression", "compression_threshold", "traditional_compression"), _unused("frames are small")),
    **dict.fromkeys(("uuidfrom", "coredumps", "hbgenmethod", "msgfmt"), _quiet),
    "autojoin": _unused("a pair has exactly the two nodes that are named"),
    **dict.fromkeys(("serial", "baud", "hopfudge", "hbaping", "nice_failback", "normalpoll", "use_apphbd"), _OBSOLETE),
    **dict.fromkeys(("memreserve", "crm_daemon_dir", "crmd_spawns_pengine", "env", "max_rexmit_delay"), _OBSOLETE),
}  # fmt: skip
