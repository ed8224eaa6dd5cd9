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
silent, sign_of_service, peer_stood_down, word_given, word_stands, higher_epoch_known, fitness_fresh, unfit, offers_itself,
may_take_over, wants_to_yield, cannot_serve, peer_confirms, successor_seen,
successor_gives_up, comes_back, may_return, peer_may_be_fit, isolated,
lost_by_pause, may_resume, wants_release, pinged_since_stall, released, solo_by_silence, standby_ready, holds_all, outranked,
rival_wins, rival_hears, rival_knows, lag_known, word_is_new, their_end, elect, peer_pledged, may_boot_alone.
Source: design §4; facts/safety-model.md.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf
from operator import attrgetter

from heartbeat import explain as explanation
from heartbeat import report
from heartbeat.model import (
    SERVING,
    Activate,
    ArpAnswer,
    ArpUnusable,
    DropVip,
    Effect,
    Event,
    Exit,
    Facts,
    Fenced,
    ForceStopped,
    Garp,
    Granted,
    Heard,
    Leave,
    LinkChanged,
    ManagerLost,
    Message,
    Persisted,
    PersistFailed,
    Phase,
    PingReply,
    PingSent,
    Replication,
    Sign,
    Standby,
    Stop,
    Suspend,
    TakeVip,
    Tick,
)
from heartbeat.passive import Passive
from heartbeat.rules import REIGNING
from heartbeat.state import SPACING, Takeover

#: this server looks at the time so often (keepalives), while something may be about to be decided and while all is calm; less
#: often than each keepalive would count as a pause
LOOK, CALM_LOOK = 0.25, 0.75
#: what is new in a report of ha_manager when it changes; signs of service matter only once the peer is silent
_told = attrgetter(*(f.name for f in fields(Facts) if f.name not in {"sign_age", "sign"}))


class Core(Passive):
    """One server's part in the election."""

    def deadline(self) -> float | None:
        """Boottime at which ``handle(Tick(), …)`` must be called at the latest."""
        if self.phase is Phase.LEFT:
            return None
        said = self._said_at + (SPACING if self._answer_now else self.timing.keepalive)
        if self._mute:
            said = inf
        vip_pings = self.arp.due if self.asks_arp else inf
        look = self.timing.keepalive * (CALM_LOOK if self.calm else LOOK)
        return min(said, self._ping_due, self.signs.due, vip_pings, self.now + look)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at boottime ``now``; return what to do about it, in order."""
        gap = self.members.advance(now)
        self.now = now
        if self.phase in SERVING and self.rules.lost_by_pause(gap):
            self._stand_down(f"this server did not run for {max(gap, now - self.lease_at) * 1000:.0f} ms: its lease is gone")
        if self._take(event):
            self._settle()
        out, self._out = self._out, []
        if any(isinstance(effect, TakeVip | Garp) for effect in out):
            self.arp.announced_at, self._announced_at = self.members.run, now
        if self.phase is Phase.LEFT and not self._gone:
            self._gone = True
            out.append(Exit())
        return out

    # --- events

    def _take(self, event: Event) -> bool:
        """False if no rule can have anything to say to it: a ping that just left, a heartbeat heard on another link already;
        and, while all is calm, a ping's answer, a report of ha_manager that says nothing new.
        """
        match event:
            case Tick():
                pass
            case Heard():
                return self._heard(event)
            case PingSent(node, seq):
                self.members.ping_sent(node, seq)
                self._was_calm, self.calm = self._was_calm or self.calm, False  # until it is answered
                return False
            case PingReply(node, seq):
                self.members.ping_reply(node, seq)
                self.calm = self._was_calm and self.members.all_answered()
                return not self._was_calm
            case Sign():
                self.signs.take(event)
                self.returns = self.returns and not self.rules.successor_seen()
            case ArpAnswer(seq):
                self.arp.answer(seq)
            case ArpUnusable(because):
                self.arp.refused = because
            case Fenced():
                self._fenced(event)
            case Granted():
                self._granted(event)
            case Persisted(serial):
                self._persisted(serial)
            case PersistFailed(serial, error):
                self._persist_failed(serial, error)
            case Facts():
                return self._facts(event)
            case ManagerLost(because):
                self.manager_lost = because
            case ForceStopped():
                if self.phase is Phase.STANDING_DOWN:
                    self._let_go()
            case LinkChanged(link, up, carries_vip):
                if carries_vip:
                    self._vip_link(link, up)
            case Standby():
                self._asked_standby(event)
            case Activate():
                self._asked_activate(event)
            case Suspend():
                self._asked_suspend(event)
            case Leave():
                self._asked_leave(event)
            case Replication():
                self._configured(event)
        return True

    def _vip_link(self, interface: str, up: bool) -> None:
        if not up:
            self.vip_links_down.add(interface)
            return
        self.vip_links_down.discard(interface)
        self.arp.announced_at = self.members.run  # by the edge, as after every link that comes up

    def _heard(self, event: Heard) -> bool:
        before, silent = self.members.peer, self.members.silent_for()
        if not self.members.heard(event.link, event.message):
            return False
        m = event.message
        self.highest = max(self.highest, m.epoch.number, m.highest)
        # called in sync in this database's own epoch: what was announced above it never came to be
        called = m.calls_in_sync >= 0 and m.epoch == self.disk.epoch
        self.heard_epoch = 0 if called else max(self.heard_epoch, m.epoch.number, m.highest)
        succeeds = m.phase is Phase.OPENING and self.disk.stood_down
        asked = (m.asks_release or m.asks_ping or succeeds) and self.phase not in SERVING
        if before is None or before.boot != m.boot or asked:
            self._answer_now = True
        self._keep_step()
        if m.phase in REIGNING and not m.stood_down:
            self._heard_reigning_at = self.members.run
        self._note_successor(before, m)
        if m.stood_down and (before is None or not before.stood_down or before.epoch != m.epoch):
            self.stood_down_run = self.members.run
            self._pinged_at = -inf  # rule 2 wants a ping answered since: don't wait for the next one
        if m.in_sync and m.epoch == self.disk.epoch:
            self.peer_was_in_sync = True
        if (m.phase in REIGNING or m.stood_down) and m.epoch == self.disk.epoch and m.lsn >= 0:
            self.active_lsn, self.active_heard_run = m.lsn, self.members.run
        let_go = m.stood_down and m.epoch == self.disk.epoch
        if m.lsn >= 0 or not let_go or before is None or before.boot != m.boot:
            self.let_go_lsn = m.lsn if let_go else -1
        if silent >= self.timing.deadtime and self.phase is Phase.ACTIVE:
            self._out.append(Garp())  # what was cut may not have heard who holds the VIP
        if m.phase in SERVING or m.leaving:
            self._peer_was_asked = m.phase is Phase.PREPARING or bool(m.leaving)
        self.restraint.heard(m.changes, self.now)
        newest = self._newest()
        # said to both while they were apart: suspended wins, and shows in both alarms
        if (m.suspend_version, m.suspended) > (newest.suspend_version, newest.suspended):
            self._save(replace(self._newest(), suspended=m.suspended, suspend_version=m.suspend_version))
            if not m.suspended:
                self._forgive()
        return True

    def _note_successor(self, before: Message | None, m: Message) -> None:
        """Whoever let go doesn't come back while the other one goes on; one that announced itself and gave up did not."""
        if m.phase in REIGNING or m.epoch.number > self.disk.epoch.number:
            self.overtaken = m.phase is Phase.OPENING and (self.returns or self.overtaken)
            self.returns = False
        elif self.overtaken and m.phase is Phase.PASSIVE and before is not None and before.boot == m.boot:
            self.overtaken, self.returns, self.gave_up_run = False, True, self.members.run

    def _facts(self, facts: Facts) -> bool:
        nothing_new = self.calm and not self.manager_lost and _told(facts) == _told(self.facts)
        self.manager_lost = ""
        if facts.peer_stood_down != self.facts.peer_stood_down:
            self.stood_down_run = self.members.run
            self._pinged_at = -inf
        self.facts, self.facts_at = facts, self.now
        self.highest = max(self.highest, facts.peer_epoch.number)
        if facts.peer_epoch.number > self.disk.epoch.number:
            self.returns = self.overtaken = False
        self.unhealthy_since = inf if facts.healthy else min(self.unhealthy_since, self.now)
        if self.disk.tentative and not self.saving and self.phase in {Phase.WAITING, Phase.PASSIVE} and facts.timeline > 0:
            self._resolve_tentative()
        if nothing_new and self._lease_due:
            self._refresh_lease()  # as the rules would: what they ask has not changed since they did
        return not nothing_new

    # --- what holds at every moment

    def _settle(self) -> None:
        for _ in range(4):
            before = self.phase
            self._rules_of_phase()
            if self.phase is before:
                break
        self._pass_time()
        self._forget_failures()
        self._look_around()
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
            case Phase.OPENING:
                self._reigning()
                if self.phase is Phase.OPENING:
                    self._opening()
            case Phase.PROMOTING | Phase.ACTIVE | Phase.PREPARING:
                self._reigning()
            case Phase.STANDING_DOWN:
                self._standing_down()
            case Phase.LEFT:
                pass
        if self.leaving and self.phase is not Phase.LEFT:
            self._go_on_leaving()

    def _pass_time(self) -> None:
        """Rule 12's window; a count that ran out is also taken from the disk, so that a restart doesn't bring it back."""
        self.restraint.pass_time(self.now)
        settled = self.phase in {Phase.ACTIVE, Phase.PASSIVE} and not self.saving and self.now >= self._save_wait
        if self.disk.changes and settled and not self.restraint.count(self.now):
            self._save(replace(self.disk, changes=0))

    def _notice(self) -> None:
        raised = report.alarms(self)
        for name in [name for name in self.alarms if name not in raised and name != "disk"]:
            self._alarm(name, "")
        for name, text in raised.items():
            self._alarm(name, text)

    # --- what operators ask

    def _asked_standby(self, event: Standby) -> None:
        p = self.members.peer
        if self.phase is not Phase.ACTIVE:
            self._reply(False, f"this server is {self.phase}; only the active can hand over")
        elif event.by == self.site.peer:
            self._asked_by_peer()
        elif event.force or (p and p.fit and self.members.in_contact() and p.phase is Phase.PASSIVE and not self.disk.solo):
            if (suspended := report.why_suspended(self)) and not event.force:
                self._reply(False, suspended)
                return
            self._reply(True, f"handing over to {self.site.peer}")
            self.forced = f"forced by {event.by}" if event.force else ""
            self.takeover = Takeover(f"planned failover, asked by {event.by}")
            self._become(Phase.PREPARING, self.takeover.because)
        else:
            self._reply(False, f"{self.site.peer} can't take over: {report.why_peer_unfit(self)}")

    def _asked_by_peer(self) -> None:
        """Rule 1: the peer can't hear our heartbeats but reached our ha_manager."""
        if self.rules.restrained():
            self._reply(False, report.why_suspended(self))
        elif self.members.silent_for() >= self.timing.warntime and not self.disk.solo and not self.saving:
            self._reply(True, "standing down: the peer hears no heartbeat from here")
            because = "the peer hears no heartbeat from here and asked over the session"
            self._stand_down(because, Stop.FAST if self.disk.lax else Stop.IMMEDIATE)
        else:
            self._reply(False, "the peer is heard here, or could not take over")

    def _asked_activate(self, event: Activate) -> None:
        p = self.members.peer
        if self.phase is Phase.ACTIVE and not self.disk.solo:
            self._asked_to_go_on_alone(event)
        elif self.phase not in {Phase.PASSIVE, Phase.WAITING, Phase.DETACHING}:
            more = " already" if self.phase is Phase.ACTIVE else "; `ha explain` says what comes next"
            self._reply(False, f"this server is {self.phase}{more}")
        elif p and p.phase in SERVING and self.members.in_contact():
            self._reply(False, f"{p.node} is active and heard; use `ha failover` there")
        elif not event.force:
            self._reply(False, report.what_activation_risks(self))
        else:
            self._reply(True, "taking over without the peer")
            self.forced = f"forced by {event.by} although the peer could not be asked"
            if self.phase is Phase.WAITING:
                self._become(Phase.PASSIVE, self.forced)
            elif self.phase is Phase.DETACHING:
                # waits for a fence agent or for witnesses: from now on for nobody
                self.takeover, self.attempt = Takeover(self.forced, str, asked=True), None

    def _asked_to_go_on_alone(self, event: Activate) -> None:
        """Where silence isn't enough (solo=release, a fence that fails, no witnesses), an operator may know more."""
        peer = self.site.peer
        if self.members.in_contact():
            self._reply(
                False, f"this server is active already, and {peer} is heard; if {peer} fails, this one goes on by itself"
            )
        elif self.saving:
            self._reply(False, "a change of state is being written to disk: say it again")
        elif not event.force:
            risk = (
                f"if that one has taken over, what one of the two acknowledges from now on is lost; if {peer} is certainly off"
            )
            self._reply(False, f"this server is active, and its commits wait for {peer}; {risk}: `ha activate --force`")
        else:
            self._reply(True, f"going on without {peer}")
            self._go_solo(f"forced by {event.by} although {peer} could not be asked")

    def _asked_suspend(self, event: Suspend) -> None:
        newest = self._newest()
        version = newest.suspend_version + 1
        word = "suspended" if event.suspended else "resumed"
        self._save(replace(newest, suspended=event.suspended, suspend_version=version))
        if not event.suspended:
            self._forgive()
        self._reply(True, f"automatic changes are {word}, here and on {self.site.peer} as soon as it hears of it")

    def _configured(self, new: Replication) -> None:
        """Rule 6 as it is configured now; what follows from it is done in order (``Active._keep_mode``), what the peer thinks
        of it is heard."""
        old = self.site
        self.site = replace(old, synchronous=new.synchronous, solo=new.solo, maximum_lag=new.maximum_lag)
        if self.site != old:
            self.configured_at = self.now
            self._note(f"configured anew: {report.configured(self.site)}")

    def _forgive(self) -> None:
        """`ha resume` also ends a suspension after flapping."""
        self.restraint.forgive()
        if self._newest().changes:
            self._save(replace(self._newest(), changes=0))

    def _asked_leave(self, event: Leave) -> None:
        self.leaving, self._leave_since = event.kind, self.now
        if event.kind == "restart":
            self._reply(True, "restarting within the lease")
            self._become(Phase.LEFT, f"restart asked by {event.by}")
            return
        self._reply(True, f"leaving ({event.kind}), asked by {event.by}")
        if event.kind == "handover" and self.phase in SERVING | {Phase.RESUMING}:
            self._stand_down(f"heartbeat is being stopped by {event.by}", Stop.FAST)
        elif event.kind == "off" and self.phase is Phase.PREPARING:
            self._end_preparing("high availability is being turned off here")

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
        elif self.phase is Phase.ACTIVE and self.leaving == "off" and not self.saving:
            # one that is not heard, and may not be left alone by silence, can't be told: the operator was warned
            unheard = not self.members.in_contact() and waited > self.rules.solo() + 2 * self.timing.deadtime
            if self.disk.solo or unheard:
                self._out.append(DropVip())
                self._leave_now("" if self.disk.solo else f", {self.site.peer} could not be told")

    def _leave_now(self, untold: str = "") -> None:
        because = f"heartbeat was stopped ({self.leaving}{untold})"
        self._become(Phase.LEFT, because)
        self._send()

    # --- for people

    def status(self, now: float) -> dict[str, object]:
        """Plain data for the control socket (docs/protocols.md)."""
        return report.status(self, now)

    def explain(self, now: float) -> list[str]:
        """Sentences: why this server is what it is, and what would happen, and be lost, if one of the two died now."""
        return explanation.explain(self)
