"""What a change of role needs, in which order: the plan.

Promise: pure. ``handle(event, now)`` returns what to do, to be carried out in list order: a step is noted in the journal before
it runs and again when its outcome is known, so a crashed ha_manager goes on where it was. A newer change of role supersedes the
running plan; a journal of an older epoch is discarded. Promotion waits for nothing here: Postgres follows heartbeat's wants in
a lane of its own, and the plan only watches for the proof. Source: design §6, Trustwave §2.1.

    becoming active                                            becoming passive

    files     marker ─► base ──────────► place                 files     marker
    manager            └─ reload ─┐                            manager                 ┌─ reload
    database  promoted ───────────┴┐    checkpoint, slot       policy    policy_stop ──┘
    policy                         └► policy_start ─► request ─► replicate
                                                               database  standby (watched)

``needs``: done before. ``after``: tried before, however it ended; what is only a matter of order must not keep a service down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from ha_manager.orders import Epoch, Names, Postgres, Role


class Lane(StrEnum):
    """Steps of one lane run one after the other, lanes side by side."""

    FILES = "files"
    MANAGER = "manager"
    POLICY = "policy"
    HOOKS = "hooks"
    DATABASE = "database"  # carried out by the Postgres worker; the plan watches for the proof


@dataclass(frozen=True)
class Step:
    """One idempotent thing to do. ``proof`` says in words what holds afterwards; ``limit`` is in seconds."""

    name: str
    lane: Lane
    words: str
    proof: str
    limit: float
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


BECOMING_ACTIVE = (
    Step("marker", Lane.FILES, "write the marker file", "the marker file active exists, passive does not", 5),
    Step("becoming_active", Lane.HOOKS, "run hooks.d/becoming-active", "each hook ended with 0", 60),
    Step("promoted", Lane.DATABASE, "promote Postgres", "Postgres takes writes", 30),
    Step("base", Lane.FILES, "copy conf_ready to base", "base equals conf_ready", 300, after=("marker",)),
    Step("reload", Lane.MANAGER, "manager-ctl reload", "the Manager runs in active mode", 60,
         needs=("marker",), after=("base",)),
    Step("place", Lane.FILES, "put replicated files in place", "each file equals its staged copy", 120, after=("base",)),
    Step("policy_start", Lane.POLICY, "start the policy server", "its status command says that it runs", 120,
         needs=("promoted",), after=("base", "place", "reload", "becoming_active")),
    Step("request", Lane.POLICY, "active_request_cli", "it ended with 0", 120, needs=("policy_start",)),
    Step("replicate", Lane.POLICY, "full_replicate", "it ended with 0", 600, needs=("request",)),
    Step("checkpoint", Lane.DATABASE, "CHECKPOINT", "the control file names the new timeline", 600, needs=("promoted",)),
    Step("active", Lane.HOOKS, "run hooks.d/active", "each hook ended with 0", 60,
         needs=("promoted",), after=("policy_start",)),
)  # fmt: skip

BECOMING_PASSIVE = (
    Step("marker", Lane.FILES, "write the marker file", "the marker file passive exists, active does not", 5),
    Step("becoming_passive", Lane.HOOKS, "run hooks.d/becoming-passive", "each hook ended with 0", 60),
    Step("policy_stop", Lane.POLICY, "stop the policy server", "its status command says that it is stopped", 120,
         after=("becoming_passive",)),
    Step("reload", Lane.MANAGER, "manager-ctl reload passive", "the Manager runs in passive mode", 60,
         needs=("marker",), after=("policy_stop",)),
    Step("standby", Lane.DATABASE, "Postgres as standby", "Postgres is in recovery", 3600),
    Step("passive", Lane.HOOKS, "run hooks.d/passive", "each hook ended with 0", 60, after=("policy_stop", "standby")),
)  # fmt: skip

#: Steps that only a failover needs: the device was passive before (Trustwave §2.1, "check if a failover occurred").
AT_FAILOVER = frozenset({"base", "place", "request", "replicate"})

RETRY_FIRST = 1.0
RETRY_MOST = 30.0
#: The lane ends a step at its limit itself; one that stays silent this much longer is reported as hung.
SILENCE = 5.0


class State(StrEnum):
    PENDING = "pending"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"  # a hook ended with ``ABORT``: not tried again in this plan


@dataclass(frozen=True)
class Change:
    """The journal's header of one plan: all that its steps depend on."""

    role: Role
    epoch: Epoch
    because: str = ""
    was_passive: bool = False
    #: steps that exist at all on this server (a command that isn't configured has no step)
    steps: tuple[str, ...] = ()


# --- events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoleIs:
    """Heartbeat's role for this server. The same role again, also with a newer epoch (solo, in sync), changes nothing."""

    role: Role
    epoch: Epoch
    because: str = ""
    #: the marker file ``passive`` exists, that is: this server was passive until now
    was_passive: bool = False
    #: names of the steps that have something to do on this server
    exists: frozenset[str] = frozenset()
    #: the marker file of this very role exists
    marked: bool = True


@dataclass(frozen=True)
class Observed:
    """What Postgres was just seen to be."""

    postgres: Postgres
    names: Names = Names.RELAXED
    checkpointed: bool = False


@dataclass(frozen=True)
class Ended:
    """A step has ended in its lane. ``plan``: as in ``Run``; outcomes of a superseded plan are ignored."""

    plan: int
    step: str
    ok: bool
    error: str = ""
    abort: bool = False


@dataclass(frozen=True)
class Tick:
    pass


Event = RoleIs | Observed | Ended | Tick


# --- effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """Start a new journal with this header, durably."""

    change: Change


@dataclass(frozen=True)
class Note:
    """Append to the journal, durably, before the next effect."""

    step: str
    state: State
    error: str = ""


@dataclass(frozen=True)
class Run:
    """Hand the step to its lane; answer with ``Ended``."""

    plan: int
    step: Step
    change: Change


@dataclass(frozen=True)
class Cancel:
    """End whatever still runs for this plan."""

    plan: int


@dataclass(frozen=True)
class Report:
    """A sentence for log, status and history. ``alarm`` names what it raises or, with ``raised`` false, ends."""

    text: str
    alarm: str = ""
    raised: bool = True


Effect = Begin | Note | Run | Cancel | Report


@dataclass(frozen=True)
class Journal:
    """What the journal held when ha_manager started."""

    change: Change
    states: Mapping[str, State]


@dataclass
class _Progress:
    """Where one step is. ``next_try`` and ``hung_at`` are monotonic times."""

    state: State = State.PENDING
    error: str = ""
    failures: int = 0
    next_try: float = -inf
    hung_at: float = inf
    #: something was said against it, and not taken back yet
    alarmed: bool = False


@dataclass
class Plan:
    """The steps of the newest role change. One object for the life of ha_manager."""

    journal: Journal | None = None
    change: Change | None = None
    number: int = 0
    _progress: dict[str, _Progress] = field(default_factory=dict)
    _seen: Observed = Observed(Postgres.UNKNOWN)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at monotonic time ``now`` (seconds); return what to do about it, in order."""
        effects: list[Effect] = []
        match event:
            case RoleIs():
                effects += self._role(event)
            case Observed():
                self._seen = event
            case Ended():
                effects += self._ended(event, now)
            case Tick():
                pass
        return effects + self._settle(now)

    def deadline(self) -> float | None:
        """When ``Tick`` is due: the next retry or the next step that must have answered; None: nothing is waited for."""
        times = [p.next_try for p in self._progress.values() if p.state is State.FAILED]
        times += [p.hung_at for p in self._progress.values() if p.state is State.BEGUN]
        return min((t for t in times if t < inf), default=None)

    @property
    def finished(self) -> bool:
        return self.change is not None and all(p.state in (State.DONE, State.ABORTED) for p in self._progress.values())

    def states(self) -> dict[str, tuple[State, str]]:
        """Each step's state and last error, in order, for ``ha show``."""
        return {name: (p.state, p.error) for name, p in self._progress.items()}

    # --- what happened ------------------------------------------------------------------------------------------------

    def _role(self, event: RoleIs) -> list[Effect]:
        if self.change is not None and self.change.role is event.role:
            return self._newer_epoch(event)
        effects: list[Effect] = [Cancel(self.number), *self._forget_alarms()] if self.change is not None else []
        resumed = self._resume(event)
        if resumed is not None:
            return effects + resumed
        owed = event.role is Role.ACTIVE and (event.was_passive or self._owes_failover())
        self.change = Change(event.role, event.epoch, event.because, owed, names_of(event.role, owed, event.exists))
        self.journal = None
        self.number += 1
        self._progress = {name: _Progress() for name in self.change.steps}
        return [*effects, Begin(self.change), Report(f"becoming {event.role}: {event.because}")]

    def _forget_alarms(self) -> list[Effect]:
        """What went wrong in a plan that is superseded is nobody's trouble any more."""
        return [Report("superseded", f"plan-{name}", False) for name, p in self._progress.items() if p.alarmed]

    def _resume(self, event: RoleIs) -> list[Effect] | None:
        """Go on with the journal if it is of this very role and epoch; what had begun runs again: steps are idempotent. HA
        turned off meanwhile leaves no marker: then what the journal calls done is not so any more.
        """
        found = self.journal
        if found is None or found.change.role is not event.role or found.change.epoch.number != event.epoch.number:
            return None
        if found.states.get("marker") is State.DONE and not event.marked:
            return None
        self.journal = None
        self.change = found.change
        self.number += 1
        again = {State.DONE: State.DONE, State.ABORTED: State.ABORTED}
        states = {name: again.get(found.states.get(name, State.PENDING), State.PENDING) for name in found.change.steps}
        self._progress = {name: _Progress(state) for name, state in states.items()}
        left = [name for name, state in states.items() if state is State.PENDING]
        return [Report(f"going on as {event.role} after a restart: {', '.join(left)} left to do")] if left else []

    def _owes_failover(self) -> bool:
        """A discarded or superseded plan began a failover on this server and never copied the received configuration."""
        if self.journal is not None:
            change, done = self.journal.change, self.journal.states.get("base") is State.DONE
        elif self.change is not None:
            change, done = self.change, "base" in self._progress and self._progress["base"].state is State.DONE
        else:
            return False
        return change.role is Role.ACTIVE and change.was_passive and "base" in change.steps and not done

    def _newer_epoch(self, event: RoleIs) -> list[Effect]:
        """The role stays and its epoch moves on (solo, in sync): the plan goes on under the new name, in the journal too."""
        assert self.change is not None
        if event.epoch.number == self.change.epoch.number:
            return []
        self.change = Change(self.change.role, event.epoch, self.change.because, self.change.was_passive, self.change.steps)
        known = [Note(name, p.state, p.error) for name, p in self._progress.items() if p.state is not State.PENDING]
        return [Begin(self.change), *known]

    def _ended(self, event: Ended, now: float) -> list[Effect]:
        progress = self._progress.get(event.step)
        if event.plan != self.number or progress is None or progress.state is not State.BEGUN:
            return []
        progress.hung_at = inf
        if event.ok:
            return self._done(event.step)
        progress.error, progress.alarmed = event.error, True
        if event.abort:
            progress.state = State.ABORTED
            return [Note(event.step, State.ABORTED, event.error), *self._abort_rest(event)]
        progress.state = State.FAILED
        progress.failures += 1
        wait = min(RETRY_MOST, RETRY_FIRST * 2 ** (progress.failures - 1))
        progress.next_try = now + wait
        text = f"{_words(event.step, self.change)} failed: {event.error}; next try in {wait:g} s"
        return [Note(event.step, State.FAILED, event.error), Report(text, f"plan-{event.step}")]

    def _done(self, name: str) -> list[Effect]:
        progress = self._progress[name]
        alarmed, progress.alarmed = progress.alarmed, False
        progress.state, progress.error = State.DONE, ""
        effects: list[Effect] = [Note(name, State.DONE)]
        if alarmed:
            effects.append(Report(f"{_words(name, self.change)}: done", f"plan-{name}", False))
        if self.finished and self.change is not None:
            effects.append(Report(f"all steps of becoming {self.change.role} are done"))
        return effects

    def _abort_rest(self, event: Ended) -> list[Effect]:
        """A hook said stop: what has not begun, apart from Postgres and the marker, stays undone until the next role change."""
        left = [n for n, p in self._progress.items() if p.state in (State.PENDING, State.FAILED) and n not in _NEVER_ABORTED]
        for name in left:
            self._progress[name].state = State.ABORTED
        text = f"{event.error}; it asked to stop here, left undone: {', '.join(left) or 'nothing'}"
        return [*(Note(name, State.ABORTED) for name in left), Report(text, f"plan-{event.step}")]

    # --- what to do next ----------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        """Watch Postgres, start what may start, report what hangs."""
        if self.change is None:
            return []
        effects: list[Effect] = []
        for name, progress in self._progress.items():
            step = _step(self.change.role, name)
            if step.lane is Lane.DATABASE:
                if progress.state is not State.DONE and self._proven(name) and self._may_start(step):
                    effects += self._done(name)
            elif progress.state is State.BEGUN and now >= progress.hung_at:
                progress.hung_at, progress.alarmed = inf, True
                effects.append(Report(f"{step.words} does not answer after its limit of {step.limit:g} s", f"plan-{name}"))
        for name, progress in self._progress.items():
            step = _step(self.change.role, name)
            if (
                step.lane is not Lane.DATABASE
                and self._due(progress, now)
                and self._may_start(step)
                and self._lane_free(step.lane)
            ):
                progress.state, progress.hung_at = State.BEGUN, now + step.limit + SILENCE
                effects += [Note(name, State.BEGUN), Run(self.number, step, self.change)]
        return effects

    def _due(self, progress: _Progress, now: float) -> bool:
        return progress.state is State.PENDING or (progress.state is State.FAILED and now >= progress.next_try)

    def _lane_free(self, lane: Lane) -> bool:
        assert self.change is not None
        role = self.change.role
        return not any(p.state is State.BEGUN and _step(role, n).lane is lane for n, p in self._progress.items())

    def _may_start(self, step: Step) -> bool:
        def state(name: str) -> State:
            return self._progress[name].state if name in self._progress else State.DONE

        needs = all(state(name) is State.DONE for name in step.needs)
        return needs and all(state(name) in (State.DONE, State.FAILED, State.ABORTED) for name in step.after)

    def _proven(self, name: str) -> bool:
        match name:
            case "promoted":
                return self._seen.postgres is Postgres.PRIMARY
            case "checkpoint":
                return self._seen.postgres is Postgres.PRIMARY and self._seen.checkpointed
            case _:
                return self._seen.postgres in (Postgres.STANDBY, Postgres.DETACHED)


#: What a hook can't stop: the data's own safety, and the files that say what this server is.
_NEVER_ABORTED = frozenset({"marker", "promoted", "checkpoint", "standby"})


def steps_of(role: Role) -> tuple[Step, ...]:
    return BECOMING_ACTIVE if role is Role.ACTIVE else BECOMING_PASSIVE


def names_of(role: Role, failover: bool, exists: frozenset[str]) -> tuple[str, ...]:
    """The steps that a change to ``role`` has on this server, in order."""
    return tuple(s.name for s in steps_of(role) if s.name in exists and (failover or s.name not in AT_FAILOVER))


def _step(role: Role, name: str) -> Step:
    return next(s for s in steps_of(role) if s.name == name)


def _words(name: str, change: Change | None) -> str:
    return _step(change.role, name).words if change is not None else name


def known(names: Sequence[str], role: Role) -> bool:
    """Whether a journal's steps are all of this version's: one written by another version is discarded."""
    return set(names) <= {s.name for s in steps_of(role)}
