"""A diverged database made to follow again by pg_rewind: only what differs from the active's is copied, in place.

Promise: while the data is neither the old nor the new one, a folder beside it says so (``interrupted``), and until a fresh
copy has taken its place nobody starts it; what lay beyond the fork was kept before (``keepsake``). That it worked is shown by
its streaming, not by the exit status. Source: facts/postgres.md 7; design §4 rule 10; the manual's page on pg_rewind.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ha_manager import cluster, controldata, seeding, space, startfence, tablespaces, transfer
from ha_manager.adoption import REPLICATION_ROLE
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.observation import Identity, Progress, Upstream
from ha_manager.postgres_child import Launch, prepare_launch
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.sql import Session, unlimited
from ha_manager.transfer import Cancelled, OnProgress, Watch
from runtime import commands, durable
from runtime.clock import boottime
from runtime.errors import ReplicationError

#: What pg_rewind reads the active's files with; the replication role may read them all anyway, by copying the database.
FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)  # fmt: skip
_POLL = 0.1
#: MB: all log there is. The checkpoint that ends crash recovery would remove what pg_rewind reads: from before the fork on.
_ALL = 2**31 - 1
_CLEAN = ("shut down", "shut down in recovery")


def _aside(config: PostgresConfig) -> Path:
    return config.data_dir.with_name(config.data_dir.name + ".rewinding")


def interrupted(config: PostgresConfig) -> bool:
    """A rewind began and was not completed: this database is neither the old one nor the active's."""
    return _aside(config).exists()


class NotYet(ReplicationError):
    """The active can't be asked now. Nothing was begun."""


def rewind(config: PostgresConfig, node: str, upstream: Upstream, active: Identity, progress: OnProgress, limit: float) -> str:
    """Postgres stopped, its log kept. Returns what took how long, in words. Raises NotYet, Cancelled; ReplicationError or
    CommandFailed where only a copy helps.
    """
    clock, times = Clock(limit), Times()
    info = upstream_conninfo(upstream, f"ha_rewind_{node}", Paths(config.state_dir).passfile) + unlimited(config.version)
    await_checkpoint(info, active.timeline, progress, clock)
    times.end("the active's checkpoint")
    _recover_from_crash(config, progress, clock)
    times.end("crash recovery")
    # All of the active's log comes along. One that breaks off amid a rewind would have spoilt the database for nothing.
    space.check_for(config.data_dir, active.wal, "what pg_rewind fetches")
    begin(config)
    argv = [
        *transfer.as_user(config.user), str(config.bin_dir / "pg_rewind"), "-D", str(config.data_dir),
        f"--source-server={info} dbname=postgres", "--no-ensure-shutdown", "--progress",
        "--no-sync",
    ]  # fmt: skip
    transfer.end_leftovers(config.data_dir)
    disks = [config.data_dir, *tablespaces.outside(config.data_dir)]
    watch = Watch(disks=disks, later=300.0, doing="comparing with the active")
    transfer.run(argv, config.user, progress, clock.need("pg_rewind"), watch)
    times.end("pg_rewind")
    if not (config.data_dir / "backup_label").exists():
        raise ReplicationError("pg_rewind saw no difference, although the databases diverged")
    restore_own_files(config)
    transfer.sync(disks, progress, clock.need("writing to the disk"))
    complete(config)
    times.end("writing to the disk")
    return str(times)


class Times:
    """What took how long."""

    def __init__(self) -> None:
        self._last = boottime()
        self._said: list[str] = []

    def end(self, what: str) -> None:
        """``what`` has just ended."""
        now = boottime()
        self._said.append(f"{what} {now - self._last:.1f} s")
        self._last = now

    def __str__(self) -> str:
        return ", ".join(self._said)


def begin(config: PostgresConfig) -> None:
    """From here on the data is not to be started; this server's own configuration files are kept aside."""
    making = _leaving(config)
    tidy(config)
    startfence.bar(config.data_dir)
    making.mkdir(mode=0o700)
    seeding.keep_own_files(config, making)
    durable.sync_folder(making)
    making.rename(_aside(config))
    durable.sync_folder(making.parent)


def restore_own_files(config: PostgresConfig) -> None:
    """pg_rewind copies the active's configuration files, too, where they lie in the data directory. Nothing if none began."""
    aside = _aside(config)
    for path in sorted(aside.rglob("*")):
        if path.is_file():
            target = config.data_dir / path.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            shutil.chown(target, config.user, commands.identity(config.user)["group"])


def complete(config: PostgresConfig) -> None:
    """The data is whole: rewound, or replaced by a fresh copy."""
    aside = _aside(config)
    tidy(config)
    startfence.up(config.data_dir, config.user)
    if aside.exists():
        aside.rename(_leaving(config))
        durable.sync_folder(aside.parent)
        tidy(config)


def tidy(config: PostgresConfig) -> None:
    """What was not yet, or is no longer, the mark of a rewind under way."""
    shutil.rmtree(_leaving(config), ignore_errors=True)


def _leaving(config: PostgresConfig) -> Path:
    return _aside(config).with_name(_aside(config).name + ".tmp")


def grant(session: Session, limit: float, functions: Sequence[str] = FUNCTIONS) -> None:
    """On the active: what the peer's pg_rewind needs, or other ``functions``. Only what isn't granted yet."""
    clock = Clock(limit)
    for function in functions:
        asked = [REPLICATION_ROLE, function]
        if session.one("SELECT has_function_privilege($1, $2, 'EXECUTE')::text", clock.left, asked) != "true":
            session.rows(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {REPLICATION_ROLE}", clock.left)


def await_checkpoint(info: str, timeline: int, progress: OnProgress, clock: Clock) -> None:
    """Before it, pg_rewind reads the old timeline in the active's control file and says that nothing is to be done. However
    long it takes: a copy would wait for one as well. Raises NotYet or Cancelled.
    """
    began = boottime()
    try:
        with contextlib.closing(Session(f"{info} dbname=postgres", min(3.0, clock.left))) as session:
            while session.one("SELECT timeline_id::text FROM pg_control_checkpoint()", 5.0) != str(timeline):
                if clock.left <= 0:
                    raise NotYet(f"the active has made no checkpoint on its timeline {timeline} yet")
                if not progress(Progress(0, 0, boottime() - began, doing="waiting for the active's checkpoint")):
                    raise Cancelled("no longer wanted")
                time.sleep(_POLL)
    except (Cancelled, NotYet):
        raise
    except ReplicationError as wrong:
        raise NotYet(f"the active can't be asked for its checkpoint: {wrong}") from wrong


def _recover_from_crash(config: PostgresConfig, progress: OnProgress, clock: Clock) -> None:
    """pg_rewind wants a database that was shut down; its own way of doing that doesn't know Debian's configuration folder."""
    control = controldata.read(config.bin_dir, config.data_dir)
    if control is not None and control.state in _CLEAN:
        return
    # As a standby it would wait for an active; alone it replays its log to the end, makes a checkpoint and ends.
    launch = Launch.of(cluster.launch_of(config))
    prepare_launch(launch)
    argv = [
        *transfer.as_user(config.user), str(config.bin_dir / "postgres"), "--single", "-D", str(config.data_dir),
        "-c", f"config_file={Paths(config.state_dir).settings}", "-c", "synchronous_standby_names=",
        "-c", f"wal_keep_size={_ALL}", "template1",
    ]  # fmt: skip
    watch = Watch(disks=[config.data_dir], before=300.0, doing="recovering from its crash")
    # A database alone knows no standbys: for the length of this the start fence is down. What somebody starts by hand in
    # between would find a diverged database, whose log is kept; this fails then, and it is copied and kept whole.
    startfence.down(config.data_dir)
    try:
        transfer.run(argv, config.user, progress, clock.need("crash recovery"), watch, env=launch.environment)
    finally:
        startfence.up(config.data_dir, config.user)
    control = controldata.read(config.bin_dir, config.data_dir)
    if control is None or control.state not in _CLEAN:
        raise ReplicationError(f"crash recovery left it {control.state if control is not None else 'unreadable'}")
