"""One transfer by rsync, watched.

Promise: ``run`` returns why it failed ("" if it didn't), and ends with all that it started when it is cancelled; how far it
is can be read meanwhile. One that is stopped (SIGSTOP) is woken, one that does nothing any more is ended. What an interrupted
transfer had of a file is not sent again. Source: rsync(1).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ha_manager.files import gate, rsync, transport
from ha_manager.files.direction import Epoch
from ha_manager.files.rsync import Pass
from runtime.commands import environment
from runtime.pulse import Pulse, group_of

#: nothing of it moves for so long: longer than rsync itself waits for the other end (seconds)
HUNG = 3.0 * rsync.TIMEOUT
LOOK = 1.0


class Transfer:
    """At most one at a time; ``cancel`` from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, transfer: Pass, epoch: Epoch, told: Callable[[int, int, str], None]) -> str:
        """``told``: bytes, per cent, speed."""
        argv = ["setpriv", "--pdeathsig=TERM"]  # bound to this thread, which lives as long as the process
        argv += rsync.argv(transfer, transport.shell(self._folder), gate.words(epoch, transfer.folder), transport.HOST)
        names = b"".join(os.fsencode(name) + b"\0" for name in transfer.names)
        env = {name: value for name, value in environment().items() if not name.startswith("RSYNC")}
        with tempfile.TemporaryFile() as listed, tempfile.TemporaryFile() as said:
            listed.write(names)
            listed.seek(0)
            with self._lock:
                self._cancelled = False
                self._child = child = subprocess.Popen(
                    argv, stdin=listed, stdout=subprocess.PIPE, stderr=said, env=env, process_group=0
                )
            try:
                hung = self._follow(child, told)
            finally:
                code = child.wait()
                with self._lock:
                    self._child = None
            if self._cancelled:
                return "cancelled"
            if hung:
                return f"rsync did nothing for {HUNG:g} s: it is ended and begun anew"
            said.seek(0)
            return rsync.words(code, said.read(1 << 16).decode(errors="replace"))

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGTERM)

    def _follow(self, child: subprocess.Popen[bytes], told: Callable[[int, int, str], None]) -> bool:
        """Until it closes its output; whether it had to be ended."""
        assert child.stdout is not None
        rest, reported, pulse = b"", b"", Pulse(lambda: group_of(child.pid))
        with child.stdout as output:
            while True:
                if not select.select([output], [], [], LOOK)[0]:
                    if pulse.quiet(reported) > HUNG:
                        os.killpg(child.pid, signal.SIGKILL)
                        return True
                    continue
                if not (data := os.read(output.fileno(), 4096)):
                    return False
                *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
                for reported in lines[-1:]:
                    if found := rsync.progress(reported.decode(errors="replace") + " "):
                        told(*found)
