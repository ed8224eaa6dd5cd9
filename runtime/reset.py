"""Resetting established TCP connections of this server.

Promise: every connection whose own end is the given address and port is aborted by the kernel: the other end gets a reset
at once instead of waiting for an answer until its own timeouts, the process at this end gets ECONNABORTED. Listening
sockets stay. Source: sock_diag(7), SOCK_DESTROY (what ``ss -K`` does; Linux ≥ 4.5 with CONFIG_INET_DIAG_DESTROY, as
Debian's).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from runtime.errors import HaError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TIME_WAIT, _CLOSE, _LISTEN = 6, 7, 10
_STATES = 0xFFF & ~(1 << _TIME_WAIT | 1 << _CLOSE | 1 << _LISTEN)
#: of the programs that choose sockets (linux/inet_diag.h): the attribute, and two instructions
_BYTECODE, _JUMP, _EQUAL = 1, 1, 11
_ID = slice(4, 52)  # struct inet_diag_sockid within inet_diag_msg: ports, addresses, interface, cookie


def reset_connections(address: str, port: int) -> int:
    """Reset all; returns how many. HaError if the kernel can't (not root; option missing)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        try:
            return sum(
                _destroy(diag, family, identity)
                for family, local in _ends(address)
                for identity in list(_connections(diag, family, port))
                if identity[4:20] == local
            )
        except OSError as e:
            raise HaError(f"connections to {address}:{port} can't be reset: {e.strerror}") from e


def clients_of(ports: Iterable[int]) -> Counter[str]:
    """How many connections each client has to these ports of this server, whichever of its addresses they are to.

    The kernel walks all sockets of the machine for it, once for each family, those of other network namespaces too.
    """
    wanted = sorted(set(ports))
    if not wanted:
        return Counter()
    found: Counter[str] = Counter()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            ends = Counter(identity[20:36] for identity in _connections(diag, family, 0, _one_of(wanted)))
            for raw, count in ends.items():
                found[_written(raw, family)] += count
    return found


def own_ends(port: int) -> set[str]:
    """The addresses of this server that connections to this port have as their own end."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        families = (socket.AF_INET, socket.AF_INET6)
        return {_written(identity[4:20], family) for family in families for identity in _connections(diag, family, port)}


def _one_of(ports: Sequence[int]) -> bytes:
    """The attribute that has the kernel choose sockets with one of these ports: a program as ``ss`` makes it of ``or``.

    A port that is equal goes on to the next instruction, a jump to the end: chosen. Another one jumps over that, to the next
    port, or beyond the end.
    """
    program = b""
    for left in range(len(ports) - 1, -1, -1):
        program += struct.pack("=BBHBBH", _EQUAL, 8, 12, 0, 0, ports[left])
        if left:
            program += struct.pack("=BBH", _JUMP, 4, 12 * left)
    return struct.pack("=HH", 4 + len(program), _BYTECODE) + program


def _written(raw: bytes, family: int) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntoa(raw[:4])
    mapped = raw[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntoa(raw[12:]) if mapped else socket.inet_ntop(family, raw)


def _ends(address: str) -> list[tuple[int, bytes]]:
    """The families of sockets that may have this address as their own end, and how they write it."""
    if ":" in address:
        return [(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))]
    own = socket.inet_aton(address)
    # a server that listens on :: sees IPv4 clients as mapped addresses
    return [(socket.AF_INET, own.ljust(16, b"\0")), (socket.AF_INET6, bytes(10) + b"\xff\xff" + own)]


def _request(family: int, states: int, identity: bytes, kind: int, flags: int, attributes: bytes = b"") -> bytes:
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, states) + identity + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body


def _connections(diag: socket.socket, family: int, port: int, attributes: bytes = b"") -> Iterator[bytes]:
    """``port`` 0: any."""
    identity = struct.pack("!H", port).ljust(48, b"\0")
    diag.send(_request(family, _STATES, identity, _SOCK_DIAG_BY_FAMILY, _DUMP, attributes))
    while True:
        for kind, body in _messages(diag.recv(65536)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                raise _error(body)
            yield body[_ID]


def _destroy(diag: socket.socket, family: int, identity: bytes) -> int:
    diag.send(_request(family, _STATES, identity, _SOCK_DESTROY, _ACK))
    for _, body in _messages(diag.recv(65536)):
        error = _error(body)
        if error.errno in (0, errno.ENOENT):  # ENOENT: it ended by itself in between
            return int(error.errno == 0)
        raise error
    return 0


def _error(body: bytes) -> OSError:
    code: int = -struct.unpack_from("=i", body)[0]
    return OSError(code, "the kernel has no SOCK_DESTROY" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code)))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3
