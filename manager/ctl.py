"""``manager-ctl``: what operators and ha_manager tell the Manager.

Promise: returns when it is done, or says what failed. Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 the Manager is
not running. Source: the reference, 2 ("manager-ctl reload [passive]").
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from runtime.channel import Message
from runtime.control import Client
from runtime.errors import ControlError, NotRunning

from .ctl_keys import keys
from .paths import Paths

FAILED = 1
NOT_RUNNING = 3

#: Longer than any limits that a configuration can reasonably add up to; the Manager's own limits end it earlier.
_LONGEST = 3600.0


def _ask(paths: Paths, do: str, fields: Mapping[str, Any], timeout: float = _LONGEST) -> Message:
    try:
        with Client(paths.control, 5.0, name="the Manager") as manager:
            manager.request("ping")
            return manager.request(do, fields, timeout=timeout, on_push=_progress)
    except NotRunning as wrong:
        _fail(f"{wrong}; start it with /etc/init.d/manager start", NOT_RUNNING)
    except ControlError as wrong:
        _fail(str(wrong), FAILED)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"manager-ctl: {text}", err=True)
    sys.exit(code)


def _progress(push: Message) -> None:
    if sys.stderr.isatty():
        click.echo(f"{push.get('name')}: {push.get('state')} ({push.get('because')})", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """Start, stop and look at the roles of this device."""
    context.obj = Paths(root.absolute())


main.add_command(keys)


@main.command("reload", short_help="Read the configuration again and run what it enables.")
@click.argument("mode", type=click.Choice(["passive"], case_sensitive=False), required=False)
@click.pass_obj
def reload_(paths: Paths, mode: str | None) -> None:
    """Read the configuration again and run what it enables: without an argument as an active device, or as a passive one.

    Touches only what differs. Returns when everything runs or is stopped as it should be.

    Example: manager-ctl reload passive
    """
    _ask(paths, "reload", {"passive": mode is not None})


@main.command(short_help="Start a process or a role that an operator stopped.")
@click.argument("name")
@click.pass_obj
def start(paths: Paths, name: str) -> None:
    """Start a process or all of a role that an operator stopped.

    Example: manager-ctl start HA
    """
    _ask(paths, "start", {"name": name})


@main.command(short_help="Stop a process or a role.")
@click.argument("name")
@click.option("--kind", default="handover", show_default=True, help="Told to the init script as STOP_KIND.")
@click.pass_obj
def stop(paths: Paths, name: str, kind: str) -> None:
    """Stop a process or all of a role, until it is started again, a reload or the next boot.

    Example: manager-ctl stop policyserver
    """
    _ask(paths, "stop", {"name": name, "kind": kind})


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(paths: Paths, as_json: bool) -> None:
    """What runs, what should, and why.

    Example: manager-ctl status --json
    """
    answer = _ask(paths, "status", {}, timeout=5.0)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    _print(answer)


def _why(row: Message) -> str:
    """Beside the state. What is an alarm stands below the table already."""
    if row["state"] == "given up":
        return "see the alarm"
    if row["retry_in"] is not None and row["alarm"]:
        return f"see the alarm; next try in {row['retry_in']:.0f} s"
    return str(row["because"])


def _configuration(told: Message) -> list[str]:
    """What is held of the notifier's configurations, and to whom this device listens."""
    if not told:
        return ["configuration: no notifier reaches this device: it has no key yet (manager-ctl keys make)"]
    held = told.get("holds")
    listens = f"; listens to the notifier of {told['passive_of']}, as its passive" if told.get("passive_of") else ""
    if held is None:
        missing = (
            ""
            if told.get("accepts", True)
            else (
                "; no other server's notifier is accepted here (manager-ctl keys accept, with the line of `ha keys show` there)"
            )
        )
        return [f"configuration: none was received yet{listens}{missing}"]
    epoch, node, number = held["version"]
    applied = "applied" if told.get("applied") == held["digest"] else "not applied yet"
    return [f"configuration: release {number} of epoch {epoch}/{node} is held, {applied}{listens}"]


def _print(answer: Message) -> None:
    # Only here: rich takes longer to load than everything else together.
    from rich.console import Console
    from rich.table import Table

    # Into a pipe or a log, lines are not broken: whoever reads them has a width of its own.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
    leaving = f", {answer['leaving']}" if answer["leaving"] else ""
    console.print(f"{answer['mode']} mode{leaving}")
    table = Table("process", "role", "state", "pid", "restarts", "because", box=None, pad_edge=False)
    for row in answer["processes"]:
        pid = str(row["pid"] or "")
        table.add_row(row["name"], row["role"], row["state"], pid, str(row["restarts"] or ""), _why(row))
    console.print(table)
    for line in _configuration(answer.get("receiver", {})):
        console.print(line)
    for name, text in answer["alarms"].items():
        console.print(f"alarm: {name}: {text}", style="red")
    for text in [*answer["warnings"], *([f"refused: {answer['refused']}"] if answer["refused"] else [])]:
        console.print(f"warning: {text}", style="yellow")


if __name__ == "__main__":
    main(prog_name="manager-ctl")
