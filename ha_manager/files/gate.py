"""``python -m ha_manager.files.gate CONTROL``: all that the rsync key opens on the passive.

Promise: runs rsync as a receiver, nothing else, in the one directory below the staging directory that was asked for, reached
without following a link, with none but the options of ``ha_manager.files.rsync``; only while the process of the replicated
files allows it, and no longer: when that says so, or ends, the transfer ends. Few imports: it is started for each transfer.
Source: design §6 ("a forced command of our own checks the arguments").

What arrives in SSH_ORIGINAL_COMMAND: ``ha-files EPOCH NODE PATH --server …``, PATH in hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

from ha_manager.files import rsync
from ha_manager.files.staging import Staging, components
from runtime import gated
from runtime.errors import HaError

WORD = "ha-files"


def words(epoch: tuple[int, str], path: str) -> str:
    """What the sender's rsync is to call: the other half of ``parse``."""
    return f"{WORD} {epoch[0]} {epoch[1]} {os.fsencode(path).hex()}"


def parse(command: str) -> tuple[tuple[int, str], str, list[str]]:
    """Epoch, directory, rsync's own words. Raises HaError for anything that the sender wouldn't say."""
    try:
        word, number, node, path, *own = shlex.split(command)
        found = (int(number), node), os.fsdecode(bytes.fromhex(path)), own
    except ValueError as wrong:
        raise HaError("this key opens nothing but ha_manager's transfers") from wrong
    refused = rsync.why_refused(own)
    if word != WORD or refused:
        raise HaError(refused or "this key opens nothing but ha_manager's transfers")
    return found


class _Permission:
    """Held as long as the connection stands."""

    def __init__(self, control: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10.0)
        try:
            self.socket.connect(os.fspath(control))
        except OSError as wrong:
            raise HaError(f"the process of the replicated files does not run here: {wrong.strerror}") from wrong

    def ask(self, epoch: tuple[int, str], path: str) -> Path:
        """The staging directory. Raises HaError with its words if it refuses."""
        request = {"id": 1, "do": "gate", "epoch": list(epoch), "path": path, "pid": os.getpid()}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self.socket.makefile("rb").readline() or b'{"error": "it ended"}')
        if not answer.get("ok"):
            raise HaError(str(answer.get("error")))
        return Path(answer["staging"])


def main(argv: list[str]) -> int:
    try:
        epoch, path, own = parse(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
        permission = _Permission(Path(argv[0]))
        staging = Staging(permission.ask(epoch, path))
        with staging.folder([] if path == "/" else components(path), make=True) as folder:
            os.fchdir(folder)
    except (HaError, OSError, ValueError) as wrong:
        print(f"ha_manager: {wrong}", file=sys.stderr)
        return gated.REFUSED
    os.umask(0o022)
    ended = "ha_manager: the transfer was ended: this server takes no files any more"
    return gated.run([rsync.PROGRAM, *own], permission.socket, ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
