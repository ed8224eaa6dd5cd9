"""The Postgres worker: one thread that makes heartbeat's newest want true and keeps it true.

Promise: the newest want wins; what a want makes obsolete (a copy) is cancelled, so promotion, detaching and stopping wait
for nothing they don't need; a failure is told and tried again with backoff; a Postgres that dies while wanted is restarted
in place, within a limit. ``carried`` says what is proven and never names a want before it holds. Source: docs/protocols.md
(wants); design §4 rules 3, 7, 10, 11, §6.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Protocol

from ha_manager import observation
from ha_manager.care import MEANT_FOR, Deaths, Remedy, is_damaged
from ha_manager.deviation import alike, deviates, same_copy
from ha_manager.observation import Identity, Observation, Progress, Stopped, Upstream, is_plain
from ha_manager.orders import Epoch, Names, Phase, Postgres, Stop, Want
from ha_manager.outlook import Carried, Look
from ha_manager.progress import Pace, duration, words
from ha_manager.rejoin import Verdict, Way
from runtime.errors import DidNotStart, HaError, ReplicationError

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
#: a copy that failed on its way, begun anew at once, would load the active for nothing (seconds)
COPY_AGAIN, COPY_AGAIN_MOST = 1.0, 60.0
#: what was just carried out is not carried out again before it could be seen (seconds)
REST = 0.3
#: a standby that was told to follow may take so long to stream before it is asked why it doesn't (seconds)
PATIENCE = 2.0
#: a Postgres that runs and answers nobody for so long is ended and started again (seconds); an active hands over before
HUNG = 10.0
#: a stopped one may take so long to start as a standby: it may have much log to replay (seconds)
STARTS = 60.0
#: whoever handed over starts again as a standby when its successor serves, or after so long (seconds): started at once, it
#: would only have to be stopped and compared then
HANDED_OVER = 2.0
#: clients that were waiting for a promotion come before what the promotion owes (seconds)
CLIENTS_FIRST = 0.05


class Postgreses(Protocol):
    """What the worker needs of ``database.Database``."""

    def make_stopped(self, *, immediate: bool, limit: float = 30.0) -> Stopped: ...
    def make_standby(self, follow: Upstream | None, limit: float = 60.0) -> None: ...
    def make_detached(self, limit: float = 1.0) -> int: ...
    def stand_by(self, limit: float = 1.0) -> None: ...
    def make_primary(self, epoch: int, limit: float = 30.0, *, hold: bool = False, sure: Callable[[], None] = ...) -> int: ...
    def settle_primary(self, epoch: int, limit: float = 10.0) -> None: ...
    def set_names_relaxed(self, limit: float = 5.0) -> None: ...
    def set_names_enforced(self, epoch: int, limit: float = 2.0) -> int: ...
    def prepare(self, limit: float = 60.0) -> None: ...
    def data(self) -> str: ...
    def judge(self, active: Identity, limit: float = 30.0) -> Verdict: ...
    def rejoin(self, verdict: Verdict, follow: Upstream, active: Identity, progress: Callable[[Progress], bool]) -> str: ...
    def why_not_following(self, follow: Upstream, limit: float = 2.0) -> str | None: ...
    def mend(self, remedy: Remedy) -> str: ...
    def stop_ahead(self) -> None: ...


class Active(Protocol):
    """The active, as a passive can learn of it."""

    def upstream(self, follow: Epoch) -> Upstream:
        """Where to connect: known from module.xml even while the session is down."""

    def identity(self, follow: Epoch) -> Identity | None:
        """The active's own word over the session, in this very epoch; None while it can't be asked."""


class Events(Protocol):
    """Whom the worker tells; called from its thread."""

    def changed(self) -> None:
        """``carried`` is new."""

    def proved(self, look: Look) -> None:
        """What a step has just proved: as good as a look, and later than any that began before."""

    def replication(self, event: str, text: str) -> None:
        """``started`` | ``initialised`` | ``kept`` | ``mended``: for log, status and hooks."""


class Obsolete(ReplicationError):
    """A newer want made the running one pointless."""


class Worker:
    """Give it wants and observations from any thread; read ``carried`` from any thread."""

    def __init__(self, database: Postgreses, active: Active, events: Events, clock: Callable[[], float]) -> None:
        self._db = database
        self._active = active
        self._events = events
        self._clock = clock
        self._condition = threading.Condition()
        self._newest: Want | None = None
        self._seen = Observation()
        self._again = False
        self._mend: tuple[Remedy, ...] = ()
        self._reseed = ""
        self._ended = False
        #: what is being carried out at this moment
        self._doing: Want | None = None
        self.carried = Carried()
        # only the worker's thread touches what follows
        self._names: tuple[Names, int] | None = None
        self._settled = -1
        #: timeline of the primary, the one on which it has made a checkpoint, and whether its promotion still owes one
        self._timeline = self._checkpointed = 0
        self._checkpoint_due = False
        self._primary_epoch: Epoch | None = None
        self._deaths = Deaths()
        self._ran = False
        self._misstarts = 0
        self._copied_at = -inf
        self._following_since = inf
        self._asking: threading.Thread | None = None
        self._answer: tuple[Epoch, str, Identity | None] | None = None
        self._mute_since = inf
        self._handed_over_at = -inf
        self._done: Want | None = None
        self._proof: Observation | None = None
        self._redo = False
        self._failures = 0
        self._copies_failed = 0
        self._retry_at = inf
        self._stepped_at = -inf

    # --- for other threads ----------------------------------------------------------------------------------------------

    def want(self, want: Want) -> None:
        """Replace what is wanted. An immediate stop waits for nothing that is being done with Postgres meanwhile."""
        with self._condition:
            self._newest = want
            self._retry_at = inf
            at_once = want.postgres is Postgres.STOPPED and want.stop is Stop.IMMEDIATE
            amid = self._doing is not None and self._doing.postgres is not Postgres.STOPPED
            self._condition.notify()
        if at_once and amid:
            threading.Thread(target=self._stop_ahead, args=(want,), name="stop ahead", daemon=True).start()

    def new_link(self) -> None:
        """Another run of heartbeat counts its wants anew: what is wanted stays, its serial means nothing any more."""
        with self._condition:
            if self._newest is not None:
                self._newest = replace(self._newest, serial=0)
            self.carried = replace(self.carried, serial=0, link=self.carried.link + 1)

    def look(self, seen: Observation, mend: tuple[Remedy, ...] = ()) -> None:
        """Take an observation and the remedies that it calls for; wakes the worker if what was carried out no longer holds."""
        with self._condition:
            self._seen, self._mend = seen, mend
            mute = seen.state == "running" and not seen.answers
            self._mute_since = min(self._mute_since, self._clock()) if mute else inf
            rested = self._clock() - self._stepped_at >= REST
            newest = self._newest
            undone = newest is not None and (
                deviates(newest, self.carried, seen) or self._hangs(newest) or self._unencrypted(newest)
            )
            if rested and (undone or mend):
                self._again = True
                self._condition.notify()

    def settle_again(self) -> None:
        """What a promotion owes (role, slot) is due again: the replication password has changed."""
        with self._condition:
            self._settled, self._again = -1, True
            self._condition.notify()

    def try_again(self) -> None:
        """The peer's ha_manager can be asked again: what failed for want of that doesn't wait any longer."""
        with self._condition:
            if self._retry_at != inf and not self._copies_failed:
                self._retry_at = self._clock()
                self._condition.notify()

    def reseed(self, because: str) -> None:
        """Copy the followed active's database afresh, whatever is here, once."""
        with self._condition:
            self._reseed, self._again, self._retry_at = because, True, inf
            self._condition.notify()
        self._publish(trouble="", copying=self._awaited_copy())

    def end(self) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify()

    def _stop_ahead(self, want: Want) -> None:
        """A proof, a checkpoint or a start may take seconds, and ends at once with its Postgres. ``step`` has the proof."""
        try:
            if self._newest is want:
                self._db.stop_ahead()
        except HaError as wrong:
            log.info("Postgres is not stopped ahead of what is being done: %s", wrong)

    def settle(self) -> None:
        """Wait for the question that is being asked, if one is."""
        if self._asking is not None:
            self._asking.join()

    # --- the thread -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until ``end``."""
        self._publish(data=self._data())
        while (want := self._next()) is not None:
            if self._holds(want):
                self._carried_out(want)
                self._afterwards(want)
            else:
                self.step(want)

    def step(self, want: Want) -> None:
        """Carry out ``want`` once; publish what came of it."""
        self._done = self._proof = None
        try:
            self._carry_now(want)
        except Obsolete:
            self._publish(copying=self._awaited_copy())
            return
        except DidNotStart as wrong:
            self._failed(want, str(wrong), data="failed")
            return
        except (HaError, OSError) as wrong:  # a full disk under a copy, say
            self._failed(want, str(wrong))
            return
        except Exception as bug:
            log.exception("carrying out want %d", want.serial)
            self._failed(want, f"internal error: {type(bug).__name__}: {bug}")
            return
        self._done, self._failures = want, 0
        with self._condition:
            self._retry_at = inf
        if self.carried.trouble:
            log.info("Postgres is as wanted again: %s", want.postgres)
        self._stepped_at = self._clock()
        self._publish(trouble="", copying=self._awaited_copy(), data=self._data())
        self._carried_out(want)
        self._afterwards(want)

    def _holds(self, want: Want) -> bool:
        """Nothing to do: what was carried out last is the same but for the words, and nothing was seen that contradicts it."""
        return self._done is not None and not self._redo and alike(self._done, want)

    def _next(self) -> Want | None:
        with self._condition:
            while not self._ended:
                newest, now = self._newest, self._clock()
                due = newest is not None and (
                    (newest.serial != self.carried.serial and self._retry_at == inf) or now >= self._retry_at or self._again
                )
                if due and (not self._again or self._retry_at == inf or now >= self._retry_at):
                    self._redo, self._again = self._again or self._retry_at != inf, False
                    return newest
                self._condition.wait(min(0.5, max(0.01, self._retry_at - now)))
        return None

    def _failed(self, want: Want, text: str, data: str = "") -> None:
        self._failures += 1
        wait = min(RETRY_MOST, RETRY_FIRST * 2 ** (self._failures - 1))
        if self._copies_failed:
            wait = max(wait, min(COPY_AGAIN_MOST, COPY_AGAIN * 2 ** (self._copies_failed - 1)))
        with self._condition:
            if self._newest is want:
                self._retry_at = self._clock() + wait
        if text != self.carried.trouble:
            log.error("Postgres can't be made %s: %s", want.postgres, text)
        self._publish(trouble=text, copying=self._awaited_copy(), data=data or self._data())

    def _carried_out(self, want: Want) -> None:
        with self._condition:
            if self._newest is want:
                self.carried = replace(self.carried, serial=want.serial)
            carried, (proof, self._proof) = self.carried, (self._proof, None)
        if proof is not None:
            self._events.proved(Look(proof, carried.serial, carried.link, proof.at, carried.proven))
        self._events.changed()

    def _publish(self, **changes: object) -> None:
        with self._condition:
            before, self.carried = self.carried, replace(self.carried, **changes)  # type: ignore[arg-type]
        if before != self.carried:
            self._events.changed()

    def _data(self) -> str:
        try:
            return self._db.data()
        except HaError:
            return "failed"

    def _current(self, want: Want) -> bool:
        return self._newest is want or (self._newest is not None and replace(self._newest, serial=want.serial) == want)

    # --- wants ----------------------------------------------------------------------------------------------------------

    def _carry_now(self, want: Want) -> None:
        """Raises Obsolete where a stop came in between: whatever went wrong then went wrong because of it."""
        try:
            with self._amid(want):
                self._carry(want)
        except HaError:
            newest = self._newest
            if newest is not None and newest.postgres is Postgres.STOPPED and want.postgres is not Postgres.STOPPED:
                raise Obsolete("it is to be stopped") from None
            raise

    @contextmanager
    def _amid(self, want: Want) -> Iterator[None]:
        with self._condition:
            self._doing = want
        try:
            yield
        finally:
            with self._condition:
                self._doing = None

    def _carry(self, want: Want) -> None:
        if want.postgres is not Postgres.PRIMARY:
            self._names, self._primary_epoch = None, None
        if want.postgres is not Postgres.STANDBY:
            self._take_reseed()
        if self._hangs(want):
            self._end_hung()
        self._mend_what_ails(want)
        match want.postgres:
            case Postgres.KEEP | Postgres.UNKNOWN:
                pass
            case Postgres.STOPPED:
                self._following_since = inf
                stopped = self._db.make_stopped(immediate=want.stop is Stop.IMMEDIATE)
                self._is_now("stopped")
                self._handed_over_at = self._clock() if want.stop is Stop.FAST else -inf
                self._publish(detached=False, proven=-1, shutdown_lsn=stopped.shutdown_lsn, follow=Epoch())
                self._proof = observation.stopped(self._seen, self._clock())
            case Postgres.DETACHED:
                self._following_since = inf
                position = self._db.make_detached()
                self._publish(detached=True, follow=Epoch())
                self._proof = observation.detached(self._seen, self._clock(), position)
            case Postgres.STANDBY:
                self._standby(want)
            case Postgres.PRIMARY:
                self._primary(want)

    def _is_now(self, state: str) -> None:
        """The next want may come before the next look, and would be carried out on what was seen before this one."""
        with self._condition:
            if self._seen.state != state:
                self._seen = replace(self._seen, state=state, answers=False)

    def _mend_what_ails(self, want: Want) -> None:
        """What the newest look calls for (``care``); the next look says whether it helped. Nothing that is wanted waits for it:
        one that fails is told, and whoever takes over or lets go doesn't begin with it.
        """
        with self._condition:
            remedies, self._mend = self._mend, ()
        if want.postgres in (Postgres.DETACHED, Postgres.STOPPED):
            return
        for remedy in remedies:
            if MEANT_FOR.get(remedy, want.postgres) is not want.postgres:
                continue  # called for by another want
            log.warning("in place: %s", remedy.value)
            try:
                self._apply(remedy, want)
            except HaError as wrong:
                log.warning("in place: failed: %s", wrong)

    def _apply(self, remedy: Remedy, want: Want) -> None:
        if remedy is Remedy.SETTLE:
            self._settled = -1
        elif remedy is Remedy.RESTART:
            self._db.make_stopped(immediate=False, limit=5.0)
            self._is_now("stopped")
        else:
            if remedy is Remedy.PROVE:
                self._names = None
                self._publish(proven=-1)
            if done := self._db.mend(remedy):
                self._events.replication("mended", done)
            if remedy is Remedy.END_FOREIGN:
                self._is_now("stopped")
            if remedy is Remedy.RELEASE_LOG:
                # A new slot keeps all since the last checkpoint: that one comes first; then ``care`` misses the slot.
                self._start_checkpoint(want)

    def _hangs(self, want: Want) -> bool:
        """Postgres runs, is wanted, and has answered nobody for so long that only another one will."""
        wanted = want.postgres in (Postgres.STANDBY, Postgres.PRIMARY)
        return wanted and self._clock() - self._mute_since >= HUNG

    def _unencrypted(self, want: Want) -> bool:
        """Followed without TLS, although the active has it by now."""
        follows = want.postgres is Postgres.STANDBY and want.follow != Epoch()
        return follows and is_plain(self._seen.primary_conninfo) and bool(self._active.upstream(want.follow).tls)

    def _end_hung(self) -> None:
        log.error("Postgres has not answered for %.0f s (%s): ending it, to start it again", HUNG, self._seen.because)
        self._mute_since = inf
        self._db.make_stopped(immediate=True)
        self._seen = replace(self._seen, state="stopped")

    def _primary(self, want: Want) -> None:
        self._following_since = inf
        if self._seen.state == "stopped" and self._primary_epoch == want.epoch:
            self._count_death(want)

        def sure() -> None:
            newest = self._newest
            if newest is not None and newest.postgres is not Postgres.PRIMARY:
                self._is_now("running")
                raise Obsolete("it is to be no primary any more")

        timeline = self._db.make_primary(want.epoch.number, hold=want.names is Names.ENFORCED, sure=sure)
        self._is_now("running")
        if timeline != self._timeline:  # promoted, maybe again in its epoch: what a promotion owes is due
            self._timeline, self._settled, self._checkpoint_due = timeline, -1, True
        self._ran, self._primary_epoch = True, want.epoch
        self._publish(detached=False, follow=Epoch(), shutdown_lsn=-1)
        wanted = (want.names, want.epoch.number)
        if want.names is Names.RELAXED and self._names != wanted:
            self._publish(proven=-1)
            self._db.set_names_relaxed()
            self._proof = observation.promoted(self._seen, self._clock(), timeline)
        elif want.names is Names.ENFORCED and (self._names != wanted or self.carried.proven < 0):
            self._names = None
            self._publish(proven=self._db.set_names_enforced(want.epoch.number))
        self._names = wanted
        if want.prepare and not self.carried.prepared:
            self._db.prepare()
        self._publish(prepared=want.prepare)

    def _count_death(self, want: Want) -> None:
        """One that came up and died again; one that doesn't come up says why itself, and is tried again and again."""
        now = self._clock()
        if self._ran:
            self._ran = False
            self._deaths.died(now)
            log.warning("Postgres has died; starting it again in place")
        if too_often := self._deaths.too_often(now, alone=want.names is not Names.ENFORCED):
            raise ReplicationError(too_often)

    def _afterwards(self, want: Want) -> None:
        """What a promotion will need, before it comes; and what it owes, when nobody waits for it any more."""
        if want.postgres in (Postgres.STANDBY, Postgres.DETACHED):
            self._db.stand_by()
        if want.postgres is not Postgres.PRIMARY or self._settled == want.epoch.number:
            return
        with self._condition:
            self._condition.wait_for(lambda: self._ended or self._newest is not want, CLIENTS_FIRST)
        if want.phase is Phase.PROMOTING or not self._current(want):
            return
        try:
            with self._amid(want):
                self._db.settle_primary(want.epoch.number)
            self._settled = want.epoch.number
            if self._checkpoint_due or self._checkpointed != self._timeline:
                self._checkpoint_due = False
                self._start_checkpoint(want)
            elif self.carried.checkpointed != want.epoch.number:
                # Solo without a promotion. Another checkpoint would recycle the log from before the fork, if this becomes one.
                self._publish(checkpointed=want.epoch.number)
        except HaError as wrong:
            log.warning("after the promotion: %s", wrong)
            with self._condition:
                self._retry_at = self._clock() + RETRY_MOST

    def _start_checkpoint(self, want: Want) -> None:
        args = (want.epoch.number, self._timeline)
        threading.Thread(target=self._checkpoint, args=args, name="checkpoint", daemon=True).start()

    def _checkpoint(self, epoch: int, timeline: int) -> None:
        """In a thread of its own: it may take a minute, and the next want must not wait for it (facts/postgres.md 6)."""
        try:
            self._db.prepare()
        except HaError as wrong:
            log.warning("the checkpoint after the promotion: %s", wrong)
        else:
            self._checkpointed = timeline
            self._publish(checkpointed=epoch)

    # --- following ------------------------------------------------------------------------------------------------------

    def _standby(self, want: Want) -> None:
        seen = self._seen
        if seen.state == "running" and seen.answers and not seen.in_recovery:
            self._db.make_stopped(immediate=want.stop is Stop.IMMEDIATE)
            seen = replace(seen, state="stopped")
        self._publish(proven=-1, prepared=False)
        if want.follow == Epoch():
            self._following_since = inf
            if seen.state == "running" and seen.in_recovery:
                # Nobody is named: a stream that still runs stays. It may be bringing the shutdown checkpoint of an active
                # that stands down, without which that server's database would have to be copied afresh.
                self._publish(detached=False)
                return
            self._let_the_successor_begin(want)
            if self._db.data() not in ("none", "copying"):
                self._db.make_standby(None)
            self._publish(detached=False, follow=Epoch())
            return
        follow = self._active.upstream(want.follow)
        answer = self._take_answer(want)
        if reseed := self._take_reseed():
            self._copy_afresh(want, follow, reseed)
        elif seen.state != "running":
            self._make_fit(want)
            follow = self._active.upstream(want.follow)
        elif seen.following == want.follow.number:
            self._following_since = self._clock()  # it streams: whatever was found out before is no longer so
        elif answer is not None:
            self._copy_because(want, follow, *answer)
        elif self.carried.follow == want.follow and self._clock() - self._following_since > PATIENCE:
            self._ask_why(want, follow)
        if self.carried.follow != want.follow:
            self._events.replication("started", f"following {want.follow.node} in epoch {want.follow.number}")
            self._following_since = self._clock()
        # One that runs needs a moment; one that hangs must not keep this thread from ending it.
        try:
            self._db.make_standby(follow, HUNG / 2 if self._seen.state == "running" else STARTS)
        except DidNotStart as wrong:
            self._replace_damaged(want, follow, wrong)
            self._db.make_standby(follow, STARTS)
        self._misstarts = 0
        self._is_now("running")
        self._publish(detached=False, follow=want.follow)

    def _replace_damaged(self, want: Want, follow: Upstream, wrong: DidNotStart) -> None:
        """It doesn't come up, again and again, for a reason that lies in its data: the active's is copied; what is here stays
        beside it. Raises ``wrong`` where that would not help.
        """
        self._misstarts += 1
        if not is_damaged(self._misstarts, wrong.last_words, self._clock() - self._copied_at):
            raise wrong
        active = self._active.identity(want.follow)
        if active is None:
            raise wrong
        self._db.make_stopped(immediate=True)
        verdict = self._db.judge(active)
        because = f"the database here is damaged ({wrong.last_words or wrong})"
        way = Way.COPY if verdict.way is Way.START else verdict.way
        self._replace(want, replace(verdict, way=way, because=because, damaged=True), follow, active)
        self._misstarts, self._copied_at = 0, self._clock()

    def _let_the_successor_begin(self, want: Want) -> None:
        """Raises Obsolete as soon as something else is wanted."""
        left = self._handed_over_at + HANDED_OVER - self._clock()
        with self._condition:
            if left > 0 and self._condition.wait_for(lambda: self._ended or not self._current(want), left):
                raise Obsolete("no longer wanted")

    def _make_fit(self, want: Want) -> None:
        """Postgres is stopped: may its data follow that active? If the active can't be asked, data that is there may try."""
        active = self._active.identity(want.follow)
        if active is None:
            if self._db.data() in ("none", "copying", "failed"):
                raise ReplicationError(
                    f"there is no usable database here yet, and ha_manager on {want.follow.node} can't be asked for a copy: "
                    "waiting for the session (port, keys: see `ha show`)"
                )
            return
        verdict = self._db.judge(active)
        if verdict.way is not Way.START:
            # Asked anew: the session may have opened only now, and brought the port and whether TLS is on there.
            self._replace(want, verdict, self._active.upstream(want.follow), active)

    def _ask_why(self, want: Want, follow: Upstream) -> None:
        """Told to follow, and not streaming. Asked in a thread of its own: an active that just lost its power answers only by
        time-out, and in that very moment this server may have to take over.
        """
        self._following_since = self._clock()
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._inquire, args=(want.follow, follow), name="why", daemon=True)
            self._asking.start()

    def _inquire(self, epoch: Epoch, follow: Upstream) -> None:
        try:
            reason = self._db.why_not_following(follow)
            active = self._active.identity(epoch) if reason is not None else None
        except HaError as wrong:
            log.info("why %s can't be followed: %s", epoch.node, wrong)
            return
        if reason is None:
            return
        with self._condition:
            self._answer = (epoch, reason, active)
            self._again = True
            self._condition.notify()

    def _take_answer(self, want: Want) -> tuple[str, Identity | None] | None:
        """The reason why only a fresh copy helps, if it was found for the active that is followed now."""
        with self._condition:
            answer, self._answer = self._answer, None
        return answer[1:] if answer is not None and answer[0] == want.follow else None

    def _awaited_copy(self) -> str:
        return f"the database is about to be copied: {self._reseed}" if self._reseed else ""

    def _take_reseed(self) -> str:
        with self._condition:
            because, self._reseed = self._reseed, ""
        return because

    def _copy_afresh(self, want: Want, follow: Upstream, because: str) -> None:
        """What is proven to hold nothing that the active lacks may go where the disk doesn't hold both; all else is kept."""
        active = self._active.identity(want.follow)
        if active is None:
            raise ReplicationError(f"ha_manager on {want.follow.node} can't be asked any more: nothing was copied ({because})")
        self._db.make_stopped(immediate=False)
        self._is_now("stopped")
        verdict = self._db.judge(active)
        way = Way.COPY if verdict.way is Way.START else verdict.way
        kept_whole = verdict.damaged or way is Way.DIVERGED
        self._replace(want, replace(verdict, way=way, because=because, damaged=kept_whole), follow, active)

    def _copy_because(self, want: Want, follow: Upstream, reason: str, active: Identity | None) -> None:
        if active is None:
            raise ReplicationError(f"this database can't follow {want.follow.node} ({reason}), whose ha_manager can't be asked")
        self._db.make_stopped(immediate=False)
        verdict = self._db.judge(active)
        if verdict.way is Way.START:
            verdict = Verdict(Way.COPY, reason, verdict.fork, verdict.timeline)
        self._replace(want, verdict, follow, active)

    def _replace(self, want: Want, verdict: Verdict, follow: Upstream, active: Identity) -> None:
        self._events.replication("copying", f"copying the database of {want.follow.node}: {verdict.because}")
        self._publish(copying=f"the database is being copied from {want.follow.node}: {verdict.because}", data="copying")

        pace, latest = Pace(), Progress(0, 0, 0.0)

        def progress(done: Progress) -> bool:
            nonlocal latest
            latest, newest = (done if done.total else latest), self._newest
            self._publish(copying=f"the database is being copied from {want.follow.node}: {words(done)}")
            if pace.due(done):
                log.info("copying the database of %s: %s", want.follow.node, words(done))
            return not self._ended and newest is not None and same_copy(newest, want)

        try:
            report = self._db.rejoin(verdict, follow, active, progress)
        except HaError:
            if self._ended or self._newest is None or not same_copy(self._newest, want):
                raise Obsolete("no longer wanted") from None
            self._copies_failed += latest.done > 0
            raise
        self._copies_failed = 0
        self._publish(copying="", data=self._data())
        if report:
            self._events.replication("kept", report)
        took = f": {latest.total >> 20} MiB in {duration(latest.seconds)}" if latest.total else ""
        self._events.replication("initialised", f"the database was copied from {want.follow.node}{took}")
