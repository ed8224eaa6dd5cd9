"""A whole pair, with its real ha_manager and Postgres, on a machine whose every core is busy with something else.

    sudo .venv/bin/python -m bench.under_load --minutes 10 --profile aggressive --json FILE

Promise: nothing is done to the pair but that stress-ng keeps all cores busy while two clients write now and then; whatever
change of phase or alarm heartbeat and ha_manager tell of was brought about by the load alone, and is in the figures, word for
word. ``bench.heartbeat --only load`` is the same for heartbeat alone, beside a scripted ha_manager. Source: issue "heartbeat:
right in every schedule of faults …" ("Held to": no false takeover in 10 minutes).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench import debian
from bench.heartbeat import PACKAGES, PROFILES
from bench.load import loaded
from bench.pair import SERVERS, Pair
from bench.record import acknowledgements, gaps
from bench.screen import Screen, shown
from bench.stage import need_root, stage
from bench.writers import QUICK
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError

#: seconds between two inserts of each client, between two looks at the pair, and between two lines of progress
_EVERY, _LOOK, _REPORT = 0.1, 1.0, 30.0
#: the first phase of each
_KINDS = {"opening": "takeovers", "standing-down": "handovers"}


@dataclass
class Watch:
    """What both servers tell of, each thing once."""

    pair: Pair
    changes: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    solo: int = 0
    _known: set[str] = field(default_factory=set)
    _raised: set[tuple[str, str]] = field(default_factory=set)
    _was_solo: dict[str, bool] = field(default_factory=dict)

    def begin(self) -> None:
        """What there is already, such as the note that a database was replaced, is nobody's doing."""
        self._known = {self._key(node, change) for node in SERVERS for change in self.pair.history(node)}
        self.look()
        self.alarms.clear()

    def look(self) -> None:
        raised = set()
        for node in SERVERS:
            status = self.pair.status(node)
            for change in self.pair.history(node):
                self._take(node, change)
            alarms = {**status.get("alarms", {}), **_alarms_of_ha_manager(self.pair, node)}
            raised |= {(node, name) for name in alarms}
            self.alarms.update(f"{node}, {name}: {text}" for name, text in alarms.items() if (node, name) not in self._raised)
            solo = bool(status.get("solo")) and status.get("role") == "active"
            self.solo += solo and not self._was_solo.get(node, False)
            self._was_solo[node] = solo
        self._raised = raised

    def _take(self, node: str, change: dict[str, Any]) -> None:
        key = self._key(node, change)
        if key in self._known:
            return
        self._known.add(key)
        self.kinds[_KINDS.get(str(change["after"]), "others")] += 1
        self.changes[key] = f"{node}: {change['before']} -> {change['after']}: {change['because']}"

    @staticmethod
    def _key(node: str, change: dict[str, Any]) -> str:
        return f"{node} {json.dumps(change, sort_keys=True)}"


def _alarms_of_ha_manager(pair: Pair, node: str) -> dict[str, str]:
    try:
        with Client(pair.node(node).path("/run/ha_manager/control"), 2.0) as manager:
            alarms: dict[str, str] = manager.request("status")["alarms"]
            return alarms
    except (ControlError, OSError) as wrong:
        return {"ha_manager": str(wrong)}


def run(screen: Screen, layer: Path, profile: str, minutes: float) -> dict[str, Any]:
    """The figures of one profile."""
    with (
        stage(screen, "bench-load", profile=profile, every=_EVERY) as drill,
        tempfile.TemporaryDirectory(dir="/var/tmp") as own,
    ):
        watch = Watch(drill.pair)
        watch.begin()
        screen.say(f"{minutes:g} minutes with stress-ng on every core, profile {profile}")
        began, load = boottime(), 0.0
        told = began
        with loaded(layer, Path(own)):
            while (now := boottime()) < began + minutes * 60:
                time.sleep(_LOOK)
                watch.look()
                load = max(load, os.getloadavg()[0])
                if now - told >= _REPORT:
                    told = now
                    screen.say(f"{(now - began) / 60:.1f} minutes: {_words(watch)} (load {os.getloadavg()[0]:.1f})")
            ended = boottime()
        acks = acknowledgements(drill.writers.entries(QUICK), began)
        longest = max((round(gap.ms) for gap in gaps(acks, began, acks[-1]) if gap.end), default=0) if acks else 0
        verdicts = drill.writers.verdicts()
        for text in (*watch.changes.values(), *watch.alarms):
            screen.error(text)
        return {
            "minutes": round((ended - began) / 60, 2), "false_takeovers": watch.kinds["takeovers"],
            "handovers": watch.kinds["handovers"], "solo": watch.solo, "changes": list(watch.changes.values()),
            "alarms": dict(watch.alarms), "acknowledged": len(acks), "longest_pause_ms": longest,
            "lost": sum(len(verdict.lost) for verdict in verdicts), "load": round(load, 1),
        }  # fmt: skip


def _words(watch: Watch) -> str:
    kinds = watch.kinds
    moved = f"{kinds['takeovers']} takeovers, {kinds['handovers']} hand-overs"
    return f"{moved}, {watch.solo} times alone, {watch.alarms.total()} alarms"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True, help="Minutes under load, of each profile.")
@click.option("--profile", "profiles", type=click.Choice(PROFILES), multiple=True, help="Only this; may be given again.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
def main(minutes: float, profiles: tuple[str, ...], json_file: Path | None) -> None:
    """Count what a busy machine makes of a pair: it should be nothing. Ends with 1 if a role moved or a write was lost."""
    need_root()
    found: dict[str, Any] = {}
    with shown("under load") as screen:
        try:
            layer = debian.provide(PACKAGES, screen.say)
            for profile in profiles or PROFILES:
                found[profile] = run(screen, layer, profile, minutes)
                screen.plain(f"profile {profile}: {json.dumps({k: v for k, v in found[profile].items() if k != 'changes'})}")
        finally:
            if json_file is not None:
                json_file.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(each["changes"] or each["lost"] for each in found.values()))


if __name__ == "__main__":
    main()
