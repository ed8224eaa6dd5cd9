"""``device_uname``: this device's name over HTTP, for those that configure a heartbeat as the reference does.

Promise: whoever asks learns what ``uname -n`` prints here and nothing else; nothing here waits, and a caller that is slow, or
many that are, cost a bounded number of descriptors for ``timeout`` seconds. Nobody is asked who he is, and nothing in this
project trusts such an answer. Source: Trustwave §2.2.1 (``device_uname`` port and timeout; its example calls the element
``device_undef``); RFC 9112.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.loop import Loop, Timer
from runtime.modulexml import parse

log = logging.getLogger(__name__)

PORT, TIMEOUT = 5222, 20
ELEMENTS = ("device_uname", "device_undef")
_PATHS = frozenset({b"/", b"/device_uname"})
_LONGEST = 8192
#: bytes that a caller may send in all
_MOST = 64 * 1024
_CONNECTIONS = 32
#: seconds from one attempt to listen to the next
_RETRY = 10.0


@dataclass(frozen=True)
class Settings:
    """``timeout``: seconds that one caller may take."""

    port: int = PORT
    timeout: int = TIMEOUT


def read(path: Path) -> Settings | None:
    """From the pair's module.xml; None where that isn't there or has no such element. Raises ConfigError."""
    if not path.exists():
        return None
    root = parse(path)
    section = next((found for name in ELEMENTS if (found := root.child(f"init/{name}")) is not None), None)
    if section is None:
        return None
    return Settings(section.whole("port", PORT, least=1, most=65535), section.whole("timeout", TIMEOUT, least=1, most=86400))


def reply(request: bytes, name: str) -> bytes:
    """The whole answer to a request whose first line is ``request``."""
    words = request.split(b"\r\n", 1)[0].split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/"):
        return _message("400 Bad Request", "what was sent is no HTTP request\n")
    method, target = words[0], words[1].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        return _message("405 Method Not Allowed", "only GET is possible\n", "Allow: GET, HEAD\r\n")
    status, text = ("200 OK", f"{name}\n") if target in _PATHS else ("404 Not Found", "there is only /device_uname\n")
    whole = _message(status, text)
    return whole if method == b"GET" else whole[: -len(text)]


def _message(status: str, text: str, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n{more}Connection: close\r\n\r\n"
    return (head + text).encode()


class DeviceUname:
    """``configure`` says where to answer; ``trouble`` why it isn't answered there ("": it is, or nobody wants it)."""

    def __init__(self, loop: Loop, name: Callable[[], str] = lambda: os.uname().nodename, retry_after: float = _RETRY) -> None:
        self._loop = loop
        self._name = name
        self._retry_after = retry_after
        self._settings: Settings | None = None
        self._listener: socket.socket | None = None
        self._retry: Timer | None = None
        self._callers: list[_Caller] = []
        self.trouble = ""

    def configure(self, settings: Settings | None) -> None:
        if settings is None or self._settings is None or settings.port != self._settings.port:
            self.close()
            self._settings = settings
            self._listen()
        self._settings = settings

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._listen_no_more()
        for caller in list(self._callers):
            caller.end()
        self.trouble = ""

    def _listen_no_more(self) -> None:
        if self._listener is not None:
            self._loop.selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        if self._settings is None:
            return
        try:
            self._listener = _listener(self._settings.port)
        except OSError as wrong:
            self._later(wrong)
            return
        self.trouble = ""
        self._loop.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _later(self, wrong: OSError) -> None:
        port = self._settings.port if self._settings else 0
        text = f"can't be answered on port {port}: {wrong.strerror}"
        if text != self.trouble:
            log.warning("device_uname %s; it is tried again", text)
        self.trouble = text
        self._retry = self._loop.call_after(self._retry_after, self._listen)

    def _accept(self, mask: int) -> None:
        assert self._listener is not None and self._settings is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the caller has gone again
        except OSError as wrong:  # out of descriptors, say: a listener that stays readable would keep the loop busy
            self._listen_no_more()
            self._later(wrong)
            return
        if len(self._callers) >= _CONNECTIONS:
            self._callers[0].end()
        self._callers.append(_Caller(self._loop, sock, self._settings.timeout, self._name, self._callers.remove))


def _listener(port: int) -> socket.socket:
    """On every address, of both families where the system has IPv6."""
    try:
        made = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_CONNECTIONS)
    except (OSError, ValueError):
        made = socket.create_server(("", port), backlog=_CONNECTIONS)
    made.setblocking(False)
    return made


class _Caller:
    """One connection: one request, one answer."""

    def __init__(
        self, loop: Loop, sock: socket.socket, timeout: float, name: Callable[[], str], gone: Callable[[_Caller], None]
    ) -> None:
        self._loop, self._socket, self._name, self._gone = loop, sock, name, gone
        self._heard, self._count, self._answered = b"", 0, False
        sock.setblocking(False)
        self._timer = loop.call_after(timeout, self.end)
        loop.selector.register(sock, selectors.EVENT_READ, self._ready)

    def end(self) -> None:
        self._timer.cancel()
        self._loop.selector.unregister(self._socket)
        self._socket.close()
        self._gone(self)

    def _ready(self, mask: int) -> None:
        try:
            data = self._socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._count += len(data)
        if not data or self._count > _MOST:
            self.end()
        elif not self._answered:
            self._heard += data
            if b"\r\n\r\n" in self._heard or b"\n\n" in self._heard or len(self._heard) > _LONGEST:
                self._answer()

    def _answer(self) -> None:
        """It fits into the socket's buffer. What still comes is read until the caller closes: a reset would lose the answer."""
        self._answered = True
        try:
            self._socket.send(reply(self._heard, self._name()))
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.end()
