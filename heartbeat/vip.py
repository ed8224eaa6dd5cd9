"""The virtual addresses as the core wants them: taken, kept by their lease, announced, let go.

Promise: an address answers only while this process refreshes the lease (design §4 rule 5); an order that comes too late,
because this process did not run between the decision and this call, is not carried out. No call waits, but for the
kernel where an address is taken or let go: others' changes hold nobody up who has one. What the kernel refuses
is told through ``trouble``, never raised: a VIP that can't be held is an alarm, not the end of heartbeat, and doesn't keep the
others from being held. What moves with the addresses is started after they are there; when they go, the network loses them at
once, and this server keeps them to itself until what moves with them has stopped, or for a lease time. Source: design §4
rules 2 and 5; facts/linux-ha-heartbeat.md ("stale ARP after failover or heal, GARP sent while the link is still down").
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from runtime.address import Assigned
from runtime.errors import HaError
from runtime.stranded import lent

log = logging.getLogger(__name__)

#: seconds after taking an address at which it is announced: a burst against one lost frame, repeats against a slow switch
ANNOUNCE_AT = (0.0, 0.025, 0.05, 0.075, 0.1, 1.0, 5.0)
_CHECK_PERIOD = 1.0
#: seconds between two times that an address is prolonged, if a third of the lease is less: whole seconds are its measure
_PROLONG = 0.25
#: so long after an address was let go, whoever still sends here is refused (seconds); the other one announces itself sooner
_REFUSE = 5.0


class Addresses(Protocol):
    """``runtime.rtnetlink.AddressSocket``."""

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None: ...
    def remove(self, address: str, interface: str | None = None) -> bool: ...
    def addresses(self) -> list[Assigned]: ...


class Prolonger(Protocol):
    """``runtime.prolonging.Prolonger``."""

    def prolong(self, address: str, interface: str, lifetime: float) -> None: ...
    def release(self, address: str) -> None: ...


class Lease(Protocol):
    """``runtime.lease.VipLease``."""

    def setup(self) -> None: ...
    def check(self) -> list[str]: ...
    def refresh(self, seconds: float) -> bool: ...
    def expire(self) -> None: ...
    def refuse(self, seconds: float) -> None: ...
    def gate(self, open: bool) -> int: ...
    def block(self, on: bool) -> None: ...
    def is_blocked(self) -> bool: ...


class Announcements(Protocol):
    """``runtime.arp.Announcer``."""

    def announce(self, address: str, burst: int = 3) -> None: ...


class Services(Protocol):
    """``scripts.Services``: what moves with the addresses."""

    @property
    def stopped(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class NoServices:
    """Nothing moves with the addresses."""

    stopped = True

    def start(self) -> None: ...
    def stop(self) -> None: ...


class NoAddress:
    """A pair without a virtual address: everything is as wanted at once."""

    held = open = blocked = False
    due = inf

    def __init__(self, services: Services | None = None) -> None:
        self._services = services or NoServices()

    def setup(self) -> None: ...
    def take(self, now: float) -> None:
        self._services.start()

    def refresh(self, now: float) -> None: ...
    def announce(self, now: float) -> None: ...
    def drop(self) -> None:
        self._services.stop()

    def gate(self, open: bool) -> None: ...
    def block(self, on: bool) -> None: ...
    def tick(self, now: float) -> None: ...


@dataclass
class Vip:
    """One address on its interface."""

    address: str
    device: str
    announcer: Announcements
    held: bool = False
    #: when its own lifetime is to be prolonged again
    again_at: float = -inf


class ServiceAddress:
    """All virtual addresses of the pair, as one. ``trouble(name, text)``: "" clears what was told under the name."""

    def __init__(
        self,
        vips: Iterable[tuple[str, str]],
        lease_time: float,
        addresses: Addresses,
        lease: Lease,
        announcer: Callable[[str], Announcements],
        clock: Callable[[], float],
        trouble: Callable[[str, str], None],
        services: Services | None = None,
        prolonger: Prolonger | None = None,
    ) -> None:
        """``vips``: address and interface; ``announcer`` makes one for an interface. ``prolonger``: prolongs
        addresses that are held; without it that is done here, and waits for the kernel.
        """
        self.vips = tuple(Vip(address, device, announcer(device)) for address, device in vips)
        self._lease_time = lease_time
        self._addresses = addresses
        self._lease = lease
        self._clock = clock
        self._trouble = trouble
        self._services = services or NoServices()
        self._prolonger = prolonger
        self.open = False
        self._announce_at: list[float] = []
        self._check_at = inf
        #: when addresses that the network has lost already go at the latest; inf: there are none
        self._remove_at = inf
        self._refused_until = -inf

    @property
    def held(self) -> bool:
        """All of them."""
        return all(vip.held for vip in self.vips)

    def setup(self) -> None:
        """Put the guard around the addresses; a lease that a predecessor left goes on. Raises what the kernel says."""
        self._lease.setup()

    def take(self, now: float) -> None:
        """Make the addresses answer here, because of a decision at ``now``, and announce them."""
        self._remove_at = inf
        for vip in self.vips:
            vip.held = False
        self._refuse(0.0)
        self.refresh(now)
        if any(vip.held for vip in self.vips):
            self._services.start()

    def refresh(self, now: float) -> None:
        """The lease, and the addresses' own lifetimes, are good for another lease time from ``now``; now and then, what guards
        them is looked at.
        """
        if now >= self._check_at:
            self._check_at = now + _CHECK_PERIOD
            self._try("guard", self._guard)
        if not self._renew(now):
            return
        for vip in self.vips:
            if vip.held and now >= vip.again_at:
                self._prolong(vip, now)
        new = [vip for vip in self.vips if not vip.held and self._add(vip, now)]
        for vip in new:
            vip.held = True
        if new:
            self._check_at = now + _CHECK_PERIOD
            self.announce(now)

    def announce(self, now: float) -> None:
        """Gratuitous ARP, unsolicited neighbour advertisement: now, and repeated."""
        if any(vip.held for vip in self.vips):
            self._announce_at = [now + delay for delay in ANNOUNCE_AT]
            for vip in self.vips:
                vip.again_at = -inf  # an interface without link may have lost it
            self.tick(now)

    def drop(self) -> None:
        """Refuse the port and reset its connections, then let the addresses go: nobody is kept waiting."""
        self.gate(False)
        self._refuse(_REFUSE)
        for vip in self.vips:
            vip.held = False
            if self._prolonger is not None:
                self._prolonger.release(vip.address)
        self._announce_at = []
        self._check_at = inf
        self._services.stop()
        if self._services.stopped:
            self._remove()
            self._try("lease", self._lease.expire)
        else:
            # What stops may still need to find its address here; without the lease nobody else does.
            self._try("lease", self._lease.expire)
            self._remove_at = self._clock() + self._lease_time

    def gate(self, open: bool) -> None:
        """Open the Postgres port of the addresses, or refuse it with a reset."""
        if self._try("gate", lambda: self._lease.gate(True) if open else self._close()):
            self.open = open

    def block(self, on: bool) -> None:
        """Refuse the port on every address of this server to all but the peer, or end that."""
        self._try("gate", lambda: self._lease.block(on))

    @property
    def blocked(self) -> bool:
        """In the kernel, by whomever."""
        return self._lease.is_blocked()

    @property
    def due(self) -> float:
        """When ``tick`` has something to do."""
        remove_at = 0.0 if self._remove_at < inf and self._services.stopped else self._remove_at
        return min(self._announce_at[0] if self._announce_at else inf, remove_at)

    def tick(self, now: float) -> None:
        if self._announce_at and now >= self._announce_at[0]:
            # After a pause several are due: one will do.
            self._announce_at = [at for at in self._announce_at if at > now]
            for vip in self.vips:
                if vip.held:
                    self._tell(vip)
        if self._remove_at < inf and (now >= self._remove_at or self._services.stopped):
            self._remove()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _add(self, vip: Vip, now: float) -> bool:
        vip.again_at = now + max(self._lease_time / 3, _PROLONG)
        add = self._addresses.add
        return self._try(f"vip-{vip.address}", lambda: add(vip.address, vip.device, lifetime=self._lease_time))

    def _prolong(self, vip: Vip, now: float) -> None:
        if self._prolonger is None:
            self._add(vip, now)
            return
        vip.again_at = now + max(self._lease_time / 3, _PROLONG)
        prolong = self._prolonger.prolong
        self._try(f"vip-{vip.address}", lambda: prolong(vip.address, vip.device, self._lease_time))

    def _tell(self, vip: Vip) -> None:
        self._try(f"announcement-{vip.address}", lambda: vip.announcer.announce(vip.address, 1))

    def _remove(self) -> None:
        self._remove_at = inf
        for vip in self.vips:
            self._remove_one(vip)

    def _remove_one(self, vip: Vip) -> None:
        self._try(f"vip-{vip.address}", lambda: self._addresses.remove(vip.address))

    def _close(self) -> None:
        """After a pause the address is gone with its lifetime, and with it the way for its resets."""
        there = {each.address for each in self._addresses.addresses()}
        missing = [vip.address for vip in self.vips if vip.address not in there]
        if missing:
            self._lease.expire()
        with lent(self._addresses, missing):
            self._lease.gate(False)

    def _refuse(self, seconds: float) -> None:
        now = self._clock()
        if seconds or now < self._refused_until:
            self._refused_until = now + seconds
            self._try("refusal", lambda: self._lease.refuse(seconds))

    def _renew(self, decided: float) -> bool:
        late = self._clock() - decided
        if late > self._lease_time:
            log.warning("the virtual address is not renewed: this process did not run for %.3f s", late)
            return False
        return self._try("lease", lambda: self._lease.refresh(self._lease_time))

    def _guard(self) -> None:
        problems = self._lease.check()
        if problems:
            log.error("the guard of the virtual address is restored: %s", "; ".join(problems))
            self._lease.setup()

    def _try(self, name: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except (HaError, OSError) as error:
            self._trouble(name, f"virtual address {', '.join(vip.address for vip in self.vips)}: {error}")
            return False
        self._trouble(name, "")
        return True
