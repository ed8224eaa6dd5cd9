"""What was gathered about a peer that is not heard (rule 1): signs that it serves, signs that its host lives, strangers.

Promise: from warntime of silence on evidence is asked for each ping period, so that nothing is added after deadtime; once the
silence is long, less often. Only the peer's own MAC is a sign of service; a stranger's is an alarm, a living host neither.
Source: design §4, rule 1; facts/safety-model.md, H13.
"""

from __future__ import annotations

from math import inf

from heartbeat.membership import Membership
from heartbeat.model import Sign

#: the kinds of ``model.Sign``
VIP, HOST, STRANGER = "vip", "host", "stranger"


class Signs:
    """The newest sign of each kind, on the running clock of ``members``."""

    def __init__(self, members: Membership) -> None:
        self._members = members
        self._newest: dict[str, tuple[float, Sign]] = {}
        self._probed_at = -inf

    def take(self, sign: Sign) -> None:
        self._newest[sign.kind] = (self._members.run, sign)

    def forget(self, kind: str) -> None:
        self._newest.pop(kind, None)

    def at(self, kind: str) -> float:
        """Running clock of the newest sign of ``kind``; -inf without any."""
        return self._newest[kind][0] if kind in self._newest else -inf

    def fresh(self, kind: str) -> str:
        """The words of a sign of ``kind`` that is not older than deadtime, else "" (all that is needed for people)."""
        m = self._members
        if m.run - self.at(kind) >= m.timing.deadtime:
            return ""
        sign = self._newest[kind][1]
        return f"{sign.text} ({sign.link})" if sign.link else sign.text

    @property
    def due(self) -> float:
        """Boottime of the next look for signs."""
        m = self._members
        period = m.timing.ping_period if m.silent_for() < m.timing.solo else m.timing.keepalive
        return m.paused + max(m.heard_at + m.timing.warntime, self._probed_at + period)

    def wanted(self) -> bool:
        """It is time to look for signs; from now on that counts as done."""
        if self._members.now < self.due:
            return False
        self._probed_at = self._members.run
        return True
