"""devices.xml: the devices that get the configuration, and where they are.

Promise: whatever can't be used raises ConfigError with file, line and remedy, and then nothing of it counts; the order of the
file is kept. Source: Trustwave §2.3 ("device_type equal to Management Server"), §3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from notifier.model import Device, Kind
from runtime import modulexml
from runtime.modulexml import Section

#: the pair's two policy servers
_POLICY_SERVERS = 2

_ABSENT = (
    "the policy server writes it: <devices>, in it a <device> with name, ip and device_type for each (docs/configuration.md)"
)
_REMEDIES = {
    "device@name": "write what `uname -n` prints there",
    "device@device_type": f'write "{Kind.POLICY}" or "{Kind.SCANNING}"',
}


@dataclass(frozen=True)
class Listed:
    """One line of the file."""

    device: Device
    ip: str
    #: None: the usual one
    port: int | None = None
    #: of the policy server's database, and of base/[global|deviceId]
    id: str = ""


def load(path: Path) -> tuple[Listed, ...]:
    """Raises ConfigError."""
    root = modulexml.load(path, package="notifier", schema="devices.xsd", remedies=_REMEDIES, absent=_ABSENT)
    found: list[Listed] = []
    taken: dict[str, Section] = {}
    for section in root.children("device"):
        port = section.whole("port", 0, least=0, most=65535) or None
        ip = _address(section, port)
        name = section.text("name")
        for word in (f"{ip} port {port}" if port else ip, name.casefold()):
            if word in taken:
                raise section.error(f"{word} stands in line {taken[word].line} already", remedy="remove one of them")
            taken[word] = section
        found.append(Listed(Device(name, Kind(section.text("device_type"))), ip, port, section.text("id", name)))
        if sum(each.device.kind is Kind.POLICY for each in found) > _POLICY_SERVERS:
            said = f"{name} is the third {Kind.POLICY}; there are two at most, the active and the passive"
            raise section.error(said, "device_type", remedy="remove one of them")
    return tuple(found)


def _address(section: Section, port: int | None) -> str:
    """This machine's own loopback is one only for several devices on one machine, each with a port (trials)."""
    text = section.address("ip")
    address = ip_address(text)
    if address.is_unspecified or address.is_multicast or (address.is_loopback and port is None):
        raise section.error(f"{text} can't be a device's address", "ip", remedy="use an address of the network")
    return text
