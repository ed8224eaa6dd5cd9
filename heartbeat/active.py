"""The active's side of the rules: promoting, yielding, the data fence, standing down (design §4, rules 3 to 8).

Promise: "solo" is on disk before commits stop waiting for the passive, and cleared there only when every commit is proven to
wait; "stood down" is said only when the VIP is gone, Postgres has stopped and the disk says so.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from heartbeat.backing import FENCE_AGAIN, Backed
from heartbeat.model import (
    SERVING,
    Database,
    Epoch,
    ForceStop,
    Garp,
    Names,
    Phase,
    RefreshLease,
    RoleChanged,
    Stop,
)

#: an enforcement of the names that is not proven in this time is taken back, and tried again after the same time (seconds)
PROOF_LIMIT = 5.0
#: a promotion that fails for so long is given up; its epoch, never promoted, is forgotten (seconds)
PROMOTE_LIMIT = 30.0
#: a planned failover whose checkpoint takes longer is given up (seconds)
PREPARE_LIMIT = 60.0


class Active(Backed):
    """Phases PROMOTING, ACTIVE, PREPARING, STANDING_DOWN."""

    def _reigning(self) -> None:
        if because := self.rules.outranked():
            self._stand_down(because)
        elif self._rival():
            self._stand_down("two servers were active, and the other one has more to lose")
        elif self.rules.isolated():
            self._stand_down(f"neither the peer nor a ping node was heard for {self.timing.isolation * 1000:.0f} ms")
        elif because := self.rules.lost_vip():
            self._stand_down(because)
        else:
            if self._lease_due:
                self._refresh_lease()
            self._keep_gate()
            if self.phase is Phase.PROMOTING:
                self._promoting()
            elif self.phase is Phase.ACTIVE:
                self._test_arp()
                self._yield()
                self._note_lag()
                self._data_fence()
            elif self.phase is Phase.PREPARING:
                self._preparing()

    def _refresh_lease(self) -> None:
        self.lease_at = self.now
        self._out.append(RefreshLease())

    def _keep_gate(self) -> None:
        """Restarted in place, Postgres takes reads before it takes writes: clients get a reset meanwhile, as before a
        promotion. One that merely doesn't answer keeps what its clients have: a closed gate resets it.
        """
        if self.phase in {Phase.ACTIVE, Phase.PREPARING} and self.facts.postgres is not Database.UNKNOWN:
            self._gate(self.facts.postgres is Database.PRIMARY)

    def _test_arp(self) -> None:
        """While the passive is heard to be one, nobody else can hold the VIP: a ping node that doesn't answer it never will."""
        p = self.members.peer
        certain = p is not None and p.phase is Phase.PASSIVE and self.members.in_fresh_contact() and self.members.connected()
        if self.site.arp_check and certain:
            self.arp.test()

    def _rival(self) -> bool:
        """Rule 8, equal numbers. The winner sends GARP at once; the loser lets go when the winner has heard of it, or can't.

        While the rival hears nothing from here, only this server can end it: once behind is behind, however both write on.
        """
        if not self.rules.rival():
            p = self.members.peer
            if self.rival_seq and p is not None and p.phase not in SERVING:
                self.yielded = p.epoch
            self.rival_seq, self.outdone = 0, False
            return False
        if not self.rival_seq:
            self.rival_seq, self.rival_run = self.seq + 1, self.members.run
            self._out.append(Garp())
            self._send()
        self.outdone = self.rules.rival_wins() or (self.outdone and not self.rules.rival_hears())
        return self.outdone and self.rules.rival_knows()

    def _promoting(self) -> None:
        if self._wanted_holds(Database.PRIMARY) and self.facts.postgres is Database.PRIMARY and self.disk.active:
            if self.disk.tentative and not self.saving:
                self._save(replace(self._newest(), tentative=False))
            self._gate(True)
            self._become(Phase.ACTIVE, f"Postgres is promoted: {self.takeover.because}")
        elif self.unhealthy_since < inf and self.now - max(self.unhealthy_since, self.phase_since) > PROMOTE_LIMIT:
            self._stand_down(f"Postgres can't be promoted: {self.facts.because}")

    def _yield(self) -> None:
        """Rule 3: ask the passive to confirm; hand over only when it can take over at this very moment."""
        because = self.rules.wants_to_yield()
        if not because or self.disk.solo or self.saving:
            self.ask_ping_seq, self._confirmed_run = 0, inf
        elif not self.ask_ping_seq:
            self.ask_ping_seq, self._confirmed_run = self.seq + 1, inf
        elif self.rules.peer_confirms(self.ask_ping_seq):
            if self._confirmed_run == inf and not self.members.connected():
                # the ping node may just have come back, for both: ask it once more before handing over
                self._confirmed_run, self._pinged_at = self.members.run, -inf
            elif self.members.connected() or self.members.run - self._confirmed_run >= self.timing.ping_period:
                # where commits don't wait for the passive, a clean stop sends it what it lacks
                self._stand_down(because, Stop.FAST if self.disk.lax else Stop.IMMEDIATE, returns=True)

    def _preparing(self) -> None:
        """Rule 12. Where commits don't wait for the passive they first do: then it holds everything, and nothing is lost."""
        p = self.members.peer
        prepared = self.facts.prepared and self.want.prepare and self.facts.serial >= self.want.serial
        if (because := self.rules.cannot_serve()) and not self.forced:
            # a checkpoint may never come: it is handed over for that reason, or not at all
            self._end_preparing(because)
        elif not self.forced and not (p and p.fit and self.members.in_contact()):
            self._end_preparing("the passive is no longer fit")
        elif self.disk.lax and not self.forced and (prepared or self._proving_since < inf) and not self.saving:
            self._make_commits_wait()
        elif prepared and self.rules.successor_answers() and (self.forced or not self.disk.lax) and not self.saving:
            self._stand_down(self.takeover.because, Stop.FAST, returns=True)
        if self.phase is Phase.PREPARING and self.now - self.phase_since > PREPARE_LIMIT:
            late = f"{self.site.peer} did not answer" if prepared else "the checkpoint took too long"
            self._end_preparing(f"{self.site.peer} did not catch up" if self.disk.lax else late)

    def _end_preparing(self, because: str) -> None:
        self._proving_since = inf
        self._become(Phase.ACTIVE, f"the planned failover was given up: {because}")

    # --- the data fence

    def _data_fence(self) -> None:
        if self.saving or self.now < self._save_wait:
            return
        if self.disk.solo:
            self._prove()
            return
        if self.rules.solo_by_silence():
            self._go_solo_alone()
            return
        self.attempt = None
        self._keep_mode()
        if self.saving:
            return
        if because := self.rules.wants_release():
            if not self.ask_release_seq:
                # by the time it has let go, "it is no longer in sync" would be true as well
                self.ask_release_seq, self._release_because = self.seq + 1, because
            elif self.rules.released(self.ask_release_seq):
                self._go_solo(f"released by the passive: {self._release_because}")
        elif self.ask_release_seq and self.facts.stalled == 0:
            self.ask_release_seq = 0

    def _go_solo_alone(self) -> None:
        """Rule 6b: by silence, and with what else is configured: a fence agent, witnesses, the ping node's ARP entry."""
        if not self.rules.entry_kept(self.rules.solo_silence_since()) or self.now < self._attempt_wait:
            return
        because = f"the passive has been silent on every link for {self.rules.solo():g} s"
        if self.attempt is None:
            self._begin_attempt(because)
        if self._backing(Epoch(self.highest + 1, self.site.node)):
            self.attempt = None
            self._go_solo(because)
        elif self.attempt and self.attempt.failed:
            self.attempt = None
            self._attempt_wait = self.now + (FENCE_AGAIN if self.unfenced else self.timing.deadtime)

    def _go_solo(self, because: str) -> None:
        self.opening = Epoch(self.highest + 1, self.site.node)
        self.highest = self.opening.number
        record = replace(self._newest(), epoch=self.opening, active=True, solo=True, in_sync=False, stood_down=False, lax=False)

        def then() -> None:
            self.opening = Epoch()
            self.refused = ""
            self._reset_reign()
            if self.phase in SERVING:  # it may have heard of a successor meanwhile
                self._tell(f"solo: {because}")

        self._save(record, then)

    def _prove(self) -> None:
        """Rule 7: names set and proven, then "solo" cleared on disk, then published (by ``_message``)."""
        if self.disk.tentative:
            # a crash or a full disk swallowed what _promoting wrote
            if self._wanted_holds(Database.PRIMARY) and self.facts.postgres is Database.PRIMARY:
                self._save(replace(self._newest(), tentative=False))
            return
        if not self.rules.asynchronous():
            self._make_commits_wait()
            return
        self._proving_since = inf
        follows = self._standby_is_of_this_epoch() and self.rules.standby_ready()
        if follows and self.rules.within_lag() and not self.leaving:
            self._fence_is(False, "the passive follows again, asynchronously: it may take over, and lack the latest commits")

    def _standby_is_of_this_epoch(self) -> bool:
        """Until commits have stopped waiting for it under its old name, what streams is the standby of the last epoch."""
        return self._wanted_holds(Database.PRIMARY) and self.want.epoch == self.disk.epoch

    def _make_commits_wait(self) -> None:
        """The names are set; when every commit is proven to wait, that goes to the disk."""
        if self._proving_since == inf:
            ready = self._standby_is_of_this_epoch() and self.rules.standby_ready()
            if ready and self.now >= self._proof_wait and not self.leaving:
                self._proving_since = self.now
            return
        proven = self.want.names is Names.ENFORCED and self.facts.serial >= self.want.serial and self.facts.proven >= 0
        if proven and self.rules.standby_ready():
            word = "in sync again" if self.disk.solo else "synchronous"
            self._fence_is(True, f"{word}: every commit waits for the passive")
        elif self.now - self._proving_since > PROOF_LIMIT or not self.rules.standby_ready():
            self._proving_since, self._proof_wait = inf, self.now + self.timing.deadtime

    def _fence_is(self, waits: bool, because: str) -> None:
        """Commits wait for the passive, or need not: on the disk first, then said."""

        def then() -> None:
            self._proving_since = inf
            self.called_seq = self.seq + 1
            if self.phase in SERVING:  # it may have had to let go meanwhile, for a reason that is to be told
                self._tell(because)

        self._save(replace(self._newest(), solo=False, lax=not waits), then)

    def _tell(self, because: str) -> None:
        """Something else than the phase has changed, and is why things are as they are."""
        self._note(because)
        self.because = because

    def _note(self, what: str) -> None:
        """Something has changed that is no reason for what this server is."""
        self._out.append(RoleChanged(self.phase, self.phase, self.disk.epoch, what))

    # --- synchronous or not

    def _note_lag(self) -> None:
        lags = self.disk.lax and not self.disk.solo and not self.rules.within_lag()
        self.lagging_since = min(self.lagging_since, self.now) if lags else inf

    def _keep_mode(self) -> None:
        """Switched while the passive may take over. To asynchronous: on this disk, said, on the passive's disk, and only then
        commits stop waiting (``_wanted``). To synchronous: proven, on this disk, then said.
        """
        if self.rules.asynchronous() == self.disk.lax:
            self._proving_since = inf
        elif self.disk.lax:
            self._make_commits_wait()
        elif not self.leaving:
            self._fence_is(False, "asynchronous from now on: commits don't wait for the passive, which may lack the latest")

    # --- standing down

    def _standing_down(self) -> None:
        stopped = self._wanted_holds(Database.STOPPED) and self.facts.postgres is Database.STOPPED
        if stopped and not self.saving:
            if self.now >= self._save_wait:
                self._let_go()
            return
        waited = self.now - self.phase_since
        gone = self.manager_lost and waited > self.timing.allowance
        if (gone or waited > 2 * max(self.timing.deadtime, 1.0)) and self.now - self._forced_at > self.timing.deadtime:
            self._forced_at = self.now
            self._out.append(ForceStop(self.manager_lost or "Postgres did not stop in time"))

    def _let_go(self) -> None:
        newest = self._newest()
        stopping = self.leaving and not self.rules.peer_may_be_fit()
        if stopping or newest.tentative:
            # stopped while solo: what is on the disk lets it take up again alone (rule 11); tentative: resolved at boot
            self.returns = self.overtaken = False
            self._become(Phase.PASSIVE, self.because)
            return
        record = replace(newest, active=False, solo=False, in_sync=False, stood_down=True)
        because = self.because

        def then() -> None:
            if self.phase is Phase.STANDING_DOWN:
                self._become(Phase.PASSIVE, f"stood down in epoch {self.disk.epoch}: {because}")

        self._save(record, then)
