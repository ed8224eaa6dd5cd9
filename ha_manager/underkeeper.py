"""This server's Postgres started and stopped through its keeper.

Promise: ``make_stopped`` returns when no process is left; a start ends with a connection, or with Postgres's own last words;
the data is fenced before anybody could start something else on it. Every call is bounded by its ``limit`` in seconds. Source:
design §4 rules 5, 11; docs/protocols.md, "keeper".
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ha_manager import (
    adoption,
    cluster,
    controldata,
    halves,
    keeper,
    mending,
    postmaster,
    receiving,
    replacement,
    reports,
    rewinding,
    seeding,
    settings,
    startfence,
)
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.keeper_client import KeeperClient, Latest
from ha_manager.lineage import Book
from ha_manager.observation import Stopped
from ha_manager.postgres import Observer, Server
from ha_manager.rejoin import Control
from ha_manager.replication import Clock
from ha_manager.sql import Late, Rejected, Session
from runtime.clock import boottime
from runtime.errors import ControlError, DidNotStart, ReplicationError

_POLL = 0.003
#: a Postgres that is up may refuse connections for so long, for another reason than that it is just starting (seconds)
_REFUSES = 1.5


class UnderKeeper:
    """Postgres of ``node``, whose peer is ``peer``. ``password``: of the replication role, derived from both nodes' keys.

    ``peer_addresses`` are those from which the peer may replicate; ``note`` gets sentences for the log.
    """

    def __init__(
        self,
        config: PostgresConfig,
        node: str,
        peer: str,
        *,
        peer_addresses: tuple[str, ...],
        password: str,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.config = config
        self._node, self._peer, self._addresses = node, peer, peer_addresses
        self._password, self._note = password, note
        self._server = Server(config)
        self._book = Book(Paths(config.state_dir).lineage)
        self._changing = threading.RLock()
        self._looking = threading.Lock()
        self._observer = Observer(self._server)
        self._keeper = Latest()
        self._orders, self._watch, self._lease, self._told = (
            KeeperClient(config.run_dir, config.data_dir, lambda: cluster.launch_of(config), self._keeper) for _ in range(4)
        )
        self._granted_until = 0.0
        self._proven: tuple[int, int, int, int] | None = None
        self._copying = False
        self._log_began = 0
        self.reports = reports.Reports(config, note)
        self._loaded = ""
        #: the active of which the log says that nothing from it is encrypted
        self._told_plain = ""

    def attach(self, limit: float = 5.0) -> str:
        """Start the keeper, or find the running one. Returns Postgres's state: stopped | starting | running | stopping.

        A new one is told at once how long Postgres may still run: what is wanted doesn't wait for the next renewal.
        """
        with self._changing:
            state, left = self._orders.ensure(limit), self._granted_until - boottime()
            if left > 0:
                self._orders.renew(left, 1.0)
            return state

    def renew(self, ttl: float, limit: float = 0.2) -> None:
        """Postgres may run for ``ttl`` more seconds. Call it well before that; cheap (< 1 ms). Without: stopped at once."""
        self._granted_until = boottime() + ttl
        self._lease.renew(ttl, limit)

    def await_change(self, state: str, limit: float) -> str:
        """The keeper's state as soon as it is another one than ``state``, or after ``limit`` seconds."""
        return self._told.await_change(state, limit)

    def make_stopped(self, *, immediate: bool, limit: float = 30.0) -> Stopped:
        """No process of Postgres is left. A fast stop gets stricter after two thirds of ``limit``; ``immediate`` at once."""
        with self._changing:
            began = time.monotonic()
            self._proven = None
            self._server.disperse()
            clean, proven = self._stop("immediate" if immediate else "fast", limit)
            if not proven and not postmaster.kill_all(self.config.data_dir, 2.0):
                raise ReplicationError("a process of Postgres can't be ended: is the disk hanging?")
            control = self._control()
            position = controldata.shutdown_lsn(control) if control is not None and clean else -1
            return Stopped(clean and control is not None, position, time.monotonic() - began)

    def stop_ahead(self) -> None:
        """An immediate stop begins, whatever is being done with Postgres, which then fails; ``make_stopped`` has the proof."""
        self._watch.stop("immediate", keeper.IMMEDIATE_LIMIT, 1.0)

    def _stop(self, mode: str, limit: float) -> tuple[bool, bool]:
        """Through the keeper; without one that answers, by force. (It was, or had been, stopped cleanly; the keeper saw that no
        process is left)
        """
        stricter = keeper.IMMEDIATE_LIMIT if mode == "immediate" else limit * 2 / 3
        try:
            if self._orders.stop(mode, stricter, min(limit, 1.0))["state"] != "stopped":
                return bool(self._orders.wait(("stopped",), limit + 1.0)["clean"]), True
        except ControlError:
            self._orders.end_hung(2.0)
            if postmaster.processes_of(self.config.data_dir):
                self._orders.kill()
                return False, False
        control = self._control()
        return control is not None and control.state in ("shut down", "shut down in recovery"), False

    def kill(self) -> None:
        """Emergency: every process of this Postgres, now, with SIGKILL; returns when none is left."""
        self._watch.kill()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _halves(self, clock: Clock) -> list[Path]:
        return halves.find(self.config.bin_dir, self.config.data_dir, clock.need("looking at the log"))

    def _control(self) -> Control | None:
        return controldata.read(self.config.bin_dir, self.config.data_dir)

    def _write_files(self) -> bool:
        return adoption.write_files(self.config, self._control(), self._addresses)

    def _recover_copy(self, *, to_start: bool = True) -> None:
        switched = seeding.switching(self.config.data_dir)
        done = seeding.recover(self.config.data_dir, f"diverged-{replacement.label(self.config, self._book.read().epoch)}")
        if done:
            self._note(done)
        if switched:
            rewinding.complete(self.config)
        rewinding.tidy(self.config)
        if to_start and rewinding.interrupted(self.config):
            raise ReplicationError("a rewind of this database was interrupted; only a fresh copy of the active's helps")

    def _is_up(self, clock: Clock) -> bool:
        """Running or on its way up. One that is on its way down is awaited; without a keeper there is nothing."""
        state = self._orders.status(min(1.0, clock.left))["state"]
        if state == "stopping":
            state = self._orders.wait(("stopped",), clock.left)["state"]
        return bool(state != "stopped")

    def _remove_halves(self, clock: Clock) -> None:
        for half in self._halves(clock):
            half.unlink()
            self._note(f"{half.name} of the log had come only in part: the timeline before has all of it")

    def _start(self, clock: Clock) -> None:
        self._remove_halves(clock)
        if self._book.read().must_compare and (label := self.config.data_dir / "backup_label").exists():
            # Not for us to remove: of a restored backup it is needed, and without it the database would be damaged silently.
            self._note(
                f"there is a {label} in this database, which was a primary: Postgres recovers from that backup's beginning,"
                " and waits for log that may be gone; remove the file, unless a backup was restored here"
            )
        if receiving.has_data(self.config.data_dir):
            # Theirs, started again and again, would always be quicker than ours. A keeper from before an upgrade lifts no bar.
            if self._orders.status(1.0).get("bars"):
                startfence.bar(self.config.data_dir)
            else:
                startfence.up(self.config.data_dir, self.config.user)
        if adoption.end_foreign(self.config, keeper.living(self.config.run_dir), clock.left):
            self._note(mending.FOREIGN)
        if taken_back := adoption.take_back_less(self.config, self._control):
            self._note(taken_back)
        self._log_began = mending.size(self.config.log_file)
        self._orders.start(min(2.0, clock.need("starting Postgres")))

    @contextlib.contextmanager
    def _session_when_ready(self, clock: Clock) -> Iterator[Session]:
        """A connection as soon as Postgres takes one; raises when it ends instead, or never does."""
        with contextlib.ExitStack() as stack:
            yield self._connect_when_ready(stack, clock)

    def _connect_when_ready(self, stack: contextlib.ExitStack, clock: Clock) -> Session:
        refused, refusing = "no connection was tried", -1.0
        while clock.left > 0:
            final = False
            try:
                return stack.enter_context(self._server.session(min(1.0, clock.left)))
            except Rejected as wrong:
                refused, final = str(wrong), wrong.final
            except ReplicationError as wrong:
                refused = str(wrong)
            status = self._orders.status(1.0)
            if status["state"] in ("stopped", "stopping"):
                wrong_start = mending.did_not_start(self.config, str(status["because"]), self._log_began)
                if "postmaster.pid" not in wrong_start.last_words:
                    raise wrong_start
                # Somebody's own was quicker; the keeper has ended it.
                self._orders.wait(("stopped",), clock.left)
                self._start(clock)
            now = time.monotonic()
            refusing = -1.0 if not final or status["state"] != "running" else now if refusing < 0 else refusing
            if refusing >= 0 and now - refusing > _REFUSES:
                raise DidNotStart(f"Postgres runs, but refuses every connection: {refused}", refused)
            time.sleep(_POLL)
        raise Late(f"Postgres takes no connections: {refused}")

    def _must_restart(self, clock: Clock) -> bool:
        """A standby with smaller settings than its active had stops replaying."""
        floors = settings.floors_of(self._control())
        with self._session_when_ready(clock) as session:
            for name, needed in floors.items():
                if int(session.one("SELECT current_setting($1)", clock.left, [name])) < needed:
                    return True
        return False


def in_recovery(session: Session, clock: Clock) -> bool:
    return session.one("SELECT pg_is_in_recovery()::text", clock.need("asking Postgres for its role")) == "true"
