"""Fencing: the standard ``fence_*`` agents, run beside the loop (design §4, rule 2).

Promise: ``start`` returns at once; a child process runs the agents in the order of ha.cf until one has switched the peer off
and its ``status`` says so. What isn't certain is a failure: an agent that can't be run, ends badly, takes too long, or can't
tell the state afterwards. Options reach an agent on its standard input only; the child reads the secrets file for each
run, and blots its values out of whatever the agent says. When heartbeat ends, so does the agent.
Source: the fence agent API (exit status 0: done; of ``status``, 0: on, 2: off).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from heartbeat.fence_lines import PATH, Agent, read_secrets
from runtime import child
from runtime.errors import ConfigError

_ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
_MESSAGE, _LONGEST = 4096, 1000
_SAID, _TOLD = 65536, 200
_DONE, _ON, _OFF = 0, 0, 2


@dataclass(frozen=True)
class Outcome:
    """``kind``: "fence" or "check"; ``text``: what a person should know."""

    kind: str
    ok: bool
    text: str


class Fencer:
    """At most one child at a time; ``fileno`` (only while ``running``) is readable when it has ended."""

    def __init__(self, agents: Sequence[Agent], peer: str, limit: float) -> None:
        """``limit``: seconds for all that one agent does."""
        self.agents = tuple(agents)
        self._peer = peer
        self._limit = limit
        self._socket: socket.socket | None = None
        self._ended: list[int] = []
        self.kind = ""

    @property
    def running(self) -> bool:
        return self._socket is not None

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def start(self, kind: str) -> None:
        """Begin: "fence" switches the peer off; "check" asks each agent whether it could (its ``monitor`` action)."""
        assert not self.running
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = child.fork()
        if pid == 0:
            _serve(theirs, kind, self.agents, self._peer, self._limit)
        theirs.close()
        ours.setblocking(False)
        self._socket, self.kind = ours, kind
        self._ended.append(pid)

    def outcome(self) -> Outcome:
        """How it ended; to be called when the descriptor is readable."""
        assert self._socket is not None
        try:
            said: Any = json.loads(self._socket.recv(_MESSAGE) or b"null")
        except (OSError, ValueError):
            said = None
        kind = self.kind
        self.close()
        if not isinstance(said, list):
            return Outcome(kind, False, "the process that runs the fence agent died")
        return Outcome(kind, said[0] is True, str(said[1]))

    def close(self) -> None:
        """End what runs: the child sees its end of the socket close, and ends the agent."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.kind = None, ""
        self._ended = [pid for pid in self._ended if not _reaped(pid)]


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


# --- the child ------------------------------------------------------------------------------------------------------------


def _serve(report: socket.socket, kind: str, agents: Sequence[Agent], peer: str, limit: float) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        child.listen()
        os.closerange(3, report.fileno())
        os.closerange(report.fileno() + 1, 65536)
        ok, text = fence(agents, peer, limit, report) if kind == "fence" else check(agents, limit, report)
        report.send(json.dumps([ok, text[:_LONGEST]], ensure_ascii=False).encode())
        code = 0
    finally:
        os._exit(code)


def fence(agents: Sequence[Agent], peer: str, limit: float, owner: socket.socket | None = None) -> tuple[bool, str]:
    """Switch ``peer`` off with the first agent that can, and say how that went. Waits."""
    failures = []
    for agent in agents:
        end = time.monotonic() + limit
        code, said = _run(agent, "off", end, owner)
        if code == _DONE:
            code, said = _run(agent, "status", end, owner)
            if code == _OFF:
                return True, f"{agent.name} switched {peer} off"
            if code == _ON:
                said = f"{agent.name} said that {peer} is off, but its status says that it is on"
            else:
                said = f"{agent.name} said that {peer} is off, but its status can't be told: {said}"
        failures.append(said)
    return False, "; ".join(failures)


def check(agents: Sequence[Agent], limit: float, owner: socket.socket | None = None) -> tuple[bool, str]:
    """Ask every agent whether it could. Waits."""
    failures = []
    for agent in agents:
        code, said = _run(agent, "monitor", time.monotonic() + limit, owner)
        if code != _DONE:
            failures.append(said)
    return not failures, "; ".join(failures) or "the fence agents answer"


def _run(agent: Agent, action: str, end: float, owner: socket.socket | None) -> tuple[int | None, str]:
    """Exit status, and what happened in words; None: there was none to trust."""
    try:
        secrets = read_secrets(agent.secrets) if agent.secrets else {}
        process = subprocess.Popen(
            [agent.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENVIRONMENT,
            cwd="/", start_new_session=True,
        )  # fmt: skip
    except (OSError, ConfigError) as error:
        return None, f"{agent.name}: {error}"
    try:
        told = {**dict(agent.options), **secrets, "action": action}
        said, late = _converse(process, "".join(f"{name}={value}\n" for name, value in told.items()).encode(), end, owner)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if late:
        return None, f"{agent.name} {action} took too long"
    ended = f"{agent.name} {action} ended with {code}" if code >= 0 else f"{agent.name} {action} was killed by signal {-code}"
    line = last_line(said, secrets)
    return code, f"{ended}: {line}" if line else ended


def _converse(process: subprocess.Popen[bytes], told: bytes, end: float, owner: socket.socket | None) -> tuple[bytes, bool]:
    """Tell the agent its options and listen until it ends; the second is True when it was not done in time."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(told)
        process.stdin.close()
    ended = os.pidfd_open(process.pid)
    out = process.stdout.fileno()
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(out, select.POLLIN)
    if owner is not None:
        poll.register(owner, select.POLLIN)
    said = b""
    try:
        while (left := end - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if out in ready:
                piece = os.read(out, 4096)
                said = (said + piece)[-_SAID:]
                if not piece:
                    poll.unregister(out)
            elif ended in ready:
                return said, False
            elif ready:  # heartbeat has ended
                return said, True
        return said, True
    finally:
        os.close(ended)


def last_line(said: bytes, secrets: Mapping[str, str]) -> str:
    """The last words of an agent, without any secret."""
    text = said.decode(errors="replace")
    for value in sorted(secrets.values(), key=len, reverse=True):
        if value:
            text = text.replace(value, "***")
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:_TOLD]
