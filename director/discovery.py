"""What members say to each other in IP protocol 253, and which of it counts. No sockets here.

Promise: a message counts only if it was made with the group's key, by somebody who has heard this very process (it echoes the
number that this process drew at its start), and after everything else heard from its sender. So a replayed one, also of an
earlier life of its sender or of ours, a forged and a garbled one change nothing; each is counted under why it was
dropped. Somebody new is answered, not believed: the echo makes his next message count. Source: design §8;
docs/protocols.md, "Protocol 253".

    magic "MFLB" | version | kind | LBID (4) | session (8) | counter (8) | MAC (6) | body | HMAC-SHA256 (32)

The body is JSON, deflated. The director broadcasts; members answer by unicast.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from runtime.errors import HaError

PROTOCOL = 253
MAGIC = b"MFLB"
VERSION = 1
_HEAD = struct.Struct("!4sBBIQQ6s")
_MAC_LENGTH = 32
#: What a message may grow to when it is inflated; twenty members with 1024 buckets take 8 KB
_LARGEST = 64 * 1024
#: Lives of one sender that are remembered as over, before this process draws a new number
_REMEMBERED = 64
#: Unproven lives of one sender that are answered at the same time
_CANDIDATES = 3


class Kind(Enum):
    DIRECTOR = 1
    MEMBER = 2
    TABLE = 3


class Dropped(HaError):
    """The message counts for nothing; ``because`` is the counter's name."""

    def __init__(self, because: str, detail: str = "") -> None:
        super().__init__(f"{because}{': ' + detail if detail else ''}")
        self.because = because


@dataclass(frozen=True)
class Message:
    kind: Kind
    lbid: int
    session: int
    counter: int
    mac: str
    body: Mapping[str, Any] = field(default_factory=dict)


def encode(message: Message, key: bytes) -> bytes:
    head = _HEAD.pack(MAGIC, VERSION, message.kind.value, message.lbid, message.session, message.counter, _packed(message.mac))
    data = head + zlib.compress(json.dumps(message.body, separators=(",", ":")).encode(), 6)
    return data + hmac.digest(key, data, hashlib.sha256)


def decode(data: bytes, key: bytes, lbid: int) -> Message:
    """Dropped for everything that isn't a message of this group."""
    if len(data) < _HEAD.size + _MAC_LENGTH or data[:4] != MAGIC:
        raise Dropped("not a message")
    _, version, kind, group, session, counter, mac = _HEAD.unpack_from(data)
    if version != VERSION:
        raise Dropped("version", f"{version}, this is {VERSION}")
    if group != lbid:
        raise Dropped("another group", f"LBID {group}")
    if not hmac.compare_digest(hmac.digest(key, data[:-_MAC_LENGTH], hashlib.sha256), data[-_MAC_LENGTH:]):
        raise Dropped("authentication")
    try:
        return Message(Kind(kind), group, session, counter, mac.hex(":"), _inflated(data[_HEAD.size : -_MAC_LENGTH]))
    except (ValueError, zlib.error, RecursionError) as error:
        raise Dropped("garbled", str(error)) from error


def _inflated(data: bytes) -> dict[str, Any]:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, _LARGEST)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("it doesn't end where it should")
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


@dataclass
class _Sender:
    session: int = 0  # proven; 0: none
    counter: int = -1
    candidates: list[int] = field(default_factory=list)
    over: set[int] = field(default_factory=set)


class Freshness:
    """Whose messages count. ``session``: this process's number, unpredictable and never 0."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.exhausted = False
        self._senders: dict[str, _Sender] = {}

    def accept(self, message: Message) -> bool:
        """True if it counts; False: its sender is to be answered first. Dropped: neither."""
        sender = self._senders.setdefault(message.mac, _Sender())
        if message.session in sender.over:
            raise Dropped("replayed", "of an earlier life")
        echoes = message.body.get("echo")
        heard = isinstance(echoes, dict) and self.session in _numbers(echoes.get("sessions"))
        if message.session == sender.session:
            if message.counter <= sender.counter:
                raise Dropped("replayed")
            if not heard:
                return False
            sender.counter = message.counter
            return True
        if not heard:
            self._candidate(sender, message.session)
            return False
        self._begin(sender, message)
        return True

    def echo(self, *macs: str) -> dict[str, Any]:
        """What a message to ``macs`` carries so that they believe it (all, if none is named)."""
        chosen = [self._senders[mac] for mac in macs or self._senders if mac in self._senders]
        return {"sessions": [f"{n:x}" for sender in chosen for n in (sender.session, *sender.candidates) if n]}

    def renew(self, session: int) -> None:
        """Draw again: all that was ever said to the old number is void."""
        self.session, self.exhausted = session, False
        for sender in self._senders.values():
            sender.candidates = [n for n in (sender.session, *sender.candidates) if n][:_CANDIDATES]
            sender.session, sender.counter, sender.over = 0, -1, set()

    def _candidate(self, sender: _Sender, session: int) -> None:
        if session in sender.candidates:
            return
        sender.candidates = [session, *sender.candidates][:_CANDIDATES]

    def _begin(self, sender: _Sender, message: Message) -> None:
        if sender.session:
            sender.over.add(sender.session)
        sender.candidates = [n for n in sender.candidates if n != message.session]
        sender.session, sender.counter = message.session, message.counter
        self.exhausted = self.exhausted or len(sender.over) >= _REMEMBERED


def _numbers(sessions: object) -> set[int]:
    if not isinstance(sessions, list):
        return set()
    found = set()
    for each in sessions:
        if isinstance(each, str) and 0 < len(each) <= 16:
            try:
                found.add(int(each, 16))
            except ValueError:
                continue
    return found


class Counters:
    """Sent, received, dropped by reason."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.dropped: Counter[str] = Counter()

    def as_json(self) -> dict[str, Any]:
        return {"sent": self.sent, "received": self.received, "dropped": dict(self.dropped)}
