"""The notifier's process: ``python -m notifier.daemon [--foreground]``.

Promise: one notifier a server; it runs on a policy server, and serves the devices while that is the active one. SIGHUP reads
devices.xml and keys again; SIGTERM ends the sessions and itself, and a commit that is under way goes on at the next start.
Exit status: 0 stopped as asked; 1 failed; 6 not configured. Source: design §7; docs/protocols.md.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import click

from notifier import report
from notifier.bulk import Bulk
from notifier.devices import Listed
from notifier.enrolment import KnownKeys
from notifier.line import Library, Line, open_line
from notifier.links import Talker
from notifier.paths import Paths
from notifier.process import Notifier
from runtime import service
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.loop import Loop

log = logging.getLogger(__name__)


def dialler(keys: Keys) -> Callable[[Notifier], Callable[[Listed], Talker]]:
    """How the daemon reaches its devices."""

    def made(notifier: Notifier) -> Callable[[Listed], Talker]:
        library, known = Library(notifier.store), KnownKeys(notifier.paths.device_keys, keys)

        def dial(listed: Listed) -> Line:
            """In a thread. Raises HaError."""
            name = listed.device.name
            pinned = known.get(name)
            if pinned is None:
                raise ConfigError("no key of this device is pinned", remedy=f"`notifier-ctl enroll {name}`")
            bulk = Bulk(notifier.paths.run / "ssh" / name, keys, pinned, listed.ip)
            line = open_line(listed, keys, pinned, partial(notifier.version_for, name), library, bulk)
            _introduce(line, notifier, known, name)
            return line

        return dial

    return made


def _introduce(line: Line, notifier: Notifier, known: KnownKeys, name: str) -> None:
    """Tell it the other policy server's key, so that it knows that one's notifier after a failover."""
    for other in notifier.policy_servers():
        if other in (notifier.node, name):
            continue
        with contextlib.suppress(ConfigError):
            if (key := known.get(other)) is not None:
                try:
                    line.introduce(key)
                except HaError as wrong:
                    log.warning("%s does not take the key of %s: %s", name, other, wrong)


def _node(keys: Keys) -> str:
    """This node, also before it has keys: what is missing is told beside each device."""
    try:
        return keys.show().node
    except ConfigError:
        return os.uname().nodename


def live(paths: Paths, daemon: service.Service) -> int:
    """The body of the daemon."""
    keys = Keys(paths.keys)
    loop = Loop()
    notifier = Notifier(paths, loop, _node(keys), dialler(keys), report)

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            notifier.reread()
        elif number in (signal.SIGTERM, signal.SIGINT):
            loop.stop()

    daemon.register(loop.selector, on_signal)
    notifier.begin()
    daemon.ready()
    gc.collect()
    gc.freeze()
    loop.run()
    notifier.end()
    return 0


@click.command()
@click.option("--foreground", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), help="Folder that the notifier's files are below.")
def main(foreground: bool, root: Path) -> NoReturn:
    """Bring the committed configuration to every device.

    Example: python -m notifier.daemon --foreground
    """
    paths = Paths(root.absolute())
    service.run("notifier", paths.pid_file, lambda daemon: live(paths, daemon), foreground=foreground)


if __name__ == "__main__":
    main()
