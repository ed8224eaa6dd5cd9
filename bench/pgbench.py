"""A load of transactions beside what is measured: pgbench through the virtual IP, begun anew whenever it ends.

    python -m bench.pgbench --host 192.168.120.187 --log FILE      (until its standard input is closed)

Promise: pgbench gives up when a connection breaks; the pause until the next one is 50 ms. Everything that it complains of is in
the log, so that an error other than a dropped connection shows. Source: issue "Postgres: no acknowledged write lost …".
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import click

from bench.pair import Pair
from bench.record import is_dropped
from lab.machine import Node
from lab.topology import VIP

_PROJECT = str(Path(__file__).resolve().parent.parent)
_PAUSE = 0.05
#: what libpq does when a server dies silently; without it, a client of its waits for minutes
_SETTINGS = "dbname=policy_server user=ledger connect_timeout=2 tcp_user_timeout=500 keepalives_idle=1 keepalives_interval=1"
CLIENTS, SCALE = 4, 10


def prepare(pair: Pair) -> None:
    """pgbench's tables in the database of the active, which its standby gets as well; the ledger's role may use them."""
    pair.say(f"Creating pgbench's tables, scale {SCALE}")
    grant = "GRANT ALL ON pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history TO ledger"
    node = pair.node(pair.active())
    as_postgres = ["runuser", "-u", "postgres", "--"]
    node.run([*as_postgres, *_program(), "-i", "-q", "-s", str(SCALE), "policy_server"], timeout=120.0)
    node.run([*as_postgres, "psql", "-q", "-d", "policy_server", "-c", grant])


def _program() -> list[str]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[4]))
    return [str(found[-1])]


class Load:
    """pgbench on the lab's client until ``stop``."""

    def __init__(self, node: Node, folder: Path) -> None:
        self._log = folder / "pgbench.log"
        argv = [sys.executable, "-m", "bench.pgbench", "--host", VIP, "--log", str(self._log)]
        self._process = node.popen(argv, files="host", env={"PYTHONPATH": _PROJECT}, stdin=subprocess.PIPE)

    def complaints(self) -> list[str]:
        """Errors that are not just a dropped or a refused connection."""
        return complaints(self._log.read_text(errors="replace") if self._log.exists() else "")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10.0)


def complaints(log: str) -> list[str]:
    """Lines of pgbench's error output that tell of something else than a connection that ended or could not be made."""
    telling = [line for line in log.splitlines() if "ERROR" in line or "FATAL" in line or "error:" in line]
    return list(dict.fromkeys(line for line in telling if not is_dropped(line)))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", required=True)
@click.option("--log", type=click.Path(path_type=Path), required=True)
def main(host: str, log: Path) -> None:
    """Run pgbench again and again until standard input is closed."""
    ended = threading.Event()
    argv = [*_program(), "-n", "-c", str(CLIENTS), "-j", "2", "-T", "3600", f"host={host} {_SETTINGS}"]
    running: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        sys.stdin.buffer.read()
        ended.set()
        for process in running:
            process.kill()

    threading.Thread(target=end, daemon=True).start()
    with log.open("ab") as output:
        while not ended.is_set():
            running[:] = [subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output)]
            if ended.is_set():
                running[0].kill()
            running[0].wait()
            ended.wait(_PAUSE)


if __name__ == "__main__":
    main()
