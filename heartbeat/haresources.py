"""haresources: which resources move together, and which server has them by default.

Promise: the format of heartbeat 3.0.6, and a node alone for a pair without an address (``node r1 r2::argument``, ``\\``
continues a line, a bare address means IPaddr); every error with file, line and remedy. Source: facts/linux-ha-heartbeat.md,
"ha.cf", haresources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from runtime.errors import ConfigError

_ADDRESS = re.compile(r"[0-9]+\.[0-9.]+(?:/[^\s]*)?\Z")
_IPADDR = ("IPaddr", "IPaddr2")


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
    """An IPaddr resource. ``device`` is "" and ``prefix`` -1 where the routes are to tell."""

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
    script, *arguments = word.split("::")
    if _ADDRESS.match(word):
        return Resource("IPaddr", (word,), line)
    if not re.fullmatch(r"[A-Za-z0-9_.@-]+", script):
        raise ConfigError(
            f"{script!r} can't be a resource script", file=file, line=line, remedy="write an address, or the name of a script"
        )
    return Resource(script, tuple(arguments), line)


def virtual_address(resource: Resource, file: str = "haresources") -> VirtualAddress | None:
    """The address that a resource stands for: ``a.b.c.d[/prefix][/interface][/broadcast]``; None if it is no IPaddr."""
    if resource.script not in _IPADDR:
        return None
    text = resource.arguments[0] if resource.arguments else ""
    address, *options = text.split("/")
    prefix, device = -1, ""
    try:
        IPv4Address(address)
        for option in options:
            if option.isdigit():
                prefix = int(option)
            elif _ADDRESS.match(option):
                IPv4Address(option)
            else:
                device = option
    except AddressValueError:
        prefix = 99
    if prefix > 32 or len(options) > 3 or not re.fullmatch(r"[^\s:]{0,15}", device):
        raise ConfigError(
            f"{text!r} is no address of this form", file=file, line=resource.line,
            remedy="write it as in 192.168.120.187 or 192.168.120.187/24/eth0",
        )  # fmt: skip
    return VirtualAddress(str(IPv4Address(address)), prefix, device, resource.line)
