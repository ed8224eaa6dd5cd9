"""What stays after the director's daemon was stopped on a node that still serves connections.

Promise: the rules that translate them remain until the last of them has ended, or an hour is over, or a daemon runs again
(which has loaded rules of its own); then the rules are removed and the kernel's settings put back as they were. So stopping the
daemon, to upgrade it say, breaks no connection. Source: design §8 ("connections kept").
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from director.plane import removal
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
    nft.run(removal())
    nft.close()
    for name, value in settings.items():
        try:
            (Path("/proc/sys") / name).write_text(value)
        except OSError:
            continue  # the interface may be gone


def _daemon_runs() -> bool:
    try:
        with Client(_CONTROL, 1.0) as client:
            client.request("ping")
    except HaError:
        return False
    return True


if __name__ == "__main__":
    relax()
    told = json.loads(sys.argv[1])
    watch(told["ports"], told["settings"])
