"""The heartbeat links: one UDP socket for each device and family of addresses, speaking ucast, bcast and mcast.

Promise: nothing here blocks and no network error escapes; what goes wrong on a link is that link's state, and the other
links are not touched. A link's file descriptor stays the same for good, also while its device is gone and after it came
back. One wake-up costs a bounded time whatever arrives. Source: design §5; Linux-HA's ha.cf(5).

What is received isn't authenticated yet: ``radio`` and ``wire`` judge the bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from heartbeat import bpf
from heartbeat.frames import HEADS, MAX_FRAME
from heartbeat.media import LinkLine, Medium

#: most datagrams, and most bytes, taken off a link in one wake-up (about 3 ms with their hashes)
MOST_TAKEN, MOST_BYTES = 256, 512 * 1024
_RECEIVE_BUFFER = 128 * 1024  # some 150 frames: what is older than that isn't worth reading
_CS6 = 0xC0  # as routing protocols mark theirs
_EVERYBODY = "255.255.255.255"  # on that device; needs no route, and no right netmask on either side


class Datagram(NamedTuple):
    frame: bytes
    #: the address it says that it comes from
    sender: str


@dataclass
class LinkState:
    """``up``: the latest frame left this server; ``error`` says what went wrong last. Counters since the start."""

    up: bool = False
    error: str = "nothing was sent yet"
    sent: int = 0
    received: int = 0


class Link:
    """One link; ``line`` is what ha.cf says about it."""

    def __init__(self, line: LinkLine) -> None:
        self.line = line
        self.name = line.name
        self.device = line.device
        self.state = LinkState()
        self.shielded = False
        self._index = 0  # of the device the socket is bound to; 0: none
        self._bound = False
        self._socket = _udp_socket(line)
        self._attach()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> bool:
        """Send ``frame`` to the peer now, on every medium of the link; False, with ``state.error``, if it did not leave."""
        if not self.state.up and not self._attach():
            return False
        errors = [self._send(frame, medium) for medium in self.line.media]
        self.state.up = "" in errors
        self.state.error = next(filter(None, errors), "")
        self.state.sent += self.state.up
        return self.state.up

    def receive(self) -> list[Datagram]:
        """What arrived, oldest first; the rest of a flood waits for the next call, or is discarded by the kernel."""
        taken = list(self._take())
        self.state.received += len(taken)
        return taken

    @property
    def discarded(self) -> int:
        """How many datagrams the kernel discarded: the queue was full, or the shield was up."""
        return bpf.discarded(self._socket)

    def shield(self, senders: Collection[str]) -> None:
        """Let the kernel discard what doesn't come from one of ``senders``, or isn't a frame; nobody: let all of it through."""
        if senders:
            bpf.attach(self._socket, bpf.udp_from(senders, HEADS))
        else:
            bpf.detach(self._socket)
        self.shielded = bool(senders)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take(self) -> Iterator[Datagram]:
        size = 0
        for _ in range(MOST_TAKEN):
            try:
                frame, sender = self._socket.recvfrom(MAX_FRAME + 1)  # longer ones are cut off, and refused as too long
            except BlockingIOError:
                return
            except OSError as e:
                self._failed(e)
                return
            yield Datagram(frame, sender[0])
            size += len(frame)
            if size > MOST_BYTES:
                return

    def _send(self, frame: bytes, medium: Medium) -> str:
        to = medium.address or _EVERYBODY
        try:
            self._socket.sendto(frame, (to, medium.port, 0, self._index) if medium.family == 6 else (to, medium.port))
        except OSError as e:
            return e.strerror or str(e)
        return ""

    def _attach(self) -> bool:
        """Bind to the device as it is now (a device that was made again has a new index)."""
        try:
            index = socket.if_nametoindex(self.device)
            if index != self._index:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode() + b"\0")
                for medium in self.line.media:
                    if medium.kind == "mcast":
                        _join(self._socket, medium, index)
                self._index = index
            if not self._bound:  # only now: a socket without device would hear the other links' frames
                self._socket.bind(("", self.line.port))
                self._bound = True
        except OSError as e:
            self._failed(e)
            return False
        return True

    def _failed(self, error: OSError) -> None:
        self.state.up = False
        self.state.error = error.strerror or str(error)


class Links:
    """All links of the pair."""

    def __init__(self, lines: Iterable[LinkLine]) -> None:
        self.links = tuple(Link(line) for line in lines)

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def send(self, frame: bytes) -> int:
        """Send on every link; on how many it left."""
        return sum([link.send(frame) for link in self.links])

    def states(self) -> dict[str, dict[str, object]]:
        """What the status says of each link."""
        return {
            link.name: {"up": link.state.up, "error": link.state.error, "sent": link.state.sent,
                        "received": link.state.received, "dropped": link.discarded, "shielded": link.shielded}
            for link in self.links
        }  # fmt: skip

    def close(self) -> None:
        for link in self.links:
            link.close()


def _udp_socket(line: LinkLine) -> socket.socket:
    family = socket.AF_INET6 if line.family == 6 else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if line.family == 6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _CS6)
    else:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CS6)
    return s


def _join(s: socket.socket, medium: Medium, index: int) -> None:
    """Become a member of the group on the device, and send to it as ha.cf says."""
    group = socket.inet_pton(socket.AF_INET6 if medium.family == 6 else socket.AF_INET, medium.address)
    if medium.family == 6:
        level = socket.IPPROTO_IPV6
        s.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
        s.setsockopt(level, socket.IPV6_MULTICAST_HOPS, medium.hops)
        s.setsockopt(level, socket.IPV6_MULTICAST_LOOP, int(medium.loop))
        membership = socket.IPV6_JOIN_GROUP, group + struct.pack("=I", index)
    else:
        level = socket.IPPROTO_IP
        on_device = struct.pack("=4s4si", group, bytes(4), index)
        s.setsockopt(level, socket.IP_MULTICAST_IF, on_device)
        s.setsockopt(level, socket.IP_MULTICAST_TTL, medium.hops)
        s.setsockopt(level, socket.IP_MULTICAST_LOOP, int(medium.loop))
        membership = socket.IP_ADD_MEMBERSHIP, on_device
    with contextlib.suppress(OSError):  # it is a member already; whether frames leave and arrive is what counts
        s.setsockopt(level, *membership)
