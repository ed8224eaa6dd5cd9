"""Control sockets: how the processes of one server and its operators talk to each other.

Promise: a server in a selectors loop that no client can block, fill or crash; a client for commands that says in words what is
wrong; a client for loops. Root only: the socket is 0600 from its first moment and the peer's credentials are checked.
Source: docs/protocols.md, "Control sockets".
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .channel import LINE_LIMIT, OUTPUT_LIMIT, Channel, Lines, Message, credentials, decode, encode
from .errors import ControlError, HaError, NotPermitted, NotRunning, Refused

log = logging.getLogger(__name__)

_CONNECTIONS = 128


class Request:
    """One request; answered by what its handler returns, or later through ``answer`` or ``refuse``, exactly once."""

    def __init__(self, server: ControlServer, channel: Channel, message: Message) -> None:
        self._server = server
        self._message = message
        self._answered = False
        self.channel = channel
        self.do = str(message.get("do", ""))
        #: everything beside ``id`` and ``do``
        self.fields: Message = {name: value for name, value in message.items() if name not in ("id", "do")}

    def answer(self, fields: Mapping[str, Any] | None = None) -> None:
        self._send({"ok": True} | dict(fields or {}))

    def refuse(self, error: str) -> None:
        self._send({"ok": False, "error": error})

    def subscribe(self) -> None:
        """From now on this connection gets what the server pushes to the group named as this request's ``do``."""
        self._server.group(self.do).add(self.channel)

    def _send(self, answer: Message) -> None:
        if self._answered:
            return
        self._answered = True
        name = {"id": self._message["id"]} if "id" in self._message else {}
        try:
            self.channel.send(name | answer)
        except ControlError as too_long:
            log.error("%s: %s: %s", self._server.path, self.do, too_long)
            self.channel.send(name | {"ok": False, "error": f"the answer can't be sent: {too_long}"})


#: Returns the fields of the answer, or None if it answers later. HaError becomes a refusal.
Handler = Callable[[Request], Mapping[str, Any] | None]


class ControlServer:
    """Serves ``path`` in ``selector``. ``ping`` is answered by itself; ``on_close`` tells of each connection that ended."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        selector: selectors.BaseSelector,
        handlers: Mapping[str, Handler],
        *,
        on_close: Callable[[Channel], None] | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> None:
        self.path = Path(path)
        self._selector = selector
        self._handlers: dict[str, Handler] = {"ping": lambda _: {}} | dict(handlers)
        self._on_close = on_close
        self._output_limit = output_limit
        self._channels: set[Channel] = set()
        self._groups: dict[str, set[Channel]] = {}
        self._socket = listen(self.path)
        self._inode = os.stat(self.path).st_ino
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def group(self, name: str) -> set[Channel]:
        """The connections subscribed to ``name``."""
        return self._groups.setdefault(name, set())

    def push(self, kind: str, fields: Mapping[str, Any], *, to: str = "subscribe") -> None:
        """Send ``fields`` as a push of ``kind`` to everybody in group ``to``."""
        for channel in list(self.group(to)):
            channel.send({"push": kind} | dict(fields))

    def close(self) -> None:
        """Close every connection and remove the socket file, unless somebody else has put a new one there."""
        self._selector.unregister(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        for channel in list(self._channels):
            channel.close("closing")

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return
        if credentials(sock).uid not in (0, os.geteuid()) or len(self._channels) >= _CONNECTIONS:
            sock.close()
            return
        self._channels.add(
            Channel(
                sock,
                self._selector,
                on_message=self._message,
                on_close=self._closed,
                on_nonsense=lambda channel, why: channel.send({"ok": False, "error": why}),
                output_limit=self._output_limit,
            )
        )

    def _closed(self, channel: Channel, because: str) -> None:
        self._channels.discard(channel)
        for members in self._groups.values():
            members.discard(channel)
        if because and because != "closing":
            log.warning("%s: disconnected a client: %s", self.path, because)
        if self._on_close is not None:
            self._on_close(channel)

    def _message(self, channel: Channel, message: Message) -> None:
        request = Request(self, channel, message)
        handler = self._handlers.get(request.do)
        if handler is None:
            request.refuse(f"unknown request {request.do!r}; known are {', '.join(sorted(self._handlers))}")
            return
        try:
            fields = handler(request)
        except HaError as refused:
            request.refuse(str(refused))
        except Exception as bug:
            # One bad request must not end a daemon that holds a role.
            log.exception("%s: %s", self.path, request.do)
            request.refuse(f"internal error: {type(bug).__name__}: {bug}")
        else:
            if fields is not None:
                request.answer(fields)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket at ``path``, 0600 from its first moment; a file left by a dead process is replaced."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _answers(path):
        raise ControlError(f"{path} is served by another process already")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        sock.bind(os.fspath(temporary))
        sock.listen(64)
        os.rename(temporary, path)
    except OSError as wrong:
        sock.close()
        raise ControlError(f"can't listen on {path}: {wrong.strerror}") from wrong
    finally:
        os.umask(before)
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _name_of(path: Path) -> str:
    return path.parent.name if path.name == "control" else path.name


def _connect(path: Path, name: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout)
    try:
        sock.connect(os.fspath(path))
    except OSError as wrong:
        sock.close()
        raise _explain(wrong, path, name) from wrong
    return sock


def _explain(wrong: OSError, path: Path, name: str) -> ControlError:
    match wrong:
        case FileNotFoundError():
            return NotRunning(f"{name} is not running: there is no {path}")
        case ConnectionRefusedError():
            return NotRunning(f"{name} is not running: nobody answers on {path}")
        case PermissionError():
            return NotPermitted(f"only root may ask {name}: no permission for {path}")
        case BlockingIOError() | TimeoutError():
            return ControlError(f"{name} does not take connections on {path}: it hangs or is overloaded")
    return ControlError(f"can't reach {name} on {path}: {wrong.strerror or wrong}")


class Client:
    """Blocking client for commands. ``timeout`` in seconds holds for each request as a whole.

    >>> with Client("/run/heartbeat/control", 2.0) as heartbeat:
    ...     heartbeat.request("status")["role"]
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float, *, name: str | None = None) -> None:
        self._path = Path(path)
        self.name = name or _name_of(self._path)
        self._timeout = timeout
        self._socket = _connect(self._path, self.name, timeout)
        self._lines = Lines()
        self._arrived: deque[Message] = deque()
        self._pushes: deque[Message] = deque()
        self._last = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(
        self,
        do: str,
        fields: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        on_push: Callable[[Message], None] | None = None,
    ) -> Message:
        """The answer's fields. Raises Refused with the process's own words, or ControlError.

        What is pushed before the answer goes to ``on_push``, or is kept for ``pushes``.
        """
        self._last += 1
        line = encode({"id": self._last, "do": do} | dict(fields or {}))
        limit = self._timeout if timeout is None else timeout
        end = time.monotonic() + limit
        self._send(line, limit)
        while (message := self._next(end, limit)).get("id", self._last) != self._last or "push" in message:
            if "push" in message:
                (on_push or self._pushes.append)(message)
        if not message.pop("ok", False):
            raise Refused(str(message.get("error", "refused without a reason")))
        message.pop("id", None)
        return message

    def pushes(self, timeout: float | None = None) -> Iterator[Message]:
        """What the process pushes, as it comes; ends when nothing has come for ``timeout`` seconds (None: waits forever)."""
        while True:
            if self._pushes:
                yield self._pushes.popleft()
                continue
            try:
                message = self._next(None if timeout is None else time.monotonic() + timeout, timeout or 0)
            except TimeoutError:
                return
            except ControlError as end:
                if isinstance(end.__cause__, TimeoutError):
                    return
                raise
            if "push" in message:
                yield message

    def _send(self, line: bytes, limit: float) -> None:
        try:
            self._socket.settimeout(limit)
            self._socket.sendall(line)
        except TimeoutError as late:
            raise self._silent(limit) from late
        except OSError as gone:
            raise self._gone() from gone

    def _next(self, end: float | None, limit: float) -> Message:
        while not self._arrived:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise self._silent(limit) from TimeoutError()
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(LINE_LIMIT)
            except TimeoutError as late:
                raise self._silent(limit) from late
            except OSError as gone:
                raise self._gone() from gone
            if not data:
                raise self._gone()
            self._arrived.extend(decode(line) for line in self._lines.feed(data))
        return self._arrived.popleft()

    def _silent(self, limit: float) -> ControlError:
        return ControlError(f"{self.name} did not answer within {limit:g} s: it hangs or is overloaded")

    def _gone(self) -> ControlError:
        return ControlError(f"{self.name} closed the connection: it may have been stopped")


class LoopClient:
    """Client in a selectors loop: requests with a callback each, pushes to one. Raises NotRunning if nobody listens."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        selector: selectors.BaseSelector,
        *,
        on_push: Callable[[Message], None],
        on_close: Callable[[str], None],
        name: str | None = None,
    ) -> None:
        path = Path(path)
        self._then: dict[int, Callable[[Message], None]] = {}
        self._last = 0
        self._on_push = on_push
        sock = _connect(path, name or _name_of(path), 0)
        self._channel = Channel(sock, selector, on_message=self._message, on_close=lambda _, why: on_close(why))

    @property
    def closed(self) -> bool:
        return self._channel.closed

    def request(self, do: str, fields: Mapping[str, Any] | None = None, then: Callable[[Message], None] | None = None) -> None:
        """Send; ``then`` gets the whole answer (``ok``, ``error`` …) when it comes, never if the connection ends before."""
        self._last += 1
        if then is not None:
            self._then[self._last] = then
        self._channel.send({"id": self._last, "do": do} | dict(fields or {}))

    def close(self) -> None:
        """Close; ``on_close`` is told."""
        self._channel.close()

    def _message(self, channel: Channel, message: Message) -> None:
        if "push" in message:
            self._on_push(message)
        elif (then := self._then.pop(message.get("id", 0), None)) is not None:
            then(message)
