"""One end of an ``ha`` subsystem: JSON lines over an SSH channel, with signs of life.

Promise: ``send`` never waits for the network; the connection ends, once and with a reason, when the other end is silent for
too long, sends a line that is too long or no JSON object, or takes no more output. Reading and writing have a thread each,
because paramiko's writes wait without limit for a peer that is stopped: the reader, which never writes, notices the silence
and closes the socket, which ends such a write. Source: docs/protocols.md; runtime/session.py.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import paramiko

from runtime.clock import boottime
from runtime.errors import PeerError
from runtime.session import Limits, SessionClosed
from runtime.session_socket import end, rest

LINE_LIMIT = 1 << 20
_BACKLOG = 64
_PING = b'{"id":0,"do":"ping"}\n'


class SessionLines:
    """``on_line`` gets each object, ``on_end`` the reason, both in the reader's thread (``on_end`` possibly in another one)."""

    def __init__(
        self,
        transport: paramiko.Transport,
        channel: paramiko.Channel,
        limits: Limits,
        on_line: Callable[[dict[str, Any]], None],
        on_end: Callable[[str], None],
        *,
        pings: bool,
    ) -> None:
        self._transport, self._channel, self._limits = transport, channel, limits
        self._on_line, self._on_end, self._pings = on_line, on_end, pings
        self._output: queue.Queue[bytes | None] = queue.Queue(_BACKLOG)
        self._lock = threading.Lock()
        self._heard = boottime()
        #: why it ended; None while it lives
        self.ended: str | None = None
        rest(transport)

    def start(self, name: str) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"session {name}", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue one object. SessionClosed if it has ended; PeerError if the object is too long."""
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise PeerError(f"a message of {len(line)} bytes is longer than the {LINE_LIMIT} that a line may have")
        try:
            self._output.put_nowait(line)
        except queue.Full:
            self.end("the other end takes no more output")
        if self.ended is not None:
            raise SessionClosed(f"the session has ended: {self.ended}")

    def end(self, because: str) -> None:
        """End the session; the first reason counts."""
        with self._lock:
            if self.ended is not None:
                return
            self.ended = because
        with contextlib.suppress(queue.Full):
            self._output.put_nowait(None)
        end(self._transport)  # not the channel's own close: that would write
        self._on_end(because)

    def _read(self) -> None:
        rest = b""
        try:
            while self.ended is None:
                rest = self._lines(rest + self._some())
        except _End as end:
            self.end(str(end))
        except Exception as e:  # whatever paramiko meets: the session is over, the process is not
            self.end(f"{type(e).__name__}: {e}")

    def _some(self) -> bytes:
        # What came while this process was stopped is read first. A writer for whom the window is full has this limit, too.
        self._channel.settimeout(max(0.01, self._heard + self._limits.silence - boottime()))
        try:
            data = self._channel.recv(65536)
        except TimeoutError:
            if boottime() - self._heard >= self._limits.silence:
                raise _End(f"no word for {self._limits.silence:g} s") from None
            return b""
        if not data:
            raise _End("the other end closed the session")
        self._heard = boottime()
        return data

    def _lines(self, data: bytes) -> bytes:
        """Hand on the whole lines; the rest."""
        *lines, rest = data.split(b"\n")
        if len(rest) > LINE_LIMIT or any(len(line) > LINE_LIMIT for line in lines):
            raise _End(f"a line is longer than {LINE_LIMIT} bytes")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                raise _End("a line is no JSON object")
            self._on_line(message)
        return rest

    def _write(self) -> None:
        try:
            while self.ended is None:
                try:
                    line = self._output.get(timeout=self._limits.keepalive if self._pings else None)
                except queue.Empty:
                    line = _PING
                if line is None:
                    return
                self._push(line)
        except Exception as e:  # see _read
            self.end(f"{type(e).__name__}: {e}")

    def _push(self, line: bytes) -> None:
        view = memoryview(line)
        while view and self.ended is None:
            try:
                sent = self._channel.send(bytes(view[:32768]))
            except TimeoutError:
                continue  # the window is full: the reader decides for how long
            if sent == 0:
                raise _End("the other end closed the session")
            view = view[sent:]


class _End(Exception):
    """The reason why a session is over."""
