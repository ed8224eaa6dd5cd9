"""What moves with the virtual addresses beside them: which script is to run next (haresources, left to right).

Promise: one script at a time. Started left to right, and no further than to the first that fails: what stands to its right may
need it; it is tried again after ``RETRY``. Stopped right to left; one that can't be stopped doesn't keep those to its left
from being stopped. Nothing is believed that wasn't seen: what a crash of heartbeat left behind is asked for its status, and
then adopted (wanted, and running) or stopped. A start under way is broken off when the addresses go, and what it had begun is
stopped. Pure: ``scripts`` carries out. Source: facts/linux-ha-heartbeat.md (haresources); LSB, "Init Script Actions".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

#: seconds after which what failed is tried again
RETRY = 30.0


class Act(StrEnum):
    START = "start"
    STOP = "stop"
    STATUS = "status"


class State(StrEnum):
    #: a predecessor may have left it running
    UNKNOWN = "unknown"
    STARTED = "started"
    STOPPED = "stopped"
    #: a start or a stop failed or was broken off
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """Run script number ``index``; answer with ``ended``."""

    index: int
    act: Act


@dataclass(frozen=True)
class BreakOff:
    """End what runs now, and everything that it started; ``ended`` follows all the same."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with resource number ``index``; "": nothing any more."""

    index: int
    text: str


Order = Run | BreakOff | Problem


@dataclass(frozen=True)
class Outcome:
    """How a script ended. ``ok``: it did what it was to do; for ``status``: it said that the resource runs."""

    ok: bool
    text: str = ""
    #: it didn't end in time, or could not be run at all: it has said nothing
    silent: bool = False


class Sequencer:
    """The states of ``count`` resources, and the one script that runs."""

    def __init__(self, count: int) -> None:
        self.states = [State.UNKNOWN] * count
        self._wanted: bool | None = None  # None: not known yet, nothing is touched
        self._running: Run | None = None
        self._broken_off = False
        #: not tried again before then
        self._retry_at = [-inf] * count

    @property
    def stopped(self) -> bool:
        """Nothing runs and nothing is left to stop (now: what can't be stopped is tried again later)."""
        return self._running is None and all(
            state is State.STOPPED or at > -inf for state, at in zip(self.states, self._retry_at, strict=True)
        )

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        waiting = [
            at for at, state in zip(self._retry_at, self.states, strict=True) if at > -inf and not self._as_wanted(state)
        ]
        return min(waiting) if waiting and self._running is None else None

    def want(self, started: bool, now: float) -> list[Order]:
        """The addresses are here now, or they go."""
        if started is not self._wanted:
            self._wanted = started
            self._retry_at = [-inf] * len(self.states)
        orders: list[Order] = []
        if not started and self._running and self._running.act is not Act.STOP and not self._broken_off:
            self._broken_off = True
            orders.append(BreakOff())
        return orders + self.tick(now)

    def tick(self, now: float) -> list[Order]:
        """The next script, if it is time for one."""
        if self._running is not None or self._wanted is None:
            return []
        self._running = self._first_to_start(now) if self._wanted else self._first_to_stop(now)
        return [self._running] if self._running else []

    def ended(self, outcome: Outcome, now: float) -> list[Order]:
        """The script that ran has ended."""
        run, broken_off = self._running, self._broken_off
        self._running, self._broken_off = None, False
        if run is None:
            return []
        orders = self._judge(run, outcome, broken_off, now)
        return orders + self.tick(now)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _as_wanted(self, state: State) -> bool:
        return state is (State.STARTED if self._wanted else State.STOPPED)

    def _first_to_start(self, now: float) -> Run | None:
        for index, state in enumerate(self.states):
            if state is not State.STARTED:
                if now < self._retry_at[index]:
                    return None
                return Run(index, Act.STATUS if state is State.UNKNOWN else Act.START)
        return None

    def _first_to_stop(self, now: float) -> Run | None:
        for index, state in reversed(list(enumerate(self.states))):
            if state is not State.STOPPED and now >= self._retry_at[index]:
                return Run(index, Act.STATUS if state is State.UNKNOWN else Act.STOP)
        return None

    def _judge(self, run: Run, outcome: Outcome, broken_off: bool, now: float) -> list[Order]:
        if run.act is Act.STATUS:
            if not broken_off:
                # a status that says nothing doesn't stand in the way of what is wanted
                unclear = State.FAILED if outcome.silent else State.STOPPED
                self.states[run.index] = State.STARTED if outcome.ok else unclear
            return []
        if broken_off:
            self.states[run.index] = State.FAILED
            return []
        done = State.STARTED if run.act is Act.START else State.STOPPED
        self.states[run.index] = done if outcome.ok else State.FAILED
        self._retry_at[run.index] = -inf if outcome.ok else now + RETRY
        if outcome.ok:
            return [Problem(run.index, "")]
        return [Problem(run.index, f"{run.act} failed: {outcome.text}")]
