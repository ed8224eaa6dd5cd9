"""Linux-HA's frames, authenticated: bytes of a datagram to named fields and back.

Promise: ``decode`` returns fields only of a frame whose keyed hash is right, and checks that before it looks at anything else;
whatever arrives, the only exception is ``FrameError``. ``encode`` writes what Linux-HA 3.0.6 reads. Nothing here knows what the
fields mean (``wire`` does). Source: facts/linux-ha-heartbeat.md, "Wire protocol"; docs/protocols.md, "Frames".

    ###\\n  LEN:(TYPE)name=value,  …  LEN:(0)auth=KEY HEX,  %%%\\n  LEN:KEY HEX,

The last netstring is the HMAC over everything before it; the inner ``auth`` the one over the concatenated ``name=value\\n``, in
which a binary value is written ``(1)name=base64``. Linux-HA checks the outer one on netstring frames, and so do we
(it leaves the inner one out under ``msgfmt netstring``). In compatibility mode the classic form is read too, whose ``auth``
is that inner one:

    >>>\\n  name=value\\n  …  (1)name=BASE64\\n  …  auth=KEY HEX\\n  <<<\\n
"""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from runtime.errors import PeerError

#: Larger datagrams are refused unread; ours have less than 1 KiB, Linux-HA's too.
MAX_FRAME = 16384
HEAD = b"###\n"
TAIL = b"%%%\n"
CLASSIC_HEAD, CLASSIC_TAIL = b">>>\n", b"<<<\n"
#: how datagrams of ours, and Linux-HA's classic ones, begin
HEADS = (HEAD, CLASSIC_HEAD)
STRING, BINARY = 0, 1

Value = str | bytes


class FrameError(PeerError):
    """The datagram isn't a frame of this pair. ``authentic`` tells whether its sender knew the key."""

    def __init__(self, reason: str, authentic: bool = False) -> None:
        super().__init__(reason)
        self.authentic = authentic


class Method(StrEnum):
    SHA256 = "sha256"
    SHA1 = "sha1"
    MD5 = "md5"
    CRC = "crc"


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _crc(data: bytes) -> int:
    """CRC-32 as cksum(1) has it (high bit first, start 0) but without the length; found by trying, on recorded frames."""
    return int(f"{binascii.crc32(data.translate(_REVERSED), 0xFFFFFFFF):032b}"[::-1], 2)


@dataclass(frozen=True)
class Key:
    """One line of authkeys."""

    number: int
    method: Method
    secret: bytes = field(default=b"", repr=False)

    def digest(self, data: bytes) -> bytes:
        """The hash of ``data`` as the lower-case hex that stands in a frame."""
        if self.method is Method.CRC:
            return b"%x" % _crc(data)
        return hmac.digest(self.secret, data, self.method.value).hex().encode()


@dataclass(frozen=True)
class Keyring:
    """authkeys: every key is accepted, ``sending`` is used for what is sent.

    ``compatible`` additionally accepts what proves nothing: ``crc`` and frames without any hash (Linux-HA's own modes).
    """

    sending: Key
    keys: Mapping[int, Key]
    compatible: bool = False

    @classmethod
    def of(cls, sending: int, keys: Iterable[Key], compatible: bool = False) -> Keyring:
        table = {key.number: key for key in keys}
        return cls(table[sending], MappingProxyType(table), compatible)


def encode(fields: Mapping[str, Value], keyring: Keyring) -> bytes:
    """The datagram that carries ``fields`` in their order, under the sending key.

    Raises FrameError for a name or value that the format can't carry, so that nothing goes out that ``decode`` refuses.
    """
    key = keyring.sending
    lines, parts = [], [HEAD]
    for name, value in fields.items():
        line, netstring = _written(name, value)
        lines.append(line)
        parts.append(netstring)
    inner = b"".join(lines)
    parts.append(_netstring(b"(0)auth=%d %s" % (key.number, key.digest(inner))))
    parts.append(TAIL)
    body = b"".join(parts)
    frame = body + _netstring(b"%d %s" % (key.number, key.digest(body)))
    if len(frame) > MAX_FRAME:
        raise FrameError(f"frame of {len(frame)} bytes; at most {MAX_FRAME} fit into a datagram")
    return frame


def decode(datagram: bytes, keyring: Keyring) -> dict[str, Value]:
    """The fields of an authentic frame, without ``auth``. Raises FrameError, and nothing else."""
    return read(authentic(datagram, keyring))


def authentic(datagram: bytes, keyring: Keyring) -> bytes:
    """The part of a frame that its hash vouches for; ``read`` reads it. Raises FrameError, and nothing else."""
    if len(datagram) > MAX_FRAME:
        raise FrameError(f"{len(datagram)} bytes; a frame has at most {MAX_FRAME}")
    if keyring.compatible and datagram.startswith(CLASSIC_HEAD):
        return CLASSIC_HEAD + _authenticated_classic(datagram, keyring)
    if not datagram.startswith(HEAD):
        raise FrameError("doesn't begin like a frame")
    return _authenticated(datagram, keyring)


def read(body: bytes) -> dict[str, Value]:
    """The fields in what ``authentic`` returned, without ``auth``. Raises FrameError, and nothing else."""
    if body.startswith(CLASSIC_HEAD):
        return _classic_fields(body[len(CLASSIC_HEAD) :])
    fields = _fields(body)
    fields.pop("auth", None)
    return fields


# --- authentication -------------------------------------------------------------------------------------------------------

_TRAILER = re.compile(rb"([1-9][0-9]{0,2}):([1-9][0-9]{0,2}) ([0-9a-f]{1,128}),\Z")


def _authenticated(datagram: bytes, keyring: Keyring) -> bytes:
    """The part from ``###`` through ``%%%`` if its hash is right."""
    cut = datagram.rfind(TAIL)
    if cut < 0:
        raise FrameError("no end of frame")
    cut += len(TAIL)
    body, trailer = datagram[:cut], datagram[cut:]
    if not trailer:
        if keyring.compatible:
            return body
        raise FrameError("not authenticated")
    match = _TRAILER.match(trailer)
    if match is None or int(match[1]) != len(match[2]) + 1 + len(match[3]):
        raise FrameError("malformed authentication")
    _check_hash(body, int(match[2]), match[3], keyring)
    return body


_CLASSIC_AUTH = re.compile(rb"(.*\n)?auth=([1-9][0-9]{0,2}) ([0-9a-f]{1,128})\n\Z", re.DOTALL)


def _authenticated_classic(datagram: bytes, keyring: Keyring) -> bytes:
    """The lines between ``>>>`` and ``auth`` if their hash is right."""
    if not datagram.endswith(b"\n" + CLASSIC_TAIL):
        raise FrameError("no end of frame")
    lines = datagram[len(CLASSIC_HEAD) : -len(CLASSIC_TAIL)]
    match = _CLASSIC_AUTH.match(lines)
    if match is None:
        raise FrameError("not authenticated")
    body = match[1] or b""
    _check_hash(body, int(match[2]), match[3], keyring)
    return body


def _check_hash(body: bytes, number: int, digest: bytes, keyring: Keyring) -> None:
    key = keyring.keys.get(number)
    if key is None:
        raise FrameError(f"key {number} isn't in authkeys")
    if key.method is Method.CRC and not keyring.compatible:
        raise FrameError("crc proves nothing about the sender")
    if not hmac.compare_digest(key.digest(body), digest):
        raise FrameError("wrong authentication")


# --- fields ---------------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")
_FIELD = re.compile(rb"\(([0-9])\)([^=]*)=", re.DOTALL)


def _fields(body: bytes) -> dict[str, Value]:
    """The netstrings between head and tail."""
    at, end = len(HEAD), len(body) - len(TAIL)
    fields: dict[str, Value] = {}
    while at < end:
        colon = body.find(b":", at, at + 6)
        try:
            stop = colon + 2 + int(body[at:colon])
        except ValueError:
            stop = end
        name, value, length = _field(body[at : min(stop, end)])
        if name in fields:
            raise FrameError(f"field {name} twice", authentic=True)
        fields[name] = value
        at += length
    return fields


@lru_cache(maxsize=128)  # most fields say what they said last time
def _field(netstring: bytes) -> tuple[str, Value, int]:
    """Name, value and length of the field that this begins with. FrameError if it is none, or is cut off."""
    return _plain(netstring) or _any(netstring)


#: how nearly every field of ours begins; what doesn't is read step by step, and refused with the reason
_PLAIN = re.compile(rb"([1-9][0-9]{0,4}):\(0\)([A-Za-z_][A-Za-z0-9_.-]{0,63})=")


def _plain(netstring: bytes) -> tuple[str, str, int] | None:
    """As ``_field``, if it is a string of ASCII."""
    match = _PLAIN.match(netstring)
    if match is None:
        return None
    stop = match.end(1) + 1 + int(match[1])
    raw = netstring[match.end() : stop]
    if not match.end() <= stop < len(netstring) or netstring[stop] != _COMMA or not raw.isascii() or b"\0" in raw:
        return None
    return match[2].decode(), raw.decode(), stop + 1


def _any(netstring: bytes) -> tuple[str, Value, int]:
    content, length = _read_netstring(netstring)
    return *_split(content), length


_COMMA = ord(",")
_CLASSIC_KIND = re.compile(rb"\(([0-9])\)(.*)\Z", re.DOTALL)


def _classic_fields(body: bytes) -> dict[str, Value]:
    """The lines of the classic form; a binary value is in base64."""
    fields: dict[str, Value] = {}
    for line in body.split(b"\n")[:-1]:
        match = _CLASSIC_KIND.match(line)
        name, value = _split(b"(%s)%s" % (match.groups() if match else (b"0", line)))
        if name in fields:
            raise FrameError(f"field {name} twice", authentic=True)
        if isinstance(value, bytes):
            try:
                value = binascii.a2b_base64(value, strict_mode=True)
            except binascii.Error as error:
                raise FrameError(f"field {name} isn't base64", authentic=True) from error
        fields[name] = value
    return fields


def _read_netstring(body: bytes) -> tuple[bytes, int]:
    """Content of the netstring at the beginning, and its length."""
    colon = body.find(b":", 0, 6)
    digits = body[:colon] if colon > 0 else b""
    if not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
        raise FrameError("malformed length", authentic=True)
    start = colon + 1
    stop = start + int(digits)
    if stop >= len(body) or body[stop : stop + 1] != b",":
        raise FrameError("a field's length doesn't fit", authentic=True)
    return body[start:stop], stop + 1


def _split(content: bytes) -> tuple[str, Value]:
    match = _FIELD.match(content)
    if match is None:
        raise FrameError("malformed field", authentic=True)
    kind, raw = int(match[1]), content[match.end() :]
    try:
        name = match[2].decode("ascii")
        if not _NAME.match(name):
            raise FrameError("malformed field name", authentic=True)
        if kind == BINARY:
            return name, raw
        if kind != STRING:
            raise FrameError(f"field {name} is of type {kind}; nested and compressed fields aren't accepted", authentic=True)
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FrameError("a string isn't UTF-8", authentic=True) from error
    if "\0" in text:
        raise FrameError(f"field {name} holds a NUL", authentic=True)
    return name, text


@lru_cache(maxsize=128)  # most fields say what they said last time
def _written(name: str, value: Value) -> tuple[bytes, bytes]:
    """The field as Linux-HA's classic form has it, over which the inner hash is made, and as netstring."""
    raw_name = _checked(name)
    if isinstance(value, bytes):
        line = b"(1)%s=%s\n" % (raw_name, binascii.b2a_base64(value, newline=False))
        return line, _netstring(b"(1)%s=%s" % (raw_name, value))
    if "\0" in value or "\n" in value:
        raise FrameError(f"the value of {name} can't be sent as a string")
    content = b"%s=%s" % (raw_name, value.encode(errors="replace"))
    return content + b"\n", b"%d:(0)%s," % (len(content) + 3, content)


@lru_cache(maxsize=256)
def _checked(name: str) -> bytes:
    if not _NAME.match(name) or name == "auth":
        raise FrameError(f"{name!r} can't be the name of a field")
    return name.encode()


def _netstring(content: bytes) -> bytes:
    return b"%d:%s," % (len(content), content)
