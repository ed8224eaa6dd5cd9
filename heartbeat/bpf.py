"""Classic BPF programs on sockets: what the kernel discards before it wakes this process.

Promise: programs are plain lists of (code, jump if true, jump if false, constant), made by pure functions. Source: Linux
Documentation/networking/filter; RFC 768, 791, 8200.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

Program = list[tuple[int, int, int, int]]
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_MEMINFO = 26, 27, 55
_MEMINFO, _DROPS = struct.Struct("=9I"), 8
_NETWORK = 0xFFF00000  # offsets from here on count from the IP header
_SOURCE = {4: 12, 6: 8}
_LOAD, _LOAD_IP_LENGTH, _LOAD_BYTE_X, _LOAD_HALF_X, _EQUAL, _RETURN = 0x20, 0xB1, 0x50, 0x48, 0x15, 0x06
TAKE, DISCARD = (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)


def attach(s: socket.socket, program: Program) -> None:
    import ctypes  # kept out of the start of a process that never needs it

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    s.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def detach(s: socket.socket) -> None:
    with contextlib.suppress(OSError):  # ENOENT: there was none
        s.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def discarded(s: socket.socket) -> int:
    """How many datagrams the kernel discarded: by the program, or because the queue was full."""
    try:
        return int(_MEMINFO.unpack(s.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[_DROPS])
    except (OSError, struct.error):
        return 0


def udp_from(senders: Iterable[str], heads: Iterable[bytes]) -> Program:
    """UDP datagrams that begin with one of ``heads`` (four bytes each), from one of ``senders``; at most a dozen of them."""
    words = [struct.unpack("!I", head)[0] for head in heads]
    program: Program = [(_LOAD, 0, 0, 8)]  # behind the UDP header
    program += [(_EQUAL, len(words) - i, 0, word) for i, word in enumerate(words)]
    program += [DISCARD]
    for sender in senders:
        address = ip_address(sender)
        parts = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
        for i, part in enumerate(parts):
            to_next = 2 * (len(parts) - 1 - i) + 1
            program += [(_LOAD, 0, 0, _NETWORK + _SOURCE[address.version] + 4 * i), (_EQUAL, 0, to_next, part)]
        program += [TAKE]
    return [*program, DISCARD]


def icmp_replies(kind: int, identifier: int, with_ip_header: bool) -> Program:
    """Echo replies (``kind``) with our identifier, wherever the IP header ends (an ICMPv6 socket doesn't show it)."""
    find = [(_LOAD_IP_LENGTH, 0, 0, 0)] if with_ip_header else [(0x01, 0, 0, 0)]  # X = its length, or 0
    return [
        *find,
        (_LOAD_BYTE_X, 0, 0, 0),
        (_EQUAL, 0, 3, kind),
        (_LOAD_HALF_X, 0, 0, 4),
        (_EQUAL, 0, 1, identifier),
        TAKE,
        DISCARD,
    ]
