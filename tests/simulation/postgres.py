"""A Postgres: its log, what of it is flushed, whose acknowledgement a commit waits for, and how it dies.

Promise, each as seen on Postgres 15 (facts/postgres.md, facts/safety-model.md): a commit is acknowledged when it is flushed
here and, if the checkpointer has *applied* names, when the standby so named has flushed it; setting names and applying them
are two moments; a kill keeps what was written, a power cut only what was flushed; it always starts as a standby, and a
promotion begins a timeline.

The log is a list of integers, each its own: positive a transaction or a checkpoint, negative the beginning of a timeline. A
position (LSN) is the number of entries before it, so that two logs belong together exactly if one is the beginning of the
other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .replication import Connection
    from .server import Server

STOPPED, STARTING, STANDBY, PROMOTING, PRIMARY, STOPPING = "stopped", "starting", "standby", "promoting", "primary", "stopping"
#: a commit's answer: its position, and whether it was seen to wait for the standby
Done = Callable[[int, bool], None]


class Postgres:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.engine = server.engine
        self.mode = STOPPED
        self.log: list[int] = [-1]
        self.flushed = 1
        self.timeline = 1
        #: entries dropped when another log was copied over this one (rule 10)
        self.kept: list[int] = []
        #: on the disk: rewound, and not consistent before it has had log from its active
        self.lacks = False
        self.clean = True
        self.life = 0
        self.reign = 0
        self.hung = 0
        self.broken = 0
        self.failed_starts = 0
        #: the checkpointer's time to apply a setting, while a fault says so
        self.checkpointer_slow = 0.0
        self.names_set: int | None = None
        self.names_applied: int | None = None
        self._waiters: list[tuple[int, float, Done]] = []
        #: as a standby: the epoch it follows, its connection; as a primary: the standby's connection
        self.follow = 0
        self.detached = False
        self.diverged = False
        self.receiver: Connection | None = None
        self.sender: Connection | None = None
        self.sender_gone = 0.0
        self.last_received = float("-inf")
        self.last_status = float("-inf")
        self._hung_calls: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []

    # --- life -----------------------------------------------------------------------------------------------------------

    def later(self, delay: float, call: Callable[..., Any], *args: Any) -> None:
        """Run after ``delay`` if this run of Postgres still lives then; when it hangs, once it no longer does."""
        self.server.later(delay, self._fire, self.life, call, args)

    def _fire(self, life: int, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if life != self.life:
            return
        if self.hung:
            self._hung_calls.append((life, call, args))
        else:
            call(*args)

    def go_on(self) -> None:
        """SIGCONT."""
        calls, self._hung_calls = self._hung_calls, []
        for life, call, args in calls:
            self._fire(life, call, args)

    def start(self, names: int | None) -> None:
        """Start as a standby, with these names in its configuration."""
        assert self.mode == STOPPED
        self.mode = STARTING
        self.detached = self.diverged = False
        self.follow = 0
        self.names_set = self.names_applied = names
        self.later(self.engine.between(0.05, 0.12) if self.clean else self.engine.between(0.12, 0.6), self._started)

    def _started(self) -> None:
        if self.broken:
            self.failed_starts += 1
            self.kill()
            return
        self.failed_starts = 0
        if self.lacks and not self.reaches_active():
            self.later(0.05, self._started)
            return
        self.lacks = False
        self.flushed = len(self.log)
        self.clean = False
        self.mode = STANDBY
        self.server.manager.noticed()

    def reaches_active(self) -> bool:
        """There is one to copy from, or to have log from."""
        world, peer = self.server.world, self.server.peer
        reached = world.network.both_ways(world.replication_link, self.server.name, peer.name, "repl")
        return peer.alive and not peer.paused and peer.postgres.mode == PRIMARY and not peer.postgres.hung and reached

    def kill(self) -> None:
        """It ends at once: kill -9, an immediate stop, or a crash."""
        if self.mode == STOPPED:
            return
        self.mode = STOPPED
        self.life += 1
        self._waiters.clear()
        self._hung_calls.clear()
        for connection in (self.receiver, self.sender):
            if connection is not None:
                connection.drop(self)
        self.server.manager.noticed()

    def lose_power(self) -> None:
        lost_from = self.flushed
        self.kill()
        if lost_from < len(self.log):
            del self.log[self.engine.random.randint(lost_from, len(self.log)) :]
            self.flushed = len(self.log)
            self.timeline = sum(1 for entry in self.log if entry < 0)
        self.hung = 0

    def stop_fast(self, limit: float, done: Callable[[int], None]) -> None:
        """A clean stop; waits up to ``limit`` for the standby to receive the shutdown checkpoint; ``done`` gets its end."""
        self._waiters.clear()
        primary = self.mode in (PRIMARY, STOPPING)
        self.mode = STOPPING
        self.names_applied = None
        if primary:
            self.log.append(self.server.world.next_entry())
        self.later(self.server.disk.fsync_time() + 0.01, self._checkpointed, self.engine.now + limit, done)

    def _checkpointed(self, until: float, done: Callable[[int], None]) -> None:
        self.flushed = len(self.log)
        sender = self.sender
        if sender is not None:
            sender.pump()
        if sender is None or sender.acknowledged >= self.flushed or self.engine.now >= until:
            self.kill()
            self.clean = True
            done(self.flushed)
        else:
            self.later(0.01, self._checkpointed, until, done)

    # --- standby --------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Empty primary_conninfo: the receiver ends, and nothing more is acknowledged."""
        self.follow = 0
        self.detached = True
        if self.receiver is not None:
            self.receiver.drop(self)

    def follow_active(self, epoch: int) -> None:
        """Follow the peer under the name of this epoch (0: nobody)."""
        self.detached = False
        if epoch != self.follow:
            self.follow = epoch
            self.diverged = False
            if self.receiver is not None:
                self.receiver.drop(self)

    def receive(self, entries: list[int]) -> None:
        self.log.extend(entries)
        self.timeline += sum(1 for entry in entries if entry < 0)
        self.last_received = self.engine.now

    def copy_over(self, other: Postgres) -> None:
        """Replace this log by the flushed part of ``other``'s; what only this one held is kept aside."""
        theirs = other.log[: other.flushed]
        held = set(theirs)
        self.kept.extend(entry for entry in self.log if entry not in held)
        self.log, self.flushed = theirs, len(theirs)
        self.timeline = sum(1 for entry in theirs if entry < 0)
        self.clean = self.diverged = False
        self.lacks = len(theirs) % 2 == 0  # as good as chance, without drawing one

    # --- primary --------------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        assert self.mode == STANDBY
        self.mode = PROMOTING
        self.detach()
        self.later(self.engine.between(0.01, 0.06), self._end_recovery)

    def _end_recovery(self) -> None:
        self.log.append(-self.server.world.next_entry())
        self.timeline += 1
        self.later(self.server.disk.fsync_time(), self._promoted)

    def _promoted(self) -> None:
        self.flushed = len(self.log)
        self.mode = PRIMARY
        self.sender_gone = self.engine.now
        self.reign = self.server.world.next_entry()
        self.server.manager.noticed()

    @property
    def serves(self) -> bool:
        return self.mode == PRIMARY and not self.hung and not self.broken_disk

    @property
    def broken_disk(self) -> bool:
        return self.server.disk.full > 0

    def commit(self, entry: int, done: Done) -> None:
        """``done`` is called when the commit is acknowledged; never, if it isn't."""
        if not self.serves or len(self._waiters) > 60:
            return
        self.log.append(entry)
        self.later(self.server.disk.fsync_time(), self._flushed, len(self.log), done)

    def _flushed(self, position: int, done: Done) -> None:
        if position > self.flushed:
            self.flushed = position
        if self.mode != PRIMARY:
            return
        if self.sender is not None:
            self.sender.pump()
        if self.names_applied is None:
            done(position, False)
        else:
            self._waiters.append((position, self.engine.now, done))
            self.release()

    def set_names(self, epoch: int | None) -> None:
        """ALTER SYSTEM and reload; it binds only once the checkpointer has applied it."""
        if self.names_set != epoch:
            self.names_set = epoch
            self.later(self.engine.between(0.002, 0.02) + self.checkpointer_slow, self._apply)

    def _apply(self) -> None:
        self.names_applied = self.names_set
        if self.names_applied is None:
            waiters, self._waiters = self._waiters, []
            for position, _, done in waiters:
                done(position, True)
        self.server.manager.noticed()

    def release(self) -> None:
        """Acknowledge what the standby named by the applied setting has flushed."""
        sender = self.sender
        if not self._waiters or sender is None or sender.epoch != self.names_applied or self.hung:
            return
        ready = [w for w in self._waiters if w[0] <= sender.acknowledged]
        if ready:
            self._waiters = [w for w in self._waiters if w[0] > sender.acknowledged]
            for position, _, done in ready:
                done(position, True)

    def stalled(self) -> float:
        """How long commits have waited, or the named standby has been gone."""
        if self.mode != PRIMARY or self.names_set is None:
            return 0.0
        since = [w[1] for w in self._waiters[:1]]
        if self.sender is None or self.sender.epoch != self.names_set:
            since.append(self.sender_gone)
        return self.engine.now - min(since) if since else 0.0
