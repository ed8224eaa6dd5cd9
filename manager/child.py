"""The receiver: a child of the Manager that is always there, whatever roles are enabled.

Promise: started once this node has a key, started again after 1, 2, 4 … 60 s when it ends, ended with the Manager (the kernel
sees to that, too). It is no role: a configuration that it receives can't switch it off. Source: design §7; docs/protocols.md.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runtime.loop import Loop, Timer
from runtime.oom import as_others

log = logging.getLogger(__name__)

_PERIOD, _LONGEST = 2.0, 60.0
#: a child that lived so long was in order
_STEADY = 60.0
_TAIL = 500


class Child:
    """``key``: the file without which there is nothing to do."""

    def __init__(self, loop: Loop, argv: Sequence[str], key: Path) -> None:
        self._loop, self._argv, self._key = loop, argv, key
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd, self._since, self._ends = -1, 0.0, 0
        self._timer: Timer | None = None
        self._ended = False
        self._said = os.memfd_create("receiver", os.MFD_CLOEXEC)
        #: "" while it runs, or needn't
        self.alarm = ""

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def begin(self) -> None:
        self._timer = None
        if not self._key.exists():
            self._timer = self._loop.call_after(_PERIOD, self.begin)
            return
        os.ftruncate(self._said, 0)
        os.lseek(self._said, 0, os.SEEK_SET)
        try:
            with as_others():
                self._child = subprocess.Popen(
                    self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._said, cwd="/"
                )
        except OSError as wrong:
            self._again(f"can't be started: {wrong.strerror}")
            return
        self._since = self._loop.now()
        self._pidfd = os.pidfd_open(self._child.pid)
        self._loop.selector.register(self._pidfd, selectors.EVENT_READ, self._died)

    def end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._forget()
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(2.0)
            except subprocess.TimeoutExpired:
                self._child.kill()
        os.close(self._said)

    def _forget(self) -> None:
        self._loop.selector.unregister(self._pidfd)
        os.close(self._pidfd)

    def _died(self, mask: int) -> None:
        assert self._child is not None
        self._forget()
        code = self._child.wait()
        self._child = None
        if self._loop.now() - self._since > _STEADY:
            self._ends = 0
        size = os.fstat(self._said).st_size
        words = os.pread(self._said, _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip().splitlines()
        self._again(words[-1] if words else f"ended with {code}")

    def _again(self, because: str) -> None:
        if self._ended:
            return
        delay = min(_LONGEST, 2.0**self._ends)
        self._ends += 1
        self.alarm = f"{because}; no notifier reaches this device; started again in {delay:g} s"
        log.error("receiver: %s", self.alarm)
        self._timer = self._loop.call_after(delay, self._once_more)

    def _once_more(self) -> None:
        self.begin()
        self._timer = self._loop.call_after(_PERIOD, self._settled)

    def _settled(self) -> None:
        self._timer = None
        if self._child is not None:
            self.alarm = ""
