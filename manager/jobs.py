"""Init scripts and other short commands, run beside the loop.

Promise: starting one never waits; its end is noticed at once (pidfd); out of time, it and all its descendants are killed. What
it printed is kept for the message, and a daemon that it leaves behind may go on holding its output: that neither blocks nor
kills it.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime.errors import CommandFailed
from runtime.loop import Loop
from runtime.oom import as_others
from runtime.proctree import kill_tree

_TAIL = 2000

#: Init scripts get this and nothing of what the Manager inherited from whoever started it.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "MANAGED": "1",
}


@dataclass(frozen=True)
class Outcome:
    """``problem`` is None if the command ended with status 0 in time."""

    timed_out: bool
    problem: CommandFailed | None


class Job:
    """One command. ``done`` is called once, from the loop, never from the constructor."""

    def __init__(
        self,
        loop: Loop,
        argv: Sequence[str],
        *,
        limit: float,
        done: Callable[[Outcome], None],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._loop = loop
        self._argv = tuple(argv)
        self._limit = limit
        self._done = done
        self._timed_out = False
        self._output = os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with as_others():
                self._child = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env=_ENVIRONMENT | dict(env or {}),
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as wrong:
            os.close(self._output)
            failed = CommandFailed(self._argv, None, "", because=f"could not be started: {wrong.strerror}")
            loop.call_after(0, lambda: done(Outcome(False, failed)))
            return
        self._pidfd = os.pidfd_open(self._child.pid)
        loop.selector.register(self._pidfd, selectors.EVENT_READ, self._ended)
        self._timer = loop.call_after(limit, self._out_of_time)

    def _out_of_time(self) -> None:
        self._timed_out = True
        # Not its process group: timeout(1) and others in scripts make groups of their own.
        kill_tree(self._child.pid, None, limit=0)

    def _ended(self, mask: int) -> None:
        self._timer.cancel()
        self._loop.selector.unregister(self._pidfd)
        os.close(self._pidfd)
        code = self._child.wait()
        said = self._said()
        problem = None
        if self._timed_out:
            because = f"did not end within {self._limit:g} s and was killed"
            problem = CommandFailed(self._argv, None, said, because=because)
        elif code != 0:
            problem = CommandFailed(self._argv, code, said)
        self._done(Outcome(self._timed_out, problem))

    def _said(self) -> str:
        # Sealed, so that a daemon left behind which still writes there gets an error instead of filling the memory.
        fcntl.fcntl(self._output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        size = os.fstat(self._output).st_size
        text = os.pread(self._output, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
        os.close(self._output)
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())
