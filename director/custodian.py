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
from director.generation import need_nftables
from director.ruleset import removal
from director.settings import Config
from director.sysctls import KEPT, Sysctls, restore
from director.vips import VirtualAddresses
from director.virtualmac import VirtualMac
from runtime.arp import Announcer
from runtime.control import Client
from runtime.errors import HaError
from runtime.nft import Nftables
from runtime.priority import relax
from runtime.reset import clients_of
from runtime.rtnetlink import AddressSocket

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

    config = None
    with contextlib.suppress(HaError, OSError):
        config = load()
        _let_go(config)
    settings = Sysctls(KEPT).found
    if settings or _rules_are_loaded():
        start([each.to for each in config.redirects] if config is not None else [], settings)


def _let_go(config: Config) -> None:
    """The virtual addresses, their lease and their own MAC."""
    kernel = AddressSocket()
    VirtualAddresses(config.vips, 0.0, kernel, Announcer, lambda name, text: None).clear()
    kernel.close()
    for family in config.families if config.vrrp.virtual_mac else ():
        VirtualMac((vip.interface for vip in config.of_router(family)), config.vrrp.vrid, family).remove()
    need_nftables()
    nft = Nftables()
    nft.run(lease.removal())
    nft.close()


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
