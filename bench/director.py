"""Our directors beside keepalived, in one run: how long the virtual address is silent.

    sudo .venv/bin/python -m bench.director --repeats 5 --json FILE [--only power_loss]

Promise: both kinds have the same address, priorities, version and interval, and take turns, so that whatever else this machine
does meets both. All times are of the virtual address's answers to a client that pings it every millisecond. False takeovers are
counted over ``--minutes``, with stress-ng on every core. Source: issue "director" ("Held to"); facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import click

from bench import debian, director_clients
from bench.cost import kilobytes, nanoseconds
from bench.load import loaded
from bench.screen import Screen
from bench.stage import Ended, need_root
from bench.vrrp_pairs import PACES, Directors, Keepalived, Ours
from runtime.clock import boottime
from runtime.errors import HaError

#: an answer of the old master may still be on its way when its cable goes (seconds)
_IN_FLIGHT = 0.005


def power_loss(pair: Directors) -> float:
    """The master loses its power: milliseconds without an answer."""
    master = pair.settle()
    at = pair.power_cut(master)
    pair.await_answers(at + _IN_FLIGHT)
    gap = pair.longest_gap(at, boottime())
    pair.power_on(master)
    return gap * 1000


def clean_stop(pair: Directors) -> float:
    """The master's process is asked to stop: the longest time without an answer until it has ended, and then some."""
    master = pair.settle()
    at = boottime()
    pair.clean_stop(master)
    pair.until(lambda: pair.holders() not in ([], [master]), 30.0, "the other one to hold the address")
    pair.await_answers(boottime())
    gap = pair.longest_gap(at, boottime())
    pair.start(master)
    return gap * 1000


_MEASURES: dict[str, Callable[[Directors], float]] = {"power_loss": power_loss, "clean_stop": clean_stop}
_PARTS = (*_MEASURES, "idle", "load", *director_clients.PARTS)
_IDLE = 15.0
_REPORT = 30.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=5, show_default=True, help="How often each event is measured, of each kind.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--minutes", default=10.0, show_default=True, help="Minutes under load.")
@click.option("--only", type=click.Choice(_PARTS), multiple=True, help="Only this part; may be given several times.")
@click.option("--pace", "paces", type=click.Choice(sorted(PACES)), multiple=True, help="Only at this interval.")
def main(repeats: int, json_file: Path | None, minutes: float, only: tuple[str, ...], paces: tuple[str, ...]) -> None:
    """Measure our directors beside Debian's keepalived.

    Example: sudo .venv/bin/python -m bench.director --repeats 3 --only power_loss
    """
    need_root()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    figures: dict[str, Any] = {}
    parts = only or _PARTS
    with Screen() as screen:
        try:
            figures |= director_clients.measure(tuple(parts), repeats, screen.say)
            beside = [part for part in parts if part not in director_clients.PARTS]
            layer = debian.provide(("keepalived", "stress-ng"), screen.say) if beside else Path()
            for pace in (paces or tuple(PACES)) if beside else ():
                if "idle" in beside:
                    _idle_costs(screen, figures, layer, pace)
                if measures := [part for part in beside if part in _MEASURES]:
                    _side_by_side(screen, figures, layer, pace, repeats, measures)
            if "load" in beside:
                figures["false_takeovers"] = _under_load(screen, layer, minutes)
        except HaError as wrong:
            screen.error(str(wrong))
            raise SystemExit(1) from wrong
        _show(screen, figures)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _side_by_side(
    screen: Screen,
    figures: dict[str, Any],
    layer: Path,
    pace: str,
    repeats: int,
    parts: Sequence[str],
) -> None:
    pairs: list[Directors] = [Ours(PACES[pace]), Keepalived(PACES[pace], layer)]
    try:
        for pair in pairs:
            pair.up()
        for part in parts:
            for number in range(repeats):
                for pair in pairs:
                    value = round(_MEASURES[part](pair), 1)
                    by_kind = figures.setdefault(f"{part}_ms", {}).setdefault(pair.kind, {})
                    by_kind.setdefault(pace, []).append(value)
                    screen.say(f"{part} {number + 1}/{repeats}, {pair.kind} at {pace}: {value:.1f} ms")
    finally:
        for pair in pairs:
            pair.down()


def _idle_costs(screen: Screen, figures: dict[str, Any], layer: Path, pace: str) -> None:
    """One pair at a time; ours also with a port redirect, whose proxies are checked every second."""
    one = PACES[pace]
    pairs: dict[str, Directors] = {
        "ours": Ours(one),
        "ours_serving": Ours(one, serving=True),
        "keepalived": Keepalived(one, layer),
    }
    for kind, pair in pairs.items():
        try:
            pair.up()
            cost = _idle(pair)
        finally:
            pair.down()
        figures.setdefault("idle", {}).setdefault(kind, {})[pace] = cost
        screen.say(f"idle, {kind} at {pace}: {cost}")


def _idle(pair: Directors) -> dict[str, float]:
    """Of the master and of the backup: percent of a core, and megabytes."""
    pair.settle()
    pids = {node: pair.pids(node) for node in pair.processes}
    before = {node: nanoseconds(each) for node, each in pids.items()}
    began = boottime()
    time.sleep(_IDLE)
    took = boottime() - began
    master, backup = ((nanoseconds(pids[node]) - before[node]) / took / 1e7 for node in pids)
    rss = max(sum(kilobytes(pid, "Rss") for pid in each) for each in pids.values()) / 1024
    return {"master_cpu_percent": round(master, 2), "backup_cpu_percent": round(backup, 2), "rss_mb": round(rss, 1)}


def _under_load(screen: Screen, layer: Path, minutes: float) -> int:
    """Changes of the master while every core is busy with something else, at 100 ms."""
    pair = Ours(PACES["100ms"])
    try:
        pair.up()
        pair.settle()
        before = pair.changes()
        screen.say(f"{minutes:g} minutes with stress-ng on every core")
        end = boottime() + minutes * 60
        with loaded(layer, pair.folder):
            while (left := end - boottime()) > 0:
                time.sleep(min(left, _REPORT))
                screen.say(f"{pair.changes() - before} changes so far (load {os.getloadavg()[0]:.1f})")
        return pair.changes() - before
    finally:
        pair.down()


def _show(screen: Screen, figures: dict[str, Any]) -> None:
    for part, kinds in figures.items():
        if not part.endswith("_ms"):
            continue
        screen.heading(part)
        for kind, paces in kinds.items():
            for pace, values in paces.items():
                screen.plain(f"  {kind:<11} {pace:>6}: median {median(values):.1f}, {min(values):.1f} to {max(values):.1f}")


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(128 + number)


if __name__ == "__main__":
    main()
