"""A rejoin in a process of its own that is killed (-9) at its Nth step: whatever changes a name, writes or starts something.

python killed_at.py FILE N      (FILE: a pickled Rejoin; N 0: not at all, the steps are printed)
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_manager.cluster import PostgresConfig
from ha_manager.database import Database
from ha_manager.observation import Identity, Upstream

_STEPS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chown", "subprocess.Popen")


@dataclass(frozen=True)
class Rejoin:
    config: PostgresConfig
    node: str
    peer: str
    password: str
    identity: Identity
    upstream: Upstream


class Steps:
    def __init__(self, last: int, within: Path) -> None:
        self._last, self._within = last, str(within)
        self.count = 0

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if event not in _STEPS and not writes:
            return
        what = " ".join(map(str, args[:1] if event != "subprocess.Popen" else args[1]))
        if what.startswith("/") and event != "subprocess.Popen" and not what.startswith(self._within):
            return
        self.count += 1
        if not self._last:
            print(f"{event} {what}"[:200], flush=True)
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    task: Rejoin = pickle.loads(Path(sys.argv[1]).read_bytes())
    database = Database(task.config, task.node, task.peer, peer_addresses=("127.0.0.1",), password=task.password)
    steps = Steps(int(sys.argv[2]), task.config.data_dir.parent)
    sys.addaudithook(steps.hook)
    verdict = database.judge(task.identity)
    database.rejoin(verdict, task.upstream, task.identity, lambda progress: True)


if __name__ == "__main__":
    # as the module that the file was pickled with names it
    sys.modules["killed_at"] = sys.modules["__main__"]
    main()
