"""What one server of the pair knows, and the few ways in which that may change.

Promise: one door changes the phase (``_become``); one way leads to the disk (``_save``), and what is to happen after a record
is on disk is named together with it; one function says what ha_manager is to make so (``_wanted``). Nothing is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from heartbeat import speech
from heartbeat.arpcheck import ArpCheck
from heartbeat.membership import Membership
from heartbeat.model import (
    SERVING,
    Alarm,
    Boot,
    Database,
    DropVip,
    Effect,
    Epoch,
    Facts,
    Gate,
    Message,
    Names,
    Persist,
    Phase,
    Ping,
    PingFromVip,
    Probe,
    Record,
    Reply,
    Resume,
    Role,
    RoleChanged,
    Send,
    Site,
    Stop,
    Times,
    Want,
)
from heartbeat.restraint import Restraint
from heartbeat.rules import Rules
from heartbeat.signs import Signs
from heartbeat.timing import Timing

#: alarms that change their words with whatever was heard last: told when they begin and end
WAVERING = frozenset({"held"})
#: least time between two messages that are not announcements (seconds): two servers that answer each other never flood
SPACING = 0.004
#: what a calm pair's heartbeats may differ by to be brought into step (keepalives)
STEP = 0.125

#: phases of the two in which nothing is about to change
_STEADY = {(Phase.ACTIVE, Phase.PASSIVE), (Phase.PASSIVE, Phase.ACTIVE)}


#: what makes one ``Want`` differ from another: phase, epoch, Postgres, names, stop, prepare, follow, ask_stand_down,
#: yielded
Level = tuple[Phase, Epoch, Database, Names, Stop, bool, Epoch, str, Epoch]


def _words(text: str) -> str:
    return re.sub(r"\d+", "", text)


@dataclass
class Attempt:
    """What a decision by silence asked for (``backing``); times are boottime."""

    fence_asked: float = inf
    fenced: bool = False
    #: the epoch asked for, when, and the one granted
    asked: Epoch = Epoch()
    asked_at: float = inf
    granted: Epoch = Epoch()
    #: why this attempt can't succeed any more
    failed: str = ""


@dataclass
class Takeover:
    """The takeover (or planned failover) under way, or the last one."""

    because: str = ""
    #: what stands against it, "" if nothing; asked once more before there is no way back
    against: Callable[[], str] = str
    #: it rests on silence, not on a word of the peer: it needs what ``backing`` asks for
    by_silence: bool = False
    #: it rests on the word "stood down"; the first message in which this server announced its epoch
    on_word: bool = False
    announced_seq: int = 0
    #: an operator asked for it, here or there: it doesn't count as flapping
    asked: bool = False
    #: running clock: when it took the VIP
    vip_taken_run: float = inf


class Server:
    """State of one server. Attributes are for ``rules``, ``report`` and ``speech`` to read; only its subclasses write them."""

    def __init__(
        self, site: Site, timing: Timing, boot: Boot, record: Record, resume: Resume, now: float, rules: type[Rules] = Rules
    ) -> None:
        self.site = site
        self.timing = timing
        self.times = Times(round(timing.deadtime, 3), round(timing.stale, 3), round(timing.solo, 3))
        self.boot = boot
        self.disk = record
        self.resume = resume
        self.now = now
        self.members = Membership(site, timing, boot, now)
        self.signs = Signs(self.members)
        self.arp = ArpCheck(self.members)
        self.restraint = Restraint(site, record.changes, now)
        self.started_run = self.members.run
        self.phase = Phase.WAITING
        self.because = "heartbeat has just started"
        self.phase_since = now
        #: the first message that could say that this server became passive, the last time that it did
        self.passive_seq = 1
        self.highest = record.epoch.number
        #: the highest epoch heard since an active last called this node in sync in the epoch of this node's own database
        self.heard_epoch = 0
        #: the epoch being opened by a takeover or by going solo
        self.opening = Epoch()
        #: records on their way to the disk: serial -> (record, what to do then)
        self.saves: dict[int, tuple[Record, Callable[[], None] | None]] = {}
        self._serial = 0
        # ha_manager
        self.facts = Facts()
        self.facts_at = now
        self.manager_lost = "it has not reported yet"
        self.unhealthy_since = inf
        nothing = (False, Epoch(), "", Epoch())
        self._level: Level = (Phase.WAITING, record.epoch, Database.KEEP, Names.RELAXED, Stop.IMMEDIATE, *nothing)
        self.want = Want(0, *self._level)
        # what is said
        self.seq = 0
        self._said_at = -inf
        self.said: Message | None = None
        self.word: speech.Word | None = None
        self._answer_now = False
        self._in_step = False
        self._pinged_at = -inf
        #: as of the last event; see ``_is_calm``
        self.calm = False
        #: nothing but pings has happened since it was
        self._was_calm = False
        self._ping_seq = 0
        # standing questions: the seq of the first message that asked; 0: not asking
        self.ask_release_seq = 0
        self._release_because = ""
        self.ask_ping_seq = 0
        #: running clock: when the passive confirmed a later ping; inf: not yet
        self._confirmed_run = inf
        self.called_seq = 0
        self.peer_was_in_sync = False
        self.stood_down_run = inf
        #: this run let go for a passive that answered, and nothing has shown since that that one goes on (``may_return``)
        self.returns = False
        #: it would still hold, had that one not announced that it goes on
        self.overtaken = False
        #: running clock: when it was heard to have given that up
        self.gave_up_run = -inf
        #: running clock: when this run began to stand down last
        self.stands_down_run = inf
        #: of the last want that said to stop Postgres
        self.stop_serial = 0
        self.pledged_to = Boot()
        #: the first message without a pledge that was taken back; 0: none was
        self._withdrawn_seq = 0
        self.lease_at = now
        #: interfaces of virtual addresses without a link
        self.vip_links_down: set[str] = set()
        self.leaving = ""
        self.forced = ""
        self.takeover = Takeover()
        self.attempt: Attempt | None = None
        self._attempt_wait = -inf
        #: why the peer could not be fenced, why the witnesses refused; "" if they didn't
        self.unfenced = self.refused = ""
        self._announced_at = self._writing_since = -inf
        #: where the active of the epoch of this server's data was when last heard (-1: not yet), on the running clock
        self.active_lsn, self.active_heard_run = -1, -inf
        #: where its log ends, as it said since it stood down; -1: not yet, or it doesn't say so any more
        self.let_go_lsn = -1
        #: boottime: since when the passive lacks more than it may, where commits don't wait for it; inf: it doesn't
        self.lagging_since = inf
        #: boottime: when rule 6 was configured anew
        self.configured_at = now
        #: the peer is handing over because somebody asked it to
        self._peer_was_asked = False
        self._stop = Stop.IMMEDIATE
        self._proving_since = inf
        self._proof_wait = -inf
        #: the first message that a rival could hear, and (running clock) since when it is one; 0: there is none
        self.rival_seq, self.rival_run = 0, -inf
        #: it was ahead of this server, and has not been heard to know of it since
        self.outdone = False
        #: the epoch of a rival that has let go in this server's reign
        self.yielded = Epoch()
        self._heard_reigning_at = -inf
        self._leave_since = inf
        self._gone = False
        #: the first message that said "stood down"; a leaving active waits for its echo
        self._word_seq = 0
        self._forced_at = -inf
        self._save_wait = -inf
        #: a takeover that was given up is not begun again before then
        self._takeover_wait = -inf
        #: the disk fails while standing down: silence is the only way left to let the peer take over
        self._mute = False
        self.alarms: dict[str, str] = {}
        self._out: list[Effect] = []
        self._gate_open = False
        self.rules = rules(self)
        if record.active and resume.epoch == record.epoch and now < resume.expires:
            self.phase, self.because = Phase.RESUMING, "heartbeat was restarted within its lease"
        else:
            self._let_go_of_vip()

    @property
    def role(self) -> Role:
        return Role.ACTIVE if self.phase in SERVING else Role.PASSIVE

    @property
    def silent(self) -> bool:
        """The peer has not been heard for warntime."""
        return self.members.silent_for() >= self.timing.warntime

    @property
    def saving(self) -> bool:
        return bool(self.saves)

    @property
    def saving_solo(self) -> bool:
        return any(record.solo for record, _ in self.saves.values())

    # --- the disk

    def _newest(self) -> Record:
        return next(reversed(self.saves.values()))[0] if self.saves else self.disk

    def _save(self, record: Record, then: Callable[[], None] | None = None) -> None:
        self._serial += 1
        self.saves[self._serial] = (record, then)
        self._out.append(Persist(self._serial, record))

    def _persisted(self, serial: int) -> None:
        if serial not in self.saves:
            raise ValueError(f"no record {serial} was given to the disk")
        for older in [s for s in self.saves if s < serial]:
            del self.saves[older]
        self.disk, then = self.saves.pop(serial)
        self._mute = False
        self._alarm("disk", "")
        self.highest = max(self.highest, self.disk.epoch.number)
        if then:
            then()

    def _persist_failed(self, serial: int, error: str) -> None:
        record, _ = self.saves.pop(serial, (None, None))
        self._alarm("disk", f"the state of the pair can't be written: {error}")
        self._save_wait = self._takeover_wait = self.now + self.timing.deadtime
        if record is not None and self.phase is Phase.OPENING:
            self._let_go_of_vip()
            self._become(Phase.PASSIVE, f"the takeover was given up: the new epoch can't be written ({error})")
        if self.phase is Phase.STANDING_DOWN:
            self._mute, self.returns, self.overtaken = True, False, False
        self.opening = Epoch()

    # --- the one door

    def _become(self, phase: Phase, because: str) -> None:
        if phase is self.phase:
            return
        self._out.append(RoleChanged(self.phase, phase, self.disk.epoch, because))
        self.phase, self.because, self.phase_since = phase, because, self.now
        if phase is Phase.PASSIVE:
            self.passive_seq = self.seq + 1

    def _reset_reign(self) -> None:
        """A new epoch begins: what was asked and proven in the last one is void."""
        self.ask_release_seq = self.ask_ping_seq = self.called_seq = 0
        self.peer_was_in_sync = False
        self._proving_since, self._proof_wait = inf, -inf
        self.lagging_since = inf
        self.yielded = Epoch()

    def _stand_down(self, because: str, stop: Stop = Stop.IMMEDIATE, returns: bool = False) -> None:
        """Rules 3, 4, 5, 8: VIP, client port, Postgres, disk, and only then the word; ``returns``: to one that answered."""
        self._stop, self.returns, self.overtaken, self.stands_down_run = stop, returns, False, self.members.run
        self.forced = ""
        self.opening = Epoch()
        self.ask_release_seq = self.ask_ping_seq = 0
        self._let_go_of_vip()
        self._become(Phase.STANDING_DOWN, because)

    def _gate(self, is_open: bool) -> None:
        """The port of Postgres at the virtual addresses."""
        if is_open != self._gate_open:
            self._gate_open = is_open
            self._out.append(Gate(is_open))

    def _let_go_of_vip(self) -> None:
        self._gate_open = False
        self._out += [Gate(False), DropVip()]

    # --- what ha_manager is to make so

    def _say_what_is_wanted(self) -> None:
        level = self._wanted()
        if level != self._level:
            self._level = level
            self.want = Want(self.want.serial + 1, *level, because=self.because)
            if self.want.postgres is Database.STOPPED:
                self.stop_serial = self.want.serial
            self._out.append(self.want)

    def _wanted(self) -> Level:
        p = self.members.peer
        epoch, names, follow, ask = self.disk.epoch, Names.RELAXED, Epoch(), ""
        match self.phase:
            case Phase.WAITING | Phase.RESUMING | Phase.LEFT:
                postgres = Database.KEEP
            case Phase.PASSIVE:
                postgres = Database.STANDBY
                if p and self.rules.may_follow(p):
                    follow = p.epoch
                if self.rules.asks_stand_down():
                    ask = "no heartbeat is heard on any link, but it still serves"
            case Phase.DETACHING | Phase.OPENING:
                postgres = Database.DETACHED
            case Phase.STANDING_DOWN:
                postgres = Database.STOPPED
            case _:
                postgres = Database.PRIMARY
                waits = not self.disk.solo and not (self.disk.lax and self.rules.passive_knows())
                names = Names.ENFORCED if waits or self._proving_since < inf else Names.RELAXED
        prepare = self.phase is Phase.PREPARING
        stop = self._stop if postgres is Database.STOPPED else Stop.IMMEDIATE
        yielded = self.yielded if postgres is Database.PRIMARY else Epoch()
        return self.phase, epoch, postgres, names, stop, prepare, follow, ask, yielded

    def _wanted_holds(self, postgres: Database) -> bool:
        return self.want.postgres is postgres and self.facts.serial >= self.want.serial > 0

    # --- what is said

    def _reply(self, ok: bool, text: str) -> None:
        self._out.append(Reply(ok, text))

    def _alarm(self, name: str, text: str) -> None:
        """Raised, reworded, or over. Other figures in the same words are not told again; status shows them."""
        known = self.alarms.get(name, "")
        if text == known:
            return
        if not text:
            self._out.append(Alarm(name, False, self.alarms.pop(name)))
            return
        self.alarms[name] = text
        if not known or (name not in WAVERING and _words(known) != _words(text)):
            self._out.append(Alarm(name, True, text))

    @property
    def asks_arp(self) -> bool:
        """Pings from the VIP are due now and then: it is here, and the passive could take it."""
        return self.site.arp_check and self.phase in SERVING and not self.disk.solo

    def _is_calm(self) -> bool:
        """One is active and one is passive, they and every ping node answer, and no decision waits for another answer."""
        m, p = self.members, self.members.peer
        if p is None or (self.phase, p.phase) not in _STEADY or m.silent_for() >= self.timing.warntime:
            return False
        asking = self.ask_ping_seq or self.ask_release_seq or p.asks_ping or p.asks_release
        troubled = self.saving or self.leaving or self.facts.stalled or self.vip_links_down
        return not asking and not troubled and m.in_contact() and m.all_answered()

    @property
    def _ping_due(self) -> float:
        """Boottime of the next ping. One almost due goes out with what has to be done now, a calm one with a heartbeat."""
        if not self.site.ping_nodes:
            return inf
        return self._pinged_at + (self.timing.calm_ping_period if self.calm else self.timing.ping_period)

    def _look_around(self) -> None:
        """Ask whoever can tell: the ping nodes, the ping node's ARP table, and whatever shows whether a silent peer lives."""
        if self.phase is Phase.LEFT:
            return
        self.calm, self._was_calm = self._is_calm(), False
        almost = self._beat_due if self.calm else self.now >= self._ping_due - self.timing.ping_period / 4
        if self.site.ping_nodes and (almost or self.now >= self._ping_due):
            self._ping_seq += 1
            self._pinged_at = self.now
            self._out.append(Ping(self._ping_seq))
        if self.signs.wanted():
            self._out.append(Probe())
        if self.asks_arp and (seq := self.arp.next()):
            self._out.append(PingFromVip(seq))

    @property
    def _beat_due(self) -> bool:
        """The next heartbeat goes out at this moment, whether or not anything has changed."""
        return self._in_step or self.now - self._said_at >= self.timing.keepalive

    def _speak(self) -> None:
        if self.phase is Phase.LEFT or self._mute:
            return
        self._answer_now = self._answer_now or speech.changed(self)
        if self._beat_due or (self._answer_now and self.now - self._said_at >= SPACING):
            self._send()

    def _send(self) -> None:
        self.seq += 1
        self.word = speech.word(self)
        message = speech.message(self, self.word)
        self.members.sent(self.seq)
        self.said, self._said_at, self._answer_now, self._in_step = message, self._beat_at(), False, False
        if message.calls_in_sync >= 0:
            self.called_seq = self.seq
        self._word_seq = (self._word_seq or self.seq) if message.stood_down else 0
        self._out.append(Send(message))

    def _beat_at(self) -> float:
        """The moment that the next heartbeat is counted from. A calm passive keeps to its beat, however late it woke up; so the
        active, which is later by that, stays in step (``_keep_step``).
        """
        late = self.now - self._said_at - self.timing.keepalive
        steady = self.calm and self.phase is Phase.PASSIVE and 0 <= late < self.timing.keepalive * STEP
        return self._said_at + self.timing.keepalive if steady else self.now

    def _keep_step(self) -> None:
        """The passive was heard: a calm active speaks too, a little before its time, and has been woken up once for both."""
        if self.calm and self.phase is Phase.ACTIVE and self.now - self._said_at >= self.timing.keepalive * STEP:
            self._in_step = True

    @property
    def _lease_due(self) -> bool:
        """Twice a keepalive, and with every heartbeat, which tells the role for as long as the lease is good."""
        return self.phase in SERVING and (self._beat_due or self.now - self.lease_at >= self.timing.keepalive / 2)
