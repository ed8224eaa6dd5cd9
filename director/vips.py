"""The virtual addresses of one virtual router in the kernel: taken, kept by their lease, announced, let go.

Promise: an address has a lifetime in the kernel and goes by itself when this process doesn't refresh it any more: a killed or
hung director leaves none behind for longer than ``lease``. No call waits. What the kernel refuses is told through ``trouble``,
never raised, and doesn't keep the others from being held. An address that the interface has for ever, as its owner
(priority 255), is neither added nor removed. Source: design §8; facts/vrrp-and-data-plane.md ("Kernel VIP lease").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_interface
from math import inf
from typing import Protocol

from director.settings import VirtualIp
from runtime.address import Assigned
from runtime.errors import HaError

#: seconds after taking an address at which it is announced: a burst against one lost frame, repeats against a slow switch
ANNOUNCE_AT = (0.0, 0.05, 0.2, 1.0, 5.0)
#: a switch learns a virtual MAC from announcements alone, and forgets it after some minutes (seconds)
REMIND = 60.0
#: seconds; a lifetime in the kernel is of whole ones
SHORTEST, LONGEST = 1.0, 3.0


class Kernel(Protocol):
    """``runtime.rtnetlink.AddressSocket``."""

    def add(
        self, address: str, interface: str, *, lifetime: float | None = None, prefix: int | None = None, route: bool = False
    ) -> None: ...
    def delete(self, assigned: Assigned) -> bool: ...
    def addresses(self) -> list[Assigned]: ...


class Announcements(Protocol):
    """``runtime.arp.Announcer``."""

    def announce(self, address: str, burst: int = 3) -> None: ...
    def close(self) -> None: ...


def lease_of(advert: float) -> float:
    """Seconds: before another one takes over, where that is possible, and never shorter than the kernel can count."""
    return float(max(SHORTEST, min(LONGEST, int(3 * advert))))


class VirtualAddresses:
    """All of one virtual router. ``trouble(name, text)``: "" clears what was told under the name."""

    def __init__(
        self,
        vips: Iterable[VirtualIp],
        lease: float,
        kernel: Kernel,
        announcer: Callable[[str], Announcements],
        trouble: Callable[[str, str], None],
        devices: Mapping[str, str] | None = None,
    ) -> None:
        """``devices``: what the addresses of an interface go on instead of it (a virtual MAC's)."""
        self.vips = tuple(vips)
        self.lease = lease
        self.held = False
        self._there: set[str] = set()
        self._kernel = kernel
        self._announcer = announcer
        self._announcers: dict[str, Announcements] = {}
        self._trouble = trouble
        self._devices = devices or {}
        self._permanent: set[str] = set()
        self._routed: dict[str, bool] = {}
        self._again_at = inf
        self._announce_at: list[float] = []
        self._refreshed_at = -inf
        self._put_back: set[str] = set()

    def clear(self) -> None:
        """What a predecessor that was killed has left behind goes now rather than with its lease."""
        wanted = {vip.address for vip in self.vips}
        with suppress(HaError, OSError):
            for each in self._kernel.addresses():
                if each.address in wanted and each.lifetime is not None:
                    self._kernel.delete(each)

    @property
    def leased(self) -> tuple[str, ...]:
        """All but those that an interface has for ever, as it was seen last."""
        return tuple(vip.address for vip in self.vips if vip.address not in self._permanent)

    def take(self, now: float) -> None:
        """Make the addresses answer here."""
        self.look()
        self.held = True
        self.refresh(now)

    def change(self, vips: Iterable[VirtualIp], now: float) -> None:
        """Other addresses than before; those that stay are not touched."""
        before, self.vips = self.vips, tuple(vips)
        if self.held:
            self._remove([vip for vip in before if vip not in self.vips])
            self.take(now)

    def drop(self) -> None:
        self.held = False
        self._again_at = inf
        self._announce_at = []
        self._remove(self.vips)

    def announce(self, now: float) -> None:
        """Gratuitous ARP, unsolicited neighbour advertisement: now, and repeated."""
        if self.held:
            self._announce_at = [now + delay for delay in ANNOUNCE_AT]
            if self._devices:
                self._announce_at += [now + REMIND]
            self.tick(now)

    def refresh(self, now: float) -> None:
        """The addresses' lifetimes begin anew; one that went missing is back, and is announced."""
        self._again_at, self._refreshed_at = now + self.lease / 3, now
        for address in self._put_back:
            self._trouble(f"removed-{address}", "")
        self._put_back = set()
        new = [vip for vip in self.vips if vip.address not in self._permanent and self._add(vip)]
        if any(vip.address not in self._there for vip in new):
            self._there |= {vip.address for vip in new}
            self.announce(now)

    def link_changed(self, now: float) -> None:
        """An interface came, went or lost its link, and the addresses with it perhaps."""
        if self.held:
            self._there = set()
            self.look()
            self.refresh(now)

    def addresses_removed(self, now: float) -> None:
        """Some address of this machine is gone: one of these is put back at once, and that is told."""
        if not self.held:
            return
        with suppress(OSError):
            there = {each.address for each in self._kernel.addresses()}
            gone = {vip.address for vip in self.vips if self.holds(vip) and vip.address not in there}
            if gone:
                self._repair(gone, now)

    def _repair(self, gone: set[str], now: float) -> None:
        lapsed = now - self._refreshed_at > self.lease
        why = "its lifetime ended while this process did not run" if lapsed else "and not by this director"
        self._there -= gone
        self._permanent -= gone
        self.refresh(now)
        for vip in self.vips:
            if vip.address in gone & self._there:
                self._put_back.add(vip.address)
                said = f"virtual address {vip.address} was removed from {self._device(vip)}, {why}; put back"
                self._trouble(f"removed-{vip.address}", said)

    def holds(self, vip: VirtualIp) -> bool:
        return self.held and (vip.address in self._there or vip.address in self._permanent)

    @property
    def due(self) -> float:
        return min(self._announce_at[0] if self._announce_at else inf, self._again_at)

    def tick(self, now: float, early: float = 0.0) -> None:
        """What is due now, and prolonging the leases up to ``early`` seconds before that."""
        if now + early >= self._again_at:
            self.refresh(now)
        if self._announce_at and now >= self._announce_at[0]:
            # After a pause several are due: one will do.
            self._announce_at = [at for at in self._announce_at if at > now]
            if self._devices and not self._announce_at:
                self._announce_at = [now + REMIND]
            for vip in self.vips:
                if self.holds(vip):
                    self._tell(vip)

    def close(self) -> None:
        for each in self._announcers.values():
            each.close()

    # --- inside

    def look(self) -> None:
        """What the interfaces have already: addresses for ever, networks that need no route."""
        try:
            there = self._kernel.addresses()
        except OSError:
            return
        own = {vip.address for vip in self.vips}
        self._permanent = {each.address for each in there if each.lifetime is None} & own
        self._routed = {str(vip): not _reached(vip, there, own) for vip in self.vips}

    def _add(self, vip: VirtualIp) -> bool:
        add, route = self._kernel.add, self._routed.get(str(vip), False)
        return self._try(
            f"vip-{vip.address}",
            lambda: add(vip.address, self._device(vip), lifetime=self.lease, prefix=vip.prefix, route=route),
        )

    def _remove(self, vips: Iterable[VirtualIp]) -> None:
        """Wherever they are: their interface may have another name by now. What has no lifetime isn't ours."""
        gone = {vip.address for vip in vips}
        self._there -= gone
        for address in gone:
            for name in ("vip", "announcement", "removed"):
                self._trouble(f"{name}-{address}", "")
        self._put_back -= gone
        with suppress(OSError):
            for each in self._kernel.addresses():
                if each.address in gone and each.lifetime is not None:
                    self._try(f"vip-{each.address}", lambda each=each: self._kernel.delete(each))  # type: ignore[misc]

    def _device(self, vip: VirtualIp) -> str:
        return self._devices.get(vip.interface, vip.interface)

    def _tell(self, vip: VirtualIp) -> None:
        device = self._device(vip)
        announcer = self._announcers.get(device)
        if announcer is None:
            announcer = self._announcers[device] = self._announcer(device)
        self._try(f"announcement-{vip.address}", lambda: announcer.announce(vip.address, 2))

    def _try(self, name: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except (HaError, OSError) as error:
            self._trouble(name, f"virtual address {name.partition('-')[2]}: {error}")
            return False
        self._trouble(name, "")
        return True


def _reached(vip: VirtualIp, there: Iterable[Assigned], vips: set[str]) -> bool:
    """Whether another address of the interface brings the route to the virtual address's network."""
    network = ip_interface(str(vip)).network
    others = (each for each in there if each.interface == vip.interface and each.address not in vips)
    return any(ip_interface(f"{each.address}/{each.prefix}").network == network for each in others)
