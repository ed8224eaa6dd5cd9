"""A diverged database made to follow again by pg_rewind: only what differs from the active's is copied, in place.

Promise: while the data is neither the old nor the new one, a folder beside it says so (``interrupted``), and until a fresh
copy has taken its place nobody starts it; what lay beyond the fork was kept before (``keepsake``). That it worked is shown by
its streaming, not by the exit status. Source: facts/postgres.md 7; design §4 rule 10; the manual's page on pg_rewind.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ha_manager import cluster, controldata, seeding
from ha_manager.adoption import REPLICATION_ROLE
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.observation import Identity, Progress, Upstream
from ha_manager.postgres_child import Launch, prepare_launch
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.sql import Session
from runtime import commands, durable
from runtime.errors import CommandFailed, ReplicationError

#: What pg_rewind reads the active's files with; the replication role may read them all anyway, by copying the database.
FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)  # fmt: skip
#: The active makes its checkpoint after the promotion, when nobody waits any more.
_CHECKPOINT_LIMIT = 10.0
_POLL = 0.1
_CLEAN = ("shut down", "shut down in recovery")


def _aside(config: PostgresConfig) -> Path:
    return config.data_dir.with_name(config.data_dir.name + ".rewinding")


def interrupted(config: PostgresConfig) -> bool:
    """A rewind began and was not completed: this database is neither the old one nor the active's."""
    return _aside(config).exists()


def rewind(
    config: PostgresConfig, node: str, upstream: Upstream, active: Identity, progress: Callable[[Progress], bool], limit: float
) -> None:
    """Postgres stopped, its log kept. Raises ReplicationError or CommandFailed: ``interrupted`` tells whether it is harmed."""
    clock = Clock(limit)
    info = upstream_conninfo(upstream.host, upstream.port, f"ha_rewind_{node}", str(Paths(config.state_dir).passfile))
    _await_checkpoint(info, active.timeline, clock)
    _recover_from_crash(config, clock)
    begin(config)
    argv = [
        *seeding.as_user(config.user), str(config.bin_dir / "pg_rewind"), "-D", str(config.data_dir),
        f"--source-server={info} dbname=postgres", "--no-ensure-shutdown", "--progress",
    ]  # fmt: skip
    seeding.run(argv, config.user, progress, clock.need("pg_rewind"))
    if not (config.data_dir / "backup_label").exists():
        raise ReplicationError("pg_rewind saw no difference, although the databases diverged")
    restore_own_files(config)
    complete(config)


def begin(config: PostgresConfig) -> None:
    """From here on the data is not to be started; this server's own configuration files are kept aside."""
    aside = _aside(config)
    making = aside.with_name(aside.name + ".tmp")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    seeding.keep_own_files(config, making)
    durable.sync_folder(making)
    making.rename(aside)
    durable.sync_folder(aside.parent)


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
    if aside.exists():
        done = aside.with_name(aside.name + ".tmp")
        shutil.rmtree(done, ignore_errors=True)
        aside.rename(done)
        durable.sync_folder(aside.parent)
        shutil.rmtree(done)


def grant(session: Session, limit: float) -> None:
    """On the active: what the peer's pg_rewind needs. Only what isn't granted yet."""
    clock = Clock(limit)
    for function in FUNCTIONS:
        asked = [REPLICATION_ROLE, function]
        if session.one("SELECT has_function_privilege($1, $2, 'EXECUTE')::text", clock.left, asked) != "true":
            session.rows(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {REPLICATION_ROLE}", clock.left)


def _await_checkpoint(info: str, timeline: int, clock: Clock) -> None:
    """Before it, pg_rewind reads the old timeline in the active's control file and says that nothing is to be done."""
    patience = Clock(min(_CHECKPOINT_LIMIT, clock.left))
    session = Session(f"{info} dbname=postgres", min(3.0, clock.left))
    try:
        while session.one("SELECT timeline_id::text FROM pg_control_checkpoint()", patience.left + 1.0) != str(timeline):
            if patience.left <= 0:
                raise ReplicationError(f"the active has made no checkpoint on its timeline {timeline} yet")
            time.sleep(_POLL)
    finally:
        session.close()


def _recover_from_crash(config: PostgresConfig, clock: Clock) -> None:
    """pg_rewind wants a database that was shut down; its own way of doing that doesn't know Debian's configuration folder."""
    control = controldata.read(config.bin_dir, config.data_dir)
    if control is not None and control.state in _CLEAN:
        return
    # As a standby it would wait for an active; alone it replays its log to the end, makes a checkpoint and ends.
    launch = Launch.of(cluster.launch_of(config))
    prepare_launch(launch, "primary")
    argv = [
        *seeding.as_user(config.user), str(config.bin_dir / "postgres"), "--single", "-D", str(config.data_dir),
        "-c", f"config_file={Paths(config.state_dir).settings}", "-c", "synchronous_standby_names=", "template1",
    ]  # fmt: skip
    done = commands.run(argv, timeout=clock.need("crash recovery"), env=launch.environment, check=False)
    control = controldata.read(config.bin_dir, config.data_dir)
    if control is None or control.state not in _CLEAN:
        raise CommandFailed(argv, done.code, done.stderr, because="crash recovery failed")
