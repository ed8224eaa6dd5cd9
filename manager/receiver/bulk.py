"""Large amounts: a notifier's rsync writes into the staging tree, through sshd of our own and the gate.

Promise: sshd listens only while a preparation asks for it, knows only keys that are derived from this node's and a trusted
notifier's, and each opens the gate alone; nothing of the system's ssh is read or changed. What rsync wrote counts for nothing
until the staging tree was verified. Source: sshd_config(5); design §6; docs/protocols.md ("The session with a device").
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from manager import wire
from manager.holding import Release
from manager.manifest import Unusable
from manager.receiver.trust import Mark, Trust
from runtime import sshd
from runtime.control import listen
from runtime.durable import write_durably
from runtime.errors import HaError

log = logging.getLogger(__name__)

LABEL = "configuration, rsync"
_WHAT = 'written by the receiver: a device\'s end of rsync (docs/protocols.md, "The session with a device")'
#: seconds without a transfer until sshd is ended
IDLE = 60.0
_START = 5.0


class Bulk:
    """``folder``: below /run, for keys and configuration of sshd (0700). ``trees``: staging, in force."""

    def __init__(self, folder: Path, trust: Trust, addresses: Sequence[str], port: int, trees: tuple[Path, Path]) -> None:
        self._folder, self._trust, self._addresses, self._port, self._trees = folder, trust, addresses, port, trees
        self._lock = threading.Lock()
        self._sshd: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._release: Release | None = None
        #: whether root's account was locked, and the key files, when sshd was started
        self._made_with: tuple[bool, Mark] = (False, ())
        self._gates: set[socket.socket] = set()
        self._last = time.monotonic()

    @property
    def busy(self) -> bool:
        """A transfer is under way."""
        return bool(self._gates)

    def start(self, release: Release) -> int:
        """Let ``release`` come, and nothing else; the port. Raises HaError, OSError."""
        with self._lock:
            self._end_gates()
            self._release, self._last = release, time.monotonic()
            self._begin_gates()
            made_with = (sshd.root_is_locked(), self._trust.mark())
            if self._sshd is not None and made_with != self._made_with:
                self._end_sshd(self._sshd)  # it would refuse who is let in by now
            if self._sshd is None or self._sshd.returncode is not None:
                self._made_with = made_with
                self._configure()
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it; Debian makes it for its own only
                self._sshd = None
                threading.Thread(target=self._run, name="sshd", daemon=True).start()
                self._await()
            return self._port

    def finish(self) -> None:
        """No transfer may write from now on; those that are under way are ended first."""
        with self._lock:
            self._release = None
            self._end_gates()

    def turn(self) -> None:
        """Now and then: an sshd that nobody needs is ended."""
        if self._sshd is not None and not self._gates and time.monotonic() - self._last > IDLE:
            self.close()

    def close(self) -> None:
        self.finish()
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd = None

    def _end_sshd(self, child: subprocess.Popen[bytes]) -> None:
        """The port is free afterwards."""
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_START)
        self._sshd = None

    def _run(self) -> None:
        """sshd ends with the thread that started it, so that it never outlives this process: one that waits for it."""
        argv = ["setpriv", "--pdeathsig=TERM", *sshd.argv(self._folder, locked=self._made_with[0])]
        null = subprocess.DEVNULL
        self._sshd = child = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null)
        child.wait()

    def _await(self) -> None:
        end = time.monotonic() + _START
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self._where(), self._port), 1.0):
                return
            if (self._sshd is not None and self._sshd.returncode is not None) or time.monotonic() > end:
                raise HaError(f"sshd does not listen on port {self._port}: is it installed, is the port free?")
            time.sleep(0.02)

    def _where(self) -> str:
        first = self._addresses[0]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)

    def _configure(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        gate = f'restrict,command="{sys.executable} -P -m manager.receiver.gate {self._folder}/gate"'
        lines = []
        for key in self._trust.all():
            own = Ed25519PrivateKey.from_private_bytes(self._trust.keys.derive(LABEL, key))
            lines.append(f"{gate} {own.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()}\n")
        config = sshd.config(self._folder, self._addresses, self._port, _WHAT)
        for name, text in (("host", self._trust.keys.private_ssh()), ("authorized", "".join(lines)), ("sshd_config", config)):
            write_durably(self._folder / name, text, mode=0o600, durable=False)

    # --- the gates ----------------------------------------------------------------------------------------------------------

    def _begin_gates(self) -> None:
        if self._listener is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._listener = listen(self._folder / "gate")
            self._listener.setblocking(True)
            threading.Thread(target=self._accept, args=(self._listener,), name="gates", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._permit, args=(connection,), name="gate", daemon=True).start()

    def _permit(self, connection: socket.socket) -> None:
        """Answer one gate, and wait until its rsync has ended."""
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5.0)
            try:
                told = json.loads(connection.makefile("rb").readline(4096) or b"{}")
                release = wire.release(told.get("release"))
            except (ValueError, AttributeError, Unusable):
                connection.sendall(b'{"error": "not understood"}\n')
                return
            with self._lock:
                if release != self._release:
                    connection.sendall(b'{"error": "that release is not being prepared here"}\n')
                    return
                self._gates.add(connection)
            try:
                staging, in_force = map(os.fspath, self._trees)
                connection.sendall(json.dumps({"staging": staging, "in_force": in_force}).encode() + b"\n")
                connection.settimeout(None)
                connection.recv(1)
            finally:
                self._gates.discard(connection)
                self._last = time.monotonic()

    def _end_gates(self) -> None:
        for connection in list(self._gates):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        _until(lambda: not self._gates, 3.0)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
