"""haresources: which resources move together, and which server has them by default.

Promise: the format of heartbeat 3.0.6, and a node alone for a pair without an address (``node r1 r2::argument``, ``\\``
continues a line); every error with file, line and remedy. Addresses are written as Linux-HA's scripts take them, IPv4 and IPv6:

    192.168.120.187                                      a bare address means IPaddr (or IPv6addr)
    IPaddr::192.168.120.187/24/eth0:1/192.168.120.255    prefix, interface, label of the interface, broadcast address
    IPaddr2::192.168.120.187/24/eth0                     the same
    IPv6addr::fd00:120::187/64/eth0                      prefix, interface

Source: facts/linux-ha-heartbeat.md, "ha.cf", haresources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from runtime.errors import ConfigError

#: script → IP version
_SCRIPTS = {"IPaddr": 4, "IPaddr2": 4, "IPv6addr": 6}
_BARE = re.compile(r"[0-9]+\.[0-9.]+(?:/[^\s]*)?\Z")
_BARE6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:/[^\s]*)?\Z")
_DEVICE = re.compile(r"([^\s:/]{1,15})(?::[^\s:/]{0,15})?\Z")


@dataclass(frozen=True)
class Resource:
    """One word of a line: ``script::argument::argument``."""

    script: str
    arguments: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        return "::".join((self.script, *self.arguments))


@dataclass(frozen=True)
class VirtualAddress:
    """An IPaddr, IPaddr2 or IPv6addr resource. ``device`` is "" and ``prefix`` -1 where the networks are to tell."""

    address: str
    prefix: int
    device: str
    line: int


@dataclass(frozen=True)
class Group:
    """One logical line."""

    node: str
    resources: tuple[Resource, ...]
    line: int


def parse(text: str, file: str = "haresources") -> list[Group]:
    """The groups in their order; one without resources only says which node is preferred. Raises ConfigError."""
    groups = []
    for number, logical in _logical_lines(text):
        node, *words = logical.split()
        groups.append(Group(node, tuple(_resource(word, number, file) for word in words), number))
    return groups


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, continued ones joined, each with the number of its first."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    first = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].rstrip()
        first = first if parts else number
        parts.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        if joined := " ".join(parts).strip():
            found.append((first, joined))
        parts = []
    if joined := " ".join(parts).strip():
        found.append((first, joined))
    return found


def _resource(word: str, line: int, file: str) -> Resource:
    if _BARE.match(word):
        return Resource("IPaddr", (word,), line)
    if _BARE6.match(word):
        return Resource("IPv6addr", (word,), line)
    script, separator, rest = word.partition("::")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", script):
        raise ConfigError(
            f"{script!r} can't be a resource script", file=file, line=line, remedy="write an address, or the name of a script"
        )
    # an IPv6 address holds "::" itself
    arguments = (rest,) if _SCRIPTS.get(script) == 6 else tuple(rest.split("::"))
    return Resource(script, arguments if separator else (), line)


def virtual_address(resource: Resource, file: str = "haresources") -> VirtualAddress | None:
    """The address that a resource stands for; None if it is a script. Raises ConfigError."""
    version = _SCRIPTS.get(resource.script)
    if version is None:
        return None
    found = _address(resource, version)
    if found is None:
        example = "fd00:120::187 or fd00:120::187/64/eth0" if version == 6 else "192.168.120.187 or 192.168.120.187/24/eth0"
        raise ConfigError(
            f"{'::'.join(resource.arguments)!r} is no address of this form", file=file, line=resource.line,
            remedy=f"write it as in {example}",
        )  # fmt: skip
    return found


def _address(resource: Resource, version: int) -> VirtualAddress | None:
    """``ADDRESS[/PREFIX][/INTERFACE[:LABEL]][/BROADCAST]``; None if that isn't what is there."""
    if len(resource.arguments) != 1:
        return None
    text, *options = resource.arguments[0].split("/")
    prefix, device, rest = -1, "", options[:]
    if not _is(version, text):
        return None
    if rest and rest[0].isdigit():
        prefix = int(rest.pop(0))
    if rest and not _is(version, rest[0]) and (named := _DEVICE.match(rest[0])):
        device = named[1]
        del rest[0]
    if rest and _is(version, rest[0]):
        del rest[0]  # the broadcast address: a host route has none
    if rest or prefix > (128 if version == 6 else 32):
        return None
    return VirtualAddress(str(ip_address(text)), prefix, device, resource.line)


def _is(version: int, text: str) -> bool:
    try:
        return "%" not in text and ip_address(text).version == version
    except ValueError:
        return False
