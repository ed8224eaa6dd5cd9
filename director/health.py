"""Do the ports of this node answer? Each redirect's proxy port is tried by itself.

Promise: a redirect is well after ``rise`` successes in a row and fails after ``fall`` failures; what is tried first decides at
once; until then it isn't well. Nothing here waits: connections are made in the loop, commands run in a thread with ordinary
priority. Source: design §8; "mwg-mon monitors all of the port redirects as a whole and not individually" (McAfee, Load
Balancing): here each by itself, the whole only if ``mode="whole_node"``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shlex
import socket
from collections.abc import Callable

from director.settings import Check, Redirect
from runtime.commands import run
from runtime.errors import CommandFailed
from runtime.loop import Loop, Timer
from runtime.priority import relax
from runtime.worker import Worker

#: of an HTTP answer that counts: below 500, also "proxy authentication required"
_SERVER_ERROR = 500
_LONGEST = 4096
#: of a thread, bytes: the daemon's memory is locked
STACK = 512 * 1024
#: of a command's last words
_QUOTED = 100


class Verdict:
    """Pure: well or not, from one try after the other. ``why``: what the latest failure was."""

    def __init__(self, rise: int, fall: int) -> None:
        self._rise, self._fall = rise, fall
        self._row = 0
        self.well: bool | None = None
        self.why = "not tried yet"

    def note(self, problem: str) -> bool:
        """One try: "" or what was wrong. True if the verdict has changed."""
        good = not problem
        self.why = problem or self.why
        if self.well is None or self.well == good:
            changed, self.well, self._row = self.well is None, good, 0
            self.why = problem
            return changed
        self._row += 1
        if self._row < (self._rise if good else self._fall):
            return False
        self.well, self._row, self.why = good, 0, problem
        return True


class PortCheck:
    """One redirect's. ``changed`` is called at each change of the verdict."""

    def __init__(self, loop: Loop, redirect: Redirect, address: str, changed: Callable[[PortCheck], None]) -> None:
        self.redirect, self.address = redirect, address
        self.verdict = Verdict(redirect.check.rise, redirect.check.fall)
        self._loop, self._changed = loop, changed
        self._timer: Timer | None = None
        self._attempt: _Attempt | None = None
        self._worker: Worker | None = None

    def start(self) -> None:
        if self.redirect.check.kind == "none":
            self._done("")
            return
        self._try()

    def tries(self, redirect: Redirect) -> bool:
        """Whether that redirect's check would be just this one."""
        mine = self.redirect
        return (mine.to, mine.transport, mine.check) == (redirect.to, redirect.transport, redirect.check)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.end()
        if self._worker is not None:
            self._worker.close()
        self._timer = self._attempt = self._worker = None

    def _try(self) -> None:
        check = self.redirect.check
        if check.kind == "command":
            self._command(check)
        else:
            self._attempt = _Attempt(self._loop, (self.address, self.redirect.to), check, self._again)

    def _again(self, problem: str) -> None:
        self._attempt = None
        self._timer = self._loop.call_after(self.redirect.check.interval, self._try)
        self._done(problem)

    def _done(self, problem: str) -> None:
        if self.verdict.note(problem):
            self._changed(self)

    def _command(self, check: Check) -> None:
        if self._worker is None:
            self._worker = Worker(self._loop.selector, STACK)
            self._worker.do(relax, lambda _: None)
        argv = shlex.split(check.command)
        self._worker.do(lambda: run(argv, timeout=check.timeout), self._command_ended)

    def _command_ended(self, raised: Exception | None) -> None:
        if self._worker is None:
            return
        if isinstance(raised, CommandFailed):
            said = raised.because or f"exit status {raised.code}"
            self._again(f"{said} {raised.stderr.strip()[-_QUOTED:]}".strip())
        else:
            self._again(str(raised) if raised else "")


class _Attempt:
    """One connection, and one request if that is wanted."""

    def __init__(self, loop: Loop, to: tuple[str, int], check: Check, then: Callable[[str], None]) -> None:
        self._loop, self._check, self._then = loop, check, then
        self._request = (
            f"GET {check.path} HTTP/1.0\r\nHost: {to[0]}\r\nConnection: close\r\n\r\n" if check.kind == "http" else ""
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._timer = loop.call_after(check.timeout, lambda: self._finish(f"no answer within {check.timeout:g} s"))
        self._answer = b""
        code = self._socket.connect_ex(to)
        if code not in (0, errno.EINPROGRESS):
            self._timer.cancel()
            self._timer = loop.call_after(0.0, lambda: self._finish(os.strerror(code)))
            self._registered = False
            return
        loop.selector.register(self._socket, selectors.EVENT_WRITE, self._connected)
        self._registered = True

    def end(self) -> None:
        self._timer.cancel()
        if self._registered:
            self._loop.selector.unregister(self._socket)
            self._registered = False
        self._socket.close()

    def _finish(self, problem: str) -> None:
        self.end()
        self._then(problem)

    def _connected(self, mask: int) -> None:
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._finish(os.strerror(code).lower())
            return
        if not self._request:
            self._finish("")
            return
        try:
            self._socket.send(self._request.encode())
        except OSError as error:
            self._finish(f"{error.strerror}")
            return
        self._loop.selector.modify(self._socket, selectors.EVENT_READ, self._answered)

    def _answered(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._socket.recv(_LONGEST)
            except OSError as error:
                self._finish(f"{error.strerror}")
                return
            self._answer += data
            if b"\n" in self._answer or not data or len(self._answer) > _LONGEST:
                self._finish(_judged(self._answer))


def _judged(answer: bytes) -> str:
    line = answer.partition(b"\n")[0].decode(errors="replace").strip()
    words = line.split()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        return f"not an HTTP answer: {line[:_QUOTED]!r}"
    return "" if int(words[1]) < _SERVER_ERROR else f"it answers {line[:_QUOTED]!r}"
