"""May this database follow that active as it is? Decided from control data, timelines and the end of the log; pure.

Promise: START is answered only where it is proven that nothing here lies beyond the point at which the active's history left
ours; everything unproven is DIVERGED (design §4 rule 10 then keeps what is replaced). Two different clusters at the first
pairing: the passive's own is kept aside, reported and replaced; ``ha start`` said which one is the default active.
Source: design §4 rules 8, 10; facts/postgres.md 7; Postgres's timeline history files.

Timelines are compared by number, by the position at which each was left, and by *lineage*: which epoch and node promoted it.
Two servers that promote without knowing of each other choose the same number, even at the same position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ha_manager.observation import Identity, lsn, lsn_text

#: a byte of log takes a rewind so many times as long as a byte of the database takes a copy, and a comparison (docs/lab.md)
_REWOUND, _COMPARED = 3, 8
#: MiB a second as linkspeed.measure finds them on a busy server with 1 Gbit/s: over such a link, a compressed copy of a whole
#: takes no longer than a comparison, which reads it twice (docs/lab.md)
_FAST = 50.0


class Way(StrEnum):
    START = "start"  # nothing to replace
    COPY = "copy"  # no usable data here: fresh copy, nothing to keep
    DIVERGED = "diverged"  # keep what lies beyond the fork, then a fresh copy
    FOREIGN = "foreign"  # another cluster's data: keep the directory, then a fresh copy


@dataclass(frozen=True)
class Verdict:
    """``fork``: position up to which both agree (-1: unknown); ``timeline``: ours, on which we left it."""

    way: Way
    because: str
    fork: int = -1
    timeline: int = 0
    #: two promotions chose the same number: only lineage tells the timelines apart, Postgres's own tools can't
    twins: bool = False
    #: the data here can't be trusted: nothing of it is used, all of it is kept
    damaged: bool = False


@dataclass(frozen=True)
class Control:
    """What pg_controldata says."""

    system_identifier: str
    state: str
    checkpoint: int
    redo: int
    timeline: int
    previous_timeline: int = 0
    min_recovery: int = 0
    min_recovery_timeline: int = 0
    backup_start: int = 0
    segment: int = 16 * 1024 * 1024
    version: int = 0
    #: settings that a standby must not have smaller: {"max_connections": 100, …}
    floors: Mapping[str, int] | None = None
    #: page checksums, or hint bits in the log: without either nobody knows which pages changed
    hints_logged: bool = False

    @property
    def clean_primary(self) -> bool:
        return self.state == "shut down"

    @property
    def was_primary(self) -> bool:
        return self.state in ("shut down", "shutting down", "in production", "in crash recovery")

    @property
    def last_timeline(self) -> int:
        """The timeline that the data is on: the latest of checkpoint and recovery."""
        return max(self.timeline, self.min_recovery_timeline)


@dataclass(frozen=True)
class Mine:
    """This server's stopped database. ``control`` None: there is none that could be read."""

    control: Control | None
    history: tuple[tuple[int, int], ...] = ()
    lineage: Mapping[int, str] | None = None
    #: a copy that was completed but never started (backup_label)
    fresh_copy: bool = False


@dataclass(frozen=True)
class Question:
    """What only the log can answer: does ``timeline`` here hold any record at or after ``fork``?"""

    timeline: int
    fork: int


def parse_history(text: str) -> tuple[tuple[int, int], ...]:
    """A NNNNNNNN.history file: (timeline, position at which it was left), oldest first. Raises ValueError."""
    pairs = []
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            pairs.append((int(words[0]), lsn(words[1])))
    return tuple(sorted(pairs))


def judge(mine: Mine, active: Identity) -> Verdict | Question:
    """A verdict, or the question whose answer ``answered`` turns into one."""
    control = mine.control
    if control is None:
        return Verdict(Way.COPY, "there is no database here")
    if control.system_identifier != active.system_identifier:
        because = f"the database here is another cluster ({control.system_identifier}, not {active.system_identifier})"
        return Verdict(Way.FOREIGN, because, timeline=control.last_timeline)
    if mine.fresh_copy:
        return Verdict(Way.START, "a fresh copy that was never started", timeline=control.last_timeline)
    timeline = control.last_timeline
    split = _lineage_split(mine, active)
    if split is not None:
        number, fork = split
        because = f"timeline {number} here was opened by another promotion than the active's"
        return Verdict(Way.DIVERGED, because, fork, timeline, twins=True)
    if timeline == active.timeline:
        return _same_timeline(control, active)
    left = dict(active.history).get(timeline)
    if left is None:
        fork = common_end(mine.history, active.history, active.timeline)
        because = f"timeline {timeline} is not in the history of the active's timeline {active.timeline}"
        return Verdict(Way.DIVERGED, because, fork, timeline)
    return _older_timeline(control, left)


def answered(question: Question, beyond: bool, detail: str = "") -> Verdict:
    """The verdict once the log has been looked at; ``beyond``: it holds records at or after the fork, or can't be read."""
    place = f"{lsn_text(question.fork)} on timeline {question.timeline}"
    if beyond:
        because = f"the log here goes on beyond {place}, where the active's history left it" + (f": {detail}" if detail else "")
        return Verdict(Way.DIVERGED, because, question.fork, question.timeline)
    return Verdict(Way.START, f"the log here ends before {place}", question.fork, question.timeline)


def why_not_rewind(mine: Control, verdict: Verdict, active: Identity) -> str:
    """Why pg_rewind can't make this diverged database follow; "" if it may be tried once the active has made a checkpoint on
    its timeline. It says "no rewind required" for two timelines of one number (facts/postgres.md 7).
    """
    if verdict.way is not Way.DIVERGED:
        return "it is not a database that diverged"
    if verdict.fork < 0:
        return "where it left the active's history is not known"
    if verdict.twins or mine.last_timeline == active.timeline:
        return f"both servers opened a timeline {min(mine.last_timeline, active.timeline)}, which pg_rewind takes for the same"
    if not mine.hints_logged:
        return "neither page checksums nor wal_log_hints were on, so nobody knows which pages changed"
    return ""


class InPlace(StrEnum):
    """How a diverged database is made to follow where it is."""

    REWIND = "rewind"  # pg_rewind
    COMPARE = "compare"  # page by page


def in_place(
    verdict: Verdict,
    active: Identity,
    beyond: int,
    cannot: str,
    link: Callable[[], float],
    *,
    quickest: bool,
    roomy: bool,
    gap: bool,
) -> tuple[InPlace | None, str]:
    """None: by a copy that takes its place, and why. ``beyond``: bytes of log here from the fork on. ``cannot``: see
    ``why_not_rewind``. ``link``: MiB a second from the active, measured if that decides; 0: not known. ``roomy``: the
    disk holds both databases, and a copy brings the whole. ``gap``: of what is here the log doesn't hold everything, so it is
    not written over.

    pg_rewind fetches all of the active's log, and every page that the log here names; a comparison reads both databases, and on
    a fast link a copy of a small one is sooner done than either.
    """
    if verdict.damaged:
        return None, "it is damaged"
    if verdict.way is not Way.DIVERGED or verdict.fork < 0 or gap:
        return None, cannot or "the log that is kept of it lacks a part"
    if not quickest:
        return (None, cannot) if cannot else (InPlace.REWIND, "")
    log = active.wal + beyond
    small, medium = (0 < active.size <= times * log for times in (_REWOUND, _COMPARED))
    if roomy and (small or (medium and link() >= _FAST)):
        return None, "that is done sooner than making it follow in place"
    if cannot or medium:
        return InPlace.COMPARE, ""
    return InPlace.REWIND, ""


def _same_timeline(control: Control, active: Identity) -> Verdict | Question:
    timeline = control.last_timeline
    if control.was_primary:
        because = f"this database was itself written to on timeline {timeline}, which is the active's"
        return Verdict(Way.DIVERGED, because, -1, timeline)
    if active.lsn < 0:
        return Verdict(Way.DIVERGED, "the position of the active is not known", -1, timeline)
    # A standby never holds more than its active flushed, unless that one lost log in a crash: then this one is ahead.
    return Question(timeline, active.lsn)


def _older_timeline(control: Control, left: int) -> Verdict | Question:
    timeline = control.last_timeline
    if control.clean_primary and control.timeline == timeline:
        # The shutdown checkpoint is the last record; positions of forks lie between records.
        if control.checkpoint < left:
            return Verdict(Way.START, f"stopped cleanly before the fork at {lsn_text(left)}", left, timeline)
        because = f"its shutdown checkpoint at {lsn_text(control.checkpoint)} lies beyond the fork at {lsn_text(left)}"
        return Verdict(Way.DIVERGED, because, left, timeline)
    newest = max(control.checkpoint, control.min_recovery if control.min_recovery_timeline == timeline else 0)
    if newest > left or control.checkpoint >= left:
        because = f"its data reaches {lsn_text(newest)}, beyond the fork at {lsn_text(left)}"
        return Verdict(Way.DIVERGED, because, left, timeline)
    return Question(timeline, left)


def _lineage_split(mine: Mine, active: Identity) -> tuple[int, int] | None:
    """The oldest timeline that both have but different promotions opened, and the position up to which they agree."""
    assert mine.control is not None
    ours = mine.lineage or {}
    both = set(dict(mine.history)) | {mine.control.last_timeline}
    theirs = set(dict(active.history)) | {active.timeline}
    for number in sorted(both & theirs):
        mine_by, theirs_by = ours.get(number), active.lineage.get(number)
        # One that nobody noted was followed while it happened: promotions are noted before they begin.
        if mine_by and theirs_by and mine_by != theirs_by:
            return number, common_end(mine.history, active.history, active.timeline, before=number)
    return None


def common_end(
    ours: tuple[tuple[int, int], ...], theirs: tuple[tuple[int, int], ...], their_timeline: int, before: int | None = None
) -> int:
    """The position up to which two histories are the same; -1 if there is none. Only timelines below ``before`` count."""
    other = dict(theirs)
    fork = -1
    for number, left in sorted(ours):
        if before is not None and number >= before:
            break
        if number in other:
            fork = min(left, other[number])
            if left != other[number]:
                break
        else:
            # The active is still on this timeline: ours left it.
            return left if number == their_timeline else fork
    return fork
