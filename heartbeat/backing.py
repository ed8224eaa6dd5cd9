"""What a decision by silence needs besides the silence: the peer fenced, the witnesses' grant (rules 2 and 6b).

Promise: a fence agent is asked once an attempt, and only its success counts; a grant counts for the epoch it was asked for.
Both are asked for by the passive before it takes over and by the active before it goes solo, so that of two servers that can't
hear each other at most one goes on. A word of the peer (stood down, released, pledged) needs neither. Source: design §4, rule 2
and "What stays impossible"; facts/safety-model.md, "Witnesses".
"""

from __future__ import annotations

from math import inf

from heartbeat.model import AskGrant, Epoch, Fence, Fenced, Granted, Phase
from heartbeat.state import Attempt, Server

#: the edge ends a fence agent long before (seconds); this is for a runner that never answers
FENCE_LIMIT = 300.0
#: seconds between two attempts to fence
FENCE_AGAIN = 5.0


class Backed(Server):
    """The part of a server that asks the fence agent and the witnesses."""

    def _begin_attempt(self, because: str) -> None:
        self.attempt = Attempt()
        if self.site.fence:
            self.attempt.fence_asked = self.now
            self._out.append(Fence(because))

    def _backing(self, new: Epoch) -> bool:
        """Everything needed for opening ``new`` by silence is there; what is missing is asked for."""
        attempt = self.attempt
        assert attempt is not None
        if not self.rules.fenced():
            if self.now - attempt.fence_asked > FENCE_LIMIT:
                attempt.failed = f"the fence agent has not answered for {FENCE_LIMIT:g} s"
            return False
        if self.rules.granted(new):
            return True
        if attempt.asked != new:
            attempt.asked, attempt.asked_at = new, self.now
            self._out.append(AskGrant(self.disk.epoch, new))
        elif self.now - attempt.asked_at > self.timing.deadtime:
            self.refused = attempt.failed = "no majority of the witnesses has answered"
        return False

    def _forget_failures(self) -> None:
        """That the peer could not be fenced counts while that is to be tried again; a person, or the peer, may settle it."""
        if not self.unfenced:
            return
        passive = self.phase in {Phase.PASSIVE, Phase.DETACHING} and (not self.rules.unfit() or self.rules.comes_back())
        active = self.phase is Phase.ACTIVE and not self.disk.solo
        if self.members.in_contact() or not (passive or active):
            self.unfenced = ""

    def _fenced(self, event: Fenced) -> None:
        """A late answer still says whether the peer is off; it opens nothing."""
        self.unfenced = "" if event.ok else event.text or "the fence agent failed"
        attempt = self.attempt
        if attempt is None or attempt.fence_asked == inf:
            return
        attempt.fenced = event.ok
        if not event.ok:
            attempt.failed = f"{self.site.peer} could not be fenced: {self.unfenced}"

    def _granted(self, event: Granted) -> None:
        attempt = self.attempt
        if attempt is None or attempt.asked != event.new:
            return
        if event.ok:
            attempt.granted, self.refused = event.new, ""
        else:
            self.refused = attempt.failed = event.text or "the witnesses granted another server's epoch"
