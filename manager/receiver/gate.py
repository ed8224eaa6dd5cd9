"""``python -m manager.receiver.gate SOCKET``: all that a notifier's rsync key opens on a device.

Promise: runs rsync as a receiver, nothing else, in the staging tree of the configuration, with none but the notifier's options;
only for the release that is being prepared, and no longer. Few imports. Source: docs/protocols.md ("The session with a
device").

What arrives in SSH_ORIGINAL_COMMAND: ``ha-release EPOCH NODE NUMBER DIGEST --server … . .``
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys

from runtime import gated
from runtime.errors import HaError

WORD = "ha-release"
RSYNC = "/usr/bin/rsync"
#: options that would read, follow links, set owners or write elsewhere are none of them
_ALLOWED = re.compile(
    r"-[ltprc]+e[0-9]*\.[a-zA-Z]*|--timeout=[0-9]+|--delete(?:-delay|-during)?|--bwlimit=[0-9]+|--partial-dir|\.ha-partial"
)


def parse(command: str) -> tuple[list[object], str, list[str]]:
    """Version, digest and rsync's own options. Raises HaError for anything that a notifier wouldn't say."""
    try:
        word, epoch, node, number, digest, server, *options, here, there = shlex.split(command)
        version: list[object] = [int(epoch), node, int(number)]
    except ValueError as wrong:
        raise HaError("this key opens nothing but the notifier's transfers") from wrong
    if (word, server, here, there) != (WORD, "--server", ".", "."):
        raise HaError("this key opens nothing but the notifier's transfers")
    for option in options:
        if not _ALLOWED.fullmatch(option):
            raise HaError(f"{option!r} is not an option that the notifier uses")
    return version, digest, options


def permitted(path: str, version: list[object], digest: str) -> tuple[socket.socket, str, str]:
    """A connection that is the permission, the staging tree, and the tree in force. Raises HaError."""
    permission = socket.socket(socket.AF_UNIX)
    permission.settimeout(10.0)
    try:
        permission.connect(path)
        permission.sendall(json.dumps({"release": {"version": version, "digest": digest}}).encode() + b"\n")
        answer = json.loads(permission.makefile("rb").readline() or b'{"error": "the receiver does not run"}')
    except (OSError, ValueError) as wrong:
        raise HaError(f"the receiver does not answer: {wrong}") from wrong
    if "error" in answer:
        raise HaError(str(answer["error"]))
    return permission, str(answer["staging"]), str(answer["in_force"])


def main(argv: list[str]) -> int:
    try:
        version, digest, options = parse(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
        permission, staging, in_force = permitted(argv[0], version, digest)
        os.chdir(staging)
    except (HaError, OSError) as wrong:
        print(f"manager: {wrong}", file=sys.stderr)
        return gated.REFUSED
    os.umask(0o022)
    # What is in force already is copied here, not linked: rsync sets times and modes.
    words = [RSYNC, "--server", *options, f"--copy-dest={in_force}", ".", "."]
    return gated.run(words, permission, "manager: the transfer was ended: that release is not being prepared any more")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
