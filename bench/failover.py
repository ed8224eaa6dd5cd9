"""How long a client can't write, again and again: what the demo does, and the loss of the passive.

    sudo .venv/bin/python -m bench.failover --repeats 5 --json FILE [--profile aggressive] [--load] [--against patroni]

Promise: every figure is a client's own record; nothing is left out, also not a repeat that went wrong: it ends the run with
status 1 after what was measured so far has been written. Source: issues "A pair of policy servers …" and "Postgres: no
acknowledged write lost …" ("Held to").
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.table import Table

from bench import pgbench
from bench.drill import Drill, Result, figures
from bench.pair import SERVERS
from bench.patroni import Patroni, PatroniDrill
from bench.screen import Screen, shown
from bench.stage import need_root, stage
from bench.writers import QUICK, Writers
from lab.store import base

#: Held to, median, by profile (milliseconds; rejoin: seconds)
_GOALS = {
    "recommended": {"crash": 1400.0, "switchover": 150.0, "passive_cut": 4000.0, "passive_stop": 200.0, "rejoin": 8.0},
    "aggressive": {"crash": 500.0},
}
_UNDER_LOAD = {"switchover": 300.0}
#: Ours is held to this many times less than Patroni's outage
_TIMES = 10
_TITLES = {
    "crash": "power cut of the active: write outage, ms",
    "switchover": "ha failover: write outage, ms",
    "link_cut": "every link of the active cut: write outage, ms",
    "passive_cut": "power cut of the passive: pause of writes, ms",
    "passive_stop": "clean stop of the passive: pause of writes, ms",
    "rejoin": "in sync again after power-on, s",
}
EVENTS = ("crash", "switchover", "link_cut", "passive_cut", "passive_stop")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=5, show_default=True, help="How often each event is measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--profile", type=click.Choice(["recommended", "aggressive"]), default="recommended", show_default=True)
@click.option("--event", "events", multiple=True, type=click.Choice(EVENTS), help="Only this; may be given again.")
@click.option("--skip-passive", is_flag=True, help="Only power cuts of the active and planned failovers.")
@click.option("--load", "loaded", is_flag=True, help="pgbench -c4 writes meanwhile.")
@click.option(
    "--segment", type=click.Choice(["1", "16"]), default="16", show_default=True, help="MB of a segment of Postgres's log."
)
@click.option("--against", type=click.Choice(["patroni"]), help="Afterwards the same events with Patroni, in the same lab.")
@click.option("--against-repeats", type=int, help="How often of each with Patroni; as --repeats if not given.")
def main(
    repeats: int, json_file: Path | None, profile: str, events: tuple[str, ...], skip_passive: bool, loaded: bool,
    segment: str, against: str | None, against_repeats: int | None,
) -> None:  # fmt: skip
    """Measure failovers of a pair in a lab."""
    need_root()
    wanted = events or (EVENTS[:2] if skip_passive else EVENTS)
    found: dict[str, Any] = {}
    good = False
    with shown("failover") as screen, stage(screen, "bench-failover", profile=profile, segment=int(segment)) as drill:
        try:
            with _load(drill, found) if loaded else contextlib.nullcontext():
                for number in range(repeats):
                    screen.heading(f"Repeat {number + 1} of {repeats}")
                    one_round(drill, screen, wanted)
            theirs = _patroni(drill, screen, against_repeats or repeats, found) if against else []
            good = all(result.holds for result in (*drill.results, *theirs)) and not found.get("complaints")
        finally:
            found = figures(drill.results) | found
            if json_file is not None:
                json_file.write_text(json.dumps(found, indent=1) + "\n")
            if drill.results:
                screen.console.print(summary(drill.results, _goals(profile, loaded), _title(profile, loaded)))
    sys.exit(0 if good else 1)


def one_round(drill: Drill, screen: Screen, events: Sequence[str]) -> None:
    """Every event once; after each the pair is whole again."""
    calls: dict[str, Callable[[], Result]] = {event: getattr(drill, event) for event in events}
    for event, call in calls.items():
        screen.result(result := call())
        if event in ("crash", "passive_cut", "passive_stop"):
            screen.result(drill.rejoin(result.node))


@contextlib.contextmanager
def _load(drill: Drill, found: dict[str, Any]) -> Iterator[None]:
    """pgbench beside; what it complains of besides dropped connections is in ``found``."""
    pgbench.prepare(drill.pair)
    folder = Path(tempfile.mkdtemp(prefix="ha-load-"))
    load = pgbench.Load(drill.pair.node("client"), folder)
    try:
        yield
    finally:
        load.stop()
        found["complaints"] = load.complaints()
        shutil.rmtree(folder, ignore_errors=True)


def _patroni(drill: Drill, screen: Screen, repeats: int, found: dict[str, Any]) -> list[Result]:
    """The same machines with new disks, and Patroni on them; figures go to ``found["patroni"]``."""
    drill.writers.stop()
    lab = drill.pair.lab
    screen.heading("Patroni, in the same lab")
    for node in SERVERS:
        lab.reinstall(node)
    folder = Path(tempfile.mkdtemp(prefix="patroni-", dir=base()))
    folder.chmod(0o755)
    theirs: PatroniDrill | None = None
    try:
        patroni = Patroni(lab, folder, screen.say)
        patroni.start()
        theirs = PatroniDrill(patroni, Writers(lab, folder / "ledger", host=patroni.hosts, names=[QUICK]))
        theirs.writers.start()
        for number in range(repeats):
            screen.heading(f"Patroni, repeat {number + 1} of {repeats}")
            for result in theirs.round(lab):
                screen.result(result)
        screen.console.print(summary(theirs.results, _least(drill.results), "Patroni"))
        return theirs.results
    finally:
        if theirs is not None:
            found["patroni"] = figures(theirs.results)
            theirs.writers.stop()
        for node in (*SERVERS, "gateway"):
            lab.power_off(node)  # nothing of theirs writes into the folder any more
        shutil.rmtree(folder, ignore_errors=True)


def _least(ours: list[Result]) -> dict[str, float]:
    """What Patroni must need at least for ours to be so many times faster."""
    medians = {kind: _values(kind, [one for one in ours if one.kind == kind])[1] for kind in ("crash", "switchover")}
    return {kind: _TIMES * median(values) for kind, values in medians.items() if values}


def _goals(profile: str, loaded: bool) -> dict[str, float]:
    return _GOALS[profile] | (_UNDER_LOAD if loaded else {})


def _title(profile: str, loaded: bool) -> str:
    return f"Profile {profile}{', pgbench -c4 beside' if loaded else ''}"


def summary(results: list[Result], goals: dict[str, float], title: str) -> Table:
    """Median and spread of each kind of event, with what it is held to."""
    table = Table(title=title, title_justify="left")
    at = "at least" if title == "Patroni" else "held to"
    for name in ("event", "times", "median", "least", "most", "plain libpq, median", at, "lost"):
        table.add_column(name, justify="left" if name == "event" else "right")
    for kind, words in _TITLES.items():
        mine = [result for result in results if result.kind == kind]
        if mine:
            digits, values, plain = _values(kind, mine)
            cells = [f"{value:.{digits}f}" for value in (median(values), min(values), max(values))]
            beside = f"{median(plain):.0f}" if plain else ""
            goal = f"{goals[kind]:.0f}" if kind in goals else ""
            table.add_row(words, str(len(mine)), *cells, beside, goal, str(sum(result.lost for result in mine)))
    return table


def _values(kind: str, results: list[Result]) -> tuple[int, list[float], list[float]]:
    if kind == "rejoin":
        return 1, [result.seconds for result in results], []
    quick = [result.quick.ms for result in results if result.quick]
    return 0, quick, [result.plain.ms for result in results if result.plain]


if __name__ == "__main__":
    main()
