"""``python -m manager.receiver``: started by the Manager; by hand for a bench, with a root and a port of its own."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import click

from manager.paths import Paths
from manager.receiver.process import Process, Settings
from runtime import oom, syslog
from runtime.errors import ConfigError, HaError

#: seconds from one look around to the next
PERIOD = 2.0
_NOT_CONFIGURED = 6


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), help="Folder that the device's files are below.")
@click.option("--address", "addresses", multiple=True, default=("0.0.0.0",), help="Where to listen.")
@click.option("--port", type=int, default=4592, show_default=True)
@click.option("--bulk-port", type=int, default=4593, show_default=True, help="For rsync's ssh.")
@click.option("--foreground", is_flag=True, help="Log to stderr.")
def main(root: Path, addresses: tuple[str, ...], port: int, bulk_port: int, foreground: bool) -> None:
    """Receive what notifiers send to this device.

    Example: python -m manager.receiver --foreground --root /tmp/device-7 --address 127.0.0.1 --port 4607
    """
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread is there
    os.umask(0o022)
    syslog.configure("receiver", foreground=foreground)
    oom.last()
    try:
        process = Process(Settings(Paths(root.absolute()), addresses, port, bulk_port))
        process.begin()
    except (HaError, OSError) as wrong:
        print(f"receiver: {wrong}", file=sys.stderr)
        os._exit(_NOT_CONFIGURED if isinstance(wrong, ConfigError) else 1)
    # Manifests are many small things without cycles: looking through all of them again and again takes longer than the rest.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    while True:
        if not process.turn():
            process.end()
            os._exit(0)  # its Manager starts it again
        found = signal.sigtimedwait(signals, PERIOD)
        if found is not None and found.si_signo in (signal.SIGTERM, signal.SIGINT):
            process.end()
            os._exit(0)  # not sys.exit: a thread must not keep it


if __name__ == "__main__":
    main()
