"""A session between two nodes: SSH with pinned keys. The two ha_managers (port 4589), a notifier and a device (port 4592).

Promise: whoever isn't trusted, proven by the pinned ed25519 key at both ends, gets no further than the key exchange, and
can't use up threads or memory; there is no shell, no command, no forwarding. Nothing hangs: every request has a time limit,
and a session that says nothing for ``Limits.silence`` (a hung or vanished peer) ends at both ends. Source:
docs/protocols.md ("The session between the ha_managers"); design §6. Without further words, the one that is trusted is the
pinned peer; who trusts others says whom (``trusted``, ``other``).

One subsystem, ``ha``: one JSON object a line, at most 1 MiB. Request ``{"id", "do", "epoch": [number, node], "within",
…}``, answer ``{"id", "ok": true, …}`` or ``{"id", "ok": false, "error", …}``, with ``code`` and more after a ``Refusal``; many
may be under way at once. A session is not made anew by itself: whoever holds one connects again when it has ended.

This module imports no paramiko (0.1 s, 30 MiB): that comes with the first ``connect`` or ``serve``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import HaError, PeerError
from runtime.keys import Keys, PublicKey

if TYPE_CHECKING:
    from runtime.session_client import Session
    from runtime.session_server import SessionServer, Subsystem

PORT = 4589
#: A connection is tried no longer than this (seconds). TCP repeats its first packet after 1, 3 and 7 s: after a cut that has
#: just ended, the next try is answered before the third packet would be sent.
REACH = 1.5
#: (number, node that opened it); see heartbeat
Epoch = tuple[int, str]


class SessionClosed(PeerError):
    """The session has ended; connect again."""


class PeerTimeout(PeerError, TimeoutError):
    """The peer did not answer in time; the session may still be good."""


class PeerRefused(PeerError):
    """The peer answered, and said no; the text is its own. ``code`` ("": none) and ``fields``: of its ``Refusal``."""

    def __init__(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.fields: Mapping[str, Any] = fields or {}
        self.code = str(self.fields.get("code", ""))


class Refusal(HaError):
    """Raised by a handler: no, in words, and for the program that asked: ``code``, with what belongs to it."""

    def __init__(self, text: str, code: str, **fields: Any) -> None:
        super().__init__(text)
        self.fields: Mapping[str, Any] = {"code": code, **fields}


class KeyChanged(PeerError):
    """Somebody answers who is not the pinned peer, or the peer doesn't know this server's key."""


@dataclass(frozen=True)
class Caller:
    """Who asks. ``within``: seconds that it waits for the answer."""

    node: str
    address: str
    epoch: Epoch
    within: float


#: Whose keys are pinned, asked at each login; ConfigError: nobody gets in.
Trusted = Callable[[], Sequence[PublicKey]]

#: Takes the request's own fields, returns the answer's. HaError becomes a refusal with its text; runs in a thread of its own.
Handler = Callable[[dict[str, Any], Caller], Mapping[str, Any]]


@dataclass(frozen=True)
class Remedies:
    """What to do about a key that is not the pinned one: after a sentence that says so."""

    changed: str = (
        "If it was given a new key on purpose: `ha keys show` there, `ha keys accept --replace` with its line here. If not, "
        "another has its address"
    )
    unknown: str = "`ha keys show` here, `ha keys accept` with that line there"


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
    #: sessions of one node at the same time (its oldest gives way), requests at the same time in one session
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
    other: PublicKey | None = None,
    remedies: Remedies = Remedies(),
    reach: float = REACH,
) -> Session:
    """Open a session to ``other``, or the pinned peer, within ``timeout`` seconds; ``epoch`` is asked at each request.

    TCP alone is tried for ``reach`` seconds.

    PeerError says why not (KeyChanged: the remedy too); ConfigError if a key is missing.
    """
    from runtime.session_client import open_session

    return open_session(
        host, keys, epoch, port=port, timeout=timeout, limits=limits, other=other or keys.required_peer(), remedies=remedies,
        reach=reach,
    )  # fmt: skip


def fetch_key(host: str, *, port: int, timeout: float = 5.0) -> PublicKey:
    """The public key that whoever answers there calls his own; proven is only that he has its private half, not who he is.

    For an enrolment in which somebody compares the fingerprint. PeerError: it can't be had.
    """
    from runtime.session_client import shown_key

    return shown_key(host, port, timeout)


def serve(
    keys: Keys,
    handlers: Mapping[str, Handler],
    addresses: Sequence[str],
    *,
    port: int = PORT,
    limits: Limits = Limits(),
    subsystems: Mapping[str, Subsystem] | None = None,
    trusted: Trusted | None = None,
    show_key: bool = False,
) -> SessionServer:
    """Listen on ``addresses`` and answer the peer, or who is ``trusted``; HaError if an address can't be listened on.

    The pinned keys are looked up at each login, so that one accepted later needs no restart.
    ``subsystems``: others beside ``ha``, opened after it. ``show_key``: tell strangers our public key (``fetch_key``).
    """
    from runtime.session_server import SessionServer

    return SessionServer(
        keys,
        handlers,
        addresses,
        port=port,
        limits=limits,
        subsystems=subsystems or {},
        trusted=trusted or (lambda: _peer(keys)),
        show_key=show_key,
    )


def _peer(keys: Keys) -> tuple[PublicKey, ...]:
    peer = keys.peer()
    return () if peer is None else (peer,)
