"""Clients of an address that this server is about to lose, or has lost.

Promise: before the process at this end of a connection ends, the client learns that it waits in vain. A virtual address whose
owner paused goes by its lifetime; its connections stay, with a query that this kernel has confirmed, so that the client sends
nothing more. When the process is ended then, the kernel's own FIN or reset has no source address to leave from, or no lease to
pass with, and the connection is gone with it: nobody could ever tell the client. So whoever ends such a process resets its
connections first. Nobody else hears of the address being here again meanwhile: Linux answers ARP for an address of lo on every
interface, so what isn't a reset is dropped by rules that are there before the address, and don't depend on heartbeat's.
Source: ip(7), arp_ignore in ip-sysctl; design §4 rule 5; ``runtime.lease`` (resets pass without a lease).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Protocol

from runtime.address import Assigned
from runtime.errors import HaError
from runtime.nft import Nftables
from runtime.reset import own_ends, reset_connections
from runtime.rtnetlink import AddressSocket

_LENT_TO = "lo"
#: seconds after which the rules say nothing any more, whatever became of who made them; longer than the address lives
_MUTE_FOR = 3
_TABLES = ("inet ha_manager_lent", "arp ha_manager_lent")
_MUTE = """
table inet ha_manager_lent {
    set lent { type ipv4_addr; flags timeout; }
    set lent6 { type ipv6_addr; flags timeout; }
    chain input {
        type filter hook input priority -150; policy accept;
        ip daddr @lent drop
        ip6 daddr @lent6 drop
    }
    chain output {
        type filter hook output priority -150; policy accept;
        tcp flags & rst == rst accept
        ip saddr @lent drop
        ip6 saddr @lent6 drop
    }
}
table arp ha_manager_lent {
    set lent { type ipv4_addr; flags timeout; }
    chain input {
        type filter hook input priority -150; policy accept;
        arp daddr ip @lent arp saddr ip != @lent drop
    }
    chain output {
        type filter hook output priority -150; policy accept;
        arp saddr ip @lent drop
    }
}
"""


class Addresses(Protocol):
    """``runtime.rtnetlink.AddressSocket``."""

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None: ...
    def remove(self, address: str, interface: str | None = None) -> bool: ...


@contextlib.contextmanager
def lent(addresses: Addresses, missing: Iterable[str]) -> Iterator[None]:
    """Resets can leave only while this server has the address. The caller sees to it that nothing else does."""
    wanted = list(missing)
    for address in wanted:
        with contextlib.suppress(HaError):  # one that the kernel refuses has no connections either
            addresses.add(address, _LENT_TO, lifetime=1)
    try:
        yield
    finally:
        for address in wanted:
            addresses.remove(address, _LENT_TO)


def reset_stranded(port: int) -> int:
    """Reset the connections to ``port`` through addresses that this server has no longer, or only for a while (a virtual
    address has a lifetime); returns how many. Raises OSError or HaError.
    """
    ends = [each for each in own_ends(port) if not ip_address(each).is_loopback]
    if not ends:
        return 0
    with contextlib.closing(AddressSocket()) as addresses:
        there = addresses.addresses()
        fleeting = stranded(ends, there)
        missing = [end for end in fleeting if end not in {each.address for each in there}]
        with muted(missing), lent(addresses, missing):
            return sum(reset_connections(end, port) for end in fleeting)


@contextlib.contextmanager
def muted(missing: Iterable[str]) -> Iterator[None]:
    """Nothing but resets leaves from these addresses, and nothing that is sent to them arrives. Raises HaError."""
    wanted = list(missing)
    if not wanted:
        yield
        return
    nft, gone = Nftables(), "".join(f"add table {table}\ndelete table {table}\n" for table in _TABLES)
    try:
        nft.run(gone + _MUTE + "".join(map(_mute, wanted)))
        try:
            yield
        finally:
            nft.run(gone)
    finally:
        nft.close()


def _mute(address: str) -> str:
    places = ("inet ha_manager_lent lent6",) if ":" in address else tuple(f"{table} lent" for table in _TABLES)
    return "".join(f"add element {place} {{ {address} timeout {_MUTE_FOR}s }}\n" for place in places)


def stranded(ends: Iterable[str], there: Iterable[Assigned]) -> list[str]:
    """Those of the addresses that are gone, or go by themselves unless their owner prolongs them."""
    lasting = {each.address for each in there if each.lifetime is None or not each.is_host}
    return sorted(set(ends) - lasting)
