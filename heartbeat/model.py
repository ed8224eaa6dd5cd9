"""The vocabulary of the pair: what is on a disk, what is said, what happens, what is to be done.

Promise: plain immutable values without behaviour beyond comparison; no input or output. The rules that use them are in
``membership`` (who can be heard) and ``election`` (who is active). Source: design §4; ``facts/safety-model.md``.

Times are seconds of CLOCK_BOOTTIME (they go on through a suspend), handed in as ``now``; log positions (LSN) are byte offsets
as integers; -1 means unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from runtime.sizes import MAXIMUM_LAG


class Role(StrEnum):
    """What a server is to the outside."""

    ACTIVE = "active"
    PASSIVE = "passive"


class Phase(StrEnum):
    """Where a server is on its way between roles; ``Role`` follows from it."""

    WAITING = "waiting"  # just started: nothing is known of the peer yet
    RESUMING = "resuming"  # restarted within its lease as the active; needs one word from a passive peer
    PASSIVE = "passive"
    DETACHING = "detaching"  # takeover: the replication receiver is being stopped; can still be given up
    OPENING = "opening"  # takeover: VIP taken, announced, the new epoch is on its way to the disk
    PROMOTING = "promoting"  # the epoch is on disk; Postgres is being promoted
    ACTIVE = "active"
    PREPARING = "preparing"  # planned failover: checkpoint before standing down; still serving
    STANDING_DOWN = "standing-down"  # VIP dropped; Postgres is being stopped
    LEFT = "left"  # nothing is decided any more; the process ends


#: Phases in which this server holds the virtual IP.
SERVING = frozenset({Phase.OPENING, Phase.PROMOTING, Phase.ACTIVE, Phase.PREPARING})


class Epoch(NamedTuple):
    """Name of one reign: a number and the server that opened it. Only the number says which is newer."""

    number: int = 0
    node: str = ""

    def __str__(self) -> str:
        return f"{self.number}/{self.node or '-'}"


class Database(StrEnum):
    """State of this server's Postgres, wanted or observed."""

    KEEP = "keep"  # wanted only: as it is (just started, nothing decided)
    STOPPED = "stopped"
    STANDBY = "standby"  # in recovery, following the active if there is one
    DETACHED = "detached"  # in recovery, its receiver stopped for good: nothing more is acknowledged
    PRIMARY = "primary"
    UNKNOWN = "unknown"  # observed only


class Names(StrEnum):
    """``synchronous_standby_names`` of an active: relaxed (solo) or naming the peer."""

    RELAXED = "relaxed"
    ENFORCED = "enforced"


class Stop(StrEnum):
    FAST = "fast"  # planned: the shutdown checkpoint reaches the standby
    IMMEDIATE = "immediate"


@dataclass(frozen=True)
class Record:
    """What is on this server's disk, fsynced. Everything a restarted server knows for certain."""

    epoch: Epoch = Epoch()
    #: this server runs (or ran, when it died) ``epoch`` as its active
    active: bool = False
    #: the active of ``epoch`` runs without its standby
    solo: bool = False
    #: passive: this epoch's active waits for this server's acknowledgement (rule 7)
    in_sync: bool = False
    #: as the active of ``epoch``, this server let go (rules 3, 4)
    stood_down: bool = False
    #: ``epoch`` was opened by a takeover whose promotion is not proven; ``previous`` and ``timeline`` tell what was before
    tentative: bool = False
    previous: Epoch = Epoch()
    timeline: int = 0
    #: an operator's suspension: the higher version wins on both servers
    suspended: bool = False
    suspend_version: int = 0
    #: takeovers of this server that count towards a suspension after flapping (rule 12)
    changes: int = 0
    #: commits of ``epoch`` don't wait for the passive, which may lack the latest (synchronous="off" on both servers)
    lax: bool = False


class Mode(NamedTuple):
    """How commits are acknowledged (rule 6), as the sender's configuration wants it, and as it is."""

    #: synchronous="off"
    off: bool = False
    #: solo="release"
    release: bool = False
    #: of the sender's disk: ``Record.lax``
    lax: bool = False


class Times(NamedTuple):
    """Of the sender's configuration, those that the receiver's decisions by silence rest on, too (seconds; 0: not said)."""

    deadtime: float = 0.0
    stale: float = 0.0
    solo: float = 0.0


class Boot(NamedTuple):
    """One run of a heartbeat process: a stored generation that only grows, and a nonce."""

    generation: int = 0
    nonce: int = 0


@dataclass(frozen=True)
class Message:
    """One heartbeat. Flags count only as far as their echo proves them fresh (design §5)."""

    node: str
    boot: Boot
    seq: int
    #: the newest of the receiver's own messages that the sender had heard
    echo_boot: Boot = Boot()
    echo_seq: int = 0
    phase: Phase = Phase.WAITING
    #: of the sender's disk; in OPENING it is the epoch announced
    epoch: Epoch = Epoch()
    #: the highest epoch number the sender ever heard or held
    highest: int = 0
    solo: bool = False
    in_sync: bool = False
    stood_down: bool = False
    #: stood down for a receiver that answered: becomes active again if it hears nothing of it from now on
    returns: bool = False
    #: passive: could take over now
    fit: bool = False
    #: active: the receiver's acknowledgement is waited for, and it must hold all log before this position; -1: it is not
    calls_in_sync: int = -1
    #: active: will go solo as soon as the receiver has persisted "not in sync" (rule 6a)
    asks_release: bool = False
    #: active: lost its ping node; would yield if the receiver confirms a ping sent after hearing this (rule 3)
    asks_ping: bool = False
    #: passive: newest of the receiver's seqs heard before sending the latest *answered* ping
    ping_after: int = 0
    connected: bool = False
    #: passive: lost the election and persisted so, for this run of the winner (rule 9)
    pledged_to: Boot = Boot()
    #: the database: can it win an election, how long is it, what did it commit beyond the epoch's start
    data: str = "unknown"  # ready | starting | copying | none | failed | unknown
    lsn: int = -1
    beyond: int = 0
    vip: bool = False
    suspended: bool = False
    suspend_version: int = 0
    #: "" or why the sender is about to leave: "restart" (role resumes), "handover", "off"
    leaving: str = ""
    #: active: the ping node answers what is sent from the VIP, so that its ARP table can be asked who holds it
    arp: bool = False
    #: the sender fences the receiver before it takes over, or goes solo, by silence
    fences: bool = False
    #: takeovers of the sender in the window of rule 12
    changes: int = 0
    mode: Mode = Mode()
    times: Times = Times()


# --- events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed; sent when ``deadline()`` is reached."""


@dataclass(frozen=True)
class Heard:
    """An authenticated heartbeat of the peer arrived on a link."""

    link: str
    message: Message


@dataclass(frozen=True)
class PingSent:
    node: str
    seq: int


@dataclass(frozen=True)
class PingReply:
    node: str
    seq: int


@dataclass(frozen=True)
class Sign:
    """Evidence that heartbeat itself gathered about a peer that is not heard (rule 1). ``kind``:

    "vip"       the peer's own MAC answered for the virtual IP: a sign of service
    "host"      ICMP answered on a link, or a port refused: the host lives, which holds no takeover
    "stranger"  another MAC than the peer's answered for the virtual IP: an alarm, no sign
    """

    kind: str
    link: str
    text: str


@dataclass(frozen=True)
class ArpAnswer:
    """The ping node answered the echo request ``seq`` that was sent *from the VIP*: its ARP entry points here."""

    seq: int


@dataclass(frozen=True)
class ArpUnusable:
    """The edge found that pings from the VIP can't be trusted here, and why; "": they can."""

    because: str


@dataclass(frozen=True)
class Fenced:
    """The fence agent ended: the peer is certainly off, or ``text`` says why that isn't known."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Granted:
    """What a majority of the witnesses said to opening ``new``."""

    new: Epoch
    ok: bool
    text: str


@dataclass(frozen=True)
class LinkChanged:
    """Carrier of the interface that holds the VIP, or of a heartbeat link."""

    link: str
    up: bool
    carries_vip: bool = False


@dataclass(frozen=True)
class Persisted:
    """The record with this serial is on disk, fsynced."""

    serial: int


@dataclass(frozen=True)
class PersistFailed:
    serial: int
    error: str


@dataclass(frozen=True)
class Facts:
    """What ha_manager observed. ``serial`` is the newest ``Want`` that this observation is later than."""

    serial: int = 0
    postgres: Database = Database.UNKNOWN
    #: nothing stands against serving (active) or promoting (passive); else ``because`` says what
    healthy: bool = False
    because: str = "ha_manager has not reported yet"
    #: ready | starting | copying | none | failed | unknown (see Message.data)
    data: str = "unknown"
    timeline: int = 0
    #: primary: current position; standby: everything before it is flushed here
    lsn: int = -1
    #: transactions (or bytes) committed since this server's epoch was opened
    beyond: int = 0
    #: passive: epoch named in the replication connection that is streaming right now
    following: Epoch = Epoch()
    #: active: the peer's standby streams and has caught up, so that the names can be set
    caught_up: bool = False
    #: active: the names of this epoch are proven to bind every commit; position that the standby must hold. -1: not proven
    proven: int = -1
    names: Names = Names.RELAXED
    #: active: commits have waited, or the standby has been gone, for so long (seconds); 0: nothing waits
    stalled: float = 0.0
    #: seconds since the last sign that the peer *serves* (rule 1: replication delivers, its ha_manager says active)
    sign_age: float = inf
    sign: str = ""
    #: the peer said over the pinned session that it stood down in this epoch
    peer_stood_down: Epoch = Epoch()
    #: the newest epoch that the peer said over the pinned session to hold data of
    peer_epoch: Epoch = Epoch()
    #: planned failover: checkpoint done
    prepared: bool = False
    #: stopped cleanly: end of the shutdown checkpoint record; -1: not a clean stop
    shutdown_lsn: int = -1
    #: active: bytes of log that the peer's standby of this epoch has not flushed yet; -1: it does not stream
    behind: int = -1


@dataclass(frozen=True)
class ManagerLost:
    """ha_manager's connection is gone, or it has not reported for its allowance."""

    because: str


@dataclass(frozen=True)
class ForceStopped:
    """Heartbeat itself ended Postgres (ha_manager could not)."""


@dataclass(frozen=True)
class Standby:
    """Hand over to the passive: an operator's ``ha failover``, ``hb_standby``, SIGUSR1, or the peer over the session."""

    by: str
    force: bool = False
    #: next to Linux-HA: all, local, foreign or failback
    which: str = "all"


@dataclass(frozen=True)
class Activate:
    """Become active although the peer can't be asked: only an operator says this."""

    by: str
    force: bool = False
    #: as in Standby
    which: str = "all"


@dataclass(frozen=True)
class Suspend:
    by: str
    suspended: bool


@dataclass(frozen=True)
class Replication:
    """The configuration of rule 6 was read again; the rest of it takes a restart."""

    synchronous: bool
    solo: str
    maximum_lag: int


@dataclass(frozen=True)
class Leave:
    """This heartbeat is to end. ``kind``: "handover" (clean stop), "off" (HA is turned off here), "restart"."""

    by: str
    kind: str


@dataclass(frozen=True)
class HeardFrame:
    """Next to Linux-HA: an authentic frame that isn't ours, as it came."""

    link: str
    fields: Mapping[str, str | bytes]


Event = (
    Tick | Heard | PingSent | PingReply | Sign | ArpAnswer | ArpUnusable | Fenced | Granted | LinkChanged | Persisted
    | PersistFailed | Facts | ManagerLost | ForceStopped | Standby | Activate | Suspend | Leave
    | Replication | HeardFrame
)  # fmt: skip


# --- effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Send to the peer on every link, now."""

    message: Message


@dataclass(frozen=True)
class Ping:
    """Send an ICMP echo request to every ping node."""

    seq: int


@dataclass(frozen=True)
class Probe:
    """Gather evidence now: an echo request to each of the peer's addresses on every link, an ARP (ND) request for each VIP.

    What comes of it are ``Sign`` events. Given each ping period from warntime of silence on, less often once it is long.
    """


@dataclass(frozen=True)
class PingFromVip:
    """Send an ICMP echo request from the VIP to the ping node; never let it change the ping node's ARP entry."""

    seq: int


@dataclass(frozen=True)
class Fence:
    """Run the fence agent against the peer; answer with ``Fenced``. Asked once an attempt."""

    because: str


@dataclass(frozen=True)
class AskGrant:
    """Ask the witnesses for the epoch ``new`` on top of the data epoch ``have``; answer with ``Granted``."""

    have: Epoch
    new: Epoch


@dataclass(frozen=True)
class Persist:
    """Write and fsync; answer with ``Persisted``. Nothing else waits for it: what must wait asks for the event."""

    serial: int
    record: Record


@dataclass(frozen=True)
class TakeVip:
    """Add the address, refresh its lease, announce it (gratuitous ARP)."""


@dataclass(frozen=True)
class RefreshLease:
    """The VIP's lease and the role file are good for another lease time."""


@dataclass(frozen=True)
class Garp:
    pass


@dataclass(frozen=True)
class DropVip:
    """Remove lease and address; close the client port before it, so that nobody is kept waiting."""


@dataclass(frozen=True)
class Gate:
    """The VIP's Postgres port: open, or refused with a reset."""

    open: bool


@dataclass(frozen=True)
class Want:
    """What ha_manager is to make true, and keep true. A later one replaces an earlier one."""

    serial: int
    phase: Phase
    epoch: Epoch
    postgres: Database
    names: Names = Names.RELAXED
    stop: Stop = Stop.IMMEDIATE
    #: planned failover: checkpoint now, report ``prepared``
    prepare: bool = False
    #: the active to follow (its node name; its epoch), if one is known
    follow: Epoch = Epoch()
    #: ask the peer's ha_manager over the session to make its heartbeat stand down, because …
    ask_stand_down: str = ""
    #: the other active, of an epoch of the same number, that has let go: its database went on by itself
    yielded: Epoch = Epoch()
    because: str = ""


@dataclass(frozen=True)
class ForceStop:
    """End Postgres without ha_manager: it is gone or hung. Answer with ``ForceStopped``."""

    because: str


@dataclass(frozen=True)
class RoleChanged:
    """For log, history, subscribers. ``because`` is the sentence a person reads everywhere."""

    before: Phase
    after: Phase
    epoch: Epoch
    because: str


@dataclass(frozen=True)
class Alarm:
    """Something an operator should know; raised and cleared once per change, by name."""

    name: str
    raised: bool
    text: str


@dataclass(frozen=True)
class Reply:
    """Answer to Standby, Activate, Suspend or Leave."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Exit:
    """The process may end now."""


@dataclass(frozen=True)
class SendFrame:
    """Next to Linux-HA: send these fields on every link, completed by what the host knows (source, time, load, hops)."""

    fields: Mapping[str, str | bytes]


@dataclass(frozen=True)
class NewRun:
    """Next to Linux-HA: this node counts as restarted; the generation is to be on the disk."""

    generation: int


Effect = (
    Send | Ping | Probe | PingFromVip | Fence | AskGrant | Persist | TakeVip | RefreshLease | Garp | DropVip | Gate | Want
    | ForceStop | RoleChanged | Alarm | Reply | Exit | SendFrame | NewRun
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """The pair as this node sees it."""

    node: str
    peer: str
    default_active: str
    ping_nodes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    #: "silence" or "release" (rule 6)
    solo: str = "silence"
    #: "wait" or "after_initdead" (rule 11)
    boot_alone: str = "wait"
    synchronous: bool = True
    #: asynchronous: the passive takes over if it lacks no more bytes of log than this
    maximum_lag: int = MAXIMUM_LAG
    #: ask the ping node's ARP table who holds the VIP before anything is decided by silence
    arp_check: bool = False
    #: a fence agent is configured: what is decided by silence needs its success
    fence: bool = False
    #: how many witnesses there are; 0: none
    witnesses: int = 0
    #: more takeovers than this in the window (seconds) suspend yields and planned failovers until it was quiet for as long
    most_changes: int = 10
    quiet_window: float = 600.0
    #: so many ping nodes must answer for this server to count as connected
    ping_quorum: int = 1


@dataclass(frozen=True)
class Resume:
    """What a restarted heartbeat found of its predecessor in the role file, if that had not expired."""

    epoch: Epoch = Epoch()
    expires: float = field(default=-inf)
