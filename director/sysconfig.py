"""/etc/sysconfig/mfend: the load balancing ID that the reference's administrators wrote there.

Promise: ``MFEND_LBID`` and ``MFE_LBID`` are understood as the shell would: the last line wins, quotes and comments are taken
off; what is no number from 1 to 255 is refused with its line. Source: the reference's Q&A on two independent groups.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from runtime.durable import read_bytes
from runtime.errors import ConfigError

MFEND = Path("/etc/sysconfig/mfend")

_LARGEST = 1024 * 1024
_LINE = re.compile(r"\s*(?:export\s+)?(MFEND_LBID|MFE_LBID)=(.*)")


def lbid(path: Path = MFEND) -> int | None:
    """The load balancing ID that the file gives; None if it gives none, or isn't there. Raises ConfigError."""
    try:
        content = read_bytes(path, _LARGEST, follow=True)
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", file=path, remedy="check its owner and mode") from error
    found = None
    for number, line in enumerate((content or b"").decode(errors="replace").splitlines(), 1):
        if match := _LINE.match(line):
            found = _number(match[1], match[2], path, number)
    return found


def _number(name: str, text: str, path: Path, line: int) -> int:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = []
    if len(words) != 1 or not words[0].isascii() or not words[0].isdigit() or not 1 <= int(words[0]) <= 255:
        remedy = f"write {name}=51, or another number from 1 to 255"
        raise ConfigError(f"{name}={text.strip()} is no load balancing ID", file=path, line=line, remedy=remedy)
    return int(words[0])
