"""What must hold once an attack is over: the pair is whole by itself, and nothing that was acknowledged is missing.

Promise: each sentence names one thing that does not hold; none means that all does. What ``ha diverged`` reports as kept is no
loss, but told. Source: design §4; issue "Postgres: no acknowledged write lost …" ("Done when").
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from bench.attack.scene import Scene
from bench.pair import SERVERS, NotSo, Pair
from bench.record import Entry, acknowledgements, gaps
from bench.writers import QUICK, Writers, local_name
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError

_DAEMONS = ("manager", "heartbeat", "ha_manager", "keeper", "postgres")
#: stand on purpose: what a rejoin kept, and a replicated file that a power cut left newer on the old active
_MAY_STAND = frozenset({"diverged", "files-newer"})
#: two servers that acknowledge within so little of each other do so at the same time (seconds)
_TOGETHER = 0.5
_LOOK, _AGAIN = 0.2, 30.0
_STREAMS = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"


@dataclass
class Court:
    """One for a whole campaign: what was missing once is told once."""

    pair: Pair
    writers: Writers
    _missing: set[tuple[str, int]] = field(default_factory=set)

    def wait(self, limit: float) -> float:
        """Seconds until one is active, the other in sync, every process in its place, no alarm. Raises NotSo, Silent."""
        began = boottime()
        while missing := self._missing_now():
            if boottime() > began + limit:
                raise NotSo(f"after {limit:g} s {missing}")
            time.sleep(_LOOK)
        took = boottime() - began
        for name in SERVERS:
            self.writers.start_local(name)
        self.writers.steady(15.0)
        return took

    def _missing_now(self) -> str:
        seen = self.pair.see()
        self.pair.forgive(seen)  # a campaign flaps on purpose
        if not seen.settled:
            return seen.in_words()
        if alarms := self._alarms():
            return f"alarms stand: {alarms}"
        gone = [f"{process} of {name}" for name in SERVERS for process in _DAEMONS if not self.pair.node(name).find(process)]
        return f"there is no {', '.join(gone)}" if gone else ""

    def _alarms(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in SERVERS:
            for daemon in ("heartbeat", "ha_manager", "manager"):
                alarms: dict[str, Any] = {}
                try:
                    with Client(self.pair.node(name).path(f"/run/{daemon}/control"), 2.0) as client:
                        alarms = client.request("status").get("alarms", {})
                except (ControlError, OSError) as wrong:
                    alarms = {"silent": str(wrong)}
                found |= {f"{name}, {daemon}, {key}": str(text) for key, text in alarms.items() if key not in _MAY_STAND}
        return found

    def judge(self, scene: Scene, since: float) -> list[str]:
        """What does not hold, of a pair that ``wait`` found whole; what only looks so because it moved meanwhile, does."""
        wrong = self._ledger() + together({name: self.writers.entries(local_name(name)) for name in SERVERS}, since)
        if self._looks_wrong():
            self.wait(_AGAIN)
            wrong += self._looks_wrong()
        return wrong + [text for text in scene.said if "Traceback" in text]

    def _looks_wrong(self) -> list[str]:
        """Postgres itself, and the screens."""
        wrong, active = [], self.pair.active()
        psql = ["runuser", "-u", "postgres", "--", "psql", "-XAtqc", _STREAMS, "postgres"]
        if (streams := self.pair.node(active).run(psql, check=False).stdout.strip()) != "1":
            wrong.append(f"Postgres of {active} has {streams or 'no'} synchronous standbys that stream")
        asked = [(name, word) for name in SERVERS for word in ("show", "explain")]
        with ThreadPoolExecutor(len(asked)) as all_:
            for (name, word), said in zip(asked, all_.map(lambda each: self.pair.ha(*each, check=False), asked), strict=True):
                if said.code or (word == "show" and "ready to take over" not in said.stdout.split("\n")[0]):
                    wrong.append(f"ha {word} on {name} [{said.code}]: {said.stdout[:150]!r} {said.stderr[:200]!r}")
        return wrong

    def _ledger(self) -> list[str]:
        wrong = []
        for verdict in self.writers.verdicts():
            lost = [id for id in verdict.lost if (verdict.client, id) not in self._missing]
            self._missing |= {(verdict.client, id) for id in lost}
            if lost:
                wrong.append(f"{verdict.client}: {len(lost)} acknowledged writes are missing, from {lost[0]}; {self._kept()}")
            if verdict.twice or verdict.strange:
                wrong.append(f"{verdict.client}: {len(verdict.twice)} twice, {len(verdict.strange)} never sent")
        return wrong

    def _kept(self) -> str:
        """What both servers report as kept of replaced databases."""
        told = []
        for name in SERVERS:
            for kept in json.loads(self.pair.ha(name, "diverged", "--json", check=False).stdout or "[]"):
                told.append(f"{name} keeps {kept.get('transactions')} transactions (acknowledged: {kept.get('acknowledged')})")
        return ", ".join(told) or "nothing is reported as kept"

    def pause(self, since: float) -> float:
        """The longest that a client was not acknowledged, in seconds."""
        now, entries = boottime(), self.writers.entries(QUICK)
        return max(((gap.end or now) - gap.begin for gap in gaps(acknowledgements(entries), since, now)), default=0.0)


def together(clients: dict[str, Sequence[Entry]], since: float) -> list[str]:
    """One server acknowledged, then the other, then the first again, within ``_TOGETHER``. ``clients``: one on each server."""
    acks = sorted((at, name) for name, entries in clients.items() for at in acknowledgements(entries, since))
    turns = [(name, [at for at, _ in turn]) for name, turn in groupby(acks, key=lambda ack: ack[1])]
    for (name, before), (rival, _), (_, after) in zip(turns, turns[1:], turns[2:], strict=False):
        if (apart := after[0] - before[-1]) < _TOGETHER:
            return [f"{name} and {rival} acknowledged within {apart:.3f} s of each other"]
    return []


def new_lines(logs: Iterable[str], known: set[str]) -> list[str]:
    """Sentences that no log had so far, numbers and stamps aside."""
    found = []
    for line in (line for log in logs for line in log.splitlines()):
        plain = re.sub(r"\d+|vs-\w+", "#", line.partition(" ")[2].partition(" ")[2])
        if plain not in known:
            known.add(plain)
            found.append(line)
    return found
