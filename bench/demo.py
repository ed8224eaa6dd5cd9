"""The main job, shown on one machine: a power cut of the active, its return as the passive, a planned failover.

    sudo ./demo [--keep] [--json FILE]

Promise: ends with 0 only if every acknowledged write is in the database and every event came to its end; leaves nothing behind
unless asked to. Source: issue "A pair of policy servers that fails over, end to end".
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.drill import Drill
from bench.pair import other
from bench.screen import Screen, shown, write_json
from bench.stage import need_root, stage

LAB = "demo"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Leave the lab up at the end and say how to look around.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--profile", type=click.Choice(["recommended", "aggressive"]), default="recommended", show_default=True)
@click.option("--local", is_flag=True, help="Further clients on the policy servers themselves, past the virtual IP.")
def main(keep: bool, json_file: Path | None, profile: str, local: bool) -> None:
    """Two policy servers on this machine, a client that writes, and what happens when the active one loses power."""
    need_root()
    with shown("demo") as screen, stage(screen, LAB, profile=profile, local=local, keep=keep) as drill:
        good = run(drill, screen)
        write_json(json_file, drill.results)
    if keep:
        click.echo(_LOOK_AROUND.format(lab=f"{_python()} -m lab --name {LAB}", active=drill.pair.active()))
    else:
        click.echo("Nothing is left behind. `./demo --keep` leaves the servers up to look around.")
    sys.exit(0 if good else 1)


def run(drill: Drill, screen: Screen) -> bool:
    """The three events; True if nothing acknowledged is missing."""
    crash = drill.crash()
    screen.result(crash)
    screen.result(drill.rejoin(crash.node))
    screen.say(f"{other(crash.node)} stays active: going back is an operator's decision, and this is it")
    screen.result(drill.switchover())
    lost = sum(result.lost for result in drill.results)
    good = all(result.holds for result in drill.results)
    acknowledged = sum(verdict.acknowledged for verdict in drill.results[-1].verdicts)
    ending = "" if good else ": IT DID NOT HOLD"
    screen.heading(f"In all: {acknowledged} writes acknowledged, {lost} of them missing{ending}")
    return good


def _python() -> str:
    """As short as it can be written here: ./demo is called from the checkout."""
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return sys.executable


_LOOK_AROUND = """
The servers are still up, without the clients that wrote; {active} is active. To look around, as root:

  lab="{lab}"
  $lab enter {active} ha show      # everything about the pair, in words
  $lab enter {active} ha explain   # why it is so, and what if the other one died now
  $lab enter {active} ha history   # changes of role, each with its reason
  $lab enter {active}              # a shell there; also: enter client
  $lab power-off {active}          # pull the plug; power-on {active} brings it back
  $lab logs {active}               # its system log
  $lab down                     # end all of it, remove every trace"""


if __name__ == "__main__":
    main()
