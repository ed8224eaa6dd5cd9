"""Who can be heard: the peer on several links, the ping nodes, and how long any of them has been silent.

Promise: only what is new counts. A frame of an older run of the peer, or with a sequence number that was heard before, changes
nothing but the state of its link. Silence is measured on a clock that stands still while this process did not run (design §4,
"Silence"); leases (``echoed_at``) are measured on the real one, so that a pause uses them up. Source: design §4, §5;
facts/safety-model.md H7, H8, H14, H16.
"""

from __future__ import annotations

from math import inf

from heartbeat.model import Boot, Message, Site
from heartbeat.timing import Timing

#: how many of this node's own messages are remembered for their time of sending
_REMEMBERED = 512


class Membership:
    """The peer and the ping nodes as this run of this node has seen them."""

    def __init__(self, site: Site, timing: Timing, boot: Boot, now: float) -> None:
        self.site = site
        self.timing = timing
        self.boot = boot
        self.now = now
        #: seconds this process did not run (only gaps longer than a keepalive)
        self.paused = 0.0
        #: seconds on the running clock: real time less the pauses
        self.run = now
        self.peer: Message | None = None
        #: running clock: the last new heartbeat; since when (a) nobody was heard at the start
        self.heard_at = self.run
        #: running clock: when the peer was heard again after a silence of deadtime, or the start
        self.contact_since = self.run
        #: real clock: when this node sent the newest message that the peer has echoed; -inf: none in this run
        self.echoed_at = -inf
        #: the same for messages in which an active called this node in sync (fitness is a lease from then; rule 2, H8)
        self.called_at = -inf
        #: by link, running clock: the last heartbeat that was newer than any before it on that link
        self.links: dict[str, float] = {}
        self._newest_on: dict[str, tuple[Boot, int]] = {}
        self._sent: dict[int, float] = {}
        # ping: running clock
        self.replied_at: dict[str, float] = {}
        self._asked_at = -inf
        self._ping_sent: dict[tuple[str, int], float] = {}
        self._ping_heard: dict[tuple[str, int], int] = {}
        #: by ping node: when its newest answered ping was *sent* (running clock), and the peer's seq heard until then
        self._answered: dict[str, tuple[float, int]] = {}
        #: running clock: enough ping nodes answered a ping *sent* at that moment or later; -inf: never
        self.answered_sent_at = -inf
        #: the peer's seq that had been heard when the newest ping that enough nodes answered was sent (rule 3's proof)
        self.ping_after = 0
        #: running clock: the last moment when enough ping nodes had answered
        self._enough_at = -inf
        #: running clock: the last moment without connection; silence counts from here for a passive
        self.unconnected_at = self.run
        #: running clock: the last moment without connection, or of a pause; solo by silence counts from here (rule 6b)
        self.broken_at = self.run

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> float:
        """Take note of the time; return the gap since the last call (seconds). A gap of more than a keepalive is a pause."""
        gap = now - self.now
        self.now = now
        if gap > max(self.timing.keepalive, 2 * self.timing.ping_period):
            self.paused += gap
            self.broken_at = now - self.paused
        self.run = now - self.paused
        self.note_connection()
        return gap

    # --- the peer -----------------------------------------------------------------------------------------------------

    def sent(self, seq: int) -> None:
        self._sent[seq] = self.now
        if len(self._sent) > _REMEMBERED:
            del self._sent[next(iter(self._sent))]

    def heard(self, link: str, message: Message) -> bool:
        """Take a heartbeat; True if it is new (not a replay, not a duplicate, not out of order)."""
        if message.node != self.site.peer:
            return False
        known = self.peer
        if known is not None and message.boot != known.boot and message.boot.generation <= known.boot.generation:
            return False
        boot, seq = self._newest_on.get(link, (None, 0))
        if boot == message.boot and message.seq <= seq:
            return False
        self._newest_on[link] = (message.boot, message.seq)
        self.links[link] = self.run
        if known is not None and message.boot == known.boot and message.seq <= known.seq:
            return False
        self.peer = message
        if self.silent_for() >= self.timing.deadtime:
            self.contact_since = self.run
        self.heard_at = self.run
        if message.echo_boot == self.boot:
            sent = self._sent.get(message.echo_seq, -inf)
            self.echoed_at = max(self.echoed_at, sent)
            if message.calls_in_sync >= 0:
                self.called_at = max(self.called_at, sent)
        return True

    @property
    def echo(self) -> tuple[Boot, int]:
        """What the next message echoes: the newest heard of the peer."""
        return (self.peer.boot, self.peer.seq) if self.peer else (Boot(), 0)

    def echoes(self, seq: int) -> bool:
        """The peer's newest message was sent after it had heard our message ``seq``."""
        p = self.peer
        return p is not None and p.echo_boot == self.boot and p.echo_seq >= seq > 0

    def in_contact(self) -> bool:
        """Both directions work: a heartbeat came lately, and it echoed one of ours sent lately."""
        return (
            self.peer is not None
            and self.run - self.heard_at < self.timing.deadtime
            and self.now - self.echoed_at < self.timing.deadtime + self.timing.keepalive
        )

    def silent_for(self) -> float:
        """Seconds (running) since the last heartbeat, or since the start."""
        return self.run - self.heard_at

    def in_fresh_contact(self) -> bool:
        """In contact so lately that the peer can't have run into its deadtime since."""
        warntime = self.timing.warntime
        return self.silent_for() < warntime and self.now - self.echoed_at < warntime + self.timing.keepalive

    # --- ping nodes ---------------------------------------------------------------------------------------------------

    def ping_sent(self, node: str, seq: int) -> None:
        self._asked_at = self.run
        self._ping_sent[node, seq] = self.run
        self._ping_heard[node, seq] = self.peer.seq if self.peer else 0
        for table in (self._ping_sent, self._ping_heard):
            while len(table) > 64 * max(1, len(self.site.ping_nodes)):
                del table[next(iter(table))]

    def ping_reply(self, node: str, seq: int) -> None:
        sent = self._ping_sent.get((node, seq))
        if sent is None:
            return
        self.note_connection()
        self.replied_at[node] = self.run
        self._answered[node] = max((sent, self._ping_heard[node, seq]), self._answered.get(node, (-inf, 0)))
        quorum = self.site.ping_quorum
        if len(self.replied_at) >= quorum:
            self._enough_at = sorted(self.replied_at.values(), reverse=True)[quorum - 1]
            newest = sorted(self._answered.values(), reverse=True)[:quorum]
            self.answered_sent_at = newest[-1][0]
            self.ping_after = min(heard for _, heard in newest)

    def all_answered(self) -> bool:
        """Every ping node has answered the newest ping."""
        answered = self._answered
        return len(answered) == len(self.site.ping_nodes) and all(sent >= self._asked_at for sent, _ in answered.values())

    def connected(self) -> bool:
        """Enough ping nodes answered within ping-dead. Without any ping node nothing can be said against it."""
        return not self.site.ping_nodes or self.ping_silent_for() < self.timing.ping_dead

    def pinged_since(self, run: float) -> bool:
        """A ping *sent* after ``run`` (running clock) has been answered."""
        return not self.site.ping_nodes or self.answered_sent_at > run

    def ping_silent_for(self) -> float:
        """Seconds (running) since the last moment when enough ping nodes had answered."""
        return self.run - self._enough_at

    def answering(self) -> int:
        """How many ping nodes answered within ping-dead."""
        return sum(self.run - at < self.timing.ping_dead for at in self.replied_at.values())

    def unanswered(self) -> str:
        """What is missing for this server to count as connected; "" if nothing is."""
        quorum = self.site.ping_quorum
        if self.connected():
            return ""
        return "no ping node answers" if quorum == 1 else f"{self.answering()} ping nodes answer, {quorum} are needed"

    def note_connection(self) -> None:
        """Remember the last moment without connection; called whenever time or a reply may have changed it."""
        if not self.connected():
            self.unconnected_at = self.run
            self.broken_at = self.run
