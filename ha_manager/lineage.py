"""Which promotion opened which timeline, and what this server's epoch began with: a small durable file.

Promise: what is noted is on the disk before the call returns; a damaged file is an error, never an empty answer. A promotion is
noted before it happens (``promoting``) and resolved when the number of its timeline is known, so that a crash in between is
told later. Source: design §4 rules 8 ("fewer committed transactions beyond the fork") and 10; ``rejoin`` uses it to tell apart
two promotions that chose the same number.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from runtime import durable
from runtime.errors import ConfigError

_REMEDY = "if the other server's database is good, remove it: this one is then compared with that by timelines alone"


@dataclass(frozen=True)
class Lineage:
    """``promotions``: {timeline: "epoch/node"}. ``epoch``: the one whose primary this server is or was last; ``base``: the
    transaction counter with which it began. ``promoting``: asked for in that epoch, coming from that timeline. ``waited``:
    whether its last commits as a primary waited for the peer ("yes", "no"), noted when it became a standby; "" before.
    """

    system_identifier: str = ""
    promotions: Mapping[int, str] = field(default_factory=dict)
    epoch: int = 0
    base: int = -1
    primary_timeline: int = 0
    promoting: str = ""
    promoting_from: int = 0
    waited: str = ""

    def promotion_begins(self, epoch: int, node: str, timeline: int, counter: int) -> Lineage:
        base = self.base if self.epoch == epoch and self.base >= 0 else counter
        begun = replace(self, epoch=epoch, base=base, promoting=f"{epoch}/{node}", promoting_from=timeline, primary_timeline=0)
        return replace(begun, waited="")

    def promoted(self, timeline: int) -> Lineage:
        """The number of the timeline is known now."""
        known = dict(self.promotions)
        if self.promoting and timeline > self.promoting_from:
            known[timeline] = self.promoting
        return replace(self, promotions=known, promoting="", promoting_from=0, primary_timeline=timeline, waited="")

    def ended(self, waited: bool) -> Lineage:
        """It is to be a standby; the first such word after a reign is the true one: the settings are changed by it."""
        return replace(self, waited="yes" if waited else "no") if self.must_compare and not self.waited else self

    def opened(self, epoch: int, counter: int) -> Lineage:
        """A new epoch without a promotion: going solo, or in sync again."""
        return self if self.epoch == epoch else replace(self, epoch=epoch, base=counter)

    @property
    def must_compare(self) -> bool:
        """It has been a primary since it was last compared with an active: it may hold what that one doesn't."""
        return bool(self.primary_timeline or self.promoting)

    def known(self, timeline: int) -> dict[int, str]:
        """Who opened which timeline, ``timeline`` being the present one; a promotion under way counts."""
        found = dict(self.promotions)
        if self.promoting and timeline > self.promoting_from:
            found.setdefault(timeline, self.promoting)
        return found

    def text(self) -> str:
        """For others to read: ``2=1/vs-166 3=4/vs-28 >3=5/vs-166`` (the last: a promotion under way)."""
        words = [f"{timeline}={who}" for timeline, who in sorted(self.promotions.items())]
        return " ".join([*words, f">{self.promoting_from}={self.promoting}"] if self.promoting else words)

    @classmethod
    def from_text(cls, text: str) -> Lineage:
        """What ``text`` says; unknown words are left out."""
        found = re.findall(r"(>?)(\d+)=(\S+)", text)
        known = {int(number): who for begun, number, who in found if not begun}
        begun = [(int(number), who) for sign, number, who in found if sign]
        return cls(promotions=known, promoting_from=begun[-1][0], promoting=begun[-1][1]) if begun else cls(promotions=known)

    def followed(self, system_identifier: str, promotions: Mapping[int, str]) -> Lineage:
        """This server's data is the active's from now on, and so is its past."""
        return Lineage(system_identifier=system_identifier, promotions=dict(promotions))


class Book:
    """The file. Callable from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._now: Lineage | None = None

    def read(self) -> Lineage:
        """Raises ConfigError if it is damaged."""
        with self._lock:
            if self._now is None:
                self._now = self._load()
            return self._now

    def write(self, lineage: Lineage) -> None:
        """On the disk when this returns; nothing is written if it is what is there."""
        with self._lock:
            if self._now == lineage:
                return
            value = asdict(lineage) | {"promotions": {str(k): v for k, v in lineage.promotions.items()}}
            durable.write_json(self._path, value, mode=0o600)
            self._now = lineage

    def keep(self) -> None:
        """Somebody may have removed the file: what is known is written again."""
        with self._lock:
            now, self._now = self._now, None
        if now is not None and now != Lineage():
            self.write(now)

    def _load(self) -> Lineage:
        try:
            value = durable.read_json(self._path, {})
            promotions = {int(k): str(v) for k, v in value.pop("promotions", {}).items()}
            return Lineage(promotions=promotions, **value)
        except (TypeError, ValueError, AttributeError, ConfigError) as wrong:
            because = f"it {wrong.message}" if isinstance(wrong, ConfigError) else wrong
            raise ConfigError(f"is damaged: {because}", file=self._path, remedy=_REMEDY) from wrong
