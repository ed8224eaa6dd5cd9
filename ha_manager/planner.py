"""The thread of the plan: the pure plan, its journal and its lanes, kept away from the main loop.

Promise: an fsync of the journal, or a lane that hangs, delays neither the link to heartbeat nor Postgres; effects are
carried out in the plan's order. A journal that can't be written is reported, and the plan goes on without it. Source: design
§3, §6.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ha_manager.journal import JournalFile
from ha_manager.lanes import Lanes
from ha_manager.orders import Epoch, Role
from ha_manager.plan import Begin, Cancel, Ended, Event, Note, Observed, Plan, Report, RoleIs, Run, State, Tick
from ha_manager.steps import Steps
from runtime.errors import in_words

log = logging.getLogger(__name__)


class Reporter(Protocol):
    def report(self, text: str, alarm: str, raised: bool) -> None: ...


class Planner:
    """Post events from any thread; ``states`` may be read from any thread."""

    def __init__(self, journal: JournalFile, steps: Steps, reporter: Reporter, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._steps = steps
        self._reporter = reporter
        self._clock = clock
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lanes = Lanes(steps.action, self._events.put)
        self._plan = Plan()
        self._unwritable = False
        #: role, epoch and each step's state and last error, for status
        self.states: tuple[str, str, dict[str, tuple[str, str]]] = ("", "", {})

    def role(self, role: Role, epoch: Epoch, because: str) -> None:
        self._events.put(RoleIs(role, epoch, because))

    def observed(self, seen: Observed) -> None:
        self._events.put(seen)

    def end(self) -> None:
        self._lanes.end()
        self._events.put(None)

    def run(self) -> None:
        self._plan.journal = self._journal.load()
        while True:
            due = self._plan.deadline()
            try:
                event = self._events.get(timeout=None if due is None else max(0.0, due - self._clock()))
            except queue.Empty:
                event = Tick()
            if event is None:
                self._journal.close()
                return
            self.take(event)

    def take(self, event: Event) -> None:
        """One event, with all that follows from it."""
        if isinstance(event, RoleIs):
            steps, role = self._steps, event.role
            event = replace(
                event, was_passive=steps.marked(Role.PASSIVE), exists=steps.existing(role), marked=steps.marked(role)
            )
        for effect in self._plan.handle(event, self._clock()):
            match effect:
                case Begin(change):
                    self._durably(lambda change=change: self._journal.begin(change))  # type: ignore[misc]
                case Note(step, state, error):
                    self._durably(lambda s=step, t=state, e=error: self._journal.note(s, t, e))  # type: ignore[misc]
                case Run():
                    self._lanes.run(effect)
                case Cancel(plan):
                    self._lanes.cancel(plan)
                case Report(text, alarm, raised):
                    self._reporter.report(text, alarm, raised)
        current = self._plan.change
        if current is not None:
            words = {name: (state.value, error) for name, (state, error) in self._plan.states().items()}
            self.states = (current.role.value, str(current.epoch), words)

    def _durably(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as wrong:
            self._unwritable = True
            self._reporter.report(f"the journal of the role change can't be written: {in_words(wrong)}", "journal", True)
        else:
            if self._unwritable:
                self._unwritable = False
                self._reporter.report("the journal of the role change can be written again", "journal", False)

    @property
    def busy(self) -> bool:
        return any(state in (State.PENDING, State.BEGUN) for state, _ in self.states[2].values())


__all__ = ["Ended", "Planner"]
