"""The keeper: Postgres's parent. It starts, stops and ends Postgres; it holds no opinion about roles.

Promise: Postgres runs only below a keeper, only while ha_manager's lease is valid, and never twice. When the lease lapses it is
stopped immediately, and who waits for an answer through the virtual address is told; when the keeper dies, the kernel kills the
postmaster (PR_SET_PDEATHSIG with SIGKILL, because a stopped postmaster doesn't react to anything else), its backends see that
and end. "Stopped" means: a look at /proc found no process. One thread, few imports, a session of its own: a restart of
ha_manager doesn't touch it. Source: design §4 rule 5; docs/protocols.md, "keeper". Time: CLOCK_BOOTTIME.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ha_manager import postmaster, startfence
from ha_manager.postgres_child import Launch, adopt_orphans, prepare_launch, spawn
from runtime import durable, memory, oom, syslog
from runtime.clock import boottime
from runtime.control import ControlServer, Request
from runtime.errors import HaError
from runtime.pidfile import PidFile
from runtime.priority import REPORTER, hurry
from runtime.proctree import alive, start_time
from runtime.stranded import reset_stranded

log = logging.getLogger("keeper")

#: An immediate stop that has not ended all of it by then becomes SIGKILL for everybody.
IMMEDIATE_LIMIT = 0.4
_WATCH = 0.01
_KILL_AGAIN = 0.005
#: A process that was stopped (SIGSTOP) before or after it was told to end is woken so often.
_WAKE = 0.05
#: A fast stop that has taken so long waits no longer for what is still to be archived: heartbeat, and clients, wait for it.
ARCHIVING = 0.5
#: a note that could not be written is written again after so long (seconds)
_NOTE_AGAIN = 1.0
_LATE = "on a busy server Postgres may be stopped although its lease was renewed"


@dataclass
class Keeper:
    """State machine of one Postgres; ``tick`` and the requests are its only inputs."""

    launch: Launch
    run_dir: Path
    state: str = "stopped"
    pid: int = 0
    since: float = field(default_factory=boottime)
    lease_until: float = 0.0
    exit: int | None = None
    clean: bool = False
    because: str = "not started yet"
    _stop: str = ""  # "" | fast | immediate | kill
    _stricter: float = 0.0
    _escalated: bool = False
    _woken: float = 0.0
    _archiver_told: bool = False
    #: why keeper.json does not say what is; "" if it does
    _unnoted: str = ""
    #: asked to be told of one of these states
    _waiting: list[tuple[Request, tuple[str, ...], float]] = field(default_factory=list)

    # --- requests ----------------------------------------------------------------------------------------------------------

    def lease(self, request: Request) -> Mapping[str, Any]:
        """``ttl`` from now, but never beyond ``until``: a lease that lay in a queue is no longer than its sender meant it."""
        ttl = _number(request.fields, "ttl", 0.0, 3600.0)
        until = boottime() + ttl
        if "until" in request.fields:
            until = min(until, _number(request.fields, "until", 0.0, 1e12))
        self.lease_until = until
        return self.status(request)

    def start(self, request: Request) -> Mapping[str, Any]:
        if self.state == "stopping":
            raise HaError("Postgres is being stopped; start it when it is stopped")
        if self.state in ("starting", "running"):
            return self.status(request)
        if boottime() >= self.lease_until:
            raise HaError("ha_manager's lease on Postgres has lapsed: it is started when that is renewed")
        self._refuse_others()
        prepare_launch(self.launch)
        self.pid = spawn(self.launch)
        self.exit, self.clean, self._stop, self._escalated, self._archiver_told = None, False, "", False, False
        self._enter("starting", "started")
        return self.status(request)

    def stop(self, request: Request) -> Mapping[str, Any]:
        mode = request.fields.get("mode")
        if mode not in ("fast", "immediate"):
            raise HaError(f"stop needs mode fast or immediate, not {mode!r}")
        limit = _number(request.fields, "limit", 0.0, 3600.0) if "limit" in request.fields else None
        if self.state != "stopped":
            self.stop_now(mode, limit, f"asked for a {mode} stop")
        return self.status(request)

    def status(self, _: Request) -> Mapping[str, Any]:
        return {
            "state": self.state, "pid": self.pid, "since": self.since, "exit": self.exit, "clean": self.clean,
            "because": self.because, "lease": max(0.0, self.lease_until - boottime()), "config": self.launch.digest,
            "bars": True, "at": boottime(),
        }  # fmt: skip

    def wait(self, request: Request) -> Mapping[str, Any] | None:
        """The status as soon as the state is one of ``states``, or after ``limit`` seconds, whatever it is then."""
        states = request.fields.get("states")
        if not isinstance(states, list) or not all(isinstance(state, str) for state in states):
            raise HaError(f"wait needs a list of states, not {states!r}")
        limit = _number(request.fields, "limit", 0.0, 60.0)
        if self.state in states or not limit:
            return self.status(request)
        self._waiting.append((request, tuple(states), boottime() + limit))
        return None

    def _tell(self, now: float) -> float | None:
        """Answer whoever need not wait any longer; returns the seconds until the next one's time is over."""
        left = []
        for request, states, until in self._waiting:
            if self.state in states or now >= until:
                request.answer(self.status(request))
            else:
                left.append((request, states, until))
        self._waiting = left
        return min((max(0.0, until - now) for _, _, until in left), default=None)

    # --- time ----------------------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Do what is due; returns the seconds until the next look, None for: only a request can change anything."""
        if self._unnoted:
            self._note()
        waits = (self._turn(), self._tell(boottime()), _NOTE_AGAIN if self._unnoted else None)
        return min((wait for wait in waits if wait is not None), default=None)

    def _turn(self) -> float | None:
        if self.state == "stopped":
            return None
        self._reap()
        if self.state == "stopped":
            return None
        now = boottime()
        if self.state == "stopping":
            return self._press(now)
        if now >= self.lease_until:
            self.stop_now("immediate", None, "ha_manager's lease lapsed")
            return 0.0
        if self.state == "starting":
            file = postmaster.read_pid_file(self.launch.data_dir)
            if file is not None and file.pid == self.pid and file.status in ("ready", "standby"):
                self._enter("running", self.because)
        return min(self.lease_until - now, _WATCH if self.state == "starting" else 3600.0)

    def stop_now(self, mode: str, limit: float | None, because: str) -> None:
        """Begin a stop, or make a running one stricter; never the other way round."""
        ranks = ("", "fast", "immediate", "kill")
        now = boottime()
        limit = IMMEDIATE_LIMIT if mode == "immediate" and limit is None else limit
        if ranks.index(mode) <= ranks.index(self._stop):
            if limit is not None:
                self._stricter = min(self._stricter, now + limit)
            return
        self._escalated = self._escalated or bool(self._stop)
        self._stop = mode
        self._stricter = now + limit if limit is not None else float("inf")
        self._enter("stopping", because)
        if mode == "immediate":
            self._tell_clients()
        self._signal()

    def _tell_clients(self) -> None:
        """Who ends now can't tell its clients any more if the virtual address has lost its lease, or is gone."""
        file = postmaster.read_pid_file(self.launch.data_dir)
        try:
            if file is not None and file.port and (told := reset_stranded(file.port)):
                log.info("%d connections through the virtual address are reset", told)
        except (OSError, HaError) as wrong:
            log.warning("connections through the virtual address can't be reset: %s", wrong)

    def _signal(self) -> None:
        """Send what the present strictness means. A stopped process is woken, after its signal, never before."""
        if self._stop == "kill":
            if self.pid:
                postmaster.send(self.pid, signal.SIGKILL)
            postmaster.kill_all(self.launch.data_dir, 0.0)
            return
        if self.pid:
            postmaster.send(self.pid, signal.SIGINT if self._stop == "fast" else signal.SIGQUIT)
        if self._stop == "immediate":
            # Frozen backends must hold their order to end before they run again.
            for each in postmaster.processes_of(self.launch.data_dir):
                if each.pid != self.pid and each.state in "Tt":
                    postmaster.send(each.pid, signal.SIGQUIT)
        self._wake()

    def _wake(self) -> None:
        self._woken = boottime()
        postmaster.wake_stopped(postmaster.processes_of(self.launch.data_dir))

    def _press(self, now: float) -> float:
        if now >= self._stricter:
            harder = {"fast": "immediate", "immediate": "kill", "kill": "kill"}[self._stop]
            if harder != self._stop:
                log.warning("Postgres is not stopped yet: %s", harder)
            limit = IMMEDIATE_LIMIT if harder == "immediate" else _KILL_AGAIN
            self._escalated, self._stop, self._stricter = True, harder, now + limit
            self._signal()
        elif self._stop != "kill" and now >= self._woken + _WAKE:
            self._wake()
            if self._stop == "fast" and now >= self.since + ARCHIVING:
                self._end_archiving()
        return min(_WATCH, max(0.0, self._stricter - boottime()))

    def _end_archiving(self) -> None:
        if postmaster.end_archiving(self.launch.data_dir) and not self._archiver_told:
            self._archiver_told = True
            log.warning("Postgres is shut down but for its archive_command, which hangs, fails or is slow: that is ended")

    def _reap(self) -> None:
        """Collect the dead (orphaned backends come to us as well); stopped is what leaves no process behind."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.pid:
                self.exit, self.pid = os.waitstatus_to_exitcode(status), 0
                self._fence()
                if self.state != "stopping":
                    self._stop, self._stricter = "kill", 0.0
                    self._enter("stopping", f"Postgres ended by itself with status {self.exit}")
        if self.state == "stopping" and not self.pid and not postmaster.processes_of(self.launch.data_dir):
            self.clean = self._stop == "fast" and not self._escalated and self.exit == 0
            self._stop = ""
            self._enter("stopped", self.because)

    def _fence(self) -> None:
        """The data is anybody's now. Where ha_manager did not live to raise the fence after a promotion, it is raised here."""
        try:
            if not startfence.is_up(self.launch.data_dir):
                startfence.up(self.launch.data_dir, self.launch.user)
        except (OSError, KeyError) as wrong:
            log.warning("%s is not fenced against a Postgres started by hand: %s", self.launch.data_dir, wrong)

    # --- others ----------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """At the start: end what an earlier keeper left. A Postgres of somebody else stays, and is refused at ``start``."""
        if not postmaster.processes_of(self.launch.data_dir):
            return
        head = postmaster.postmaster_of(self.launch.data_dir)
        if head is not None and not self._was_ours(head.pid, head.start):
            log.warning("a Postgres that no keeper started runs on %s (pid %d)", self.launch.data_dir, head.pid)
            return
        log.warning("ending what an earlier keeper left of Postgres on %s", self.launch.data_dir)
        if not postmaster.kill_all(self.launch.data_dir, 5.0):
            log.error("processes of Postgres on %s can't be killed", self.launch.data_dir)

    def _was_ours(self, pid: int, start: int) -> bool:
        known = read_note(self.run_dir)
        return known.get("postmaster") == pid and known.get("postmaster_start") == start

    def _refuse_others(self) -> None:
        left = postmaster.processes_of(self.launch.data_dir)
        if not left:
            return
        head = postmaster.postmaster_of(self.launch.data_dir)
        if head is None and postmaster.kill_all(self.launch.data_dir, 1.0):
            return
        pid = head.pid if head is not None else left[0].pid
        raise HaError(
            f"another Postgres runs on {self.launch.data_dir} (pid {pid}): stop it, for instance with"
            f" pg_ctlcluster, and see that nothing starts it at boot"
        )

    def _enter(self, state: str, because: str) -> None:
        if state != self.state:
            self.since = boottime()
            log.info("Postgres is %s: %s", state, because)
        self.state, self.because = state, because
        self._note()

    def _note(self) -> None:
        """Where there is no room, the old note stays, which names this keeper: whoever ends it ends its Postgres."""
        try:
            self.write_note()
        except OSError as wrong:
            if not self._unnoted:
                log.warning("keeper.json can't be written: %s; tried again", wrong.strerror or wrong)
            self._unnoted = str(wrong)
        else:
            self._unnoted = ""

    def write_note(self) -> None:
        """keeper.json: who is who, for heartbeat's own emergency stop. Raises OSError."""
        note = {
            "keeper": os.getpid(), "keeper_start": start_time(os.getpid()), "postmaster": self.pid,
            "postmaster_start": start_time(self.pid) if self.pid else None, "data_dir": str(self.launch.data_dir),
            "state": self.state,
        }  # fmt: skip
        durable.write_durably(self.run_dir / "keeper.json", json.dumps(note) + "\n", durable=False)


def read_note(run_dir: Path) -> dict[str, Any]:
    """keeper.json, or nothing."""
    try:
        found = json.loads((run_dir / "keeper.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def living(run_dir: Path) -> int:
    """Pid of the keeper that wrote keeper.json, if it is alive (perhaps hung); 0 if not."""
    note = read_note(run_dir)
    pid, start = note.get("keeper"), note.get("keeper_start")
    return pid if isinstance(pid, int) and isinstance(start, int) and alive(pid, start) else 0


def _number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise HaError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


class Loop:
    """Sockets, signals and the keeper's clock in one selector."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._ending = False
        self._selector = selectors.DefaultSelector()
        handlers = {
            "lease": keeper.lease,
            "start": keeper.start,
            "stop": keeper.stop,
            "status": keeper.status,
            "wait": keeper.wait,
            "quit": self._quit,
        }
        self._server = ControlServer(keeper.run_dir / "keeper", self._selector, handlers)
        self._wakeup, self._waker = socket.socketpair()
        for each in (self._wakeup, self._waker):
            each.setblocking(False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._woken)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)

    def run(self) -> None:
        keeper = self._keeper
        while not (self._ending and keeper.state == "stopped"):
            wait = keeper.tick()
            # A lease that lay in the queue while this process was paused says itself until when it is good.
            for key, mask in self._selector.select(wait):
                key.data(mask)
        self._server.close()

    def _woken(self, _: int) -> None:
        try:
            while self._wakeup.recv(4096):
                pass
        except BlockingIOError:
            return

    def _terminate(self) -> None:
        self._ending = True
        if self._keeper.state != "stopped":
            self._keeper.stop_now("immediate", None, "the keeper was told to end")

    def _quit(self, _: Request) -> Mapping[str, Any]:
        """End the keeper; refused while there is a Postgres."""
        if self._keeper.state != "stopped":
            raise HaError(f"Postgres is {self._keeper.state}; stop it first")
        self._ending = True
        return {}


def serve(launch: Launch, run_dir: Path, ready: int) -> None:
    """Run until told to end. One byte into ``ready`` says that the socket answers."""
    pid_file = PidFile.claim(run_dir / "keeper.pid")
    adopt_orphans()
    keeper = Keeper(launch, run_dir)
    keeper.sweep()
    keeper.write_note()
    loop = Loop(keeper)
    os.write(ready, b"1")
    os.close(ready)
    loop.run()
    (run_dir / "keeper.json").unlink(missing_ok=True)
    pid_file.release()


def main(argv: list[str] | None = None) -> int:
    """``python -m ha_manager.keeper --config FILE``: returns when the keeper answers (0), or says why it can't (1)."""
    parser = argparse.ArgumentParser(
        prog="ha_manager.keeper", description="Runs Postgres under a lease (started by ha_manager)."
    )
    parser.add_argument("--config", required=True, type=Path, help="JSON file written by ha_manager")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground and log to stderr")
    options = parser.parse_args(argv)
    try:
        launch, run_dir = Launch.load(options.config)
    except (OSError, ValueError, KeyError, HaError) as wrong:
        print(f"keeper: {options.config}: {wrong}", file=sys.stderr)
        return 1
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    reader, writer = os.pipe()
    if not options.foreground and (child := os.fork()):
        return _wait_ready(child, reader, writer)
    try:
        if not options.foreground:
            os.setsid()
        syslog.configure("ha_manager-keeper", foreground=options.foreground)
        oom.last()
        _be_on_time()
        if not options.foreground:
            _silence()
        serve(launch, run_dir, writer)
    except (HaError, OSError) as wrong:
        log.error("keeper: %s", wrong)
        with contextlib.suppress(OSError):
            os.write(writer, f"keeper: {wrong}".encode())
        return 1
    except Exception:
        log.exception("keeper: ends because of an internal error, and Postgres with it")
        return 1
    return 0


def _be_on_time() -> None:
    """It ends Postgres the moment its lease lapses, and must not be late to hear of a new one. Postgres has none of this."""
    for refused in (memory.lock("the keeper", touched=True), hurry(REPORTER, inherited=False, late=_LATE)):
        if refused:
            log.warning("%s", refused)


def _wait_ready(child: int, reader: int, writer: int) -> int:
    os.close(writer)
    said = b""
    while chunk := os.read(reader, 4096):
        said += chunk
        if said == b"1":
            return 0
    print(said.decode(errors="replace") or "keeper: ended before it answered", file=sys.stderr)
    return 1


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


if __name__ == "__main__":
    sys.exit(main())
