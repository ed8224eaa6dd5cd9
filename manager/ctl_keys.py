"""``manager-ctl keys``: whom this device lets bring its configuration.

Promise: no key is accepted that nobody compared: the fingerprint is asked for, or given. Exit status as in ``manager.ctl``.
Source: docs/operations.md ("Devices"); docs/concepts.md (trust).
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from manager.paths import Paths
from manager.receiver.trust import Trust
from runtime.errors import ConfigError
from runtime.keys import PublicKey, parse


def _fail(text: str) -> NoReturn:
    click.echo(f"manager-ctl: {text}", err=True)
    sys.exit(1)


@click.group()
def keys() -> None:
    """The keys of this device and of the notifiers that may bring its configuration."""


@keys.command()
@click.option("--force", is_flag=True, help="Replace the key that is there; every notifier must then accept the new one.")
@click.option("--name", default="", help="Instead of what `uname -n` prints.")
@click.pass_obj
def make(paths: Paths, force: bool, name: str) -> None:
    """Make this device's key, once.

    Example: manager-ctl keys make
    """
    try:
        _print(Trust(paths.keys).keys.make(name or os.uname().nodename, force=force))
    except ConfigError as wrong:
        _fail(str(wrong))


@keys.command()
@click.pass_obj
def show(paths: Paths) -> None:
    """This device's public key, its fingerprint, and whose notifiers it accepts.

    Example: manager-ctl keys show
    """
    trust = Trust(paths.keys)
    try:
        own = trust.keys.show()
        _print(own)
        introduced = {key.node for key in trust.introduced.all()}
        for key in trust.all():
            if key.node != own.node:
                how = (
                    "introduced by a notifier"
                    if key.node in introduced and trust.accepted.get(key.node) is None
                    else "accepted"
                )
                click.echo(f"notifier {key.node} {key.fingerprint} ({how})")
    except ConfigError as wrong:
        _fail(str(wrong))


@keys.command()
@click.argument("line", nargs=-1, required=True)
@click.option(
    "--fingerprint", default="", help="As `ha keys fingerprint` prints it on the policy server: then nothing is asked."
)
@click.option("--replace", is_flag=True, help="That server was given a new key on purpose.")
@click.pass_obj
def accept(paths: Paths, line: tuple[str, ...], fingerprint: str, replace: bool) -> None:
    """Let the notifier of a policy server bring this device's configuration. LINE: what `ha keys show` prints there.

    Example: manager-ctl keys accept ha-key-1 vs-166 ssh-ed25519 AAAA… x25519 BBBB…
    """
    trust, text = Trust(paths.keys), " ".join(line)
    try:
        _confirm(parse(text), fingerprint)
        key = trust.accept(text, replace=replace)
    except ConfigError as wrong:
        _fail(str(wrong))
    click.echo(
        f"the notifier of {key.node} may bring the configuration of this device; its key has the fingerprint {key.fingerprint}"
    )


def _confirm(key: PublicKey, fingerprint: str) -> None:
    if fingerprint:
        if fingerprint.strip().lower() != key.fingerprint:
            _fail(f"the key of {key.node} has the fingerprint {key.fingerprint}, not {fingerprint}: nothing was accepted")
        return
    click.echo(f"{key.node} {key.fingerprint}")
    if not click.confirm(f"Does `ha keys fingerprint` on {key.node} print the same?"):
        _fail("nothing was accepted")


@keys.command()
@click.argument("node")
@click.pass_obj
def forget(paths: Paths, node: str) -> None:
    """Take no configuration from that server's notifier any more.

    Example: manager-ctl keys forget vs-28
    """
    trust = Trust(paths.keys)
    if not any([trust.accepted.forget(node), trust.introduced.forget(node)]):
        _fail(f"no key of {node} was accepted here")
    click.echo(f"the notifier of {node} is not accepted any more; a session of it that is open is ended within seconds")
    if others := [key.node for key in trust.accepted.all()]:
        click.echo(f"if it is a policy server of theirs, {', '.join(others)} will introduce it again")


def _print(key: PublicKey) -> None:
    click.echo(key.line)
    click.echo(f"fingerprint {key.fingerprint}")
