"""What the configuration, and the interfaces as they are, make of one virtual router.

Promise: nothing is changed here. Source: design §8; RFC 5798 §5.1.2.1 (source addresses).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from director.model import Instance
from director.settings import Config
from runtime.address import Assigned


def instance_of(config: Config, family: int, own: str) -> Instance:
    vrrp = config.vrrp
    return Instance(
        vrid=vrrp.vrid, version=vrrp.version, priority=config.priority, advert=vrrp.advert,
        addresses=tuple(vip.address for vip in config.of_router(family) if vip.advertised), own=own, preempt=vrrp.preempt,
        preempt_delay=vrrp.preempt_delay, password=vrrp.password,
    )  # fmt: skip


def peers_of(config: Config, family: int) -> tuple[str, ...]:
    return tuple(peer for peer in config.peers if (":" in peer) == (family == 6))


def same_sockets(one: Config, other: Config) -> bool:
    """Whether a participant of the one can become one of the other without leaving the virtual router."""
    a, b = one.vrrp, other.vrrp
    cards = [{vip.interface for vip in config.vips} if config.vrrp.virtual_mac else None for config in (one, other)]
    same = (a.interface, a.vrid, a.version, a.virtual_mac, a.checksum, a.password) == (
        b.interface, b.vrid, b.version, b.virtual_mac, b.checksum, b.password,
    )  # fmt: skip
    same = same and cards[0] == cards[1]
    return same and one.peers == other.peers and one.families == other.families and one.management_ip == other.management_ip


def own_address(config: Config, family: int, assigned: Sequence[Assigned]) -> str:
    """The address that the adverts come from; "": the interface has none.

    By multicast, IPv6 wants the link-local one (RFC 5798 §5.1.2.1); else it is the management IP, if the interface has it, or
    the interface's first that isn't virtual.
    """
    virtual = {vip.address for vip in config.vips}
    there = [
        each.address for each in assigned
        if each.interface == config.vrrp.interface and (":" in each.address) == (family == 6) and each.address not in virtual
        and each.usable
    ]  # fmt: skip
    if family == 6:
        local = not any(not ip_address(peer).is_link_local for peer in peers_of(config, 6))
        there = [address for address in there if ip_address(address).is_link_local == local]
    if config.management_ip in there:
        return config.management_ip
    if not there and config.management_ip in virtual:  # the owner of the addresses
        return config.management_ip
    return there[0] if there else ""


def interface_index(interface: str) -> int:
    """0: it isn't there."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
