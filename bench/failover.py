"""How long a client can't write, again and again: what the demo does, and the loss of the passive.

    sudo .venv/bin/python -m bench.failover --repeats 5 --json FILE [--profile aggressive]

Promise: every figure is a client's own record; nothing is left out, also not a repeat that went wrong: it ends the run with
status 1 after what was measured so far has been written. Source: issue "A pair of policy servers …" ("Held to").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import click
from rich.table import Table

from bench.drill import Drill, Result
from bench.screen import Screen, write_json
from bench.stage import need_root, stage
from runtime.errors import HaError

#: Held to, median, by profile (milliseconds; rejoin: seconds)
_GOALS = {
    "recommended": {"crash": 1600.0, "switchover": 300.0, "passive_cut": 4000.0, "passive_stop": 200.0, "rejoin": 8.0},
    "aggressive": {"crash": 600.0},
}
_TITLES = {
    "crash": "power cut of the active: write outage, ms",
    "switchover": "ha failover: write outage, ms",
    "passive_cut": "power cut of the passive: pause of writes, ms",
    "passive_stop": "clean stop of the passive: pause of writes, ms",
    "rejoin": "in sync again after power-on, s",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=5, show_default=True, help="How often each event is measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--profile", type=click.Choice(["recommended", "aggressive"]), default="recommended", show_default=True)
@click.option("--skip-passive", is_flag=True, help="Only power cuts of the active and planned failovers.")
def main(repeats: int, json_file: Path | None, profile: str, skip_passive: bool) -> None:
    """Measure failovers of a pair in a lab."""
    need_root()
    good = False
    with Screen() as screen:
        try:
            with stage(screen, "bench-failover", profile=profile) as drill:
                try:
                    for number in range(repeats):
                        screen.heading(f"Repeat {number + 1} of {repeats}")
                        one_round(drill, screen, skip_passive)
                    good = all(result.holds for result in drill.results)
                finally:
                    write_json(json_file, drill.results)
                    if drill.results:
                        screen.console.print(summary(drill.results, profile))
        except KeyboardInterrupt:
            sys.exit(130)
        except HaError as wrong:
            sys.exit(f"failover: {wrong}")
    sys.exit(0 if good else 1)


def one_round(drill: Drill, screen: Screen, skip_passive: bool) -> None:
    """Every event once; after each the pair is whole again."""
    screen.result(crash := drill.crash())
    screen.result(drill.rejoin(crash.node))
    screen.result(drill.switchover())
    events: Sequence[Callable[[], Result]] = () if skip_passive else (drill.passive_cut, drill.passive_stop)
    for event in events:
        screen.result(gone := event())
        screen.result(drill.rejoin(gone.node))


def summary(results: list[Result], profile: str) -> Table:
    """Median and spread of each kind of event, with what it is held to."""
    table = Table(title=f"Profile {profile}", title_justify="left")
    for name in ("event", "times", "median", "least", "most", "plain libpq, median", "held to", "lost"):
        table.add_column(name, justify="left" if name == "event" else "right")
    for kind, title in _TITLES.items():
        mine = [result for result in results if result.kind == kind]
        if mine:
            digits, values, plain = _values(kind, mine)
            cells = [f"{value:.{digits}f}" for value in (median(values), min(values), max(values))]
            beside = f"{median(plain):.0f}" if plain else ""
            goal = f"{_GOALS[profile][kind]:g}" if kind in _GOALS[profile] else ""
            table.add_row(title, str(len(mine)), *cells, beside, goal, str(sum(result.lost for result in mine)))
    return table


def _values(kind: str, results: list[Result]) -> tuple[int, list[float], list[float]]:
    if kind == "rejoin":
        return 1, [result.seconds for result in results], []
    quick = [result.quick.ms for result in results if result.quick]
    return 0, quick, [result.plain.ms for result in results if result.plain]


if __name__ == "__main__":
    main()
