"""How long the commands that scripts and probes call take: ``ha amIactive``, ``ha status``.

    sudo .venv/bin/python -m bench.commands --repeats 100 --json FILE

Promise: wall time of the command alone, measured inside the policy server by a program that only starts it and waits; the
entering of the lab's machine is not in it. Source: issue "A pair of policy servers …" ("Held to").
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import click

from bench.drill import Drill
from bench.screen import shown
from bench.stage import need_root, stage

#: milliseconds
GOALS = {"amIactive": 5.0, "status": 150.0}
_MEASURE = """
import json, subprocess, sys, time
words, times = sys.argv[2:], []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    times.append((time.perf_counter() - began) * 1000)
print(json.dumps(times))
"""


def measure(drill: Drill, node: str, command: str, repeats: int) -> list[float]:
    """Milliseconds of each call of ``ha COMMAND`` on ``node``."""
    words = ["/usr/bin/python3", "-c", _MEASURE, str(repeats), "/usr/bin/ha", command]
    times: list[float] = json.loads(drill.pair.node(node).run(words, timeout=600.0).stdout)
    return times


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=100, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
def main(repeats: int, json_file: Path | None) -> None:
    """Measure ``ha amIactive`` and ``ha status`` on the active of a pair that is being written to."""
    need_root()
    found: dict[str, dict[str, list[float]]] = {}
    with shown("commands") as screen, stage(screen, "bench-commands", profile="recommended") as drill:
        node = drill.pair.active()
        for command, goal in GOALS.items():
            times = measure(drill, node, command, repeats)
            found[command] = {"ms": [round(ms, 2) for ms in times]}
            spread = f"{min(times):.2f} to {max(times):.2f}"
            screen.plain(f"ha {command}: median {median(times):.2f} ms ({spread}); held to {goal:g} ms")
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
