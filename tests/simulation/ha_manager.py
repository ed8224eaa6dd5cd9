"""A model of ha_manager: takes the newest Want, makes it so with latencies, reports Facts (docs/protocols.md).

Promise: wants are levels; each poll (100 ms), each change in Postgres and each new want compares what is with what is
wanted and takes the next step. It stops a primary itself when heartbeat's lease on the role has lapsed for the allowance.
What it remembers dies with it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from heartbeat.model import SERVING, Database, Epoch, Facts, Names, Standby, Stop, Want

from .postgres import PRIMARY, PROMOTING, STANDBY, STARTING, STOPPED, STOPPING
from .replication import connect

if TYPE_CHECKING:
    from .server import Server

POLL = 0.1
#: seconds between two questions to the peer's ha_manager
SESSION_PERIOD = 0.2
#: Postgres answers no query for so long: it is killed
HANG_LIMIT = 0.7
SHUTDOWN_LIMIT = 1.0
OBSERVED = {
    STOPPED: Database.STOPPED, STARTING: Database.STOPPED, STOPPING: Database.UNKNOWN, PROMOTING: Database.STANDBY,
    STANDBY: Database.STANDBY, PRIMARY: Database.PRIMARY,
}  # fmt: skip


class HaManager:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.engine = server.engine
        self.pg = server.postgres
        self.running = False
        self.hung = 0
        self.life = 0
        self._forget()

    def _forget(self) -> None:
        #: the run of heartbeat that the want came from
        self.connection = 0
        self.want: Want | None = None
        self.busy = False
        self._look = False
        self.proven, self._proven_in, self._probe_until = -1, (0, 0), 0.0
        self.prepared = 0
        self._preparing = 0
        self.shutdown_lsn = -1
        self.session_at = -inf
        self.sign_at = -inf
        self.peer_stood_down = self.peer_epoch = Epoch()
        self._start_after = 0.0
        self._hung_since = inf

    # --- life -----------------------------------------------------------------------------------------------------------

    @property
    def works(self) -> bool:
        return self.running and not self.hung

    def start(self) -> None:
        if self.running or not self.server.alive:
            return
        self._forget()
        self.running = True
        self.life += 1
        self.server.trace("ha_manager starts")
        self.server.later(0.01, self.server.heartbeat.offer_want)
        self._poll(self.life)

    def kill(self) -> None:
        if self.running:
            self.running = False
            self.hung = 0
            self.life += 1
            self._forget()

    def _poll(self, life: int) -> None:
        if life != self.life:
            return
        self.server.later(min(POLL, self.server.timing.report_period), self._poll, life)
        if self.hung:
            return
        if self.engine.now - self.session_at >= SESSION_PERIOD:
            self.session_at = self.engine.now
            self._ask_peer()
        core = self.server.heartbeat.core
        if core is not None and core.want is not self.want:
            self.server.heartbeat.offer_want()
        connect(self.pg)
        self._watch_postgres()
        self.step()
        self.report()

    def noticed(self) -> None:
        """Something changed in Postgres: look soon, once."""
        if self.works and not self._look:
            self._look = True
            self.server.later(self.engine.between(0.001, 0.003), self._looks, self.life)

    def _looks(self, life: int) -> None:
        if life == self.life:
            self._look = False
            if not self.hung:
                self.step()
                self.report()

    def take(self, want: Want, connection: int) -> None:
        """A want from heartbeat's run ``connection``."""
        if self.works and connection == self.server.heartbeat.life:
            self.want, self.connection = want, connection
            self.noticed()

    def _do(self, low: float, high: float, action: Callable[[], None]) -> None:
        self.busy = True
        self.server.later(self.engine.between(low, high), self._done, self.life, action)

    def _done(self, life: int, action: Callable[[], None]) -> None:
        if life != self.life:
            return
        if self.hung:
            self.server.later(0.05, self._done, life, action)
            return
        self.busy = False
        action()
        self.noticed()

    # --- making it so ---------------------------------------------------------------------------------------------------

    def role_leased(self) -> bool:
        server = self.server
        return server.clock() < server.role_expires + server.timing.allowance

    def step(self) -> None:
        want, pg = self.want, self.pg
        if self.busy:
            return
        if pg.mode in (PRIMARY, PROMOTING) and not self.role_leased() and not (want and want.postgres is Database.STOPPED):
            self.server.trace("ha_manager stops Postgres: heartbeat's lease on the role has lapsed")
            self._do(0.01, 0.03, pg.kill)
            return
        if want is None:
            return
        match want.postgres:
            case Database.STOPPED:
                self._stop(want)
            case Database.STANDBY:
                self._standby(want)
            case Database.DETACHED:
                self._detached()
            case Database.PRIMARY:
                self._primary(want)

    def _stop(self, want: Want) -> None:
        pg = self.pg
        if pg.mode in (STOPPED, STOPPING):
            return
        if want.stop is Stop.FAST and pg.mode in (PRIMARY, STANDBY) and not pg.hung:
            pg.stop_fast(SHUTDOWN_LIMIT, self._stopped_cleanly)
        else:
            self._do(0.01, 0.05, pg.kill)

    def _stopped_cleanly(self, position: int) -> None:
        self.shutdown_lsn = position

    def _start(self, names: int | None) -> None:
        if self.engine.now >= self._start_after:
            self._start_after = self.engine.now + 0.15
            self.shutdown_lsn = -1
            self.pg.start(names)

    def _standby(self, want: Want) -> None:
        pg = self.pg
        if pg.mode in (PRIMARY, PROMOTING):
            self._do(0.01, 0.05, pg.kill)
        elif pg.mode == STOPPED and self.server.copying:
            self._copy(want)
        elif pg.mode == STOPPED:
            self._start(None)
        elif pg.mode == STANDBY and want.follow == Epoch():
            # nobody is named: a stream that still runs stays, it may bring the shutdown checkpoint of one that stands down
            pg.detached = False
        elif pg.mode == STANDBY and (pg.detached or pg.follow != want.follow.number):
            self._do(0.002, 0.015, self._follow)
        elif pg.mode == STANDBY and pg.diverged and want.follow.number and self.pg.reaches_active():
            self._do(0.01, 0.05, self._begin_copy)

    def _follow(self) -> None:
        if self.want is not None and self.want.postgres is Database.STANDBY and self.pg.mode == STANDBY:
            self.pg.follow_active(self.want.follow.number)
            connect(self.pg)

    def _detached(self) -> None:
        pg = self.pg
        if pg.mode == PRIMARY:
            self._do(0.01, 0.05, pg.kill)
        elif pg.mode == STOPPED and not self.server.copying:
            self._start(None)
        elif pg.mode == STANDBY and not pg.detached:
            self._do(0.005, 0.02, pg.detach)

    def _primary(self, want: Want) -> None:
        pg = self.pg
        names = want.epoch.number if want.names is Names.ENFORCED else None
        if not self.role_leased():
            return
        if pg.mode == STOPPED and not self.server.copying:
            self._start(names)
        elif pg.mode in (STANDBY, PRIMARY) and pg.names_set != names:
            self.proven, self._proven_in = -1, (0, 0)
            pg.set_names(names)
        elif pg.mode == STANDBY and pg.names_applied == names and not pg.hung:
            pg.promote()
        elif pg.mode == PRIMARY:
            if want.epoch not in self.server.epoch_starts:
                self.server.epoch_starts[want.epoch] = len(pg.log)
            if names is not None:
                self._prove(names)
            if want.prepare and self._preparing != want.serial:
                self._preparing = want.serial
                self.server.later(self.engine.between(0.02, 0.2), self._prepared, want.serial, self.life)

    def _prepared(self, serial: int, life: int) -> None:
        if life == self.life:
            self.prepared = serial
            self.noticed()

    def _prove(self, epoch: int) -> None:
        """Rule 7: a probe commit must be seen to wait, and the standby must pass it."""
        pg = self.pg
        proof = (pg.life, epoch)
        if (self.proven >= 0 and self._proven_in == proof) or self.engine.now < self._probe_until:
            return
        self.proven, self._proven_in = -1, proof
        if self.server.world.setting.hasty:
            self.proven = len(pg.log) if pg.names_applied == epoch else -1
            return
        self._probe_until = self.engine.now + 0.5
        pg.commit(self.server.world.next_entry(), lambda position, waited: self._probed(proof, position, waited))

    def _probed(self, proof: tuple[int, int], position: int, waited: bool) -> None:
        if proof != self._proven_in or not self.running or self.pg.names_applied != proof[1]:
            return
        if waited:
            self.proven = position
        self._probe_until = self.engine.now + 0.05
        self.noticed()

    # --- copying over a diverged database -------------------------------------------------------------------------------

    def _begin_copy(self) -> None:
        self.pg.kill()
        self.server.copying = True
        self.server.trace("Postgres has diverged: a fresh copy begins")

    def _copy(self, want: Want) -> None:
        if want.follow.number and self.pg.reaches_active():
            self.busy = True
            until = self.engine.now + self.engine.between(0.5, 2.0)
            self.server.later(0.05, self._copying, self.life, self.server.peer.postgres.life, until)

    def _copying(self, life: int, source: int, until: float) -> None:
        if life != self.life:
            return
        want = self.want
        stays = want is not None and want.postgres in (Database.STANDBY, Database.KEEP)
        if not stays or not self.pg.reaches_active() or self.server.peer.postgres.life != source:
            self.busy = False
        elif self.engine.now < until:
            self.server.later(0.05, self._copying, life, source, until)
        else:
            self.busy = False
            self.pg.copy_over(self.server.peer.postgres)
            self.server.world.checks.copies += 1
            self.server.copying = False
            self.noticed()

    # --- the peer's ha_manager ------------------------------------------------------------------------------------------

    def _ask_peer(self) -> None:
        server, peer = self.server, self.server.peer
        world = server.world
        if not (peer.alive and not peer.paused and peer.manager.works):
            return
        if not world.network.both_ways(world.session_link, server.name, peer.name, "session"):
            return
        heartbeat = peer.heartbeat
        if heartbeat.works and heartbeat.core is not None:
            disk = heartbeat.core.disk
            self.peer_epoch = disk.epoch
            let_go = disk.stood_down and not heartbeat.core.saving and not heartbeat.core.returns
            self.peer_stood_down = disk.epoch if let_go else Epoch()
            if heartbeat.core.phase in SERVING and peer.clock() < peer.role_expires:
                self.sign_at = self.engine.now
        elif peer.manager.want is not None:
            self.peer_epoch = peer.manager.want.epoch  # what its heartbeat last said, though that has ended
        want = self.want
        if want is not None and want.ask_stand_down and heartbeat.works:
            server.trace(f"asks {peer.name} over the session to stand down: {want.ask_stand_down}")
            peer.later(self.engine.between(0.002, 0.01), heartbeat.feed, Standby(server.name))

    # --- observing ------------------------------------------------------------------------------------------------------

    def _watch_postgres(self) -> None:
        pg = self.pg
        if not pg.hung or pg.mode == STOPPED:
            self._hung_since = inf
            return
        self._hung_since = min(self._hung_since, self.engine.now)
        if self.engine.now - self._hung_since >= HANG_LIMIT:
            self.server.trace("ha_manager kills Postgres: it answers no query")
            pg.hung = 0
            pg.kill()

    def _data(self) -> str:
        pg = self.pg
        if self.server.copying:
            return "copying"
        if pg.failed_starts >= 2:
            return "failed"
        return "ready" if pg.mode in (STANDBY, PRIMARY, PROMOTING) else "starting"

    def _ill(self, want: Want | None) -> str:
        pg = self.pg
        if self.server.disk.full:
            return "the disk is full"
        if self._hung_since < inf:
            return "Postgres answers no query"
        if self.server.copying:
            return "the database is being copied"
        if want is not None and want.postgres is Database.PRIMARY and pg.mode not in (PRIMARY, PROMOTING, STANDBY):
            return "Postgres is not running"
        return "" if pg.mode in (STANDBY, PRIMARY, PROMOTING) else f"Postgres is {pg.mode}"

    def report(self) -> None:
        heartbeat = self.server.heartbeat
        if not self.works or not heartbeat.running:
            return
        self.server.later(0.001, heartbeat.take_facts, self.facts(), self.connection)

    def facts(self) -> Facts:
        pg, want, now = self.pg, self.want, self.engine.now
        running = pg.mode in (STANDBY, PRIMARY, PROMOTING)
        primary = pg.mode == PRIMARY
        postgres = Database.UNKNOWN if pg.hung and pg.mode != STOPPED else OBSERVED[pg.mode]
        if postgres is Database.STANDBY and pg.detached and pg.mode == STANDBY:
            postgres = Database.DETACHED
        ill = self._ill(want)
        receiver, sender = pg.receiver, pg.sender
        epoch = want.epoch if want is not None else Epoch()
        following = Epoch()
        if receiver is not None and want is not None and receiver.epoch == want.follow.number:
            following = want.follow
        enforced = primary and pg.names_set is not None and (pg.life, pg.names_set) == self._proven_in
        lsn = (len(pg.log) if primary else pg.flushed) if running else -1
        start = self.server.epoch_starts.get(epoch)
        heard_at = max(pg.last_received, pg.last_status)
        sign_at = max(heard_at, self.sign_at)
        return Facts(
            serial=want.serial if want is not None else 0,
            postgres=postgres,
            healthy=not ill,
            because=ill,
            data=self._data(),
            timeline=pg.timeline if running else 0,
            lsn=lsn,
            beyond=lsn - start if start is not None and running else 0,
            following=following,
            caught_up=primary and sender is not None and sender.epoch == epoch.number
            and sender.acknowledged >= pg.flushed - 20,
            proven=self.proven if enforced else -1,
            names=Names.RELAXED if pg.names_applied is None and pg.names_set is None else Names.ENFORCED,
            stalled=pg.stalled(),
            sign_age=now - sign_at,
            sign="its replication connection delivers" if heard_at >= self.sign_at else "its ha_manager says that it is active",
            peer_stood_down=self.peer_stood_down,
            peer_epoch=self.peer_epoch,
            prepared=want is not None and want.prepare and self.prepared == want.serial,
            shutdown_lsn=self.shutdown_lsn if pg.mode == STOPPED else -1,
            behind=max(0, len(pg.log) - sender.acknowledged)
            if primary and sender is not None and sender.epoch == epoch.number else -1,
        )  # fmt: skip
