"""The production rules with one of them taken out or bent: what the simulator must notice.

Promise: each mutant overrides one predicate of ``Rules`` (or one step of ``Core``) and says in its docstring which hole
it opens. Source: facts/safety-model.md, H1 to H17.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from heartbeat.election import Core
from heartbeat.model import Database, Epoch, Heard, Message, Phase, Record, Sign, Site, TakeVip, Times
from heartbeat.rules import Rules
from heartbeat.signs import HOST, STRANGER, VIP


class HastyDeath(Rules):
    """Rule 1: silence of warntime is death."""

    def silent(self) -> bool:
        return self.members.run - self.silence_since() >= self.timing.keepalive * 1.1


class NoSigns(Rules):
    """Rule 1: signs of service don't hold a takeover."""

    def sign_of_service(self) -> float:
        return -inf


class AnyStandDown(Rules):
    """Rule 2: "stood down" counts whatever the epoch."""

    def peer_stood_down(self) -> bool:
        p = self.members.peer
        return (p is not None and p.stood_down) or self.core.facts.peer_stood_down != Epoch()


class WordForgotten(Rules):
    """Rule 2, asynchronous: the word "stood down" is void while its sender says nothing of its log."""

    def gave_way(self) -> bool:
        p = self.members.peer
        return super().gave_way() and (not self.may_lack() or (p is not None and p.lsn >= 0))


class ElectsAtOnce(Rules):
    """Rule 9, asynchronous: what a clean stop has just sent doesn't count, as it was not reported yet."""

    def word_is_new(self) -> bool:
        return False


class EndUnknown(Rules):
    """Rule 9, asynchronous: a log whose end nobody knows counts as the shorter one."""

    def their_end(self) -> int:
        return max(0, super().their_end())


class LagForgotten(Rules):
    """Rule 6, asynchronous: a passive is called fit for what an active knew before its ha_manager died."""

    def lag_known(self) -> bool:
        return True


class AnyLag(Rules):
    """Rule 6, asynchronous: the passive may lack any amount."""

    def within_lag(self) -> bool:
        return True

    def lag(self) -> int:
        return 0


class TakesFromStandby(Rules):
    """Rules 2 and 6, asynchronous: whoever stood down is succeeded, whatever it holds in addition."""

    def gave_way(self) -> bool:
        return self.peer_stood_down()


class OneServerOff(Rules):
    """Rule 6: commits don't wait as soon as one server is configured so."""

    def asynchronous(self) -> bool:
        return not self.core.site.synchronous


class RelaxedUnheard(Rules):
    """Rule 6: commits stop waiting before the passive knows."""

    def passive_knows(self) -> bool:
        return True


class PreparedIsDone(Rules):
    """Rule 6: that commits wait, said while a hand-over was prepared, counts though its end was not heard."""

    def may_lack(self) -> bool:
        c, p = self.core, self.members.peer
        return c.disk.lax and (p is None or p.epoch != c.disk.epoch or p.mode.lax)


class OneServersRelease(Rules):
    """Rule 6b: only this server's own solo="release" counts."""

    def release_only(self) -> bool:
        return self.core.site.solo == "release"


class UnansweredHandover(Rules):
    """Rule 12: a planned failover to a passive that has not answered since."""

    def successor_answers(self) -> bool:
        return True


class UnheardSuccessor(Rules):
    """Rule 2: takes over on the word of one that may come back, without having been heard."""

    def word_stands(self) -> bool:
        return True


class NeverReturns(Rules):
    """Rule 3: an active that let go for a passive that dies waits for it."""

    def comes_back(self) -> bool:
        return False


class ReturnsBlind(Rules):
    """Rule 3: an active that let go comes back though it could hear nobody for a while."""

    def comes_back(self) -> bool:
        return self.core.returns and self.core.disk.stood_down


class UnconnectedIsSilence(Rules):
    """Rule 1, H14: silence counts also while this passive could hear nobody."""

    def silence_since(self) -> float:
        return max(self.members.heard_at, self.sign_of_service(), self.core.started_run)


class HigherEpochForgotten(Rules):
    """Rules 2 and 11, H9: a higher epoch heard ends neither fitness nor the right to boot alone."""

    def higher_epoch_known(self) -> bool:
        return False


class StaleFitness(Rules):
    """Rule 2, H8: fitness never gets old."""

    def fitness_fresh(self, ahead: float = 0.0) -> bool:
        return True


class FitWithoutSync(Rules):
    """Rule 2: fit without being in sync."""

    def unfit(self) -> str:
        return "" if self.core.facts.healthy and self.core.disk.epoch.number else "not healthy"


class YieldUnconfirmed(Rules):
    """Rule 3, H3: the active stands down without the passive's word."""

    def peer_confirms(self, asked_seq: int) -> bool:
        return True


class NeverYield(Rules):
    """Rule 3: whatever it lacks, it stays."""

    def wants_to_yield(self) -> str:
        return ""


class PreparesOn(Rules):
    """Rule 3: what keeps an active from serving is no reason to leave a planned failover's checkpoint."""

    def cannot_serve(self) -> str:
        return "" if self.core.phase is Phase.PREPARING else super().cannot_serve()


class OffersItselfUnlinked(Rules):
    """Rule 3: fit for a yield although its own interface of the virtual IP has no link."""

    def offers_itself(self) -> bool:
        return self.core.phase is Phase.PASSIVE and not self.unfit()


class NeverIsolated(Rules):
    """Rule 4: hears nobody, stays active."""

    def isolated(self) -> bool:
        return False


class PauseForgiven(Rules):
    """Rule 5, H7: an active that stood still goes on."""

    def lost_by_pause(self, gap: float) -> bool:
        return False


class ResumeAnyway(Rules):
    """Rule 5: a restarted active goes on without a word of the peer."""

    def may_resume(self) -> str:
        return "because it was active"


class ReleaseWithoutPing(Rules):
    """Rule 6a, H6: asks for a release without an answered ping."""

    def pinged_since_stall(self) -> bool:
        return True


class ReleasedBySelf(Rules):
    """Rule 6a: solo without the passive's persisted word."""

    def released(self, asked_seq: int) -> bool:
        return True


class SoloTooSoon(Rules):
    """Rule 6b: silence of deadtime is enough for solo."""

    def solo_by_silence(self) -> bool:
        c = self.core
        since = max(self.members.heard_at, self.sign_of_service(), self.members.broken_at, c.started_run)
        solo = not (c.disk.solo or c.saving_solo)
        return solo and self.members.run - since >= self.timing.deadtime and self.members.connected()


class SoloUnconnected(Rules):
    """Rule 6b, H16: silence while unconnected or standing still counts too."""

    def solo_by_silence(self) -> bool:
        c = self.core
        since = max(self.members.heard_at, self.sign_of_service())
        return not (c.disk.solo or c.saving_solo) and self.members.run - since >= self.timing.solo


class SoloIsolated(NeverIsolated, SoloUnconnected):
    """Rules 4 and 6b: both at once (isolation comes first otherwise)."""


class NeverReady(Rules):
    """Rule 7: the names are never set again."""

    def standby_ready(self) -> bool:
        return False


class SyncUncalled(Rules):
    """Rule 7: the passive calls itself in sync as soon as it follows an active, before that one waits for it."""

    def holds_all(self, m: Message) -> bool:
        c = self.core
        return m.phase is Phase.ACTIVE and c.facts.postgres is Database.STANDBY and c.facts.following == m.epoch


class FollowsAnyone(Rules):
    """Rule 8: a server that holds a higher epoch follows an active of a lower one."""

    def may_follow(self, m: Message) -> bool:
        return m.phase in {Phase.ACTIVE, Phase.PREPARING} and m.epoch.number > 0


class HoldsTooLittle(Rules):
    """Rule 7: the passive calls itself in sync without holding what is named, or following its epoch."""

    def holds_all(self, m: Message) -> bool:
        return m.phase in {Phase.ACTIVE, Phase.PREPARING} and m.calls_in_sync >= 0


class NeverOutranked(Rules):
    """Rule 8, H11: a higher epoch doesn't end a reign."""

    def outranked(self) -> str:
        return ""


class ReturnsAnyway(NeverOutranked):
    """Rules 3 and 8: comes back though its successor was heard to take over (each covers for the other)."""

    def comes_back(self) -> bool:
        return self.core.disk.stood_down and self.members.broken_at <= self.members.echoed_at - self.members.paused


class SessionUnheard(Rules):
    """Rule 8: a higher epoch that only the session tells doesn't end a reign."""

    def outranked(self) -> str:
        facts = self.core.facts
        self.core.facts = replace(facts, peer_epoch=Epoch())
        found = super().outranked()
        self.core.facts = facts
        return found


class FitForEver(StaleFitness, HigherEpochForgotten, NeverOutranked):
    """Rules 2 and 8, H9: all three at once (each covers for the others)."""


class OwnTimes(Rules):
    """Rules 1, 2 and 6: the other server's times don't count where they are configured differently."""

    def their_times(self) -> Times:
        return Times()


class SuccessorUnseen(Rules):
    """Rule 2: who let go comes back, although the other one answered for the virtual IP since."""

    def successor_seen(self) -> bool:
        return False


class RivalsWait(Rules):
    """Rule 8: who is to yield waits for a rival that can't hear it."""

    def rival_knows(self) -> bool:
        return self.members.echoes(self.core.rival_seq)


class RivalsWaver(Rules):
    """Rule 8: who is to yield to a rival that can't hear it stays if it writes more meanwhile."""

    def rival_hears(self) -> bool:
        return True


class RivalsStay(Rules):
    """Rule 8: of two actives with equal numbers neither yields."""

    def rival_wins(self) -> bool:
        return False


class NoElection(Rules):
    """Rule 9, H2: two passives stay passive."""

    def elect(self) -> str:
        return "nobody"


class OldPledge(Rules):
    """Rule 9: a pledge counts however long ago it was given."""

    def peer_pledged(self) -> bool:
        p = self.members.peer
        return p is not None and p.pledged_to == self.core.boot and p.phase is Phase.PASSIVE and not p.in_sync


class DefaultWins(Rules):
    """Rule 9: the default active wins, whatever it holds."""

    def elect(self) -> str:
        return ("mine" if self.core.site.node == "A" else "theirs") if super().elect() else ""


class Unpledged(Rules):
    """Rule 9: the winner doesn't wait for the loser's word."""

    def peer_pledged(self) -> bool:
        return True


class BootsAlone(Rules):
    """Rule 11: alone, a server becomes active whatever is on its disk."""

    def may_boot_alone(self) -> str:
        c = self.core
        waited = self.members.run - self.silence_since()
        ready = c.facts.data == "ready" and not c.manager_lost and not c.saving
        return "alone" if waited >= self.timing.initdead and ready and self.members.connected() else ""


class NoVipSign(Rules):
    """Rule 1: that the peer's own MAC answers for the VIP is no sign."""

    def sign_of_service(self) -> float:
        self.core.signs.forget(VIP)
        return super().sign_of_service()


class LeaseDiscounted(Rules):
    """Rule 1: that the VIP answers shows only that heartbeat lived a lease ago (true, if a ping sent since was answered), so
    deadtime runs from then. A death of heartbeat alone would be noticed earlier; but then nothing has to be silent for
    deadtime any more."""

    def sign_of_service(self) -> float:
        vip = self.core.signs.at(VIP)
        self.core.signs.forget(VIP)
        reported = super().sign_of_service()
        if vip > -inf:
            self.core.signs.take(Sign(VIP, "lan", "answers"))
            self.core.signs._newest[VIP] = (vip, self.core.signs._newest[VIP][1])
        later = self.members.pinged_since(vip + 2 * self.timing.ping_period)
        return max(reported, vip - self.timing.lease if later else vip)


class StrangersSign(Rules):
    """Rule 1: whoever answers for the VIP shows that the peer serves."""

    def sign_of_service(self) -> float:
        return max(super().sign_of_service(), self.core.signs.at(STRANGER))


class HostsSign(Rules):
    """Rule 1: a host that answers holds a takeover."""

    def sign_of_service(self) -> float:
        return max(super().sign_of_service(), self.core.signs.at(HOST))


class Unfenced(Rules):
    """Rules 2 and 6b: what is decided by silence doesn't wait for the fence agent."""

    def fenced(self) -> bool:
        return True


class FencedLate(Rules):
    """Rule 2: a slow fence agent outlives the passive's fitness."""

    def fitness_fresh(self, ahead: float = 0.0) -> bool:
        return self.core.now - self.members.called_at < self.timing.stale


class Ungranted(Rules):
    """Rules 2 and 6b: what is decided by silence doesn't wait for the witnesses."""

    def granted(self, new: Epoch) -> bool:
        return True


class EntryUnasked(Rules):
    """ARP check: a takeover by silence doesn't wait until the ping node's entry points to it."""

    def entry_taken(self) -> bool:
        return True


class EntryIgnored(Rules):
    """ARP check: solo by silence wherever the ping node's entry points."""

    def entry_kept(self, silent_since: float) -> bool:
        return True


class EntryAnnounced(Rules):
    """ARP check: an entry that this server's own announcement took back counts."""

    def entry_kept(self, silent_since: float) -> bool:
        return self.core.arp.answered_at >= silent_since + self.timing.solo


class KeepsLostVip(Rules):
    """ARP check: an active whose VIP went elsewhere stays."""

    def lost_vip(self) -> str:
        return ""


class EpochsWasted(Rules):
    """Rule 2: an epoch that came to nothing is not replaced."""

    def epoch_wasted(self) -> bool:
        return False


class NeverRestrained(Rules):
    """Rule 12: flapping goes on."""

    def restrained(self) -> bool:
        return False


class RestrainedDead(Rules):
    """Rule 12: restraint speaks against a takeover, too."""

    def may_take_over(self) -> str:
        return "" if self.restrained() else super().may_take_over()


class EpochByHearing(Core):
    """Epoch, H10: an epoch becomes one's own by hearing it, its data taken for granted."""

    def _settle(self) -> None:
        p = self.members.peer
        if p and self.phase is Phase.PASSIVE and p.epoch.number > self._newest().epoch.number and not self.saving:
            self._save(replace(self._newest(), epoch=p.epoch, in_sync=True, solo=False, active=False))
        super()._settle()


class NeverTentative(Core):
    """Rule 2, H15: an epoch announced but never promoted is kept."""

    def _save(self, record: Record, then: Callable[[], None] | None = None) -> None:
        super()._save(replace(record, tentative=False), then)


class PromotesFirst(Core):
    """Rule 2: promotion doesn't wait for the epoch on the disk."""

    def _open(self) -> None:
        super()._open()
        self.disk = next(reversed(self.saves.values()))[0]
        self._opened()


class KeepsVip(Core):
    """Rule 4: the VIP isn't dropped on the way down."""

    def _settle(self) -> None:
        super()._settle()
        if self.phase is Phase.STANDING_DOWN:
            self._out.append(TakeVip())


class SyncUnproven(Core):
    """Rule 7, H12: "in sync" is published as soon as the names are set, solo still on the disk."""

    def _prove(self) -> None:
        if self.rules.standby_ready() and self.disk.solo:
            self.disk = replace(self.disk, solo=False)
            self.facts = replace(self.facts, proven=max(self.facts.proven, 0))
            return
        super()._prove()


class SoloUnwritten(Core):
    """Rule 6b: commits stop waiting for the passive before "solo" is on the disk."""

    def _go_solo(self, because: str) -> None:
        super()._go_solo(because)
        self.disk, then = self.saves[self._serial]
        assert then is not None
        then()


class StandsDownRunning(Core):
    """Rule 3: "stood down" is said before Postgres has stopped."""

    def _standing_down(self) -> None:
        if not self.saving:
            self._let_go()


class StandsDownInSync(Core):
    """Rule 3, H17: the one that let go calls itself in sync with the epoch that it gave up."""

    def _save(self, record: Record, then: Callable[[], None] | None = None) -> None:
        super()._save(replace(record, in_sync=record.in_sync or record.stood_down), then)


class AnyPingNode(Core):
    """Rules 2, 3, 6b: one ping node that answers is enough, whatever quorum is configured."""

    def __init__(self, site: Site, *others: Any) -> None:
        super().__init__(replace(site, ping_quorum=1), *others)


class TakesWithoutCounting(Core):
    """Rule 12: what the peer counted is not added."""

    def _heard(self, event: Heard) -> bool:
        return super()._heard(replace(event, message=replace(event.message, changes=0)))


RULES: tuple[type[Rules], ...] = tuple(value for value in list(globals().values()) if isinstance(value, type)
                                       and issubclass(value, Rules) and value is not Rules)  # fmt: skip
CORES: tuple[type[Core], ...] = tuple(value for value in list(globals().values()) if isinstance(value, type)
                                      and issubclass(value, Core) and value is not Core)  # fmt: skip
