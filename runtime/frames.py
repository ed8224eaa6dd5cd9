"""Messages of the copying: a header in JSON, then as many bytes as it says.

Promise: pure; any path is a path: bytes that aren't UTF-8 travel as Python's surrogate escapes, in ASCII; what is no message,
or longer than one may be, raises ValueError. Layout: 4 bytes, the header's length, most significant first; the header, an
object; ``size`` bytes of content. Source: docs/protocols.md ("Replicated files").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_LENGTH = struct.Struct(">I")
HEADER_LIMIT = 1 << 20
#: larger files go by rsync
CONTENT_LIMIT = 256 * 1024


def encode(header: Mapping[str, Any], content: bytes = b"") -> bytes:
    text = json.dumps({**header, "size": len(content)}, separators=(",", ":")).encode()
    if len(text) > HEADER_LIMIT or len(content) > CONTENT_LIMIT:
        raise ValueError(f"a message of {len(text)} and {len(content)} bytes is too long")
    return _LENGTH.pack(len(text)) + text + content


class Reader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: dict[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The messages that ``data`` completes."""
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> tuple[dict[str, Any], bytes] | None:
        if self._header is None:
            self._header = self._read_header()
            if self._header is None:
                return None
        size = self._header["size"]
        if len(self._buffer) < size:
            return None
        header, content = self._header, bytes(self._buffer[:size])
        del self._buffer[:size]
        self._header = None
        return header, content

    def _read_header(self) -> dict[str, Any] | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > HEADER_LIMIT:
            raise ValueError(f"a header of {length} bytes")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        header = json.loads(bytes(self._buffer[_LENGTH.size : _LENGTH.size + length]))
        del self._buffer[: _LENGTH.size + length]
        size = header.get("size") if isinstance(header, dict) else None
        if not isinstance(size, int) or not 0 <= size <= CONTENT_LIMIT:
            raise ValueError("no message")
        assert isinstance(header, dict)
        return header
