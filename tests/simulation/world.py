"""Everything together: two servers, networks, clients, faults and checks, played from one seed.

Promise: ``play`` with the same arguments gives the same result. A run begins with a pair in sync (or, ``cold``, with two
servers that have just been switched on) and ends when the pair has been in order for a while after the last fault, or
``RECOVERY`` later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import copysign
from typing import NamedTuple

from heartbeat.election import Core
from heartbeat.model import (
    ArpAnswer,
    Boot,
    Effect,
    Epoch,
    Event,
    Facts,
    Heard,
    Ping,
    PingFromVip,
    PingReply,
    PingSent,
    Probe,
    Record,
    RefreshLease,
    Resume,
    Send,
    Sign,
    Site,
    Tick,
)
from heartbeat.rules import Rules
from heartbeat.timing import PROFILES, Timing

from .backing import Backing
from .checks import RECOVERY, Checks
from .clients import LocalClient, VipClient
from .engine import Engine, Spin
from .faults import Fault, Schedule, begin
from .network import CLIENT, GATEWAY, LINKS, NODES, ONE_NODE, THREE_NODES, Network, other
from .postgres import PRIMARY, STANDBY
from .server import Server
from .trace import brief

LOOK = 0.05
#: of an asynchronous passive, in entries of the log
MAXIMUM_LAG = 20
#: a pair that was in sync has restarted its heartbeats by then; aimed faults wait so long (seconds)
ARMED = 1.0
#: events and effects too many for a trace
QUIET = (Tick, Heard, PingSent, PingReply, Facts, ArpAnswer, Sign)
OFTEN = (Send, Ping, Probe, PingFromVip, RefreshLease)
RECOMMENDED = PROFILES["recommended"]
#: the recommended times with fewer pings, which are most of the work
COARSE = replace(RECOMMENDED, ping_period=0.1, ping_dead=0.5)


@dataclass(frozen=True)
class Setting:
    """What is played besides the seed and the schedule."""

    solo: str = "silence"
    timing: Timing = COARSE
    #: B's, if it is configured differently
    other_timing: Timing | None = None
    cold: bool = False
    #: check safety also in a symmetric cut (for schedules in which the rules hold it all the same)
    strict: bool = False
    #: networks of the replication connection and of the session; None: the seed chooses
    links: tuple[str, str] | None = None
    #: ha_manager calls names proven as soon as they are applied, without having seen a commit wait for the standby
    hasty: bool = False
    #: what a decision by silence needs besides (``backing``): the ping node's ARP entry, a fenced peer, a majority of witnesses
    arp_check: bool = False
    fence: bool = False
    witnesses: int = 0
    #: how many ping nodes must answer; more than one: of three, one of which is a group
    ping_quorum: int = 1
    #: both servers begin with synchronous="off": commits don't wait for the passive (``checks``: what may be lost then)
    asynchronous: bool = False
    #: takeovers in ten minutes that suspend yields and planned failovers (rule 12)
    most_changes: int = 99
    #: nothing is left to chance: for transcripts
    middling: bool = False
    rules: type[Rules] = Rules
    core: type[Core] = Core


PLAIN = Setting()


class World:
    def __init__(self, seed: int, schedule: Schedule, setting: Setting = PLAIN, tracing: bool = False) -> None:
        self.engine = Engine(seed, setting.middling)
        self.setting = setting
        self.timings = {"A": setting.timing, "B": setting.other_timing or setting.timing}
        #: the slower one of the two counts on both
        self.timing = max(self.timings.values(), key=lambda timing: timing.deadtime)
        self.schedule = schedule
        self.tracing = tracing
        self.verbose = False
        self.lines: list[str] = []
        self._entries = 1
        self.held_down: Counter[tuple[str, str]] = Counter()
        self.network = Network(self.engine)
        chosen = (self.engine.random.choice(LINKS), self.engine.random.choice(LINKS))
        self.replication_link, self.session_link = setting.links or chosen
        # the clocks' rates differ by a per cent, half of the time, or by less
        drift = self.engine.between(-0.005, 0.005)
        if abs(drift) > 0.0025:
            drift = copysign(0.005, drift)
        self.ping_nodes = ONE_NODE if setting.ping_quorum == 1 else THREE_NODES
        self.checks = Checks(self)
        self.sites = {
            name: Site(
                name, other(name), "A", tuple(self.ping_nodes), LINKS, setting.solo,
                arp_check=setting.arp_check, fence=setting.fence, witnesses=setting.witnesses,
                most_changes=setting.most_changes, ping_quorum=setting.ping_quorum,
                synchronous=not setting.asynchronous, maximum_lag=MAXIMUM_LAG,
            )
            for name in NODES
        }  # fmt: skip
        #: both servers were configured asynchronous at some time in this run
        self.off_on_both = setting.asynchronous
        self.backing = Backing(self)
        self.servers = {"A": Server(self, "A", 1 + drift), "B": Server(self, "B", 1 - drift)}
        for name, server in self.servers.items():
            server.peer = self.servers[other(name)]
        self.faults_end = 0.0
        self.lasts_until(max((fault.at + fault.length for fault in schedule if not fault.when), default=0.0))
        #: aimed faults whose moment has not come
        self.aimed = [fault for fault in schedule if fault.when]
        if setting.cold:
            for server in self.servers.values():
                server.power_on()
        else:
            self._in_sync()
        self.clients = [VipClient(self), *(LocalClient(self, server) for server in self.servers.values())]
        for fault in schedule:
            if not fault.when:
                self.engine.after(fault.at, begin, self, fault)
        self.engine.after(LOOK, self._look)

    def lasts_until(self, end: float) -> None:
        """A fault is over then; the pair has its time to recover from the last one."""
        self.faults_end = max(self.faults_end, end)
        self.engine.until = self.faults_end + RECOVERY

    def make_core(self, site: Site, boot: Boot, record: Record, resume: Resume, now: float) -> Core:
        return self.setting.core(site, self.timings[site.node], boot, record, resume, now, self.setting.rules)

    def next_entry(self) -> int:
        self._entries += 1
        return self._entries

    def _in_sync(self) -> None:
        """A was active and B its passive a moment ago; both heartbeats restart now."""
        epoch = Epoch(1, "A")
        a, b = self.servers["A"], self.servers["B"]
        lax = self.setting.asynchronous
        a.disk.record, b.disk.record = Record(epoch, active=True, lax=lax), Record(epoch, in_sync=True, lax=lax)
        for server, mode in ((a, PRIMARY), (b, STANDBY)):
            server.alive = True
            server.postgres.mode = mode
            server.postgres.clean = False
        a.epoch_starts[epoch] = 1
        a.postgres.reign = self.next_entry()
        a.postgres.names_set = a.postgres.names_applied = None if lax else 1
        b.postgres.follow_active(1)
        a.vip = a.gate = True
        a.refresh_lease(epoch)
        for server in (a, b):
            server.heartbeat.start()
            server.manager.start()
            server.watch()
        self.network.arp.update({CLIENT: "A", GATEWAY: "A"})

    # --- trace ----------------------------------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        if self.tracing:
            self.lines.append(f"{self.engine.now:8.3f} {who:5} {text}")

    def note_fault(self, fault: Fault, over: bool = False) -> None:
        self.note("fault", f"{'over: ' if over else ''}{fault}")

    def note_step(self, who: str, event: Event, effects: list[Effect]) -> None:
        quiet = isinstance(event, QUIET)
        shown = [e for e in effects if self.verbose or not isinstance(e, OFTEN)]
        if shown or not quiet or self.verbose:
            self.note(who, f"{type(event).__name__ if quiet and not self.verbose else brief(event)}:")
            self.lines.extend(f"{'':14} → {brief(effect)}" for effect in shown)

    def aim(self, who: str, effects: list[Effect]) -> None:
        """Begin what is aimed at one of these effects; called just before they are carried out."""
        if self.engine.now < ARMED:
            return
        for effect in effects:
            if isinstance(effect, Send | Ping | RefreshLease):
                continue
            text = f"{who} {brief(effect)}"
            for fault in [fault for fault in self.aimed if all(word in text for word in fault.when.split())]:
                self.aimed.remove(fault)
                self.engine.after(fault.at, begin, self, fault)
                self.lasts_until(self.engine.now + fault.at + fault.length)

    # --- running --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.engine.after(LOOK, self._look)
        self.checks.look(LOOK)
        if self.engine.now > self.faults_end and self.checks.settled(LOOK):
            self.checks.settled_at = self.engine.now
            self.engine.stop = True

    def run(self) -> None:
        checks = self.checks
        try:
            self.engine.run()
        except Spin as spin:
            checks.fail("spin", str(spin))
        if not checks.failures:
            checks.finish()


class Result(NamedTuple):
    """What came of a run."""

    seed: int
    schedule: Schedule
    failures: Sequence[str]
    kind: str
    #: one server took over while the other one could not know of it (``undecidable``)
    blind: bool
    acked: int
    activations: int
    #: when the client on the VIP was last served, and for how long it then was not (seconds)
    outages: Sequence[tuple[float, float]]
    #: databases replaced by a copy of the other one
    copies: int
    seconds: float
    trace: Sequence[str]

    @property
    def outage(self) -> float:
        """The longest time in which the client on the VIP was not served."""
        return max((length for _, length in self.outages), default=0.0)


def play(seed: int, schedule: Schedule, setting: Setting = PLAIN, tracing: bool = False) -> Result:
    """One run."""
    world = World(seed, schedule, setting, tracing)
    world.run()
    checks = world.checks
    return Result(
        seed, schedule, checks.failures, checks.kind, checks.undecidable.blind, len(checks.acked), checks.activations,
        checks.outages, checks.copies, world.engine.now, world.lines,
    )  # fmt: skip
