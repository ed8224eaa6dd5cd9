"""The Manager's process: ``python -m manager.daemon [--foreground]``.

Promise: one Manager a device; SIGTERM stops all roles in order and ends, SIGHUP reads the configuration again; killed and
started again, it takes over what runs and restarts nothing. Source: design §7; docs/protocols.md.
"""

from __future__ import annotations

import gc
import signal
from pathlib import Path
from typing import NoReturn

import click

from runtime import service
from runtime.loop import Loop

from .paths import Paths
from .supervisor import Supervisor


def live(paths: Paths, daemon: service.Service) -> int:
    """The body of the daemon."""
    loop = Loop()
    supervisor = Supervisor(paths, loop)

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            supervisor.reread()
        elif number in (signal.SIGTERM, signal.SIGINT):
            supervisor.shut_down("the Manager is being stopped")

    daemon.register(loop.selector, on_signal)
    supervisor.begin()
    daemon.ready()
    # What is there now stays: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    loop.run()
    supervisor.end()
    return 0


@click.command()
@click.option("--foreground", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), help="Folder that the Manager's files are below.")
def main(foreground: bool, root: Path) -> NoReturn:
    """Run the roles of this device (see /etc/Manager/manager.conf.xml).

    Example: python -m manager.daemon --foreground
    """
    paths = Paths(root.absolute())
    service.run("manager", paths.pid_file, lambda daemon: live(paths, daemon), foreground=foreground)


if __name__ == "__main__":
    main()
