"""What an idle heartbeat costs: time of a core, and memory.

Promise: processor time is the scheduler's own count in nanoseconds (a process that wakes for 0.1 ms at a time slips through
the ticks of /proc/PID/stat), of all processes of a node together; the figure is that of the node that needs more.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.vip_pairs import VipPair
from runtime.clock import boottime


@dataclass(frozen=True)
class Cost:
    """``rss_mb``: of the largest process; ``pss_mb``: of all, what they share counted once."""

    cpu_percent: float
    rss_mb: float
    pss_mb: float
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.cpu_percent:.2f} % of a core; {self.processes} processes, the largest {self.rss_mb:.1f} MB,"
            f" together {self.pss_mb:.1f} MB (PSS)"
        )

    def figures(self) -> dict[str, float]:
        return {"cpu_percent": round(self.cpu_percent, 2), "rss_mb": round(self.rss_mb, 1), "pss_mb": round(self.pss_mb, 1)}


def cost(pair: VipPair, seconds: float) -> Cost:
    """Of the dearer node, over ``seconds`` of doing nothing."""
    nodes = {node: pair.processes_of(node) for node in pair.processes}
    before = {node: nanoseconds(pids) for node, pids in nodes.items()}
    began = boottime()
    time.sleep(seconds)
    took = boottime() - began
    percent = {node: (nanoseconds(pids) - before[node]) / took / 1e7 for node, pids in nodes.items()}
    node = max(percent, key=lambda name: percent[name])
    rss = [kilobytes(pid, "Rss") for pid in nodes[node]]
    pss = [kilobytes(pid, "Pss") for pid in nodes[node]]
    return Cost(percent[node], max(rss) / 1024, sum(pss) / 1024, len(nodes[node]))


def nanoseconds(pids: Iterable[int]) -> int:
    """Processor time that all threads of these processes have had."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    return total


def kilobytes(pid: int, name: str) -> int:
    """``name`` of the process's memory: Rss, Pss."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
