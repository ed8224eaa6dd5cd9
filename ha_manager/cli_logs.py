"""``ha logs``: the system log of this server, or of the other one.

Promise: what is printed is the log, byte for byte, and nothing else; what goes wrong is told on stderr. Source: issue "Manager
and notifier" (``ha logs --peer``).
"""

from __future__ import annotations

import contextlib
import os
import sys

import click

from ha_manager.commandline import need_root
from ha_manager.systemlog import MOST


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@click.command(short_help="The system log, also of the other server.")
@click.option("--peer", is_flag=True, help="Of the other server.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until interrupted.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0, MOST), help="So many of the latest lines.")
def logs(peer: bool, follow: bool, lines: int) -> None:
    """The latest lines of the system log of this server, or of the other one.

    Example: ha logs --peer -f | grep heartbeat
    """
    need_root()
    if not peer:
        from ha_manager.systemlog import command

        argv = command(lines, follow)
        os.execv(argv[0], argv)
    from ha_manager.config import load
    from ha_manager.local import addresses
    from ha_manager.logrelay import read_peer

    config = load(addresses())
    try:
        # KeyboardInterrupt: what follows has no other end.
        with contextlib.suppress(KeyboardInterrupt):
            read_peer(config, lines, follow, _write)
    except BrokenPipeError:
        os._exit(0)  # whoever reads has seen enough; Python's own end would try to write once more
