"""Prolonging elements of nftables sets, in one message to the kernel and back.

Promise: ``refresh`` gives every element its timeout anew in one transaction, or changes nothing and raises NftError; it waits
for nothing but the kernel. libnftables asks the kernel for tables, chains and sets before each such command (24 exchanges,
0.24 ms in a process that just woke up; this: 0.02 ms); a lease needs the same message ten times a second, so it is made once.
Source: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h; netlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.nft import NftError

_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END, _ERROR = 0x10, 0x11, 2
_SUBSYSTEM = 10
_NEW_ELEMENT, _DELETE_ELEMENT = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_NESTED = 0x8000
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_…
_ITEM, _KEY, _TIMEOUT, _VALUE = 1, 1, 4, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_TIMEOUT, NFTA_DATA_VALUE
_FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "ip6": 10}
_LARGEST = 65536


@dataclass(frozen=True)
class Element:
    """``table`` as nft names it, with its family ("inet ha_manager"); ``key``: the value as it stands in packets."""

    table: str
    set: str
    key: bytes


class TimedElements:
    """Elements of sets with ``flags timeout``; belongs to the network namespace it was made in."""

    def __init__(self, elements: Sequence[Element]) -> None:
        self._elements = tuple(elements)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETFILTER
        )
        self._socket.bind((0, 0))
        self._batch = b""
        self._last = 0
        self._milliseconds = 0

    def close(self) -> None:
        self._socket.close()

    def refresh(self, milliseconds: int) -> None:
        """All of them are there, for ``milliseconds`` from now."""
        if milliseconds != self._milliseconds:
            self._prepare(milliseconds)
        try:
            self._socket.send(self._batch)
            self._confirm()
        except OSError as error:
            raise NftError(f"elements with a timeout can't be set: {error.strerror}") from error

    # --- inside -------------------------------------------------------------------------------------------------------

    def _prepare(self, milliseconds: int) -> None:
        """Add, delete, add: before Linux 6.12 adding doesn't prolong what is there; only what is there can be deleted."""
        timeout = _attribute(_TIMEOUT, struct.pack("!Q", milliseconds))
        bodies = [
            (kind, _body(element, more))
            for element in self._elements
            for kind, more in ((_NEW_ELEMENT, b""), (_DELETE_ELEMENT, b""), (_NEW_ELEMENT, timeout))
        ]
        self._last = len(bodies)
        parts = [_message(_BATCH_BEGIN, _REQUEST, 0, _head(0, _SUBSYSTEM))]
        for seq, (kind, body) in enumerate(bodies, start=1):
            flags = _REQUEST | (_CREATE if kind == _NEW_ELEMENT else 0) | (_ACK if seq == self._last else 0)
            parts.append(_message(kind, flags, seq, body))
        parts.append(_message(_BATCH_END, _REQUEST, self._last + 1, _head(0, _SUBSYSTEM)))
        self._batch, self._milliseconds = b"".join(parts), milliseconds

    def _confirm(self) -> None:
        """The answers, which are there when ``send`` returns: what failed, and the word that the last one was carried out."""
        failed, confirmed = 0, False
        while not confirmed:
            data = self._socket.recv(_LARGEST)
            at = 0
            while at + 20 <= len(data):
                length, kind, _, seq = struct.unpack_from("=IHHI", data, at)
                if kind == _ERROR:
                    failed = failed or -struct.unpack_from("=i", data, at + 16)[0]
                    confirmed = confirmed or seq == self._last
                at += max(20, (length + 3) & ~3)
            if failed:
                self._forget()
                raise OSError(failed, os.strerror(failed))

    def _forget(self) -> None:
        """Take what the kernel said besides off the socket: it isn't the answer to the next request."""
        try:
            while self._socket.recv(_LARGEST):
                pass
        except BlockingIOError:
            return


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def _head(family: int, resource: int) -> bytes:
    return struct.pack("!BBH", family, 0, resource)


def _body(element: Element, more: bytes) -> bytes:
    family, _, table = element.table.partition(" ")
    key = _attribute(_KEY | _NESTED, _attribute(_VALUE, element.key))
    item = _attribute(_ITEM | _NESTED, key + more)
    names = _attribute(_TABLE, table.encode() + b"\0") + _attribute(_SET, element.set.encode() + b"\0")
    return _head(_FAMILIES[family], 0) + names + _attribute(_ELEMENTS | _NESTED, item)


def _message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, 0) + body
