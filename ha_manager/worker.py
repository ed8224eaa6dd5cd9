"""The Postgres worker: one thread that makes heartbeat's newest want true and keeps it true.

Promise: the newest want wins; what a want makes obsolete (a copy) is cancelled, so promotion, detaching and stopping wait
for nothing they don't need; a failure is told and tried again with backoff; a Postgres that dies while wanted is restarted
in place, within a limit. ``carried`` says what is proven and never names a want before it holds. Source: docs/protocols.md
(wants); design §4 rules 3, 7, 10, 11, §6.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from math import inf

from ha_manager import observation
from ha_manager.care import MEANT_FOR, Remedy
from ha_manager.carrying import RETRY_FIRST, RETRY_MOST, Active, Events, Obsolete, Postgreses
from ha_manager.deviation import alike, deviates
from ha_manager.following import HUNG, Following
from ha_manager.observation import Observation, is_plain
from ha_manager.orders import Epoch, Postgres, Stop, Want
from ha_manager.outlook import Look
from runtime.errors import DidNotStart, HaError

log = logging.getLogger(__name__)

#: a copy that failed on its way, begun anew at once, would load the active for nothing (seconds)
COPY_AGAIN, COPY_AGAIN_MOST = 1.0, 60.0
#: what was just carried out is not carried out again before it could be seen (seconds)
REST = 0.3
#: whatever is to be done wakes the thread; it looks by itself as often (seconds)
AT_MOST = 5.0


class Worker(Following):
    """Give it wants and observations from any thread; read ``carried`` from any thread."""

    def __init__(self, database: Postgreses, active: Active, events: Events, clock: Callable[[], float]) -> None:
        super().__init__(database, active, events, clock)
        self._mend: tuple[Remedy, ...] = ()
        # only the worker's thread touches what follows
        self._mute_since = inf
        self._done: Want | None = None
        self._redo = False
        self._failures = 0
        self._stepped_at = -inf

    # --- for other threads ----------------------------------------------------------------------------------------------

    def want(self, want: Want) -> None:
        """Replace what is wanted. An immediate stop waits for nothing that is being done with Postgres meanwhile."""
        with self._condition:
            before, self._newest = self._newest, want
            self._retry_at = inf
            at_once = want.postgres is Postgres.STOPPED and want.stop is Stop.IMMEDIATE
            amid = self._doing is not None and self._doing.postgres is not Postgres.STOPPED
            self._condition.notify()
        if before is not None and want.yielded not in (Epoch(), before.yielded):
            self._start_checkpoint(want)  # the rival's rewind or copy begins with one
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
        except HaError as wrong:
            self._failed(want, str(wrong))
            return
        except OSError as wrong:  # a full disk under a copy, say
            self._failed(want, f"{wrong.filename or 'a file'} can't be used: {wrong.strerror or wrong}")
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
                self._condition.wait(min(AT_MOST, max(0.01, self._retry_at - now)))
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
            except (HaError, OSError) as wrong:
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
