"""This server's Postgres, as the worker that carries out heartbeat's wants sees it.

Promise: each ``make_…`` brings Postgres where its name says and returns only with the proof, or raises ``ReplicationError`` (or
another ``HaError``) with the reason; each may be called again after a crash at any line, and does nothing where its state
holds already. Every call is bounded by its ``limit`` in seconds. Source: design §4 rules 5-7, 10, 11 and §6;
docs/protocols.md (the wants); facts/postgres.md.

Threads: all methods may be called from any thread. Those that change Postgres exclude each other; ``facts``, ``renew``,
``identity``, ``stop_ahead`` and ``kill`` never wait for them. Nothing is ever done in the background.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ha_manager import (
    adoption,
    cluster,
    controldata,
    differences,
    keeper,
    mending,
    postmaster,
    receiving,
    replacement,
    replication,
    reports,
    rewinding,
    seeding,
    startfence,
    stock,
    tablespaces,
)
from ha_manager.care import Remedy
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.inventory import Inventory
from ha_manager.keeper_client import KeeperClient, Latest
from ha_manager.lineage import Book
from ha_manager.observation import NOTHING, Identity, Observation, Progress, Stopped, Upstream, is_plain, lsn, standby_name
from ha_manager.postgres import Observer, Server
from ha_manager.rejoin import Control, Verdict, Way
from ha_manager.replication import Clock
from ha_manager.sql import Late, Rejected, Session
from runtime.clock import boottime
from runtime.errors import ConfigError, ControlError, DidNotStart, HaError, ReplicationError

#: Called about four times a second during a copy; returns False to cancel it.
OnProgress = Callable[[Progress], bool]

_POLL = 0.003
#: Large databases on slow links take long; what ends a copy is that nothing moves any more (``transfer``). Seconds.
COPY_LIMIT = 7 * 24 * 3600.0
#: a Postgres that is up may refuse connections for so long, for another reason than that it is just starting (seconds)
_REFUSES = 1.5
#: What the keeper said so long ago still holds (seconds): its lease is renewed as often, and a change it tells at once
TOLD = 0.35


class Database:
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
        self._proven: tuple[int, int, int, int] | None = None
        self._copying = False
        self._log_began = 0
        self.reports = reports.Reports(config, note)
        self._loaded = ""

    def renew_password(self, password: str) -> bool:
        """The nodes' keys have changed; True if that changes the password. ``settle_primary`` gives it to the role."""
        changed, self._password = password != self._password, password
        return changed

    # --- life: once at the start and the end of HA on this server ---------------------------------------------------------

    def check(self) -> list[str]:
        """Warnings about the administrator's settings; raises ConfigError for what can't work (file, line, remedy)."""
        return adoption.check(self.config)

    def configure(self, limit: float = 60.0) -> None:
        """HA is on: check, write our settings, take autostart away from Debian, stop a Postgres that isn't the keeper's.

        A Postgres run by a living keeper stays as it is; changed settings are reloaded.
        """
        with self._changing:
            for warning in adoption.check(self.config):
                self._note(warning)
            adoption.take_autostart(self.config)
            changed = self._write_files()
            if adoption.stop_foreign(self.config, keeper.living(self.config.run_dir), limit):
                self._note("stopped the Postgres that ran here; from now on ha_manager's keeper runs it")
            if receiving.has_data(self.config.data_dir) and not postmaster.processes_of(self.config.data_dir):
                startfence.up(self.config.data_dir, self.config.user)
            if changed and postmaster.postmaster_of(self.config.data_dir) is not None:
                self._server.reload()

    def unconfigure(self, *, start: bool = True, writable: bool | None = None, limit: float = 60.0) -> bool:
        """HA is off: stop Postgres and the keeper, remove our settings, give autostart back; ``start``: start plain Postgres,
        unless Debian's start.conf forbids it. ``writable``: a standby becomes a database of its own (on a new timeline);
        None: it stays read-only if it was one; False: whoever starts it finds a read-only one. Returns whether it runs. Does no
        harm when HA is off already, and may be called again after a crash at any line.
        """
        with self._changing:
            clock = Clock(limit)
            head = postmaster.postmaster_of(self.config.data_dir)
            if head is not None and head.parent != keeper.living(self.config.run_dir):
                # Not the keeper's: plain already, as after a second `ha stop`.
                self._give_back()
                return True
            if writable is None:
                writable = self._was_primary()
            if writable:
                self._bring_up(clock)
            self._release_slots(clock)
            self.make_stopped(immediate=False, limit=clock.need("stopping Postgres"))
            adoption.remove_slots(self.config)
            if receiving.has_data(self.config.data_dir):
                if writable:
                    startfence.down(self.config.data_dir)
                else:
                    startfence.up(self.config.data_dir, self.config.user)
            self._give_back()
            if start and adoption.may_start(self.config):
                adoption.start_plain(self.config, clock.left + 10)
                return True
            return False

    def _give_back(self) -> None:
        with contextlib.suppress(ControlError):
            self._orders.quit(2.0)
        adoption.give_autostart_back(self.config)
        adoption.remove_files(self.config)

    def _bring_up(self, clock: Clock) -> None:
        """Only while it runs can its slots be dropped, and a standby get a timeline that can't pass for the active's later."""
        must = not self._was_primary()
        try:
            self.attach(min(5.0, clock.left))
            self.renew(clock.left + 5, 2.0)
            self.make_primary(self._book.read().epoch, clock.left)
        except HaError as wrong:
            if must:
                raise
            self._note(f"Postgres can't be made a primary, so slots of its peer may be left in it: {wrong}")

    def configured(self) -> bool:
        """Anything of ours is still there: settings, a keeper, Debian's autostart taken away."""
        paths = Paths(self.config.state_dir)
        return paths.settings.exists() or paths.autostart.exists() or bool(keeper.living(self.config.run_dir))

    def _release_slots(self, clock: Clock) -> None:
        """A slot that nobody will use again keeps log until the disk is full."""
        with contextlib.suppress(ReplicationError), self._server.session(min(2.0, clock.left)) as session:
            self._server.change(names="", conninfo="", slot="")
            for row in session.rows("SELECT pid::text FROM pg_stat_replication WHERE application_name LIKE 'ha\\_%'", 1.0):
                session.rows("SELECT pg_terminate_backend($1::int)", 1.0, row)
            replication.drop_slots(session, 2.0)

    def attach(self, limit: float = 5.0) -> str:
        """Start the keeper, or find the running one. Returns Postgres's state: stopped | starting | running | stopping."""
        with self._changing:
            return self._orders.ensure(limit)

    def renew(self, ttl: float, limit: float = 0.2) -> None:
        """Postgres may run for ``ttl`` more seconds. Call it well before that; cheap (< 1 ms). Without: stopped at once."""
        self._lease.renew(ttl, limit)

    def await_change(self, state: str, limit: float) -> str:
        """The keeper's state as soon as it is another one than ``state``, or after ``limit`` seconds."""
        return self._told.await_change(state, limit)

    def release(self) -> None:
        """ha_manager restarts: close connections, leave keeper and Postgres alone (the lease goes on)."""
        with self._looking:
            self._observer.close()
        self._server.disperse()
        self._orders.close()
        self._watch.close()
        self._lease.close()

    # --- the wants ---------------------------------------------------------------------------------------------------------

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

    def make_standby(self, follow: Upstream | None, limit: float = 60.0) -> None:
        """In recovery, names cleared; following ``follow`` if given. Refuses to demote a running primary unless it was
        stopped first (``make_stopped``). ``judge`` and ``rejoin`` come before; a database that has been a primary since is
        compared with ``follow`` here, over a replication connection, and refused (and left stopped) unless it can follow.
        """
        with self._changing:
            clock = Clock(limit)
            self._proven = None
            follow = self._encrypted(follow) if follow is not None else None
            if follow is not None and self._book.read().must_compare:
                self._compare(follow, clock)
            if self._is_up(clock):
                with self._session_when_ready(clock) as session:
                    if not _in_recovery(session, clock):
                        raise ReplicationError("Postgres is a primary: it must be stopped before it can be a standby")
                self._follow(follow, reload=True)
                if self._write_files(standby=True) and self._must_restart(clock):
                    self._note("restarting the standby: the active has settings that it must have as well")
                    self._stop("fast", min(10.0, clock.left))
                    self._start(clock)
            else:
                self._recover_copy()
                self._write_files(standby=True)
                self._follow(follow, reload=False)
                self._start(clock)
            with self._session_when_ready(clock) as session:
                if not _in_recovery(session, clock):
                    raise ReplicationError("Postgres was started as a standby and is none")
                replication.drop_slots(session, clock.left)

    def _compare(self, follow: Upstream, clock: Clock) -> None:
        adoption.write_passfile(self.config, self._password)
        try:
            active = receiving.ask_identity(self._server, self._node, follow, min(3.0, clock.left))
        except ReplicationError as wrong:
            raise ReplicationError(
                f"this database was a primary, and can't be compared with {follow.node}'s: {wrong}"
            ) from wrong
        if self._is_up(clock):
            with self._session_when_ready(clock) as session:
                if not _in_recovery(session, clock):
                    raise ReplicationError("Postgres is a primary: it must be stopped before it can be a standby")
            self._stop("fast", min(10.0, clock.left))
        verdict = self.judge(active, clock.need("comparing the databases"))
        if verdict.way is not Way.START:
            raise ReplicationError(f"this database can't follow {follow.node}'s as it is: {verdict.because}")
        self._book.write(self._book.read().followed(active.system_identifier, active.lineage))

    def make_detached(self, limit: float = 1.0) -> int:
        """In recovery, and nothing more is received or acknowledged, for good. Returns up to where all is flushed."""
        with self._changing:
            clock = Clock(limit)
            self._proven = None
            if not self._is_up(clock):
                self.make_standby(None, clock.need("starting Postgres"))
            receiving.detach(self._server, clock.need("ending the walreceiver"))
            with self._session_when_ready(clock) as session:
                return receiving.position(session, clock.left + 0.05)

    def stand_by(self, limit: float = 1.0) -> None:
        """A promotion may come at any time: open the connections that it needs. They are kept until it is settled."""
        with self._changing:
            self._server.stand_by(limit)

    def make_primary(
        self, epoch: int, limit: float = 30.0, *, hold: bool = False, sure: Callable[[], None] = lambda: None
    ) -> int:
        """Takes writes. One that is down is started as a standby (``startfence``); in recovery it is promoted, names cleared;
        ``hold``: with the peer's name of this epoch set, so that what waited before goes on waiting. ``sure`` is asked last,
        and calls the promotion off by what it raises: a start takes time, and a timeline that is not wanted any more is opened
        by the peer as well, from where this database would have to be copied. Returns the timeline; call ``settle_primary``
        next, when nobody waits any more.
        """
        with self._changing:
            clock = Clock(limit)
            names = replication.quoted(standby_name(self._peer, epoch)) if hold else ""
            if not self._is_up(clock):
                self._proven = None
                self._recover_copy()
                self._write_files()
                self._follow(None, reload=False)
                self._start(clock)
            with self._session_when_ready(clock) as session:
                before = receiving.before_promotion(session, clock.need("asking Postgres for its role"))
                if before is None:
                    timeline = receiving.primary_timeline(session, clock.left)
                else:
                    sure()
                    timeline = self._promote(epoch, names, before, session, clock)
            # Fsynced when nobody waits for it any more (``settle_primary``).
            startfence.up(self.config.data_dir, self.config.user, fsync=False)
            return timeline

    def _promote(self, epoch: int, names: str, before: receiving.Before, session: Session, clock: Clock) -> int:
        self._proven = None
        mending.let_replay_go_on(self._server, session, clock.left)
        book = self._book.read().promotion_begins(epoch, self._node, before.timeline, before.counter)
        self._server.change(names=names, conninfo="", slot="", hurry=True, read_only=False, lineage=book.text())
        self._book.write(book)
        startfence.bar(self.config.data_dir)
        receiving.begin_promotion(session, clock.left)
        return receiving.await_promotion(self._server, session, clock.need("the promotion"))

    def _was_primary(self) -> bool:
        """It was a primary when it ended, of whatever epoch, and nothing else has been done with it since."""
        control = self._control()
        return control is not None and control.was_primary and self._book.read().must_compare

    def settle_primary(self, epoch: int, limit: float = 10.0) -> None:
        """After a promotion, and after going solo: notes which epoch opened the timeline, makes role and slot of the peer."""
        with self._changing:
            clock = Clock(limit)
            with self._server.session(clock.left) as session:
                timeline = receiving.primary_timeline(session, clock.left)
                counter = int(session.one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", clock.left))
                system = session.one("SELECT system_identifier::text FROM pg_control_system()", clock.left)
                book = self._book.read().promoted(timeline).opened(epoch, counter)
                self._book.write(replace(book, system_identifier=system))
                self._server.change(read_only=False, lineage=book.text())
                startfence.sync(self.config.data_dir)
                replication.ensure_role(session, self._password, clock.left)
                rewinding.grant(session, clock.left)
                rewinding.grant(session, clock.left, differences.functions(self.config.version))
                replication.ensure_slot(session, self._peer, clock.left)
            self._server.disperse()

    def set_names_relaxed(self, limit: float = 5.0) -> None:
        """``synchronous_standby_names`` is empty and no commit waits: proven by a probe."""
        with self._changing:
            self._proven = None
            replication.relax(self._server, limit)

    def set_names_enforced(self, epoch: int, limit: float = 2.0) -> int:
        """Every commit waits for the peer's standby of ``epoch``: proven by a probe that was seen waiting. Returns the position
        that the standby is proven to hold. Raises ReplicationError after relaxing again (names that were enforced before stay).
        """
        with self._changing:
            head = postmaster.postmaster_of(self.config.data_dir)
            if head is None:
                raise ReplicationError("Postgres is not running")
            known = self._proven
            wanted = replication.quoted(standby_name(self._peer, epoch))
            if known is not None and known[:3] == (epoch, head.pid, head.start) and self._server.dynamic().names == wanted:
                return known[3]
            self._proven = None
            position = replication.enforce(self._server, epoch, self._peer, limit, self._note)
            self._proven = (epoch, head.pid, head.start, position)
            return position

    def prepare(self, limit: float = 60.0) -> None:
        """CHECKPOINT, so that a stop or a promotion that follows is short."""
        with self._server.session(min(limit, 2.0)) as session:
            session.rows("CHECKPOINT", limit)

    # --- looking -------------------------------------------------------------------------------------------------------------

    def facts(self, limit: float = 0.3) -> Observation:
        """Look now. Never raises for a Postgres that is down or hangs: then ``answers`` is False and ``because`` says why."""
        if not self._looking.acquire(timeout=limit):
            return replace(NOTHING, at=boottime(), because="another look at Postgres has not ended yet")
        try:
            state, ended, own = self._keeper_says(limit / 3, TOLD)
            seen, counter = self._observer.look(limit, own)
            if state != "running" or not seen.answers:
                state, ended, _ = self._keeper_says(limit / 3)  # it may have changed in this very moment
        finally:
            self._looking.release()
        if self._copying:
            seen = replace(seen, foreign=0)  # pg_rewind runs one for a moment
        if state != "running":
            seen = replace(seen, state=state, answers=False, because=seen.because or f"Postgres is {state}: {ended}")
        self._follow_reload(seen)
        return replace(seen, state=state, beyond=self._beyond(counter))

    def _keeper_says(self, limit: float, within: float = 0.0) -> tuple[str, str, int]:
        """Postgres's state, why, and its process id; asked for, unless the keeper said so ``within`` so many seconds."""
        try:
            status = self._keeper.within(within) or self._watch.status(limit)
            return str(status["state"]), str(status["because"]), int(status["pid"])
        except ControlError as wrong:
            return "unknown", str(wrong), -1

    def _beyond(self, counter: int) -> int:
        try:
            base = self._book.read().base
        except ConfigError:
            return 0
        return max(0, counter - base) if base >= 0 and counter >= 0 else 0

    def identity(self, limit: float = 1.0) -> Identity:
        """On the active: what ``judge`` on the peer needs (the session's ``replication`` request)."""
        clock = Clock(limit)
        with self._server.session(clock.left) as session:
            row = session.row(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()),"
                " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), pg_current_wal_insert_lsn()::text,"
                " (SELECT sum(pg_database_size(oid))::text FROM pg_database),"
                " (SELECT sum(size)::text FROM pg_ls_waldir()),"
                " (SELECT json_agg(json_build_array(pg_tablespace_location(oid), pg_tablespace_size(oid)))::text"
                "  FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'),"
                " (SELECT count(*)::text FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'),"
                " (SELECT bytes_per_wal_segment::text FROM pg_control_init())",
                clock.left,
            )
        timeline = int(row[1] or "0", 16)
        return Identity(
            system_identifier=row[0] or "",
            timeline=timeline,
            history=controldata.history(self.config.data_dir, timeline),
            lineage=self._book.read().known(timeline),
            lsn=lsn(row[2]),
            size=int(row[3] or 0),
            tablespaces=int(row[6] or 0),
            version=self.config.version,
            segment=int(row[7] or 0),
            locations=tuple((str(folder), int(size)) for folder, size in json.loads(row[5] or "[]")),
            wal=int(row[4] or 0),
        )

    def inventory(self) -> Inventory:
        """Extensions and collations, of every database; a moment for each."""
        return stock.take(self._node, self.config.version, self._server.connect)

    def data(self) -> str:
        """ready | none | copying | failed: can this database win an election (Message.data). Raises ConfigError when the note
        of its promotions is damaged: it could not be promoted.
        """
        if self._copying:
            return "copying"
        if not receiving.has_data(self.config.data_dir):
            return "none"
        self._book.read()
        unusable = seeding.in_progress(self.config.data_dir) or rewinding.interrupted(self.config)
        return "failed" if unusable or controldata.missing(self.config.data_dir) else "ready"

    # --- a database that must be replaced --------------------------------------------------------------------------------

    def judge(self, active: Identity, limit: float = 30.0) -> Verdict:
        """Postgres stopped: may this database follow ``active`` as it is? Reads, changes nothing but that tablespaces of the
        active's that the log will bring have a place here.
        """
        for wrong in tablespaces.make_places(self.config, active):
            self._note(wrong)
        return replacement.judge(self.config, self._book.read(), active, limit)

    def rejoin(
        self, verdict: Verdict, follow: Upstream, active: Identity, progress: OnProgress, limit: float = COPY_LIMIT
    ) -> str:
        """Stopped → data that can follow: nothing to do, or what lies beyond the fork kept and reported, then rewound
        or copied afresh. Returns the report in words ("" if nothing was replaced). Call ``make_standby(follow)`` next.
        """
        with self._changing:
            if postmaster.processes_of(self.config.data_dir):
                raise ReplicationError("Postgres must be stopped before its data is replaced")
            self._recover_copy(to_start=False)
            follow, report = self._encrypted(follow), ""
            if verdict.way is not Way.START:
                adoption.write_passfile(self.config, self._password)
                self._copying = True
                try:
                    report = replacement.replace(
                        replacement.Replacement(
                            self.config,
                            self._node,
                            verdict,
                            follow,
                            active,
                            progress,
                            limit,
                            self._note,
                            self.count_reports,
                            self._note_end_of_reign(),
                        )
                    )
                finally:
                    self._copying = False
            self._book.write(self._book.read().followed(active.system_identifier, active.lineage))
            return report

    def count_reports(self) -> None:
        """Look into what is kept of replaced databases where that is not done yet, in the background."""
        self.reports.count()

    def why_not_following(self, follow: Upstream, limit: float = 2.0) -> str | None:
        """Following, but not streaming: the reason if only a fresh copy helps (log removed, forked off before, other database);
        None if it may still come.
        """
        return receiving.why_not_following(self._server, self._node, self._encrypted(follow), limit)

    def mend(self, remedy: Remedy) -> str:
        """Apply it in place; returns what was done, in words, if an operator should read them."""
        with self._changing:
            if remedy is Remedy.PROVE:
                self._proven = None
                return ""
            return mending.apply(self._server, remedy)

    def kill(self) -> None:
        """Emergency: every process of this Postgres, now, with SIGKILL; returns when none is left."""
        self._watch.kill()

    # --- shared ----------------------------------------------------------------------------------------------------------

    def _control(self) -> Control | None:
        return controldata.read(self.config.bin_dir, self.config.data_dir)

    def _write_files(self, *, standby: bool = False) -> bool:
        return adoption.write_files(self.config, self._control(), self._addresses, standby=standby)

    def _follow_reload(self, seen: Observation) -> None:
        """The administrator may have reloaded: who is let in, and whether over TLS, follows what Postgres has now."""
        if seen.tls is None or seen.loaded == self._loaded:
            return
        self._loaded = seen.loaded
        try:
            if adoption.write_access(self.config, self._addresses, seen.tls, fsync=False):
                self._note("pg_hba.conf, pg_ident.conf or ssl has changed: taken over")
                self._server.reload()
        except (HaError, OSError) as wrong:
            self._note(f"the administrator's changes are not taken over: {wrong}")

    def _encrypted(self, follow: Upstream) -> Upstream:
        """An active that has not said yet whether it has TLS, since this process began, is reached as it was before."""
        before = is_plain(self._server.dynamic().conninfo)
        tls = follow.tls if follow.tls is not None else not before
        if not tls and not before:
            self._note(f"the replication from {follow.node} goes without TLS: ssl is off there")
        return replace(follow, tls=tls)

    def _follow(self, upstream: Upstream | None, *, reload: bool) -> None:
        self._note_end_of_reign()
        receiving.follow(self._server, self._node, upstream, self._password, reload=reload)

    def _note_end_of_reign(self) -> str:
        """Did this server's last commits as a primary wait for its peer ("" if not known)? A standby's settings don't tell."""
        settings, book = self._server.dynamic(), self._book.read()
        if not settings.conninfo:
            book = book.ended(bool(settings.names))
            self._book.write(book)
        return book.waited

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

    def _start(self, clock: Clock) -> None:
        if receiving.has_data(self.config.data_dir):
            # Theirs, started again and again, would always be quicker than ours. A keeper from before an upgrade lifts no bar.
            if self._orders.status(1.0).get("bars"):
                startfence.bar(self.config.data_dir)
            else:
                startfence.up(self.config.data_dir, self.config.user)
        if adoption.end_foreign(self.config, keeper.living(self.config.run_dir), clock.left):
            self._note(mending.FOREIGN)
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
        control = self._control()
        with self._session_when_ready(clock) as session:
            for name, needed in ((control.floors or {}) if control is not None else {}).items():
                if int(session.one("SELECT current_setting($1)", clock.left, [name])) < needed:
                    return True
        return False


def _in_recovery(session: Session, clock: Clock) -> bool:
    return session.one("SELECT pg_is_in_recovery()::text", clock.need("asking Postgres for its role")) == "true"
