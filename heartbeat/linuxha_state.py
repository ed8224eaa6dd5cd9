"""What one node next to Linux-HA knows, and the few ways in which that may change.

Promise: one door changes what this node holds (``_hold_now``), which takes the address before it says so and lets go of it
before it says so; one door changes the phase (``_become``). Nothing is decided here. Source: facts/linux-ha-heartbeat.md.
"""

from __future__ import annotations

from math import inf

from heartbeat.linuxha_hold import Hold, mirrored, read, word
from heartbeat.linuxha_link import Frame, Inbox, Outbox
from heartbeat.model import (
    SERVING,
    Alarm,
    DropVip,
    Effect,
    Gate,
    Phase,
    Record,
    Reply,
    Role,
    RoleChanged,
    SendFrame,
    Site,
    TakeVip,
)
from heartbeat.timing import Timing

#: a node that has just started asks for so much more patience, for so long (seconds)
STARTING_GRACE, STARTING_TIME = 2.0, 5.0
#: two nodes that both start wait so long before they take what is theirs
BOTH_STARTING = 10.0
#: hb_standby: the peer answers within this time, or the service stays
ANSWER_LIMIT = 10.0


class Peer:
    """The other node, as far as it was heard."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        #: unknown | init | up | active | dead
        self.status = "unknown"
        self.heard_at = -inf
        #: seconds of silence after which it is dead: what it says itself
        self.patience = 0.0
        self.hold = Hold.NONE
        self.stable = False
        self.links: dict[str, float] = {}

    @property
    def here(self) -> bool:
        return self.status in ("init", "up", "active")

    def forget(self) -> None:
        """Whatever it held: a new run of it holds nothing until it says so."""
        self.hold, self.stable = Hold.NONE, False

    def reports(self, fields: Frame) -> None:
        """``resource``: the whole of what it holds, or what it has more."""
        hold = read(fields.get("rsc_hold"))
        if hold is not None:
            whole = fields.get("rtype") == "full" or hold is Hold.NONE
            self.hold = hold if whole else self.hold | hold
        if fields.get("isstable") in ("0", "1"):
            self.stable = fields["isstable"] == "1"


class LinuxHaState:
    """State of this node. Attributes are for ``linuxha_report`` to read; only its subclass writes them."""

    def __init__(self, site: Site, timing: Timing, generation: int, record: Record, now: float) -> None:
        self.site = site
        self.timing = timing
        #: kept as it is: epochs mean nothing next to Linux-HA
        self.disk = record
        self.now = now
        self.preferred = site.default_active == site.node
        self.phase = Phase.WAITING
        self.because = "heartbeat has just started"
        self.leaving = ""
        self.alarms: dict[str, str] = {}
        self.peer = Peer()
        #: the generation in which the peer said its last word; it goes on talking for a while
        self.peer_left = -1
        self.lease_at = -inf
        self._replied_at: dict[str, float] = {}
        self._pinged_at = -inf
        self._ping_seq = 0
        self._out: list[Effect] = [Gate(False), DropVip()]
        self._begin(generation)
        self._gone = False

    def _begin(self, generation: int) -> None:
        """A run of this node, in Linux-HA's sense: nothing is held, everything is said anew."""
        self.outbox = Outbox(generation)
        self.started = self.now
        #: init | up | active, as the peer is told
        self.announced = "init"
        self.hold = Hold.NONE
        self.stable = False
        self.joined_at = inf
        self._asked_nodes_at = self._first_asked_at = -inf
        self._said_at = -inf
        #: cut off: neither the peer nor a ping node is heard
        self.isolated = False
        self.giving = Hold.NONE
        self.gave = False
        self._giving_since = inf
        self.taking = Hold.NONE
        self._unheld_since = inf
        self._both_since = inf
        self._asked_back = False
        self._say_status("init")
        self._say_status("up")

    # --- in words that others use

    @property
    def role(self) -> Role:
        return Role.ACTIVE if self.phase in SERVING else Role.PASSIVE

    @property
    def silent(self) -> bool:
        """The peer has not been heard for warntime."""
        return self.now - self.peer.heard_at >= self.timing.warntime

    @property
    def vip_bit(self) -> Hold:
        """The resources that the virtual address belongs to, in this node's words."""
        return Hold.LOCAL if self.preferred else Hold.FOREIGN

    @property
    def holds_vip(self) -> bool:
        return bool(self.hold & self.vip_bit)

    @property
    def peer_holds_vip(self) -> bool:
        return bool(mirrored(self.peer.hold) & self.vip_bit)

    @property
    def resources(self) -> str:
        """``cl_status rscstatus``."""
        return word(self.hold) if self.stable else "transition"

    @property
    def both_hold(self) -> bool:
        return self._both_since < inf

    def replied_at(self, node: str) -> float:
        return self._replied_at.get(node, -inf)

    def connected(self) -> bool:
        """A ping node answers, or there is none."""
        latest = max(self._replied_at.values(), default=-inf)
        return not self.site.ping_nodes or self.now - latest < self.timing.ping_dead

    # --- the doors

    def _hold_now(self, hold: Hold, because: str, *, stable: bool = True, info: str = "") -> None:
        had, self.hold, self.stable = self.holds_vip, hold, stable
        if self.holds_vip and not had:
            self._out += [TakeVip(), Gate(True)]
            self.lease_at = self.now
        elif had and not self.holds_vip:
            self._out += [Gate(False), DropVip()]
        self._say_resources(info)
        self._become(Phase.ACTIVE if self.holds_vip else Phase.PASSIVE if stable else Phase.WAITING, because)

    def _become(self, phase: Phase, because: str) -> None:
        if phase is self.phase:
            return
        self._out.append(RoleChanged(self.phase, phase, self.disk.epoch, because))
        self.phase, self.because = phase, because

    # --- what is said

    def _say(self, kind: str, **fields: str) -> None:
        self._out.append(SendFrame(self.outbox.stamp({"t": kind, **fields})))

    def _say_status(self, status: str) -> None:
        self.announced = status
        self._said_at = self.now
        patience = self.timing.deadtime + (STARTING_GRACE if self.now - self.started < STARTING_TIME else 0.0)
        self._say("status", st=status, dt=f"{round(patience * 1000):x}", protocol="1")

    def _say_resources(self, info: str = "") -> None:
        more = {"info": info} if info else {}
        self._say("resource", rsc_hold=word(self.hold), rtype="full", isstable="1" if self.stable else "0", **more)

    def _reply(self, ok: bool, text: str) -> None:
        self._out.append(Reply(ok, text))

    def _alarm(self, name: str, text: str) -> None:
        if text and name not in self.alarms:
            self.alarms[name] = text
            self._out.append(Alarm(name, True, text))
        elif not text and name in self.alarms:
            self._out.append(Alarm(name, False, self.alarms.pop(name)))
