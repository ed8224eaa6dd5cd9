"""Addresses that are removed from this machine's interfaces: woken at once, and by nothing else.

Promise: a file descriptor for a selector, readable after each removal of an address of either family, whoever removed it: a
person, another program, the kernel at the end of its lifetime or with its interface. Which one it was is to be asked of
``rtnetlink``; that addresses are refreshed several times a second wakes nobody (a filter in the kernel). Source: rtnetlink(7),
socket(7), SO_ATTACH_FILTER.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

_RTM_DELADDR = 21
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_SO_ATTACH_FILTER = 26
_LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x28, 0x15, 0x06
_BUFFER = 65536
_MOST_READS = 32


class Removals:
    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        wanted = socket.htons(_RTM_DELADDR)  # the filter reads as from the wire
        steps = [(_LOAD_HALF, 0, 0, 4), (_JUMP_EQUAL, 0, 1, wanted), (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
        attached = struct.pack("@HP", len(steps), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> bool:
        """Whether any address was removed since the last call."""
        for number in range(_MOST_READS):
            try:
                self._socket.recv(_BUFFER)
            except BlockingIOError:
                return number > 0
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        return True
