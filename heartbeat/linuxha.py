"""Who holds the resources, next to a real Linux-HA heartbeat 3.0.6: this node as one more Linux-HA node.

Promise: pure, like ``election``; the address is announced as taken only after it was taken, and let go of before the peer is
told; a node that hears neither its peer nor a ping node takes nothing, and lets go of what it has if both went away together;
one that did not run for the deadtime begins a new run, as if restarted. What it can't promise, because Linux-HA knows no
epochs, echoes and acknowledged writes, are the rules of design §4: a standing alarm says so. The sequences are those of
facts/linux-ha-heartbeat.md, "Wire protocol", and what tests/lab/overhear.py recorded of two real nodes.

    init, up ── repnodes, or initdead ──▶ active, starting ── peer's stable state, 10 s, or it is dead ──▶ stable
    stable ── hb_standby: me ▶ ◀ other, let go ▶ done ▶ ◀ done ──▶ stable ── stop: none, shutdone
"""

from __future__ import annotations

from math import inf

from heartbeat import linuxha_report as report
from heartbeat.linuxha_handover import LinuxHaHandover
from heartbeat.linuxha_hold import Hold, asked, given, mirrored, word
from heartbeat.linuxha_link import Frame, decimal, hexadecimal
from heartbeat.linuxha_state import ANSWER_LIMIT, BOTH_STARTING
from heartbeat.model import (
    Activate,
    DropVip,
    Effect,
    Event,
    Exit,
    Gate,
    HeardFrame,
    Leave,
    NewRun,
    Phase,
    Ping,
    PingReply,
    RefreshLease,
    SendFrame,
    Standby,
    Suspend,
)

#: reqnodes is repeated after this time; a peer that never answers it is joined without (seconds)
_ASK_NODES_AGAIN, _JOIN_ANYWAY = 1.0, 5.0
#: both say that they have the address: the peer is asked to hand over, and if that comes to nothing (a Linux-HA node that knows
#: of the partition restarts itself, which takes 4 s), this one begins anew. The preferred one waits longer: not both at once.
_ASK_BACK, _ASK_BACK_PREFERRED = 1.5, 3.0
_BOTH_LIMIT, _BOTH_LIMIT_PREFERRED = 8.0, 10.0
#: nobody has the address although both are settled
_UNHELD_LIMIT = 2.0


class LinuxHaCore(LinuxHaHandover):
    """One node's part."""

    def deadline(self) -> float | None:
        """Boottime at which ``handle(Tick(), …)`` must be called at the latest."""
        if self.phase is Phase.LEFT:
            return None
        often = self.now + min(0.25, self.timing.keepalive, self.timing.lease / 3)
        speak = often if self._away else self._said_at + self.timing.keepalive
        return min(speak, self.peer.inbox.due, often)

    @property
    def _away(self) -> bool:
        """Said goodbye because it is cut off: it keeps silent until it isn't."""
        return self.isolated and self.announced == "active"

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at boottime ``now``; return what to do about it, in order."""
        gap, self.now = now - self.now, now
        if self.phase is not Phase.LEFT:
            if gap >= self.timing.deadtime - self.timing.keepalive and self.announced == "active":
                self._rejoin(f"this node did not run for {gap:.1f} s: the other one may have taken over")
            self._take(event)
            self._settle()
        out, self._out = self._out, []
        if self.phase is Phase.LEFT and not self._gone:
            self._gone = True
            out.append(Exit())
        return out

    def status(self, now: float) -> dict[str, object]:
        return report.status(self, now)

    def explain(self, now: float) -> list[str]:
        return report.explain(self, now)

    def _take(self, event: Event) -> None:
        match event:
            case HeardFrame(link, fields):
                self._frame(link, fields)
            case PingReply(node):
                self._replied_at[node] = self.now
            case Standby():
                self._asked_standby(event)
            case Activate():
                self._asked_takeover(event)
            case Leave():
                self._leave(event)
            case Suspend():
                self._reply(False, "next to Linux-HA automatic changes can't be suspended: the other node would not know")
            case _:
                pass  # database, record, evidence: nothing is decided by them here

    # --- what is heard

    def _frame(self, link: str, fields: Frame) -> None:
        peer = self.peer
        if fields.get("src") != self.site.peer:
            return
        restarted, ready = peer.inbox.take(fields, self.now)
        if hexadecimal(fields, "hg") != peer.inbox.generation:
            return
        if restarted:
            self._peer_began_a_new_run()
        if self.peer_left == peer.inbox.generation:
            return  # what a node says after its last word
        peer.links[link] = self.now
        returned = peer.status == "dead"
        peer.heard_at = self.now
        if not peer.here:
            peer.status = "up"
        if returned and not restarted:
            self._peer_returned()
        for each in ready:
            self._message(each)

    def _message(self, fields: Frame) -> None:
        addressed = fields.get("dest") == self.site.node
        match fields.get("t"):
            case "status":
                self._peer_status(fields)
            case "NS_rexmit" if addressed:
                self._repeat(fields)
            case "reqnodes" if addressed:
                nodes = f"{self.site.node} {self.site.peer} "
                self._say("repnodes", dest=self.site.peer, nodelist=nodes, delnodelist=" ")
            case "repnodes" if addressed and self.announced == "up":
                self._join()
            case "starting":
                self.peer.forget()
                if self.stable:
                    self._say_resources()
            case "resource":
                self.peer.reports(fields)
                self._peer_reported()
            case "ask_resources":
                self._asked_resources(fields)
            case "hb_takeover":
                self._give(asked(fields.get("rsc_hold")))
            case "shutdone":
                self._peer_shut_down()
            case "query-cstatus" if addressed:
                self._no_such_client(fields)
            case _:
                pass

    def _peer_status(self, fields: Frame) -> None:
        status, patience = fields.get("st"), hexadecimal(fields, "dt")
        if status in ("init", "up", "active"):
            self.peer.status = str(status)
        if patience:
            self.peer.patience = max(patience / 1000, 2 * self.timing.keepalive)

    def _repeat(self, fields: Frame) -> None:
        first, last = decimal(fields, "firstseq"), decimal(fields, "lastseq")
        if first is not None and last is not None:
            self._out += [SendFrame(said) for said in self.outbox.again(first, last)]

    def _no_such_client(self, fields: Frame) -> None:
        known: dict[str, str] = {name: str(fields[name]) for name in ("cn", "from_id") if isinstance(fields.get(name), str)}
        self._say("respond-cstatus", dest=self.site.peer, result="OK", cn=known.get("cn", ""), to_id=known.get("from_id", "0"),
                  cs="offline")  # fmt: skip

    def _peer_began_a_new_run(self) -> None:
        """Also the first that is heard of it. What it had promised or asked for is void."""
        self.peer.forget()
        self.peer.status = "init"
        self._end_handover()
        if self.isolated:
            self._rejoin(f"{self.site.peer} is heard again")

    def _peer_returned(self) -> None:
        """It was taken for dead and was not. What it held, it may still hold; it is told what this node holds."""
        if self.isolated:
            self._rejoin(f"{self.site.peer} is heard again")
        elif self.stable:
            self._say_resources()

    def _peer_reported(self) -> None:
        if not self.peer.stable:
            return
        if self.gave and mirrored(self.peer.hold) & self.giving == self.giving:
            self._end_handover()
        elif self.announced == "active" and not self.stable and not self.gave:
            self._fill(f"{self.site.peer} holds {word(self.peer.hold)}")

    def _fill(self, because: str) -> None:
        """Hold what the peer doesn't."""
        self._hold_now(Hold.ALL & ~mirrored(self.peer.hold), because)

    def _peer_shut_down(self) -> None:
        self.peer_left = self.peer.inbox.generation
        self.peer.status = "dead"
        self.peer.forget()
        self._peer_gone(f"{self.site.peer} shut down")

    # --- joining, and what time brings

    def _settle(self) -> None:
        if self.phase is Phase.LEFT:
            return
        for each in self.peer.inbox.give_up(self.now):
            self._message(each)
        if self.announced == "up":
            self._look_for_peer()
        self._watch_peer()
        if self.announced == "active":
            self._watch_resources()
        self._speak()
        for name, text in report.alarms(self).items():
            self._alarm(name, text)

    def _look_for_peer(self) -> None:
        waited = self.now - self.started
        if self.peer.here:
            if self._asked_nodes_at > -inf and self.now - self._first_asked_at >= _JOIN_ANYWAY:
                self._join()
            elif self.now - self._asked_nodes_at >= _ASK_NODES_AGAIN:
                self._first_asked_at = self.now if self._asked_nodes_at == -inf else self._first_asked_at
                self._asked_nodes_at = self.now
                self._say("reqnodes", dest=self.site.peer)
        elif waited >= self.timing.initdead:
            self.peer.status = "dead"
            self._peer_gone(f"{self.site.peer} was not heard within initdead", silently=True)

    def _join(self) -> None:
        self._say_status("active")
        self._say("starting")
        self.joined_at = self.now
        if self.peer.here:
            self._say_resources()
            self._peer_reported()

    def _watch_peer(self) -> None:
        peer = self.peer
        if peer.here and self.now - peer.heard_at >= (peer.patience or self.timing.deadtime):
            peer.status = "dead"
            self._peer_gone(f"{self.site.peer} was not heard for {self.now - peer.heard_at:.1f} s", silently=True)
        elif self._away and self._ping_answered():
            self._rejoin("a ping node answers again")

    def _ping_answered(self) -> bool:
        """Since the peer fell silent: the silence isn't this node's own."""
        if not self.site.ping_nodes:
            return True
        since = max(self.peer.heard_at + self.timing.keepalive, self.now - self.timing.ping_dead)
        return max(self._replied_at.values(), default=-inf) > since

    def _peer_gone(self, because: str, silently: bool = False) -> None:
        """All resources are this node's, unless it may be the one that is cut off: then it leaves, as if stopped, because the
        other one may hear it and needn't wait.
        """
        self._end_handover()
        if silently and not self._ping_answered():
            if self.announced == "active" and not self.isolated:  # once
                self._say_goodbye(f"{because}, and no ping node answers: this node may be cut off")
            self.isolated = True
            return
        self.isolated = False
        if self.announced == "up":
            self._join()
        self._take_all(because)

    def _say_goodbye(self, because: str) -> None:
        self._hold_now(Hold.NONE, because, stable=False, info="shutdown")
        self._say("shutdone", st="dead")

    def _take_all(self, because: str) -> None:
        self._hold_now(Hold.ALL, because, info="req_our_resources()")

    def _watch_resources(self) -> None:
        peer = self.peer
        if not self.stable and not self.gave and not self.isolated and peer.here and self.now - self.joined_at >= BOTH_STARTING:
            self._hold_now(self.hold | Hold.LOCAL, "both nodes have just started: each takes what is its own")
        if self.giving and not self.gave and self.now - self._giving_since >= ANSWER_LIMIT:
            self._end_handover()
            self._alarm("standby", f"{self.site.peer} did not answer hb_standby within {ANSWER_LIMIT:g} s: nothing was moved")
        both = peer.here and peer.stable and self.stable
        handing_over = self.giving or self.taking
        unheld = both and not handing_over and not self.holds_vip and not self.peer_holds_vip
        self._unheld_since = min(self._unheld_since, self.now) if unheld else inf
        if self.now - self._unheld_since >= _UNHELD_LIMIT:
            self._fill("neither node has the address")
        self._watch_rival()

    def _watch_rival(self) -> None:
        """Both hold the address: the other one did not run, or wasn't heard, and neither knows what the other one did."""
        if not (self.peer.here and self.holds_vip and self.peer_holds_vip):
            self._both_since, self._asked_back = inf, False
            return
        if self._both_since == inf:
            self._both_since = self.now
            self._say_resources()
        since = self.now - self._both_since
        if since >= (_ASK_BACK_PREFERRED if self.preferred else _ASK_BACK) and not self._asked_back:
            self._asked_back = True
            self._say("hb_takeover", rsc_hold="all")
        if since >= (_BOTH_LIMIT_PREFERRED if self.preferred else _BOTH_LIMIT):
            self._rejoin(f"{self.site.peer} holds the same resources")

    def _rejoin(self, because: str) -> None:
        """As if restarted: the peer sees a new generation, and says what it holds."""
        generation = self.outbox.generation + 1
        self._out += [Gate(False), DropVip(), NewRun(generation)]
        self._become(Phase.WAITING, because)
        self.peer.stable = False
        self._begin(generation)

    # --- hb_takeover, stop

    def _asked_takeover(self, event: Activate) -> None:
        if given(event.which) is None:
            self._reply(False, f"{event.which!r} is none of all, local, foreign, failback")
        elif self.announced != "active":
            self._reply(False, "this node has not joined yet: nothing can be taken over")
        elif self.peer.here:
            self._say("hb_takeover", rsc_hold=event.which)
            self._reply(True, f"{self.site.peer} was asked for {event.which} resources")
        else:
            if self.isolated:
                self._rejoin(f"asked by {event.by}")
                self._join()
            if self.hold is not Hold.ALL:
                self._take_all(f"asked by {event.by}")
            self._reply(True, f"{self.site.peer} is dead; this node holds all resources")

    def _leave(self, event: Leave) -> None:
        self.leaving = event.kind
        self._say_goodbye(f"{event.by} ends heartbeat")
        self._become(Phase.LEFT, f"{event.by} ends heartbeat")
        self._reply(
            True, f"left; {self.site.peer} takes over" if self.peer.here else "left; the other node isn't there to take over"
        )

    # --- what is said regularly

    def _speak(self) -> None:
        if self.now - self._said_at >= self.timing.keepalive and not self._away:
            self._say_status(self.announced)
        acknowledged = self.peer.inbox.acknowledge() if self.peer.here else None
        if acknowledged is not None:
            self._say("NS_ackmsg", dest=self.site.peer, ackseq=f"{acknowledged:x}")
        for first, last in self.peer.inbox.ask(self.now):
            self._say("NS_rexmit", dest=self.site.peer, firstseq=str(first), lastseq=str(last))
        if self.holds_vip and self.now - self.lease_at >= min(self.timing.lease / 3, self.timing.keepalive):
            self.lease_at = self.now
            self._out.append(RefreshLease())
        if self.site.ping_nodes and self.now - self._pinged_at >= self.timing.ping_period:
            self._ping_seq += 1
            self._pinged_at = self.now
            self._out.append(Ping(self._ping_seq))
