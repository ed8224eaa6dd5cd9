"""What every message of a Linux-HA node passes through: generation, sequence number, repetition, acknowledgement.

Promise: what a peer said once is handed on once, in its order; what was lost is asked for again and, if it doesn't come in
time, done without; nothing of an earlier run of the peer is handed on. Memory is bounded, whatever arrives. ``status`` is
handed on at once, because it tells that the peer lives. Source: facts/linux-ha-heartbeat.md, "Wire protocol" (``hg``, ``seq``,
every tenth acknowledged, history of 500, ``NS_rexmit``); docs/protocols.md, "Next to Linux-HA".
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from math import inf

Value = str | bytes
Frame = Mapping[str, Value]

#: messages that can be repeated for the peer, and the widest gap that is worth asking for
HISTORY = 500
#: the peer keeps what isn't acknowledged, so it hears of every tenth
ACK_EVERY = 10
#: seconds: two links may swap two messages; a request may be lost too; what doesn't come at all is done without
ASK_AFTER, ASK_AGAIN, GIVE_UP = 0.05, 0.25, 5.0

_HEX = re.compile(r"[0-9a-f]{1,16}\Z")
_DECIMAL = re.compile(r"[0-9]{1,18}\Z")


def hexadecimal(frame: Frame, name: str) -> int | None:
    """A number as Linux-HA writes most of them; None if there is none."""
    text = frame.get(name)
    return int(text, 16) if isinstance(text, str) and _HEX.match(text) else None


def decimal(frame: Frame, name: str) -> int | None:
    text = frame.get(name)
    return int(text) if isinstance(text, str) and _DECIMAL.match(text) else None


def numbered(kind: str) -> bool:
    """Control messages carry neither number nor load."""
    return not kind.startswith("NS_")


class Outbox:
    """What this node says in one run: numbers it and keeps the latest for who missed some."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.seq = 0
        self._history: deque[tuple[int, dict[str, Value]]] = deque(maxlen=HISTORY)

    def stamp(self, said: Frame) -> dict[str, Value]:
        """``said`` with its number, ready to be sent."""
        out = dict(said)
        if numbered(str(said["t"])):
            self.seq += 1
            out["seq"] = f"{self.seq:x}"
            out["hg"] = f"{self.generation:x}"
            self._history.append((self.seq, out))
        else:
            out["hg"] = f"{self.generation:x}"
        return out

    def again(self, first: int, last: int) -> list[dict[str, Value]]:
        """What was said under these numbers, as far as it is still known."""
        return [said for seq, said in self._history if first <= seq <= last]


class Inbox:
    """What one peer says."""

    def __init__(self) -> None:
        self.generation = 0
        #: everything up to here has been heard, or given up
        self.complete = -1
        self.replays = 0
        self._acked = -1
        #: heard beyond a gap; None: handed on already
        self._early: dict[int, Frame | None] = {}
        #: numbers that are missing: when they are to be asked for, and given up
        self._missing: dict[int, tuple[float, float]] = {}

    def take(self, frame: Frame, now: float) -> tuple[bool, list[Frame]]:
        """Take one frame. Returns whether a new run of the peer has begun, and the frames to be handed on, in order."""
        generation, kind = hexadecimal(frame, "hg"), str(frame.get("t", ""))
        if generation is None or generation < self.generation:
            self.replays += 1
            return False, []
        restarted = generation > self.generation
        if restarted:
            self.generation, self.complete, self._acked = generation, -1, -1
            self._early.clear()
            self._missing.clear()
        if not numbered(kind):
            return restarted, [frame]
        seq = hexadecimal(frame, "seq")
        return restarted, [] if seq is None else self._order(seq, kind, frame, now)

    def _order(self, seq: int, kind: str, frame: Frame, now: float) -> list[Frame]:
        if seq <= self.complete or seq in self._early:
            return []
        if self.complete < 0 or seq - self.complete > HISTORY:
            # the first that is heard of this run, or more was missed than the peer can repeat
            self._early.clear()
            self._missing.clear()
            self.complete = seq - 1
        at_once = kind == "status"
        self._early[seq] = None if at_once else frame
        self._missing.pop(seq, None)
        for each in range(self.complete + 1, seq):
            if each not in self._early and each not in self._missing:
                self._missing[each] = (now + ASK_AFTER, now + GIVE_UP)
        return ([frame] if at_once else []) + self._advance()

    def _advance(self) -> list[Frame]:
        ready: list[Frame] = []
        while self.complete + 1 in self._early:
            self.complete += 1
            frame = self._early.pop(self.complete)
            if frame is not None:
                ready.append(frame)
        return ready

    def give_up(self, now: float) -> list[Frame]:
        """What waited for messages that won't come any more."""
        ready: list[Frame] = []
        for seq in sorted(seq for seq, (_, end) in self._missing.items() if now >= end):
            del self._missing[seq]
            self._early[seq] = None
            ready += self._advance()
        return ready

    def ask(self, now: float) -> list[tuple[int, int]]:
        """Runs of missing numbers (first, last) that are to be asked for now."""
        due = sorted(seq for seq, (at, _) in self._missing.items() if now >= at)
        runs: list[tuple[int, int]] = []
        for seq in due:
            self._missing[seq] = (now + ASK_AGAIN, self._missing[seq][1])
            if runs and runs[-1][1] == seq - 1:
                runs[-1] = (runs[-1][0], seq)
            else:
                runs.append((seq, seq))
        return runs

    def acknowledge(self) -> int | None:
        """The number to acknowledge now, if one is due."""
        due = self.complete - self.complete % ACK_EVERY
        if self.complete < 0 or due <= self._acked or due == 0:
            return None
        self._acked = due
        return due

    @property
    def due(self) -> float:
        """When ``ask`` or ``give_up`` has something to do."""
        return min((min(times) for times in self._missing.values()), default=inf)
