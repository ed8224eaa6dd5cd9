"""Who uses our load balancing ID with another key: another group, a member with a wrong key, or somebody who forges. Pure.

Promise: whatever arrives, and however much of it, few addresses are kept and named; who has been silent for ``FORGET`` is
forgotten. Source: docs/director.md ("Alarms").
"""

from __future__ import annotations

#: seconds
FORGET = 30.0
_MOST, _NAMED = 64, 3


class Strangers:
    def __init__(self) -> None:
        self._heard: dict[str, float] = {}

    def heard(self, source: str, now: float) -> None:
        if source in self._heard or len(self._heard) < _MOST:
            self._heard[source] = now

    def text(self, lbid: int, now: float) -> str:
        """In words, the same as long as it is the same; "": nobody does."""
        self._heard = {source: at for source, at in self._heard.items() if now - at < FORGET}
        if not self._heard:
            return ""
        named = sorted(self._heard)[:_NAMED]
        who = ", ".join(named) + (" and others" if len(self._heard) > _NAMED else "")
        use = "use" if len(self._heard) > 1 else "uses"
        return f"{who} {use} load balancing ID {lbid} with another key: another group, or a wrong key"
