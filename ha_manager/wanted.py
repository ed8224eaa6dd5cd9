"""This server's Postgres brought where heartbeat wants it: standby, detached, primary; compared, and replaced where it must be.

Promise: each ``make_…`` returns only with the proof, or raises ``ReplicationError`` (or another ``HaError``) with the reason;
each may be called again after a crash at any line, and does nothing where its state holds already. Source: design §4 rules 5-7,
10, 11 and §6; docs/protocols.md (the wants); facts/postgres.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, replace

from ha_manager import (
    adoption,
    differences,
    halves,
    logreserve,
    mending,
    ownfiles,
    postmaster,
    receiving,
    replacement,
    replication,
    rewinding,
    startfence,
    tablespaces,
)
from ha_manager.care import Remedy
from ha_manager.linkspeed import LinkSpeed
from ha_manager.looking import Looking
from ha_manager.observation import Identity, Progress, Upstream, is_plain, standby_name
from ha_manager.postgres import application_name
from ha_manager.rejoin import Verdict, Way
from ha_manager.replication import Clock
from ha_manager.sql import Session
from ha_manager.underkeeper import in_recovery
from runtime.errors import ReplicationError

#: Called about four times a second during a copy; returns False to cancel it.
OnProgress = Callable[[Progress], bool]
#: Large databases on slow links take long; what ends a copy is that nothing moves any more (``transfer``). Seconds.
COPY_LIMIT = 7 * 24 * 3600.0
#: for writing our own files again (seconds)
_REMAKE = 2.0
#: whoever is stopped amid a checkpoint is woken after so long (seconds)
_WAKE = 0.2


class Wanted(Looking):
    """The wants, but for "stopped"."""

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
                    if not in_recovery(session, clock):
                        raise ReplicationError("Postgres is a primary: it must be stopped before it can be a standby")
                self._follow(follow, reload=True)
                self._end_pause(follow, clock)
                if self._write_files() and self._must_restart(clock):
                    self._note("restarting the standby: the active has settings that it must have as well")
                    self._stop("fast", min(10.0, clock.left))
                    self._start(clock)
            else:
                self._recover_copy()
                self._write_files()
                self._follow(follow, reload=False)
                self._start(clock)
            with self._session_when_ready(clock) as session:
                if not in_recovery(session, clock):
                    raise ReplicationError("Postgres was started as a standby and is none")
                replication.drop_slots(session, clock.left)

    def _end_pause(self, follow: Upstream | None, clock: Clock) -> None:
        """While replay is paused, no walreceiver begins to follow somebody else, or in another epoch: Postgres starts one when
        it needs more log. One that streams as it should is no reason to end what somebody wanted.
        """
        if follow is None:
            return
        with self._session_when_ready(clock) as session:
            infos = session.rows("SELECT conninfo FROM pg_stat_wal_receiver", clock.left)
            name = application_name((infos[0][0] or "") if infos else "")
            if name != standby_name(self._node, follow.epoch) and mending.let_replay_go_on(session, clock.left):
                self._note(f"replay was paused, and can't follow {follow.node} in epoch {follow.epoch} so: it goes on")

    def _compare(self, follow: Upstream, clock: Clock) -> None:
        adoption.write_passfile(self.config, self._password)
        try:
            active = receiving.ask_identity(self._server, self._node, follow, min(3.0, clock.left))
        except ReplicationError as wrong:
            # without that word TLS is asked for, and an active that has none says so
            untold = "" if follow.tls is not None else " (its ha_manager has not said yet whether it has TLS)"
            raise ReplicationError(
                f"this database was a primary, and can't be compared with {follow.node}'s{untold}: {wrong}"
            ) from wrong
        if self._is_up(clock):
            with self._session_when_ready(clock) as session:
                if not in_recovery(session, clock):
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
            up = self._is_up(clock)
            if up and self._hides_log(clock):
                self.make_stopped(immediate=True, limit=clock.left)
                up = False
            if not up:
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

    def _hides_log(self, clock: Clock) -> bool:
        """A promotion of what runs would end in a PANIC, or lose the log behind a half segment (``halves``)."""
        with contextlib.suppress(ReplicationError), self._server.session(min(1.0, clock.left)) as session:
            replayed = receiving.replayed(session, clock.left)
            if replayed is None or replayed > halves.newest_fork(self.config.data_dir):
                return False
        if not self._halves(clock):
            return False
        control = self._control()
        return control is not None and control.state == "in archive recovery"

    def _promote(self, epoch: int, names: str, before: receiving.Before, session: Session, clock: Clock) -> int:
        self._proven = None
        mending.let_replay_go_on(session, clock.left)
        if logreserve.give_up_if_needed(self.config.data_dir):
            self._note("the disk of the log of changes is full: room that was kept for that is used to start; make room there")
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
        """CHECKPOINT, so that a stop or a promotion that follows is short. Whoever is stopped meanwhile is woken."""
        clock = Clock(limit)
        postmaster.wake_stopped(postmaster.processes_of(self.config.data_dir))
        with self._server.session(min(limit, 2.0)) as session:
            session.send("CHECKPOINT")
            while not session.done(_WAKE):
                clock.need("a checkpoint")
                postmaster.wake_stopped(postmaster.processes_of(self.config.data_dir))
            session.fetch(0.0)
        logreserve.keep(self.config.data_dir)

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
                            LinkSpeed(self.config, self._node, follow),
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
            if remedy is Remedy.REMAKE:
                return self._remake(Clock(_REMAKE))
            if remedy is Remedy.SETTINGS:
                if self._write_files():
                    self._server.reload()
                return ""
            return mending.apply(self._server, remedy)

    def _remake(self, clock: Clock) -> str:
        """Nothing that Postgres goes by changes: it is asked for what depends on the role."""
        gone = ownfiles.missing(self.config.state_dir)
        if not gone:
            return ""
        with self._server.session(clock.left) as session:
            runs = ownfiles.running(session, clock.left)
        adoption.make_folder(self.config)
        adoption.write_passfile(self.config, self._password if runs.conninfo else "")
        self._server.change(reload=False, **asdict(runs))
        self._write_files()
        self._book.keep()
        self._server.reload()
        return f"{', '.join(gone)} had been removed by somebody, and ha_manager wrote them again"

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _encrypted(self, follow: Upstream) -> Upstream:
        """An active that has not said yet whether it has TLS, since this process began, is reached as it was before."""
        before = is_plain(self._server.dynamic().conninfo)
        tls = follow.tls if follow.tls is not None else not before
        if not tls and not before and self._told_plain != follow.node:
            self._note(f"the replication from {follow.node} goes without TLS: ssl is off there")
        self._told_plain = "" if tls else follow.node
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
