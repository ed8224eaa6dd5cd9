"""The lease on answering for the virtual addresses: in milliseconds, where the addresses' own lifetime counts whole seconds.

Promise: an address that this node holds answers neither ARP, neighbour discovery nor anything else once ``renew`` has not been
called for three advertisement intervals, whatever became of this process: by then a backup may be master, and never before
(``Router.master_down``). Some seconds later the address itself has gone with its lifetime, and nothing is in force any more.
Connections that are redirected to the proxy go on. A kernel without nftables has only the lifetime. Source: design §8;
``runtime.lease`` (the policy tier's, after the same pattern).

In tables of its own family (``ip`` and ``arp director_lease``, or ``ip6 director_lease``), two sets with a timeout, each of
which holds one element: the table's own ethertype.

    answers   for three intervals, renewed with each advertisement
    held      for longer than the addresses' lifetime, renewed along with it
    rules     for, or from, a virtual address: dropped while "held" has its element and "answers" doesn't
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Callable, Iterable

from director.generation import need_nftables
from runtime.nft import Nftables, NftError
from runtime.nftset import Element, TimedElements

log = logging.getLogger(__name__)

#: seconds for which an address may be there after the last renewal: its lifetime, which the kernel rounds up, and one more
_LONGEST = 5.0
#: seconds between two renewals of what lasts so long
_OUTER = 1.0
_ETHERTYPE = {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD}
_NAME = "director_lease"


def tables(addresses: Iterable[str]) -> list[str]:
    """Those that these addresses need."""
    six = {":" in each for each in addresses}
    return [f"{family} {_NAME}" for family in ("ip", "arp", "ip6") if (family == "ip6") in six]


def removal(addresses: Iterable[str] = ("0.0.0.0", "::")) -> str:
    return "".join(f"add table {each}\ndelete table {each}\n" for each in tables(addresses))


def rules(addresses: Iterable[str]) -> str:
    """All of it, anew."""
    addresses = list(addresses)
    return removal(addresses) + "".join(_table(each, addresses) for each in tables(addresses))


def _table(table: str, addresses: list[str]) -> str:
    family = table.partition(" ")[0]
    listed = ", ".join(each for each in addresses if (":" in each) == (family == "ip6"))
    lapsed = "meta protocol @held meta protocol != @answers drop"
    to, of = f"{family} daddr", f"{family} saddr"
    if family == "arp":  # others' announcements are to be heard
        to, of = f"arp saddr ip != {{ {listed} }} arp daddr ip", "arp saddr ip"
    sets = "".join(f" set {name} {{ type ether_type; flags timeout; }}\n" for name in ("held", "answers"))
    chains = "".join(
        f" chain {hook} {{\n  type filter hook {hook} priority -150; policy accept;\n  {match} {{ {listed} }} {lapsed}\n }}\n"
        for hook, match in (("input", to), ("output", of))
    )
    return f"table {table} {{\n{sets}{chains}}}\n"


class AnswerLease:
    """Of the addresses of one virtual router. ``advert``: seconds. ``changed`` is called after each change of the ruleset.
    Belongs to one network namespace.
    """

    def __init__(
        self, advert: float, changed: Callable[[], None] = lambda: None, nft: Callable[[], Nftables] = Nftables
    ) -> None:
        self.advert = advert
        self.addresses: tuple[str, ...] = ()
        #: why there is none; "": nothing is wrong
        self.problem = ""
        self._changed = changed
        self._make = nft
        self._nft: Nftables | None = None
        self._inner: TimedElements | None = None
        self._outer: TimedElements | None = None
        self._outer_due = 0.0

    @property
    def seconds(self) -> float:
        return 3 * self.advert

    def guard(self, addresses: Iterable[str]) -> None:
        """These from now on: load the rules, which drop nothing before the first ``renew``."""
        self.addresses = tuple(addresses)
        self._load()

    def renew(self, now: float) -> None:
        """The addresses answer for ``seconds`` from now."""
        if not self.addresses:
            return
        try:
            self._renew(now)
        except NftError as missing:
            log.warning("tables %s were removed by another program: repaired (%s)", ", ".join(tables(self.addresses)), missing)
            self._load()
            if not self.problem:
                with contextlib.suppress(NftError):
                    self._renew(now)

    def remove(self) -> None:
        """After the addresses."""
        if self._nft is not None:
            with contextlib.suppress(NftError):
                self._run(removal(self.addresses))
            self._nft.close()
        self.addresses, self._nft = (), None
        self._close()

    # --- inside

    def _load(self) -> None:
        self._close()
        self.problem = ""
        if not self.addresses:
            return
        try:
            if self._nft is None:
                need_nftables()
                self._nft = self._make()
            self._run(rules(self.addresses))
            self._inner, self._outer = self._elements("answers"), self._elements("held")
        except (NftError, OSError) as refused:
            self.problem = str(refused)
            log.warning("a hung director's addresses answer until their lifetime ends: %s", refused)

    def _run(self, commands: str) -> None:
        assert self._nft is not None
        self._nft.run(commands)
        self._changed()

    def _elements(self, name: str) -> TimedElements:
        keys = ((table, struct.pack("!H", _ETHERTYPE[table.partition(" ")[0]])) for table in tables(self.addresses))
        return TimedElements([Element(table, name, key) for table, key in keys])

    def _renew(self, now: float) -> None:
        if self._inner is None or self._outer is None:
            return
        self._inner.refresh(round(self.seconds * 1000))
        self._changed()
        if now >= self._outer_due:
            self._outer.refresh(round(_LONGEST * 1000))
            self._changed()
            self._outer_due = now + _OUTER

    def _close(self) -> None:
        for each in (self._inner, self._outer):
            if each is not None:
                each.close()
        self._inner = self._outer = None
        self._outer_due = 0.0
