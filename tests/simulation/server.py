"""One server: its clock, power, pauses, virtual IP with lease, role file, and the processes on it.

Promise: nothing scheduled by a server runs after its power went, nor while the machine stands still; clocks run at a rate
of their own and go on through a pause (CLOCK_BOOTTIME). What answers for the VIP is an address whose kernel lease has not
lapsed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from heartbeat.model import Epoch, Names, Phase

from .disk import Disk
from .ha_manager import HaManager
from .heartbeat import Heartbeat
from .postgres import STOPPED, Postgres

if TYPE_CHECKING:
    from .world import World

#: the keeper stops Postgres when ha_manager has not renewed its lease for so long (seconds)
KEEPER_LEASE = 1.0
#: likewise where nobody else can become active meanwhile (ha_manager.rolelease.RoleLease.alone)
ALONE_LEASE = 30.0
#: a process that answers no ping for so long is killed by the Manager
HANG_LIMIT = 1.0
RESTART = (0.2, 0.4)


class Server:
    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world = world
        self.engine = world.engine
        self.timing = world.timings[name]
        self.name = name
        self._rate = rate
        self._offset = self.engine.between(1000.0, 2000.0)
        self.alive = False
        self.paused = 0
        self.life = 0
        #: when a machine that had stood still went on
        self.thawed_at = -inf
        self._deferred: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        self._packets = 0
        self.disk = Disk(self.engine)
        #: on the disk: the database here is half a copy; where in the log each epoch of this server's own began
        self.copying = False
        self.epoch_starts: dict[Epoch, int] = {}
        self.vip = False
        self.gate = False
        self.lease_until = -inf
        self.role_expires = -inf
        self.role_epoch = Epoch()
        self.postgres = Postgres(self)
        self.manager = HaManager(self)
        self.heartbeat = Heartbeat(self)
        self._manager_ok_at, self._keeper_lease = 0.0, KEEPER_LEASE
        self.peer: Server = self

    # --- time -----------------------------------------------------------------------------------------------------------

    def clock(self) -> float:
        return self._offset + self._rate * self.engine.now

    def until(self, boottime: float) -> float:
        """Seconds of true time until this server's clock shows ``boottime``."""
        return (boottime - self._offset) / self._rate - self.engine.now

    def later(self, delay: float, call: Callable[..., Any], *args: Any) -> None:
        self.engine.after(delay if delay > 0 else 0.0, self._fire, self.life, call, args)

    def _fire(self, life: int, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if life != self.life or not self.alive:
            return
        if self.paused:
            self._deferred.append((life, call, args))
        else:
            call(*args)

    def packet(self, call: Callable[..., Any], *args: Any) -> None:
        """A datagram arrives; a machine standing still keeps only the first few."""
        if self.paused:
            self._packets += 1
            if self._packets > 40:
                return
        self._fire(self.life, call, args)

    def trace(self, text: str) -> None:
        if self.world.tracing:
            self.world.note(self.name, text)

    # --- power and pauses -----------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        if not self.alive:
            return
        self.trace("power cut")
        self.alive = False
        self.life += 1
        self.paused = 0
        self._deferred.clear()
        self.disk.interrupt()
        self.heartbeat.end()
        self.manager.kill()
        self.postgres.lose_power()
        self.vip = self.gate = False
        self.lease_until = self.role_expires = -inf

    def power_on(self) -> None:
        if self.alive:
            return
        self.trace("power on")
        self.alive = True
        self.engine.after(0.0, self._booted, self.life)

    def _booted(self, life: int) -> None:
        self.later(self.engine.between(0.3, 1.0), self.heartbeat.start)
        self.later(self.engine.between(0.3, 1.2), self.manager.start)
        self._manager_ok_at = self.engine.now
        self.watch()

    def pause(self) -> int:
        """The machine stands still; returns what ``resume`` must be told."""
        self.trace("machine stands still")
        self.paused += 1
        self._packets = 0
        return self.life

    def resume(self, life: int) -> None:
        if life != self.life or not self.paused:
            return
        self.paused -= 1
        if self.paused:
            return
        self.trace("machine goes on")
        self.thawed_at = self.engine.now
        calls, self._deferred = self._deferred, []
        for life, call, args in calls:
            self.engine.after(self.engine.between(0.0, 0.005), self._fire, life, call, args)

    # --- who watches whom -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """The keeper's lease on Postgres, and heartbeat's view of a silent ha_manager."""
        self.later(0.1, self.watch)
        if self.manager.works:
            self._manager_ok_at, self._keeper_lease = self.engine.now, ALONE_LEASE if self._alone() else KEEPER_LEASE
        elif self.postgres.mode != STOPPED and self.engine.now - self._manager_ok_at > self._keeper_lease:
            self.trace("the keeper stops Postgres: ha_manager's lease has lapsed")
            self.postgres.hung = 0
            self.postgres.kill()
        self.heartbeat.watch_manager()

    def _alone(self) -> bool:
        """As ha_manager finds: in the role file, in what is wanted, and in its own configuration."""
        want, core = self.manager.want, self.heartbeat.core
        if want is None or core is None or not self.world.sites[self.name].synchronous:
            return False
        solo = core.disk.solo and core.disk.epoch == want.epoch and self.clock() < self.role_expires
        return solo and want.phase is Phase.ACTIVE and want.names is Names.RELAXED

    def restart(self, process: Heartbeat | HaManager) -> None:
        """The Manager starts what has died, unless it is to stay down."""
        low, high = RESTART
        self.later(self.engine.between(low, high), self._restart, process)

    def _restart(self, process: Heartbeat | HaManager) -> None:
        if not self.world.held_down[self.name, type(process).__name__] and not process.running:
            process.start()

    # --- the virtual IP -------------------------------------------------------------------------------------------------

    def answers(self) -> bool:
        """This server answers ARP and TCP for the VIP."""
        return self.vip and self.alive and not self.paused and self.clock() < self.lease_until

    def refresh_lease(self, epoch: Epoch) -> None:
        now = self.clock()
        if self.vip:
            self.lease_until = now + self.timing.lease
        self.role_expires, self.role_epoch = now + self.timing.role_expiry, epoch

    def take_vip(self) -> None:
        self.vip = True
        self.world.checks.vip_taken(self)
        self.announce()

    def announce(self) -> None:
        """Gratuitous ARP, with the edge's repeats where it matters who said it last."""
        self.world.network.announce(self.name)
        if self.world.setting.arp_check:
            for delay in (0.1, 1.0, 5.0):
                self.later(delay, self._announce_again, self.heartbeat.life)

    def _announce_again(self, life: int) -> None:
        if self.vip and life == self.heartbeat.life:
            self.world.network.announce(self.name)

    def drop_vip(self) -> None:
        self.vip = False
        self.lease_until = -inf
