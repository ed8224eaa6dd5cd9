"""Brings process 1 of a lab or of a machine into being and learns its process id.

Promise: the process either says it is ready in time, or is gone and its reason is raised. Source: unix(7), SCM_CREDENTIALS: the
kernel translates the sender's process id into the receiver's namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .store import LabError, Process

_HERE = Path(__file__).resolve().parent
_CREDENTIALS = struct.Struct("iII")
_LIMIT = 30.0


@dataclass
class Launched:
    """A process on its way. Say ``go`` and wait for its words on the channel."""

    what: str
    channel: socket.socket
    console: Path
    process: Process | None = None

    def expect(self, word: str, limit: float = _LIMIT) -> Process:
        """Wait for the word. Raises LabError with what the process said instead."""
        self.channel.settimeout(limit)
        try:
            said, ancillary, _, _ = self.channel.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError:
            self.give_up()
            raise LabError(f"{self.what} did not say {word!r} within {limit:g} s; see {self.console}") from None
        if self.process is None:
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
                    if pid:
                        self.process = Process.of(pid)
        if said.decode() != word or self.process is None:
            self.give_up()
            reason = said.decode() or self.console.read_text(errors="replace").strip()[-2000:] or "it ended"
            raise LabError(f"{self.what} can't be started: {reason}")
        return self.process

    def say(self, word: str) -> None:
        self.channel.send(word.encode())

    def give_up(self) -> None:
        self.channel.close()
        if self.process is not None:
            self.process.end(signal.SIGKILL, 5.0)


def launch(program: str, what: str, lab: str, spec: Mapping[str, str], console: Path, join: int | None = None) -> Launched:
    """Start lab/``program`` in new namespaces, within the pid and mount namespaces of process ``join`` if given."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    python = [sys.executable, "-I", "-S"]
    channel = ["--channel", str(theirs.fileno())]
    argv = [*python, str(_HERE / "spawn.py"), *(["--join", str(join)] if join else []), *channel, "--"]
    argv += [*python, str(_HERE / program), *channel, "--lab", lab, json.dumps(dict(spec))]
    console.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(theirs), _appending(console) as output:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            env=_environment(),
            check=False,
        )
    launched = Launched(what, ours, console)
    if done.returncode != 0:
        launched.give_up()
        raise LabError(f"{what} can't be started: {console.read_text(errors='replace').strip()[-2000:]}")
    return launched


def _appending(path: Path) -> BinaryIO:
    return path.open("ab")


def _environment() -> dict[str, str]:
    """Nothing of the caller's reaches a machine."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }
