"""The standby's side of the Postgres worker: it follows the active, or is made fit to, by a copy where nothing else helps.

Promise: what is here is compared with the active's before it follows, and replaced only for a reason that is told; a copy that
is no longer wanted ends; nobody waits for an active that doesn't answer. Runs in the worker's thread, but for ``reseed`` and
``settle``. Source: design §4 rules 8, 10, 11; docs/protocols.md (wants).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from math import inf

from ha_manager.care import is_damaged
from ha_manager.carrying import Active, Events, Obsolete, Postgreses
from ha_manager.deviation import same_copy
from ha_manager.observation import Identity, Progress, Upstream
from ha_manager.orders import Epoch, Stop, Want
from ha_manager.primary import Primary
from ha_manager.progress import Pace, duration, words
from ha_manager.rejoin import Verdict, Way
from ha_manager.sql import Late
from runtime.errors import DidNotStart, HaError, ReplicationError

log = logging.getLogger(__name__)

#: a standby that was told to follow may take so long to stream before it is asked why it doesn't (seconds)
PATIENCE = 2.0
#: a Postgres that runs and answers nobody for so long is ended and started again (seconds); an active hands over before
HUNG = 10.0
#: a stopped one may take so long to start as a standby: it may have much log to replay (seconds)
STARTS = 60.0
#: whoever handed over starts again as a standby when its successor serves, or after so long (seconds): started at once, it
#: would only have to be stopped and compared then
HANDED_OVER = 2.0
#: before a copy that an operator asks for the active may take so long to go on alone (seconds); who was excused so lately is
EXCUSE, EXCUSED = 1.0, 5.0


class Following(Primary):
    """What is to be a standby."""

    def __init__(self, database: Postgreses, active: Active, events: Events, clock: Callable[[], float]) -> None:
        super().__init__(database, active, events, clock)
        self._reseed = ""
        self._misstarts = 0
        self._copies_failed = 0
        #: the active and the reason of a copy that failed before it began: tried again every few seconds, and not told again
        self._refused: tuple[str, str] | None = None
        self._handed_over_at = self._excused_at = -inf
        self._asking: threading.Thread | None = None
        self._answer: tuple[Epoch, str, Identity | None] | None = None

    def reseed(self, because: str) -> None:
        """Copy the followed active's database afresh, whatever is here, once."""
        with self._condition:
            self._reseed, self._again, self._retry_at, self._excused_at = because, True, inf, -inf
            self._condition.notify()
        self._publish(trouble="", copying=self._awaited_copy())

    def settle(self) -> None:
        """Wait for the question that is being asked, if one is."""
        if self._asking is not None:
            self._asking.join()

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
        except Late as wrong:
            self._copy_what_waits_in_vain(want, follow, wrong)
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

    def _copy_what_waits_in_vain(self, want: Want, follow: Upstream, wrong: Late) -> None:
        """It runs and takes no connections, maybe never: the log that would make it consistent may be gone on the active, too.
        Raises ``wrong`` where there is hope.
        """
        reason = self._db.why_not_following(follow)
        if reason is None:
            raise wrong
        self._copy_because(want, follow, reason, self._active.identity(want.follow))

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
        if verdict.way in (Way.COPY, Way.FOREIGN) and (why := self._active.versions_apart()):
            raise ReplicationError(f"the database of {want.follow.node} is not copied from scratch: {why}")
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
        self._excuse(want, because)
        self._db.make_stopped(immediate=False)
        self._is_now("stopped")
        # Asked anew: of what has come since, this database would seem to hold more than the active.
        active = self._active.identity(want.follow) or active
        verdict = self._db.judge(active)
        way = Way.COPY if verdict.way is Way.START else verdict.way
        kept_whole = verdict.damaged or way is Way.DIVERGED
        self._replace(want, replace(verdict, way=way, because=because, damaged=kept_whole), follow, active)

    def _excuse(self, want: Want, because: str) -> None:
        """Commits wait for a standby that streams: before it is stopped, heartbeat clears "in sync", as the database is to be
        copied, and the active goes on alone. That is a new epoch, and so another want, with which the copy begins. Who waited
        for nobody opens none.
        """
        if self._seen.following != want.follow.number or self._clock() - self._excused_at < EXCUSED:
            return
        self._excused_at = self._clock()
        self._publish(data="copying")
        self._events.changed()
        with self._condition:
            if self._condition.wait_for(lambda: self._ended or not self._same_active(want), EXCUSE):
                self._reseed = because
                raise Obsolete("no longer wanted")

    def _same_active(self, want: Want) -> bool:
        newest = self._newest
        return newest is not None and (newest.postgres, newest.follow) == (want.postgres, want.follow)

    def _copy_because(self, want: Want, follow: Upstream, reason: str, active: Identity | None) -> None:
        if active is None:
            raise ReplicationError(f"this database can't follow {want.follow.node} ({reason}), whose ha_manager can't be asked")
        self._db.make_stopped(immediate=False)
        verdict = self._db.judge(active)
        if verdict.way is Way.START:
            verdict = Verdict(Way.COPY, reason, verdict.fork, verdict.timeline)
        self._replace(want, verdict, follow, active)

    def _replace(self, want: Want, verdict: Verdict, follow: Upstream, active: Identity) -> None:
        again = self._refused == (want.follow.node, verdict.because)
        self._publish(data="copying")
        if not again:
            self._events.replication("copying", f"copying the database of {want.follow.node}: {verdict.because}")
            # what stood before it stands no more
            self._publish(copying=f"the database is being copied from {want.follow.node}: {verdict.because}", trouble="")

        pace, latest = Pace(), Progress(0, 0, 0.0)

        def progress(done: Progress) -> bool:
            nonlocal latest
            latest, newest = (done if done.total else latest), self._newest
            if done.done or not again:
                self._publish(copying=f"the database is being copied from {want.follow.node}: {words(done)}", trouble="")
            if pace.due(done):
                log.info("copying the database of %s: %s", want.follow.node, words(done))
            return not self._ended and newest is not None and same_copy(newest, want)

        try:
            report = self._db.rejoin(verdict, follow, active, progress)
        except HaError:
            if self._ended or self._newest is None or not same_copy(self._newest, want):
                raise Obsolete("no longer wanted") from None
            self._copies_failed += latest.done > 0
            self._refused = (want.follow.node, verdict.because) if not latest.done else None
            raise
        self._copies_failed, self._refused = 0, None
        self._publish(copying="", data=self._data())
        if report:
            self._events.replication("kept", report)
        took = f": {latest.total >> 20} MiB in {duration(latest.seconds)}" if latest.total else ""
        self._events.replication("initialised", f"the database was copied from {want.follow.node}{took}")
