"""What ha.cf may say next to Linux-HA, and the times that follow from it.

Promise: a directive of ours that promises what can't be kept there is refused with its line; so is what Linux-HA refuses, and
a setting on which both nodes must agree but which isn't kept here. Source: facts/linux-ha-heartbeat.md ("Validation at start,
each fatal", defaults); design §4.
"""

from __future__ import annotations

from dataclasses import replace

from heartbeat.frames import Keyring, Method
from heartbeat.hacf import HaCf
from runtime.errors import ConfigError
from runtime.timing import Timing, scaled

#: ours, each of them part of rules that need a peer that keeps them too
_SAFE_ONLY = (
    "profile", "solo", "boot_alone", "synchronous", "maximum_lag", "isolation", "stale", "solo_time", "stall",
    "arp_check", "fence", "witnesses", "clock_drift", "delivery",
)  # fmt: skip
_REMEDY = "remove the line as long as `compatibility linux-ha` is there"
#: without `deadtime`: Linux-HA's own defaults (seconds)
_KEEPALIVE, _DEADTIME = 1.0, 30.0


def check(cf: HaCf) -> None:
    """Raises ConfigError for what doesn't go together with ``compatibility linux-ha``."""
    for name in _SAFE_ONLY:
        if name in cf.lines:
            raise cf.error(f"{name} promises what can't be kept next to Linux-HA", cf.lines[name], _REMEDY)
    failback = cf.parameters.get("auto_failback", "off").lower()
    if failback not in ("off", "false", "no", "n", "0"):
        raise cf.error(
            f"auto_failback {failback}: next to Linux-HA both nodes must agree, and this heartbeat knows only off",
            cf.lines["auto_failback"], "write auto_failback off on both servers, the Linux-HA one first",
        )  # fmt: skip


def check_keys(keyring: Keyring, file: str) -> None:
    """Raises ConfigError when the peer could not read what this node sends."""
    key = keyring.sending
    if key.method is Method.SHA256:
        raise ConfigError(
            f"key {key.number} is of a method that Linux-HA doesn't know: sha256", file=file,
            remedy="send with the sha1 key that the other node has, as long as it runs Linux-HA",
        )  # fmt: skip


def timing(cf: HaCf) -> Timing:
    """The times as Linux-HA takes them, and the few of ours that they leave open."""
    said = cf.times
    deadtime = said.get("deadtime", _DEADTIME)
    keepalive = said.get("keepalive", min(_KEEPALIVE, deadtime / 4))
    base = scaled(deadtime)
    found = replace(
        base,
        keepalive=keepalive,
        warntime=said.get("warntime", deadtime / 2),
        deadtime=deadtime,
        initdead=said.get("initdead", _initdead(deadtime)),
        ping_dead=said.get("deadping", deadtime),
        ping_period=said.get("ping_period", min(1.0, keepalive)),
        lease=said.get("lease", deadtime * 0.7),
        role_expiry=said.get("role_expiry", 3 * keepalive),
        allowance=said.get("allowance", deadtime),
    )
    for holds, what, directive in (
        (found.deadtime > 2 * found.keepalive, "deadtime > 2 × keepalive", "deadtime"),
        (found.ping_dead > 2 * found.keepalive, "deadping > 2 × keepalive", "deadping"),
        (found.initdead >= found.deadtime, "initdead ≥ deadtime", "initdead"),
        (found.lease < found.deadtime, "lease < deadtime", "lease"),
    ):
        if not holds:
            raise _broken(cf, what, directive)
    return found


def _initdead(deadtime: float) -> float:
    if deadtime < 6:
        return 12.0
    return 2 * deadtime if deadtime <= 10 else deadtime


def _broken(cf: HaCf, what: str, directive: str) -> ConfigError:
    line = cf.lines.get(directive) or max(
        (cf.lines[name] for name in ("keepalive", "deadtime") if name in cf.lines), default=None
    )
    return cf.error(f"the times don't fit together: {what} does not hold", line, f"correct {directive}, on both servers alike")
