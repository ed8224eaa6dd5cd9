"""The lease in the kernel on the virtual addresses, and who may reach the Postgres port.

Promise: without a valid lease this server answers neither ARP, neighbour discovery nor IP for a VIP, even while the address
is still configured and its owner is dead or hung: elements with a timeout in nftables sets, one set for each family, are all
that lets those packets pass. All VIPs share one lease, one gate and one block.
Source: design §4 rules 2, 4 and 5; facts/safety-model.md ("Checked on the kernel").

What passes, with V one of the virtual addresses, P the Postgres port (``inet`` and ``arp`` table ``ha_manager``, nothing else
is touched):

| packet                                    | lease lapsed      | gate closed | block on                       |
|-------------------------------------------|-------------------|-------------|--------------------------------|
| arrives for V                             | dropped           | P: reset    | P: reset, unless from the peer |
| leaves with source V                      | dropped           | passes      | passes                         |
| TCP reset, leaves with source V, port P   | passes            | passes      | passes                         |
| ARP: who has V? and answers from V        | dropped           | passes      | passes                         |
| ND: solicitation sent to V itself         | dropped           | passes      | passes                         |
| ND: advertisement of V (leaves from V)    | dropped           | passes      | passes                         |
| gratuitous ARP, advertisement of the peer | passes            | passes      | passes                         |
| this server to V while the peer has it    | passes, both ways | passes      | passes                         |
| arrives for another address of ours       | passes            | passes      | P: reset, unless from the peer |
| on lo (to addresses of ours except V)     | passes            | passes      | passes                         |
| forwarded                                 | passes            | passes      | passes                         |

A solicitation for V that goes to its multicast group isn't dropped: it may mean another address of the same group. The answer
is what is dropped: the kernel sends it from V.

``refuse`` adds, for some seconds after a VIP was let go on purpose: what still arrives here for its port gets a reset.
Clients keep sending to the server whose hardware address they remember until the other one announces itself; silence would
cost each of them the time-out of a connection. The address itself is gone by then, so this happens before routing.

Closing the gate also resets the connections that are established through V, so that a client that waits for an answer
learns of it at once; while closed, nothing answers but a reset. Closed and unblocked is the state after the first
``setup``. Resets pass without a lease too: a client whose query this server's kernel has confirmed sends nothing more, so
nobody but this server can ever tell it, and after a pause the lease is gone before the gate is closed. A reset ends
just the connection that it belongs to.

The timeout counts CLOCK_MONOTONIC: it stands still while the machine is suspended. ``expires`` is CLOCK_BOOTTIME, so
whoever finds it in the past calls ``expire`` at once.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Sequence

from runtime.address import ip
from runtime.clock import boottime
from runtime.nft import Nftables, NftError
from runtime.nftset import Element, TimedElements
from runtime.reset import reset_connections

_INET, _ARP = "inet ha_manager", "arp ha_manager"

#: Sets and chains. Declaring what exists is a no-op; flushed chains and new rules swap atomically; elements stay.
_SETUP = """
table inet ha_manager {
    set lease { type ipv4_addr; flags timeout; }
    set lease6 { type ipv6_addr; flags timeout; }
    set open { type inet_service; }
    set blocked { type inet_service; }
    set gone { type ipv4_addr; flags timeout; }
    set gone6 { type ipv6_addr; flags timeout; }
    chain prerouting { type filter hook prerouting priority -150; policy accept; }
    chain input { type filter hook input priority -150; policy accept; }
    chain output { type filter hook output priority -150; policy accept; }
}
table arp ha_manager {
    set lease { type ipv4_addr; flags timeout; }
    chain input { type filter hook input priority -150; policy accept; }
    chain output { type filter hook output priority -150; policy accept; }
}
flush chain inet ha_manager prerouting
flush chain inet ha_manager input
flush chain inet ha_manager output
flush chain arp ha_manager input
flush chain arp ha_manager output
"""


def _rules(vips: Sequence[str], peers: Sequence[str], port: int) -> str:
    """The rules, in their order; a family that has no address has none."""
    four, six = _set(vips, 4), _set(vips, 6)
    gone = [f"{at} tcp dport {port} reject with tcp reset" for at in ("ip daddr @gone", "ip6 daddr @gone6")]
    own = [(family, lease, at) for family, lease, at in (("ip", "@lease", four), ("ip6", "@lease6", six)) if at]
    input_ = [f"{family} daddr {at} {family} daddr != {lease} drop" for family, lease, at in own]
    input_ += [f"{family} daddr {at} tcp dport {port} tcp dport != @open reject with tcp reset" for family, _, at in own]
    input_ += [
        f'iifname != "lo" {family} saddr {at} tcp dport {port} accept'
        for family, at in (("ip", _set(peers, 4)), ("ip6", _set(peers, 6)))
        if at
    ]
    input_ += [f'iifname != "lo" tcp dport {port} tcp dport @blocked reject with tcp reset']
    output = [f"{family} saddr {at} tcp sport {port} tcp flags & rst == rst accept" for family, _, at in own]
    output += [f"{family} saddr {at} {family} saddr != {lease} drop" for family, lease, at in own]
    arp_input = [f"arp daddr ip {four} arp saddr ip != {four} arp daddr ip != @lease drop"] if four else []
    arp_output = [f"arp saddr ip {four} arp saddr ip != @lease drop"] if four else []
    chains = (
        (_INET, "prerouting", gone), (_INET, "input", input_), (_INET, "output", output),
        (_ARP, "input", arp_input), (_ARP, "output", arp_output),
    )  # fmt: skip
    return "".join(f"add rule {table} {chain} {rule}\n" for table, chain, rules in chains for rule in rules)


def _set(addresses: Iterable[str], family: int) -> str:
    """An nft set of those of one family; "" if there is none."""
    chosen = [each for each in addresses if (":" in each) == (family == 6)]
    return f"{{ {', '.join(chosen)} }}" if chosen else ""


class VipLease:
    """The lease, gate and block of all virtual addresses. Every call is one transaction of 0.1 ms; none waits."""

    def __init__(self, vips: Sequence[str], port: int, peers: Sequence[str], nft: Nftables | None = None) -> None:
        """``peers``: the peer's addresses, the only ones that reach the port while it is blocked; none if they aren't known."""
        self.vips = tuple(dict.fromkeys(ip(each, "virtual address") for each in vips))
        self.port = port
        self.peers = tuple(dict.fromkeys(ip(p, "address of the peer") for p in peers))
        if not self.vips:
            raise ValueError("no virtual address")
        #: CLOCK_BOOTTIME until which the lease is good for certain; 0: none was taken by this process
        self.expires = 0.0
        self._nft = nft or Nftables()
        self._elements = TimedElements([element for vip in self.vips for element in _elements(vip)])
        self._open: bool | None = None  # None: as it is in the kernel
        self._block: bool | None = None
        self._rules: dict[str, str] = {}

    def setup(self) -> None:
        """Make the tables what they should be. Keeps lease, gate and block; after a flush restores gate and block."""
        rules = _SETUP + _rules(self.vips, self.peers, self.port) + self._gate_command() + self._block_command()
        try:
            self._nft.run(rules)
        except NftError:  # what is there has our name but another shape: start afresh
            self._nft.run(_deleted() + rules)
        self._rules = {table: self._nft.rules(table) for table in (_INET, _ARP)}

    def check(self) -> list[str]:
        """What is wrong with the tables since ``setup``, in words; empty: nothing (0.1 ms)."""
        return [problem for table in (_INET, _ARP) if (problem := self._problem(table))]

    def refresh(self, seconds: float) -> bool:
        """The lease is good for ``seconds`` from now. False: somebody had removed the tables; restored (an alarm)."""
        milliseconds = int(seconds * 1000)
        if milliseconds < 1:
            raise ValueError(f"a lease of {seconds} s")
        started = boottime()
        intact = True
        try:
            self._elements.refresh(milliseconds)
        except NftError:
            intact = False
            self.setup()
            self._elements.refresh(milliseconds)
        self.expires = started + milliseconds / 1000
        return intact

    def expire(self) -> None:
        """End the lease now."""
        self.expires = 0.0
        self._repairing("".join(f"flush set {table} {name}\n" for table, name in _LEASES))

    def refuse(self, seconds: float) -> None:
        """For so long, whoever still sends here for the port of a VIP that was let go gets a reset; 0.0: not any more."""
        commands = "".join(f"flush set {_INET} {name}\n" for name in ("gone", "gone6"))
        for vip in self.vips if seconds > 0 else ():
            commands += f"add element {_INET} {'gone6' if ':' in vip else 'gone'} {{ {vip} timeout {int(seconds * 1000)}ms }}\n"
        self._repairing(commands)

    def remaining(self) -> float:
        """Seconds that the kernel still holds the lease of every address for, also one of an earlier process; 0.0: none."""
        try:
            listed = {lease: self._nft.run("list set {} {}".format(*lease)) for lease in _LEASES}
        except NftError:
            return 0.0
        return min(_expiry(listed[element.table, element.set], vip) for vip in self.vips for element in _elements(vip))

    def gate(self, open: bool) -> int:
        """Open the port of the VIPs, or refuse it; returns how many connections were reset by closing it."""
        self._open = open
        self._repairing(self._gate_command())
        return 0 if open else sum(reset_connections(vip, self.port) for vip in self.vips)

    def is_open(self) -> bool:
        """Whether the gate is open, in the kernel."""
        return self._contains("open")

    def block(self, on: bool) -> None:
        """Refuse the port on every address to all but lo and the peer, or end that."""
        self._block = on
        self._repairing(self._block_command())

    def is_blocked(self) -> bool:
        return self._contains("blocked")

    def remove(self) -> None:
        """Remove the tables. Nothing guards the VIP after it: the address goes first."""
        self._nft.run(_deleted())
        self.expires, self._open, self._block, self._rules = 0.0, None, None, {}

    def _repairing(self, commands: str) -> bool:
        try:
            self._nft.run(commands)
        except NftError:
            self.setup()
            self._nft.run(commands)
            return False
        return True

    def _problem(self, table: str) -> str | None:
        if table not in self._rules:
            return f"table {table} was not set up by this process"
        try:
            return None if self._nft.rules(table) == self._rules[table] else f"table {table} was changed by somebody"
        except NftError:
            return f"table {table} was removed by somebody"

    def _contains(self, name: str) -> bool:
        try:
            return re.search(rf"\b{self.port}\b", self._nft.run(f"list set {_INET} {name}")) is not None
        except NftError:
            return False

    def _gate_command(self) -> str:
        return _element("open", self.port, self._open)

    def _block_command(self) -> str:
        return _element("blocked", self.port, self._block)


def lift_block() -> None:
    """Whoever runs Postgres here now, heartbeat has no part in it any more. Nothing happens where there are no tables."""
    with contextlib.suppress(NftError):
        Nftables().run(f"flush set {_INET} blocked\n")


_LEASES = ((_INET, "lease"), (_INET, "lease6"), (_ARP, "lease"))


def _elements(vip: str) -> list[Element]:
    """What has to be in which sets for this address to answer."""
    if ":" in vip:
        return [Element(_INET, "lease6", socket.inet_pton(socket.AF_INET6, vip))]
    return [Element(table, "lease", socket.inet_aton(vip)) for table in (_INET, _ARP)]


def _element(name: str, port: int, present: bool | None) -> str:
    if present is None:
        return ""
    return f"flush set {_INET} {name}\n" + (f"add element {_INET} {name} {{ {port} }}\n" if present else "")


def _deleted() -> str:
    return "".join(f"add table {table}\ndelete table {table}\n" for table in (_INET, _ARP))


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _expiry(listed: str, vip: str) -> float:
    """Seconds from ``… 10.0.0.1 timeout 550ms expires 1s42ms …``."""
    found = re.search(rf"(?<![\w.:]){re.escape(vip)} timeout \S+ expires ([0-9dhms]+)", listed)
    return sum(int(n) * _UNITS[u] for n, u in re.findall(r"(\d+)(ms|[dhms])", found[1])) if found else 0.0
