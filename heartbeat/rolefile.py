"""The role file: this node's role for every process that asks, never wrong after a crash because it expires.

Promise: one line, replaced atomically, good until a time of CLOCK_BOOTTIME that a shell can compare with /proc/uptime. It lies
on /run, which is empty after a boot. Source: design §5; docs/protocols.md, "Role file".
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from math import floor
from pathlib import Path

from heartbeat.model import SERVING, Epoch, Phase, Resume, Role

FILE = "/run/heartbeat/role"

_LINE = re.compile(
    r"(active|passive) ([0-9]{1,19}) ([A-Za-z0-9._-]{1,64}) ([0-9]{1,12}\.[0-9]{2}) ([a-z-]{1,20}) ([01]) ([01])\n?\Z"
)


@dataclass(frozen=True)
class RoleLine:
    role: Role
    epoch: Epoch
    #: seconds of CLOCK_BOOTTIME
    expires: float
    phase: Phase
    vip: bool
    solo: bool

    def __str__(self) -> str:
        # Rounded down: never good for longer than was said.
        expires = floor(self.expires * 100) / 100
        epoch = f"{self.epoch.number} {self.epoch.node or '-'}"
        return f"{self.role} {epoch} {expires:.2f} {self.phase} {int(self.vip)} {int(self.solo)}\n"


def parse(text: str) -> RoleLine | None:
    """The line of a role file; None if it isn't one."""
    match = _LINE.match(text)
    if match is None or match[5] not in set(Phase):
        return None
    node = "" if match[3] == "-" else match[3]
    return RoleLine(
        Role(match[1]), Epoch(int(match[2]), node), float(match[4]), Phase(match[5]), match[6] == "1", match[7] == "1"
    )


class RoleFile:
    """Written at every keepalive: one temporary name, so that a crash leaves at most one file behind."""

    def __init__(self, file: str | os.PathLike[str] = FILE) -> None:
        self.file = Path(file)
        self._path = os.fspath(file)
        self._temporary = f"{self._path}.new"
        self._written: RoleLine | None = None

    def write(self, line: RoleLine) -> None:
        """Replace the file, unless this process wrote the same there before; raises OSError."""
        if line == self._written:
            return
        self._written = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, 0o644)
        try:
            content = str(line).encode()
            if os.write(fd, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        os.rename(self._temporary, self._path)
        self._written = line

    def read(self) -> RoleLine | None:
        """What it says, expired or not; None if there is nothing that can be read."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with open(fd, "rb") as file:
            return parse(file.read(512).decode("ascii", errors="replace"))

    def resume(self, now: float) -> Resume:
        """What a predecessor that served left behind, if it is still good at ``now``."""
        line = self.read()
        if line is None or line.role is not Role.ACTIVE or line.phase not in SERVING or line.expires <= now:
            return Resume()
        return Resume(line.epoch, line.expires)

    def remove(self) -> None:
        self._written = None
        self.file.unlink(missing_ok=True)
