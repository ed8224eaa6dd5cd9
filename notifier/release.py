"""Which device gets which configuration, when: the two-phase commit, decided.

Promise: no input or output, no clock.

- Nothing switches on a device that doesn't hold all of a release: Switch follows only what the device itself has said to be
  whole. What is asked of it never depends on what was asked before, only on what it said: after a lost connection its next
  word decides.
- Policy servers come first: they are prepared first, and no scanning server switches before each of them that can have the
  release has it. One that is absent, has failed, or hangs (no word for ``LIMIT``) holds nobody up.
- A device that was away, or failed, gets the newest release when it is back, or after 1, 2, 4 … 60 s.
- Targets are durable before anything is asked because of them, so a notifier that dies in the middle goes on afterwards.
- A device that obeys a higher version is left alone: this notifier belongs to an active that is none any more.

States of one device (``holds`` and ``staged`` as it said)::

          Connected     turn           Prepared        turn to switch         Switched
    ABSENT ──► WAITING ──► PREPARING ──────────► PREPARED ──────────► COMMITTING ──────► STABLE
       ▲          ▲            │ Failed, Abandon                          │
       │ Lost     └── FAILED ◄─┴──────────────────────────────────────────┘            Refused: FOREIGN

Source: design §7; Trustwave §2.3 ("On commit …"), issue "Manager and notifier".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from manager.holding import Release, Version
from notifier.model import (
    Abandon,
    Await,
    Changed,
    Commit,
    Connected,
    Device,
    Devices,
    Done,
    Effect,
    Event,
    Failed,
    Kind,
    Lost,
    Prepare,
    Prepared,
    Progress,
    Refused,
    Reign,
    Said,
    Save,
    State,
    Switch,
    Switched,
    Tick,
    Told,
)

#: devices to which differences travel at the same time
WIDTH = 64
#: without a word for so long, a device that was asked for something hangs
LIMIT = 20.0
LONGEST_DELAY = 60.0

#: something was asked of it, and it has not answered yet
_ASKED = frozenset({State.PREPARING, State.COMMITTING})
#: it will not have the release soon: nobody waits for it
_OUT = frozenset({State.ABSENT, State.FAILED, State.FOREIGN})


@dataclass
class Entry:
    """What is known of one device. Read-only outside of ``Releases``."""

    device: Device
    state: State = State.ABSENT
    because: str = "not connected yet"
    since: float = 0.0
    target: Release | None = None
    holds: Release | None = None
    staged: Release | None = None
    #: what it was asked for last (PREPARING, COMMITTING)
    asked: Release | None = None
    heard: float = 0.0
    tries: int = 0
    retry_at: float = 0.0
    #: nothing was heard of it yet, nor that it can't be reached
    untried: bool = True
    #: FOREIGN: the version that it obeys
    obeys: Version | None = None

    @property
    def ready(self) -> bool:
        """It can switch: it has all of its target."""
        return self.target is not None and (self.target == self.staged or self.in_sync)

    @property
    def in_sync(self) -> bool:
        """The reference's Sync Status."""
        return self.target is not None and self.holds is not None and self.holds.digest == self.target.digest


@dataclass
class _Operation:
    token: int
    names: set[str]
    failures: dict[str, str] = field(default_factory=dict)


class Releases:
    """``targets``: what was saved before this notifier began, by device."""

    def __init__(self, devices: Iterable[Device], targets: Mapping[str, Release], width: int = WIDTH) -> None:
        self.entries: dict[str, Entry] = {d.name: Entry(d, target=targets.get(d.name)) for d in devices}
        self._width = width
        self._operations: list[_Operation] = []
        self._effects: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time ``now``; return what to do about it, in order."""
        self._effects = []
        match event:
            case Tick():
                pass
            case Devices(devices):
                self._learn(devices, now)
            case Commit():
                self._commit(event, now)
            case Reign(version):
                self._reign(version, now)
            case Await(token, awaited):
                self._operations.append(_Operation(token, set(awaited) & set(self.entries)))
            case Connected() | Lost() | Progress() | Prepared() | Switched() | Failed() | Refused() | Told():
                if event.name in self.entries:
                    self._said(self.entries[event.name], event, now)
            case _:
                assert_never(event)
        self._settle(now)
        return self._effects

    def deadline(self) -> float | None:
        """When ``Tick`` is due, or None."""
        due = [e.retry_at for e in self.entries.values() if e.state is State.FAILED]
        due += [e.heard + LIMIT for e in self.entries.values() if e.state in _ASKED]
        return min(due, default=None)

    # --- what is said -----------------------------------------------------------------------------------------------------

    def _learn(self, devices: tuple[Device, ...], now: float) -> None:
        before = self.entries
        self.entries = {d.name: before.get(d.name) or Entry(d, since=now) for d in devices}
        for each in devices:
            self.entries[each.name].device = each
        if set(before) - set(self.entries):
            self._save()

    def _commit(self, event: Commit, now: float) -> None:
        names = set(self.entries) if event.only is None else set(self.entries) & event.only
        for name in names:
            entry = self.entries[name]
            entry.target, entry.tries = event.of(entry.device.kind), 0
            if entry.state is State.FAILED:
                entry.retry_at = now
            self._outbid(entry, event.release.version, now)
        self._save()
        if event.token is not None:
            self._operations.append(_Operation(event.token, names))

    def _outbid(self, entry: Entry, version: Version, now: float) -> None:
        if entry.state is State.FOREIGN and entry.obeys is not None and entry.obeys < version:
            self._move(entry, State.STABLE, "a newer release is to replace that one", now)

    def _reign(self, version: Version, now: float) -> None:
        for entry in self.entries.values():
            if entry.target is not None:
                entry.target = Release(version, entry.target.digest)
            self._outbid(entry, version, now)
        self._save()

    def _said(self, entry: Entry, event: Said, now: float) -> None:
        entry.heard, entry.untried = now, False
        match event:
            case Connected(holds=holds, staged=staged):
                entry.holds, entry.staged, entry.tries = holds, staged, 0
                self._move(entry, State.STABLE, "connected", now)
            case Told(holds=holds, staged=staged) if entry.state in (State.FOREIGN, State.STABLE):
                entry.holds, entry.staged, entry.tries = holds, staged, 0
                what = f"holds release {holds.version}" if holds is not None else "holds nothing that is known"
                self._move(entry, State.STABLE, f"it listens to this notifier, and {what}", now)
            case Lost(because=because):
                self._failure(entry, f"{because}; it gets the configuration when it is back")
                self._move(entry, State.ABSENT, because, now)
            case Prepared(release=release) if entry.state is State.PREPARING and release == entry.asked:
                entry.staged = release
                self._move(entry, State.PREPARED, f"holds all of release {release.version}", now)
            case Switched(release=release) if entry.state is State.COMMITTING and release == entry.asked:
                entry.holds, entry.staged, entry.tries = release, None, 0
                self._move(entry, State.STABLE, f"release {release.version} is in force", now)
            case Failed(because=because) if entry.state in _ASKED:
                self._fail(entry, because, now)
            case Refused(version=version):
                self._foreign(entry, version, now)
            case _:
                # Progress, or late news of something that is not asked any more.
                pass

    def _fail(self, entry: Entry, because: str, now: float) -> None:
        delay = min(LONGEST_DELAY, 2.0**entry.tries)
        entry.tries += 1
        entry.retry_at = now + delay
        # It was not as this notifier thought: preparing finds out, and moves nothing that is there already.
        entry.holds, entry.staged = None, None
        self._failure(entry, because)
        self._move(entry, State.FAILED, f"{because}; tried again in {delay:g} s", now)

    def _foreign(self, entry: Entry, version: Version, now: float) -> None:
        entry.obeys, entry.holds, entry.staged = version, None, None
        because = f"it obeys another notifier: release {version}"
        self._failure(entry, because)
        self._move(entry, State.FOREIGN, because, now)

    def _failure(self, entry: Entry, because: str) -> None:
        for operation in self._operations:
            if entry.device.name in operation.names:
                operation.failures[entry.device.name] = f"{entry.device.name}: {because}"

    def _save(self) -> None:
        self._effects.append(Save({name: e.target for name, e in self.entries.items() if e.target is not None}))

    def _move(self, entry: Entry, after: State, because: str, now: float) -> None:
        """The one place where a device changes its state."""
        self._effects.append(Changed(entry.device.name, entry.state, after, because))
        entry.state, entry.because, entry.since = after, because, now

    # --- what follows -----------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        for entry in self.entries.values():
            if entry.state in _ASKED and entry.heard + LIMIT <= now:
                self._effects.append(Abandon(entry.device.name, f"no word for {LIMIT:g} s"))
                self._failure(entry, f"hangs: no word for {LIMIT:g} s; it gets the configuration when it is back")
                self._move(entry, State.ABSENT, f"hangs: no word for {LIMIT:g} s", now)
            if entry.state is State.FAILED and entry.retry_at <= now:
                self._move(entry, State.WAITING, "tried again", now)
            if entry.state in (State.STABLE, State.PREPARED) and self._wants(entry):
                self._move(entry, State.WAITING, f"is to have release {entry.target.version}", now)  # type: ignore[union-attr]
        self._prepare(now)
        self._switch(now)
        self._report()

    def _wants(self, entry: Entry) -> bool:
        """There is something to be asked of it that was not asked yet."""
        if entry.target is None or entry.target == entry.holds:
            return False
        return entry.state is State.STABLE or not entry.ready

    def _in_turn(self, state: State) -> list[Entry]:
        """Policy servers first, then in the order of devices.xml."""
        return sorted((e for e in self.entries.values() if e.state is state), key=lambda e: e.device.kind is not Kind.POLICY)

    def _prepare(self, now: float) -> None:
        room = self._width - sum(e.state is State.PREPARING for e in self.entries.values())
        for entry in self._in_turn(State.WAITING):
            target = entry.target
            assert target is not None
            if target == entry.holds:
                self._move(entry, State.STABLE, f"release {target.version} is in force", now)
            elif entry.ready:
                self._move(entry, State.PREPARED, f"holds all of release {target.version}", now)
            elif room > 0:
                room -= 1
                entry.asked, entry.heard = target, now
                self._move(entry, State.PREPARING, f"release {target.version}", now)
                self._effects.append(Prepare(entry.device.name, target))

    def _switch(self, now: float) -> None:
        for entry in self._in_turn(State.PREPARED):
            target = entry.target
            assert target is not None
            if entry.device.kind is not Kind.POLICY and self._awaited(target):
                continue
            entry.asked, entry.heard = target, now
            self._move(entry, State.COMMITTING, f"release {target.version}", now)
            self._effects.append(Switch(entry.device.name, target))

    def _awaited(self, release: Release) -> bool:
        """A policy server is about to have it, with what is for policy servers only."""
        return any(
            e.device.kind is Kind.POLICY
            and e.target is not None
            and e.target.version == release.version
            and e.holds != e.target
            and e.state not in _OUT
            for e in self.entries.values()
        )

    def _report(self) -> None:
        for operation in list(self._operations):
            names = [self.entries[name] for name in operation.names if name in self.entries]
            for entry in names:
                if entry.device.name in operation.failures:
                    continue
                if entry.state is State.ABSENT and not entry.untried:
                    self._failure(entry, f"{entry.because}; it gets the configuration when it is back")
                if entry.state is State.FOREIGN:
                    self._failure(entry, entry.because)
            if all(e.holds == e.target or e.device.name in operation.failures for e in names):
                self._operations.remove(operation)
                failures = tuple(
                    operation.failures[e.device.name]
                    for e in names
                    if e.holds != e.target and e.device.name in operation.failures
                )
                self._effects.append(Done(operation.token, tuple(sorted(failures))))
