"""Starting, watching, stopping and killing the processes: what carries out the decisions of ``roles``.

Promise: nothing here waits. A death is known as soon as the kernel knows it (pidfd); every Start is answered by Started or
StartFailed, every Stop by Stopped within its limit, in the end by SIGKILL. Events go to ``post``. Source: docs/protocols.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from runtime import pidfile, proctree
from runtime.loop import Loop, Timer

from .hang import HangWatch
from .jobs import Job, Outcome
from .model import Died, Event, Hung, Process, Started, StartFailed, Stopped

log = logging.getLogger(__name__)

#: After SIGKILL, so long until a process that still exists (uninterruptible sleep) is reported and left.
_UNKILLABLE = 5.0


@dataclass
class _Watched:
    process: Process
    found: proctree.Process
    pidfd: int
    hang: HangWatch | None = None


@dataclass
class _Stopping:
    process: Process
    timer: Timer | None = None
    script_ended: bool = False
    problem: str = ""


class Hands:
    def __init__(self, loop: Loop, post: Callable[[Event], None]) -> None:
        self._loop = loop
        self._post = post
        self._watched: dict[str, _Watched] = {}
        self._stopping: dict[str, _Stopping] = {}
        #: what an operator's stop is meant to be, for the init script; by process name
        self.stop_kinds: dict[str, str] = {}

    def adopt(self, process: Process) -> int | None:
        """Watch this process if its pid file names a living one; its pid."""
        found = pidfile.find(process.pid_file)
        if found is None:
            return None
        pidfd = proctree.open_process(found.pid, found.start)
        if pidfd is None:
            return None
        self._forget(process.name)
        watched = self._watched[process.name] = _Watched(process, found, pidfd)
        self._loop.selector.register(pidfd, selectors.EVENT_READ, partial(self._died, process.name))
        if process.control:
            watched.hang = HangWatch(self._loop, process.control, process.hang_limit, partial(self._hangs, process.name))
        return found.pid

    # --- start ------------------------------------------------------------------------------------------------------------

    def start(self, process: Process, again: bool) -> None:
        if (pid := self.adopt(process)) is not None:
            self._post(Started(process.name, pid))
            return
        if again and process.restart and os.access(process.restart[0], os.X_OK):
            self._launch(process, process.restart)
        elif os.access(process.init_script, os.X_OK):
            self._launch(process, (process.init_script, "start"))
        else:
            why = "is not executable" if os.path.exists(process.init_script) else "does not exist"
            self._post(StartFailed(process.name, f"{process.init_script} {why}"))

    def _launch(self, process: Process, argv: tuple[str, ...]) -> None:
        Job(self._loop, argv, limit=process.start_limit, done=partial(self._start_ended, process, argv))

    def _start_ended(self, process: Process, argv: tuple[str, ...], outcome: Outcome) -> None:
        if outcome.timed_out:
            # It got as far as a pid file but never said that it is ready.
            self._kill_stray(process)
        elif outcome.problem is None and (pid := self.adopt(process)) is not None:
            # Not after a failure: the process may be on its way out. If it is not, the next try finds it running.
            self._post(Started(process.name, pid))
            return
        because = str(outcome.problem or f"{' '.join(argv)} succeeded, but {process.pid_file} names no living process")
        if argv == process.restart:
            log.warning("%s: %s; trying the init script", process.name, because)
            self.start(process, again=False)
        else:
            self._post(StartFailed(process.name, because))

    def _kill_stray(self, process: Process) -> None:
        if (stray := pidfile.find(process.pid_file)) is not None:
            proctree.kill_tree(stray.pid, stray.start, limit=0, spare=proctree.other_session(stray.pid))

    # --- death and hanging ------------------------------------------------------------------------------------------------

    def kill(self, process: Process) -> None:
        """SIGKILL it and what it runs, except what made a session of its own to outlive it (ha_manager's keeper)."""
        if (watched := self._watched.get(process.name)) is not None:
            found = watched.found
            proctree.kill_tree(found.pid, found.start, limit=0, spare=proctree.other_session(found.pid))

    def _died(self, name: str, mask: int) -> None:
        watched = self._watched[name]
        self._forget(name)
        if name in self._stopping:
            self._settle_stop(name)
            return
        crashed = os.path.exists(watched.process.pid_file)
        how = "died" if crashed else "ended by itself"
        self._post(Died(name, f"pid {watched.found.pid} {how}"))

    def _hangs(self, name: str, because: str) -> None:
        self._post(Hung(name, because))

    def _forget(self, name: str) -> None:
        watched = self._watched.pop(name, None)
        if watched is None:
            return
        if watched.hang is not None:
            watched.hang.close()
        self._loop.selector.unregister(watched.pidfd)
        os.close(watched.pidfd)

    # --- stop -------------------------------------------------------------------------------------------------------------

    def stop(self, process: Process) -> None:
        stopping = self._stopping[process.name] = _Stopping(process)
        watched = self._watched.get(process.name)
        if watched is None:
            stopping.script_ended = True
            self._settle_stop(process.name)
            return
        if watched.hang is not None:
            watched.hang.close()
        stopping.timer = self._loop.call_after(process.stop_limit, partial(self._stop_late, stopping))
        if os.access(process.init_script, os.X_OK):
            kind = self.stop_kinds.pop(process.name, "handover")
            done = partial(self._stop_ended, stopping)
            argv = (process.init_script, "stop")
            Job(self._loop, argv, limit=process.stop_limit, done=done, env={"STOP_KIND": kind})
        else:
            stopping.problem = f"{process.init_script} can't be executed; the process got SIGTERM instead"
            stopping.script_ended = True
            self._terminate(watched)

    def _terminate(self, watched: _Watched) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched.pidfd, signal.SIGTERM)

    def _stop_ended(self, stopping: _Stopping, outcome: Outcome) -> None:
        stopping.script_ended = True
        watched = self._watched.get(stopping.process.name)
        if outcome.problem is not None:
            stopping.problem = stopping.problem or str(outcome.problem)
            if watched is not None and not outcome.timed_out:
                self._terminate(watched)
        self._settle_stop(stopping.process.name)

    def _stop_late(self, stopping: _Stopping) -> None:
        process = stopping.process
        stopping.script_ended = True
        if process.name in self._watched:
            stopping.problem = f"did not stop within {process.stop_limit:g} s and was killed"
            self.kill(process)
            stopping.timer = self._loop.call_after(_UNKILLABLE, partial(self._stop_given_up, stopping))
        self._settle_stop(process.name)

    def _stop_given_up(self, stopping: _Stopping) -> None:
        stopping.problem = f"can't be killed: it still exists {_UNKILLABLE:g} s after SIGKILL"
        self._forget(stopping.process.name)
        self._settle_stop(stopping.process.name)

    def _settle_stop(self, name: str) -> None:
        stopping = self._stopping.get(name)
        if stopping is None or not stopping.script_ended or name in self._watched:
            return
        del self._stopping[name]
        if stopping.timer is not None:
            stopping.timer.cancel()
        self._post(Stopped(name, stopping.problem))
