"""Which promotion opened which timeline, and what this server's epoch began with: a small durable file.

Promise: what is noted is on the disk before the call returns; a damaged file is an error, never an empty answer. A promotion is
noted before it happens (``promoting``) and resolved when the number of its timeline is known, so that a crash in between is
told later. Source: design §4 rules 8 ("fewer committed transactions beyond the fork") and 10; ``rejoin`` uses it to tell apart
two promotions that chose the same number.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from runtime import durable
from runtime.errors import ConfigError


@dataclass(frozen=True)
class Lineage:
    """``promotions``: {timeline: "epoch/node"}. ``epoch``: the one whose primary this server is or was last; ``base``: the
    transaction counter with which it began. ``promoting``: asked for in that epoch, coming from that timeline.
    """

    system_identifier: str = ""
    promotions: Mapping[int, str] = field(default_factory=dict)
    epoch: int = 0
    base: int = -1
    primary_timeline: int = 0
    promoting: str = ""
    promoting_from: int = 0

    def promotion_begins(self, epoch: int, node: str, timeline: int, counter: int) -> Lineage:
        base = self.base if self.epoch == epoch and self.base >= 0 else counter
        return replace(self, epoch=epoch, base=base, promoting=f"{epoch}/{node}", promoting_from=timeline, primary_timeline=0)

    def promoted(self, timeline: int) -> Lineage:
        """The number of the timeline is known now."""
        known = dict(self.promotions)
        if self.promoting and timeline > self.promoting_from:
            known[timeline] = self.promoting
        return replace(self, promotions=known, promoting="", promoting_from=0, primary_timeline=timeline)

    def opened(self, epoch: int, counter: int) -> Lineage:
        """A new epoch without a promotion: going solo, or in sync again."""
        return self if self.epoch == epoch else replace(self, epoch=epoch, base=counter)

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

    def _load(self) -> Lineage:
        value = durable.read_json(self._path, {})
        try:
            promotions = {int(k): str(v) for k, v in value.pop("promotions", {}).items()}
            return Lineage(promotions=promotions, **value)
        except (TypeError, ValueError, AttributeError) as wrong:
            remedy = "remove it: the next comparison of databases will then find them diverged, and copy"
            raise ConfigError(f"is damaged: {wrong}", file=self._path, remedy=remedy) from wrong
