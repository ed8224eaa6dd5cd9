"""The streaming connection of a standby to a primary, over one of the networks.

Promise: entries arrive in order, only flushed ones leave, an acknowledgement says what the standby has flushed. A cut stops
both directions of progress; each side gives the connection up by itself after ``TIMEOUT`` (wal_sender_timeout,
wal_receiver_timeout), at once if the other side's kernel says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .postgres import PRIMARY, STANDBY, STOPPED, STOPPING

if TYPE_CHECKING:
    from .postgres import Postgres

TIMEOUT = 3.0
RETRY = 0.2
BEAT = 1.0


def connect(follower: Postgres) -> None:
    """One attempt of the standby's receiver; called until there is a connection."""
    world = follower.server.world
    primary = follower.server.peer.postgres
    if follower.mode != STANDBY or follower.hung or not follower.follow or follower.receiver is not None:
        return
    if not primary.server.alive or primary.mode != PRIMARY or primary.hung:
        return
    if not world.network.both_ways(world.replication_link, follower.server.name, primary.server.name, "repl"):
        return
    if primary.log[: len(follower.log)] != follower.log:
        follower.diverged = True
        return
    Connection(follower, primary)


class Connection:
    def __init__(self, follower: Postgres, primary: Postgres) -> None:
        self.follower, self.primary = follower, primary
        self.engine = follower.engine
        self.network = follower.server.world.network
        self.link = follower.server.world.replication_link
        self.epoch = follower.follow
        self.sent = len(follower.log)
        #: flush position that the standby has reported to the primary
        self.acknowledged = 0
        self._moving = False
        self._heard_primary = self._heard_follower = self.engine.now
        self.follower_open = self.primary_open = True
        if primary.sender is not None:
            primary.sender.drop(primary)
        follower.receiver, primary.sender = self, self
        self.pump(force=True)
        self.engine.after(BEAT, self._beat)

    def _passes(self, source: Postgres, target: Postgres) -> bool:
        # TCP: no progress without both directions, nor with one end's machine or process standing still.
        if not target.server.alive or target.server.paused or target.hung or source.server.paused:
            return False
        return self.network.both_ways(self.link, source.server.name, target.server.name, "repl")

    # --- data -----------------------------------------------------------------------------------------------------------

    def pump(self, force: bool = False) -> None:
        """Send what is flushed and not sent; with ``force`` also an empty message."""
        if self._moving or not self.primary_open or self.primary.hung:
            return
        entries = self.primary.log[self.sent : self.primary.flushed]
        if entries or force:
            self._moving = True
            self.sent += len(entries)
            self.engine.after(self.engine.between(0.0003, 0.001), self._deliver, entries)

    def _deliver(self, entries: list[int]) -> None:
        if not self.follower_open:
            return
        if not self._passes(self.primary, self.follower):
            self.engine.after(0.05, self._deliver, entries)
            return
        self._moving = False
        self._heard_primary = self.engine.now
        follower = self.follower
        follower.receive(entries)
        if entries:
            follower.later(follower.server.disk.fsync_time(), self._flush, len(follower.log))
        else:
            self._status(follower.flushed)
        self.pump()

    def _flush(self, position: int) -> None:
        if not self.follower_open:
            return
        self.follower.flushed = max(self.follower.flushed, position)
        self._status(self.follower.flushed)

    def _status(self, flushed: int) -> None:
        self.engine.after(self.engine.between(0.0003, 0.001), self._report, flushed)

    def _report(self, flushed: int) -> None:
        if not self.primary_open:
            return
        if not self._passes(self.follower, self.primary):
            self.engine.after(0.05, self._report, flushed)
            return
        self._heard_follower = self.primary.last_status = self.engine.now
        if flushed > self.acknowledged:
            self.acknowledged = flushed
            self.primary.release()

    # --- end ------------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = self.engine.now
        if self.follower_open and now - self._heard_primary > TIMEOUT and self._runs(self.follower):
            self.drop(self.follower)
        if self.primary_open and now - self._heard_follower > TIMEOUT and self._runs(self.primary):
            self.drop(self.primary)
        if self.follower_open or self.primary_open:
            self.pump(force=True)
            self.engine.after(BEAT, self._beat)

    @staticmethod
    def _runs(side: Postgres) -> bool:
        return side.mode in (STANDBY, PRIMARY, STOPPING) and not side.hung and not side.server.paused

    def drop(self, side: Postgres) -> None:
        """``side`` closes its end; the other one hears of it if a packet gets through."""
        if side is self.follower:
            other = self.primary
            self.follower_open = False
            if self.follower.receiver is self:
                self.follower.receiver = None
        else:
            other = self.follower
            self.primary_open = False
            if self.primary.sender is self:
                self.primary.sender = None
                self.primary.sender_gone = self.engine.now
        still_open = self.primary_open if other is self.primary else self.follower_open
        if still_open and side.server.alive:
            self.engine.after(self.engine.between(0.0003, 0.001), self._closed, side, other)

    def _closed(self, side: Postgres, other: Postgres) -> None:
        if self._passes(side, other) and other.mode != STOPPED:
            self.drop(other)
