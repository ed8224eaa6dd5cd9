"""Facts of this machine that configuration is checked against."""

from __future__ import annotations

import json
import subprocess
import sys

from ha_manager.local import interfaces

_WITHOUT_PROGRAMS = """
import sys
from ha_manager.local import addresses

def refuse(event, args):
    assert event not in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"), (event, args)

sys.addaudithook(refuse)
print(*addresses(), sep="\\n")
"""


def test_addresses_are_those_that_ip_shows_and_no_program_is_run_for_them() -> None:
    """ha_manager's main loop reads them at SIGHUP: with a program in its way, a busy active handed over for that."""
    shown = json.loads(subprocess.run(["ip", "-j", "address", "show"], stdout=subprocess.PIPE, check=True).stdout)
    there = [
        (link["ifname"], f"{each['local']}/{each['prefixlen']}")
        for link in shown
        if "LOOPBACK" not in link["flags"]
        for each in link["addr_info"]
        if each["scope"] != "link"
    ]
    assert sorted((name, str(each)) for name, each in interfaces()) == sorted(there)
    done = subprocess.run([sys.executable, "-c", _WITHOUT_PROGRAMS], stdout=subprocess.PIPE, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(address for _, address in there)
