"""Who is active: the state machine of one server of the pair.

Promise: ``handle(event, now)`` returns what to do, in order; ``deadline()`` says when to call again at the latest. One door
changes the phase (``_become``), with a sentence that reaches log, status, history and traces. What is said to the peer about
the disk is what is on the disk; no message promises anything that is not persisted. Illegal input raises, changes nothing.

    WAITING ─peer heard, or initdead─► PASSIVE ─silence, stood down, elected─► DETACHING ─► OPENING ─► PROMOTING ─► ACTIVE
    RESUMING ─peer passive─► ACTIVE     ▲  ▲                                      │           │            │          │
                                        │  └───────────── given up ───────────────┘           │            │          │
                                        └── persisted "not in sync" ◄── STANDING_DOWN ◄───────┴────────────┴──────────┘
    (ACTIVE ──planned failover──► PREPARING ──checkpoint done──► STANDING_DOWN)

The rules that decide are predicates in ``rules.Rules`` (one each; a mutant of the simulator overrides one):
silent, sign_of_service, peer_stood_down, higher_epoch_known, fitness_fresh, unfit, may_take_over, wants_to_yield,
peer_confirms, peer_may_be_fit, isolated, lost_by_pause, may_resume, wants_release, pinged_since_stall, released,
solo_by_silence, standby_ready, holds_all, outranked, rival_wins, elect, peer_pledged, may_boot_alone.
Source: design §4; facts/safety-model.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from heartbeat import report
from heartbeat.membership import Membership
from heartbeat.model import (
    SERVING,
    Activate,
    Alarm,
    Boot,
    Database,
    DropVip,
    Effect,
    Epoch,
    Event,
    Exit,
    Facts,
    ForceStop,
    ForceStopped,
    Garp,
    Gate,
    Heard,
    Leave,
    LinkChanged,
    ManagerLost,
    Message,
    Names,
    Persist,
    Persisted,
    PersistFailed,
    Phase,
    Ping,
    PingReply,
    PingSent,
    Record,
    RefreshLease,
    Reply,
    Resume,
    Role,
    RoleChanged,
    Send,
    Site,
    Standby,
    Stop,
    Suspend,
    TakeVip,
    Tick,
    Want,
)  # fmt: skip
from heartbeat.rules import REIGNING, Rules
from heartbeat.timing import Timing

#: an enforcement of the names that is not proven in this time is taken back, and tried again after the same time (seconds)
PROOF_LIMIT = 5.0
#: a promotion that fails for so long is given up; its epoch, never promoted, is forgotten (seconds)
PROMOTE_LIMIT = 30.0
#: a planned failover whose checkpoint takes longer is given up (seconds)
PREPARE_LIMIT = 60.0


class Core:
    """One server's part in the election. Attributes are for ``rules`` and ``report`` to read; only this class writes them."""

    def __init__(
        self, site: Site, timing: Timing, boot: Boot, record: Record, resume: Resume, now: float, rules: type[Rules] = Rules
    ) -> None:
        self.site = site
        self.timing = timing
        self.boot = boot
        self.disk = record
        self.resume = resume
        self.now = now
        self.members = Membership(site, timing, boot, now)
        self.started_run = self.members.run
        self.phase = Phase.WAITING
        self.because = "heartbeat has just started"
        self.phase_since = now
        self.highest = record.epoch.number
        #: the epoch being opened by a takeover or by going solo
        self.opening = Epoch()
        #: records on their way to the disk: serial -> (record, what to do then)
        self._saves: dict[int, tuple[Record, Callable[[], None] | None]] = {}
        self._serial = 0
        # ha_manager
        self.facts = Facts()
        self.facts_at = now
        self.manager_lost = "it has not reported yet"
        self.unhealthy_since = inf
        self.want = Want(0, Phase.WAITING, record.epoch, Database.KEEP)
        # what is said
        self.seq = 0
        self._said_at = -inf
        self._said: Message | None = None
        self._answer_now = False
        self._pinged_at = -inf
        self._ping_seq = 0
        # standing questions: the seq of the first message that asked; 0: not asking
        self.ask_release_seq = 0
        self.ask_ping_seq = 0
        self.called_seq = 0
        self.peer_was_in_sync = False
        self.stood_down_run = inf
        self.pledged_to = Boot()
        self.lease_at = now
        self.vip_link_down = ""
        self.leaving = ""
        self.forced = ""
        self._takeover_because = ""
        self._takeover_valid: Callable[[], bool] = lambda: False
        self._stop = Stop.IMMEDIATE
        self._proving_since = inf
        self._proof_wait = -inf
        self._rival_seq = 0
        self._heard_reigning_at = -inf
        self._leave_since = inf
        #: the first message that said "stood down"; a leaving active waits for its echo
        self._word_seq = 0
        self._forced_at = -inf
        self._save_wait = -inf
        #: the disk fails while standing down: silence is the only way left to let the peer take over
        self._mute = False
        self.alarms: dict[str, str] = {}
        self._out: list[Effect] = []
        self.rules = rules(self)
        if record.active and resume.epoch == record.epoch and now < resume.expires:
            self.phase, self.because = Phase.RESUMING, "heartbeat was restarted within its lease"
        else:
            self._out += [Gate(False), DropVip()]

    # --- the interface --------------------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return Role.ACTIVE if self.phase in SERVING else Role.PASSIVE

    @property
    def saving(self) -> bool:
        return bool(self._saves)

    @property
    def saving_solo(self) -> bool:
        return any(record.solo for record, _ in self._saves.values())

    def deadline(self) -> float | None:
        """Boottime at which ``handle(Tick(), …)`` must be called at the latest."""
        if self.phase is Phase.LEFT:
            return None
        pings = self._pinged_at + self.timing.ping_period if self.site.ping_nodes else inf
        return min(self._said_at + self.timing.keepalive, pings, self.now + self.timing.keepalive / 4)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at boottime ``now``; return what to do about it, in order."""
        gap = self.members.advance(now)
        self.now = now
        if self.phase in SERVING and self.rules.lost_by_pause(gap):
            self._stand_down(f"this server did not run for {max(gap, now - self.lease_at) * 1000:.0f} ms: its lease is gone")
        self._take(event)
        self._settle()
        out, self._out = self._out, []
        return out

    # --- events ---------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Tick():
                pass
            case Heard():
                self._heard(event)
            case PingSent(node, seq):
                self.members.ping_sent(node, seq)
            case PingReply(node, seq):
                self.members.ping_reply(node, seq)
            case Persisted(serial):
                self._persisted(serial)
            case PersistFailed(serial, error):
                self._persist_failed(serial, error)
            case Facts():
                self._facts(event)
            case ManagerLost(because):
                self.manager_lost = because
            case ForceStopped():
                if self.phase is Phase.STANDING_DOWN:
                    self._let_go()
            case LinkChanged(link, up, carries_vip):
                if carries_vip:
                    self.vip_link_down = "" if up else link
            case Standby():
                self._asked_standby(event)
            case Activate():
                self._asked_activate(event)
            case Suspend():
                self._asked_suspend(event)
            case Leave():
                self._asked_leave(event)

    def _heard(self, event: Heard) -> None:
        before = self.members.peer
        if not self.members.heard(event.link, event.message):
            return
        m = event.message
        self.highest = max(self.highest, m.epoch.number, m.highest)
        if before is None or before.boot != m.boot or m.asks_release or m.asks_ping:
            self._answer_now = True
        if m.phase in REIGNING and not m.stood_down:
            self._heard_reigning_at = self.members.run
        if m.stood_down and (before is None or not before.stood_down or before.epoch != m.epoch):
            self.stood_down_run = self.members.run
            self._pinged_at = -inf  # rule 2 wants a ping answered since: don't wait for the next one
        if m.in_sync and m.epoch == self.disk.epoch:
            self.peer_was_in_sync = True
        if m.suspend_version > self._newest().suspend_version:
            self._save(replace(self._newest(), suspended=m.suspended, suspend_version=m.suspend_version))

    def _facts(self, facts: Facts) -> None:
        self.manager_lost = ""
        if facts.peer_stood_down != self.facts.peer_stood_down:
            self.stood_down_run = self.members.run
            self._pinged_at = -inf
        self.facts, self.facts_at = facts, self.now
        self.unhealthy_since = inf if facts.healthy else min(self.unhealthy_since, self.now)
        if self.disk.tentative and not self.saving and self.phase in {Phase.WAITING, Phase.PASSIVE} and facts.timeline > 0:
            self._resolve_tentative()

    def _resolve_tentative(self) -> None:
        """Crashed between announcing an epoch and seeing it promoted: the database's timeline tells which (rule 2, H15)."""
        disk = self._newest()
        if self.facts.timeline > disk.timeline or self.facts.postgres is Database.PRIMARY:
            self._save(replace(disk, tentative=False))
        else:
            self._save(
                replace(disk, epoch=disk.previous, tentative=False, active=False, solo=False, in_sync=False, stood_down=False)
            )

    # --- the disk -------------------------------------------------------------------------------------------------------

    def _newest(self) -> Record:
        return next(reversed(self._saves.values()))[0] if self._saves else self.disk

    def _save(self, record: Record, then: Callable[[], None] | None = None) -> None:
        self._serial += 1
        self._saves[self._serial] = (record, then)
        self._out.append(Persist(self._serial, record))

    def _persisted(self, serial: int) -> None:
        if serial not in self._saves:
            raise ValueError(f"no record {serial} was given to the disk")
        for older in [s for s in self._saves if s < serial]:
            del self._saves[older]
        self.disk, then = self._saves.pop(serial)
        self._mute = False
        self._alarm("disk", "")
        self.highest = max(self.highest, self.disk.epoch.number)
        if then:
            then()

    def _persist_failed(self, serial: int, error: str) -> None:
        record, _ = self._saves.pop(serial, (None, None))
        self._alarm("disk", f"the state of the pair can't be written: {error}")
        self._save_wait = self.now + self.timing.deadtime
        if record is not None and self.phase is Phase.OPENING:
            self._out += [Gate(False), DropVip()]
            self._become(Phase.PASSIVE, f"the takeover was given up: the new epoch can't be written ({error})")
        if self.phase is Phase.STANDING_DOWN:
            self._mute = True
        self.opening = Epoch()

    # --- the one door ---------------------------------------------------------------------------------------------------

    def _become(self, phase: Phase, because: str) -> None:
        if phase is self.phase:
            return
        self._out.append(RoleChanged(self.phase, phase, self.disk.epoch, because))
        self.phase, self.because, self.phase_since = phase, because, self.now

    # --- what holds at every moment -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for _ in range(4):
            before = self.phase
            self._rules_of_phase()
            if self.phase is before:
                break
        self._say_what_is_wanted()
        self._notice()
        self._speak()

    def _rules_of_phase(self) -> None:
        match self.phase:
            case Phase.WAITING:
                self._waiting()
            case Phase.RESUMING:
                self._resuming()
            case Phase.PASSIVE:
                self._passive()
            case Phase.DETACHING:
                self._detaching()
            case Phase.OPENING | Phase.PROMOTING | Phase.ACTIVE | Phase.PREPARING:
                self._reigning()
            case Phase.STANDING_DOWN:
                self._standing_down()
            case Phase.LEFT:
                pass
        if self.leaving and self.phase is not Phase.LEFT:
            self._go_on_leaving()

    # --- starting -------------------------------------------------------------------------------------------------------

    def _waiting(self) -> None:
        peer = self.members.peer
        if self._too_late():
            self._stand_down("heartbeat or the server was restarted, and its lease is gone")
        elif peer is not None:
            self._become(Phase.PASSIVE, f"the peer is heard: it is {peer.phase}")
        elif self.now - self.phase_since >= self.timing.initdead:
            self._become(Phase.PASSIVE, f"the peer was not heard for {self.timing.initdead:g} s after the start")

    def _too_late(self) -> bool:
        """A former active is back while the passive is fit: the sooner that one is told, the sooner there is service (H2)."""
        p, disk = self.members.peer, self.disk
        reigned = disk.active and not disk.solo and not disk.tentative and not self.saving
        return reigned and p is not None and p.fit and p.phase is Phase.PASSIVE and self.members.in_contact()

    def _resuming(self) -> None:
        if because := self.rules.outranked():
            self._stand_down(because)
        elif because := self.rules.may_resume():
            self.lease_at = self.now
            self._out += [TakeVip(), Gate(True)]
            self._become(Phase.ACTIVE, because)
        elif self.now >= self.resume.expires:
            self._stand_down("heartbeat was restarted, and its lease ran out before the peer was heard to be passive")

    # --- passive --------------------------------------------------------------------------------------------------------

    def _passive(self) -> None:
        p = self.members.peer
        if p is not None:
            self._follow_sync(p)
        if self.disk.tentative or self.leaving:
            return
        if self._too_late():
            self._stand_down("heartbeat or the server was restarted, and its lease is gone")
        elif because := self.rules.may_take_over():
            self._begin_takeover(because, lambda: not self.rules.unfit())
        elif self.forced:
            self._begin_takeover(self.forced, lambda: True)
        elif because := self.rules.may_boot_alone():
            self._begin_takeover(because, lambda: not self.members.in_contact())
        elif not (p and p.phase in SERVING) and not (self.rules.peer_stood_down() and not self.rules.unfit()):
            self._elect()

    def _follow_sync(self, p: Message) -> None:
        """Rules 6a and 7, the passive's side: store "in sync" when all is held, clear it when asked to (or when it fails)."""
        newest = self._newest()
        asked = p.asks_release and p.epoch.number >= newest.epoch.number
        failed = self.facts.data == "failed" and not self.manager_lost
        if newest.in_sync and (asked or failed):
            self._save(replace(newest, in_sync=False))
            return
        stored = newest.epoch == p.epoch and newest.in_sync
        if self.rules.holds_all(p) and not (stored or p.asks_release or self.leaving or self.saving):
            record = replace(newest, epoch=p.epoch, in_sync=True, active=False, solo=False)
            self._save(replace(record, stood_down=False, tentative=False))

    def _elect(self) -> None:
        """Rule 9: two passives in contact. The loser first persists that it gives way; only then does the winner take over."""
        outcome = self.rules.elect()
        p = self.members.peer
        if outcome == "theirs" and p and self.pledged_to != p.boot:
            newest = self._newest()
            boot = p.boot

            def pledge() -> None:
                self.pledged_to = boot

            self._save(replace(newest, in_sync=False, solo=False, active=False), pledge)
        elif outcome == "mine" and self.rules.peer_pledged() and self.facts.healthy:
            because = "nobody was active: this server has the longest log, or is the default active"
            self._begin_takeover(because, lambda: self.rules.peer_pledged() and not self.rules.higher_epoch_known())

    def _begin_takeover(self, because: str, valid: Callable[[], bool]) -> None:
        """``valid``: what allowed this takeover; asked again when the receiver is stopped, just before there is no way back."""
        self._takeover_because, self._takeover_valid = because, valid
        self._become(Phase.DETACHING, because)

    def _detaching(self) -> None:
        p = self.members.peer
        reappeared = self._heard_reigning_at > self.members.run - (self.now - self.phase_since)
        if self.rules.outranked() or (p and reappeared and not self.rules.peer_stood_down()):
            self._give_up("the active was heard again")
        elif self.now - self.phase_since > max(2 * self.timing.deadtime, 2.0):
            self._give_up("the receiver could not be stopped in time")
        elif self.manager_lost:
            self._give_up(f"ha_manager is gone: {self.manager_lost}")
        elif self._wanted_holds(Database.DETACHED) and self.facts.postgres is Database.DETACHED:
            if self._takeover_valid():
                self._open()
            else:
                self._give_up(self.rules.unfit() or "what allowed it no longer holds")

    def _give_up(self, because: str) -> None:
        self.forced = ""
        self._become(Phase.PASSIVE, f"the takeover was given up: {because}")

    def _open(self) -> None:
        """Rule 2's order: VIP, announce on every link, persist, promote."""
        self.opening = Epoch(self.highest + 1, self.site.node)
        self.highest = self.opening.number
        self.forced = ""
        newest = self._newest()
        self._become(Phase.OPENING, self._takeover_because)
        self.lease_at = self.now
        self._out.append(TakeVip())
        self._send()
        record = Record(
            epoch=self.opening, active=True, solo=True, tentative=True, previous=self.disk.epoch, timeline=self.facts.timeline,
            suspended=newest.suspended, suspend_version=newest.suspend_version,
        )  # fmt: skip
        self._save(record, self._opened)

    def _opened(self) -> None:
        if self.phase is Phase.OPENING:
            self.opening = Epoch()
            self._reset_reign()
            self._become(Phase.PROMOTING, f"epoch {self.disk.epoch} is on disk")

    def _reset_reign(self) -> None:
        """A new epoch begins: what was asked and proven in the last one is void."""
        self.ask_release_seq = self.ask_ping_seq = self.called_seq = 0
        self.peer_was_in_sync = False
        self._proving_since, self._proof_wait = inf, -inf

    # --- active ---------------------------------------------------------------------------------------------------------

    def _reigning(self) -> None:
        if because := self.rules.outranked():
            self._stand_down(because)
        elif self._rival():
            self._stand_down("two servers were active, and the other one has more to lose")
        elif self.rules.isolated():
            self._stand_down(f"neither the peer nor a ping node was heard for {self.timing.isolation * 1000:.0f} ms")
        else:
            if self._due_lease():
                self._out.append(RefreshLease())
            if self.phase is Phase.PROMOTING:
                self._promoting()
            elif self.phase is Phase.ACTIVE:
                self._yield()
                self._fence()
            elif self.phase is Phase.PREPARING:
                self._preparing()

    def _due_lease(self) -> bool:
        due = self.now - self.lease_at >= self.timing.keepalive / 2
        if due:
            self.lease_at = self.now
        return due

    def _rival(self) -> bool:
        """Rule 8, equal numbers. The winner sends GARP at once; the loser lets go when the winner has heard of it."""
        p = self.members.peer
        if not (p and p.phase in SERVING and p.epoch.number == self.disk.epoch.number and p.epoch != self.disk.epoch):
            self._rival_seq = 0
            return False
        if not self._rival_seq:
            self._rival_seq = self.seq + 1
            self._out.append(Garp())
            self._send()
            self._alarm("two-actives", f"{p.node} is active too, in epoch {p.epoch}")
        return self.rules.rival_wins() and self.members.echoes(self._rival_seq)

    def _promoting(self) -> None:
        if self._wanted_holds(Database.PRIMARY) and self.facts.postgres is Database.PRIMARY and self.disk.active:
            if self.disk.tentative and not self.saving:
                self._save(replace(self._newest(), tentative=False))
            self._out.append(Gate(True))
            self._become(Phase.ACTIVE, f"Postgres is promoted: {self._takeover_because}")
        elif self.unhealthy_since < inf and self.now - max(self.unhealthy_since, self.phase_since) > PROMOTE_LIMIT:
            self._stand_down(f"Postgres can't be promoted: {self.facts.because}")

    def _wanted_holds(self, postgres: Database) -> bool:
        return self.want.postgres is postgres and self.facts.serial >= self.want.serial > 0

    def _yield(self) -> None:
        """Rule 3: ask the passive to confirm; hand over only when it can take over at this very moment."""
        because = self.rules.wants_to_yield()
        if not because or self.disk.solo or self.saving:
            self.ask_ping_seq = 0
        elif not self.ask_ping_seq:
            self.ask_ping_seq = self.seq + 1
        elif self.rules.peer_confirms(self.ask_ping_seq):
            self._stand_down(because)

    def _preparing(self) -> None:
        p = self.members.peer
        if self.forced or (p and p.fit and self.members.in_contact()):
            if self.facts.prepared and self.want.prepare and self.facts.serial >= self.want.serial:
                self._stand_down(self._takeover_because, Stop.FAST)
            elif self.now - self.phase_since > PREPARE_LIMIT:
                self._become(Phase.ACTIVE, "the planned failover was given up: the checkpoint took too long")
        else:
            self._become(Phase.ACTIVE, "the planned failover was given up: the passive is no longer fit")

    # --- active: the data fence (rules 6 and 7) -------------------------------------------------------------------------

    def _fence(self) -> None:
        if self.saving or self.now < self._save_wait:
            return
        if self.disk.solo:
            self._prove()
            return
        if self.rules.solo_by_silence():
            self._go_solo(f"the passive has been silent on every link for {self.timing.solo:g} s")
        elif because := self.rules.wants_release():
            if not self.ask_release_seq:
                self.ask_release_seq = self.seq + 1
            elif self.rules.released(self.ask_release_seq):
                self._go_solo(f"released by the passive: {because}")
        elif self.ask_release_seq and self.facts.stalled == 0:
            self.ask_release_seq = 0

    def _go_solo(self, because: str) -> None:
        self.opening = Epoch(self.highest + 1, self.site.node)
        self.highest = self.opening.number
        record = replace(self._newest(), epoch=self.opening, active=True, solo=True, in_sync=False, stood_down=False)

        def then() -> None:
            self.opening = Epoch()
            self._reset_reign()
            self._out.append(RoleChanged(self.phase, self.phase, self.disk.epoch, f"solo: {because}"))
            self.because = f"solo: {because}"

        self._save(record, then)

    def _prove(self) -> None:
        """Rule 7: names set and proven, then "solo" cleared on disk, then published (by ``_message``)."""
        if self._proving_since == inf:
            ready = self.site.synchronous and self.rules.standby_ready() and self.now >= self._proof_wait
            if ready and not self.disk.tentative and not self.leaving:
                self._proving_since = self.now
            return
        proven = self.want.names is Names.ENFORCED and self.facts.serial >= self.want.serial and self.facts.proven >= 0
        if proven and self.rules.standby_ready():
            because = "in sync again: every commit waits for the passive"

            def then() -> None:
                self._proving_since = inf
                self.called_seq = self.seq + 1
                self._out.append(RoleChanged(self.phase, self.phase, self.disk.epoch, because))
                self.because = because

            self._save(replace(self._newest(), solo=False), then)
        elif self.now - self._proving_since > PROOF_LIMIT or not self.rules.standby_ready():
            self._proving_since, self._proof_wait = inf, self.now + self.timing.deadtime

    # --- standing down --------------------------------------------------------------------------------------------------

    def _stand_down(self, because: str, stop: Stop = Stop.IMMEDIATE) -> None:
        """Rules 3, 4, 5, 8: VIP, client port, Postgres, disk, and only then the word."""
        self._stop = stop
        self.forced = ""
        self.opening = Epoch()
        self._out.append(Gate(False))
        self._out.append(DropVip())
        self._become(Phase.STANDING_DOWN, because)

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
            self._become(Phase.PASSIVE, self.because)
            return
        record = replace(newest, active=False, solo=False, in_sync=False, stood_down=True)
        because = self.because

        def then() -> None:
            if self.phase is Phase.STANDING_DOWN:
                self._become(Phase.PASSIVE, f"stood down in epoch {self.disk.epoch}: {because}")

        self._save(record, then)

    # --- what operators ask ---------------------------------------------------------------------------------------------

    def _asked_standby(self, event: Standby) -> None:
        p = self.members.peer
        if self.phase is not Phase.ACTIVE:
            self._reply(False, f"this server is {self.phase}; only the active can hand over")
        elif event.by == self.site.peer:
            self._asked_by_peer()
        elif event.force or (p and p.fit and self.members.in_contact() and p.phase is Phase.PASSIVE and not self.disk.solo):
            if self.disk.suspended and not event.force:
                self._reply(False, "automatic and planned changes are suspended; `ha resume` ends that")
                return
            self._reply(True, f"handing over to {self.site.peer}")
            self.forced = f"forced by {event.by}" if event.force else ""
            self._takeover_because = f"planned failover, asked by {event.by}"
            self._become(Phase.PREPARING, self._takeover_because)
        else:
            self._reply(False, f"{self.site.peer} can't take over: {report.why_peer_unfit(self)}")

    def _asked_by_peer(self) -> None:
        """Rule 1: the peer can't hear our heartbeats but reached our ha_manager."""
        if self.members.silent_for() >= self.timing.warntime and not self.disk.solo and not self.saving:
            self._reply(True, "standing down: the peer hears no heartbeat from here")
            self._stand_down("the peer hears no heartbeat from here and asked over the session")
        else:
            self._reply(False, "the peer is heard here, or could not take over")

    def _asked_activate(self, event: Activate) -> None:
        p = self.members.peer
        if self.phase not in {Phase.PASSIVE, Phase.WAITING}:
            self._reply(False, f"this server is {self.phase}")
        elif p and p.phase in SERVING and self.members.in_contact():
            self._reply(False, f"{p.node} is active and heard; use `ha failover` there")
        elif not event.force:
            self._reply(False, report.what_activation_risks(self))
        else:
            self._reply(True, "taking over without the peer")
            self.forced = f"forced by {event.by} although the peer could not be asked"
            if self.phase is Phase.WAITING:
                self._become(Phase.PASSIVE, self.forced)

    def _asked_suspend(self, event: Suspend) -> None:
        newest = self._newest()
        version = newest.suspend_version + 1
        word = "suspended" if event.suspended else "resumed"
        self._save(replace(newest, suspended=event.suspended, suspend_version=version))
        self._reply(True, f"automatic changes are {word}, here and on {self.site.peer} as soon as it hears of it")

    def _asked_leave(self, event: Leave) -> None:
        self.leaving, self._leave_since = event.kind, self.now
        if event.kind == "restart":
            self._reply(True, "restarting within the lease")
            self._become(Phase.LEFT, f"restart asked by {event.by}")
            self._out.append(Exit())
            return
        self._reply(True, f"leaving ({event.kind}), asked by {event.by}")
        if event.kind == "handover" and self.phase in SERVING | {Phase.RESUMING}:
            self._stand_down(f"heartbeat is being stopped by {event.by}", Stop.FAST)

    def _go_on_leaving(self) -> None:
        """Leave when the peer knows what it must: a passive once it is released, an active once it is solo or has let go."""
        p = self.members.peer
        waited = self.now - self._leave_since
        if self.phase in {Phase.WAITING, Phase.PASSIVE, Phase.DETACHING}:
            newest = self._newest()
            if newest.in_sync:
                self._save(replace(newest, in_sync=False))
            elif not self.saving:
                needs_word = p is not None and self.members.in_contact() and p.phase in SERVING and p.calls_in_sync >= 0
                asked = p is not None and p.asks_release and self.members.in_contact()
                untold = self.disk.stood_down and self.members.in_contact() and not self.members.echoes(self._word_seq)
                if not (needs_word or asked or untold) or waited > 2 * self.timing.deadtime:
                    self._leave_now()
        elif self.phase is Phase.ACTIVE and self.leaving == "off" and self.disk.solo and not self.saving:
            self._out.append(DropVip())
            self._leave_now()

    def _leave_now(self) -> None:
        because = f"heartbeat was stopped ({self.leaving})"
        self._become(Phase.LEFT, because)
        self._send()
        self._out.append(Exit())

    def _reply(self, ok: bool, text: str) -> None:
        self._out.append(Reply(ok, text))

    # --- what ha_manager is to make so ----------------------------------------------------------------------------------

    def _say_what_is_wanted(self) -> None:
        want = self._wanted()
        if replace(want, serial=0) != replace(self.want, serial=0):
            self.want = replace(want, serial=self.want.serial + 1)
            self._out.append(self.want)

    def _wanted(self) -> Want:
        p = self.members.peer
        epoch, names, follow, ask = self.disk.epoch, Names.RELAXED, Epoch(), ""
        match self.phase:
            case Phase.WAITING | Phase.RESUMING | Phase.LEFT:
                postgres = Database.KEEP
            case Phase.PASSIVE:
                postgres = Database.STANDBY
                if p and p.phase in {Phase.ACTIVE, Phase.PREPARING} and p.epoch.number > 0:
                    follow = p.epoch
                if self.members.silent_for() >= self.timing.warntime and self.facts.sign_age < self.timing.deadtime:
                    ask = "no heartbeat is heard on any link, but it still serves"
            case Phase.DETACHING | Phase.OPENING:
                postgres = Database.DETACHED
            case Phase.STANDING_DOWN:
                postgres = Database.STOPPED
            case _:
                postgres = Database.PRIMARY
                solo = self.disk.solo and self._proving_since == inf
                names = Names.RELAXED if solo or not self.site.synchronous else Names.ENFORCED
        prepare = self.phase is Phase.PREPARING
        stop = self._stop if postgres is Database.STOPPED else Stop.IMMEDIATE
        return Want(0, self.phase, epoch, postgres, names, stop, prepare, follow, ask, self.because)

    # --- alarms ---------------------------------------------------------------------------------------------------------

    def _alarm(self, name: str, text: str) -> None:
        if text and name not in self.alarms:
            self.alarms[name] = text
            self._out.append(Alarm(name, True, text))
        elif not text and name in self.alarms:
            self._out.append(Alarm(name, False, self.alarms.pop(name)))

    def _notice(self) -> None:
        for name, text in report.alarms(self).items():
            self._alarm(name, text)

    # --- what is said ---------------------------------------------------------------------------------------------------

    def _speak(self) -> None:
        if self.phase is Phase.LEFT or self._mute:
            return
        if self.site.ping_nodes and self.now - self._pinged_at >= self.timing.ping_period:
            self._ping_seq += 1
            self._pinged_at = self.now
            self._out.append(Ping(self._ping_seq))
        if self._answer_now or self.now - self._said_at >= self.timing.keepalive or self._changed():
            self._send()

    def _changed(self) -> bool:
        """Something was said last time that is no longer so; positions, counters and echoes alone don't count."""
        said = self._said
        if said is None:
            return True
        asked = self.members.peer is not None and self.members.peer.asks_ping
        quiet = {"seq": 0, "echo_boot": Boot(), "echo_seq": 0, "lsn": 0, "beyond": 0, "highest": 0, "calls_in_sync": 0}
        calls = self._message().calls_in_sync >= 0
        if not asked:
            quiet["ping_after"] = 0
        return calls != (said.calls_in_sync >= 0) or replace(self._message(), **quiet) != replace(said, **quiet)  # type: ignore[arg-type]

    def _send(self) -> None:
        self.seq += 1
        message = self._message()
        self.members.sent(self.seq)
        self._said, self._said_at, self._answer_now = message, self.now, False
        if message.calls_in_sync >= 0:
            self.called_seq = self.seq
        self._word_seq = (self._word_seq or self.seq) if message.stood_down else 0
        self._out.append(Send(message))

    def _message(self) -> Message:
        echo_boot, echo_seq = self.members.echo
        opening = self.phase is Phase.OPENING
        pending = [record for record, _ in self._saves.values()]
        calls = -1
        steady = self.phase in {Phase.ACTIVE, Phase.PREPARING} and not self.disk.solo and not self.saving_solo
        if steady and not self.ask_release_seq and self.site.synchronous and self.want.names is Names.ENFORCED:
            calls = self.facts.proven if self.facts.serial >= self.want.serial or self.facts.names is Names.ENFORCED else -1
        return Message(
            node=self.site.node,
            boot=self.boot,
            seq=self.seq,
            echo_boot=echo_boot,
            echo_seq=echo_seq,
            phase=self.phase,
            epoch=self.opening if opening else self.disk.epoch,
            highest=self.highest,
            solo=self.disk.solo,
            # what might reach the disk counts as being there: the active goes solo only when it certainly does not
            in_sync=self.disk.in_sync or any(r.in_sync for r in pending),
            stood_down=self.disk.stood_down and not self.saving,
            fit=self.phase is Phase.PASSIVE and not self.rules.unfit(),
            calls_in_sync=calls,
            asks_release=bool(self.ask_release_seq),
            asks_ping=bool(self.ask_ping_seq),
            ping_after=self.members.ping_after,
            connected=self.members.connected(),
            pledged_to=self.pledged_to if self.phase is Phase.PASSIVE else Boot(),
            data=self.rules.data(),
            lsn=self.facts.lsn,
            beyond=self.facts.beyond,
            vip=self.phase in SERVING,
            suspended=self.disk.suspended,
            suspend_version=self.disk.suspend_version,
            leaving=self.leaving,
        )

    # --- for people -----------------------------------------------------------------------------------------------------

    def status(self, now: float) -> dict[str, object]:
        """Plain data for the control socket (docs/protocols.md)."""
        return report.status(self, now)

    def explain(self, now: float) -> list[str]:
        """Sentences: why this server is what it is, and what it would do if the peer died now."""
        return report.explain(self, now)
