"""Which processes run on this device: the decisions of the Manager.

Promise: no input or output, no clock. What is enabled runs, what is not is stopped, and nothing else is touched.

- Fresh starts go by ``start_order``, stops by ``stop_order``: lower numbers first, equal numbers together. A fresh start waits
  for processes that the same change stops. So heartbeat can start first *and* stop first: its hand-over needs ha_manager.
- A process that died, or hung and was killed, is started again at once and out of turn, as the address's lease doesn't wait
  (or after its ``restart_after``: ha_manager stops the policy server before it tells the Manager that the device is passive).
  Should it die again before its quiet time is over, the next tries come after 1, 2, 4 … 60 s (at most 2 s for
  heartbeat and ha_manager). There is an alarm from the first death on (with ``restart_after``: if it is over, and it was not
  meant to stop) until it has been quiet.
- A death that was announced as meant (``Expected``) raises no alarm; otherwise it is one like any other.
- After ``give_up_after`` tries in a row it is given up: the alarm stays, and nothing is started until an operator or a reload
  asks for it, or the next boot. If somebody else starts it, that is noticed within a minute.
- What an operator stopped stays stopped until an operator starts it, a reload releases it, or the next boot.

States of one process (``wants``: enabled, not held by an operator, not shutting down)::

                      wants, in turn              Started
          STOPPED ───────────────────► STARTING ───────────► RUNNING ◄─── found running
             ▲  ▲                       ▲    │ StartFailed    │  │  │ Hung
     Stopped │  │ not wanted      in due│    ▼          Died  │  │  └────────► KILLING
             │  └──────────────────── WAITING ◄───────────────┘  │                │
             └──────────── STOPPING ◄────────────── not wanted ──┘   WAITING ◄────┘ Died

          WAITING ── its last try has failed ──► GIVEN_UP ── asked to try again ──► WAITING
                                                    └── Found ──► RUNNING

Source: design §7; the reference, 2 ("manager-ctl reload").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from .model import (
    Alarm,
    Changed,
    Died,
    Done,
    Effect,
    Event,
    Exit,
    Expected,
    Found,
    Held,
    Hung,
    Kill,
    Look,
    Mode,
    OperatorStart,
    OperatorStop,
    Process,
    Reload,
    Shutdown,
    Start,
    Started,
    StartFailed,
    State,
    Stop,
    Stopped,
    Tick,
)

LONGEST_DELAY = 60.0
#: the same for a process with a control socket (heartbeat, ha_manager): without it this server neither serves nor takes over
LONGEST_OF_HA = 2.0
#: from one look at a process that was given up to the next
LOOK_PERIOD = 30.0
#: an announced death comes within so many seconds
EXPECTED = 5.0

#: States in which there is, or may soon be, a process.
_PRESENT = frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.KILLING})
#: It should be there and isn't.
_ABSENT = frozenset({State.WAITING, State.GIVEN_UP})


@dataclass
class Entry:
    """What is known of one process. Read-only outside of ``Roles``."""

    process: Process
    state: State = State.STOPPED
    enabled: bool = False
    held: bool = False
    pid: int = 0
    since: float = 0.0
    because: str = "not started yet"
    #: starts after deaths and failures since it was last quiet
    tries: int = 0
    #: WAITING: when the next start is due; GIVEN_UP: the next look
    retry_at: float = 0.0
    #: RUNNING with ``tries``: when all is forgotten
    quiet_at: float | None = None
    #: restarts since this Manager began
    restarts: int = 0
    alarm: str = ""
    #: a death until then is on purpose, for this reason: no alarm
    expected: str = ""
    expected_until: float = 0.0
    #: becomes the alarm if nobody says within ``restart_after`` that it was meant to stop
    unsaid: str = ""
    #: it ran in this Manager's time: the next start is a restart
    ran: bool = False
    #: takes the place of ``process`` once that is stopped
    replacement: Process | None = None
    #: no longer in the configuration: forgotten once it is stopped
    obsolete: bool = False


@dataclass
class _Operation:
    """Somebody waits until every one of ``names`` is where it should be, or has failed to get there."""

    token: int
    names: set[str]
    mode: Mode | None = None
    failures: dict[str, str] = field(default_factory=dict)


class Roles:
    """``held``: what an operator had stopped before this Manager began."""

    def __init__(self, held: Iterable[str] = ()) -> None:
        self.mode: Mode | None = None
        self.entries: dict[str, Entry] = {}
        self.leaving = ""
        self._held_before = frozenset(held)
        self._operations: list[_Operation] = []
        self._effects: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time ``now``; return what to do about it, in order."""
        self._effects = []
        match event:
            case Tick():
                pass
            case Reload():
                self._reload(event, now)
            case OperatorStart():
                self._release(event.names, now)
                self._wait_for(event.token, event.names)
            case OperatorStop():
                for name in event.names:
                    self.entries[name].held = True
                self._tell_held()
                self._wait_for(event.token, event.names)
            case Expected(name=name, because=because):
                self.entries[name].expected, self.entries[name].expected_until = because, now + EXPECTED
            case Shutdown():
                self.leaving = event.because
            case Started() | Found() | StartFailed() | Stopped() | Died() | Hung():
                if event.name in self.entries:
                    self._happened(self.entries[event.name], event, now)
            case _:
                assert_never(event)
        self._settle(now)
        return self._effects

    def deadline(self) -> float | None:
        """When ``Tick`` is due, or None."""
        due = [e.retry_at for e in self.entries.values() if e.state in _ABSENT]
        due += [e.quiet_at for e in self.entries.values() if e.state is State.RUNNING and e.quiet_at is not None]
        return min(due, default=None)

    def wants(self, entry: Entry) -> bool:
        """Should there be a process?"""
        return entry.enabled and not entry.held and not self.leaving and entry.replacement is None and not entry.obsolete

    # --- what is said -----------------------------------------------------------------------------------------------------

    def _reload(self, event: Reload, now: float) -> None:
        first = self.mode is None
        known = {process.name: process for process in event.known}
        for name, process in known.items():
            self._learn(name, process, event, now)
        for name, entry in self.entries.items():
            if name not in known:
                entry.obsolete = True
            entry.enabled = name in event.enabled
        # During an operator's stop, a reload may be its own consequence (ha_manager turns passive): it releases nobody.
        busy = any(e.held and e.state in _PRESENT for e in self.entries.values())
        released = () if first or busy or not event.release else tuple(name for name, e in self.entries.items() if e.held)
        waiting = tuple(name for name, e in self.entries.items() if e.state in _ABSENT and not e.held)
        self._release((*released, *waiting), now)
        self.mode = event.mode
        astray = [n for n, e in self.entries.items() if not self._settled(e, None) and self._concerned(e)]
        self._wait_for(event.token, astray, event.mode)

    def _concerned(self, entry: Entry) -> bool:
        """Does a reload's caller wait for it? Not for what an operator's stop or the shutdown is about."""
        return self.wants(entry) or not entry.enabled or entry.replacement is not None

    def _learn(self, name: str, process: Process, event: Reload, now: float) -> None:
        entry = self.entries.get(name)
        if entry is None:
            entry = self.entries[name] = Entry(process, since=now, held=name in self._held_before)
            if name in event.running:
                entry.pid = event.running[name]
                self._move(entry, State.RUNNING, f"found running (pid {entry.pid})", now)
                entry.ran = True
            return
        entry.obsolete = False
        if entry.state not in _PRESENT or entry.process.same_process(process):
            entry.process, entry.replacement = process, None
        else:
            entry.replacement = process

    def _release(self, names: Iterable[str], now: float) -> None:
        before = self._held()
        for name in names:
            entry = self.entries[name]
            entry.held = False
            entry.tries = 0
            if entry.state is State.GIVEN_UP:
                self._move(entry, State.WAITING, "asked to try again", now)
            if entry.state is State.WAITING:
                entry.retry_at = now
        if self._held() != before:
            self._tell_held()

    def _held(self) -> frozenset[str]:
        return frozenset(name for name, entry in self.entries.items() if entry.held)

    def _tell_held(self) -> None:
        self._effects.append(Held(self._held()))

    # --- what happens -----------------------------------------------------------------------------------------------------

    def _happened(self, entry: Entry, event: Started | Found | StartFailed | Stopped | Died | Hung, now: float) -> None:
        match event, entry.state:
            case Started(pid=pid), State.STARTING:
                entry.pid = pid
                entry.restarts += entry.ran
                entry.ran = True
                entry.quiet_at = now + entry.process.quiet if entry.tries or entry.alarm else None
                self._move(entry, State.RUNNING, f"started (pid {pid})", now)
            case Found(pid=pid), State.GIVEN_UP:
                entry.pid = pid
                entry.ran = True
                entry.quiet_at = now + entry.process.quiet
                self._move(entry, State.RUNNING, f"started by somebody else (pid {pid})", now)
            case StartFailed(because=because), State.STARTING:
                self._failed(entry, f"did not start: {because}")
                self._again(entry, max(entry.tries, 1), f"did not start: {because}", now)
            case Stopped(problem=problem), State.STOPPING:
                if problem:
                    self._failed(entry, problem)
                self._gone(entry, problem or "stopped", now)
            case Died(because=because), State.RUNNING:
                meant, entry.expected = entry.expected if now <= entry.expected_until else "", ""
                self._again(entry, entry.tries, f"{because} ({meant})" if meant else because, now, alarming=not meant)
            case Died(), State.KILLING:
                self._again(entry, entry.tries, f"killed, as it {entry.because}", now)
            case Hung(because=because), State.RUNNING:
                self._raise(entry, because)
                self._move(entry, State.KILLING, because, now)
                self._effects.append(Kill(entry.process, because))
            case _:
                # Late news of a state that has passed: the state that followed decides.
                pass

    def _again(self, entry: Entry, tries: int, because: str, now: float, *, alarming: bool = True) -> None:
        """It is gone although it should be there: plan the next start, the first one for now."""
        if not self.wants(entry):
            self._gone(entry, because, now)
            return
        if 0 < entry.process.give_up_after <= tries:
            self._give_up(entry, tries, because, now)
            return
        longest = LONGEST_OF_HA if entry.process.control else LONGEST_DELAY
        backoff = 0.0 if tries == 0 else min(longest, 2.0 ** (tries - 1))
        delay = max(backoff, entry.process.restart_after)
        entry.tries = tries + 1
        entry.retry_at = now + delay
        entry.pid = 0
        when = "starting it again at once" if delay == 0 else f"starting it again in {delay:g} s"
        news = entry.alarm != because
        if tries == 0 and entry.process.restart_after > 0 and not entry.alarm:
            entry.unsaid = because
        elif alarming:
            self._raise(entry, because)
        self._move(entry, State.WAITING, f"{because}; {when}", now, news=news)

    def _give_up(self, entry: Entry, tries: int, because: str, now: float) -> None:
        again = f"manager-ctl start {entry.process.name} once the cause is gone"
        text = f"{because}; given up after {tries} {'try' if tries == 1 else 'tries'}: {again}"
        entry.pid = 0
        entry.retry_at = now + LOOK_PERIOD
        self._raise(entry, text)
        self._move(entry, State.GIVEN_UP, text, now)

    def _gone(self, entry: Entry, because: str, now: float) -> None:
        entry.pid = 0
        entry.tries = 0
        entry.ran = False
        entry.unsaid = ""
        self._move(entry, State.STOPPED, because, now)
        if entry.replacement is not None:
            entry.process, entry.replacement = entry.replacement, None

    def _failed(self, entry: Entry, because: str) -> None:
        for operation in self._operations:
            if entry.process.name in operation.names:
                operation.failures[entry.process.name] = f"{entry.process.name}: {because}"

    def _raise(self, entry: Entry, text: str) -> None:
        if entry.alarm != text:
            entry.alarm = text
            self._effects.append(Alarm(entry.process.name, True, text))

    def _clear(self, entry: Entry) -> None:
        if entry.alarm:
            entry.alarm = ""
            self._effects.append(
                Alarm(entry.process.name, False, "runs again" if entry.state is State.RUNNING else "is not wanted")
            )

    def _move(self, entry: Entry, after: State, because: str, now: float, *, news: bool = True) -> None:
        """The one place where a process changes its state."""
        self._effects.append(Changed(entry.process.name, entry.state, after, because, news))
        entry.state, entry.because, entry.since = after, because, now

    # --- what follows -----------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        for entry in self.entries.values():
            if entry.state in _ABSENT and not self.wants(entry):
                self._gone(entry, self._why_not(entry), now)
            if entry.state is State.RUNNING and entry.quiet_at is not None and entry.quiet_at <= now:
                entry.tries, entry.quiet_at = 0, None
                self._clear(entry)
            if entry.state is State.STOPPED and not self.wants(entry):
                self._clear(entry)
        for name in [name for name, e in self.entries.items() if e.obsolete and e.state is State.STOPPED]:
            del self.entries[name]
        self._stop(now)
        self._start(now)
        self._report()

    def _stop(self, now: float) -> None:
        leaving = [e for e in self.entries.values() if e.state in _PRESENT and not self.wants(e)]
        turn = min((e.process.stop_order for e in leaving), default=0)
        for entry in leaving:
            if entry.state is State.RUNNING and entry.process.stop_order == turn:
                self._move(entry, State.STOPPING, self._why_not(entry), now)
                self._effects.append(Stop(entry.process))

    def _start(self, now: float) -> None:
        for entry in self.entries.values():
            if entry.state is State.GIVEN_UP and entry.retry_at <= now:
                entry.retry_at = now + LOOK_PERIOD
                self._effects.append(Look(entry.process))
            if entry.state is State.WAITING and entry.retry_at <= now:
                if entry.unsaid:
                    self._raise(entry, entry.unsaid)
                    entry.unsaid = ""
                self._launch(entry, now)
        if any(e.state in _PRESENT and not self.wants(e) and not e.held for e in self.entries.values()):
            return
        coming = [
            e
            for e in self.entries.values()
            if self.wants(e) and (e.state is State.STOPPED or (e.state is State.STARTING and not e.tries))
        ]
        turn = min((e.process.start_order for e in coming), default=0)
        for entry in coming:
            if entry.state is State.STOPPED and entry.process.start_order == turn:
                self._launch(entry, now)

    def _launch(self, entry: Entry, now: float) -> None:
        why = f"enabled in {self.mode} mode" if not entry.tries else f"try {entry.tries} after a death or failure"
        self._move(entry, State.STARTING, why, now, news=entry.tries <= 1)
        self._effects.append(Start(entry.process, again=entry.ran))

    def _why_not(self, entry: Entry) -> str:
        if self.leaving:
            return self.leaving
        if entry.held:
            return "stopped by an operator"
        if entry.replacement is not None:
            return "its configuration has changed"
        return "no longer configured" if entry.obsolete else f"not enabled in {self.mode} mode"

    def _wait_for(self, token: int | None, names: Iterable[str], mode: Mode | None = None) -> None:
        if token is not None:
            self._operations.append(_Operation(token, set(names), mode))

    def _settled(self, entry: Entry | None, operation: _Operation | None) -> bool:
        if entry is None:
            return True
        if not self.wants(entry):
            return entry.state is State.STOPPED and entry.replacement is None
        failed = operation is not None and entry.process.name in operation.failures
        return entry.state is State.RUNNING or (failed and entry.state in _ABSENT)

    def _report(self) -> None:
        for operation in list(self._operations):
            if all(self._settled(self.entries.get(name), operation) for name in operation.names):
                self._operations.remove(operation)
                failures = list(operation.failures.values())
                if operation.mode not in (None, self.mode):
                    failures.append(f"a later reload has changed the mode to {self.mode}")
                self._effects.append(Done(operation.token, tuple(failures)))
        if self.leaving and all(e.state is State.STOPPED for e in self.entries.values()):
            self._effects.append(Exit())
