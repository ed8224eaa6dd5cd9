"""What is wrong, by name: logged once per change, kept until it is over.

Promise: the same text told again and again is one line in the log; its end is another. Source: design §8.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alarm:
    text: str
    #: seconds since 1970
    since: float


class Alarms:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.standing: dict[str, Alarm] = {}
        #: how many there have been
        self.raised = 0
        self._clock = clock

    def tell(self, name: str, text: str) -> None:
        """``text`` stands under ``name`` from now on; "": it is over."""
        before = self.standing.get(name)
        if text and (before is None or before.text != text):
            self.raised += 1
            self.standing[name] = Alarm(text, self._clock())
            log.warning("%s", text)
        elif before is not None and not text:
            del self.standing[name]
            log.info("over: %s", before.text)

    def clear(self, prefix: str) -> None:
        """Everything whose name begins so is over."""
        for name in [name for name in self.standing if name.startswith(prefix)]:
            self.tell(name, "")

    def status(self) -> list[dict[str, Any]]:
        return [{"name": name, "text": alarm.text, "since": alarm.since} for name, alarm in self.standing.items()]
