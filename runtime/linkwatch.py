"""Link (carrier) of the interfaces, from the kernel.

Promise: ``carrier`` tells the state of one interface now. ``LinkWatch`` is a file descriptor for a selector; ``read`` never
blocks, and what it missed because too much happened at once (ENOBUFS) it asks for again, so the last event of an interface
is always its present state. The first reads tell the state of every interface. Source: rtnetlink(7); design §4 rule 3
("whose VIP interface lost its link").

The kernel holds back the event of a lost link for up to one second after another one (net/core/link_watch.c); who must know
sooner asks ``carrier`` now and then (0.03 ms).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTMGRP_LINK = 1
_REQUEST, _REQUEST_DUMP = 0x001, 0x001 | 0x300
_IFLA_IFNAME = 3
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_BUFFER = 65536
_MOST_READS = 32


@dataclass(frozen=True)
class LinkState:
    """``up``: administratively up and with carrier. ``gone``: the interface doesn't exist here any more."""

    interface: str
    up: bool
    gone: bool = False


def carrier(interface: str) -> bool:
    """Whether the interface is up and has its link at this moment; False also when it doesn't exist."""
    try:
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as s:
            s.send(_request(_REQUEST, index))
            return any(state.up for state in parse(s.recv(_BUFFER)))
    except OSError:
        return False


def _request(flags: int, index: int) -> bytes:
    return struct.pack("=IHHIIBxHiII", 32, _RTM_GETLINK, flags, 1, 0, socket.AF_UNSPEC, 0, index, 0, 0)


class LinkWatch:
    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_LINK))
        self._ask = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[LinkState]:
        """What happened since the last call, in order; call once at start (asks for all states) and whenever readable."""
        states: list[LinkState] = []
        self._ask_for_all()
        for _ in range(_MOST_READS):
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                self._ask = True
                continue
            states.extend(parse(data))
        self._ask_for_all()
        return states

    def _ask_for_all(self) -> None:
        if not self._ask:
            return
        try:
            self._socket.send(_request(_REQUEST_DUMP, 0))
            self._ask = False
        except OSError as e:  # a dump still runs: asked again at the next read
            if e.errno not in (errno.EBUSY, errno.EAGAIN):
                raise


def parse(data: bytes) -> Iterator[LinkState]:
    """The link messages in one datagram from the kernel."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16 or at + length > len(data):
            return
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and length >= 32:
            family, flags = struct.unpack_from("=B7xI", data, at + 16)
            name = _name(data[at + 32 : at + length])
            if name and family == socket.AF_UNSPEC:  # a bridge tells of its ports in a family of its own
                gone = kind == _RTM_DELLINK
                yield LinkState(name, not gone and flags & _IFF_UP != 0 and flags & _IFF_LOWER_UP != 0, gone)
        at += (length + 3) & ~3


def _name(attributes: bytes) -> str:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            break
        if kind == _IFLA_IFNAME:
            return attributes[at + 4 : at + length].rstrip(b"\0").decode(errors="replace")
        at += (length + 3) & ~3
    return ""
