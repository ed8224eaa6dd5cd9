"""A coverage-guided fuzzer over everything that reads bytes from the network, run by hand (it is no part of ./run-tests):

    python3 -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris
    mkdir -p /tmp/corpus && PYTHONPATH=. /tmp/fuzz/bin/python tests/fuzz/frames.py -max_total_time=600 -max_len=2048 /tmp/corpus

Promise that it tries: whatever arrives, the only exception is FrameError; what a frame says is taken only if it could be said
again in the same words; nobody without the key reaches the fields. Its first byte chooses how the input arrives: as it is,
sealed with a right key as fields or as the lines of a classic frame, or as an ICMP packet.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["heartbeat.frames", "heartbeat.wire", "heartbeat.ping"]):
    from heartbeat.frames import CLASSIC_HEAD, CLASSIC_TAIL, HEAD, TAIL, FrameError, Key, Keyring, Method, decode, encode
    from heartbeat.model import Boot, Message
    from heartbeat.ping import IPV4, IPV6, answered
    from heartbeat.wire import Header, fields, message

KEY = Key(1, Method.MD5, b"a secret")
STRICT = Keyring.of(1, [KEY])
COMPATIBLE = Keyring.of(1, [KEY, Key(2, Method.CRC)], compatible=True)


def sealed(content: bytes) -> bytes:
    body = HEAD + content + TAIL
    trailer = b"1 " + KEY.digest(body)
    return body + b"%d:%s," % (len(trailer), trailer)


def classic(lines: bytes) -> bytes:
    return CLASSIC_HEAD + lines + b"auth=1 " + KEY.digest(lines) + b"\n" + CLASSIC_TAIL


def taken(datagram: bytes, ring: Keyring) -> None:
    try:
        said = message(decode(datagram, ring))
    except FrameError:
        return
    if said is not None:
        again = encode(fields(said, Header(bytes(16))), STRICT)
        assert message(decode(again, STRICT)) == said, datagram


def as_it_is(data: bytes) -> None:
    try:
        decode(data, STRICT)
    except FrameError as error:
        assert not error.authentic, data
    else:
        raise AssertionError("a frame without the key")
    taken(data, COMPATIBLE)


def one(data: bytes) -> None:
    way, rest = data[:1], data[1:]
    if way < b"\x40":
        as_it_is(rest)
    elif way < b"\xa0":
        taken(sealed(rest), STRICT)
    elif way < b"\xe0":
        taken(classic(rest), COMPATIBLE)
    else:
        for kind in (IPV4, IPV6):
            assert answered(rest, 7, b"\0guessed", kind) is None


def seeds() -> list[bytes]:
    true = encode(fields(Message("vs-28", Boot(3, 4), 17), Header(bytes(16))), STRICT)
    content = true[len(HEAD) : true.rfind(TAIL)]
    return [b"\x50" + content, b"\xb0t=status\n(1)u=/w==\n", b"\xf0" + bytes(60)]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    for seed in seeds():
        one(seed)
    atheris.Fuzz()
