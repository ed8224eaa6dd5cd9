"""Phases of a pair, the moments in them, and the faults that fall there.

Promise: a phase runs beside the fault and ends by itself; what a fault did is undone whatever happens, but for a kill; nothing
here judges. Commands that an operator would call again are called again. Source: docs/failure-modes.md; docs/operations.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.attack.deck import BRIEF, DISKS, POWER, SIDES, Attack
from bench.pair import MODULE_XML, SERVERS, NotSo, Pair, module_xml, other
from bench.writers import Writers
from lab.machine import Node
from runtime.clock import boottime
from runtime.commands import Completed
from runtime.errors import CommandFailed

#: For a moment or a process to come, for a phase with everything in its way (seconds); how often a command is called
_COMES, _PHASE, _CALLS = 20.0, 120.0, 4
#: the processes that have neither a pid file nor a name of their own
_CALLED = {
    "files": r"ha_manager\.files\.daemon", "backend": r"^postgres: .*\bledger\b", "sshd-session": r"^sshd: root",
    "crash-recovery": r"bin/postgres --single",
    "command": r"bin/(python3? .*)?ha (stop|start|failover|reseed|files)",
    **{name: rf"^postgres: (\S+: )?{name}" for name in ("checkpointer", "walwriter", "walsender", "walreceiver", "startup")},
}  # fmt: skip
_BULK = "mkdir -p /var/logserver/archive && head -c 30000000 /dev/urandom >/var/logserver/archive/bulk"


class NotHit(NotSo):
    """The moment did not come, or there was no such process."""


@dataclass
class Scene:
    """One attack: who is who, where the logs were when its phase began, what commands said."""

    pair: Pair
    writers: Writers
    attack: Attack
    profile: str
    active: str
    said: list[str] = field(default_factory=list)
    _began: threading.Event = field(default_factory=threading.Event)
    _logs: dict[str, int] = field(default_factory=dict)
    _journals: dict[str, str] = field(default_factory=dict)
    _known: dict[str, list[int]] = field(default_factory=dict)

    def server(self, side: str) -> Node:
        return self.pair.node(self.active if side == "active" else other(self.active))

    def play(self, meanwhile: Callable[[], None]) -> None:
        """Begin the phase, hit at the moment, undo, wait for the phase; ``meanwhile``: under the fault. Raises NotHit."""
        with ThreadPoolExecutor(1) as beside:
            phase = beside.submit(self._phase)
            try:
                self._await(lambda: self._began.is_set() or phase.done())
                self._moment()
                undo, end = self._hit(), boottime() + self.attack.seconds
                try:
                    meanwhile()
                    time.sleep(max(0.0, end - boottime()))
                finally:
                    undo()
            finally:
                phase.result(_PHASE)

    def log(self, name: str) -> str:
        """What was logged since the phase began."""
        with self.pair.node(name).path("/var/log/syslog").open("rb") as file:
            file.seek(self._logs.get(name, 0))
            return file.read().decode(errors="replace")

    # --- the phase --------------------------------------------------------------------------------------------------------

    def _phase(self) -> None:
        active, passive, phase = self.server("active"), self.server("passive"), self.attack.phase
        if phase in POWER or phase == "rejoin":
            self._lose_active(active, passive.name)
        elif phase in _SWITCHED:
            self._begin()
            self._configure(f"<replication {_SWITCHED[phase]}/>")
            time.sleep(3.0)
            self._configure("")
        else:
            if phase == "wiped":
                self._call("passive", "stop")
                if self.pair.active() != active.name:
                    raise NotHit("the roles have changed: nothing is wiped")
                passive.sh("rm -rf /var/lib/postgresql/*/main/*")
            active.sh(_BULK if phase in ("failover", "files") else "")
            self._begin()
            for words in _COMMANDS[phase]:
                self._call(*words)

    def _begin(self) -> None:
        """From here on the moments count."""
        self._logs = {name: self.pair.node(name).path("/var/log/syslog").stat().st_size for name in SERVERS}
        self._journals = {name: self._journal(name)[0] for name in SERVERS}
        self._known = {side: self._find(side) for side in SIDES}
        self._began.set()

    def _lose_active(self, active: Node, heir: str) -> None:
        """By power or by its cables; clients on it go on writing until it stands down, which is replaced when it is back."""
        cables = [f"{active.name}:{card.name}" for card in active.machine.interfaces]
        if self.attack.phase == "power cut":
            self._begin()
        if self.attack.phase in POWER:
            self.pair.lab.power_off(active.name)
        for cable in cables if self.attack.phase == "rejoin" else ():
            self.pair.lab.cut(cable)
        with contextlib.suppress(NotSo):  # who is under attack may never
            self.pair.until(lambda seen: heir in seen.active, 12.0, f"{heir} to take over")
        if self.attack.phase != "power cut":
            time.sleep(1.0)
            self._begin()
        if self.attack.phase in POWER:
            self.pair.lab.power_on(active.name, wait=False)
        for cable in cables if self.attack.phase == "rejoin" else ():
            self.pair.lab.heal(cable)

    def _configure(self, replication: str) -> None:
        for name in SERVERS:
            self.pair.node(name).write(MODULE_XML, module_xml(timing=f'<timing profile="{self.profile}"/>{replication}'))
            self.pair.node(name).sh("kill -HUP $(cat /run/ha_manager/ha_manager.pid)", check=False)

    def _call(self, side: str, *words: str) -> None:
        """``ha`` as an operator calls it; to turn HA off or on, until it has worked."""
        for _ in range(_CALLS if words[0] in ("stop", "start") else 1):
            try:
                done = self.pair.ha(self.server(side).name, *words, check=False)
            except CommandFailed as wrong:
                done = Completed("", str(wrong), -1, 60.0)
            self.say(side, words, done)
            if done.code == 0:
                break
            time.sleep(1.0)

    def say(self, where: str, words: tuple[str, ...], done: Completed) -> None:
        self.said.append(f"{where}# ha {' '.join(words)}   [{done.code}, {done.seconds:.1f} s]\n{done.stdout}{done.stderr}")

    # --- the moment -------------------------------------------------------------------------------------------------------

    def _await(self, true: Callable[[], object], every: float = 0.01) -> None:
        end = boottime() + _COMES
        while not true():
            if boottime() > end:
                raise NotHit(f"nothing was hit: {self.attack}")
            time.sleep(every)

    def _moment(self) -> None:
        words = self.attack.moment.split(" ", 2)
        if words[0] == "it":
            self._await(self._victims, 0.04)
        elif words[0] in SIDES:
            name, text = self.server(words[0]).name, words[2]
            self._await(lambda: text in self.log(name) if words[1] == "says" else self._step(name, text))
        if (delay := re.search(r"\+ (\S+) s", self.attack.moment)) is not None:
            time.sleep(float(delay[1]))

    def _step(self, name: str, step: str) -> bool:
        """It has begun in a change of role that is newer than the phase."""
        header, steps = self._journal(name)
        return header != self._journals[name] and f'"{step}"' in steps

    def _journal(self, name: str) -> tuple[str, str]:
        with contextlib.suppress(OSError):
            header, _, steps = self.pair.node(name).path("/var/lib/ha_manager/journal").read_text().partition("\n")
            return header, steps
        return "", ""

    def _find(self, side: str) -> list[int]:
        node, victim = self.server(side), self.attack.victim
        if not node.is_on:
            return []
        if victim not in _CALLED:
            return node.find("postgres" if victim == "postmaster" else victim)
        return [pid for pid, argv in node.processes().items() if re.search(_CALLED[victim], " ".join(argv))]

    def _victims(self) -> list[int]:
        brief = self.attack.victim in BRIEF
        return [pid for pid in self._find(self.attack.side) if not brief or pid not in self._known[self.attack.side]]

    # --- the fault --------------------------------------------------------------------------------------------------------

    def _hit(self) -> Callable[[], object]:
        """Do it; returns what undoes it."""
        attack, lab = self.attack, self.pair.lab
        if attack.way == "fill":
            node, file = self.server(attack.side), f"{DISKS[attack.victim]}/filler"
            node.sh(f"cat /dev/zero >{file} 2>/dev/null", check=False)
            return lambda: node.sh(f"rm -f {file}")
        if attack.way in ("kill", "stop"):
            self._await(self._victims, 0.04)
            hit = self._victims()
            _signal(hit, signal.SIGSTOP if attack.seconds else signal.SIGKILL)
            return lambda: _signal(hit, signal.SIGCONT) if attack.seconds else None
        names = {side: self.server(side).name for side in SIDES}
        link = attack.victim.replace("between", "active/passive")
        link = re.sub("active|passive", lambda side: names[side[0]], link)
        way, _, how = attack.way.partition(" ")
        if way == "lose":
            lab.loss(link, float(how.split()[0]))
        else:
            lab.cut(link, one_way=how or None)
        return lambda: lab.heal(link)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


_SWITCHED = {"asynchronous": 'synchronous="off"', "release": 'solo="release"'}
#: what is called in the other phases, and where
_COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "failover": (("active", "failover"),), "files": (("active", "files", "sync"),),
    "reseed": (("passive", "reseed", "--force"),), "wiped": (("passive", "start"),),
    "stop active": (("active", "stop"), ("active", "start")), "stop passive": (("passive", "stop"), ("passive", "start")),
}  # fmt: skip
