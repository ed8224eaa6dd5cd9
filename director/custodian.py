"""What stays after the director's daemon was stopped on a node that still serves connections.

Promise: the rules that translate them remain until the last of them has ended, or an hour is over, or a daemon runs again
(which has loaded rules of its own); then the rules are removed and the kernel's settings put back as they were. So stopping the
daemon, to upgrade it say, breaks no connection. The same for one that was killed, when the init script is to stop it. Source:
design §8 ("connections kept").
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from director import lease
from director.dataplane import DataPlane
from director.plane import removal
from director.sysctls import KEPT, Sysctls, restore
from runtime.control import Client
from runtime.errors import HaError
from runtime.nft import Nftables
from runtime.priority import relax
from runtime.reset import clients_of

#: seconds
LONGEST, _PERIOD = 3600.0, 1.0
_CONTROL = "/run/director/control"


def start(ports: Sequence[int], settings: Mapping[str, str]) -> None:
    """A process of its own, which outlives the one that starts it."""
    argv = [sys.executable, "-P", "-m", "director.custodian", json.dumps({"ports": list(ports), "settings": dict(settings)})]
    subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def watch(ports: Sequence[int], settings: Mapping[str, str]) -> None:
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        time.sleep(_PERIOD)
        if _daemon_runs():
            return
        if not clients_of(set(ports)):
            break
    nft = Nftables()
    nft.run(removal() + lease.removal())
    nft.close()
    restore(dict(settings), KEPT)


def _daemon_runs() -> bool:
    try:
        with Client(_CONTROL, 1.0) as client:
            client.request("ping")
    except HaError:
        return False
    return True


def leftovers() -> None:
    """What a daemon that was killed has left behind, and no other is to take over: as after a clean stop."""
    from director.config import load

    settings = Sysctls(KEPT).found
    if not settings and not _rules_are_loaded():
        return
    ports: list[int] = []
    with contextlib.suppress(HaError, OSError):
        ports = [each.to for each in load().redirects]
    start(ports, settings)


def _rules_are_loaded() -> bool:
    plane = DataPlane()
    try:
        return plane.is_left_behind()
    finally:
        plane.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["--leftovers"]:
        leftovers()
    else:
        relax()
        told = json.loads(sys.argv[1])
        watch(told["ports"], told["settings"])
