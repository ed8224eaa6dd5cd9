"""Heartbeat's three files, written from the topology of the pair.

Promise: what is written here, heartbeat reads (a test holds both against each other); authkeys is never readable for anybody
but root, not even for a moment; a file that somebody else wrote is kept beside the new one, once. Files that would not change
are left alone. Source: docs/protocols.md, "Files"; facts/linux-ha-heartbeat.md; reference §2.2.1 (``[default active device
name] [virtual ip]``).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from .durable import write_durably
from .errors import ConfigError
from .sizes import MAXIMUM_LAG
from .timing import PROFILES, Timing

FOLDER = "/etc/heartbeat"

#: directive of ha.cf → field of ``Timing``; Linux-HA's own first
TIMES = {
    "keepalive": "keepalive", "warntime": "warntime", "deadtime": "deadtime", "initdead": "initdead", "deadping": "ping_dead",
    "ping_period": "ping_period", "isolation": "isolation", "lease": "lease", "stale": "stale", "solo_time": "solo",
    "role_expiry": "role_expiry", "allowance": "allowance", "stall": "stall", "clock_drift": "clock_drift",
    "delivery": "delivery",
}  # fmt: skip

_MARK = "# Written by `ha start` from module.xml; changes made here are lost.\n"
_WORD = re.compile(r"\S+\Z")


@dataclass(frozen=True)
class HaFiles:
    """What heartbeat has to know of the pair, as this server sees it."""

    #: as `uname -n` prints them, the one that has the service by default first
    nodes: tuple[str, str]
    #: (interface here, the other server's address on it)
    links: Sequence[tuple[str, str]]
    key: str = field(repr=False)
    #: "" for a pair without one
    virtual_ip: str = ""
    #: further words of haresources, in their order
    resources: Sequence[str] = ()
    ping_nodes: Sequence[str] = ()
    profile: str = "recommended"
    timing: Timing = PROFILES["recommended"]
    synchronous: bool = True
    solo: str = "silence"
    maximum_lag: int = MAXIMUM_LAG
    boot_alone: str = "wait"
    vip_port: int = 5432
    udp_port: int = 694
    ping_quorum: int = 1
    #: (the server that runs the agent, or "*"; the agent and its options)
    fences: Sequence[tuple[str, str]] = ()
    arp_check: bool = False
    watchdog: str = ""


def ha_cf(pair: HaFiles) -> str:
    lines = ["logfacility daemon", f"udpport {pair.udp_port}"]
    lines += [f"ucast{'6' if ':' in address else ''} {interface} {address}" for interface, address in pair.links]
    lines += [f"ping {address}" for address in pair.ping_nodes]
    lines += [f"ping_quorum {pair.ping_quorum}"] if pair.ping_quorum > 1 else []
    lines += [f"node {node}" for node in pair.nodes]
    lines += ["auto_failback off", f"profile {pair.profile}", *_times(pair)]
    lines += [*_fence(pair.synchronous, pair.solo, pair.maximum_lag), f"boot_alone {pair.boot_alone}"]
    lines += [f"vip_port {pair.vip_port}"]
    lines += [f"stonith_host {node} {words}" for node, words in pair.fences]
    lines += ["arp_check on"] if pair.arp_check else []
    lines += [f"watchdog {pair.watchdog}"] if pair.watchdog else []
    return _MARK + "\n".join(lines) + "\n"


def _fence(synchronous: bool, solo: str, maximum_lag: int) -> list[str]:
    """What heartbeat takes up without a restart (design §4 rule 6)."""
    return [f"synchronous {'on' if synchronous else 'off'}", f"solo {solo}", f"maximum_lag {maximum_lag}"]


def _without_fence(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.split(" ")[0] not in ("synchronous", "solo", "maximum_lag")]


def differ(pair: HaFiles, folder: str | os.PathLike[str] = FOLDER) -> bool:
    """ha.cf or haresources were written here, and say something else than ``pair``, beside what ``set_fence`` brings there.
    Raises OSError."""
    if not is_ours(folder):
        return False
    wanted = ((ha_cf(pair), "ha.cf"), (haresources(pair), "haresources"))
    return any(_without_fence(text) != _without_fence((Path(folder) / name).read_text()) for text, name in wanted)


def is_ours(folder: str | os.PathLike[str] = FOLDER) -> bool:
    """ha.cf was written here. Raises OSError."""
    return (Path(folder) / "ha.cf").read_bytes().startswith(_MARK.encode())


def set_fence(folder: str | os.PathLike[str], synchronous: bool, solo: str, maximum_lag: int) -> bool:
    """Change these three in ha.cf and nothing else; True if they were others. Raises OSError, ConfigError for somebody else's
    file."""
    file = Path(folder) / "ha.cf"
    if not is_ours(folder):
        raise ConfigError("was not written by `ha start`", file=file, remedy="`ha start` keeps it beside the one it writes")
    before = file.read_text()
    wanted = _fence(synchronous, solo, maximum_lag)
    rest = _without_fence(before)
    at = next((number for number, line in enumerate(rest) if line.startswith("boot_alone ")), len(rest))
    text = "\n".join([*rest[:at], *wanted, *rest[at:]]) + "\n"
    if text != before:
        write_durably(file, text, mode=0o644, owner=(os.geteuid(), os.getegid()))
    return text != before


def _times(pair: HaFiles) -> list[str]:
    """Only what differs from the profile, so that the file says what somebody decided."""
    base = PROFILES[pair.profile]
    directives = {name: directive for directive, name in TIMES.items()}
    different = [each.name for each in fields(Timing) if getattr(pair.timing, each.name) != getattr(base, each.name)]
    return [f"{directives[name]} {_milliseconds(getattr(pair.timing, name))}" for name in different]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def haresources(pair: HaFiles) -> str:
    words = [pair.nodes[0], *([pair.virtual_ip] if pair.virtual_ip else []), *pair.resources]
    return _MARK + " ".join(words) + "\n"


def authkeys(pair: HaFiles) -> str:
    if not _WORD.match(pair.key):
        raise ConfigError("the key of the heartbeats is empty or holds a blank", remedy="`ha keys` makes one")
    return _MARK + f"auth 1\n1 sha256 {pair.key}\n"


def write(pair: HaFiles, folder: str | os.PathLike[str] = FOLDER) -> list[Path]:
    """Write the three files; returns those that changed. Raises OSError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text, mode in (
        ("ha.cf", ha_cf(pair), 0o644),
        ("haresources", haresources(pair), 0o644),
        ("authkeys", authkeys(pair), 0o600),
    ):
        file = folder / name
        if _is(file, text, mode):
            continue
        _keep(file)
        write_durably(file, text, mode=mode, owner=(os.geteuid(), os.getegid()))
        changed.append(file)
    return changed


def _is(file: Path, text: str, mode: int) -> bool:
    try:
        status = file.lstat()
        return file.read_text() == text and status.st_mode & 0o7777 == mode and status.st_uid == os.geteuid()
    except (OSError, UnicodeDecodeError):
        return False


def _keep(file: Path) -> None:
    """Another author's file is moved aside; nothing that was kept before is overwritten."""
    original = file.with_name(f"{file.name}.orig")
    with contextlib.suppress(OSError):
        if not file.read_bytes().startswith(_MARK.encode()) and not original.exists():
            os.link(file, original)
