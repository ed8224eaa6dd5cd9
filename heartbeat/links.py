"""The heartbeat links: one UDP socket for each ``ucast DEVICE PEER``.

Promise: nothing here blocks and no network error escapes; what goes wrong on a link is that link's state, and the other
links are not touched. A link's file descriptor stays the same for good, also while its device is gone and after it came
back. One wake-up costs a bounded time whatever arrives: all that is queued is taken (the queue is bounded too), only the
newest is handed on, and a link that is flooded listens to its peer's address only. Source: design §5; Linux-HA's ``ucast``
(ha.cf(5)).

What is received isn't authenticated yet: ``wire`` judges the bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: most datagrams taken off a link in one wake-up (about 1 ms), and most of them handed on: the newest
MOST_TAKEN, MOST_KEPT = 256, 32
_LONGEST = 65536
_RECEIVE_BUFFER = 128 * 1024  # some 150 frames: what is older than that isn't worth reading
_SO_ATTACH_FILTER = 26
_SKF_NET_OFF = 0xFFF00000
_CS6 = 0xC0


@dataclass(frozen=True)
class Ucast:
    """A line of ha.cf. Both servers may have both lines: the one with an own address is ignored."""

    device: str
    peer: str


@dataclass
class LinkState:
    """``up``: the latest frame left this server; ``error`` says why not. Counters since the start."""

    up: bool = False
    error: str = "nothing was sent yet"
    sent: int = 0
    received: int = 0
    #: taken off the socket but not handed on, because there was too much of it
    dropped: int = 0
    flooded: bool = False


class Link:
    """One link. ``name`` is the device's."""

    def __init__(self, ucast: Ucast, port: int) -> None:
        self.name = ucast.device
        self.peer = ucast.peer
        self.port = port
        self.state = LinkState()
        self._index = 0  # of the device the socket is bound to; 0: none
        self._bound = False
        self._peer_is_sender = False
        self._socket = _udp_socket()
        self._attach()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> bool:
        """Send ``frame`` to the peer now; False, with ``state.error``, if it did not leave."""
        if not self.state.up and not self._attach():
            return False
        try:
            self._socket.sendto(frame, (self.peer, self.port))
        except OSError as e:
            self._failed(e)
            return False
        self.state.up, self.state.error = True, ""
        self.state.sent += 1
        return True

    def receive(self) -> list[bytes]:
        """What arrived, oldest first; at most ``MOST_KEPT``, and those the newest."""
        taken = list(self._take())
        self.state.received += len(taken)
        if len(taken) == MOST_TAKEN:
            self._flooded()
        self.state.dropped += max(0, len(taken) - MOST_KEPT)
        return taken[-MOST_KEPT:]

    def _take(self) -> Iterator[bytes]:
        for _ in range(MOST_TAKEN):
            try:
                frame, (sender, _port) = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return
            except OSError as e:
                self._failed(e)
                return
            self._peer_is_sender = self._peer_is_sender or sender == self.peer
            yield frame

    def _attach(self) -> bool:
        """Bind to the device as it is now (a device that was made again has a new index); cheap when nothing has changed."""
        try:
            index = socket.if_nametoindex(self.name)
            if index != self._index:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.name.encode() + b"\0")
                self._index = index
            if not self._bound:  # only now: a socket without device would hear the other links' frames
                self._socket.bind(("", self.port))
                self._bound = True
        except OSError as e:
            self._failed(e)
            return False
        return True

    def _failed(self, error: OSError) -> None:
        self.state.up = False
        self.state.error = error.strerror or str(error)

    def _flooded(self) -> None:
        """Let the kernel discard what doesn't come from the peer's address, provided that the peer was heard under it."""
        if self.state.flooded or not self._peer_is_sender:
            return
        self.state.flooded = True
        program = [
            (0x20, 0, 0, _SKF_NET_OFF + 12),  # A = source address
            (0x15, 0, 1, struct.unpack("!I", socket.inet_aton(self.peer))[0]),  # the peer's?
            (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
            (0x06, 0, 0, 0),  # discard
        ]
        attach_filter(self._socket, program)


class Links:
    """All links of the pair."""

    def __init__(self, ucasts: Iterable[Ucast], port: int = 694, own: Iterable[str] = ()) -> None:
        """``own``: this server's addresses; lines that name one of them are ignored."""
        mine = set(own)
        self.links = tuple(Link(u, port) for u in ucasts if u.peer not in mine)

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def send(self, frame: bytes) -> int:
        """Send on every link; on how many it left."""
        return sum([link.send(frame) for link in self.links])

    def states(self) -> dict[str, LinkState]:
        return {link.name: link.state for link in self.links}

    def close(self) -> None:
        for link in self.links:
            link.close()


def attach_filter(s: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Attach a classic BPF program (code, jump if true, jump if false, constant) to a socket."""
    import ctypes  # kept out of the start of a process that never needs it

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    s.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def _udp_socket() -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CS6)  # as routing protocols mark theirs
    return s
