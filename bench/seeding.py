"""How long a copy of the database takes beside a bare pg_basebackup, and a rejoin after both servers wrote on their own.

    sudo .venv/bin/python -m bench.seeding --repeats 3 --json FILE [--scale 100] [--seconds 10]

Promise: copies take turns with bare ones of the same options, on the same pair in the same run, each of them first in turn;
what was removed before is off the disk when one begins. Ours is counted from the moment ha_manager says "copying"
until the copy streams in the active's pg_stat_replication; the bare one is the program's own time, and what it made is not even
started.

There are two bare ones. ``pg_basebackup_s``, beside which ours is held, ends as ours does: on the disk. That is what an
operator would call; the manual says of ``--no-sync`` that a crash can leave such a copy corrupt, and that it is not for
production. ha_manager passes that option only because it syncs by itself, everything at one blow, before the copy takes the
database's place. ``pg_basebackup_no_sync_s`` is the program with that very option: it leaves 1.5 GB in memory, so ours, beside
it, pays for the disk alone. Both ratios are shown.

A rejoin is counted from the mending of the cables until the loser streams. Nothing is left out; which way each came
and what of it took how long stands beside it (``phases``). Source: issue "Postgres: no acknowledged write lost …" ("Held to").
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import psycopg

from bench.pair import ACTIVE, PASSIVE, SERVERS, Pair, other
from bench.phases import WAY, phases, words
from bench.screen import Screen, shown
from bench.stage import need_root
from lab.api import Lab
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError, HaError

_POLL = 0.02
_LIMIT = 300.0
#: the bare program as ha_manager calls it (basebackup.command), but for the slot, which the active may have dropped with its
#: passive
_BARE = "-c fast -X stream -P -w --no-manifest"
_NO_SYNC = "--no-sync"
_DATABASE = "logs"
_COPYING = re.compile(r"copying with pg_basebackup (?:(--compress=[\w-]+)|without compression)")


@dataclass
class Figures:
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    bare_no_sync: list[float] = field(default_factory=list)
    rejoin: list[float] = field(default_factory=list)
    #: of each, its way and its phases in seconds
    ours_phases: list[dict[str, str | float]] = field(default_factory=list)
    rejoin_phases: list[dict[str, str | float]] = field(default_factory=list)

    def seconds(self) -> dict[str, list[float]]:
        bare = {"pg_basebackup_s": self.bare, "pg_basebackup_no_sync_s": self.bare_no_sync}
        return {"ours_s": self.ours, **bare, "rejoin_s": self.rejoin}

    def as_json(self) -> dict[str, object]:
        return {**self.seconds(), "ours_phases": self.ours_phases, "rejoin_phases": self.rejoin_phases}


class Seeding:
    """A pair with a database of some size."""

    def __init__(self, pair: Pair, screen: Screen, scale: int, verbose: bool = False) -> None:
        self._pair = pair
        self._screen = screen
        self._scale = scale
        self._verbose = verbose
        self.figures = Figures()
        self._connections: dict[str, psycopg.Connection] = {}

    def set_up(self) -> None:
        """The database is filled before HA is turned on: the first copy is one of the whole."""
        self._pair.install()
        self._screen.say(f"pgbench -i -s {self._scale}: about {self._scale * 15} MB")
        self._postgres(ACTIVE, f"pgbench -i -q -s {self._scale} {_DATABASE}", 600.0)
        self._postgres(ACTIVE, "psql -qc CHECKPOINT")
        self._pair.start(_LIMIT)
        size = self._ask(ACTIVE, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
        self._screen.say(f"in sync; all databases together: {int(size) // 2**20} MiB")

    # --- copies -------------------------------------------------------------------------------------------------------------

    def copies(self, number: int) -> None:
        """One of each kind to the same server; in round ``number`` that kind comes first."""
        active = self._pair.active()
        kinds = [self._ours, self._bare, self._bare_no_sync]
        for index in range(len(kinds)):
            kinds[(number + 1 + index) % len(kinds)](other(active), active)
            self._pair.settle(_LIMIT)

    def _options(self, passive: str) -> str:
        """Compression as ha_manager chose it for its own latest copy there."""
        notes = _COPYING.findall(self._pair.node(passive).log())
        return str(notes[-1]) if notes else ""

    def _bare(self, passive: str, active: str) -> None:
        self.figures.bare.append(self._program(passive, active))

    def _bare_no_sync(self, passive: str, active: str) -> None:
        self.figures.bare_no_sync.append(self._program(passive, active, _NO_SYNC))

    def _program(self, passive: str, active: str, *more: str) -> float:
        node, options = self._pair.node(passive), self._options(passive)
        node.write("/tmp/bare.pgpass", node.read("/var/lib/ha_manager/postgres/pgpass"), 0o600)
        node.sh("chown postgres /tmp/bare.pgpass; rm -rf /var/lib/postgresql/bare")
        self._pair.ha(passive, "stop", timeout=120.0)
        node.sh("sync")
        host = self._pair.node(active).address()
        info = f"host={host} user=ha_replication passfile=/tmp/bare.pgpass"
        called = " ".join((_BARE, options, *more))
        began = boottime()
        self._postgres(passive, f"pg_basebackup -d '{info}' -D /var/lib/postgresql/bare {called}", _LIMIT)
        took = round(boottime() - began, 2)
        node.sh("rm -rf /var/lib/postgresql/bare /tmp/bare.pgpass; sync")
        self._pair.ha(passive, "start", timeout=120.0)
        self._screen.say(f"pg_basebackup {called}: {took:.2f} s")
        return took

    def _ours(self, passive: str, active: str) -> None:
        self._pair.ha(passive, "stop", timeout=120.0)
        self._postgres(passive, 'rm -rf "$(ls -d /var/lib/postgresql/*/main)"/*')
        self._pair.node(passive).sh("sync")
        before = len(self._pair.node(passive).log())
        starting = subprocess.Popen(self._pair.node(passive).argv(["ha", "start"]), stdout=subprocess.DEVNULL)
        try:
            self._await(lambda: self._replication(passive) == "copying", "the copy to begin")
            began, since = boottime(), time.time()
            self._await(lambda: self._streams(active), "the copy to stream")
            self.figures.ours.append(round(boottime() - began, 2))
            ended = time.time()
        finally:
            starting.wait(_LIMIT)
        found = phases(self._pair.node(passive).log()[before:], since, ended)
        self.figures.ours_phases.append(found)
        self._screen.say(f"seeding by ha_manager, until it streams: {self.figures.ours[-1]:.2f} s ({words(found)})")

    # --- rejoin -------------------------------------------------------------------------------------------------------------

    def rejoin(self, seconds: float) -> None:
        """Nothing passes between the two: each goes on alone, under load. The loser comes back."""
        self._pair.settle(_LIMIT)
        active = self._pair.active()
        with self._load(active):
            time.sleep(2.0)
            self._pair.lab.cut(f"{ACTIVE}/{PASSIVE}")
            self._pair.until(lambda seen: len(seen.active) == 2, 30.0, "both to go on alone")
            with self._load(other(active)):
                time.sleep(seconds)
        self._screen.say(f"both served for {seconds:g} s under pgbench -c 4; the cables are mended")
        before = {name: len(self._pair.node(name).log()) for name in SERVERS}
        began, since = boottime(), time.time()
        self._pair.lab.heal()
        self._await(lambda: self._one_streams(), "the loser to stream")
        self.figures.rejoin.append(round(boottime() - began, 2))
        ended = time.time()
        logs = [self._pair.node(name).log()[before[name] :] for name in SERVERS]
        found = max((phases(log, since, ended) for log in logs), key=lambda each: bool(each[WAY]))
        self.figures.rejoin_phases.append(found)
        self._screen.say(f"rejoined and streaming after {self.figures.rejoin[-1]:.2f} s ({words(found)})")
        for log in logs if self._verbose else ():
            self._screen.plain(log)
        self._pair.settle(_LIMIT)
        for name in SERVERS:
            self._pair.ha(name, "diverged", "remove", "--all", "--force", check=False)
            self._pair.ha(name, "resume", check=False)

    @contextmanager
    def _load(self, node: str) -> Iterator[None]:
        argv = ["runuser", "-u", "postgres", "--", *self._bin(node, "pgbench"), "-n", "-c", "4", "-T", "3600", _DATABASE]
        load = self._pair.node(node).popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            load.terminate()
            load.wait(10.0)
            self._pair.node(node).run(["pkill", "-x", "pgbench"], check=False)

    # --- asking -------------------------------------------------------------------------------------------------------------

    def _postgres(self, node: str, script: str, timeout: float = 60.0) -> str:
        path = f"PATH=$PATH:{Path(self._bin(node, 'x')[0]).parent}; "
        return self._pair.node(node).run(["runuser", "-u", "postgres", "--", "sh", "-c", path + script], timeout=timeout).stdout

    def _bin(self, node: str, program: str) -> list[str]:
        version = max(path.name for path in self._pair.node(node).path("/usr/lib/postgresql").iterdir())
        return [f"/usr/lib/postgresql/{version}/bin/{program}"]

    def _ask(self, node: str, sql: str) -> str:
        """Over a connection that stays: fifty new ones a second take a fifth of a processor from what is measured."""
        if (connection := self._connections.get(node)) is None:
            folder = f"/proc/{self._pair.node(node).pid}/root/run/postgresql"
            info = f"host={folder} user=postgres dbname=postgres connect_timeout=2"
            connection = self._connections[node] = psycopg.connect(info, autocommit=True)
        try:
            row = connection.execute(sql).fetchone()
        except psycopg.Error:
            self._connections.pop(node).close()
            raise
        return str(row[0]) if row else ""

    def _streams(self, active: str) -> bool:
        with suppress(psycopg.Error):
            sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name LIKE 'ha\\_vs%'"
            return self._ask(active, sql) == "1"
        return False

    def _one_streams(self) -> bool:
        return any(self._streams(node) for node in SERVERS)

    def _replication(self, node: str) -> str:
        try:
            with Client(self._pair.node(node).path("/run/ha_manager/control"), 1.0) as ha_manager:
                return str(ha_manager.request("status").get("replication"))
        except (ControlError, OSError):
            return ""

    def _await(self, true: Callable[[], bool], what: str) -> None:
        end = boottime() + _LIMIT
        while not true():
            if boottime() > end:
                raise HaError(f"waited {_LIMIT:g} s for {what}")
            time.sleep(_POLL)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=3, show_default=True, help="How often each is measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
@click.option("--scale", default=100, show_default=True, help="Of pgbench: 15 MB each.")
@click.option("--seconds", default=10.0, show_default=True, help="How long both write on their own before a rejoin.")
@click.option("--keep", is_flag=True, help="Leave the lab up, for another run with --again.")
@click.option("--again", is_flag=True, help="On the lab that --keep left up; its database is there already.")
@click.option("--lab", "lab_name", default="bench-seeding", show_default=True, help="Name of the lab.")
@click.option("--verbose", is_flag=True, help="Show the system logs of each rejoin.")
@click.option("--only", type=click.Choice(["copies", "rejoin"]), help="One of the two.")
def main(
    repeats: int,
    json_file: Path | None,
    scale: int,
    seconds: float,
    keep: bool,
    again: bool,
    lab_name: str,
    verbose: bool,
    only: str | None,
) -> None:
    """Measure copies of the database, and rejoins, of a pair in a lab."""
    need_root()
    with shown("seeding") as screen:
        lab = Lab(lab_name, progress=screen.say)
        if not again:
            lab.up(ephemeral=not keep)
        seeding = Seeding(Pair(lab, screen.say), screen, scale, verbose)
        try:
            if not again:
                seeding.set_up()
            for number in range(repeats):
                screen.heading(f"Repeat {number + 1} of {repeats}")
                if only != "rejoin":
                    seeding.copies(number)
                if only != "copies":
                    seeding.rejoin(seconds)
        except (HaError, psycopg.Error):
            screen.plain(seeding._pair.explain())
            raise
        finally:
            if json_file is not None:
                json_file.write_text(json.dumps(seeding.figures.as_json(), indent=1) + "\n")
            _summary(screen, seeding.figures)
            if not keep:
                lab.down()


def _summary(screen: Screen, figures: Figures) -> None:
    for name, values in figures.seconds().items():
        if values:
            screen.plain(f"{name}: median {median(values):.2f}, {min(values):.2f} to {max(values):.2f} ({len(values)} times)")
    for name, bare in (("pg_basebackup", figures.bare), (f"pg_basebackup {_NO_SYNC}", figures.bare_no_sync)):
        if figures.ours and bare:
            screen.plain(f"ours / {name}, medians: {median(figures.ours) / median(bare):.2f}")


if __name__ == "__main__":
    main()
