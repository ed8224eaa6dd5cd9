"""The session between the two ha_managers: SSH on port 4589, with pinned keys.

Promise: whoever isn't the peer, proven by the pinned ed25519 key at both ends, gets no further than the key exchange, and
can't use up threads or memory; there is no shell, no command, no forwarding. Nothing hangs: every request has a time limit,
and a session that says nothing for ``Limits.silence`` (a hung or vanished peer) ends at both ends. Source:
docs/protocols.md ("The session between the ha_managers"); design §6.

One subsystem, ``ha``: one JSON object a line, at most 1 MiB. Request ``{"id", "do", "epoch": [number, node], "within",
…}``, answer ``{"id", "ok": true, …}`` or ``{"id", "ok": false, "error"}``; many may be under way at once. A session is not
made anew by itself: whoever holds one connects again when it has ended.

This module imports no paramiko (0.1 s, 30 MiB): that comes with the first ``connect`` or ``serve``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import PeerError
from runtime.keys import Keys

if TYPE_CHECKING:
    from runtime.session_client import Session
    from runtime.session_server import SessionServer, Subsystem

PORT = 4589
#: (number, node that opened it); see heartbeat
Epoch = tuple[int, str]


class SessionClosed(PeerError):
    """The session has ended; connect again."""


class PeerTimeout(PeerError, TimeoutError):
    """The peer did not answer in time; the session may still be good."""


class PeerRefused(PeerError):
    """The peer answered, and said no; the text is its own."""


class KeyChanged(PeerError):
    """Somebody answers who is not the pinned peer, or the peer doesn't know this server's key."""


@dataclass(frozen=True)
class Caller:
    """Who asks. ``within``: seconds that it waits for the answer."""

    node: str
    address: str
    epoch: Epoch
    within: float


#: Takes the request's own fields, returns the answer's. HaError becomes a refusal with its text; runs in a thread of its own.
Handler = Callable[[dict[str, Any], Caller], Mapping[str, Any]]


@dataclass(frozen=True)
class Limits:
    """Times in seconds."""

    #: a ping goes at least so often
    keepalive: float = 1.0
    #: without a word for so long, the session is over
    silence: float = 3.0
    #: from the TCP connection to the open subsystem
    login: float = 5.0
    #: connections that are not logged in: in all (the oldest gives way), and from one address (the newest is refused)
    strangers: int = 16
    strangers_per_address: int = 4
    #: sessions at the same time (the oldest gives way), requests at the same time in one session
    sessions: int = 4
    requests: int = 16


def connect(
    host: str,
    keys: Keys,
    epoch: Callable[[], Epoch],
    *,
    port: int = PORT,
    timeout: float = 3.0,
    limits: Limits = Limits(),
) -> Session:
    """Open a session to the peer within ``timeout`` seconds; ``epoch`` is asked at each request.

    PeerError says why not (KeyChanged: the remedy too); ConfigError if a key is missing.
    """
    from runtime.session_client import open_session

    return open_session(host, keys, epoch, port=port, timeout=timeout, limits=limits)


def serve(
    keys: Keys,
    handlers: Mapping[str, Handler],
    addresses: Sequence[str],
    *,
    port: int = PORT,
    limits: Limits = Limits(),
    subsystems: Mapping[str, Subsystem] | None = None,
) -> SessionServer:
    """Listen on ``addresses`` and answer the peer; HaError if an address can't be listened on.

    The pinned key is looked up at each login, so that one accepted later needs no restart.
    ``subsystems``: others beside ``ha``, opened after it.
    """
    from runtime.session_server import SessionServer

    return SessionServer(keys, handlers, addresses, port=port, limits=limits, subsystems=subsystems or {})
