"""Heartbeats out and in: messages ↔ authenticated frames on the links, and pings of groups.

Promise: a frame that isn't authentic is counted and forgotten; whatever arrives, at most one line a minute and link reaches the
log. What is authentic but can't be understood is told likewise, because then a peer with the key speaks another version.
Source: design §5; docs/protocols.md, "Frames".
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from heartbeat.frames import FrameError, Keyring, decode, encode
from heartbeat.model import Heard, Message, PingReply
from heartbeat.wire import Header, fields, message

log = logging.getLogger(__name__)

_LOG_PERIOD = 60.0


class Link(Protocol):
    """``links.Link``."""

    name: str

    def send(self, frame: bytes) -> bool: ...
    def receive(self) -> list[bytes]: ...


class Pinger(Protocol):
    """``ping.Pinger``."""

    def send(self, seq: int) -> int: ...
    def receive(self) -> Iterable[tuple[str, int]]: ...


@dataclass
class Refused:
    """Frames of one link that were not taken, since the start."""

    unauthentic: int = 0
    unusable: int = 0
    foreign: int = 0
    because: str = ""
    told_at: float = -inf
    told: int = 0

    @property
    def total(self) -> int:
        return self.unauthentic + self.unusable + self.foreign


class Radio:
    """Speaks and listens for one node of the pair."""

    def __init__(
        self, links: Iterable[Link], keyring: Keyring, node: str, deadtime: float, nodes: int, clock: Callable[[], float]
    ) -> None:
        self.links = tuple(links)
        self.keyring = keyring
        self._node = node
        self._uuid = hashlib.sha256(b"heartbeat " + node.encode()).digest()[:16]
        self._deadtime_ms = round(deadtime * 1000)
        self._ttl = 1 + nodes
        self._clock = clock
        self.refused = {link.name: Refused() for link in self.links}
        self.sent = 0

    def say(self, said: Message) -> None:
        header = Header(self._uuid, self._deadtime_ms, self._ttl, int(time.time()))
        frame = encode(fields(said, header), self.keyring)
        self.sent += 1
        for link in self.links:
            link.send(frame)

    def heard(self) -> list[Heard]:
        """Everything that is queued on the links now, as far as it is the peer's."""
        return [
            Heard(link.name, taken) for link in self.links for frame in link.receive() if (taken := self._take(link, frame))
        ]

    def _take(self, link: Link, frame: bytes) -> Message | None:
        refused = self.refused[link.name]
        try:
            taken = message(decode(frame, self.keyring))
        except FrameError as error:
            if error.authentic:
                refused.unusable += 1
            else:
                refused.unauthentic += 1
            self._tell(link.name, refused, str(error))
            return None
        if taken is None or taken.node == self._node:
            refused.foreign += 1
            self._tell(
                link.name, refused, "it is a Linux-HA node's" if taken is None else f"it says that it is {self._node} too"
            )
            return None
        return taken

    def _tell(self, link: str, refused: Refused, because: str) -> None:
        refused.because = because
        now = self._clock()
        if now - refused.told_at >= _LOG_PERIOD:
            log.warning("%s: %d frames were not taken; the last one: %s", link, refused.total - refused.told, because)
            refused.told_at, refused.told = now, refused.total

    def counters(self) -> dict[str, dict[str, int | str]]:
        return {
            name: {"unauthentic": r.unauthentic, "unusable": r.unusable, "foreign": r.foreign, "because": r.because}
            for name, r in self.refused.items()
        }


class PingGroups:
    """Ping nodes as the core knows them: a group answers when any of its addresses does."""

    def __init__(self, pinger: Pinger, groups: Mapping[str, tuple[str, ...]]) -> None:
        self._pinger = pinger
        self._names = list(groups)
        self._groups_of: dict[str, list[str]] = {}
        for name, addresses in groups.items():
            for address in addresses:
                self._groups_of.setdefault(address, []).append(name)

    def ping(self, seq: int) -> list[str]:
        self._pinger.send(seq)
        return self._names

    def replies(self) -> list[PingReply]:
        return [PingReply(name, seq) for address, seq in self._pinger.receive() for name in self._groups_of.get(address, ())]
