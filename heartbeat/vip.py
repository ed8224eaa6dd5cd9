"""The virtual address as the core wants it: taken, kept by its lease, announced, let go.

Promise: the address answers only while this process refreshes its lease (design §4 rule 5); an order that comes too late,
because this process did not run between the decision and this call, is not carried out. No call waits. What the kernel refuses
is told through ``trouble``, never raised: a VIP that can't be held is an alarm, not the end of heartbeat. Source: design §4
rules 2 and 5; facts/linux-ha-heartbeat.md ("GARP sent while the link is still down").
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import Protocol

from runtime.address import Assigned
from runtime.errors import HaError

log = logging.getLogger(__name__)

#: seconds after taking the address at which it is announced: a burst against one lost frame, repeats against a slow switch
ANNOUNCE_AT = (0.0, 0.025, 0.05, 0.075, 0.1, 1.0, 5.0)
_CHECK_PERIOD = 1.0


class Addresses(Protocol):
    """``runtime.address.Netlink``."""

    def add(self, address: str, interface: str, *, lifetime: float | None = None) -> None: ...
    def remove(self, address: str, interface: str | None = None) -> bool: ...
    def addresses(self) -> list[Assigned]: ...


class Lease(Protocol):
    """``runtime.lease.VipLease``."""

    def setup(self) -> None: ...
    def check(self) -> list[str]: ...
    def refresh(self, seconds: float) -> bool: ...
    def expire(self) -> None: ...
    def gate(self, open: bool) -> int: ...
    def block(self, on: bool) -> None: ...


class Announcements(Protocol):
    """``runtime.arp.Announcer``."""

    def announce(self, address: str, burst: int = 3) -> None: ...


class NoAddress:
    """A pair without a virtual address: everything is as wanted at once."""

    held = open = False
    due = inf

    def setup(self) -> None: ...
    def take(self, now: float) -> None: ...
    def refresh(self, now: float) -> None: ...
    def announce(self, now: float) -> None: ...
    def drop(self) -> None: ...
    def gate(self, open: bool) -> None: ...
    def block(self, on: bool) -> None: ...
    def tick(self, now: float) -> None: ...


class ServiceAddress:
    """One virtual address on one interface. ``trouble(name, text)``: "" clears what was told under the name."""

    def __init__(
        self,
        address: str,
        device: str,
        lease_time: float,
        addresses: Addresses,
        lease: Lease,
        announcer: Announcements,
        clock: Callable[[], float],
        trouble: Callable[[str, str], None],
    ) -> None:
        self.address = address
        self.device = device
        self._lease_time = lease_time
        self._addresses = addresses
        self._lease = lease
        self._announcer = announcer
        self._clock = clock
        self._trouble = trouble
        self.held = False
        self.open = False
        self._announce_at: list[float] = []
        self._check_at = inf

    def setup(self) -> None:
        """Put the guard around the address; a lease that a predecessor left goes on. Raises what the kernel says."""
        self._lease.setup()

    def take(self, now: float) -> None:
        """Make the address answer here, because of a decision at ``now``, and announce it."""
        self.held = False
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """The lease, and the address's own lifetime, are good for another lease time from ``now``."""
        if self._hold(now) and not self.held:
            self.held = True
            self._check_at = now + _CHECK_PERIOD
            self.announce(now)

    def announce(self, now: float) -> None:
        """Gratuitous ARP now, and repeated."""
        if self.held:
            self._announce_at = [now + delay for delay in ANNOUNCE_AT]
            self.tick(now)

    def drop(self) -> None:
        """Refuse the port and reset its connections, then remove the address, then end the lease: nobody is kept waiting."""
        self.gate(False)
        self.held = False
        self._announce_at = []
        self._check_at = inf
        self._try("vip", lambda: self._addresses.remove(self.address))
        self._try("lease", self._lease.expire)

    def gate(self, open: bool) -> None:
        """Open the address's Postgres port, or refuse it with a reset."""
        if self._try("gate", lambda: self._lease.gate(True) if open else self._close()):
            self.open = open

    def block(self, on: bool) -> None:
        """Refuse the port on every address of this server to all but the peer, or end that."""
        self._try("gate", lambda: self._lease.block(on))

    @property
    def due(self) -> float:
        """When ``tick`` has something to do."""
        return min(self._announce_at[0] if self._announce_at else inf, self._check_at)

    def tick(self, now: float) -> None:
        if self._announce_at and now >= self._announce_at[0]:
            # After a pause several are due: one will do.
            self._announce_at = [at for at in self._announce_at if at > now]
            self._try("announcement", lambda: self._announcer.announce(self.address, 1))
        if now >= self._check_at:
            self._check_at = now + _CHECK_PERIOD
            self._try("guard", self._guard)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Resets can leave only while this server has the address; after a pause it is gone with its lifetime. On lo, and
        without a lease, it answers nobody.
        """
        if any(each.address == self.address for each in self._addresses.addresses()):
            self._lease.gate(False)
            return
        self._lease.expire()
        self._addresses.add(self.address, "lo", lifetime=1)
        try:
            self._lease.gate(False)
        finally:
            self._addresses.remove(self.address, "lo")

    def _hold(self, decided: float) -> bool:
        if self._clock() - decided > self._lease_time:
            log.warning("the virtual address is not renewed: this process did not run for %.3f s", self._clock() - decided)
            return False
        if not self._try("lease", lambda: self._lease.refresh(self._lease_time)):
            return False
        return self._try("vip", lambda: self._addresses.add(self.address, self.device, lifetime=self._lease_time))

    def _guard(self) -> None:
        problems = self._lease.check()
        if problems:
            log.error("the guard of the virtual address is restored: %s", "; ".join(problems))
            self._lease.setup()

    def _try(self, name: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except (HaError, OSError) as error:
            self._trouble(name, f"virtual address {self.address}: {error}")
            return False
        self._trouble(name, "")
        return True
