"""The safety rules of the pair, one predicate each (design §4; facts/safety-model.md names the hole that each closes).

Promise: pure questions about a ``Core``'s state; asking changes nothing. Each returns what it found in words where a person
will read it. The simulator's mutants override one of these at a time and must be caught.
"""

from __future__ import annotations

from math import inf

from heartbeat import report
from heartbeat.laxrules import IDLE, LAG_LIMIT, LaxRules
from heartbeat.model import SERVING, Database, Message, Phase
from heartbeat.signs import VIP
from runtime.sizes import size

#: the sender reigns, or did a moment ago and is about to again
REIGNING = SERVING | {Phase.RESUMING}
#: one whose disk hangs gives a takeover up after 5 s (``passive``), and is not heard any more after 10 (``writer``); seconds
GIVEN_UP = 7.0
#: the sender can take part in an election of two passives (rule 9)
ELECTABLE = frozenset({Phase.PASSIVE})


class Rules(LaxRules):
    """All of them."""

    # --- rule 2: takeover -----------------------------------------------------------------------------------------------

    def word_given(self) -> bool:
        """The word "stood down" is enough to take over; from one that comes back by itself, only while it is heard."""
        p = self.members.peer
        return self.gave_way() and (p is None or not p.returns or self.members.silent_for() < self.timing.deadtime)

    def word_stands(self) -> bool:
        """The one that stood down will not come back by itself: it never would, or it has heard this server's announcement."""
        p = self.members.peer
        return p is None or not p.returns or self.members.echoes(self.core.takeover.announced_seq)

    def higher_epoch_known(self) -> bool:
        """The peer knows of an epoch above this database's. One that was announced, but never reached a disk, ends when the
        active calls this node in sync in its own epoch: with two servers, nobody else can hold it. What this node announced
        itself and gave up is none."""
        return self.core.heard_epoch > self.core.disk.epoch.number

    def asks_stand_down(self) -> bool:
        """The active is silent and serves: it is asked to let go for this passive, while that one could take over, and still
        can when the active has let go. One that was restarted with another key, say, hears nobody and is not fit: asked by it,
        the active would end the service.
        """
        if self.members.silent_for() < self.timing.warntime or not self.served_lately():
            return False
        return not self.unfit() and self.fitness_fresh(self.timing.deadtime)

    def fitness_fresh(self, ahead: float = 0.0) -> bool:
        """Less than stale time since this node sent the latest message echoed by an active that calls it in sync (H8, H9).
        ``ahead``: and so for as many seconds more.

        Where both servers fence, the active goes solo by silence only when this server is off: then nothing gets stale while it
        runs, however long an agent takes.
        """
        c, p = self.core, self.members.peer
        both_fence = c.site.fence and p is not None and p.fences and self.members.called_at > -inf
        return both_fence or c.now + ahead - self.members.called_at < self.stale()

    def unfit(self) -> str:
        """Why this passive could not take over now; "" when it is fit. First what is the matter here: where that keeps it from
        being in sync, it is the cause, and the active may be waiting for it still.
        """
        c = self.core
        if c.disk.suspended:
            return "automatic changes are suspended by an operator"
        if c.manager_lost:
            return f"ha_manager is gone: {c.manager_lost}"
        if not c.facts.healthy:
            return c.facts.because or "Postgres is not healthy"
        if c.disk.epoch.number == 0 or not c.disk.in_sync or c.disk.active:
            return report.why_not_in_sync(c)
        if c.saving:
            return "a change of state is being written to disk"
        if self.higher_epoch_known():
            return f"an epoch {c.heard_epoch} is known, this database belongs to {c.disk.epoch}"
        if (lag := self.lag()) > c.site.maximum_lag:
            most = size(c.site.maximum_lag)
            return f"it lacks {size(lag)} that the active had when last heard, more than maximum_lag_on_failover ({most})"
        if not self.fitness_fresh():
            return f"no word from an active that waits for this server for more than {self.stale():g} s"
        return ""

    def offers_itself(self) -> bool:
        """What a passive says of itself: it could take over now, and clients would reach it. One without a link for the virtual
        IP still takes over from an active that is silent, but nobody yields to it: the two would hand over for ever."""
        c = self.core
        return c.phase is Phase.PASSIVE and not c.vip_links_down and not self.unfit()

    def may_take_over(self) -> str:
        """The sentence with which a fit passive takes over, or "" if it must not."""
        c = self.core
        if c.phase is not Phase.PASSIVE or self.unfit() or not self.members.connected():
            return ""
        if self.word_given():
            return "the active stood down" if self.members.pinged_since(c.stood_down_run) else ""
        if self.silent() and self.members.pinged_since(self.silence_since()):
            silent = self.members.run - self.silence_since()
            return f"the active is silent on every link for {silent * 1000:.0f} ms, and a ping node answers"
        return ""

    # --- rule 4: the VIP went elsewhere ----------------------------------------------------------------------------------

    def lost_vip(self) -> str:
        """The ping node answers this active, but no longer the VIP, and the peer is silent: that one has taken it."""
        c = self.core
        if c.phase is not Phase.ACTIVE or not c.site.arp_check or not c.arp.usable or not self.peer_may_be_fit():
            return ""
        if self.members.silent_for() < self.timing.warntime or not self.members.connected():
            return ""
        if c.arp.unanswered_for() < self.timing.deadtime:
            return ""
        return "the ping node answers this server, but no longer the virtual IP, and the peer is silent: it has taken over"

    # --- rule 3: yield --------------------------------------------------------------------------------------------------

    def wants_to_yield(self) -> str:
        """Why this active should hand over if the passive can; "" if it has no reason."""
        if self.core.disk.suspended or self.restrained():
            return ""
        return self.cannot_serve()

    def cannot_serve(self) -> str:
        """What keeps this active from serving clients; "" if nothing is known to."""
        c = self.core
        if not self.members.connected():
            return f"{self.members.unanswered()} here"
        if c.vip_links_down:
            return f"the interface of the virtual IP lost its link ({', '.join(sorted(c.vip_links_down))})"
        if c.manager_lost and c.now - c.facts_at >= self.timing.allowance:
            return f"ha_manager is gone: {c.manager_lost}"
        if c.unhealthy_since < inf and c.now - c.unhealthy_since >= self.timing.deadtime:
            return f"this server cannot serve: {c.facts.because}"
        return ""

    def peer_confirms(self, asked_seq: int) -> bool:
        """The passive is fit, and pinged with success *after* hearing that this node wants to yield (H3)."""
        p = self.members.peer
        return (
            p is not None
            and p.phase is Phase.PASSIVE
            and p.fit
            and p.connected
            and self.members.in_contact()
            and self.members.echoes(asked_seq)
            and (p.ping_after >= asked_seq > 0 or not self.core.site.ping_nodes)
        )

    def successor_seen(self) -> bool:
        """The other one has answered for the virtual IP since this server let go: it may have gone on, although unheard."""
        return self.core.signs.at(VIP) > max(self.core.stands_down_run, self.core.gave_up_run)

    def successor_gives_up(self) -> bool:
        """It announced itself and gave up a moment ago: if its disk hangs, it can't take over at all, and will soon be silent.
        With a pledge to it this server could not come back."""
        return self.members.run - self.core.gave_up_run < GIVEN_UP

    def comes_back(self) -> bool:
        """This server let go for a passive that was not heard to go on: if that one died, it may take up again. Whoever
        took over on the word alone was heard to (``word_stands``). Whoever did for silence missed all that was sent from here
        in a deadtime, and was missed here since a word that echoed what was sent just before, this server running and connected
        all that time: a cut of every path that both lived through, which is the case that can't be decided."""
        return self.core.disk.stood_down and self.would_come_back()

    def would_come_back(self) -> bool:
        """The same, whether or not the disk says yet that this server let go."""
        c, m = self.core, self.members
        echoed = m.echoed_at - m.paused
        both_ways = m.heard_at - echoed < self.timing.warntime and m.broken_at <= echoed
        return c.returns and not c.disk.suspended and not self.release_only() and not self.asks_entry() and both_ways

    def may_return(self) -> str:
        """The sentence with which an active that let go takes up again, its passive having been silent for solo time."""
        c = self.core
        if not self.comes_back() or c.saving or c.manager_lost or not c.facts.healthy or c.facts.data != "ready":
            return ""
        silent = self.members.run - self.solo_silence_since()
        if silent < self.solo() or not self.members.connected():
            return ""
        return (
            f"{c.site.peer} has been silent for {silent:.1f} s since this server let go for it, and was not heard to take over"
        )

    # --- rule 4: isolation ----------------------------------------------------------------------------------------------

    def peer_may_be_fit(self) -> bool:
        """Only a solo active knows for certain that nobody else can take over."""
        c = self.core
        return not c.disk.solo

    def isolated(self) -> bool:
        """Neither the peer nor a ping node for isolation time, while the peer may have been fit."""
        if not self.core.site.ping_nodes or not self.peer_may_be_fit():
            return False
        quiet = min(self.members.silent_for(), self.members.ping_silent_for())
        return quiet >= self.timing.isolation

    # --- rule 5: leases -------------------------------------------------------------------------------------------------

    def lost_by_pause(self, gap: float) -> bool:
        """This active did not run for longer than its lease while the peer may have been fit (H7)."""
        c = self.core
        return (gap > self.timing.isolation or c.now - c.lease_at > self.timing.lease) and self.peer_may_be_fit()

    def may_resume(self) -> str:
        """A restarted active goes on: within its lease, with its peer still passive (or known unfit)."""
        c, p = self.core, self.members.peer
        if c.now >= c.resume.expires:
            return ""
        if c.disk.solo:
            return "restarted within its lease, running solo"
        if p and self.members.echoes(1) and p.phase in IDLE and p.epoch.number <= c.disk.epoch.number:
            return "restarted within its lease, the peer still passive"
        return ""

    # --- rule 6: data fence ---------------------------------------------------------------------------------------------

    def wants_release(self) -> str:
        """Why this active should go on without its standby; "" if it has no reason."""
        c, p = self.core, self.members.peer
        if c.disk.solo or c.saving_solo or not self.members.in_contact() or p is None:
            return ""
        if p.phase is Phase.LEFT or p.leaving:
            return "the passive is leaving"
        if p.phase in IDLE and not p.in_sync and c.called_seq and self.members.echoes(c.called_seq) and c.peer_was_in_sync:
            return "the passive says that it is no longer in sync"
        if self.epoch_wasted():
            return "an epoch was granted by the witnesses and came to nothing: a new one is needed"
        if c.facts.stalled >= self.timing.stall and self.pinged_since_stall():
            return f"commits have waited for the passive for {c.facts.stalled * 1000:.0f} ms"
        if self.lagged_for() >= LAG_LIMIT and self.members.pinged_since(self.members.run - self.lagged_for()):
            return f"the passive has lagged too far behind, or not streamed, for {LAG_LIMIT:g} s"
        if c.leaving == "off":
            return "high availability is being turned off here"
        return ""

    def epoch_wasted(self) -> bool:
        """A higher number was granted and came to nothing: the witnesses grant no other one to data of this epoch any more."""
        c, p = self.core, self.members.peer
        if not c.site.witnesses or p is None or p.phase is not Phase.PASSIVE or not p.in_sync or not c.called_seq:
            return False
        return p.epoch == c.disk.epoch and (c.highest > c.disk.epoch.number or bool(c.refused))

    def pinged_since_stall(self) -> bool:
        """An answered ping was sent after the stall began (H6)."""
        c = self.core
        return self.members.pinged_since(self.members.run - (c.now - c.facts_at) - c.facts.stalled)

    def released(self, asked_seq: int) -> bool:
        """The passive persisted "not in sync" after hearing that this active no longer calls it in sync."""
        p = self.members.peer
        return p is not None and p.phase in IDLE and not p.in_sync and self.members.echoes(asked_seq)

    def solo_by_silence(self) -> bool:
        """Nothing heard of the passive for solo time, this node running and connected ever since (6b; H7, H16)."""
        c = self.core
        if self.release_only() or c.disk.solo or c.saving_solo:
            return False
        since = self.solo_silence_since()
        return self.members.run - since >= self.solo() and self.members.connected()

    def solo_silence_since(self) -> float:
        """Running clock: since when nothing was heard of the passive, this node running and connected."""
        m = self.members
        return max(m.heard_at, self.sign_of_service(), m.broken_at, self.core.started_run)

    # --- rule 7: back in sync -------------------------------------------------------------------------------------------

    def standby_ready(self) -> bool:
        """The peer's standby streams this epoch, has caught up, and its heartbeat is in contact: the names may be set."""
        c, p = self.core, self.members.peer
        return (
            p is not None
            and p.phase is Phase.PASSIVE
            and not p.leaving
            and p.data == "ready"
            and self.members.in_contact()
            and c.facts.caught_up
            and c.facts.postgres is Database.PRIMARY
            and not c.leaving
        )

    def may_follow(self, m: Message) -> bool:
        """The peer is an active whose data is not older than this server's: nobody is overwritten with the past."""
        return m.phase in {Phase.ACTIVE, Phase.PREPARING} and m.epoch.number >= max(self.core.disk.epoch.number, 1)

    def holds_all(self, m: Message) -> bool:
        """This passive holds everything that the active names, and follows the epoch that it is called in sync with."""
        c = self.core
        return (
            m.phase in {Phase.ACTIVE, Phase.PREPARING}
            and m.calls_in_sync >= 0
            and m.echo_boot == c.boot
            and c.facts.postgres is Database.STANDBY
            and c.facts.following == m.epoch
            and c.facts.lsn >= m.calls_in_sync
            and c.facts.healthy
            and not c.manager_lost
        )

    # --- rule 8: higher epoch wins --------------------------------------------------------------------------------------

    def outranked(self) -> str:
        """The peer has data of a higher epoch: whoever it is, this node is not active any more."""
        c, p = self.core, self.members.peer
        # the epoch of going solo doesn't count before it is on the disk: nothing has been acknowledged in it
        own = max(c.disk.epoch.number, c.opening.number if c.phase is Phase.OPENING else 0)
        if p and p.epoch.number > own:
            return f"the peer ({p.phase}) is at epoch {p.epoch}, above {c.disk.epoch}"
        if c.facts.peer_epoch.number > own:
            return f"the peer's ha_manager says that it is at epoch {c.facts.peer_epoch}, above {c.disk.epoch}"
        return ""

    def rival(self) -> bool:
        """The peer is active too, in another epoch of the same number."""
        c, p = self.core, self.members.peer
        both = p is not None and p.phase in SERVING and c.phase in SERVING
        return both and p is not None and p.epoch.number == c.disk.epoch.number and p.epoch != c.disk.epoch

    def rival_wins(self) -> bool:
        """Two actives, equal numbers: fewer commits beyond the fork yields; then no VIP; then default passive."""
        c, p = self.core, self.members.peer
        assert p is not None
        mine = (c.facts.beyond, True, c.site.node == c.site.default_active)
        theirs = (p.beyond, p.vip, p.node == c.site.default_active)
        return theirs > mine

    def rival_hears(self) -> bool:
        """The rival hears this server, so that it compares as well, and whoever is behind at last lets go."""
        return self.members.in_contact()

    def rival_knows(self) -> bool:
        """The rival has heard of this server, so that its GARP is out; or it evidently hears nothing from here."""
        c = self.core
        return self.members.echoes(c.rival_seq) or self.members.run - c.rival_run >= self.timing.isolation

    # --- rule 9: nobody active ------------------------------------------------------------------------------------------

    def data(self) -> str:
        """State of this server's database for an election; a ha_manager that has not come up in time counts as failed."""
        c = self.core
        if not c.manager_lost:
            return c.facts.data
        return "failed" if self.members.run - c.started_run > self.timing.initdead else "unknown"

    def elect(self) -> str:
        """ "mine", "theirs", "nobody" or "" (not known yet): which of two passives can serve, and has the most data."""
        c, p = self.core, self.members.peer
        if p is None or p.phase not in ELECTABLE or not self.members.in_contact() or p.echo_boot != c.boot:
            return ""
        mine, newest = self.data(), max(c.disk.epoch.number, p.epoch.number)
        sides = {
            "mine": (c.disk.epoch, c.disk.in_sync, c.disk.stood_down, c.site.node, c.facts.beyond, c.facts.lsn,
                     mine, self.members.connected()),
            "theirs": (p.epoch, p.in_sync, p.stood_down, p.node, p.beyond, p.lsn, p.data, p.connected),
        }  # fmt: skip
        same = c.disk.epoch == p.epoch
        lax = same and c.disk.lax and p.mode.lax
        complete = {
            side: epoch.number == newest and (newest == 0 or epoch.node == node or in_sync)
            for side, (epoch, in_sync, _, node, *_) in sides.items()
        }
        # one that can't win isn't waited for: it may need the other one's log to start at all
        awaited = {data for side, (*_, data, _) in sides.items() if complete[side] or lax} & {"unknown", "starting"}
        if awaited or c.saving or c.disk.tentative or (lax and self.word_is_new()):
            return ""
        longest = max(c.facts.lsn, self.their_end())
        ranked = []
        for side, (_, _, stood_down, node, beyond, lsn, data, connected) in sides.items():
            if lax and (longest - lsn > c.site.maximum_lag or (side == "mine" and self.their_end() < 0)):
                continue
            if complete[side] and data == "ready":
                # who stood down did so because the other one is to take over: what it has in addition was never acknowledged
                # (but where commits did not wait for the other one)
                # a server that was never in a pair: positions of two different databases can't be compared
                length = 0 if newest == 0 else lsn if same else beyond
                ranked.append((connected, lax or not stood_down, length, node == c.site.default_active, side))
        return max(ranked)[-1] if ranked else "nobody"

    def peer_pledged(self) -> bool:
        """The loser persisted that it will not take over, for this run of the winner, and says so after hearing that this one
        is passive: a pledge of an earlier election has been void since the winner reigned, and the loser came in sync."""
        c, p = self.core, self.members.peer
        given = p is not None and p.pledged_to == c.boot and p.phase in ELECTABLE and not p.in_sync
        return given and self.members.echoes(c.passive_seq)

    # --- rule 12: restraint ---------------------------------------------------------------------------------------------

    def restrained(self) -> bool:
        """Too many takeovers lately: no yields and no planned failovers. Says nothing against a takeover."""
        return self.core.restraint.suspended

    def successor_answers(self) -> bool:
        """Planned failover: the passive has answered what was sent after the hand-over was begun. Whoever dies just before, or
        during the checkpoint, must not be stood down for: nobody would serve until it is back."""
        return self.members.echoed_at > self.core.phase_since

    # --- rule 11: boot --------------------------------------------------------------------------------------------------

    def may_boot_alone(self) -> str:
        """Nobody is heard: only an active that ran solo takes up again by itself (or whoever was configured to)."""
        c = self.core
        waited = self.members.run - self.silence_since()
        if waited < self.timing.initdead or not self.members.connected() or c.disk.suspended or c.saving:
            return ""
        if not self.members.pinged_since(self.silence_since()) or c.facts.data != "ready" or c.manager_lost:
            return ""
        if c.disk.tentative or self.higher_epoch_known():
            return ""
        p = self.members.peer
        if p is not None and p.epoch.number == c.disk.epoch.number and p.epoch != c.disk.epoch:
            return ""  # an operator activated the peer, which knew nothing of this server's epoch: it may hold newer writes
        if c.disk.solo and c.disk.active:
            return "the peer is not heard, and this server was running solo when it stopped"
        if c.site.boot_alone == "after_initdead" and c.disk.epoch.node in ("", c.site.node):
            return "the peer is not heard, and boot_alone=after_initdead says not to wait for it"
        return ""
