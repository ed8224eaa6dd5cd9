"""Our heartbeat beside Linux-HA's, in one run: who moves a virtual address faster, and at what cost.

    sudo .venv/bin/python -m bench.heartbeat --repeats 5 --json FILE [--keepalive 100 --deadtime 500] [--minutes 10]

Promise: both hold nothing but the address, have the same networks and times, and take turns, so that whatever else this machine
does meets both. All times are of the virtual address's answers to a gateway that pings it every 5 ms. False takeovers are
counted over ``--minutes``, of a pair with each of our profiles, with stress-ng on every core. Source: issue "heartbeat: right
in every schedule of faults …" ("Held to"); facts/linux-ha-heartbeat.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import TypeVar

import click
from rich.table import Table

from bench import debian
from bench.cost import Cost, cost
from bench.load import loaded
from bench.screen import Screen, shown
from bench.stage import Ended, need_root
from bench.vip_pairs import LinuxHa, Ours, Times, VipPair
from runtime.clock import boottime

#: net-tools: Linux-HA's IPaddr calls ifconfig, which Debian only recommends
PACKAGES = ("heartbeat", "net-tools", "stress-ng")
PROFILES = ("recommended", "aggressive")
#: an answer of the old active may still be on its way when its cables go (seconds)
_IN_FLIGHT = 0.02
_PARTED = 6.0
_IDLE = 20.0
_REPORT = 30.0
_EVENTS = {
    "takeover_ms": "power cut of the active → the address answers, ms",
    "handover_ms": "planned hand-over: address silent, ms",
    "heal_gap_ms": "healed partition: address silent, ms",
}
P = TypeVar("P", bound=VipPair)
_PARTS = ("idle", "takeover", "handover", "heal", "load")


def takeover(pair: VipPair) -> float:
    active, _ = pair.settle()
    at = pair.power_cut(active)
    gone = boottime() + _IN_FLIGHT
    pair.until(lambda: pair.wires.answered_since(gone) is not None, 40.0, "the address to answer again")
    answered = pair.wires.answered_since(gone)
    pair.power_on(active)
    assert answered is not None
    return (answered - at) * 1000


def handover(pair: VipPair) -> float:
    active, passive = pair.settle()
    at = boottime()
    pair.hand_over(active)
    pair.until(lambda: pair.wires.holders() == [passive], 30.0, f"{passive} to have the address")
    pair.settle()
    return pair.wires.longest_gap(at, boottime()) * 1000


def heal(pair: VipPair) -> float:
    """Both alive, both with the gateway, no path between them for a while: then there is one again."""
    pair.settle()
    pair.wires.part(True)
    time.sleep(_PARTED)
    at = pair.wires.part(False)
    pair.settle(120.0)
    return pair.wires.longest_gap(at, boottime()) * 1000


_MEASURES: dict[str, Callable[[VipPair], float]] = {"takeover_ms": takeover, "handover_ms": handover, "heal_gap_ms": heal}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=5, show_default=True, help="How often each event is measured, of each kind.")
@click.option("--minutes", default=10.0, show_default=True, help="Minutes under load; 0: not at all.")
@click.option("--keepalive", default=200, show_default=True, help="Milliseconds, of both kinds.")
@click.option("--deadtime", default=1000, show_default=True, help="Milliseconds, of both kinds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--only", type=click.Choice(_PARTS), multiple=True, help="Only this part; may be given several times.")
def main(repeats: int, minutes: float, keepalive: int, deadtime: int, json_file: Path | None, only: tuple[str, ...]) -> None:
    """Measure our heartbeat beside Debian's Linux-HA heartbeat.

    Example: sudo .venv/bin/python -m bench.heartbeat --repeats 3 --only takeover
    """
    need_root()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    parts = only or _PARTS
    figures: dict[str, object] = {}
    with shown("heartbeat") as screen:
        try:
            layer = debian.provide(PACKAGES, screen.say)
            if set(parts) != {"load"}:
                _side_by_side(screen, figures, layer, Times(keepalive, deadtime), repeats, parts)
            if "load" in parts and minutes > 0:
                figures["false_takeovers"] = _under_load(screen, layer, minutes)
        finally:
            if json_file is not None:
                json_file.write_text(json.dumps(figures, indent=1) + "\n")


def _side_by_side(
    screen: Screen, figures: dict[str, object], layer: Path, times: Times, repeats: int, parts: Sequence[str]
) -> None:
    with _up(screen, Ours(times)) as ours, _up(screen, LinuxHa(times, layer)) as linux_ha:
        pairs: tuple[VipPair, ...] = (ours, linux_ha)
        for pair in pairs:
            pair.settle()
        if "idle" in parts:
            costs = _idle(screen, pairs)
            figures["idle"] = costs["ours"].figures() | {"linux_ha": costs["linux_ha"].figures()}
        wanted = {name: measure for name, measure in _MEASURES.items() if name.partition("_")[0] in parts}
        found: dict[str, dict[str, list[float]]] = {name: {pair.kind: [] for pair in pairs} for name in wanted}
        figures.update(found)
        for number in range(repeats):
            for name, measure in wanted.items():
                for pair in pairs:
                    value = measure(pair)
                    found[name][pair.kind].append(round(value, 1))
                    screen.say(f"{number + 1} of {repeats}, {pair.kind}: {_EVENTS[name]}: {value:.0f} (load {_load()})")
        if wanted and repeats:
            screen.console.print(_summary(found, times))


@contextlib.contextmanager
def _up(screen: Screen, pair: P) -> Iterator[P]:
    screen.say(f"Two nodes, {pair.kind}: {pair.times}")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def _idle(screen: Screen, pairs: Sequence[VipPair]) -> dict[str, Cost]:
    screen.say(f"Nothing happens for {_IDLE:g} s")
    found = {}
    for pair in pairs:
        found[pair.kind] = cost(pair, _IDLE)
        screen.say(f"{pair.kind}: {found[pair.kind]} (load {_load()})")
    return found


def _under_load(screen: Screen, layer: Path, minutes: float) -> int:
    """Changes of role while every core is busy with something else, of a pair with each profile."""
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(_up(screen, Ours(Times(profile=profile)))) for profile in PROFILES]
        for pair in pairs:
            pair.settle()
        before = {(pair.times.profile, node): len(pair.changes(node)) for pair in pairs for node in pair.processes}
        screen.say(f"{minutes:g} minutes with stress-ng on every core")
        end = boottime() + minutes * 60
        with loaded(layer, pairs[0].folder):
            while (left := end - boottime()) > 0:
                time.sleep(min(left, _REPORT))
                screen.say(
                    f"{(boottime() - end) / 60 + minutes:.1f} minutes: {len(_changed(pairs, before))} changes (load {_load()})"
                )
        changed = _changed(pairs, before)
        for text in changed:
            screen.error(text)
        return len(changed)


def _changed(pairs: Sequence[Ours], before: dict[tuple[str, str], int]) -> list[str]:
    return [
        f"{profile}, {node}: {change['before']} -> {change['after']}: {change['because']}"
        for pair in pairs
        for (profile, node), known in before.items()
        if profile == pair.times.profile
        for change in pair.changes(node)[known:]
    ]


def _summary(found: dict[str, dict[str, list[float]]], times: Times) -> Table:
    table = Table(title=str(times), title_justify="left")
    for name in ("event", "times", "ours", "Linux-HA"):
        table.add_column(name, justify="left" if name == "event" else "right")
    for name, kinds in found.items():
        cells = [f"{median(v):.0f} ({min(v):.0f} to {max(v):.0f})" for v in (kinds["ours"], kinds["linux_ha"])]
        table.add_row(_EVENTS[name], str(len(kinds["ours"])), *cells)
    return table


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(128 + number)


if __name__ == "__main__":
    main()
