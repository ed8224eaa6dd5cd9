"""The side of the session that answers. See ``runtime.session``.

Promise: exactly the pinned keys log in; everything else that SSH offers is refused. Strangers are bounded in number and
time: the oldest gives way, and one address can hold only a few places, so that the peer always finds one; while too many are
still ending, whoever knocks waits, and isn't refused. A handler that hangs holds one place of its session's requests and
nothing else.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED, OPEN_SUCCEEDED

from runtime.clock import boottime
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.session import Caller, Handler, Limits, Refusal, SessionClosed, Trusted
from runtime.session_lines import SessionLines
from runtime.session_socket import end, quiet, tune

log = logging.getLogger(__name__)

#: Serves one channel of a logged-in peer (SFTP, later); called in paramiko's thread: starts one of its own and returns.
Subsystem = Callable[[paramiko.Channel], None]

#: so often is looked for strangers whose time is up, while there are any; and for sessions that have ended (seconds)
_TICK, _CALM = 0.25, 5.0
#: so often while connections are ending whose threads are still there (seconds)
_SOON = 0.01
_CHANNELS = 8


@dataclass
class _Connection:
    transport: paramiko.Transport
    address: str
    since: float
    #: whose key it was that logged in
    node: str = ""
    key: bytes = b""
    session: _Served | None = None


class SessionServer:
    def __init__(
        self,
        keys: Keys,
        handlers: Mapping[str, Handler],
        addresses: Sequence[str],
        *,
        port: int,
        limits: Limits,
        subsystems: Mapping[str, Subsystem],
        trusted: Trusted,
        show_key: bool,
    ) -> None:
        quiet()
        self.trusted = trusted
        #: what strangers are told, "" for nothing
        self.banner = keys.show().line if show_key else ""
        self.handlers, self.limits, self.subsystems = dict(handlers), limits, subsystems
        self._host_key = paramiko.Ed25519Key.from_private_key(io.StringIO(keys.private_ssh()))
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        #: connections that ended, or were refused, without a session; since the start
        self.turned_away = 0
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listeners = self._listen(addresses, port)
        self.port: int = self._listeners[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="session server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more and end all sessions."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._wake.send(b"x")
        self._thread.join()
        for listener in (*self._listeners, self._woken, self._wake):
            listener.close()
        self._selector.close()
        for connection in self._snapshot():
            _end(connection, "the peer's ha_manager is stopping")

    def sessions(self) -> int:
        """How many sessions are open."""
        return len(self._open())

    def nodes(self) -> frozenset[str]:
        """Those that have a session."""
        return frozenset(c.node for c in self._open())

    def end_untrusted(self) -> tuple[str, ...]:
        """End the sessions of those who would not get in any more; their nodes. Trust that can't be read ends none."""
        try:
            known = {(each.node, each.ssh) for each in self.trusted()}
        except ConfigError as e:
            log.error("session: %s", e)
            return ()
        gone = [c for c in self._open() if (c.node, c.key) not in known]
        for connection in gone:
            _end(connection, "its key is not trusted any more")
        return tuple(sorted({c.node for c in gone}))

    def _open(self) -> list[_Connection]:
        return [c for c in self._snapshot() if c.session is not None and c.transport.is_active()]

    def strangers(self) -> int:
        """How many connections are not logged in."""
        return sum(c.session is None and c.transport.is_active() for c in self._snapshot())

    def _listen(self, addresses: Sequence[str], port: int) -> list[socket.socket]:
        listeners: list[socket.socket] = []
        for address in addresses:
            try:
                listener = socket.create_server((address, port), backlog=128)
            except OSError as e:
                for other in listeners:
                    other.close()
                raise HaError(f"the session can't listen on {address}:{port}: {e.strerror or e}") from e
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
            listeners.append(listener)
        return listeners

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._crowded():
                self._stop.wait(_SOON)
                self._reap()
                continue
            strangers = any(c.session is None for c in self._snapshot())
            for key, _ in self._selector.select(_TICK if strangers else _CALM):
                if key.fileobj is self._woken:
                    continue
                try:
                    self._accept(key.fileobj)  # type: ignore[arg-type]
                except Exception as e:  # out of descriptors or threads: the next one may find some
                    log.warning("session: a connection could not be accepted: %s", e)
                    self._stop.wait(_TICK)
            self._reap()

    def _accept(self, listener: socket.socket) -> None:
        sock, (address, *_) = listener.accept()
        if not self._place_for(address):
            sock.close()
            return
        try:
            tune(sock, self.limits.silence)
            transport = paramiko.Transport(sock)
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = self.limits.login
            transport.add_server_key(self._host_key)
            connection = _Connection(transport, address, boottime())
            with self._lock:
                self._connections.append(connection)
            transport.start_server(event=threading.Event(), server=_Door(self, connection))  # an event: it doesn't wait
        except BaseException:
            sock.close()
            raise

    def _crowded(self) -> bool:
        """So many that have ended and still have a thread (for milliseconds; longer on a busy machine) that nobody is let in:
        the kernel's queue holds who knocks, the peer perhaps among them.
        """
        return sum(not c.transport.is_active() for c in self._snapshot()) >= self.limits.strangers

    def _place_for(self, address: str) -> bool:
        """Whether one more stranger from ``address`` may try; makes room by ending the oldest one."""
        strangers = [c for c in self._snapshot() if c.session is None and c.transport.is_active()]
        if sum(c.address == address for c in strangers) >= self.limits.strangers_per_address:
            self.turned_away += 1
            return False
        if len(strangers) >= self.limits.strangers:
            _end(strangers[0], "newer ones came")
        return True

    def _reap(self) -> None:
        now = boottime()
        for c in self._snapshot():
            if c.session is None and now - c.since > self.limits.login:
                _end(c, "not logged in in time")
            if not c.transport.is_active() and not c.transport.is_alive():
                self.turned_away += c.session is None
                with self._lock:
                    self._connections.remove(c)

    def _snapshot(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections)

    def open(self, connection: _Connection, channel: paramiko.Channel) -> None:
        """The node of ``connection`` has logged in and opened the subsystem."""
        node = connection.node
        others = [c for c in self._open() if c.node == node]
        if len(others) >= self.limits.sessions:
            _end(others[0], "a newer session took its place")
        connection.session = _Served(self, connection, channel, node)
        connection.session.lines.start(f"of {node}")

    def node_of(self, key: paramiko.PKey) -> str:
        """Whose key this is, "" if nobody's."""
        try:
            trusted = self.trusted()
        except ConfigError as e:
            log.error("session: %s", e)
            return ""
        return next((each.node for each in trusted if hmac.compare_digest(key.asbytes(), each.ssh)), "")


class _Door(paramiko.ServerInterface):
    """What SSH may do here: log in with the pinned key, open a subsystem. paramiko refuses the rest by itself."""

    def __init__(self, server: SessionServer, connection: _Connection) -> None:
        self._server, self._connection = server, connection
        self._channels = 0

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        # Asked before the signature is checked: the last one that is asked about before the login is the one that logs in.
        self._connection.node, self._connection.key = self._server.node_of(key), key.asbytes()
        return AUTH_SUCCESSFUL if self._connection.node else AUTH_FAILED

    def get_banner(self) -> tuple[str | None, str | None]:
        return (self._server.banner, "") if self._server.banner else (None, None)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._channels += 1
        if kind != "session" or self._channels > _CHANNELS:
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        return OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if name == "ha" and self._connection.session is None:
            self._server.open(self._connection, channel)
            return True
        if name in self._server.subsystems:
            self._server.subsystems[name](channel)
            return True
        return False


class _Served:
    """One session of the peer."""

    def __init__(self, server: SessionServer, connection: _Connection, channel: paramiko.Channel, node: str) -> None:
        self._handlers, self._limits = server.handlers, server.limits
        self._node, self._address = node, connection.address
        self._places = threading.BoundedSemaphore(server.limits.requests)
        self.lines = SessionLines(connection.transport, channel, server.limits, self._asked, self._over, pings=False)

    def _asked(self, message: dict[str, Any]) -> None:
        number, do = message.pop("id", None), message.pop("do", None)
        if do == "ping":
            return self._answer({"id": number, "ok": True})
        caller = self._caller(message.pop("epoch", None), message.pop("within", None))
        handler = self._handlers.get(do) if isinstance(do, str) else None
        if caller is None:
            return self._refuse(number, "a request carries the caller's epoch, [number, node], and within how many seconds")
        if handler is None:
            return self._refuse(number, f"unknown request {do!r}; the two servers may run different versions of ha_manager")
        if not self._places.acquire(blocking=False):
            return self._refuse(number, f"busy: {self._limits.requests} requests are under way")
        return threading.Thread(
            target=self._handle, args=(number, do, handler, message, caller), name=f"request {do}", daemon=True
        ).start()

    def _handle(self, number: Any, do: str, handler: Handler, fields: dict[str, Any], caller: Caller) -> None:
        try:
            self._answer({**handler(fields, caller), "id": number, "ok": True})
        except SessionClosed:
            pass  # nobody is left to tell
        except Refusal as e:
            self._refuse(number, str(e), e.fields)
        except HaError as e:
            self._refuse(number, str(e))
        except Exception:
            log.exception("session: request %s of %s failed", do, self._node)
            self._refuse(number, f"{do} failed on the peer; its system log says why")
        finally:
            self._places.release()

    def _answer(self, message: dict[str, Any]) -> None:
        self.lines.send(message)

    def _refuse(self, number: Any, error: str, fields: Mapping[str, Any] | None = None) -> None:
        with contextlib.suppress(SessionClosed):
            self.lines.send({**(fields or {}), "id": number, "ok": False, "error": error})

    def _caller(self, epoch: Any, within: Any) -> Caller | None:
        match epoch, within:
            case [int(number), str(node)], int() | float():
                return Caller(self._node, self._address, (number, node), float(within))
        return None

    def _over(self, because: str) -> None:
        log.debug("session of %s from %s ended: %s", self._node, self._address, because)


def _end(connection: _Connection, because: str) -> None:
    if connection.session is not None:
        connection.session.lines.end(because)
    end(connection.transport)
