"""A signal to a child is the child's, however early it comes."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal, time
from runtime.child import fork, listen
from runtime.service import Service
me = Service("it", True, None)
ends = []
for _ in range(50):
    pid = fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        listen()
        time.sleep(30)
    os.kill(pid, signal.SIGTERM)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert set(ends) == {7}, ends
assert me.signals() == []
os.kill(os.getpid(), signal.SIGTERM)
assert me.signals() == [signal.SIGTERM], "the parent's own still come"
"""


def test_a_signal_to_a_child_is_the_childs_however_early_it_comes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
