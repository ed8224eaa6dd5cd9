"""What is known of each replicated entry, for people and alarms.

Promise: pure. An alarm's words hold no figure that grows, since each change of words is a line in the log. Source: issue
"Replicated files", Status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any

from ha_manager.site import ReplicatedFile

#: an entry may be behind for so long, or for two of its intervals, before it is an alarm (seconds)
PATIENCE = 10.0


@dataclass
class Account:
    """Times of day are seconds since 1970, 0: never."""

    entry: ReplicatedFile
    kind: str = ""
    #: bytes, as far as known
    size: int = -1
    changed: float = 0.0
    copied: float = 0.0
    error: str = ""
    #: of a pass that runs, in words
    progress: str = ""
    #: why it can't be watched
    unwatched: str = ""
    #: full passes that were asked for and begun, and which of them was the last to be done
    asked: int = 0
    begun: int = 0
    done: int = 0

    def as_json(self, behind: float) -> dict[str, Any]:
        """``behind``: seconds since the oldest change that is not copied; ``inf``: unknown, 0: none."""
        return {
            "path": self.entry.name, "inotify": self.entry.inotify, "interval": self.entry.interval, "owner": self.entry.owner,
            "kind": self.kind, "size": self.size, "last_change": self.changed, "last_copied": self.copied,
            "behind": None if behind == inf else round(behind, 3), "error": self.error, "progress": self.progress,
            "unwatched": self.unwatched, "asked": self.asked, "done": self.done,
        }  # fmt: skip

    def line(self, behind: float) -> str:
        """For ha_manager_status: words and NAME=VALUE, times as ISO 8601, ``behind`` in whole seconds."""
        state = "behind" if behind >= 1 else "copied" if self.done else "waiting"
        state = "failed" if self.error else "copying" if self.progress else state
        values = {
            "behind": int(behind) if behind < inf else 0, "last_change": _iso(self.changed), "last_copied": _iso(self.copied),
            "size": self.size, "progress": self.progress, "error": self.error,
        }  # fmt: skip
        told = " ".join(f"{name}={value}" for name, value in values.items() if value not in ("", -1))
        return f"{self.entry.name} {state} {told}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else ""


def late(account: Account, behind: float) -> bool:
    patience = PATIENCE if account.entry.inotify else max(PATIENCE, 2.0 * account.entry.interval)
    return 0 < behind < inf and behind > patience and not account.progress


def alarms(accounts: Iterable[tuple[Account, float]], peer: str, why: str) -> dict[str, str]:
    """By name, "" where there is none. ``why``: what stands against copying at all."""
    rows = list(accounts)
    behind = [account for account, seconds in rows if late(account, seconds)]
    reason = why or next((account.error for account in behind if account.error), "it takes longer than it should")
    text = f"changes of {_list(behind)} have not reached {peer}: {reason}" if behind else ""
    failed = [account for account, _ in rows if account.error and account not in behind]
    if not text and failed:
        text = f"{failed[0].entry.name} can't be copied to {peer}: {failed[0].error}"
    unwatched = [account for account, _ in rows if account.unwatched]
    words = f"{_list(unwatched)}: {unwatched[0].unwatched}" if unwatched else ""
    return {"files": text, "files-watch": words}


def _list(accounts: list[Account]) -> str:
    named = ", ".join(account.entry.name for account in accounts[:2])
    return named if len(accounts) <= 2 else f"{named} and {len(accounts) - 2} more"


def summary(role: str, entries: int, connected: bool, behind: bool) -> str:
    """One word for ha_manager_status."""
    if not entries:
        return "none"
    if role == "active":
        return "waiting" if not connected else "behind" if behind else "copied"
    return "receiving" if role == "passive" else "off"
