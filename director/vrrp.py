"""Who is master of a virtual router: the state machine of one node.

Promise: ``handle(event, now)`` returns what to do, in order; ``deadline()`` says when to call again at the latest. One door
changes the state (``_become``), with a sentence that reaches log, status and traces. What doesn't fit with our configuration
moves nothing (``discord``). A node of priority 0, or one that can't serve, is never master.

    INITIALIZE ──priority 255──► MASTER ◄──silence; successor of a master that stops──┐
        │                          │                                                  │
        └──────priority 1..254─────┼──higher priority, or equal and higher address──► BACKUP
                                   │                                                  │
                     FAULT ◄───────┴──no link, or what is tracked failed──────────────┘    (and back to BACKUP)
                  SCANNING: priority 0               STOPPED: a clean stop, which a master says with priority 0

Sources: RFC 3768 §6, RFC 5798 §6, RFC 9568 §6. Beyond them, as the reference and keepalived do: priority 0 as a setting,
preempt delay, priorities lowered by what is tracked, and a designated successor, which takes over without the skew.
A mutant of the simulator overrides one of the predicates: skew, accepts, outranked, may_serve, succeeds, lapsed.
"""

from __future__ import annotations

from math import inf

from director.discord import Discord, judge
from director.model import (
    Advertisement,
    Alarm,
    Announce,
    Became,
    Configured,
    Designated,
    Drop,
    DropAddresses,
    Effect,
    Event,
    Heard,
    Instance,
    Leave,
    Link,
    Say,
    SendAdvert,
    Start,
    State,
    TakeAddresses,
    Tick,
    Weighed,
    rank,
)
from director.settings import OWNER, SCANNING

#: a master that somebody contradicts answers at most so often (a part of its interval), and announces itself so often (seconds)
_REPLY, _ANNOUNCE = 0.1, 1.0
#: a lower master is an alarm if it is still there after so many intervals
_PATIENCE = 2.5


class Router:
    """One node's part in one virtual router."""

    def __init__(self, instance: Instance, now: float) -> None:
        self.instance = instance
        self.state = State.INITIALIZE
        self.because = "just started"
        self.since = now
        self.designated = False
        #: whoever is master, as far as this node knows; ``master_priority`` -1: none is known
        self.master = ""
        self.master_priority = -1
        self._master_advert = instance.advert  # Master_Adver_Interval
        self._link = Link(True)
        self._weighed = Weighed()
        self._down_at = inf
        self._advert_at = inf
        self._sent_at = -inf
        self._announced_at = -inf
        self._preempt_at: float | None = None
        self._forcing = ""  # the lower master that isn't respected
        self._rival: tuple[str, float, float] | None = None  # a lower master: its address, since when, until when
        self._rival_told = False
        self._lapsed = False
        self._now = now
        self._discord = Discord()
        self._out: list[Effect] = []

    # --- what others may ask

    @property
    def priority(self) -> int:
        """In force; 0: this node is not master, nor becomes it."""
        if not self.may_serve():
            return SCANNING
        return max(1, self.instance.priority - self._weighed.lowered)

    def deadline(self) -> float | None:
        """When ``handle(Tick(), …)`` must be called at the latest."""
        if self.state is State.STOPPED:
            return None
        rival = self._rival[2] if self._rival else inf
        due = min(self._down_at, self._advert_at, self._discord.due, rival)
        return None if due == inf else due

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at boottime ``now``; return what to do about it, in order."""
        if self.state is State.MASTER and self.lapsed(now - self._now):
            self._lapsed = True
        self._now = now
        if self.state is not State.STOPPED:
            self._take(event)
        out, self._out = self._out, []
        return out

    # --- predicates: the rules, one each

    def skew(self) -> float:
        """Seconds that the highest priority is ahead of ours (RFC 3768 §6.1: of a second; RFC 5798: of the interval)."""
        unit = 1.0 if self.instance.version == 2 else self._master_advert
        return (256 - self.priority) / 256 * unit

    def master_down(self) -> float:
        """Seconds of silence after which the master counts as gone."""
        return 3 * self._master_advert + self.skew()

    def may_serve(self) -> bool:
        return self.instance.priority > SCANNING and self._link.up and not self._weighed.barred

    def preempts(self) -> bool:
        return self.instance.preempt or self.instance.priority == OWNER

    def accepts(self, advert: Advertisement) -> bool:
        """A backup takes this node for its master."""
        if advert.priority >= self.priority or not self.preempts():
            return True
        return self._preempt_at is None or self._now < self._preempt_at

    def outranked(self, advert: Advertisement) -> bool:
        """A master gives way."""
        if advert.priority != self.priority:
            return advert.priority > self.priority
        return rank(advert.source) > rank(self.instance.own)

    def succeeds(self, advert: Advertisement) -> bool:
        """The master that stops had named this node."""
        return self.designated and advert.source == self.master

    def lapsed(self, gap: float) -> bool:
        """This process did not run for so long that another one has become master."""
        return gap > self.master_down()

    # --- events

    def _take(self, event: Event) -> None:
        match event:
            case Tick():
                self._tick()
            case Heard(advert):
                self._heard(advert)
            case Start():
                self._enter("started")
            case Link():
                self._link = event
                self._serve_or_not(event.because)
            case Weighed():
                self._weigh(event)
            case Designated(successor):
                self.designated = successor
            case Configured(instance):
                self._configure(instance)
            case Leave(because):
                self._leave(because)

    def _tick(self) -> None:
        self._out += self._discord.expired(self._now)
        if self._rival and self._now >= self._rival[2]:
            self._rival_gone()
        if self._now >= self._down_at and self.state is State.BACKUP:
            silence = f"{self.master} is silent" if self.master else "nobody else advertises"
            self._become(State.MASTER, self._forcing or silence)
        elif self._now >= self._advert_at:
            self._advertise()
        self._lapsed = False

    def _heard(self, advert: Advertisement) -> None:
        if advert.vrid != self.instance.vrid or advert.source == self.instance.own:
            return
        trouble = judge(advert, self.instance)
        self._out += self._discord.heard(advert.source, trouble, advert.interval, self._now)
        if trouble is not None and not trouble.counts:
            self._out.append(Drop(trouble.kind))
            return
        if self.state is State.MASTER:
            self._heard_as_master(advert)
        elif self.state in (State.BACKUP, State.SCANNING, State.FAULT):
            self._heard_as_backup(advert)

    def _heard_as_backup(self, advert: Advertisement) -> None:
        if advert.priority == 0:
            self._master_leaves(advert)
            return
        if advert.priority >= self.priority or not self.preempts():
            self._preempt_at, self._forcing = None, ""
        elif self._preempt_at is None:
            self._preempt_at = self._now + self.instance.preempt_delay
        if not self.accepts(advert):
            said = f"{advert.source} has priority {advert.priority}"
            if not self._forcing:
                self._out.append(Say(f"forcing a new MASTER election: {said}"))
            self._forcing = said
            return
        self._follow(advert)

    def _heard_as_master(self, advert: Advertisement) -> None:
        if advert.priority == 0:
            self._advertise()
        elif self.outranked(advert) or (self._lapsed and not self.preempts()):
            self._out.append(Say(f"Received higher prio advert: {advert.priority} of {advert.source}"))
            self._become(State.BACKUP, f"{advert.source} has priority {advert.priority}")
            self._follow(advert)
        else:
            self._contradict(advert)

    def _master_leaves(self, advert: Advertisement) -> None:
        if self.state is not State.BACKUP:
            self.master, self.master_priority = "", -1
        elif self.succeeds(advert):
            self._become(State.MASTER, f"{advert.source} stops, and this node is its designated successor")
        elif self.master in ("", advert.source):
            self._down_at = min(self._down_at, self._now + self.skew())

    def _follow(self, advert: Advertisement) -> None:
        self.master, self.master_priority = advert.source, advert.priority
        if self.instance.version == 3:
            self._master_advert = advert.interval
        if self.state is State.BACKUP:
            self._down_at = self._now + self.master_down()

    def _contradict(self, advert: Advertisement) -> None:
        """A lower master: it may not have heard us yet, or never does."""
        if self._now - self._sent_at >= _REPLY * self.instance.advert:
            self._advertise()
        if self._now - self._announced_at >= _ANNOUNCE:
            self._announce()
        longest = max(advert.interval, self.instance.advert)
        since = self._rival[1] if self._rival and self._rival[0] == advert.source else self._now
        self._rival = (advert.source, since, self._now + 3 * longest + 1)
        if self._now - since > _PATIENCE * longest and not self._rival_told:
            self._rival_told = True
            said = f"{advert.source} is a second master of virtual router {self.instance.name}, with priority {advert.priority}"
            self._out.append(Alarm("second-master", said))

    def _rival_gone(self) -> None:
        self._rival = None
        if self._rival_told:
            self._rival_told = False
            self._out.append(Alarm("second-master", ""))

    # --- what this node is and may be

    def _enter(self, because: str) -> None:
        """A first state, or a new one after a fault."""
        if self.instance.priority == SCANNING:
            self._become(State.SCANNING, "priority 0")
        elif not self.may_serve():
            self._become(State.FAULT, self._weighed.barred or self._link.because)
        elif self.instance.priority == OWNER:
            self._become(State.MASTER, "owner of the addresses")
        else:
            self._become(State.BACKUP, because)

    def _serve_or_not(self, because: str) -> None:
        serves = self.state in (State.MASTER, State.BACKUP)
        if self.state is not State.INITIALIZE and serves != self.may_serve():
            self._enter(because)

    def _weigh(self, weighed: Weighed) -> None:
        before, self._weighed = self.priority, weighed
        self._serve_or_not(weighed.barred or "what is tracked is well again")
        if self.priority != before:
            self._out.append(Say(f"Changing effective priority from {before} to {self.priority}"))
            if self.state is State.MASTER:
                self._advertise()

    def _configure(self, instance: Instance) -> None:
        before, self.instance = self.instance, instance
        if self.state is State.INITIALIZE:
            return
        if before.version == 2:
            self._master_advert = instance.advert
        if (before.priority == SCANNING) != (instance.priority == SCANNING):
            self._enter("configured anew")
        elif self.state is State.MASTER:
            if before.addresses != instance.addresses:
                self._out.append(TakeAddresses())
                self._announce()
            self._advertise()
        elif self.state is State.BACKUP:
            self._down_at = self._now + self.master_down()

    def _leave(self, because: str) -> None:
        self._become(State.STOPPED, because)

    # --- the one door

    def _become(self, state: State, because: str) -> None:
        previous, self.state = self.state, state
        if state is previous:
            return
        self.because, self.since = because, self._now
        self._down_at = self._advert_at = inf
        self._preempt_at, self._forcing, self._lapsed = None, "", False
        if previous is State.MASTER:
            if state is not State.BACKUP:
                self._out.append(SendAdvert(0))  # first: an address that two have for a moment loses no packet
            self._out.append(DropAddresses())
            self.master, self.master_priority = "", -1
            self._rival_gone()
        if state is State.MASTER:
            self._master_advert = self.instance.advert
            self._out.append(TakeAddresses())
            self._announce()
            self._advertise()
            self.master, self.master_priority = self.instance.own, self.priority
        elif state is State.BACKUP:
            self._down_at = self._now + self.master_down()
        self._out.append(Became(state, previous, because))

    def _advertise(self) -> None:
        self._out.append(SendAdvert(self.priority))
        self._sent_at = self._now
        late = self._now - self._advert_at
        on_time = 0 <= late < self.instance.advert / 2  # keep the beat, unless it is lost
        self._advert_at = (self._advert_at if on_time else self._now) + self.instance.advert
        self.master_priority = self.priority

    def _announce(self) -> None:
        self._announced_at = self._now
        self._out.append(Announce())
