"""Listening for others that claim the virtual addresses, on their interfaces: the packets to ``rivals``' decisions.

Promise: no call waits; a flood of claims costs a bounded time at each turn; what can't be listened to is an alarm, and the
addresses are held all the same. Source: ``rivals``; ``runtime.arpwatch``.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from runtime.address import mac
from runtime.arpwatch import ArpWatch, Claim, text
from runtime.errors import HaError
from runtime.rivals import Announce, Ask, Order, Rivals, Told


class Held(Protocol):
    """Whoever holds the addresses."""

    @property
    def held(self) -> bool: ...
    def announce(self, now: float) -> None: ...


class Watch(Protocol):
    """``runtime.arpwatch.ArpWatch``."""

    def fileno(self) -> int: ...
    def drain(self) -> list[Claim]: ...
    def probe(self, address: str) -> None: ...
    def close(self) -> None: ...


class VipWatch:
    """All virtual addresses. ``trouble(name, text)``: "" clears what was told under the name."""

    def __init__(
        self,
        vips: Iterable[tuple[str, str]],
        address: Held,
        selector: selectors.BaseSelector,
        trouble: Callable[[str, str], None],
        clock: Callable[[], float],
        watch: Callable[[str, Sequence[str]], Watch] = ArpWatch,
        own: Callable[[str], bytes] = mac,
        peers: Callable[[bytes], str] = lambda mac: "",
    ) -> None:
        """``vips``: address and interface. ``watch``, ``own``: what listens on an interface, and its MAC now. ``peers``: the
        other server's name, if the MAC is one of its own.
        """
        self._devices: dict[str, list[str]] = {}
        for each, device in vips:
            self._devices.setdefault(device, []).append(each)
        self._address = address
        self._selector = selector
        self._trouble = trouble
        self._clock = clock
        self._watch = watch
        self._own = own
        self._peers = peers
        self._watches: dict[str, Watch] = {}
        self._rivals = Rivals()

    def start(self) -> None:
        """Open what listens."""
        for device, addresses in self._devices.items():
            try:
                self._watches[device] = watch = self._watch(device, addresses)
            except HaError as error:
                self._trouble(f"vip-watch-{device}", str(error))
                continue
            self._selector.register(watch, selectors.EVENT_READ, lambda mask, device=device: self._heard(device))

    def close(self) -> None:
        for watch in self._watches.values():
            self._selector.unregister(watch)
            watch.close()
        self._watches = {}

    @property
    def due(self) -> float:
        return self._rivals.deadline()

    def turn(self, in_contact: bool, serving_too: bool, now: float) -> None:
        """At every turn of the loop: what the peer is, and what is due."""
        self._carry_out(self._rivals.held(self._address.held, now))
        self._carry_out(self._rivals.peer(serving_too, in_contact, now))
        if now >= self._rivals.deadline():
            self._carry_out(self._rivals.tick(now))

    def claims(self) -> dict[str, str]:
        """For the status: address → MAC of who claims it besides."""
        return {address: rival.mac for address, rival in self._rivals.rivals.items()}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _heard(self, device: str) -> None:
        try:
            own = self._own(device)
        except HaError:
            own = b""  # gone meanwhile: what it heard was heard before
        now = self._clock()
        for address, their in dict.fromkeys((claim.address, claim.mac) for claim in self._watches[device].drain()):
            if own and their != own:
                self._carry_out(self._rivals.claimed(address, text(their), now, self._peers(their)))

    def _carry_out(self, orders: Sequence[Order]) -> None:
        for order in orders:
            match order:
                case Ask():
                    self._ask()
                case Announce():
                    self._address.announce(self._clock())
                case Told(address, said):
                    self._trouble(f"claimed-{address}", said)

    def _ask(self) -> None:
        for device, addresses in self._devices.items():
            watch = self._watches.get(device)
            for address in addresses if watch else ():
                try:
                    assert watch is not None
                    watch.probe(address)
                    self._trouble(f"vip-watch-{device}", "")
                except HaError as error:
                    self._trouble(f"vip-watch-{device}", str(error))
