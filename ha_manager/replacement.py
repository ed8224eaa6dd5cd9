"""A database that may have to be replaced: the comparison with the active's, and the replacement.

Promise: judging changes nothing; what can't be read counts as diverged. Replacing keeps and reports first, then rewinds in
place where that can be trusted, or copies beside and switches in at one blow; where the disk doesn't hold both databases, the
log is kept, the old one goes before the copy, and that is said. Source: design §4 rules 8 and 10.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from ha_manager import (
    comparing,
    controldata,
    divergence,
    keepsake,
    postmaster,
    receiving,
    rejoin,
    rewinding,
    seeding,
    space,
    tablespaces,
)
from ha_manager.cluster import PostgresConfig
from ha_manager.copying import Copy
from ha_manager.divergence import Kept
from ha_manager.keeping import Keeping
from ha_manager.lineage import Lineage
from ha_manager.observation import Identity, Upstream, lsn_text
from ha_manager.rejoin import Control, Mine, Question, Verdict, Way
from ha_manager.replication import Clock
from ha_manager.transfer import Cancelled, OnProgress
from runtime.errors import CommandFailed, ReplicationError


def label(config: PostgresConfig, epoch: int) -> str:
    """``<epoch>-<stamp>``: names what is kept, and the folders of a copy. Never one that the database here, or one kept beside
    it, has already: two copies may begin within the same second.
    """
    for second in itertools.count(int(time.time())):
        name = f"{epoch}-{time.strftime('%Y%m%dT%H%M%S', time.localtime(second))}"
        if not _taken(config, name):
            return name
    raise AssertionError("seconds without end")


def _taken(config: PostgresConfig, name: str) -> bool:
    data = config.data_dir
    databases = [data, *data.parent.glob(f"{data.name}.diverged-*")]
    folders = {folder.name for each in databases for folder in tablespaces.outside(each)}
    kept = data.with_name(f"{data.name}.diverged-{name}")
    return f"{tablespaces.PREFIX}{name}" in folders or kept.exists() or (config.diverged_dir / name).exists()


def judge(config: PostgresConfig, lineage: Lineage, active: Identity, limit: float) -> Verdict:
    """Postgres stopped: may this database follow ``active`` as it is? One of which a part is missing may not, whatever it says
    of itself; it is kept whole, because it may hold what the active lacks.
    """
    verdict = _compare(config, lineage, active, limit)
    part = "" if seeding.is_empty(config.data_dir) or verdict.damaged else controldata.missing(config.data_dir)
    if not part:
        return verdict
    way = Way.COPY if verdict.way is Way.START else verdict.way
    return dataclasses.replace(verdict, way=way, because=f"the database here is damaged: {part} is missing", damaged=True)


def _compare(config: PostgresConfig, lineage: Lineage, active: Identity, limit: float) -> Verdict:
    clock = Clock(limit)
    if rewinding.interrupted(config):
        return Verdict(Way.COPY, "a rewind of the database here was interrupted")
    control = controldata.read(config.bin_dir, config.data_dir, surely=True)
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
    # In one that was a primary since it was last compared, somebody's backup left it.
    fresh = (config.data_dir / "backup_label").exists() and not lineage.must_compare
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


@dataclass(frozen=True)
class Replacement:
    """One database to be replaced. ``count``: a report is there to be counted, by somebody for whom nobody waits."""

    config: PostgresConfig
    node: str
    verdict: Verdict
    follow: Upstream
    active: Identity
    progress: OnProgress
    limit: float
    note: Callable[[str], None]
    count: Callable[[], None]
    #: MiB a second from the active, measured when asked for; 0: not known
    link: Callable[[], float]
    #: did its last commits as a primary wait for the peer: "yes", "no", "": nobody noted it
    waited: str = ""


def replace(task: Replacement) -> str:
    """Keep, report, then make it follow in place, or copy and switch in; returns the report ("": there was nothing to keep)."""
    config = task.config
    control = controldata.read(config.bin_dir, config.data_dir, surely=True)
    if control is None or task.verdict.way not in (Way.DIVERGED, Way.FOREIGN):
        return _copied(task, label(config, task.follow.epoch))
    name = keepsake.label_for(config.diverged_dir, label(config, task.follow.epoch), control, task.verdict)
    with _keeping(task, control, name) as keeping:
        kept = "" if _in_place(task, control, keeping) else _copied(task, name, keeping)
    keepsake.finished(config.diverged_dir)
    report = divergence.report(config.diverged_dir / name)
    words = divergence.words(report, config.diverged_dir / name) if report is not None else ""
    return "; ".join(filter(None, (words, kept)))


def _keeping(task: Replacement, control: Control, name: str) -> Keeping:
    """Of the log, in the folder ``name``; told when it is kept, counted later."""
    config = task.config
    what = (config.data_dir, config.diverged_dir, name, control, task.verdict)

    def tell(kept: Kept) -> None:
        task.note(divergence.words(kept, config.diverged_dir / name))
        task.count()

    return Keeping(lambda still: keepsake.keep_log(*what, acknowledged(task), still), tell, keepsake.need(*what))


def acknowledged(task: Replacement) -> str:
    """Were its last commits acknowledged: did they wait for the peer, as far as this server's own files tell?"""
    if task.verdict.way is not Way.DIVERGED:
        return "unknown"
    return {"yes": "no", "no": "yes"}.get(task.waited, "unknown")


def _in_place(task: Replacement, control: Control, keeping: Keeping) -> bool:
    """Made to follow in place, its log having been kept; False: a fresh copy is needed, and it was said why."""
    config, verdict, active = task.config, task.verdict, task.active
    roomy = config.copy == "whole" and space.fits(config, active, keeping.room)
    gap = bool(keepsake.gap(config.data_dir, control, verdict))
    way, because = rejoin.in_place(
        verdict, active, keepsake.beyond(config.data_dir, control, max(0, verdict.fork)),
        rejoin.why_not_rewind(control, verdict, active), task.link,
        gap=gap, quickest=config.rejoin == "quickest", roomy=roomy,
    )  # fmt: skip
    if way is not None:
        keeping.finish(task.progress)
    try:
        match way:
            case rejoin.InPlace.REWIND:
                took = rewinding.rewind(config, task.node, task.follow, active, task.progress, task.limit)
                task.note(f"the database was rewound to {lsn_text(verdict.fork)} by pg_rewind ({took})")
            case rejoin.InPlace.COMPARE:
                took = comparing.compare(config, task.node, task.follow, active, task.progress, task.limit)
                task.note(f"the pages of the database that differed from {task.follow.node}'s were fetched ({took})")
    except (Cancelled, rewinding.NotYet):
        raise
    except (CommandFailed, ReplicationError) as wrong:
        way, because = None, f"{'pg_rewind' if way is rejoin.InPlace.REWIND else 'comparing it'} failed ({wrong})"
    if way is None:
        task.note(f"copying the whole database: {because}")
    return way is not None


def _copied(task: Replacement, name: str, keeping: Keeping | None = None) -> str:
    """A fresh copy in place of what is here; returns where that is kept, in words. The log of what is here is kept beside the
    copy where there is room for both, else first; nothing is switched in before it is.
    """
    config, progress = task.config, task.progress
    rewinding.restore_own_files(config)
    if keeping is not None:
        if not space.fits(config, task.active, keeping.room):
            keeping.finish(progress)
        keeping.begin()
        progress = keeping.beside(progress)
    _make_room(task, name, keeping)
    seeding.copy(Copy(config, task.node, task.follow, task.active, name, progress, task.limit, task.note, task.link))
    if keeping is not None:
        keeping.finish(task.progress)
    return _switched_in(task, name)


def _make_room(task: Replacement, name: str, keeping: Keeping | None) -> None:
    """Where the disk doesn't hold both: the database here goes before the copy, if all that only it has is kept."""
    config = task.config
    if space.fits(config, task.active):
        return
    if keeping is not None:
        keeping.finish(task.progress)
    report = divergence.report(config.diverged_dir / name)
    only_here = report is not None and bool(report.gap)  # what the kept log lacks is nowhere else
    if task.verdict.way in (Way.DIVERGED, Way.COPY) and not task.verdict.damaged and not only_here:
        space.check(config, task.active, reclaim=space.given_back(config))
        task.note(f"removing the database in {config.data_dir} before the copy: the disk does not hold both")
        seeding.empty(config)


def _switched_in(task: Replacement, name: str) -> str:
    config = task.config
    # Somebody may have started one on what is here meanwhile: it would run on in the directory that is kept.
    if not postmaster.kill_all(config.data_dir, 5.0):
        raise ReplicationError(f"a Postgres that somebody started on {config.data_dir} can't be ended")
    kept = seeding.switch_in(config.data_dir, f"diverged-{name}")
    rewinding.complete(config)
    keepsake.finished(config.diverged_dir)
    keepsake.prune(config.data_dir, task.note)
    if kept is None:
        return ""
    return f"the replaced database is kept in {kept}"
