"""Signs of life: what moves is heard, what waits is quiet, what is stopped is woken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime import pulse
from runtime.proctree import process
from runtime.pulse import Pulse, group_of
from tests.lab.postgres_pair import until

BUSY = "import time\nwhile True:\n    time.sleep(0.01); open('/proc/self/stat').read()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen([sys.executable, "-c", BUSY], process_group=0)
    yield made
    made.kill()
    made.wait()


def test_what_moves_is_heard_and_what_is_stopped_is_woken(child: subprocess.Popen[bytes]) -> None:
    mine = Pulse(lambda: group_of(child.pid))
    until(lambda: mine.quiet() == 0.0 and mine._trace != (), 10.0, "a first look", every=0.1)
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: (found := process(child.pid)) is not None and found.state == "T", 5.0)
    until(lambda: mine.quiet() >= 0 and (found := process(child.pid)) is not None and found.state != "T", 5.0, "woken")


def test_what_only_waits_is_quiet_until_it_reports_something() -> None:
    mine = Pulse(list)
    mine._since = mine._looked = mine._looked - 100.0
    mine._trace = (None,)
    assert mine.quiet() > 99
    mine._looked -= pulse._STEP
    assert mine.quiet("more") == 0.0
