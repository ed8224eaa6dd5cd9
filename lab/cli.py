"""The commands of ``python -m lab``.

Promise: each is one verb of ``api.Lab``; errors are one sentence on stderr and exit status 1, a wrong command line is 2;
``enter`` passes on the status of what it ran. Source: design §2; house style, 11.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from runtime.errors import HaError

from .api import Lab, labs

_RAW = {"ignore_unknown_options": True, "allow_interspersed_args": False}


_one_way = click.option(
    "--one-way", is_flag=False, flag_value="out", help="out (the default) | in, seen from the node named first | FROM, a node."
)


class _Commands(click.Group):
    """Prints what went wrong instead of a trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HaError as wrong:
            click.echo(f"lab: {wrong}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", default="lab", show_default=True, help="Which lab; several run side by side.")
@click.pass_context
def main(context: click.Context, name: str) -> None:
    """Machines on this machine: two policy servers, a gateway, a client, two networks.

    \b
    python -m lab up
    python -m lab enter vs-166 ip addr
    python -m lab power-off vs-166
    python -m lab down
    """
    context.obj = Lab(name)


@main.command()
@click.option("--ephemeral", is_flag=True, help="Take it down when the calling process ends.")
@click.pass_obj
def up(lab: Lab, ephemeral: bool) -> None:
    """Boot all machines."""
    began = time.monotonic()
    lab.up(ephemeral=ephemeral, owner=os.getppid())
    click.echo(f"lab {lab.name} is up ({time.monotonic() - began:.1f} s): {', '.join(node.name for node in lab.nodes)}")


@main.command()
@click.option("--all", "every", is_flag=True, help="Every lab on this machine.")
@click.pass_obj
def down(lab: Lab, every: bool) -> None:
    """End everything and remove every trace, also of a lab whose maker crashed."""
    for name in labs() if every else [lab.name]:
        Lab(name).down()
        click.echo(f"lab {name} is down")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(lab: Lab, as_json: bool) -> None:
    """What is on, and what is wrong with the cables. Exit status 3 when the lab is not up."""
    state: dict[str, Any] = lab.status()
    if as_json:
        click.echo(json.dumps(state, indent=2))
    elif not state["up"]:
        others = [name for name in labs() if name != lab.name]
        click.echo(f"lab {lab.name!r} is not up" + (f"; others are: python -m lab --name {others[0]} status" if others else ""))
    else:
        for name, machine in state["machines"].items():
            cards = "  ".join(f"{card} {address}" for card, address in machine["interfaces"].items())
            click.echo(f"{name:10} {'on ' if machine['power'] else 'off'}  {cards}")
        for link, fault in state["faults"].items():
            click.echo(f"{link}: {fault}")
    sys.exit(0 if state["up"] else 3)


@main.command(context_settings=_RAW)
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def enter(lab: Lab, node: str, command: tuple[str, ...]) -> None:
    """A shell in NODE, or COMMAND; its exit status is passed on."""
    lab.node(node).exec(command)


@main.command("power-off")
@click.argument("node")
@click.pass_obj
def power_off(lab: Lab, node: str) -> None:
    """Cut NODE's power: its links go dead, then it does. Its disk stays."""
    lab.power_off(node)


@main.command("power-on")
@click.argument("node")
@click.pass_obj
def power_on(lab: Lab, node: str) -> None:
    """Boot NODE from its disk."""
    lab.power_on(node)


@main.command()
@click.argument("node")
@click.pass_obj
def shutdown(lab: Lab, node: str) -> None:
    """Shut NODE down cleanly."""
    lab.shutdown(node)


@main.command()
@click.argument("node")
@click.pass_obj
def reboot(lab: Lab, node: str) -> None:
    """Shut NODE down cleanly and boot it."""
    lab.reboot(node)


@main.command()
@click.argument("link")
@_one_way
@click.pass_obj
def cut(lab: Lab, link: str, one_way: str | None) -> None:
    """Lose every frame on LINK; the carrier stays. LINK: vs-166:eth0, interconnect, vs-166/vs-28, vs-166/vs-28:lan."""
    lab.cut(link, one_way=one_way)


@main.command()
@click.argument("link")
@click.pass_obj
def unplug(lab: Lab, link: str) -> None:
    """Pull LINK's cable: the carrier goes."""
    lab.unplug(link)


@main.command()
@click.argument("link", required=False)
@click.pass_obj
def heal(lab: Lab, link: str | None) -> None:
    """Undo cut, unplug and loss on LINK, or on all of them."""
    lab.heal(link)


@main.command()
@click.argument("link")
@click.argument("percent", type=float)
@_one_way
@click.pass_obj
def loss(lab: Lab, link: str, percent: float, one_way: str | None) -> None:
    """Lose PERCENT of the frames on LINK, each way."""
    lab.loss(link, percent, one_way=one_way)


@main.command(context_settings=_RAW)
@click.argument("node")
@click.argument("process")
@click.argument("number", metavar="[-SIGNAL]", required=False, type=click.UNPROCESSED, default="-KILL")
@click.pass_obj
def kill(lab: Lab, node: str, process: str, number: str) -> None:
    """Send a signal (KILL) to PROCESS of NODE: heartbeat, ha_manager, keeper, manager, postgres, …"""
    for pid in lab.node(node).kill(process, _signal(number)):
        click.echo(f"{node}: {number.lstrip('-')} sent to {process} ({pid} on this machine)")


@main.command()
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
@click.pass_obj
def logs(lab: Lab, node: str, follow: bool) -> None:
    """NODE's system log, also when it is off."""
    there = lab.node(node)
    if not follow:
        click.echo(there.log(), nl=False)
        return
    log = there.path("/var/log/syslog")
    os.execvp("tail", ["tail", "-n", "50", "-F", str(Path(log))])


def _signal(text: str) -> int:
    name = text.lstrip("-").upper().removeprefix("SIG")
    try:
        return int(name) if name.isdigit() else signal.Signals[f"SIG{name}"].value
    except KeyError:
        raise click.BadParameter(f"{text!r} is no signal: try -KILL, -STOP, -CONT, -TERM, -HUP, -USR1") from None
