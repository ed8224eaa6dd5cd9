"""The lab with Debian's package ``heartbeat``: up once a session, for the tests that say ``pytest_plugins``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.api import Lab

#: its IPaddr calls ifconfig, which Debian only recommends
PACKAGES = ("heartbeat", "net-tools")


@pytest.fixture(scope="module")
def linuxha() -> Iterator[Lab]:
    """Machines on which Debian's heartbeat 3.0.6 was installed, and ours afterwards."""
    with Lab(f"linuxha-{os.getpid()}", packages=PACKAGES) as lab:
        for node in ("vs-166", "vs-28"):
            lab.node(node).run(["/etc/init.d/manager", "stop"])
        yield lab
