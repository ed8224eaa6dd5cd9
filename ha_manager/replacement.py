"""A database that may have to be replaced: the comparison with the active's, and the replacement.

Promise: judging changes nothing; what can't be read counts as diverged. Replacing keeps and reports first, then rewinds in
place where that can be trusted, or copies beside and switches in at one blow; where the disk doesn't hold both databases, the
log is kept, the old one goes before the copy, and that is said. Source: design §4 rules 8 and 10.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ha_manager import adoption, controldata, keepsake, receiving, rejoin, rewinding, seeding
from ha_manager.cluster import PostgresConfig
from ha_manager.lineage import Lineage
from ha_manager.observation import Identity, Progress, Upstream, lsn_text
from ha_manager.rejoin import Control, Mine, Question, Verdict, Way
from ha_manager.replication import Clock
from runtime.errors import CommandFailed, ReplicationError


def label(epoch: int) -> str:
    """``<epoch>-<stamp>``: names what is kept."""
    return f"{epoch}-{time.strftime('%Y%m%dT%H%M%S')}"


def judge(config: PostgresConfig, lineage: Lineage, active: Identity, limit: float) -> Verdict:
    """Postgres stopped: may this database follow ``active`` as it is?"""
    clock = Clock(limit)
    if rewinding.interrupted(config):
        return Verdict(Way.COPY, "a rewind of the database here was interrupted")
    control = controldata.read(config.bin_dir, config.data_dir)
    if active.version and active.version != config.version:
        raise ReplicationError(f"the active runs Postgres {active.version}, this server {config.version}: install the same")
    if not seeding.is_empty(config.data_dir) and (control is None or not receiving.has_data(config.data_dir)):
        because = "the database here can't be read: its control file or its version is damaged or missing"
        return Verdict(Way.COPY, because, damaged=True)
    question = rejoin.judge(_mine(config, lineage, control), active)
    if isinstance(question, Verdict):
        return question
    assert control is not None
    return rejoin.answered(question, *_beyond_fork(config, question, control, clock))


def _mine(config: PostgresConfig, lineage: Lineage, control: Control | None) -> Mine:
    if control is None:
        return Mine(None)
    history = controldata.history(config.data_dir, control.last_timeline)
    fresh = (config.data_dir / "backup_label").exists()
    return Mine(control, history, lineage.known(control.last_timeline), fresh_copy=fresh)


def _beyond_fork(config: PostgresConfig, question: Question, control: Control, clock: Clock) -> tuple[bool, str]:
    try:
        left = clock.need("reading the log")
        found = controldata.holds_beyond(
            config.bin_dir, config.data_dir, question.timeline, question.fork, control.segment, left
        )
    except ReplicationError as wrong:
        return True, str(wrong)
    return bool(found), found


def replace(
    config: PostgresConfig,
    node: str,
    verdict: Verdict,
    follow: Upstream,
    active: Identity,
    progress: Callable[[Progress], bool],
    limit: float,
    note: Callable[[str], None],
) -> str:
    """Keep, report, copy, switch in; returns the report ("" if there was nothing to keep)."""
    name, report = label(follow.epoch), ""
    control = controldata.read(config.bin_dir, config.data_dir)
    if control is not None and verdict.way in (Way.DIVERGED, Way.FOREIGN):
        acknowledged = _acknowledged(config, verdict)
        report = keepsake.keep_log(
            config.bin_dir, config.data_dir, config.diverged_dir, name, control, verdict, acknowledged
        ).text
        note(report)
        if not verdict.damaged and _rewound(config, node, verdict, control, follow, active, progress, limit, note):
            return report
    rewinding.restore_own_files(config)
    room = active.tablespaces or seeding.fits_beside(config, active)
    if verdict.way in (Way.DIVERGED, Way.COPY) and not verdict.damaged and not room:
        seeding.check_space(config, active, reclaim=seeding.folder_size(config.data_dir))
        note(f"removing the database in {config.data_dir} before the copy: the disk does not hold both")
        seeding.empty(config)
    seeding.check_space(config, active)
    seeding.copy(config, node, follow, progress, limit)
    kept = seeding.switch_in(config.data_dir, f"diverged-{name}")
    rewinding.complete(config)
    keepsake.prune(config.data_dir, note)
    if kept is None:
        return report
    note(f"the replaced database is kept in {kept}")
    return "; ".join(filter(None, (report, f"the replaced database is kept in {kept}")))


def _acknowledged(config: PostgresConfig, verdict: Verdict) -> str:
    """Did its last commits wait for the peer, as far as this server's own files tell?"""
    dynamic = adoption.read_dynamic(config)
    if verdict.way is not Way.DIVERGED or dynamic.conninfo:
        return "unknown"
    return "no" if dynamic.names else "yes"


def _rewound(
    config: PostgresConfig,
    node: str,
    verdict: Verdict,
    control: Control,
    follow: Upstream,
    active: Identity,
    progress: Callable[[Progress], bool],
    limit: float,
    note: Callable[[str], None],
) -> bool:
    """Made to follow in place; False: a fresh copy is needed, and it was said why."""
    because = rejoin.why_not_rewind(control, verdict, active)
    if not because:
        try:
            rewinding.rewind(config, node, follow, active, progress, limit)
            note(f"the database was rewound to {lsn_text(verdict.fork)} by pg_rewind")
            return True
        except seeding.Cancelled:
            raise
        except (CommandFailed, ReplicationError) as wrong:
            because = f"pg_rewind failed ({wrong})"
    note(f"copying the whole database: {because}")
    return False
