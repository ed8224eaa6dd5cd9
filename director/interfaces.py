"""This node on the networks of the VIPs: MACs, own addresses, what doesn't fit.

Promise: an address of the VIPs is never taken for the node's own. Source: rtnetlink(7), sysfs(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

from director.plane import Own
from director.settings import Config
from runtime.address import Assigned, NetworkError, mac
from runtime.rtnetlink import AddressSocket


class Interfaces:
    def __init__(self, kernel: AddressSocket) -> None:
        self._kernel = kernel

    def own(self, config: Config) -> dict[str, Own]:
        """This node on each VIP's interface; one that is away is left out."""
        vips = {vip.address for vip in config.vips}
        found = {}
        for interface in dict.fromkeys(vip.interface for vip in config.vips):
            try:
                hardware = mac(interface).hex(":")
            except NetworkError:
                continue
            there = [each for each in self._kernel.addresses(interface) if each.address not in vips]
            found[interface] = Own(hardware, {family: _best(there, family, config) for family in (4, 6)})
        return found

    def management(self, config: Config) -> str:
        """The interface of the management IP; NetworkError if no interface has it."""
        for each in self._kernel.addresses():
            if each.address == config.management_ip:
                return each.interface
        raise NetworkError(f"no interface has the management IP {config.management_ip}")

    def networks(self, interface: str) -> list[Assigned]:
        return self._kernel.addresses(interface)


def places(config: Config, own: Mapping[str, Own]) -> dict[str, tuple[str, str]]:
    """VIP → this node's MAC and address there."""
    here = [(vip, own[vip.interface]) for vip in config.vips if vip.interface in own]
    return {vip.address: (each.mac, each.addresses.get(vip.family, "")) for vip, each in here}


def misplaced(config: Config, networks: Mapping[str, list[Assigned]]) -> list[str]:
    """VIPs that lie in no network of their interface."""
    wrong = []
    vips = {vip.address for vip in config.vips}
    for vip in config.vips:
        there = [
            ip_interface(f"{each.address}/{each.prefix}").network
            for each in networks.get(vip.interface, [])
            if each.address not in vips
        ]
        if not any(ip_address(vip.address) in network for network in there):
            wrong.append(f"{vip} lies in no network that this node has on {vip.interface}")
    return wrong


def _best(there: list[Assigned], family: int, config: Config) -> str:
    """The management IP, else a global address, else the link-local one (IPv6)."""
    fitting = [each.address for each in there if (":" in each.address) == (family == 6)]
    if config.management_ip in fitting:
        return config.management_ip
    return min(fitting, key=lambda each: ip_address(each).is_link_local, default="")
