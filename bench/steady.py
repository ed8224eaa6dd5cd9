"""What high availability costs while nothing happens: processor time on a steady active under pgbench -c4.

    sudo .venv/bin/python -m bench.steady --repeats 3 --seconds 30 --json FILE

Promise: the scheduler's own count of nanoseconds, of every thread of every process of ours on each server; nobody's but ours
(Postgres's own processes, which answer the questions that it is asked, are not in it). JSON: percent of a core by role and
part, the median; every value under ``all``. Source: issue "Postgres: no acknowledged
write lost …" ("Held to": ha_manager at most 1 % of a core).
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench import pgbench
from bench.cost import nanoseconds
from bench.pair import SERVERS, Pair, other
from bench.screen import shown
from bench.stage import need_root, stage
from runtime.clock import boottime

#: Percent of a core
GOAL = 1.0
#: Which processes belong together: heartbeat's writer is heartbeat's, the keeper is ha_manager's
PARTS = {"ha_manager": ("ha_manager.daemon", "ha_manager.keeper"), "heartbeat": ("heartbeat.daemon",)}


def processes(pair: Pair, node: str) -> dict[str, list[int]]:
    """Process ids on this machine, by part."""
    running = pair.node(node).processes()
    return {part: [pid for pid, argv in running.items() if set(argv) & set(names)] for part, names in PARTS.items()}


def measure(pair: Pair, seconds: float) -> dict[str, dict[str, float]]:
    """Percent of a core over ``seconds``, by server and part."""
    found = {node: processes(pair, node) for node in SERVERS}

    def spent() -> dict[tuple[str, str], int]:
        return {(node, part): nanoseconds(pids) for node, parts in found.items() for part, pids in parts.items()}

    before, began = spent(), boottime()
    time.sleep(seconds)
    after, took = spent(), boottime() - began
    percent = {key: (after[key] - before[key]) / took / 1e7 for key in before}
    return {node: {part: round(percent[node, part], 2) for part in PARTS} for node in SERVERS}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=1, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="Of each repeat.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
def main(repeats: int, seconds: float, json_file: Path | None) -> None:
    """Measure processor time of heartbeat and ha_manager on both servers of a pair that is written to."""
    need_root()
    figures: dict[str, Any] = {}
    with (
        shown("steady") as screen,
        tempfile.TemporaryDirectory(prefix="ha-load-") as folder,
        stage(screen, "bench-steady", profile="recommended") as drill,
    ):
        pgbench.prepare(drill.pair)
        load = pgbench.Load(drill.pair.node("client"), Path(folder))
        drill.pair.settle(30.0)
        time.sleep(3.0)  # the looks that a change brings about are over
        active = drill.pair.active()
        screen.say(f"pgbench -c{pgbench.CLIENTS} writes; measuring {repeats} times {seconds:g} s")
        costs = [measure(drill.pair, seconds) for _ in range(repeats)]
        load.stop()
        values = {
            role: {part: [cost[node][part] for cost in costs] for part in PARTS}
            for role, node in (("active", active), ("passive", other(active)))
        }
        figures = {role: {part: median(all_) for part, all_ in parts.items()} for role, parts in values.items()}
        for role, parts in values.items():
            for part, all_ in parts.items():
                goal = f"; held to {GOAL:g} %" if (role, part) == ("active", "ha_manager") else ""
                spread = f"{median(all_):.2f} ({min(all_):.2f} to {max(all_):.2f})"
                screen.plain(f"{part} on the {role}: {spread} % of a core{goal}")
        figures["all"] = values
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
