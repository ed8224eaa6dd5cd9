"""Asynchronous replication (rule 6, synchronous="off"): when commits need not wait, and what counts then.

Promise: as in ``rules``, of which this is a part. Commits don't wait only where both servers are configured so, and when both
have it on their disks (``Record.lax``). The passive may take over as long as it streamed and lacked no more than the maximum
lag when the active was last heard; what may be lost is that, and what was acknowledged since. Where both servers live nothing
is: a planned failover makes commits wait first, an active that yields stops cleanly, and of two passives the longer log wins.
Source: Trustwave §2.4.1; issue "Postgres: no acknowledged write lost" ("Modes").
"""

from __future__ import annotations

from heartbeat.model import Database, Epoch, Phase
from heartbeat.silence import Silence

#: the sender is not, and without an election will not be, active
IDLE = frozenset({Phase.WAITING, Phase.PASSIVE, Phase.LEFT})
#: a passive that can't take over for so long is released: the active then knows that nobody else can (seconds)
LAG_LIMIT = 10.0
#: until ha_manager's report shows here what a clean stop over there has sent (seconds)
ARRIVAL = 0.3


class LaxRules(Silence):
    """Predicates over one core."""

    def asynchronous(self) -> bool:
        """Commits need not wait for the passive: both servers are configured so; the stricter one wins."""
        p = self.members.peer
        return not self.core.site.synchronous and p is not None and p.mode.off

    def release_only(self) -> bool:
        """Going alone by silence is forbidden, by either server as it was last heard."""
        p = self.members.peer
        return self.core.site.solo == "release" or (p is not None and p.mode.release)

    def passive_knows(self) -> bool:
        """The passive has on its disk that commits don't wait for it, or is none that could take over."""
        p = self.members.peer
        return p is not None and (p.mode.lax or not p.in_sync)

    def within_lag(self) -> bool:
        """Active: the passive streams, and lacks no more than it may to take over."""
        return 0 <= self.core.facts.behind <= self.core.site.maximum_lag

    def lag_known(self) -> bool:
        """Active: its Postgres may acknowledge unseen, from the death of its ha_manager until its keeper acts. A passive that
        was away meanwhile must not be called fit for what was known before."""
        return not self.core.manager_lost

    def may_lack(self) -> bool:
        """Passive: commits of its epoch didn't wait for it, as far as it knows; so it may lack some that were acknowledged.

        That they wait again, for a hand-over, counts when it was completed: given up, they need not wait any more, and that may
        have gone unheard.
        """
        c, p = self.core, self.members.peer
        return c.disk.lax and (p is None or p.epoch != c.disk.epoch or p.mode.lax or not p.stood_down)

    def lag(self) -> int:
        """Passive: bytes of log that an active whose commits don't wait had when last heard, and that are not held here."""
        c = self.core
        held = c.facts.lsn if c.facts.postgres in {Database.STANDBY, Database.DETACHED} else -1
        return max(0, c.active_lsn - held) if held >= 0 and self.may_lack() else 0

    def gave_way(self) -> bool:
        """The active stood down for this passive. One whose commits didn't wait only if all of its log is held here; else the
        two elect, and the longer log wins. Said once it holds: while it starts as a standby, it says nothing of its log."""
        p = self.members.peer
        if not self.peer_stood_down() or not self.may_lack():
            return self.peer_stood_down()
        return p is not None and p.stood_down and self.core.let_go_lsn >= 0 and not self.lag()

    def word_is_new(self) -> bool:
        """The active let go for this passive, and what its clean stop sent may have arrived without having been reported yet:
        an election now would compare its end with a position from before."""
        c, p = self.core, self.members.peer
        reported = self.members.run - (c.now - c.facts_at)
        return p is not None and p.stood_down and c.disk.in_sync and reported < c.stood_down_run + ARRIVAL

    def their_end(self) -> int:
        """Where the other one's log ends, as it says, or said when it let go; -1: nobody knows what it acknowledged alone."""
        p = self.members.peer
        return max(p.lsn if p is not None else -1, self.core.let_go_lsn)

    def lagged_for(self) -> float:
        """Seconds for which the passive has lacked more than it may, where commits don't wait for it."""
        return max(0.0, self.core.now - self.core.lagging_since)

    def peer_stood_down(self) -> bool:
        """The active of the very epoch that this node is in sync with let go, and said so to this run of this node."""
        c, p = self.core, self.members.peer
        by_heartbeat = p is not None and p.stood_down and p.epoch == c.disk.epoch and p.echo_boot == c.boot and p.phase in IDLE
        return by_heartbeat or (c.facts.peer_stood_down == c.disk.epoch != Epoch())
