"""Linux-HA's netstring frames: what is written, what is accepted, what is refused and how."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from heartbeat.frames import HEAD, MAX_FRAME, TAIL, FrameError, Key, Keyring, Method, decode, encode

SHA256 = Key(1, Method.SHA256, b"a secret")
SHA1 = Key(2, Method.SHA1, b"another one")
MD5 = Key(3, Method.MD5, b"a third")
CRC = Key(4, Method.CRC)
RING = Keyring.of(1, [SHA256, SHA1, MD5])
FIELDS = {"t": "status", "st": "active", "srcuuid": bytes(range(16)), "seq": "1f"}


def sealed(content: bytes, key: Key = SHA1) -> bytes:
    """``content`` as the fields of an otherwise perfect frame."""
    body = HEAD + content + TAIL
    trailer = b"%d %s" % (key.number, key.digest(body))
    return body + b"%d:%s," % (len(trailer), trailer)


#: recorded from heartbeat 3.0.6 (Debian 12), key `1 sha1 HI!`
RECORDED = (
    b"###\n11:(0)t=status,10:(0)st=init,10:(0)dt=1b58,13:(0)protocol=1,11:(0)src=hbxa,"
    b"27:(1)srcuuid=\x94\x10\x15\x8e\xab\x8bJ2\x83\x8b~\x85<\xc7I\x8f,8:(0)seq=1,14:(0)hg=6b00c95e,"
    b"14:(0)ts=6b00c95d,30:(0)ld=7.20 8.16 5.52 5/220 111,8:(0)ttl=3,"
    b"50:(0)auth=1 60bf2a4b4c13fb759d1e5d7bcfb10c060b10469d,%%%\n42:1 2663ad26320f5a03c512a54ec28a911112ff5668,"
)
#: the same with `1 crc` and `msgfmt netstring`
RECORDED_CRC = (
    b"###\n11:(0)t=status,8:(0)st=up,10:(0)dt=1b58,13:(0)protocol=1,11:(0)src=hbxa,"
    b"27:(1)srcuuid=D\xb8&HI\xf3N\xe0\x8f\xd2\x97y\xe3\xc2\xc0&,8:(0)seq=4,14:(0)hg=6b00c939,14:(0)ts=6b00c939,"
    b"30:(0)ld=8.98 8.57 5.54 9/242 142,8:(0)ttl=3,%%%\n10:1 278d5300,"
)


def test_a_recorded_frame_of_linux_ha_reads_and_is_written_the_same() -> None:
    ring = Keyring.of(1, [Key(1, Method.SHA1, b"HI!")])
    fields = decode(RECORDED, ring)
    assert (fields["t"], fields["src"], fields["dt"]) == ("status", "hbxa", "1b58")
    assert encode(fields, ring) == RECORDED


def test_a_recorded_frame_with_crc() -> None:
    assert decode(RECORDED_CRC, Keyring.of(1, [Key(1, Method.CRC)], compatible=True))["src"] == "hbxa"
    with pytest.raises(FrameError, match="crc proves nothing"):
        decode(RECORDED_CRC, Keyring.of(1, [Key(1, Method.CRC)]))


def test_a_frame_as_linux_ha_writes_it() -> None:
    ring = Keyring.of(1, [Key(1, Method.SHA1, b"HI!")])
    body = b"###\n11:(0)t=status,10:(0)st=init,6:(1)u=\xff,"
    inner = hmac.new(b"HI!", b"t=status\nst=init\n(1)u=/w==\n", hashlib.sha1).hexdigest().encode()
    body += b"50:(0)auth=1 " + inner + b",%%%\n"
    outer = hmac.new(b"HI!", body, hashlib.sha1).hexdigest().encode()
    frame = body + b"42:1 " + outer + b","
    assert encode({"t": "status", "st": "init", "u": b"\xff"}, ring) == frame
    assert decode(frame, ring) == {"t": "status", "st": "init", "u": b"\xff"}


@pytest.mark.parametrize("sending", [1, 2, 3])
def test_every_key_of_the_ring_is_accepted(sending: int) -> None:
    assert decode(encode(FIELDS, Keyring.of(sending, [SHA256, SHA1, MD5])), RING) == FIELDS


def test_binary_values_may_hold_what_ends_a_frame() -> None:
    fields = {"a": b"%%%\n42:1 abc,", "b": b"\0,:"}
    assert decode(encode(fields, RING), RING) == fields


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (encode(FIELDS, Keyring.of(2, [Key(2, Method.SHA1, b"guessed")])), "wrong authentication"),
        (encode(FIELDS, Keyring.of(7, [Key(7, Method.SHA1, b"another one")])), "key 7"),
        (encode(FIELDS, Keyring.of(4, [CRC])), "key 4"),
        (HEAD + b"11:(0)t=status," + TAIL, "not authenticated"),
        (b"", "begin"),
        (b"###", "begin"),
        (HEAD, "end of frame"),
        (HEAD + TAIL + b"4:1 a\n,", "malformed authentication"),
        (HEAD + TAIL + b"5:1 ab,", "malformed authentication"),
        (HEAD + b"x" * MAX_FRAME, "at most"),
        (b">>>\nt=status\n<<<\n", "begin"),
    ],
)
def test_strangers_are_refused_unread(frame: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as refused:
        decode(frame, RING)
    assert not refused.value.authentic


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"8:(0)a=1,", "length doesn't fit"),
        (b"99999:(0)a=1,", "length doesn't fit"),
        (b"999999:(0)a=1,", "malformed length"),
        (b"-6:(0)a=1,", "malformed length"),
        (b"06:(0)a=1,", "malformed length"),
        (b":(0)a=1,", "malformed length"),
        (b"(0)a=1", "malformed length"),
        (b"6:(0)a=1;", "length doesn't fit"),
        (b"6:(0)a=1", "length doesn't fit"),
        (b"0:,", "malformed field"),
        (b"5:(0)ab,", "malformed field"),
        (b"5:(0)=1,", "field name"),
        (b"7:(0)\xc3\xa4=1,", "isn't UTF-8"),
        (b"6:(0)a=\xff,", "isn't UTF-8"),
        (b"6:(0)a=\0,", "NUL"),
        (b"6:(2)a=1,", "nested"),
        (b"6:(3)a=1,", "nested"),
        (b"6:(5)a=1,", "compressed"),
        (b"6:(0)a=1,6:(0)a=1,", "twice"),
    ],
)
def test_what_a_key_holder_may_not_say(content: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as refused:
        decode(sealed(content), RING)
    assert refused.value.authentic


def test_any_changed_byte_is_noticed() -> None:
    frame = encode(FIELDS, RING)
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 0x01
        with pytest.raises(FrameError):
            decode(bytes(changed), RING)


@pytest.mark.parametrize("compatible", [False, True])
def test_crc_and_bare_frames_only_in_compatibility(compatible: bool) -> None:
    ring = Keyring.of(1, [SHA1, SHA256, CRC], compatible)
    for frame in (encode(FIELDS, Keyring.of(4, [CRC])), HEAD + b"11:(0)t=status," + TAIL):
        if compatible:
            assert decode(frame, ring)["t"] == "status"
        else:
            with pytest.raises(FrameError):
                decode(frame, ring)


@pytest.mark.parametrize(
    "fields", [{"a b": "1"}, {"": "1"}, {"auth": "1 abc"}, {"a": "1\n2"}, {"a": "\0"}, {"a": b"x" * MAX_FRAME}]
)
def test_what_can_not_be_sent(fields: dict[str, str | bytes]) -> None:
    with pytest.raises(FrameError):
        encode(fields, RING)


def test_no_secret_in_a_repr() -> None:
    assert "secret" not in repr(RING)


# --- the classic form -----------------------------------------------------------------------------------------------------


#: the same frame as RECORDED, whose inner hash is the one of this form
CLASSIC = (
    b">>>\nt=status\nst=init\ndt=1b58\nprotocol=1\nsrc=hbxa\n(1)srcuuid=lBAVjquLSjKDi36FPMdJjw==\nseq=1\nhg=6b00c95e\n"
    b"ts=6b00c95d\nld=7.20 8.16 5.52 5/220 111\nttl=3\nauth=1 60bf2a4b4c13fb759d1e5d7bcfb10c060b10469d\n<<<\n"
)
LINUX_HA = Keyring.of(1, [Key(1, Method.SHA1, b"HI!")], compatible=True)


def classic(lines: bytes, key: Key = SHA1) -> bytes:
    return b">>>\n" + lines + b"auth=%d %s\n<<<\n" % (key.number, key.digest(lines))


def test_the_classic_form_carries_what_the_other_one_does() -> None:
    assert decode(CLASSIC, LINUX_HA) == decode(RECORDED, LINUX_HA)


@pytest.mark.parametrize("key", [SHA256, SHA1, MD5, CRC])
def test_the_classic_form_under_every_method(key: Key) -> None:
    ring = Keyring.of(1, [SHA256, SHA1, MD5, CRC], compatible=True)
    assert decode(classic(b"t=status\n(1)u=/w==\nempty=\nsum=1=2\n", key), ring) == {
        "t": "status", "u": b"\xff", "empty": "", "sum": "1=2",
    }  # fmt: skip


def test_the_classic_form_only_in_compatibility() -> None:
    with pytest.raises(FrameError, match="begin"):
        decode(CLASSIC, Keyring.of(1, [Key(1, Method.SHA1, b"HI!")]))


def test_any_changed_byte_of_the_classic_form_is_noticed() -> None:
    for at in range(len(CLASSIC)):
        changed = bytearray(CLASSIC)
        changed[at] ^= 0x01
        with pytest.raises(FrameError):
            decode(bytes(changed), LINUX_HA)


@pytest.mark.parametrize(
    ("frame", "reason", "authentic"),
    [
        (b">>>\n<<<\n", "not authenticated", False),
        (b">>>\nt=status\n<<<\n", "not authenticated", False),
        (b">>>\nt=status\n", "no end", False),
        (CLASSIC[:-1], "no end", False),
        (CLASSIC.replace(b"<<<\n", b"st=dead\n<<<\n"), "not authenticated", False),
        (classic(b"t=status\n", Key(7, Method.SHA1, b"x")), "key 7", False),
        (classic(b"t=status\n", Key(2, Method.SHA1, b"guessed")), "wrong authentication", False),
        (classic(b"t=a\nt=b\n"), "twice", True),
        (classic(b"(1)u=!!\n"), "base64", True),
        (classic(b"(2)u=x\n"), "nested", True),
        (classic(b"t\n"), "malformed field", True),
        (classic(b"t=\xff\n"), "UTF-8", True),
        (classic(b"t=\0\n"), "NUL", True),
    ],
)
def test_a_classic_frame_that_is_none(frame: bytes, reason: str, authentic: bool) -> None:
    with pytest.raises(FrameError, match=reason) as refused:
        decode(frame, Keyring.of(1, [Key(1, Method.SHA1, b"HI!"), SHA1], compatible=True))
    assert refused.value.authentic is authentic
