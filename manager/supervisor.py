"""The Manager at work: between its decisions (``roles``), its hands, its files and whoever asks on the control socket.

Promise: events are decided one after the other, effects carried out in their order; a configuration that can't be read changes
nothing; each request is answered when what it asked for is done, with what failed. Source: design §7; docs/protocols.md.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, assert_never

from runtime import clock
from runtime.control import ControlServer, Request
from runtime.durable import read_bytes, remove_durably, write_durably
from runtime.errors import ConfigError, ControlError
from runtime.loop import Loop, Timer
from runtime.worker import Worker

from . import config, uname
from .child import Child
from .config import Configuration
from .hands import Hands
from .model import (
    Alarm,
    Changed,
    Done,
    Effect,
    Event,
    Exit,
    Expected,
    Found,
    Held,
    Kill,
    Look,
    Mode,
    OperatorStart,
    OperatorStop,
    Reload,
    Shutdown,
    Start,
    Stop,
    Tick,
)
from .paths import Paths
from .receiver import argv as receiver_argv
from .report import receiver_alarms, status
from .roles import Roles

log = logging.getLogger(__name__)

_HISTORY = 200
#: the role of the pair's own processes: `ha` turns it on and off
_PAIR = "HA"


class Supervisor:
    """``begin`` reads the configuration and serves; the loop's owner runs the loop until it stops."""

    def __init__(self, paths: Paths, loop: Loop) -> None:
        self.paths = paths
        self.loop = loop
        self.roles = Roles(_held_before(paths))
        self.history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        #: what is in force
        self.configuration: Configuration | None = None
        #: "" or why the newest configuration is not in force
        self.refused = ""
        #: "" or why this Manager began with an earlier version of its configuration, and still has it
        self._outdated = ""
        self._good: dict[Mode, Configuration] = {}
        self._hands = Hands(loop, self.post)
        self._worker = Worker(loop.selector)
        self._uname = uname.DeviceUname(loop)
        self._receiver = Child(loop, receiver_argv(paths.root), paths.keys / "node.key")
        #: "" or why the newest port of device_uname is not in force
        self._uname_refused = ""
        self._events: deque[Event] = deque()
        self._deciding = False
        self._deadline: Timer | None = None
        self._requests: dict[int, Request] = {}
        self._problems: dict[int, list[str]] = {}
        self._last_token = 0
        self._server: ControlServer | None = None

    def begin(self) -> None:
        """Take over what runs, start what is enabled. Raises ConfigError if the configuration can't be used."""
        mode = self.paths.mode()
        self._remember_other(mode)
        configuration = self._read_first(mode)
        handlers = {
            "status": lambda _: status(self),
            "history": lambda _: {"changes": list(self.history)},
            "reload": self._asked_reload,
            "start": self._asked_start,
            "expect": self._asked_expect,
            "stop": self._asked_stop,
        }
        self._server = ControlServer(self.paths.control, self.loop.selector, handlers, on_close=self._forget_client)
        log.info("starts in %s mode", mode)
        self._apply(configuration, None, release=False)
        self._receiver.begin()

    def end(self) -> None:
        self._receiver.end()
        if self._server is not None:
            self._server.close()
        self._uname.close()
        self._worker.close()

    def reread(self) -> None:
        """SIGHUP: the configuration of the present mode, from the disk; what is wrong is refused and changes nothing."""
        try:
            self._apply(self._read(self._mode()), None, release=False)
        except ConfigError as wrong:
            self.refused = str(wrong)
            log.error("%s", config.outline(wrong))

    def shut_down(self, because: str) -> None:
        self.post(Shutdown(because))

    def post(self, event: Event) -> None:
        """Decide about ``event`` after those that were posted before it, and do what follows."""
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._events:
                for effect in self.roles.handle(self._events.popleft(), self.loop.now()):
                    self._carry_out(effect)
        finally:
            self._deciding = False
        self._rearm()

    def _rearm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        due = self.roles.deadline()
        self._deadline = self.loop.call_at(due, partial(self.post, Tick())) if due is not None else None

    # --- effects ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Start(process, again):
                self._hands.start(process, again)
            case Look(process):
                if (pid := self._hands.adopt(process)) is not None:
                    self.post(Found(process.name, pid))
            case Stop(process):
                self._hands.stop(process)
            case Kill(process):
                self._hands.kill(process)
            case Changed():
                self._changed(effect)
            case Alarm(name, True, text):
                log.error("alarm %s: %s", name, text)
            case Alarm(name, _, text):
                log.info("alarm %s is over%s", name, f": {text}" if text else "")
            case Held(names):
                self._write_held(names)
            case Done(token, failures):
                self._answer(token, failures)
            case Exit():
                self.loop.stop()
            case _:
                assert_never(effect)

    def _changed(self, change: Changed) -> None:
        level = logging.INFO if change.news else logging.DEBUG
        log.log(level, "%s: %s -> %s: %s", change.name, change.before, change.after, change.because)
        at = clock.stamp()
        line = {"at": at, "name": change.name, "before": change.before, "after": change.after, "because": change.because}
        self.history.append(line)
        for request in list(self._requests.values()):
            request.channel.send({"push": "progress", "name": change.name, "state": change.after, "because": change.because})

    def _write_held(self, names: Iterable[str]) -> None:
        try:
            write_durably(self.paths.held, "".join(f"{name}\n" for name in sorted(names)), durable=False)
        except OSError as wrong:
            log.error("can't remember what is stopped by an operator: %s", wrong)

    # --- configuration ----------------------------------------------------------------------------------------------------

    def _mode(self) -> Mode:
        return self.configuration.mode if self.configuration is not None else self.paths.mode()

    def _read(self, mode: Mode) -> Configuration:
        """From the disk, and kept: in memory for a change of role, on the disk for the next start. Raises ConfigError."""
        configuration = self._good[mode] = config.read(self.paths, mode)
        self._outdated = ""
        self._worker.do(partial(_keep, self.paths, mode), self._kept)
        return configuration

    def _kept(self, wrong: Exception | None) -> None:
        if wrong is not None:
            log.warning("the last good configuration can't be kept for the next start: %s", wrong)

    def _read_first(self, mode: Mode) -> Configuration:
        """At the start: a device whose module file was damaged meanwhile works on with the last good one."""
        try:
            return self._read(mode)
        except ConfigError as wrong:
            if not self.paths.kept(mode).exists():
                raise
            try:
                configuration = config.read(self.paths, mode, self.paths.kept(mode))
            except ConfigError:
                raise wrong from None
            self._outdated = f"{wrong}; its last good version is in force"
            log.error("%s", self._outdated)
            self._good[mode] = configuration
            return configuration

    def _remember_other(self, mode: Mode) -> None:
        """Keep a good copy of the other mode's file too: a role change must not fail because somebody damages it later."""
        other = Mode.PASSIVE if mode is Mode.ACTIVE else Mode.ACTIVE
        try:
            self._read(other)
        except ConfigError as wrong:
            log.warning("not needed now, but in %s mode: %s", other, wrong)

    def _configure_uname(self) -> None:
        """What can't be used there is no reason to leave a role alone: it is told, and what was before stays."""
        try:
            self._uname.configure(uname.read(self.paths.pair))
            self._uname_refused = ""
        except ConfigError as wrong:
            self._uname_refused = str(wrong)
            log.warning("device_uname: %s", wrong)

    def _apply(self, configuration: Configuration, token: int | None, *, release: bool) -> None:
        self._configure_uname()
        for warning in configuration.warnings:
            log.warning("%s", warning)
        self.configuration = configuration
        self.refused = ""
        new = [p for p in configuration.processes if p.name not in self.roles.entries]
        running = {p.name: pid for p in new if (pid := self._hands.adopt(p)) is not None}
        self.post(
            Reload(configuration.mode, configuration.processes, configuration.enabled, running, token=token, release=release)
        )

    # --- requests ---------------------------------------------------------------------------------------------------------

    def _asked_reload(self, request: Request) -> Mapping[str, Any] | None:
        passive = request.fields.get("passive", self._mode() is Mode.PASSIVE)
        if not isinstance(passive, bool):
            raise ControlError("passive must be true or false")
        mode = Mode.PASSIVE if passive else Mode.ACTIVE
        token = self._expect(request)
        problems = self._problems[token]
        try:
            configuration = self._read(mode)
        except ConfigError as wrong:
            if mode is self._mode() or mode not in self._good:
                self._drop(token)
                self.refused = str(wrong)
                raise
            # A role change can't wait until somebody has corrected a file.
            configuration = self._good[mode]
            problems.append(f"{wrong}; an earlier version of it is in force instead")
        mark = partial(_mark, self.paths, mode)
        self._worker.do(mark, partial(self._marked, configuration, token))
        return None

    def _marked(self, configuration: Configuration, token: int, wrong: Exception | None) -> None:
        if wrong is not None:
            text = f"{self.paths.passive_device} can't be changed ({wrong}): the next boot would be in the other mode"
            log.error("%s", text)
            self._problems.setdefault(token, []).append(text)
        refused = next(iter(self._problems.get(token, [])), "")
        self._apply(configuration, token, release=True)
        self.refused = refused

    def _asked_start(self, request: Request) -> None:
        names = self._named(request)
        for name in names:
            if not self.roles.entries[name].enabled:
                role = self.roles.entries[name].process.role
                remedy = f"set it to 1 in {self.paths.module(self._mode())}, then manager-ctl reload"
                if role == _PAIR:
                    remedy = "ha start turns it on"
                raise ControlError(f"{name} does not run while role {role} is off in {self._mode()} mode: {remedy}")
        self.post(OperatorStart(names, self._expect(request)))

    def _asked_stop(self, request: Request) -> None:
        names = self._named(request)
        kind = str(request.fields.get("kind", "handover"))
        self._hands.stop_kinds |= dict.fromkeys(names, kind)
        self.post(OperatorStop(names, self._expect(request)))

    def _asked_expect(self, request: Request) -> Mapping[str, Any]:
        """Whoever is about to kill a process, to have it started again, says so."""
        for name in self._named(request):
            self.post(Expected(name, str(request.fields.get("because", "on purpose"))[:100]))
        return {}

    def _named(self, request: Request) -> tuple[str, ...]:
        name = str(request.fields.get("name", ""))
        assert self.configuration is not None
        names = tuple(n for n in self.configuration.named(name) if n in self.roles.entries)
        if not names:
            known = sorted({p.role for p in self.configuration.processes} | {p.name for p in self.configuration.processes})
            raise ControlError(f"there is no role or process {name!r}; there are: {', '.join(known)}")
        return names

    def _expect(self, request: Request) -> int:
        self._last_token += 1
        self._requests[self._last_token] = request
        self._problems[self._last_token] = []
        return self._last_token

    def _drop(self, token: int) -> None:
        self._requests.pop(token, None)
        self._problems.pop(token, None)

    def _answer(self, token: int, failures: tuple[str, ...]) -> None:
        request = self._requests.get(token)
        problems = [*self._problems.get(token, []), *failures]
        self._drop(token)
        if request is None:
            return
        if problems:
            request.refuse("; ".join(problems))
        else:
            request.answer()

    def _forget_client(self, channel: object) -> None:
        for token in [token for token, request in self._requests.items() if request.channel is channel]:
            self._requests.pop(token)

    @property
    def alarms(self) -> dict[str, str]:
        own = {
            "receiver": self._receiver.alarm,
            "configuration": self._outdated,
            "device_uname": self._uname_refused or self._uname.trouble,
        }
        of_processes = {name: entry.alarm for name, entry in self.roles.entries.items()}
        return {name: text for name, text in (of_processes | own | receiver_alarms(self.paths)).items() if text}


def _mark(paths: Paths, mode: Mode) -> None:
    """Make passive_device say ``mode``, across a power cut."""
    if mode is Mode.PASSIVE:
        if not paths.passive_device.exists():
            write_durably(paths.passive_device, "")
    else:
        remove_durably(paths.passive_device)


def _held_before(paths: Paths) -> tuple[str, ...]:
    try:
        return tuple(paths.held.read_text().split())
    except OSError:
        return ()


def _keep(paths: Paths, mode: Mode) -> None:
    content = read_bytes(paths.module(mode), follow=True)
    if content is not None and content != read_bytes(paths.kept(mode)):
        paths.kept(mode).parent.mkdir(parents=True, exist_ok=True)
        write_durably(paths.kept(mode), content)
