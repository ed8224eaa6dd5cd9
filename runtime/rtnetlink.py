"""Adding, removing and listing addresses of both families, in the few system calls that it takes.

Promise: the same as ``address.Netlink`` (same methods, same errors), for a process that must be back within a lease: importing
pyroute2 takes 0.1 s of CPU and 14 MB, this 1 ms. No call waits for anything but the kernel. An IPv6 address is usable at once:
duplicate address detection, which takes a second, is left out (who claims it besides is ``arpwatch``'s question), and it is
deprecated from the start, so that it is never chosen as the source of other traffic. One that
something else added before, and that the kernel found a duplicate, is made anew: it would stay unusable. Source:
rtnetlink(7), netlink(7); RFC 4862 §5.4 and 5.5.4.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from math import ceil

from runtime.address import Assigned, NetworkError, choose

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
_ADDRESS, _LOCAL, _CACHEINFO, _FLAGS = 1, 2, 6, 8
_NODAD, _NOPREFIXROUTE = 0x02, 0x200
_FOREVER = 0xFFFFFFFF
_UNUSABLE = 0x08 | 0x40  # IFA_F_DADFAILED, IFA_F_TENTATIVE
_REMEMBERED = 512
_ABSENT = (19, 99)  # ENODEV, EADDRNOTAVAIL
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class AddressSocket:
    """One rtnetlink socket of this process and namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._seq = 0
        #: index and request of what was added, to be sent again: a lease is refreshed several times a second
        self._added: dict[tuple[str, str, float | None, int | None], bytes] = {}

    def close(self) -> None:
        self._socket.close()

    def add(
        self, address: str, interface: str, *, lifetime: float | None = None, prefix: int | None = None, route: bool = False
    ) -> None:
        """Add ``address``, or refresh it; it goes by itself after ``lifetime`` seconds (rounded up to whole ones).

        ``prefix``: of one host, unless it is given. ``route``: the rest of that network is reached through the interface.
        """
        wanted = (address, interface, lifetime, prefix)
        if (again := self._added.pop(wanted, None)) is not None and self._repeated(again):
            self._added[wanted] = again
            return
        six = ":" in address
        seconds = _FOREVER if lifetime is None else max(1, ceil(lifetime))
        more = _attribute(_FLAGS, struct.pack("=I", (0 if route else _NOPREFIXROUTE) | (_NODAD if six else 0)))
        more += _attribute(_CACHEINFO, struct.pack("=IIII", 0 if six else seconds, seconds, 0, 0))
        length = prefix if prefix is not None else 128 if six else 32
        if six:
            self._remove_unusable(address, interface)
        body = self._change(_NEWADDR, _REPLACE | _CREATE, address, interface, length, more)
        if len(self._added) < _REMEMBERED:
            self._added[wanted] = body

    def forget(self) -> None:
        """Interfaces have changed (an index that is known may be another interface's), or addresses."""
        self._added = {}

    def remove(self, address: str, interface: str | None = None) -> bool:
        """Remove ``address`` from ``interface`` (from all, if None), whatever its prefix; False if it wasn't there."""
        found = [each for each in self.addresses(interface) if each.address == address]
        removed = [self.delete(each) for each in found]
        return any(removed)

    def delete(self, assigned: Assigned) -> bool:
        """Remove what ``addresses`` has listed; False if it is gone already."""
        self.forget()
        return bool(self._change(_DELADDR, 0, assigned.address, assigned.interface, assigned.prefix))

    def addresses(self, interface: str | None = None) -> list[Assigned]:
        """All IPv4 and IPv6 addresses, or those of one interface (none if it doesn't exist)."""
        names = {index: name for index, name in socket.if_nameindex() if interface in (None, name)}
        self._send(_GETADDR, _DUMP, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0))
        found = []
        for kind, body in self._replies():
            if kind != _NEWADDR or body[0] not in _FAMILIES:
                continue
            if (index := struct.unpack_from("=I", body, 4)[0]) in names:
                found.append(_assigned(body, names[index]))
        return found

    def interface_for(self, address: str) -> str:
        """The interface whose network contains ``address``; see ``address.choose``."""
        return choose(address, [each for each in self.addresses() if each.address != address])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _remove_unusable(self, address: str, interface: str) -> None:
        with contextlib.suppress(OSError, NetworkError):  # it isn't there; and what is to be added may say it better
            head = struct.pack("=BBBBI", socket.AF_INET6, 128, 0, 0, socket.if_nametoindex(interface))
            raw = socket.inet_pton(socket.AF_INET6, address)
            self._send(_GETADDR, _ACK, head + _attribute(_LOCAL, raw) + _attribute(_ADDRESS, raw))
            found = [body for kind, body in self._replies() if kind == _NEWADDR and body[2] & _UNUSABLE]
            for body in found:
                self._change(_DELADDR, 0, address, interface, body[1])

    def _repeated(self, body: bytes) -> bool:
        try:
            self._send(_NEWADDR, _REPLACE | _CREATE | _ACK, body)
            for _ in self._replies():
                pass
        except OSError:
            return False  # to be told by another try, from the beginning
        return True

    def _change(self, kind: int, flags: int, address: str, interface: str, prefix: int, more: bytes = b"") -> bytes:
        """The request that was carried out; empty if there was nothing to remove."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.inet_pton(family, address)
        try:
            index = socket.if_nametoindex(interface)
            body = struct.pack("=BBBBI", family, prefix, 0, 0, index)
            body += _attribute(_LOCAL, raw) + _attribute(_ADDRESS, raw) + more
            self._send(kind, flags | _ACK, body)
            for _ in self._replies():
                pass
        except OSError as error:
            if kind == _DELADDR and error.errno in _ABSENT:
                return b""
            verb = "remove" if kind == _DELADDR else "add"
            raise NetworkError(f"cannot {verb} {address}/{prefix} on {interface}: {error.strerror or error}") from error
        return body

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._seq += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, self._seq, 0) + body)

    def _replies(self) -> Iterator[tuple[int, bytes]]:
        """The answers to the latest request, up to its end; OSError if the kernel refuses it."""
        while True:
            for kind, seq, body in _messages(self._socket.recv(65536)):
                if seq != self._seq:
                    continue  # left over from a request that was given up
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    if code := -struct.unpack_from("=i", body)[0]:
                        raise OSError(code, os.strerror(code))
                    return
                yield kind, body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, _, seq = struct.unpack_from("=IHHI", data, at)
        if length < 16:
            return
        yield kind, seq, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _assigned(body: bytes, interface: str) -> Assigned:
    attributes = {}
    at = 8
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        attributes[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    raw = attributes.get(_LOCAL) or attributes[_ADDRESS]
    valid = struct.unpack_from("=II", attributes[_CACHEINFO])[1] if _CACHEINFO in attributes else _FOREVER
    lifetime = None if valid == _FOREVER else valid
    return Assigned(interface, socket.inet_ntop(body[0], raw), body[1], lifetime, usable=not body[2] & _UNUSABLE)
