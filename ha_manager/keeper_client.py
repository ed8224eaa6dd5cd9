"""ha_manager's side of the keeper: find it, start it, replace a hung one, and ask it things within a time limit.

Promise: after ``ensure`` exactly one keeper answers for this cluster; one that exists but doesn't answer was killed first, and
Postgres with it. Callable from any thread; each request is bounded. Source: docs/protocols.md, "keeper".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ha_manager import keeper, postmaster
from ha_manager.postgres_child import digest
from runtime import commands, durable
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError, Refused, ReplicationError

_POLL = 0.003
_START_LIMIT = 10.0
#: The keeper is asked to tell of a state within so long, again and again (seconds)
_TURN = 1.0
STATES = ("stopped", "starting", "running", "stopping")


class Latest:
    """What the keeper said last, over whichever connection: it need not be asked again for what it said a moment ago, and tells
    of every change by itself (``await_change``). Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status: Mapping[str, Any] = {}

    def take(self, answer: Mapping[str, Any]) -> None:
        """The keeper's own clock says which of two answers is the later one."""
        with self._lock:
            if answer.get("at", 0.0) > self._status.get("at", 0.0):
                self._status = answer

    def forget(self) -> None:
        """It can't be reached."""
        with self._lock:
            self._status = {}

    def within(self, seconds: float) -> Mapping[str, Any] | None:
        """Its status, if it said so within the last ``seconds``."""
        status = self._status
        return status if boottime() - status.get("at", 0.0) <= seconds else None


class KeeperClient:
    """``launch`` gives what the keeper's configuration file is to hold (postgres_child.Launch); asked when one is started."""

    def __init__(
        self, run_dir: Path, data_dir: Path, launch: Callable[[], Mapping[str, Any]], latest: Latest | None = None
    ) -> None:
        self._latest = latest or Latest()
        self._run_dir = run_dir
        self._path = run_dir / "keeper"
        self._data_dir = data_dir
        self._launch = launch
        self._lock = threading.Lock()
        self._connection: Client | None = None

    def ensure(self, limit: float) -> str:
        """A keeper that answers; returns Postgres's state. Raises ControlError or CommandFailed."""
        text = json.dumps(dict(self._launch()) | {"run_dir": str(self._run_dir)}, indent=1).encode() + b"\n"
        try:
            found = self.status(min(limit, 1.0))
            if found["state"] != "stopped" or found["config"] == digest(text):
                return str(found["state"])
            self._ask("quit", {}, min(limit, 1.0))
            self._wait_gone(min(limit, 1.0))
        except ControlError:
            self.end_hung(min(limit, 2.0))
        self._run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        config = self._run_dir / "keeper.conf"
        durable.write_durably(config, text, mode=0o644, durable=False)
        argv = [sys.executable, "-P", "-m", "ha_manager.keeper", "--config", os.fspath(config)]
        commands.run(argv, timeout=max(limit, _START_LIMIT))
        return str(self.status(1.0)["state"])

    def end_hung(self, limit: float) -> None:
        """Kill a keeper that exists, and everything of its Postgres; nothing happens if there is none."""
        self.close()
        pid = keeper.living(self._run_dir)
        if pid:
            postmaster.send(pid, signal.SIGKILL)
            self._wait_gone(limit)

    def _wait_gone(self, limit: float) -> None:
        end = time.monotonic() + limit
        while keeper.living(self._run_dir):
            if time.monotonic() > end:
                raise ReplicationError("the keeper can't be ended")
            time.sleep(_POLL)

    def renew(self, ttl: float, limit: float) -> str:
        """Postgres may run for ``ttl`` more seconds; returns its state."""
        return str(self._ask("lease", {"ttl": ttl, "until": boottime() + ttl}, limit)["state"])

    def start(self, limit: float) -> None:
        """As a standby, always. (A keeper from before an upgrade wants to be told.)"""
        self._ask("start", {"mode": "standby"}, limit)

    def stop(self, mode: str, stricter: float, limit: float) -> dict[str, Any]:
        """Ask for a stop; it gets stricter after ``stricter`` seconds. ``wait`` for it, unless it is stopped already."""
        return self._ask("stop", {"mode": mode, "limit": stricter}, limit)

    def quit(self, limit: float) -> None:
        self._ask("quit", {}, limit)
        self.close()
        self._wait_gone(limit)

    def status(self, limit: float) -> dict[str, Any]:
        return self._ask("status", {}, limit)

    def wait(self, states: tuple[str, ...], limit: float) -> dict[str, Any]:
        """The first status with one of ``states``; raises ReplicationError when ``limit`` is over."""
        end = time.monotonic() + limit
        while True:
            turn = max(0.05, min(_TURN, end - time.monotonic()))
            try:
                found = self._ask("wait", {"states": list(states), "limit": turn}, turn + 1.0)
            except Refused:  # a keeper from before an upgrade
                time.sleep(_POLL)
                found = self.status(1.0)
            if found["state"] in states:
                return found
            if time.monotonic() > end:
                wanted = " or ".join(states)
                raise ReplicationError(f"Postgres is {found['state']}, not {wanted}, after {limit:g} s: {found['because']}")

    def await_change(self, state: str, limit: float) -> str:
        """The state as soon as it is not ``state`` any more, or after ``limit`` seconds."""
        others = [each for each in STATES if each != state]
        return str(self._ask("wait", {"states": others, "limit": limit}, limit + 1.0)["state"])

    def kill(self) -> None:
        """Every process of this Postgres, without asking the keeper."""
        if not postmaster.kill_all(self._data_dir, 5.0):
            raise ReplicationError("a process of Postgres can't be killed (uninterruptible sleep): the disk may hang")

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, do: str, fields: Mapping[str, Any], limit: float) -> dict[str, Any]:
        try:
            answer = self._asked(do, fields, limit)
        except Refused:
            raise
        except ControlError:
            self._latest.forget()
            raise
        self._latest.take(answer)
        return answer

    def _asked(self, do: str, fields: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """One request. A connection that a restarted keeper closed is opened anew, once."""
        with self._lock:
            for attempt in (1, 2):
                fresh = self._connection is None
                try:
                    if self._connection is None:
                        self._connection = Client(self._path, limit, name="keeper")
                    return self._connection.request(do, fields, timeout=limit)
                except ControlError as wrong:
                    if type(wrong) is not ControlError:
                        if fresh:
                            self._drop()
                        raise
                    self._drop()
                    if fresh or attempt == 2:
                        raise
        raise AssertionError
