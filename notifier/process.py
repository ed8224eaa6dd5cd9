"""The notifier at work: between its decisions (``release``), the store, the connections, and whoever asks it.

Promise: events are decided one after the other, effects carried out in their order; what devices are to have is on the disk
before any of them is asked; where this server is not the active one nothing is asked of anybody. Begun again after a crash
it goes on with what was saved. On a new active it begins with what this server's own conf_ready holds, which is whole, and
not with what its state remembers of an earlier reign. Source: design §7; Trustwave §2.3, §5.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, assert_never

from manager.holding import Release, Version
from notifier import standing, versions
from notifier.devices import Listed, load
from notifier.links import Links, Talker
from notifier.mailbox import Mailbox
from notifier.model import (
    Abandon,
    Await,
    Changed,
    Commit,
    Devices,
    Done,
    Effect,
    Event,
    Kind,
    Prepare,
    Reign,
    Save,
    State,
    Switch,
    Tick,
)
from notifier.paths import Paths
from notifier.release import Releases
from notifier.store import Committed, Saved, Store
from notifier.succession import highest_of, succeed
from runtime import clock
from runtime.control import ControlServer, Request
from runtime.errors import ConfigError, HaError
from runtime.loop import Loop, Timer
from runtime.suspension import suspended
from runtime.worker import Worker

log = logging.getLogger(__name__)

#: so often is looked whether this server is (still) active (seconds)
PERIOD = 0.25
#: whoever waits for a commit while the role is away (a first commit can begin high availability) waits so long (seconds)
PATIENCE = 90.0
#: a commit waits so long for a notifier that has just begun (seconds)
BEGINS = 30.0
#: from one failed attempt to begin to serve the devices to the next (seconds)
AGAIN = 5.0
_HISTORY = 500


class Report(Protocol):
    """The module ``report``: it knows the notifier, not the other way round."""

    def status(self, notifier: Notifier) -> dict[str, Any]: ...
    def rows(self, notifier: Notifier) -> list[dict[str, Any]]: ...
    def explain(self, notifier: Notifier) -> list[str]: ...


@dataclass
class Waiting:
    """Somebody who asked for a commit."""

    request: Request
    version: Version
    names: tuple[str, ...]
    began: float = field(default_factory=clock.boottime)


class Notifier:
    """``begin`` serves; the loop's owner runs the loop. ``dial`` is made by ``dialler``, which is given this."""

    def __init__(
        self,
        paths: Paths,
        loop: Loop,
        node: str,
        dialler: Callable[[Notifier], Callable[[Listed], Talker]],
        report: Report,
    ) -> None:
        self._report = report
        self.paths, self.loop, self.node = paths, loop, node
        self.store = Store(paths.state, paths.base, paths.stable)
        self.history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        self.standing = standing.Standing(False, (0, ""), "it has just begun")
        #: "" or why the newest devices.xml is not in force, or why nothing can be done
        self.refused = ""
        self.highest: Version | None = highest_of(self.store, paths)
        self.releases: Releases | None = None
        self.listed: tuple[Listed, ...] = ()
        self._mailbox = Mailbox(loop.selector)
        self._worker = Worker(loop.selector)
        self.links = Links(loop, self._mailbox.put, self.post, dialler(self), node, self.version_for)
        self._events: deque[Event] = deque()
        self._deciding = False
        self._deadline: Timer | None = None
        self._last_token = 0
        self._waiting: dict[int, Waiting] = {}
        self._succeeding, self._not_before = False, 0.0
        self._server: ControlServer | None = None

    # --- life -----------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._server = ControlServer(
            self.paths.control,
            self.loop.selector,
            {
                "status": self._asked_status,
                "commit": self._asked_commit,
                "reload": self._asked_reload,
                "history": lambda request: _in_rows(request, {}, "changes", self.history),
                "explain": lambda request: _in_rows(request, {}, "lines", self._report.explain(self)),
            },
            output_limit=16 * 1024 * 1024,
        )
        self._watch()

    def end(self) -> None:
        if self._server is not None:
            self._server.close()
        self.links.shut_down()
        self._worker.close()
        self._mailbox.close()

    def version(self) -> Version:
        """The highest of this reign so far."""
        epoch, node = self.standing.epoch
        if self.highest is not None and (self.highest.epoch, self.highest.node) == (epoch, node):
            return self.highest
        return Version(epoch, node, 0)

    def version_for(self, name: str) -> Version:
        """What is named to that device: that of what it is to have, less than the newest after a limited commit. Any thread."""
        entry = self.releases.entries.get(name) if self.releases is not None else None
        now = self.version()
        if entry is not None and entry.target is not None and _same_reign(entry.target.version, now):
            return entry.target.version
        return now

    def policy_servers(self) -> tuple[str, ...]:
        """Their names. Any thread."""
        return tuple(each.device.name for each in self.listed if each.device.kind is Kind.POLICY)

    # --- the role -----------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self.loop.call_after(PERIOD, self._watch)
        found = standing.look(self.paths.role, self.paths.topology, self.node, self.highest, self.paths.commander)
        before, self.standing = self.standing, found
        if found.acts and self.releases is None:
            self._take_over()
        elif self.releases is not None and found.acts and _next(before.epoch) == found.epoch:
            self._reign_on()
        elif self.releases is not None and (not found.acts or found.epoch != before.epoch):
            self._lay_down(found.because)
        elif not found.acts and found.because != before.because:
            log.info("%s", found.because)
        for token, each in list(self._waiting.items()):
            if self.releases is None and clock.boottime() - each.began > PATIENCE:
                self._answer(token, (f"{self.standing.because}: nobody knows yet which devices have it",))

    def _take_over(self) -> None:
        """Begin to serve the devices: with what was saved, or what another notifier brought here meanwhile."""
        if self._succeeding or clock.boottime() < self._not_before:
            return
        self._succeeding = True
        epoch, found = self.standing.epoch, []

        def job() -> None:
            found.append(succeed(self.store, self.paths, epoch))

        self._worker.do(job, partial(self._succeeded, epoch, found))

    def _succeeded(self, epoch: tuple[int, str], found: list[Saved], wrong: Exception | None) -> None:
        self._succeeding = False
        if wrong is not None:
            self._not_before = clock.boottime() + AGAIN
            if str(wrong) != self.refused:
                log.error("the devices can't be served: %s", wrong)
            self.refused = str(wrong)
            return
        if not self.standing.acts or self.standing.epoch != epoch:
            return
        log.info("%s: its notifier serves the devices", self.standing.because)
        saved = found[0]
        self.highest, self.refused = saved.highest, ""
        self.listed = self._devices_at_start()
        self.releases = Releases([each.device for each in self.listed], saved.targets)
        self.links.renew(self.listed)
        for token, each in self._waiting.items():
            self.post(Await(token, frozenset(each.names)))
        self.post(Tick())

    def _devices_at_start(self) -> tuple[Listed, ...]:
        """Those of base; where that file can't be used, those that were committed last."""
        try:
            return load(self.paths.devices)
        except ConfigError as wrong:
            self.refused = str(wrong)
            log.error("%s", wrong)
        try:
            return load(self.paths.committed_devices)
        except ConfigError:
            return ()

    def _reign_on(self) -> None:
        """This server goes on in the next epoch (without its standby): nobody has served the devices in between, and nobody has
        to be connected anew."""
        log.info("%s: its notifier goes on serving the devices", self.standing.because)
        if self.highest is not None:
            self.highest = Version(*self.standing.epoch, self.highest.number + 1)
            self.post(Reign(self.highest))

    def _lay_down(self, because: str) -> None:
        log.info("the devices are served no more: %s", because)
        self.releases = None
        self.links.close(because)
        if self._deadline is not None:
            self._deadline.cancel()

    def reread(self) -> None:
        """SIGHUP: devices.xml and the pinned keys; what is wrong is refused and changes nothing."""
        if self.releases is None:
            return
        try:
            self._learn(load(self.paths.devices))
        except ConfigError as wrong:
            self.refused = str(wrong)
            log.error("%s", wrong)
        self.links.retry()

    def _learn(self, listed: tuple[Listed, ...]) -> None:
        self.refused = ""
        if listed != self.listed:
            self.listed = listed
            self.links.renew(listed)
            self.post(Devices(tuple(each.device for each in listed)))

    # --- deciding -------------------------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Decide about ``event`` after those that were posted before it, and do what follows."""
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._events:
                event = self._events.popleft()
                if self.releases is not None:
                    for effect in self.releases.handle(event, self.loop.now()):
                        self._carry_out(effect)
        finally:
            self._deciding = False
        self._rearm()

    def _rearm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        due = self.releases.deadline() if self.releases is not None else None
        self._deadline = self.loop.call_at(due, partial(self.post, Tick())) if due is not None else None

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Save(targets):
                self.store.save(Saved(self.highest, targets))
            case Prepare(name, release):
                assert self.releases is not None
                entry = self.releases.entries[name]
                self.links.prepare(name, release, entry.holds, entry.staged)
            case Switch(name, release):
                self.links.switch(name, release)
            case Abandon(name, because):
                log.warning("%s: %s", name, because)
                self.links.abandon(name, because)
            case Changed():
                self._changed(effect)
            case Done(token, failures):
                self._answer(token, failures)
            case _:
                assert_never(effect)

    def _changed(self, change: Changed) -> None:
        grave = change.after in (State.FAILED, State.FOREIGN)
        news = grave or change.after is State.STABLE or change.before is State.FAILED
        log.log(logging.WARNING if grave else logging.INFO if news else logging.DEBUG, "%s: %s", change.name, change.because)
        line = {"at": clock.stamp(), "name": change.name, "before": change.before, "after": change.after}
        self.history.append({**line, "because": change.because})
        for each in self._waiting.values():
            if change.name in each.names:
                fields = {"name": change.name, "state": change.after, "because": change.because}
                each.request.channel.send({"push": "progress", **fields})

    # --- requests -------------------------------------------------------------------------------------------------------------

    def _asked_status(self, request: Request) -> dict[str, Any] | None:
        def told() -> dict[str, Any]:
            return _in_rows(request, self._report.status(self), "devices", self._report.rows(self))

        if self.refused and self.releases is not None:
            with contextlib.suppress(ConfigError):  # what was wrong may have been corrected since
                self._learn(load(self.paths.devices))
        if not request.fields.get("now"):
            return told()
        self.links.ask_all(lambda: request.answer(told()))
        return None

    def _asked_reload(self, request: Request) -> dict[str, Any]:
        self._must_act()
        self._learn(load(self.paths.devices))
        self.links.retry()
        self._bring_keys()
        return {}

    def _bring_keys(self) -> None:
        """Keys that were pinned since the last commit: the other policy server has them before it needs them."""
        assert self.releases is not None
        held = {e.target.digest for e in self.releases.entries.values() if e.device.kind is Kind.POLICY and e.target}
        made: dict[str, str] = {}

        def job() -> None:
            made.update({digest: self.store.with_keys(digest) for digest in held})

        if held and not self._mixed():
            self._worker.do(job, partial(self._keys_kept, made))

    def _keys_kept(self, made: dict[str, str], wrong: Exception | None) -> None:
        if wrong is not None:
            log.warning("the keys that were pinned are brought to the policy servers with the next commit only: %s", wrong)
        if self.releases is None:
            return
        for before, after in made.items():
            entries = self.releases.entries.values()
            names = [e.device.name for e in entries if e.device.kind is Kind.POLICY and e.target and e.target.digest == before]
            if names and before != after:
                self.highest = self._next_version()
                log.info("the keys of devices, release %s for %s", self.highest, ", ".join(names))
                self.post(Commit(Release(self.highest, after), frozenset(names)))

    def _must_act(self) -> None:
        if self.releases is None:
            raise HaError(self.refused or f"no device is served from here: {self.standing.because}")

    def _asked_commit(self, request: Request) -> None:
        """Where it has just become its turn, it begins first."""
        begins = clock.boottime() + BEGINS

        def when_begun() -> None:
            if self.releases is None and self.standing.acts and not self.refused and clock.boottime() < begins:
                self.loop.call_after(PERIOD, when_begun)
                return
            try:
                self._commit(request)
            except HaError as no:
                request.refuse(str(no))

        when_begun()

    def _commit(self, request: Request) -> None:
        """Raises HaError."""
        self._must_act()
        self._learn(load(self.paths.devices))
        only = request.fields.get("only")
        known = {each.device.name for each in self.listed}
        names = known if only is None else set(map(str, only))
        if names - known:
            unknown = ", ".join(sorted(names - known))
            raise HaError(f"not in {self.paths.devices}: {unknown} (it has {', '.join(sorted(known)) or 'no devices'})")
        if why := self._mixed():
            raise HaError(why)
        found: list[Committed] = []
        self._worker.do(
            lambda: found.append(self.store.commit()), partial(self._kept, request, only is not None, frozenset(names), found)
        )

    def _mixed(self) -> str:
        """Why the two policy servers may not be given one configuration: their versions don't go together. "" if they may."""
        told = {each.device.name: self.links.links[each.device.name] for each in self.listed if each.device.kind is Kind.POLICY}
        packages = {name: link.package for name, link in told.items() if link.line is not None and link.package}
        return versions.why_not(packages, self.node, partial(suspended, self.paths.heartbeat))

    def _kept(
        self, request: Request, limited: bool, names: frozenset[str], found: list[Committed], wrong: Exception | None
    ) -> None:
        if wrong is not None:
            if not isinstance(wrong, HaError):
                log.error("base could not be committed", exc_info=wrong)
            return request.refuse(str(wrong))
        if self.releases is None:
            return request.refuse(self.standing.because)
        committed = found[0]
        version = self.highest = self._next_version()
        self._last_token += 1
        self._waiting[self._last_token] = Waiting(request, version, tuple(sorted(names)))
        self.links.retry()
        log.info("commit: release %s for %s", version, ", ".join(sorted(names)) if limited else "all devices")
        release = Release(version, committed.policy)
        self.post(Commit(release, names if limited else None, self._last_token, scanning=committed.scanning))
        return None

    def _next_version(self) -> Version:
        """Above those that devices have heard in this epoch, too: this server may have lost its state."""
        assert self.releases is not None
        before = self.version()
        heard = [e.obeys.number for e in self.releases.entries.values() if e.obeys and _same_reign(e.obeys, before)]
        return replace(before, number=max([before.number, *heard]) + 1)

    def _answer(self, token: int, failures: tuple[str, ...]) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return
        seconds = clock.boottime() - waiting.began
        for each in failures:
            log.warning("commit of release %s: %s", waiting.version, each)
        log.info(
            "commit of release %s: %d of %d have it", waiting.version, len(waiting.names) - len(failures), len(waiting.names)
        )
        waiting.request.answer(
            {"version": str(waiting.version), "devices": len(waiting.names), "failures": list(failures), "seconds": seconds}
        )
        if not self._waiting:
            self._collect()

    def _collect(self) -> None:
        """Nobody waits: remove what nobody needs."""
        if self.releases is None:
            return
        entries = list(self.releases.entries.values())
        needed = {each.digest for e in entries for each in (e.target, e.asked) if each is not None}
        based_on = {each.digest for e in entries for each in (e.holds, e.staged) if each is not None}
        self._worker.do(partial(self.store.collect, needed, based_on), self._collected)

    def _collected(self, wrong: Exception | None) -> None:
        if wrong is not None:
            log.warning("what is not needed any more can't be removed: %s", wrong)


def _in_rows(request: Request, answer: dict[str, Any], word: str, rows: Iterable[Any]) -> dict[str, Any]:
    """A long list goes ahead of the answer, row by row (``client.ask`` puts it together)."""
    for row in rows:
        request.channel.send({"push": "row", "row": row})
    return {**answer, "rows": word}


def _next(epoch: tuple[int, str]) -> tuple[int, str]:
    """The one that the same server opens right after this one."""
    number, node = epoch
    return (number + 1, node)


def _same_reign(one: Version, other: Version) -> bool:
    return (one.epoch, one.node) == (other.epoch, other.node)
