"""What a Linux-HA node holds, in its own words.

Promise: pure arithmetic of ``rsc_hold``. ``local`` and ``foreign`` are relative to whoever says them: local are the resources
that haresources gives to the speaker, foreign those of the other node. Source: facts/linux-ha-heartbeat.md; recorded with
tests/lab/overhear.py.
"""

from __future__ import annotations

from enum import Flag


class Hold(Flag):
    NONE = 0
    LOCAL = 1
    FOREIGN = 2
    ALL = 3


_WORDS = {"none": Hold.NONE, "local": Hold.LOCAL, "foreign": Hold.FOREIGN, "all": Hold.ALL}
_NAMES = {hold: word for word, hold in _WORDS.items()}


def word(hold: Hold) -> str:
    return _NAMES[hold]


def read(text: object) -> Hold | None:
    """None if it is none of Linux-HA's words."""
    return _WORDS.get(text) if isinstance(text, str) else None


def mirrored(hold: Hold) -> Hold:
    """The same resources, in the words of the other node."""
    swapped = {Hold.LOCAL: Hold.FOREIGN, Hold.FOREIGN: Hold.LOCAL}
    return swapped.get(hold, hold)


def given(which: str) -> Hold | None:
    """What hb_standby's argument gives away, in the giver's words."""
    return Hold.FOREIGN if which == "failback" else read(which) if which != "none" else None


def asked(which: object) -> Hold:
    """What a peer's hb_takeover wants of this node, in this node's words; ``failback`` moves everything, as observed."""
    hold = read(which)
    return Hold.ALL if hold is None or hold is Hold.NONE else mirrored(hold)
