"""hb_standby next to Linux-HA: one node gives, the other takes.

Promise: what is given is let go of before the peer is told that it may take it, and only after the peer has said that it is
there to take it; a hand-over that the peer doesn't answer moves nothing. Source: facts/linux-ha-heartbeat.md ("hb_standby").

    giver  ask_resources me ──▶      ◀── other  taker
           resource …, info=standby; lets go
           ask_resources done ──▶    ◀── resource …, done; has taken
"""

from __future__ import annotations

from math import inf

from heartbeat.linuxha_hold import Hold, given, mirrored, read, word
from heartbeat.linuxha_link import Frame
from heartbeat.linuxha_state import LinuxHaState
from heartbeat.model import Standby


class LinuxHaHandover(LinuxHaState):
    """Both roles of it."""

    def _asked_standby(self, event: Standby) -> None:
        which = given(event.which)
        if which is None:
            self._reply(False, f"{event.which!r} is none of all, local, foreign, failback")
        elif why := self._why_not_give():
            self._reply(False, why)
        else:
            self._give(which)
            self._reply(True, f"Going standby [{word(which)}].")

    def _why_not_give(self) -> str:
        if self.peer.status != "active":
            return f"{self.site.peer} is {self.peer.status}: there is nobody to hand over to"
        if not self.stable or not self.peer.stable or self.giving or self.taking:
            return "a change is under way: try again when `cl_status rscstatus` no longer says transition"
        return ""

    def _give(self, which: Hold) -> None:
        if self._why_not_give() or which is Hold.NONE:
            return
        self.giving, self._giving_since = which, self.now
        self._say("ask_resources", rsc_hold=word(which), info="me")

    def _asked_resources(self, fields: Frame) -> None:
        which, step = read(fields.get("rsc_hold")), fields.get("info")
        if which is None or which is Hold.NONE:
            return
        if step == "me" and self.stable and not self.giving:
            self.taking = mirrored(which)
            self._say("ask_resources", rsc_hold=word(which), info="other")
        elif step == "other" and self.giving == which and not self.gave:
            self.gave = True
            self._hold_now(self.hold & ~which, f"handed over to {self.site.peer}", stable=False, info="standby")
            self._say("ask_resources", rsc_hold=word(which), info="done")
        elif step == "done" and self.gave:
            self._end_handover()
        elif step == "done" and self.taking == mirrored(which):
            taken, self.taking = self.taking, Hold.NONE
            self._hold_now(self.hold | taken, f"{self.site.peer} handed over")
            self._say("ask_resources", rsc_hold=word(which), info="done")

    def _end_handover(self) -> None:
        """Done, or void because the peer is gone."""
        self.taking = self.giving = Hold.NONE
        self._giving_since = inf
        self._alarm("standby", "")
        if self.gave:
            self.gave = False
            self._hold_now(self.hold, f"handed over to {self.site.peer}")
