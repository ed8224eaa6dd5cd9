"""Our few lines of rtnetlink against pyroute2's, in a network namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs a namespace")]

SCRIPT = """
from runtime.address import Assigned, NetworkError, Netlink
from runtime.errors import ConfigError
from runtime.rtnetlink import AddressSocket

ours, theirs = AddressSocket(), Netlink()
own = Assigned("d0", "10.0.0.1", 24)
assert ours.addresses() == theirs.addresses() == [Assigned("lo", "127.0.0.1", 8), own]
ours.add("10.0.0.9", "d0", lifetime=0.55)
ours.add("10.0.0.9", "d0", lifetime=1.5)
assert ours.addresses("d0") == theirs.addresses("d0") == [own, Assigned("d0", "10.0.0.9", 32, 2)], theirs.addresses("d0")
assert ours.addresses("nope") == [] and ours.interface_for("10.0.0.7") == "d0"
assert ours.remove("10.0.0.9") and not ours.remove("10.0.0.9")
ours.add("10.0.0.8", "d0")
assert theirs.addresses("d0")[1].lifetime is None and ours.remove("10.0.0.8", "d0")
theirs.add("10.0.0.9", "d0", lifetime=5, prefix=24)
assert ours.remove("10.0.0.9") and theirs.addresses("d0") == [own]
for wrong in (lambda: ours.add("10.0.0.9", "nope"), lambda: ours.add("10.0.0.9", "d0", prefix=40)):
    try:
        wrong()
    except NetworkError as error:
        assert "10.0.0.9" in str(error)
    else:
        raise AssertionError("not refused")
try:
    ours.interface_for("10.9.9.9")
except ConfigError:
    print("done")
"""


def test_the_same_as_pyroute2() -> None:
    prepare = (
        "ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d0 up && ip addr add 10.0.0.1/24 dev d0"
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{prepare} && exec "$0" -c "$1"', sys.executable, SCRIPT], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
