"""``notifier-ctl``: what operators and the policy server tell the notifier.

Promise: ``commit`` returns when every device that can be reached has it, or says what failed. Exit status: 0 done; 1 refused,
or failed altogether: nothing was committed; 2 wrong usage; 3 the notifier is not running; 4 committed, but not every device has
it (those that don't get it as soon as they can), or the notifier died before it answered. Source: Trustwave §2.3, §2.6, §3.1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runtime.channel import Message
from runtime.errors import ControlError, HaError, NotPermitted, NotRunning, Refused

from .client import ask
from .paths import Paths

if TYPE_CHECKING:
    from rich.table import Table

FAILED = 1
NOT_RUNNING = 3
NOT_ALL = 4

#: a first commit of a large tree to many devices takes as long as it takes
_LONGEST = 24 * 3600.0
_HAVE_IT = "stable"
#: columns, into a pipe: whoever reads it has a width of its own
_UNBROKEN = 4096


def _ask(paths: Paths, do: str, fields: Mapping[str, Any] | None = None, timeout: float = 10.0, watch: Any = None) -> Message:
    try:
        return ask(paths.control, do, fields, timeout=timeout, watch=watch)
    except NotRunning as wrong:
        _fail(f"{wrong}; {_where(paths)}", NOT_RUNNING)
    except (Refused, NotPermitted) as wrong:
        _fail(str(wrong), FAILED)
    except ControlError as wrong:
        if do != "commit":
            _fail(str(wrong), FAILED)
        after = "whether it was committed is not known. If it was, the next notifier, here or on the new active server, goes on"
        _fail(f"{wrong}; {after}: `notifier-ctl status`, and commit again", NOT_ALL)


def _where(paths: Paths) -> str:
    """It may be right that it does not run here."""
    from heartbeat.model import Role
    from heartbeat.rolefile import RoleFile
    from runtime.clock import boottime

    line = RoleFile(paths.role).read()
    if line is not None and line.role is Role.PASSIVE and line.expires > boottime():
        there = f" ({line.epoch.node})" if line.epoch.node != os.uname().nodename else ""
        return f"this server is passive: use it on the active one{there}"
    return "it runs where the role notifier does: `manager-ctl status`, `manager-ctl start notifier`"


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"notifier-ctl: {text}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """Bring the configuration to the devices, and see who has what."""
    context.obj = Paths(root.absolute())


# --- commit -----------------------------------------------------------------------------------------------------------------


class _Progress:
    """One line on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._shown = sys.stderr.isatty()

    def __call__(self, push: Message) -> None:
        self._states[str(push.get("name"))] = str(push.get("state"))
        if self._shown:
            done = sum(state == _HAVE_IT for state in self._states.values())
            words = f"{done} of {len(self._states)} have it; {push.get('name')}: {push.get('state')}"
            click.echo(f"\r\x1b[K{words[:79]}", err=True, nl=False)

    def end(self) -> None:
        if self._shown and self._states:
            click.echo("\r\x1b[K", err=True, nl=False)


@main.command(short_help="Bring what base is now to the devices.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this device (again for more): a system update step by step.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def commit(paths: Paths, only: tuple[str, ...], as_json: bool) -> None:
    """Bring what /var/policyserver/configuration/base is now to the devices, policy servers first.

    No device switches before it holds everything. Returns when every device that can be reached has it, or says what failed;
    a device that is away, or failed, gets it as soon as it can. Exit status 4: not every device has it yet.

    Example: notifier-ctl commit --only scan-1 --only scan-2
    """
    progress = _Progress()
    try:
        said = _ask(paths, "commit", {"only": list(only)} if only else {}, _LONGEST, progress)
    finally:
        progress.end()
    if as_json:
        click.echo(json.dumps(said, indent=2))
    else:
        failures = said["failures"]
        click.echo(
            f"release {said['version']}: {said['devices'] - len(failures)} of {said['devices']} devices have it "
            f"({said['seconds']:.1f} s)"
        )
        for each in failures:
            click.echo(each, err=True)
    sys.exit(NOT_ALL if said["failures"] else 0)


# --- looking ----------------------------------------------------------------------------------------------------------------


@main.command(short_help="Who has what: sync, connection, committing, replication.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Again every second until interrupted; with --json a line each time.")
@click.option("--now", is_flag=True, help="Ask every device now; otherwise what it said in the last 12 seconds.")
@click.pass_obj
def status(paths: Paths, as_json: bool, watch: bool, now: bool) -> None:
    """Every device: in sync or not, connected, committing; replication (policy servers); when it was last heard; version.

    Example: notifier-ctl status --watch
    """
    if as_json:
        while watch:
            click.echo(json.dumps(_ask(paths, "status", {"now": now})))
            time.sleep(1.0)
        click.echo(json.dumps(_ask(paths, "status", {"now": now}), indent=2))
    elif watch:
        _watch(paths, now)
    else:
        _print(_ask(paths, "status", {"now": now}))


def _watch(paths: Paths, now: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    try:
        with Live(console=Console(highlight=False, markup=False), auto_refresh=False, screen=sys.stdout.isatty()) as live:
            while True:
                live.update(_view(paths, now), refresh=True)
                time.sleep(1.0)
    except KeyboardInterrupt:
        sys.exit(0)


def _view(paths: Paths, now: bool) -> Table | str:
    """Whoever watches sees a failover, or a restart of the notifier, pass."""
    try:
        answer = ask(paths.control, "status", {"now": now}, timeout=10.0)
    except ControlError as wrong:
        return f"{wrong}; {_where(paths)}"
    return _table(answer) if answer["acts"] else f"no device is served from here: {answer['because']}"


def _table(answer: Message) -> Table:
    from rich.table import Table

    title = f"{answer['because']}; newest release: {answer['release'] or 'none'}"
    names = ("device", "type", "sync", "connection", "committing", "replication", "last connection", "version", "")
    table = Table(*names, box=None, pad_edge=False, title=title, title_justify="left", title_style="")
    for row in answer["devices"]:
        table.add_row(
            row["name"], row["type"], row["sync"], row["connection"], row["committing"], row["replication"],
            row["last_connection"] or "never", row["version"], row["because"],
        )  # fmt: skip
    return table


def _print(answer: Message) -> None:
    # Only here: rich takes longer to load than everything else together.
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else _UNBROKEN)
    if answer["acts"]:
        console.print(_table(answer))
    else:
        console.print(f"no device is served from here: {answer['because']}")
    if answer["refused"]:
        console.print(f"warning: {answer['refused']}", style="yellow")


@main.command(short_help="The devices and how each is reached.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def devices(paths: Paths, as_json: bool) -> None:
    """The devices of devices.xml, with address, port, and the fingerprint of the key that is pinned.

    Example: notifier-ctl devices
    """
    from runtime.keys import Keys

    from .devices import load
    from .enrolment import KnownKeys
    from .line import PORT

    try:
        known = KnownKeys(paths.device_keys, Keys(paths.keys))
        rows = []
        for each in load(paths.devices):
            key = known.get(each.device.name)
            rows.append(
                {"name": each.device.name, "type": each.device.kind.value, "ip": each.ip, "port": each.port or PORT,
                 "id": each.id, "fingerprint": key.fingerprint if key else ""}
            )  # fmt: skip
    except HaError as wrong:
        _fail(str(wrong), FAILED)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        pinned = row["fingerprint"] or f"no key pinned: notifier-ctl enroll {row['name']}"
        click.echo(f"{row['name']:20} {row['type']:18} {row['ip']} port {row['port']}  id {row['id']}  {pinned}")


@main.command(short_help="What happened, newest last.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("-n", "lines", default=50, show_default=True, help="So many of them.")
@click.pass_obj
def history(paths: Paths, as_json: bool, lines: int) -> None:
    """Changes of the devices' states since the notifier began, each with its reason.

    Example: notifier-ctl history -n 20
    """
    changes = _ask(paths, "history")["changes"][-lines:]
    if as_json:
        click.echo(json.dumps(changes, indent=2))
        return
    for each in changes:
        click.echo(f"{each['at']}  {each['name']}: {each['before']} -> {each['after']}: {each['because']}")


@main.command(short_help="The whole in sentences.")
@click.pass_obj
def explain(paths: Paths) -> None:
    """Whether this notifier serves the devices, and what each of them has or lacks, in sentences.

    Example: notifier-ctl explain
    """
    for line in _ask(paths, "explain")["lines"]:
        click.echo(line)


# --- trust ------------------------------------------------------------------------------------------------------------------


@main.command(short_help="Pin the key of a device.")
@click.argument("name")
@click.option("--fingerprint", metavar="F", help="What it must be, from `manager-ctl keys show` there; nothing is asked then.")
@click.option("--replace", is_flag=True, help="The device was given a new key on purpose.")
@click.pass_obj
def enroll(paths: Paths, name: str, fingerprint: str | None, replace: bool) -> None:
    """Fetch the public key of a device of devices.xml, compare its fingerprint with `manager-ctl keys show` there, and pin it.

    Nothing is trusted before somebody has compared. A Management Server becomes the peer of this one's ha_manager, too, where
    none is pinned yet.

    Example: notifier-ctl enroll scan-1
    """
    from .enrolment import Enrolment

    try:
        enrolment = Enrolment(paths, name)
        key = enrolment.fetch()
        if fingerprint is None and not enrolment.is_own:
            click.echo(f"{name} shows the key with the fingerprint {key.fingerprint}")
            click.confirm("Is it what `manager-ctl keys show` prints there?", abort=True)
        elif fingerprint is not None and fingerprint.strip().lower() != key.fingerprint:
            _fail(f"{name} shows another key: its fingerprint is {key.fingerprint}. Nothing was pinned", FAILED)
        for line in enrolment.pin(key, replace=replace):
            click.echo(line)
    except HaError as wrong:
        _fail(str(wrong), FAILED)


if __name__ == "__main__":
    main(prog_name="notifier-ctl")
