"""Two nodes of one kind as processes in network namespaces: started, ended, waited for, and what they said.

Promise: what is started gets a session of its own, and all of it ends with its node; a wait that takes too long is a HaError
with what every node said last. Source: bench/vip_pairs.py and bench/vrrp_pairs.py, which say what the nodes are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.clock import boottime
from runtime.errors import HaError

_POLL = 0.01
_LAST = 3000  # characters of an output


class NamespacePair(ABC):
    """``nodes``: their names. ``folder`` is gone after ``down``; each node has one of its own in it."""

    kind: str

    def __init__(self, nodes: Sequence[str], prefix: str) -> None:
        self._nodes = tuple(nodes)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        self.lay_wires()
        for node in self._nodes:
            (self.folder / node).mkdir()
            self.configure(node)
            self.start(node)

    def down(self) -> None:
        for node in list(self.processes):
            self._end(node)
        self.take_wires_down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def until(self, holds: Callable[[], bool], limit: float, what: str) -> None:
        end = boottime() + limit
        while not holds():
            if boottime() > end:
                raise HaError(f"{self.kind}: waited {limit:g} s for {what}\n{self.explain()}")
            time.sleep(_POLL)

    def explain(self) -> str:
        """What each node said last."""
        said = []
        for node in self._nodes:
            for log in dict.fromkeys((self.folder / node / "output", self.log(node))):
                with contextlib.suppress(FileNotFoundError):
                    said.append(f"--- {node}: {log.name}\n{log.read_text(errors='replace')[-_LAST:]}")
        return "\n".join(said)

    def log(self, node: str) -> Path:
        """Where the node says what it does."""
        return self.folder / node / "output"

    def _spawn(self, node: str, *words: str) -> None:
        with (self.folder / node / "output").open("ab") as output:
            self.processes[node] = subprocess.Popen(
                ["ip", "netns", "exec", self.space(node), *words], stdout=output, stderr=output, start_new_session=True
            )

    def _end(self, node: str) -> None:
        process = self.processes.pop(node)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @abstractmethod
    def space(self, node: str) -> str:
        """The node's network namespace."""

    @abstractmethod
    def lay_wires(self) -> None: ...
    @abstractmethod
    def take_wires_down(self) -> None: ...
    @abstractmethod
    def configure(self, node: str) -> None: ...
    @abstractmethod
    def start(self, node: str) -> None: ...
