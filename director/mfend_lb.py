"""``mfend-lb -s``: the group as the reference's command prints it, field by field.

Promise: on the director, it and all members; on any other member, the director and this node, as the reference says. A node
that is a director, or could be one, has two entries: that role, and its scanning. Exit status as ``director``'s. Source:
mwg-7-proxy-ha-overview-ja, "HAステータス確認コマンド①"; Skyhigh, "Troubleshooting".

``protocols`` has a bit for each family of virtual IPs, 1 for IPv4, 2 for IPv6. ``state``: NETWORK (the active director),
REDUNDANT (a director that waits), OK, and FAILED, DRAINING, NOPORTS where the reference has no word. ``stats``: connections,
connections per mille of all, processor per mille, buckets of the first redirect, buckets of all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from director.cli import CONTROL, FAILED, NOT_RUNNING
from runtime.control import Client
from runtime.errors import HaError, NotRunning

_STATES = {
    "ok": "OK",
    "some ports": "OK",
    "failed": "FAILED",
    "no rules": "FAILED",
    "stopped": "FAILED",
    "draining": "DRAINING",
    "no ports": "NOPORTS",
}
_DIRECTS = {"director": ("NETWORK", "director"), "redundant": ("REDUNDANT", "redundant")}


def lines(status: Mapping[str, Any], now: float) -> list[str]:
    """What is printed, from the answer of the control socket."""
    cluster = status["cluster"]
    members: Sequence[Mapping[str, Any]] = cluster.get("members", [])
    if not cluster.get("is_director"):
        members = [each for each in members if each["self"] or each["role"] == "director"]
    families = {router["family"] for router in status["routers"]}
    protocols = sum({4: 1, 6: 2}[family] for family in families)
    whole = sum(each["connections"] for each in members)
    out: list[str] = []
    for member in members:
        if (as_director := _DIRECTS.get(member["role"])) is not None:
            state = "FAILED" if member["state"] in ("failed", "stopped") else as_director[0]
            out += _entry(member, member["name"], state, as_director[1], protocols, whole, now)
        device = "__SELF__" if member["self"] else member["name"]
        out += _entry(member, device, _STATES[member["state"]], "scanning", protocols, whole, now)
    return out


def _entry(member: Mapping[str, Any], device: str, state: str, kind: str, protocols: int, whole: int, now: float) -> list[str]:
    myself = device == "__SELF__"
    since = "" if member["self"] else _clock(now - member["since"])
    buckets = list(member["buckets"].values())
    of_all = 1000 * member["connections"] // whole if whole else 0
    stats = [member["connections"], of_all, int(member["cpu"] * 1000), buckets[0] if buckets else 0, sum(buckets)]
    return [
        f"device: {device}",
        f"statechange: {since}".rstrip(),
        f"  ip: {'0.0.0.0' if myself else member['ip']}",
        f"  ip6: {'::' if myself else member['ip6']}",
        f"protocols: {protocols:08d}",
        f"  mac: {member['mac'].replace(':', '')}",
        f"  state: {state}",
        f"  stats: {' '.join(map(str, stats))}",
        f"statusvalid: {int(member['state'] not in ('failed', 'stopped'))}",
        f"  type: {kind}",
    ]


def _clock(at: float) -> str:
    when = datetime.fromtimestamp(at)
    return f"{int(at)} ({when.strftime('%a %b')} {when.day} {when.strftime('%H:%M:%S %Y')})"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mfend-lb", description="The proxy group as the director sees it.")
    parser.add_argument("-s", action="store_true", required=True, help="show the status of all nodes (on the director)")
    parser.parse_args(argv)
    try:
        with Client(CONTROL, 5.0, name="director") as director:
            status = director.request("status")
    except NotRunning as stopped:
        print(f"mfend-lb: {stopped}; /etc/init.d/director start starts it", file=sys.stderr)
        return NOT_RUNNING
    except HaError as wrong:
        print(f"mfend-lb: {wrong}", file=sys.stderr)
        return FAILED
    print("\n".join(lines(status, time.time())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
