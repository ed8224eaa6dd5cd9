"""What ha_manager says to others: /etc/ha_manager/ha_manager_status, the system log, alarms.

Promise: the file is replaced atomically and only on a change; each of the reference's four messages goes to the system log
once per change; an alarm is logged when it is raised, when its words change and when it ends. Called in the main loop. Source:
Trustwave §2.1.1, §3.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from runtime.durable import write_durably

log = logging.getLogger(__name__)

#: "alarms" that tell what was done, or what may be meant so: nothing is wrong now
NOTES = ("diverged", "mended", "loose")


class StatusFile:
    """``key=value`` lines for the policy server's GUI and other programs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""

    def write(self, values: Mapping[str, object]) -> None:
        """Write if anything changed. An error is logged, not raised: nobody's service hangs on this file."""
        text = "".join(f"{key}={_plain(value)}\n" for key, value in values.items())
        if text == self._written:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, text, durable=False)
            self._written = text
        except OSError as wrong:
            log.warning("%s can't be written: %s", self._path, wrong)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return " ".join(str(value).split())


class Messages:
    """The four messages of Trustwave §2.1.1, and everything else that an operator should know, each once per change."""

    def __init__(self) -> None:
        self.alarms: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def role(self, role: str, because: str) -> None:
        self._once("role", role, logging.WARNING, f"this device is now {role}: {because}")

    def replication_started(self, text: str) -> None:
        self._once("replication", f"started {text}", logging.INFO, f"Postgres replication started: {text}")

    def replication_initialised(self, text: str) -> None:
        self._once(
            "replication", f"initialised {text}", logging.INFO, f"initialization of the Postgres replication finished: {text}"
        )

    def passive_unreachable(self, why: str) -> None:
        """``why`` empty: it can be reached again."""
        if why:
            self._once(
                "passive",
                "unreachable",
                logging.WARNING,
                f"failed to connect to ha_manager on the passive policy server: {why}",
            )
        elif self._said.get("passive") == "unreachable":
            self._once("passive", "reachable", logging.INFO, "ha_manager on the passive policy server can be reached again")

    def alarm(self, name: str, text: str) -> None:
        """Raise (or reword) an alarm, or end it with an empty ``text``. In the log it looks like one of heartbeat's."""
        kind = "note" if name in NOTES else f"alarm {name}"
        if text:
            if self.alarms.get(name) != text:
                log.warning("%s: %s", kind, text)
            self.alarms[name] = text
        elif was := self.alarms.pop(name, ""):
            log.info("%s is over: %s", kind, was)

    def _once(self, topic: str, key: str, level: int, text: str) -> None:
        if self._said.get(topic) != key:
            self._said[topic] = key
            log.log(level, "%s", text)
