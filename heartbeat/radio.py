"""Heartbeats out and in: messages ↔ authenticated frames on the links, and pings of groups.

Promise: a frame that isn't authentic is counted and forgotten; whatever arrives, at most one line a minute and link reaches the
log, and while the peer is heard a flood of strangers' frames is discarded by the kernel. What is authentic but can't be
understood is told likewise, because then a peer with the key speaks another version.
Source: design §5; docs/protocols.md, "Frames".
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from heartbeat.frames import FrameError, Keyring, Value, authentic, decode, encode, read
from heartbeat.links import Datagram
from heartbeat.media import LinkLine
from heartbeat.model import Boot, Heard, Message, PingReply
from heartbeat.sources import Sources
from heartbeat.timing import Timing
from heartbeat.wire import Header, Stamp, fields, macs, message, stamp

log = logging.getLogger(__name__)

_LOG_PERIOD = 60.0
#: so many refused frames a second are a flood; the shield is tried again after so many seconds
FLOOD, SHIELDED = 500, 10.0
_MOST_NODES = 8  # that hold the key; a pair has two


class Link(Protocol):
    """``links.Link``."""

    name: str
    line: LinkLine
    shielded: bool

    def send(self, frame: bytes) -> bool: ...
    def receive(self) -> list[Datagram]: ...
    def shield(self, senders: Collection[str]) -> None: ...


class Pinger(Protocol):
    """``ping.Pinger``."""

    def send(self, seq: int) -> int: ...
    def receive(self) -> Iterable[tuple[str, int]]: ...


@dataclass
class Refused:
    """Frames of one link that were not taken, since the start."""

    stranger: int = 0
    unauthentic: int = 0
    unusable: int = 0
    foreign: int = 0
    #: authentic, but not newer than what was heard on the link: replays, and the copies of a link with several media
    again: int = 0
    because: str = ""
    told_at: float = -inf
    told: int = 0

    @property
    def total(self) -> int:
        return self.stranger + self.unauthentic + self.unusable + self.foreign


class Reception:
    """One link's ear: who may speak there, what was refused, and the shield against a flood."""

    def __init__(self, link: Link, named: Collection[str], patience: float) -> None:
        self.link = link
        self.sources = Sources(named, link.line.open, patience)
        self.refused = Refused()
        self._second = 0.0
        self._refused_before = 0
        self._shield_until = inf
        self._told_at = -inf
        self._newest: dict[str, Stamp] = {}

    def is_new(self, stamp: Stamp) -> bool:
        """Newer than all that was heard of the node on this link; as ``Membership.heard``, but before the whole is read."""
        newest = self._newest.get(stamp.node)
        if newest is None or stamp.boot.generation > newest.boot.generation:
            return True
        return stamp.boot == newest.boot and stamp.seq > newest.seq

    def note(self, stamp: Stamp) -> None:
        if stamp.node in self._newest or len(self._newest) < _MOST_NODES:
            self._newest[stamp.node] = stamp

    def guard(self, now: float) -> None:
        """Raise the shield when too much is refused while the peer is heard; lower it in time, or when the peer isn't."""
        lately = self.sources.lately(now)
        if self.link.shielded and (now >= self._shield_until or not lately):
            self.link.shield(())
        if now - self._second >= 1.0:
            self._second, self._refused_before = now, self.refused.total
        if self.refused.total - self._refused_before >= FLOOD and lately and not self.link.shielded:
            self.link.shield(lately)
            self._shield_until = now + SHIELDED
            if now - self._told_at >= _LOG_PERIOD:
                self._told_at = now
                log.warning(
                    "%s is flooded: until it ends, only %s is listened to", self.link.name, " and ".join(sorted(lately))
                )


class Radio:
    """Speaks and listens for one node of the pair."""

    def __init__(
        self,
        links: Iterable[Link],
        keyring: Keyring,
        node: str,
        timing: Timing,
        nodes: int,
        clock: Callable[[], float],
    ) -> None:
        self.links = tuple(links)
        self.keyring = keyring
        self._node = node
        self._uuid = hashlib.sha256(b"heartbeat " + node.encode()).digest()[:16]
        self._deadtime_ms = round(timing.deadtime * 1000)
        self._ttl = 1 + nodes
        self._clock = clock
        self._boot: Boot | None = None
        # a server may answer from any of its addresses, also on another link
        named = {address for link in self.links for address in link.line.peers}
        self.receptions = tuple(Reception(link, named, timing.warntime) for link in self.links)
        self.sent = 0
        #: the newest frame taken: the same comes on every link, and is hashed and read once
        self._newest: tuple[bytes, Keyring, Message] | None = None
        #: the MACs that every heartbeat names; those that the peer's latest one named
        self.own_macs: tuple[bytes, ...] = ()
        self.peers_macs: frozenset[bytes] = frozenset()

    def say(self, said: Message) -> None:
        header = Header(self._uuid, self._deadtime_ms, self._ttl, int(time.time()), macs=self.own_macs)
        frame = encode(fields(said, header), self.keyring)
        self._boot = said.boot
        self.sent += 1
        for link in self.links:
            link.send(frame)

    def heard(self) -> list[Heard]:
        """Everything that is queued on the links now, as far as it is the peer's."""
        return [
            Heard(reception.link.name, taken)
            for reception, datagram in self.admitted()
            if (taken := self._take(reception, datagram)) is not None
        ]

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The peer's addresses by interface: those that ha.cf names, and those it was heard from."""
        found: dict[str, set[str]] = {}
        for r in self.receptions:
            found.setdefault(r.link.line.device, set()).update(r.link.line.peers, r.sources.known)
        return {device: tuple(sorted(addresses)) for device, addresses in found.items() if addresses}

    def admitted(self) -> Iterator[tuple[Reception, Datagram]]:
        """Everything that is queued on the links now and whose sender is worth a hash."""
        for reception in self.receptions:
            now = self._clock()
            arrived = reception.link.receive()
            for datagram in arrived:
                if reception.sources.admits(datagram.sender, now):
                    yield reception, datagram
                else:
                    reception.refused.stranger += 1
                    self._refuse(reception, datagram.sender, "ha.cf doesn't name its sender")
            if arrived or reception.link.shielded:
                reception.guard(now)

    def opened(self, reception: Reception, datagram: Datagram) -> dict[str, Value] | None:
        """The fields of an authentic frame; None, counted, if it isn't one."""
        try:
            return decode(datagram.frame, self.keyring)
        except FrameError as error:
            self._wrong(reception, datagram, error)
            return None

    def is_peers(self, reception: Reception, datagram: Datagram, node: str) -> None:
        """It was authentic, and the peer's: the address that it came from is one of ``node``'s."""
        if reception.sources.heard(datagram.sender, self._clock()):
            log.warning("%s: %s speaks from %s, which ha.cf doesn't name", reception.link.name, node, datagram.sender)

    def foreign(self, reception: Reception, datagram: Datagram, because: str) -> None:
        """It was authentic, but isn't the peer's."""
        reception.refused.foreign += 1
        self._refuse(reception, datagram.sender, because)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take(self, reception: Reception, datagram: Datagram) -> Message | None:
        if (known := self._known(reception, datagram)) is not None:
            return known
        try:
            body = authentic(datagram.frame, self.keyring)
            stamped = stamp(body)
            if stamped is not None and stamped.boot == self._boot:
                return None  # our own: a broadcast is heard by its sender too
            if stamped is not None and not reception.is_new(stamped):
                reception.refused.again += 1
                return None
            said = read(body)
            taken = message(said)
        except FrameError as error:
            self._wrong(reception, datagram, error)
            return None
        if taken is None or taken.node == self._node:
            because = "is a Linux-HA node's" if taken is None else f"says that it is {self._node} too"
            self.foreign(reception, datagram, because)
            return None
        reception.note(Stamp(taken.node, taken.boot, taken.seq))
        self.is_peers(reception, datagram, taken.node)
        self.peers_macs = macs(said) or self.peers_macs
        self._newest = datagram.frame, self.keyring, taken
        return taken

    def _known(self, reception: Reception, datagram: Datagram) -> Message | None:
        """The message, if another link brought the very same frame and this one did not yet."""
        if self._newest is None or datagram.frame != self._newest[0] or self.keyring is not self._newest[1]:
            return None
        taken = self._newest[2]
        stamped = Stamp(taken.node, taken.boot, taken.seq)
        if not reception.is_new(stamped):
            return None
        reception.note(stamped)
        self.is_peers(reception, datagram, taken.node)
        return taken

    def _wrong(self, reception: Reception, datagram: Datagram, error: FrameError) -> None:
        if error.authentic:
            reception.refused.unusable += 1
        else:
            reception.refused.unauthentic += 1
        self._refuse(reception, datagram.sender, str(error))

    def _refuse(self, reception: Reception, sender: str, because: str) -> None:
        refused = reception.refused
        refused.because = f"from {sender}: {because}"
        reception.sources.refuse(sender)
        now = self._clock()
        if now - refused.told_at >= _LOG_PERIOD:
            log.warning(
                "%s: %d frames were not taken; the last one %s",
                reception.link.name,
                refused.total - refused.told,
                refused.because,
            )
            refused.told_at, refused.told = now, refused.total

    def counters(self) -> dict[str, dict[str, Any]]:
        """By link: how many frames were refused, by kind and by sender."""
        return {
            r.link.name: {
                "stranger": r.refused.stranger, "unauthentic": r.refused.unauthentic, "unusable": r.refused.unusable,
                "foreign": r.refused.foreign, "again": r.refused.again, "because": r.refused.because,
                "senders": dict(r.sources.refused),
            }
            for r in self.receptions
        }  # fmt: skip


class PingGroups:
    """Ping nodes as the core knows them: a group answers when any of its addresses does."""

    def __init__(self, pinger: Pinger, groups: Mapping[str, tuple[str, ...]]) -> None:
        self._pinger = pinger
        #: something was sent since the last look at the answers
        self.asked = False
        self._names = list(groups)
        self._groups_of: dict[str, list[str]] = {}
        for name, addresses in groups.items():
            for address in addresses:
                self._groups_of.setdefault(address, []).append(name)

    def ping(self, seq: int) -> list[str]:
        self._pinger.send(seq)
        self.asked = True
        return self._names

    def replies(self) -> list[PingReply]:
        self.asked = False
        return [PingReply(name, seq) for address, seq in self._pinger.receive() for name in self._groups_of.get(address, ())]
