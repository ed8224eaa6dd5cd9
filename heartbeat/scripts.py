"""Running the resource scripts of haresources: ``SCRIPT ARGUMENT… start|stop|status``, off the loop.

Promise: the loop never waits: a child process runs the script with a time limit, kills its process group with all that it
started when time is up (or when told to), and says how it ended. The child is an ordinary process: neither the priority nor
the descriptors of heartbeat reach a script. A script that fails or hangs is an alarm with its last words. Where they are looked
for: ``SCRIPT_FOLDERS``, in this order. Source: facts/linux-ha-heartbeat.md (haresources); LSB, "Init Script Actions" (status:
0 it runs, 3 it doesn't; Linux-HA's own scripts say it in words).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import selectors
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NoReturn

from heartbeat.haresources import Resource
from heartbeat.resources import Act, BreakOff, Order, Outcome, Problem, Run, Sequencer
from runtime import child

log = logging.getLogger(__name__)

SCRIPT_FOLDERS = ("/etc/ha.d/resource.d", "/etc/heartbeat/resource.d", "/etc/init.d")

_NOT_RUNNING = re.compile(r"not running|stopped|is down", re.IGNORECASE)
_RUNNING = re.compile(r"\brunning\b|\bOK\b")
_WORDS = 500


@dataclass(frozen=True)
class Limits:
    """Seconds after which a script is killed."""

    start: float = 60.0
    stop: float = 15.0
    status: float = 10.0

    def of(self, act: Act) -> float:
        return {Act.START: self.start, Act.STOP: self.stop, Act.STATUS: self.status}[act]


def script_of(resource: Resource, folders: Sequence[str] = SCRIPT_FOLDERS) -> str:
    """The path of its script; "" if there is none."""
    candidates = (os.path.join(folder, resource.script) for folder in folders)
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def says_running(code: int, output: str) -> bool:
    """What a status action means: by its exit status, unless it says otherwise in words."""
    if _NOT_RUNNING.search(output):
        return False
    return code == 0 or _RUNNING.search(output) is not None


class Services:
    """The resources of the pair beside its addresses. ``trouble(name, text)``: "" clears what was told under the name."""

    def __init__(
        self,
        resources: Sequence[Resource],
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
        trouble: Callable[[str, str], None],
        folders: Sequence[str] = SCRIPT_FOLDERS,
        limits: Limits = Limits(),
    ) -> None:
        self._resources = tuple(resources)
        self._selector = selector
        self._clock = clock
        self._trouble = trouble
        self._folders = tuple(folders)
        self._limits = limits
        self._sequencer = Sequencer(len(self._resources))
        self._run: Run | None = None
        self._pipe = -1
        self._pid = 0

    @property
    def stopped(self) -> bool:
        """Nothing of them runs here any more, or can be stopped."""
        return self._sequencer.stopped

    @property
    def due(self) -> float:
        deadline = self._sequencer.deadline()
        return inf if deadline is None else deadline

    def start(self) -> None:
        """The addresses are here: start what isn't running, left to right."""
        self._carry_out(self._sequencer.want(True, self._clock()))

    def stop(self) -> None:
        """The addresses go: stop what runs, right to left."""
        self._carry_out(self._sequencer.want(False, self._clock()))

    def tick(self) -> None:
        self._carry_out(self._sequencer.tick(self._clock()))

    def finish(self, until: float) -> None:
        """heartbeat ends: wait for what is being stopped, at most until ``until`` (the clock's)."""
        with selectors.DefaultSelector() as selector:
            while self._run is not None and (left := until - self._clock()) > 0:
                selector.register(self._pipe, selectors.EVENT_READ)
                ready = selector.select(left)
                selector.unregister(self._pipe)
                if ready:
                    self._ended()

    def describe(self) -> list[dict[str, Any]]:
        """For the status."""
        states = self._sequencer.states
        return [
            {"resource": str(resource), "state": state.value, "script": script_of(resource, self._folders)}
            for resource, state in zip(self._resources, states, strict=True)
        ]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _carry_out(self, orders: Sequence[Order]) -> None:
        for order in orders:
            match order:
                case Run():
                    self._begin(order)
                case BreakOff():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._pid, signal.SIGTERM)
                case Problem(index, text):
                    resource = self._resources[index]
                    self._trouble(f"resource-{resource}", text and f"resource {resource}: {text}")

    def _begin(self, run: Run) -> None:
        """Fork who runs it. What can't be run ends at once; then there is a next."""
        resource = self._resources[run.index]
        path = script_of(resource, self._folders)
        argv = [path or resource.script, *resource.arguments, run.act.value]
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        log.info("resource %s: %s", resource, run.act)
        pid = child.fork()
        if pid == 0:
            because = "" if path else f"there is no script {resource.script} in {', '.join(self._folders)}"
            _child(argv, self._limits.of(run.act), because, writing)
        os.close(writing)
        self._run, self._pipe, self._pid = run, reading, pid
        self._selector.register(reading, selectors.EVENT_READ, lambda mask: self._ended())

    def _ended(self) -> None:
        run, pipe = self._run, self._pipe
        assert run is not None
        try:
            said = os.read(pipe, 65536)
        except BlockingIOError:
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        os.waitpid(self._pid, 0)
        self._run, self._pipe = None, -1
        outcome = _outcome(run.act, said)
        if not outcome.ok and run.act is not Act.STATUS:
            log.error("resource %s: %s: %s", self._resources[run.index], run.act, outcome.text)
        self._carry_out(self._sequencer.ended(outcome, self._clock()))


def _outcome(act: Act, said: bytes) -> Outcome:
    """From the child's report; nothing: it was killed."""
    if not said:
        return Outcome(False, "whoever ran it was killed", silent=True)
    report = json.loads(said)
    if report["because"]:
        return Outcome(False, report["because"], silent=True)
    code, words = report["code"], report["words"]
    if act is Act.STATUS:
        return Outcome(says_running(code, words), words)
    return Outcome(code == 0, f"it ended with {code}" + (f": {words}" if words else ""))


# --- the child ------------------------------------------------------------------------------------------------------------


class _BrokenOff(BaseException):
    """SIGTERM from heartbeat."""


def _child(argv: list[str], limit: float, because: str, report: int) -> NoReturn:
    code, words = -1, ""
    try:
        _become_ordinary(report)
        if not because:
            code, words, because = _run(argv, limit)
        os.write(report, json.dumps({"code": code, "words": words, "because": because}).encode())
    finally:
        os._exit(0)


def _become_ordinary(report: int) -> None:
    """A process of its own session, with default signals and no descriptor of heartbeat's."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _break_off)
    child.listen()
    os.closerange(3, report)
    os.closerange(report + 1, 65536)
    os.setsid()
    os.umask(0o022)
    os.chdir("/")


def _break_off(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _BrokenOff


def _run(argv: list[str], limit: float) -> tuple[int, str, str]:
    """Exit status, last words, and why there is no exit status."""
    from runtime.commands import run  # the child only: heartbeat itself never needs it
    from runtime.errors import CommandFailed, without_secrets
    from runtime.proctree import descendants

    try:
        done = run(argv, timeout=limit, check=False)
    except _BrokenOff:
        # It may have come while the script was being started, before anybody knew its number.
        for each in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        return -1, "", "it was broken off"
    except CommandFailed as failed:
        return -1, "", failed.because or str(failed)
    return done.code, without_secrets(done.stderr.strip() or done.stdout.strip())[-_WORDS:], ""
