"""The passive's side of the rules: starting, following, electing, taking over (design §4, rules 2, 6a, 7, 9, 11).

Promise: the order of a takeover is receiver stopped, VIP, announcement on every link, epoch on disk, promotion; it can be
given up until the announcement, and what allowed it is asked once more just before. One that rests on silence has by then a
fenced peer and the witnesses' grant, where these are configured, and before its epoch goes to the disk the ping node's word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from heartbeat import report
from heartbeat.active import Active
from heartbeat.backing import FENCE_AGAIN
from heartbeat.model import (
    SERVING,
    Boot,
    Database,
    Epoch,
    Garp,
    Message,
    Phase,
    Record,
    TakeVip,
)
from heartbeat.state import Takeover

#: a former active whose commits didn't wait may take so long to bring its database up, before its passive goes on without
#: what it lacks (seconds, beyond initdead)
LAX_START = 20.0
#: the epoch of a takeover is on the disk within so long, or this server can't serve (seconds). Shorter than the time after
#: which one whose disk hangs is not heard any more (``writer``): the other one must hear that this one gave up
DISK_LIMIT = 5.0


class Passive(Active):
    """Phases WAITING, RESUMING, PASSIVE, DETACHING, OPENING."""

    def _waiting(self) -> None:
        peer = self.members.peer
        if self._too_late():
            self._stand_down("heartbeat or the server was restarted, and its lease is gone")
        elif peer is not None:
            self._become(Phase.PASSIVE, f"the peer was heard, {peer.phase} then")
        elif self.now - self.phase_since >= self.timing.initdead:
            self._become(Phase.PASSIVE, f"the peer was not heard for {self.timing.initdead:g} s after the start")

    def _too_late(self) -> bool:
        """A former active is back while the passive is fit: the sooner that one is told, the sooner there is service (H2)."""
        p, disk = self.members.peer, self.disk
        reigned = disk.active and not disk.solo and not disk.tentative and not self.saving
        if disk.lax and self.members.run - self.started_run < self.timing.initdead + LAX_START:
            return False  # the passive may lack what this one acknowledged: an election prefers the longer log
        return reigned and p is not None and p.fit and p.phase is Phase.PASSIVE and self.members.in_contact()

    def _resuming(self) -> None:
        if because := self.rules.outranked():
            self._stand_down(because)
        elif because := self.rules.may_resume():
            self.lease_at = self.now
            self._out.append(TakeVip())
            self._gate(True)
            self._become(Phase.ACTIVE, because)
        elif self.now >= self.resume.expires:
            self._stand_down("heartbeat was restarted, and its lease ran out before the peer was heard to be passive")

    def _resolve_tentative(self) -> None:
        """Crashed between announcing an epoch and seeing it promoted: the database's timeline tells which (rule 2, H15)."""
        disk = self._newest()
        if self.facts.timeline > disk.timeline or self.facts.postgres is Database.PRIMARY:
            self._save(replace(disk, tentative=False))
        else:
            self._save(
                replace(disk, epoch=disk.previous, tentative=False, active=False, solo=False, in_sync=False, stood_down=False)
            )

    # --- passive

    def _passive(self) -> None:
        p = self.members.peer
        if p is not None:
            self._follow_sync(p)
        if self.disk.tentative or self.leaving:
            return
        if self.forced:
            self._begin_takeover(self.forced, str)  # nothing is asked: an operator forces it where what is asked fails
        elif self.now < self._takeover_wait:
            return
        elif self._too_late():
            self._stand_down("heartbeat or the server was restarted, and its lease is gone")
        elif because := self.rules.may_take_over():
            by_silence = not self.rules.word_given()
            self._begin_takeover(because, self._against_silent if by_silence else self.rules.unfit, by_silence)
            self.takeover.on_word = not by_silence
        elif because := self.rules.may_return():
            self._begin_takeover(because, self._against_return, by_silence=True)
        elif because := self.rules.may_boot_alone():
            self._begin_takeover(because, self._against_alone, by_silence=not self.disk.solo)
        elif not (p and p.phase in SERVING) and not (self.rules.gave_way() and not self.rules.unfit()):
            self._elect()

    def _follow_sync(self, p: Message) -> None:
        """Rules 6a and 7, the passive's side: store "in sync" when all is held, clear it when asked to (or when it fails,
        or is to be replaced).
        """
        if self.now < self._save_wait:
            return  # the disk refused the last record, and would refuse this one as quickly
        newest = self._newest()
        asked = p.asks_release and p.epoch.number >= newest.epoch.number
        failed = self.facts.data in ("failed", "copying") and not self.manager_lost
        if newest.in_sync and (asked or failed):
            self._save(replace(newest, in_sync=False))
            return
        # while it hands over, the active makes commits wait: this server is fit all the time, and writes nothing now
        same = newest.lax == p.mode.lax or p.phase is Phase.PREPARING
        stored = newest.epoch == p.epoch and newest.in_sync and same
        if self.rules.holds_all(p) and not (stored or p.asks_release or self.leaving or self.saving):
            record = replace(newest, epoch=p.epoch, in_sync=True, active=False, solo=False, lax=p.mode.lax)
            self._save(replace(record, stood_down=False, tentative=False))

    def _elect(self) -> None:
        """Rule 9: two passives in contact. The loser first persists that it gives way; only then does the winner take over."""
        outcome = self.rules.elect()
        p = self.members.peer
        if outcome == "theirs" and p and self.returns and (p.fit or self.rules.successor_gives_up()) and not self.disk.lax:
            pass  # the word "stood down" is enough for that one; with a pledge on top this server could not return
        elif outcome == "theirs" and p and (self.pledged_to != p.boot or self._newest().in_sync):
            self.returns = self.overtaken = False
            newest = self._newest()
            boot = p.boot

            def pledge() -> None:
                self.pledged_to, self._withdrawn_seq = boot, 0

            self._save(replace(newest, in_sync=False, solo=False, active=False), pledge)
        elif outcome == "mine" and self.pledged_to != Boot():
            # both gave way, on what each knew of the other a moment ago: the peer must first hear that this word is void
            self.pledged_to = Boot()
            self._withdrawn_seq = self.seq + 1
        elif outcome == "mine" and self._withdrawn_seq and not self.members.echoes(self._withdrawn_seq):
            pass
        elif outcome == "mine" and self.rules.peer_pledged() and self.facts.healthy:
            because = "nobody was active: of those that can serve, this server has the longest log, or is the default active"
            self._begin_takeover(because, self._against_elected)

    # --- what stands against a takeover under way; "" if nothing

    def _against_silent(self) -> str:
        if against := self.rules.unfit():
            return against
        if not self.rules.silent():
            return f"{self.site.peer} showed a sign of service again"
        return "" if self.members.connected() else "no ping node answers here any more"

    def _against_alone(self) -> str:
        return f"{self.site.peer} is heard" if self.members.in_contact() else ""

    def _against_return(self) -> str:
        return "" if self.rules.may_return() else f"{self.site.peer} may be about to serve, or this server can't"

    def _against_elected(self) -> str:
        if not self.rules.peer_pledged():
            return f"{self.site.peer} took back its word that it gives way"
        if self.rules.elect() != "mine":
            return f"of the two databases, {self.site.peer}'s is to be served, or it is not known any more which"
        return ""

    # --- takeover

    def _begin_takeover(self, because: str, against: Callable[[], str], by_silence: bool = False) -> None:
        """``against``: asked again when the receiver is stopped, just before there is no way back."""
        self.takeover = Takeover(because, against, by_silence, asked=bool(self.forced) or self._peer_was_asked)
        self.pledged_to = Boot()
        self._become(Phase.DETACHING, because)
        if by_silence:
            self._begin_attempt(because)

    def _detaching(self) -> None:
        p = self.members.peer
        reappeared = self._heard_reigning_at > self.members.run - (self.now - self.phase_since)
        # an operator who forces it knows that the newer data is lost: its server may be dead, or its database damaged
        outranked = "" if self.forced else self.rules.outranked()
        if outranked or (p and reappeared and not self.rules.peer_stood_down()):
            self._give_up("the active was heard again")
        elif self.manager_lost:
            self._give_up(f"ha_manager is gone: {self.manager_lost}")
        elif self._wanted_holds(Database.DETACHED) and self.facts.postgres is Database.DETACHED:
            self._detached()
        elif self.now - self.phase_since > max(2 * self.timing.deadtime, 2.0):
            self._give_up("the receiver could not be stopped in time")

    def _detached(self) -> None:
        """Nothing more is acknowledged here; the last moment at which there is a way back."""
        if against := self.takeover.against():
            self._give_up(against)
        elif not self.takeover.by_silence or self._backing(Epoch(self.highest + 1, self.site.node)):
            self._open()
        elif self.attempt and self.attempt.failed:
            self._give_up(self.attempt.failed, rest=FENCE_AGAIN if self.unfenced else self.timing.deadtime)

    def _give_up(self, because: str, rest: float = 0.0) -> None:
        """``rest``: seconds until the next attempt."""
        self.forced = ""
        if self.attempt and self.attempt.asked != Epoch():
            # perhaps granted: the active must open a newer one, or it could never be granted anything again (epoch_wasted)
            self.highest = max(self.highest, self.attempt.asked.number)
        self.attempt = None
        self._takeover_wait = self.now + max(rest, self.timing.keepalive)
        self._become(Phase.PASSIVE, f"the takeover was given up: {because}")

    def _open(self) -> None:
        """Rule 2's order: VIP, announce on every link, persist, promote."""
        self.opening = Epoch(self.highest + 1, self.site.node)
        self.highest = self.opening.number
        if lost := report.may_be_lost(self):
            self.takeover.because += f"; {lost}"
        self.forced = ""
        self._become(Phase.OPENING, self.takeover.because)
        self.attempt = None
        self.lease_at = self._announced_at = self.now
        self.takeover.vip_taken_run = self.members.run
        self._out.append(TakeVip())
        self._send()
        self.takeover.announced_seq, self.returns, self.overtaken = self.seq, False, False
        if not self._missing():
            self._write_epoch()

    def _missing(self) -> str:
        """What the epoch, announced, waits for before it is written; "" for nothing."""
        if self.takeover.by_silence and not self.rules.entry_taken():
            return "the ping node did not answer the virtual IP here in time"
        if self.takeover.on_word and not self.rules.word_stands():
            return f"{self.site.peer}, which stood down, did not answer in time"
        return ""

    def _opening(self) -> None:
        """Written when nothing is missing, while this server is still fit and the word that it rests on holds."""
        if self.saving:
            if self.now - self._writing_since > DISK_LIMIT and self.members.in_contact():
                # the other one may be able to serve; nobody can while this server holds the address
                self._abandon("the disk of the state does not answer")
            return
        word_lost = self.takeover.on_word and not self.rules.word_given()
        if word_lost or not self.rules.fitness_fresh():
            self._abandon(self._missing() or f"{self.site.peer} took back its word")
        elif not self._missing():
            self._write_epoch()
        elif self.now - self._announced_at >= self.timing.keepalive:
            self._out.append(Garp())

    def _abandon(self, because: str) -> None:
        """After the announcement. An epoch that gets to the disk all the same, and was never promoted, is forgotten."""
        self._let_go_of_vip()
        self.opening = Epoch()
        self._give_up(because)

    def _write_epoch(self) -> None:
        self._writing_since = self.now
        newest = self._newest()
        if not self.takeover.asked:
            self.restraint.took_over(self.now)
        record = Record(
            epoch=self.opening, active=True, solo=True, tentative=True, previous=self.disk.epoch, timeline=self.facts.timeline,
            suspended=newest.suspended, suspend_version=newest.suspend_version, changes=self.restraint.count(self.now),
        )  # fmt: skip
        self._save(record, self._opened)

    def _opened(self) -> None:
        if self.phase is Phase.OPENING:
            self.opening = Epoch()
            self._reset_reign()
            self._become(Phase.PROMOTING, f"epoch {self.disk.epoch} is on disk: {self.takeover.because}")
