"""``model.Message`` as fields of a Linux-HA frame, and back.

Promise: ``message`` accepts only what ``fields`` could have written, field by field; fields that it doesn't know are ignored,
and a frame without any of ours (a Linux-HA peer) is None. The fields that Linux-HA reads (t, st, dt, src, seq, hg, …) are
written so that a 3.0.6 node takes them; ours begin with ``x_``. Source: facts/linux-ha-heartbeat.md; docs/protocols.md,
"Frames".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from heartbeat.frames import FrameError, Value
from heartbeat.model import Boot, Epoch, Message, Mode, Phase, Times

#: Number of this set of fields. A peer with another one is refused in words rather than misunderstood.
VERSION = "2"

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DECIMAL = re.compile(r"(?:0|-1|[1-9][0-9]{0,18})\Z")
_HEX = re.compile(r"[0-9a-f]{1,16}\Z")
_DATA = ("ready", "starting", "copying", "none", "failed", "unknown")
_LEAVING = ("", "restart", "handover", "off")
MAX_POSITION = 2**63 - 1
_MAC, _MOST_MACS = re.compile(r"[0-9a-f]{12}\Z"), 16


@dataclass(frozen=True)
class Header:
    """What a Linux-HA node wants to know besides: of this host, not of the pair's state."""

    uuid: bytes
    #: milliseconds after which the receiver is to call this node dead
    deadtime_ms: int = 1000
    #: hop limit: Linux-HA's hopfudge + number of nodes, ping nodes included
    ttl: int = 4
    #: seconds since 1970, and the load average as /proc/loadavg says it
    time: int = 0
    load: str = "0.00 0.00 0.00 1/1 1"
    #: the MACs with which this host may answer for a virtual address (six bytes each)
    macs: tuple[bytes, ...] = ()


def fields(message: Message, header: Header) -> dict[str, Value]:
    """All fields of ``message``, in the order in which they are sent."""
    out: dict[str, Value] = {
        "t": "status", "st": "active", "dt": f"{header.deadtime_ms:x}", "protocol": "1", "src": message.node,
        "srcuuid": header.uuid, "seq": f"{message.seq:x}", "hg": f"{message.boot.generation:x}", "ts": f"{header.time:x}",
        "ld": header.load, "ttl": str(header.ttl), "x_v": VERSION,
    }  # fmt: skip
    for name, (attribute, form) in _OURS.items():
        out[name] = form.write(getattr(message, attribute))
    if header.macs:
        out["x_macs"] = " ".join(mac.hex() for mac in header.macs[:_MOST_MACS])
    return out


def macs(frame: Mapping[str, Value]) -> frozenset[bytes]:
    """The MACs with which the sender may answer for a virtual address; none if it doesn't say, or not in this form."""
    said = frame.get("x_macs")
    words = said.split(" ") if isinstance(said, str) else []
    if len(words) > _MOST_MACS or not all(map(_MAC.match, words)):
        return frozenset()
    return frozenset(map(bytes.fromhex, words))


def message(frame: Mapping[str, Value]) -> Message | None:
    """The message in a decoded frame; None if it is a Linux-HA node's. Raises FrameError naming the field."""
    version = frame.get("x_v")
    if version is None:
        return None
    if version != VERSION:
        raise FrameError(f"the peer speaks version {version!r} of our fields, this node {VERSION}", authentic=True)
    known = {name: form for name, form in _OURS.items() if name in frame or name not in _LATER}
    values = {attribute: _read(frame, name, form) for name, (attribute, form) in known.items()}
    return Message(
        node=_read(frame, "src", _NODE_NAME),
        boot=Boot(_read(frame, "hg", _HEXADECIMAL), values.pop("boot")),
        seq=_read(frame, "seq", _HEXADECIMAL),
        **values,
    )


class Stamp(NamedTuple):
    """Who said it, in which run, as which message of that run."""

    node: str
    boot: Boot
    seq: int


_STAMP = re.compile(
    rb":\(0\)src=([^,]{1,64}),.*?,[0-9]+:\(0\)seq=([0-9a-f]{1,16}),[0-9]+:\(0\)hg=([0-9a-f]{1,16}),"
    rb".*?:\(0\)x_nonce=([0-9a-f]{1,16}),",
    re.DOTALL,
)


def stamp(body: bytes) -> Stamp | None:
    """The stamp of an authentic frame of ours, in a tenth of the time that reading all of it takes. None: read it."""
    match = _STAMP.search(body)
    if match is None:
        return None
    seq, generation, nonce = (int(each, 16) for each in match.groups()[1:])
    return Stamp(match[1].decode(errors="replace"), Boot(generation, nonce), seq)


# --- forms of values ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Form:
    """How one kind of value is written, and how it is read strictly (ValueError otherwise)."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]


def _read(frame: Mapping[str, Value], name: str, form: _Form) -> Any:
    value = frame.get(name)
    if not isinstance(value, str):
        raise FrameError(f"field {name} is missing" if value is None else f"field {name} isn't a string", authentic=True)
    try:
        return _value(form, value)
    except ValueError as error:
        raise FrameError(f"field {name} can't be {value[:40]!r}", authentic=True) from error


@lru_cache(maxsize=128)
def _value(form: _Form, text: str) -> Any:
    """Most fields say what they said last time. What isn't valid raises, and is remembered by nobody."""
    return form.read(text)


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.match(text):
            raise ValueError(text)
        return text

    return read


def _position(text: str) -> int:
    value = int(_matching(_DECIMAL)(text))
    if value > MAX_POSITION:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = _position(text)
    if value < 0:
        raise ValueError(text)
    return value


def _hexadecimal(text: str) -> int:
    return int(_matching(_HEX)(text), 16)


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text] if text in ("0", "1") else _refuse(text)


def _refuse(text: str) -> bool:
    raise ValueError(text)


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


def _write_epoch(epoch: Epoch) -> str:
    return f"{epoch.number}/{epoch.node}"


def _read_epoch(text: str) -> Epoch:
    number, slash, node = text.partition("/")
    if not slash or (node and not _NODE.match(node)):
        raise ValueError(text)
    return Epoch(_count(number), node)


def _write_boot(boot: Boot) -> str:
    return f"{boot.generation:x}/{boot.nonce:x}"


def _read_boot(text: str) -> Boot:
    generation, slash, nonce = text.partition("/")
    if not slash:
        raise ValueError(text)
    return Boot(_hexadecimal(generation), _hexadecimal(nonce))


def _write_mode(mode: Mode) -> str:
    return "".join(letter for letter, holds in zip(_LETTERS, mode, strict=True) if holds) or "-"


def _read_mode(text: str) -> Mode:
    mode = Mode(*(letter in text for letter in _LETTERS))
    if text != _write_mode(mode):
        raise ValueError(text)
    return mode


#: the longest that any of ``Times`` may be (ms): an hour
_LONGEST = 3_600_000


def _write_times(times: Times) -> str:
    return "/".join(str(round(each * 1000)) for each in times)


def _read_times(text: str) -> Times:
    deadtime, stale, solo = (_count(each) for each in text.split("/"))
    if max(deadtime, stale, solo) > _LONGEST:
        raise ValueError(text)
    return Times(deadtime / 1000, stale / 1000, solo / 1000)


#: of ``Mode``'s fields, in their order
_LETTERS = "orl"
_NODE_NAME = _Form(str, _matching(_NODE))
_HEXADECIMAL = _Form(lambda value: f"{value:x}", _hexadecimal)
_COUNT = _Form(str, _count)
_POSITION = _Form(str, _position)
_FLAG = _Form(lambda value: "1" if value else "0", _flag)
_EPOCH = _Form(_write_epoch, _read_epoch)
_BOOT = _Form(_write_boot, _read_boot)
_PHASE = _Form(lambda phase: phase.value, Phase)


def _write_nonce(boot: Boot) -> str:
    return f"{boot.nonce:x}"


#: field on the wire → attribute of Message, form of its value. The nonce completes ``boot``, whose generation is ``hg``.
_OURS: dict[str, tuple[str, _Form]] = {
    "x_nonce": ("boot", _Form(_write_nonce, _hexadecimal)),
    "x_eboot": ("echo_boot", _BOOT),
    "x_eseq": ("echo_seq", _COUNT),
    "x_phase": ("phase", _PHASE),
    "x_epoch": ("epoch", _EPOCH),
    "x_high": ("highest", _COUNT),
    "x_solo": ("solo", _FLAG),
    "x_sync": ("in_sync", _FLAG),
    "x_down": ("stood_down", _FLAG),
    "x_returns": ("returns", _FLAG),
    "x_fit": ("fit", _FLAG),
    "x_calls": ("calls_in_sync", _POSITION),
    "x_release": ("asks_release", _FLAG),
    "x_askping": ("asks_ping", _FLAG),
    "x_ping": ("ping_after", _COUNT),
    "x_conn": ("connected", _FLAG),
    "x_pledge": ("pledged_to", _BOOT),
    "x_data": ("data", _Form(str, _one_of(_DATA))),
    "x_lsn": ("lsn", _POSITION),
    "x_beyond": ("beyond", _COUNT),
    "x_vip": ("vip", _FLAG),
    "x_susp": ("suspended", _FLAG),
    "x_suspv": ("suspend_version", _COUNT),
    "x_leave": ("leaving", _Form(str, _one_of(_LEAVING))),
    "x_arp": ("arp", _FLAG),
    "x_fence": ("fences", _FLAG),
    "x_changes": ("changes", _COUNT),
    "x_mode": ("mode", _Form(_write_mode, _read_mode)),
    "x_times": ("times", _Form(_write_times, _read_times)),
}
#: came later than version 2: missing in what an older server sends, which is then as strict as any
_LATER = frozenset({"x_mode", "x_times"})
