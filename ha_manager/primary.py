"""The primary's side of the Postgres worker: promoted, its names proven, and what a promotion owes.

Promise: nobody who waits for a promotion waits for what it owes (slot, role, checkpoint); one that dies is started again in
place, but not for ever where another server may do better. Runs in the worker's thread. Source: design §4 rules 2, 3, 7;
facts/postgres.md 5, 6.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from math import inf

from ha_manager import observation
from ha_manager.care import Deaths
from ha_manager.carrying import RETRY_MOST, Active, Carrying, Events, Obsolete, Postgreses
from ha_manager.orders import Epoch, Names, Phase, Postgres, Want
from runtime.errors import HaError, ReplicationError, in_words

log = logging.getLogger(__name__)

#: clients that were waiting for a promotion come before what the promotion owes (seconds)
CLIENTS_FIRST = 0.05


class Primary(Carrying):
    """What is to be, or was just made, a primary."""

    def __init__(self, database: Postgreses, active: Active, events: Events, clock: Callable[[], float]) -> None:
        super().__init__(database, active, events, clock)
        self._names: tuple[Names, int] | None = None
        self._settled = -1
        #: timeline of the primary, the one on which it has made a checkpoint, and whether its promotion still owes one
        self._timeline = self._checkpointed = 0
        self._checkpoint_due = False
        self._primary_epoch: Epoch | None = None
        self._deaths = Deaths()
        self._ran = False
        #: a standby that was told to follow: when it did so last, or was told; inf: it follows nobody
        self._following_since = inf
        #: when a damaged database was last replaced, unless that has cured it
        self._copied_at = -inf

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
        self._ran, self._primary_epoch, self._copied_at = True, want.epoch, -inf
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
        except (HaError, OSError) as wrong:  # a full disk
            log.warning("after the promotion: %s", in_words(wrong))
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
