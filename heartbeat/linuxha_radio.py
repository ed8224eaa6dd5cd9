"""Frames of a Linux-HA pair out and in.

Promise: as ``radio``; what goes out has the fields of a Linux-HA node in their order, completed here by what the host knows.
Source: facts/linux-ha-heartbeat.md, "Wire protocol".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from heartbeat.frames import FrameError, Keyring, Value, encode
from heartbeat.links import Datagram
from heartbeat.linuxha_link import Frame, numbered
from heartbeat.model import HeardFrame
from heartbeat.radio import Link, Radio, Reception
from heartbeat.timing import Timing

log = logging.getLogger(__name__)

_UUID_SIZE = 16


class LinuxHaRadio(Radio):
    """Speaks and listens for one node next to Linux-HA."""

    def __init__(
        self,
        links: Iterable[Link],
        keyring: Keyring,
        node: str,
        timing: Timing,
        nodes: int,
        clock: Callable[[], float],
        uuid_file: Path,
    ) -> None:
        super().__init__(links, keyring, node, timing, nodes, clock)
        self._uuid = _uuid(uuid_file) or self._uuid
        self._uuids: dict[str, bytes] = {}

    def transmit(self, said: Frame) -> None:
        """Send what the core said."""
        try:
            frame = encode(self._complete(said), self.keyring)
        except FrameError as error:
            log.error("a frame can't be sent: %s", error)
            return
        self.sent += 1
        for link in self.links:
            link.send(frame)

    def _complete(self, said: Frame) -> dict[str, Value]:
        numbers = {name: said[name] for name in ("seq", "hg") if name in said}
        out: dict[str, Value] = {name: value for name, value in said.items() if name not in numbers}
        known = self._uuids.get(str(said.get("dest", "")))
        if known is not None:
            out["destuuid"] = known
        out |= {"src": self._node, "srcuuid": self._uuid, **numbers, "ts": f"{int(time.time()):x}"}
        if numbered(str(said["t"])):
            out["ld"] = _load()
        return out | {"ttl": str(self._ttl)}

    def heard_frames(self) -> list[HeardFrame]:
        """Everything that is queued on the links now and authentic; what this node said itself is left out."""
        found: list[HeardFrame] = []
        for reception, datagram in self.admitted():
            fields = self._authentic(reception, datagram)
            if fields is not None:
                found.append(HeardFrame(reception.link.name, fields))
        return found

    def _authentic(self, reception: Reception, datagram: Datagram) -> dict[str, Value] | None:
        fields = self.opened(reception, datagram)
        if fields is None:
            return None
        source, uuid = fields.get("src"), fields.get("srcuuid")
        if source == self._node:
            if uuid != self._uuid:
                self.foreign(reception, datagram, f"says that it is {self._node} too")
            return None
        if isinstance(source, str) and isinstance(uuid, bytes) and len(uuid) == _UUID_SIZE and len(self._uuids) < 16:
            self._uuids[source] = uuid
        self.is_peers(reception, datagram, str(source))
        return fields


def _uuid(file: Path) -> bytes | None:
    """The one that a Linux-HA heartbeat left on this server: its peer knows the node by it."""
    try:
        found = file.read_bytes()
    except OSError:
        return None
    return found if len(found) == _UUID_SIZE else None


def _load() -> str:
    try:
        return Path("/proc/loadavg").read_text().strip()
    except OSError:
        return "0.00 0.00 0.00 1/1 1"
