"""JSON lines over a stream socket, for loops that must never block.

Promise: reading, writing and closing never wait; a line is at most 64 KiB; output that nobody fetches is bounded, and whoever
is too slow is disconnected; after ``close`` no callback comes any more except the one ``on_close``. Source: docs/protocols.md.

Loops of this project register with a convention: the ``data`` of each selector key is a callable that takes the event mask.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import ControlError

#: Longest line either way, in bytes, its end included.
LINE_LIMIT = 64 * 1024
#: Output that waits for one reader, in bytes.
OUTPUT_LIMIT = 1024 * 1024

Message = dict[str, Any]

# Made once, and without what no message of ours needs: several of them pass each second for ever.
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_decoded = json.JSONDecoder().decode


class Credentials(NamedTuple):
    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Who is at the other end of a Unix socket, as the kernel says."""
    layout = struct.Struct("3i")
    return Credentials(*layout.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)))


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Raises ControlError if it is longer than a line may be."""
    line = _encoded(message).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise ControlError(f"a message of {len(line)} bytes is longer than the {LINE_LIMIT} that a line may have")
    return line


def decode(line: bytes) -> Message:
    """The object in one line. Raises ControlError for anything else."""
    try:
        message = _decoded(line.decode())
    except (ValueError, RecursionError) as wrong:
        raise ControlError(f"a line is not JSON: {wrong}") from wrong
    if not isinstance(message, dict):
        raise ControlError("a line is not a JSON object")
    return message


class Lines:
    """Cuts a stream of bytes into lines of bounded length."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, empty ones left out. Raises ControlError for one that is too long."""
        if not self._buffer and data.find(b"\n") == len(data) - 1 < LINE_LIMIT:
            return [data[:-1]] if data.strip() else []  # nearly always: one whole line
        self._buffer += data
        *whole, rest = self._buffer.split(b"\n") if b"\n" in data else [self._buffer]
        if len(rest) >= LINE_LIMIT or any(len(line) >= LINE_LIMIT for line in whole):
            raise ControlError(f"a line is longer than {LINE_LIMIT} bytes")
        self._buffer = bytearray(rest)
        return [bytes(line) for line in whole if line.strip()]


class Channel:
    """One connection in a selector. ``on_close`` gets the reason in words; "" is the normal end by the other side."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        *,
        on_message: Callable[[Channel, Message], None],
        on_close: Callable[[Channel, str], None],
        on_nonsense: Callable[[Channel, str], None] | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> None:
        sock.setblocking(False)
        self.closed = False
        self._socket = sock
        self._selector = selector
        self._on_message = on_message
        self._on_close = on_close
        self._on_nonsense = on_nonsense
        self._limit = output_limit
        self._lines = Lines()
        self._output = bytearray()
        self._mask = selectors.EVENT_READ
        selector.register(sock, self._mask, self._ready)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send or keep for later. Closes the channel if its reader is too slow; raises ControlError for an endless message."""
        if self.closed:
            return
        line = encode(message)
        if self._output:
            self._output += line
        else:
            self._output += line[self._write(line) :]
        if len(self._output) > self._limit:
            self.close(f"{len(self._output)} bytes were waiting for a reader that does not read")
        else:
            self._watch()

    def close(self, because: str = "") -> None:
        """Close at once; what was not sent yet is lost."""
        if self.closed:
            return
        self.closed = True
        self._selector.unregister(self._socket)
        self._socket.close()
        self._on_close(self, because)

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            # The reading side learns of the end and says so, once.
            return len(data)

    def _watch(self) -> None:
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._output else 0)
        if mask != self._mask and not self.closed:
            self._mask = mask
            self._selector.modify(self._socket, mask, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and not self.closed and self._output:
            del self._output[: self._write(self._output)]
            self._watch()
        if mask & selectors.EVENT_READ and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(LINE_LIMIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as wrong:
            self.close(str(wrong))
            return
        if not data:
            self.close()
            return
        try:
            messages = [decode(line) for line in self._lines.feed(data)]
        except ControlError as nonsense:
            if self._on_nonsense is not None:
                self._on_nonsense(self, str(nonsense))
            self.close(str(nonsense))
            return
        for message in messages:
            if not self.closed:
                self._on_message(self, message)
