"""Does anything at all come in on an interface? Asked while no member is heard.

Promise: ``anything`` is true if a frame of another machine came in since the call before, of whatever kind; and at the first
call, which only begins to listen. The interface's own counters don't tell: some drivers refresh them every two seconds only.
``ask`` makes every neighbour that the kernel knows say something, clients and gateway among them, so that silence means more
than that nobody had anything to say. Nothing here waits, and nothing is listened to after ``close``. Source: packet(7), arp(7).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

from runtime.arpwatch import arp_probe

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_TABLE = Path("/proc/net/arp")
_COMPLETE = 0x2
#: asked at once, and frames that one look takes, at most
_MOST = 64


class Ears:
    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def anything(self, interface: str) -> bool:
        try:
            if self._socket is None:
                self._socket = _tap(interface)
                return True
            return self._drain(self._socket)
        except OSError:  # the interface is away
            self.close()
            return False

    def ask(self, interface: str, others: Iterable[str] = ()) -> None:
        """Whoever is known to be on the interface, and ``others`` (IPv4)."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # what isn't asked now is asked at the next look
            own = self._socket.getsockname()[4]
            for address in list(dict.fromkeys([*neighbours(_TABLE.read_text(), interface), *others]))[:_MOST]:
                self._socket.send(arp_probe(own, address))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @staticmethod
    def _drain(tap: socket.socket) -> bool:
        came = False
        for _ in range(_MOST):
            try:
                tap.recv(1)
            except BlockingIOError:
                break
            came = True
        return came


def neighbours(table: str, interface: str) -> list[str]:
    """Of /proc/net/arp, those whose MAC is known."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [row[0] for row in rows if len(row) == 6 and row[5] == interface and int(row[2], 16) & _COMPLETE]


def _tap(interface: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least that there is: one frame says it all
        tap.bind((interface, _ETH_P_ALL))
    except OSError:
        tap.close()
        raise
    return tap
