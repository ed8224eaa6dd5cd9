"""Large amounts: rsync over OpenSSH into a device's staging area.

Promise: the key that is used opens nothing else at the device (its gate: ``docs/protocols.md``), both ends derive it from
their pinned node keys, so none is exchanged; the device proves its node key. Nothing of root's own ssh configuration is read.
Cancelled, all that was started ends. Source: rsync(1), ssh_config(5); design §7.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from manager.holding import Release
from runtime.commands import environment
from runtime.durable import write_durably
from runtime.errors import HaError
from runtime.keys import Keys, PublicKey

LABEL = "configuration, rsync"
WORD = "ha-release"
#: without a word for so long a transfer is over (seconds)
TIMEOUT = 20
RSYNC = "/usr/bin/rsync"


class Bulk:
    """Transfers to one device, one at a time; ``cancel`` from any thread."""

    def __init__(self, folder: Path, keys: Keys, pinned: PublicKey, host: str) -> None:
        self._folder, self._keys, self._pinned, self._host = folder, keys, pinned, host
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, tree: Path, release: Release, port: int, told: Callable[[], None], *, empty: bool = False) -> None:
        """Mirror ``tree`` into the device's staging area. Sums decide what is there already, unless it is ``empty``: they cost
        as much as the transfer. Raises HaError, OSError."""
        self._configure(port)
        env = {name: value for name, value in environment().items() if not name.startswith("RSYNC")}
        with tempfile.TemporaryFile() as said:
            with self._lock:
                if self._cancelled:
                    raise HaError("cancelled")
                self._child = child = subprocess.Popen(
                    self._argv(tree, release, empty),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=env,
                    process_group=0,
                )
            try:
                assert child.stdout is not None
                with child.stdout as output:
                    while os.read(output.fileno(), 4096):
                        told()
            finally:
                code = child.wait()
                with self._lock:
                    self._child = None
            said.seek(0)
            if code != 0:
                raise HaError(words(code, said.read(1 << 16).decode(errors="replace")))

    def cancel(self) -> None:
        """Now and for good: the session with the device has ended."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGTERM)

    def _argv(self, tree: Path, release: Release, empty: bool) -> list[str]:
        version, compare = release.version, [] if empty else ["--checksum"]
        return [
            "setpriv", "--pdeathsig=TERM", RSYNC, "-rlpt", *compare, "--delete", f"--timeout={TIMEOUT}",
            "--partial-dir=.ha-partial", "--info=progress2", "--outbuf=L", "-e", f"ssh -F {self._folder}/ssh_config",
            f"--rsync-path={WORD} {version.epoch} {version.node or '-'} {version.number} {release.digest}",
            "--", f"{tree}/", "device:.",
        ]  # fmt: skip

    def _configure(self, port: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.from_private_bytes(self._keys.derive(LABEL, self._pinned))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        known = f"{self._pinned.node} ssh-ed25519 {base64.b64encode(self._pinned.ssh).decode()}\n"
        for name, text in (("client", private), ("known", known), ("ssh_config", self._ssh_config(port))):
            write_durably(self._folder / name, text, mode=0o600, durable=False)

    def _ssh_config(self, port: int) -> str:
        return f"""# written by the notifier: its end of rsync
Host device
  HostName {self._host}
  HostKeyAlias {self._pinned.node}
  Port {port}
  User root
  IdentityFile {self._folder}/client
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {self._folder}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  HostKeyAlgorithms ssh-ed25519
  PreferredAuthentications publickey
  BatchMode yes
  ConnectTimeout 5
  ServerAliveInterval 5
  ServerAliveCountMax 3
  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com
  Compression no
  LogLevel ERROR
"""


def words(code: int, said: str) -> str:
    """Why a transfer failed."""
    lower = said.lower()
    if "permission denied (publickey" in lower:
        return (
            "the device refuses the key of the transfers. Does /etc/shadow there say root:!, and PAM refuse such an account? "
            "`usermod -p '*' root` there locks the password only"
        )
    if "host key verification failed" in lower:
        return "another than the device answers on the port of the transfers"
    if re.search(r"no space left on device", lower):
        return "the device's disk is full"
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("rsync error:")]
    told = next((line for line in lines if "manager:" in line), lines[-1] if lines else f"rsync ended with {code}")
    return told.strip()
