"""``director``: what an operator asks about the proxy's virtual addresses and its scanning nodes.

Promise: no traceback for what an operator can cause. Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 the director is
not running; 6 not configured. Source: design §8.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import click

from director.cli_plane import add_to, render_cluster
from director.metrics import measured
from runtime.control import Client
from runtime.errors import ConfigError, HaError, NotRunning

CONTROL = "/run/director/control"
FAILED, NOT_RUNNING, NOT_CONFIGURED = 1, 3, 6
_TIMEOUT = 5.0
_WATCH_PERIOD = 1.0


def fail(text: str, code: int) -> NoReturn:
    click.echo(f"director: {text}", err=True)
    sys.exit(code)


class Group(click.Group):
    """Errors become one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as wrong:
            fail(f"{wrong}\nnothing was changed", NOT_CONFIGURED)
        except NotRunning as wrong:
            fail(f"{wrong}; /etc/init.d/director start starts it", NOT_RUNNING)
        except HaError as wrong:
            fail(str(wrong), FAILED)


def ask(do: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer of the director that runs here. Raises HaError."""
    with Client(CONTROL, _TIMEOUT, name="director") as director:
        return director.request(do, fields)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The proxy's virtual addresses, and the nodes that serve its clients."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
def status(as_json: bool, watch: bool) -> None:
    """Who is director, which virtual addresses are where, and what is wrong.

    Example: director status --watch
    """
    while True:
        try:
            answer = ask("status")
            text = json.dumps(answer) if as_json else "\n".join(render(answer))
        except HaError as wrong:  # it may be started again
            if not watch:
                raise
            text = json.dumps({"ok": False, "error": str(wrong)}) if as_json else f"director: {wrong}"
        if watch and not as_json:
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(_WATCH_PERIOD)


@main.command()
def metrics() -> None:
    """The status as numbers, in Prometheus's text format; for node_exporter's textfile collector, say.

    Example: director metrics >/var/lib/node_exporter/director.prom
    """
    click.echo("\n".join(measured(ask("status"))))


@main.command("reload")
def reload_() -> None:
    """Read module.xml again and apply the difference, as SIGHUP does; no connection is dropped.

    Example: director reload
    """
    changed = ask("reload")["changed"]
    click.echo(f"changed: {', '.join(changed) or 'nothing'}")


def render(answer: Mapping[str, Any]) -> list[str]:
    """The status in words."""
    lines = [f"{answer['node']}: {answer['role']}, priority {answer['priority']}, load balancing ID {answer['lbid']}"]
    for router in answer["routers"]:
        lines += _router(router)
    for alarm in answer["alarms"]:
        lines.append(f"ALARM since {_clock(alarm['since'])}: {alarm['text']}")
    lines += render_cluster(answer.get("cluster", {}))
    lines += [f"note: {text}" for text in answer["refused_by_system"]]
    return lines


add_to(main, ask)


def _router(router: Mapping[str, Any]) -> list[str]:
    name = f"virtual router {router['vrid']} (VRRPv{router['version']}, IPv{router['family']}, {router['interface']})"
    priority = f"priority {router['effective_priority']}"
    if router["effective_priority"] != router["priority"]:
        priority += f" of {router['priority']}"
    lines = [f"{name}: {router['state']} since {_clock(router['since'])}, {priority}: {router['because']}"]
    if router["state"] != "master":
        master = f"{router['master']}, priority {router['master_priority']}" if router["master"] else "none is known"
        lines.append(f"  master: {master}" + ("; this node is its designated successor" if router["designated"] else ""))
    for vip in router["virtual_ips"]:
        lines.append(f"  {vip['ip']}/{vip['prefix']} on {vip['interface']}: {'here' if vip['held'] else 'not here'}")
    counters = router["counters"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(counters["dropped"].items())) or "none"
    lines.append(f"  adverts: {counters['sent']} sent, {counters['received']} received; dropped: {dropped}")
    return lines


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    main(prog_name="director")
