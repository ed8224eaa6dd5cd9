"""The side of the session that asks. See ``runtime.session``.

Promise: ``open_session`` takes no longer than its time limit whatever the other end does; it trusts exactly the key that is
expected there.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import paramiko

from runtime.clock import boottime
from runtime.errors import ConfigError, PeerError
from runtime.keys import Keys, PublicKey, parse
from runtime.session import REACH, Epoch, KeyChanged, Limits, PeerRefused, PeerTimeout, Remedies, SessionClosed
from runtime.session_lines import SessionLines
from runtime.session_socket import quiet, tune

_Result = TypeVar("_Result")


class Session:
    """A session that is open, or has ended. Any thread may ask."""

    def __init__(
        self, transport: paramiko.Transport, channel: paramiko.Channel, epoch: Callable[[], Epoch], limits: Limits
    ) -> None:
        self.transport = transport  # for other subsystems, such as SFTP
        self._epoch = epoch
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, _Answer] = {}
        #: set when the session has ended
        self.ended = threading.Event()
        self._on_end: Callable[[str], None] | None = None
        self._lines = SessionLines(transport, channel, limits, self._answered, self._over, pings=True)
        self._lines.start("client")

    @property
    def alive(self) -> bool:
        return self._lines.ended is None

    @property
    def because(self) -> str:
        """Why the session has ended; "" while it lives."""
        return self._lines.ended or ""

    def when_ended(self, call: Callable[[str], None]) -> None:
        """Call ``call`` with the reason when the session ends, in a thread of the session's; at once if it has ended."""
        with self._lock:
            self._on_end = call
        if self.ended.is_set():
            self._tell()

    def _tell(self) -> None:
        """Once."""
        with self._lock:
            call, self._on_end = self._on_end, None
        if call is not None:
            call(self.because)

    def request(self, do: str, timeout: float = 5.0, **fields: Any) -> dict[str, Any]:
        """Ask, and wait at most ``timeout`` seconds for the answer's fields.

        PeerRefused: it says no, in words. PeerTimeout: no answer yet (a late one is discarded). SessionClosed: connect again.
        """
        answer = _Answer()
        number = next(self._ids)
        with self._lock:
            self._waiting[number] = answer
        try:
            own = {"id": number, "do": do, "epoch": list(self._epoch()), "within": timeout}
            self._lines.send(fields | own)
            if not answer.done.wait(timeout):
                raise PeerTimeout(f"the peer did not answer {do!r} within {timeout:g} s")
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        return answer.fields(do, self.because)

    def subsystem(self, name: str, timeout: float) -> paramiko.Channel:
        """A channel of its own to what the other end calls that; ``timeout`` of each step, and of the channel (seconds). Raises
        what paramiko raises.
        """
        channel = self.transport.open_session(timeout=timeout)
        channel.settimeout(timeout)
        channel.invoke_subsystem(name)
        return channel

    def close(self) -> None:
        self._lines.end("closed here")

    def _answered(self, message: dict[str, Any]) -> None:
        number = message.pop("id", None)
        with self._lock:
            answer = self._waiting.get(number) if isinstance(number, int) else None
        if answer is not None:
            answer.message = message
            answer.done.set()

    def _over(self, because: str) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for answer in waiting:
            answer.done.set()
        self.ended.set()
        self._tell()


class _Answer:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.message: dict[str, Any] | None = None

    def fields(self, do: str, because: str) -> dict[str, Any]:
        if self.message is None:
            raise SessionClosed(f"the session ended before {do!r} was answered: {because}")
        if self.message.pop("ok", None) is not True:
            raise PeerRefused(str(self.message.pop("error", "refused without a reason")), self.message)
        return self.message


def open_session(
    host: str,
    keys: Keys,
    epoch: Callable[[], Epoch],
    *,
    port: int,
    timeout: float,
    limits: Limits,
    other: PublicKey,
    remedies: Remedies,
    reach: float = REACH,
) -> Session:
    """See ``runtime.session.connect``."""
    own = paramiko.Ed25519Key.from_private_key(io.StringIO(keys.private_ssh()))
    where = f"{other.node} ({host}:{port})"

    def log_in(transport: paramiko.Transport) -> Session:
        return Session(transport, _login(transport, own, other, where, timeout, remedies), epoch, limits)

    return _within(host, port, where, timeout, limits.silence, log_in, reach)


def shown_key(host: str, port: int, timeout: float) -> PublicKey:
    """See ``runtime.session.fetch_key``."""
    return _within(
        host, port, f"{host}:{port}", timeout, timeout, lambda transport: _shown(transport, f"{host}:{port}", timeout)
    )


def _within(
    host: str,
    port: int,
    where: str,
    timeout: float,
    silence: float,
    use: Callable[[paramiko.Transport], _Result],
    reach: float = REACH,
) -> _Result:
    """Connect, and ``use`` the transport, which is closed if that fails; all of it within ``timeout`` seconds."""
    until = boottime() + timeout
    try:
        sock = socket.create_connection((host, port), min(timeout, reach))
    except OSError as e:
        raise PeerError(f"{where} can't be reached: {e.strerror or e}") from e
    tune(sock, silence)
    quiet()
    transport = paramiko.Transport(sock)
    late = threading.Event()
    timer = threading.Timer(max(0.0, until - boottime()), _give_up, (transport, late))  # paramiko waits without limit in places
    timer.daemon = True
    timer.start()
    try:
        return use(transport)
    except BaseException as e:
        transport.close()
        sock.close()
        if late.is_set() or boottime() >= until:  # paramiko's own limit may be the first of the two to be noticed
            raise PeerTimeout(f"{where} did not open a session within {timeout:g} s") from e
        if isinstance(e, (paramiko.SSHException, OSError, EOFError)):
            raise PeerError(f"{where} ended the connection before the session was open: {e or type(e).__name__}") from e
        raise
    finally:
        timer.cancel()


def _login(
    transport: paramiko.Transport, own: paramiko.Ed25519Key, other: PublicKey, where: str, timeout: float, remedies: Remedies
) -> paramiko.Channel:
    _shake_hands(transport, timeout)
    key = transport.get_remote_server_key()
    if (key.get_name(), key.asbytes()) != ("ssh-ed25519", other.ssh):
        raise KeyChanged(
            f"{where} answers with another key than the pinned one ({other.node} {other.fingerprint}). {remedies.changed}"
        )
    try:
        transport.auth_publickey("ha", own)
    except paramiko.AuthenticationException as e:
        raise KeyChanged(f"{where} doesn't accept this server's key; {remedies.unknown}") from e
    channel = transport.open_session(timeout=timeout)
    channel.invoke_subsystem("ha")
    return channel


def _shake_hands(transport: paramiko.Transport, timeout: float) -> None:
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout
    transport.start_client(timeout=timeout)


def _shown(transport: paramiko.Transport, where: str, timeout: float) -> PublicKey:
    _shake_hands(transport, timeout)
    with contextlib.suppress(paramiko.AuthenticationException):  # that is what strangers hear
        transport.auth_none("key")
    banner, host_key = transport.get_banner() or b"", transport.get_remote_server_key().asbytes()
    transport.close()
    try:
        key = parse(banner.decode("ascii"))
    except (ConfigError, UnicodeDecodeError):
        raise PeerError(f"{where} doesn't say its key: it is no device of this project, or of an older version") from None
    if key.ssh != host_key:
        raise PeerError(f"{where} says that it has the key of {key.node}, but proves another one")
    return key


def _give_up(transport: paramiko.Transport, late: threading.Event) -> None:
    late.set()
    transport.close()
    with contextlib.suppress(OSError):
        transport.sock.close()
