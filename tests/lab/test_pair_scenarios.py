"""The reference's scenarios (Trustwave 5.1, 5.2), the planned failover, and what is refused, on two real policy servers.

Promise: roles, files, services and data are looked at where an administrator would look; every acknowledged write is there at
the end (the fixture). Source: Trustwave §2.1, §5; issue "A pair of policy servers …".
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.pair import Pair, other
from lab.topology import VIP

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
_ETC = "/etc/ha_manager"
_BASE = "/var/policyserver/configuration/base"
_ADDRESS = {"vs-166": "192.168.120.166", "vs-28": "192.168.120.28"}


def eventually(condition: Callable[[], bool], what: str, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(0.05)


def status_file(pair: Pair, node: str) -> dict[str, str]:
    path = pair.node(node).path(f"{_ETC}/ha_manager_status")
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def has_vip(pair: Pair, node: str) -> bool:
    return f"inet {VIP}/" in pair.node(node).sh("ip -4 address show")


def is_marked(pair: Pair, node: str, role: str) -> bool:
    names = {name: pair.node(node).path(f"{_ETC}/{name}").exists() for name in ("active", "passive")}
    passive_device = pair.node(node).path("/etc/Manager/passive_device").exists()
    return names[role] and sum(names.values()) == 1 and passive_device == (role == "passive")


def serves(pair: Pair, node: str) -> bool:
    return pair.node(node).run(["/etc/init.d/policyserver", "status"], check=False).code == 0


def expect(pair: Pair, node: str, role: str) -> None:
    """All that the reference says of a server in that role."""
    eventually(lambda: is_marked(pair, node, role), f"{node} is marked {role}")
    eventually(lambda: status_file(pair, node).get("role") == role, f"{node}'s status file says {role}")
    eventually(lambda: serves(pair, node) == (role == "active"), f"the policy server runs on the active only ({node})")
    assert has_vip(pair, node) == (role == "active")
    told = pair.ha(node, "amIactive", check=False)
    assert (told.stdout.strip(), told.code) == (("1", 0) if role == "active" else ("0", 1))
    assert pair.ha(node, "status").stdout.strip() == "1"


def test_the_active_crashes_and_comes_back(duo: Duo) -> None:
    """Trustwave 5.1: the passive becomes active; the old active comes back as the passive."""
    pair, crashed = duo.pair, duo.settle()
    heir = other(crashed)
    pair.node(heir).write("/var/wasp/conf_ready/global/policy", f"of {crashed}\n")
    expect(pair, heir, "passive")
    since = len(pair.node(heir).log())
    crash = duo.drill.crash()
    assert crash.quick is not None and crash.quick.end is not None
    expect(pair, heir, "active")
    eventually(lambda: pair.node(heir).path(f"{_BASE}/global/policy").exists(), "conf_ready is copied to base")
    # active_request_cli made the device ID this server's, full_replicate wrote its configuration.
    eventually(lambda: pair.node(heir).path(f"{_BASE}/{heir}/configuration").exists(), "full_replicate has run")
    assert "in epoch" in pair.ha(heir, "show").stdout
    # One that is back before the session with it was missed is not told of: it stays off for as long as that takes.
    missed = "failed to connect to ha_manager on the passive policy server"
    eventually(lambda: missed in pair.node(heir).log()[since:], "the new active misses the other's ha_manager")
    duo.drill.rejoin(crashed)
    expect(pair, crashed, "passive")
    expect(pair, heir, "active")
    eventually(lambda: status_file(pair, heir)["replication"] == "synchronous", "the status file tells it")
    assert "this device is now active" in pair.node(heir).log()[since:]
    assert "Postgres replication started" in pair.node(crashed).log()


def test_the_passive_crashes_and_comes_back(duo: Duo) -> None:
    """Trustwave 5.2; meanwhile nobody could take over, so a planned failover is refused."""
    pair, active = duo.pair, duo.settle()
    passive = other(active)
    duo.drill.passive_cut()
    expect(pair, active, "active")
    refused = pair.ha(active, "failover", check=False)
    assert refused.code != 0
    assert "last heard" in refused.stderr or "not in sync" in refused.stderr, refused.stderr
    assert pair.node(passive).path("/etc/Manager/passive_device").exists()
    duo.drill.rejoin(passive)
    expect(pair, passive, "passive")
    expect(pair, active, "active")
    # It came up as it went down: never active in between.
    booted = pair.node(passive).log().rpartition("power on")[2]
    assert "starts in passive mode" in booted
    assert "this device is now active" not in booted


def test_each_server_reads_the_others_log_and_name(duo: Duo) -> None:
    """Trustwave §2: logrelay, device_uname."""
    pair, active = duo.pair, duo.settle()
    for reader, read in ((active, other(active)), (other(active), active)):
        name = f"http://{_ADDRESS[read]}:5222/device_uname"
        asked = f"import urllib.request as u; print(u.urlopen({name!r}, timeout=5).read().decode().strip())"
        assert pair.node(reader).run(["/usr/bin/python3", "-c", asked]).stdout.strip() == read
        pair.node(read).run(["/usr/bin/logger", "-t", "marker", f"before, for {reader}"])
        eventually(lambda read=read, reader=reader: f"before, for {reader}" in pair.node(read).log(), "it is logged")  # type: ignore[misc]
        assert f"before, for {reader}" in pair.ha(reader, "logs", "--peer").stdout
        argv = ["/usr/bin/timeout", "20", "/usr/bin/ha", "logs", "--peer", "--follow", "--lines", "1"]
        with pair.node(reader).popen(argv, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None and following.stdout.readline()
            pair.node(read).run(["/usr/bin/logger", "-t", "marker", f"after, for {reader}"])
            assert any(f"after, for {reader}" in line for line in following.stdout), "the new line did not come"
            following.terminate()


def test_the_passive_is_shut_down_and_comes_back(duo: Duo) -> None:
    active = duo.settle()
    stopped = duo.drill.passive_stop()
    assert stopped.quick is not None and stopped.quick.ms < 3000, stopped.quick
    left = duo.pair.node(other(active)).read(f"{_ETC}/ha_manager_status")
    assert left.startswith("role=unknown\n") and "replication=unknown" in left, "what it was then is not what it is now"
    duo.drill.rejoin(other(active))
    expect(duo.pair, other(active), "passive")


def on_time(pair: Pair, node: str) -> dict[str, int]:
    """How many threads of each process have a real-time priority, by its module or program."""
    found: dict[str, int] = {}
    for pid, argv in pair.node(node).processes().items():
        name = next((word for word in argv if word.startswith(("heartbeat.", "ha_manager."))), argv[0] if argv else "")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a command of the policy server's that has just ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found[name] = found.get(name, 0) + (os.sched_getscheduler(int(thread.name)) & ~os.SCHED_RESET_ON_FORK != 0)
    return {name: count for name, count in found.items() if count}


def test_a_planned_failover(duo: Duo) -> None:
    pair, active = duo.pair, duo.settle()
    heir = other(active)
    refused = pair.ha(heir, "failover", check=False)
    assert refused.code != 0 and "not active" in refused.stderr and active in refused.stderr
    assert pair.active() == active
    duo.drill.switchover()
    expect(pair, heir, "active")
    expect(pair, active, "passive")
    # Only those that others count on: neither Postgres nor any command, hook or policy server has it from us.
    for node in (heir, active):
        assert on_time(pair, node) == {"heartbeat.daemon": 2, "ha_manager.daemon": 3, "ha_manager.keeper": 1}
    # Nothing was copied anew: a planned failover leaves no divergence.
    assert "copying the database" not in pair.node(active).log().rpartition("this device is now passive")[2]
