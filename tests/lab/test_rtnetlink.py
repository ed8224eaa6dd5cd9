"""Our few lines of rtnetlink against pyroute2's, in a network namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs a namespace")]

SCRIPT = """
import subprocess
from runtime.address import Assigned, NetworkError, Netlink
from runtime.errors import ConfigError
from runtime.rtnetlink import AddressSocket

ours, theirs = AddressSocket(), Netlink()
own = Assigned("d0", "10.0.0.1", 24)
def four(interface=None):
    return [each for each in ours.addresses(interface) if ":" not in each.address]
assert four() == theirs.addresses() == [Assigned("lo", "127.0.0.1", 8), own]
assert Assigned("lo", "::1", 128) in ours.addresses("lo")
ours.add("10.0.0.9", "d0", lifetime=0.55)
ours.add("10.0.0.9", "d0", lifetime=1.5)
assert four("d0") == theirs.addresses("d0") == [own, Assigned("d0", "10.0.0.9", 32, 2)], theirs.addresses("d0")
assert ours.addresses("nope") == [] and ours.interface_for("10.0.0.7") == "d0"
assert ours.remove("10.0.0.9") and not ours.remove("10.0.0.9")
ours.add("10.0.0.8", "d0")
assert theirs.addresses("d0")[1].lifetime is None and ours.remove("10.0.0.8", "d0")
theirs.add("10.0.0.9", "d0", lifetime=5, prefix=24)
assert ours.remove("10.0.0.9") and theirs.addresses("d0") == [own]
before = ours.addresses("d0")
ours.add("fd00::9", "d0", lifetime=0.55)
ours.add("fd00::9", "d0", lifetime=1.5)
assert [each for each in ours.addresses("d0") if each not in before] == [Assigned("d0", "fd00::9", 128, 2)]
shown = subprocess.run(["ip", "-6", "address", "show", "dev", "d0", "to", "fd00::9"], capture_output=True, text=True).stdout
assert "deprecated" in shown and "nodad" in shown and "noprefixroute" in shown and "tentative" not in shown, shown
assert ours.remove("fd00::9") and not ours.remove("fd00::9", "d0") and not ours.remove("fd00::9", "nope")
for wrong in (("10.0.0.9", "nope", 32), ("10.0.0.9", "d0", 40), ("fd00::9", "d0", 200)):
    try:
        ours.add(*wrong[:2], prefix=wrong[2])
    except NetworkError as error:
        assert "10.0.0.9" in str(error) or "fd00::9" in str(error)
    else:
        raise AssertionError("not refused")
ours.add("10.0.0.9", "d0", lifetime=1)
again = "ip link del d0 && ip link add d0 type veth peer name d1 && ip addr add 10.0.0.1/24 dev d0 && ip link set d0 up"
subprocess.run(again, shell=True, check=True)
ours.add("10.0.0.9", "d0", lifetime=1)  # the interface was made again: another index
assert Assigned("d0", "10.0.0.9", 32, 1) in ours.addresses("d0")
other = "ip link set d0 down && ip link set d0 name d2 && ip link add d0 type veth peer name d3"
subprocess.run(other, shell=True, check=True)
ours.forget()  # as told by the kernel: the name is another interface's
assert ours.remove("10.0.0.9", "d2")
ours.add("10.0.0.9", "d0", lifetime=1)
assert [each.interface for each in ours.addresses() if each.address == "10.0.0.9"] == ["d0"]
try:
    ours.interface_for("10.9.9.9")
except ConfigError:
    print("done")
"""


REMOVALS = """
import select
from runtime.removals import Removals
from runtime.rtnetlink import AddressSocket

ours, removals = AddressSocket(), Removals()
def woken(limit):
    return bool(select.select([removals], [], [], limit)[0])
for _ in range(3):
    for address in ("10.0.0.9", "fd00::9"):
        ours.add(address, "d0", lifetime=1)
assert not woken(0.1) and not removals.read(), "a refresh wakes nobody"
for address in ("10.0.0.9", "fd00::9"):
    ours.remove(address)
    assert woken(5) and removals.read() and not woken(0), address
ours.add("10.0.0.9", "d0", lifetime=1)
assert woken(5) and removals.read(), "the kernel removes it at the end of its lifetime"
print("done")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    prepare = (
        "ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d0 up && ip addr add 10.0.0.1/24 dev d0"
    )
    return subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{prepare} && exec "$0" -c "$1"', sys.executable, script], capture_output=True, text=True
    )


def test_the_same_as_pyroute2() -> None:
    done = run(SCRIPT)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_removals_wake_and_refreshes_do_not() -> None:
    done = run(REMOVALS)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
