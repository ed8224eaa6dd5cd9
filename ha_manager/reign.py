"""What a role given by a real Linux-HA heartbeat may mean for the database: who may write, and who must wait.

Promise: pure; ``step`` turns what was seen, and the record on the disk, into a new record and what Postgres is to be. Linux-HA
moves an address and knows nothing of data, so only two rules of design §4 are left, which ``solo="release"`` makes enough: a
server is promoted only if it holds every acknowledged write (in sync in the newest epoch that it has heard of, or itself the
last active), and an active that once waited for its passive waits for ever, unless an operator lets it go on alone. So in no
schedule two servers acknowledge; but while either is away nothing is written, and the address may be where the data isn't: that
is an alarm, and an operator's decision. Source: design §4 rules 6-8, §6; ``role`` for active or passive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Role, Stop, Want
from ha_manager.role import Holds, decide

STANDING = (
    "this pair runs on a real Linux-HA heartbeat: without its passive nothing is written, and both servers may take the address"
)


#: commits that wait so long are an alarm (seconds)
STALL = 1.0


@dataclass(frozen=True)
class Record:
    """On the disk before anything follows from it. ``epoch``: of the data here."""

    epoch: Epoch = Epoch()
    role: Role | None = None
    #: active: commits don't wait for the passive
    solo: bool = False
    #: passive: holds every write acknowledged in ``epoch``
    in_sync: bool = False


@dataclass(frozen=True)
class PeerWord:
    """What the peer's ha_manager said of itself a moment ago. ``proven``: position that its passive must hold; -1: none yet."""

    role: Role | None
    epoch: Epoch
    solo: bool = True
    proven: int = -1


@dataclass(frozen=True)
class Seen:
    holds: Holds
    facts: Facts
    #: None: it can't be asked
    peer: PeerWord | None = None
    #: what is wanted now; its ``serial`` is that of ``facts`` when it is carried out
    want: Want | None = None
    #: the role in force in this run of ha_manager
    now: Role | None = None
    #: an operator's words, where Linux-HA has made this server active: it may write, whatever that costs
    forced: str = ""


@dataclass(frozen=True)
class Outcome:
    """``want``: without a serial. ``role``: in force from now on. ``alarm``: what an operator must know, "" for nothing."""

    record: Record
    want: Want
    role: Role | None
    alarm: str = ""


@dataclass(frozen=True)
class Pair:
    node: str
    peer: str
    default_active: bool


def step(pair: Pair, record: Record, seen: Seen) -> Outcome:
    """Look once."""
    record = _heard(record, seen)
    peer = seen.peer.role if seen.peer is not None else None
    role = decide(seen.holds, default_active=pair.default_active, before=record.role, peer=peer) or seen.now
    if role is None:
        because = f"rscstatus is {seen.holds}, and nothing is known of {pair.peer} yet"
        return Outcome(record, Want(0, Phase.WAITING, record.epoch, Postgres.KEEP, because=because), None)
    if role is Role.PASSIVE:
        return _passive(pair, record, seen, f"rscstatus is {seen.holds}")
    opened, refused = _may_reign(pair, record, seen)
    if refused:
        return replace(_passive(pair, record, seen, refused), alarm=refused)
    return _active(pair, opened, seen)


def _heard(record: Record, seen: Seen) -> Record:
    """A higher epoch of the peer ends being in sync; so does a database that is being replaced."""
    gone = seen.facts.data in ("none", "copying", "failed")
    if record.in_sync and (gone or _superseded(record, seen)):
        return replace(record, in_sync=False)
    return record


def _superseded(record: Record, seen: Seen) -> bool:
    return seen.peer is not None and seen.peer.epoch.number > record.epoch.number


# --- active -------------------------------------------------------------------------------------------------------------------


def _may_reign(pair: Pair, record: Record, seen: Seen) -> tuple[Record, str]:
    """The record with which this server reigns, or why it may not: Linux-HA chose it, but its data may lack something."""
    known = max(record.epoch.number, seen.peer.epoch.number if seen.peer is not None else 0)
    opened = Record(Epoch(known + 1, pair.node), Role.ACTIVE, solo=True)
    if seen.forced:
        return (record if record.role is Role.ACTIVE and record.solo and not _superseded(record, seen) else opened), ""
    if _superseded(record, seen):
        assert seen.peer is not None
        return record, (
            f"Linux-HA made this server active, but {pair.peer} has newer data (epoch {seen.peer.epoch}, here {record.epoch}): "
            f"give the address to {pair.peer}, with hb_standby here"
        )
    if record.role is Role.ACTIVE:
        return record, ""
    first = record.epoch == Epoch() and pair.default_active
    if first or record.in_sync:
        return opened, ""
    if record.epoch.node == pair.node and seen.peer is not None and seen.peer.role is Role.PASSIVE:
        # It let go and got it back, and the peer says that it never took over: nobody has anything newer.
        return replace(record, role=Role.ACTIVE), ""
    return record, (
        f"Linux-HA made this server active, but its database may lack acknowledged writes: it was not in sync with {pair.peer};"
        " nothing is written here. When the other server is gone for good: `ha activate`"
    )


def _active(pair: Pair, record: Record, seen: Seen) -> Outcome:
    want, facts = seen.want, seen.facts
    enforcing = want is not None and want.epoch == record.epoch and want.names is Names.ENFORCED
    if record.solo and enforcing and facts.serial == want.serial and facts.proven >= 0:  # type: ignore[union-attr]
        record = replace(record, solo=False)
    names = Names.ENFORCED if not record.solo or facts.caught_up else Names.RELAXED
    because = seen.forced or (f"rscstatus is {seen.holds}" if seen.now is not Role.ACTIVE or want is None else want.because)
    alarm = f"every write is on this server only: {pair.peer} is not in sync" if record.solo else ""
    if not record.solo and facts.stalled > STALL:
        alarm = f"no write is acknowledged: commits wait for {pair.peer}; if it is gone for good: `ha activate` goes on alone"
    return Outcome(record, Want(0, Phase.ACTIVE, record.epoch, Postgres.PRIMARY, names, because=because), Role.ACTIVE, alarm)


# --- passive ------------------------------------------------------------------------------------------------------------------


def _passive(pair: Pair, record: Record, seen: Seen, because: str) -> Outcome:
    if record.role is not Role.PASSIVE:
        # The one that yields may lack what the other one acknowledges from now on.
        record = replace(record, role=Role.PASSIVE, in_sync=False)
    peer, facts, want = seen.peer, seen.facts, seen.want
    follow = want.follow if want is not None and want.postgres is Postgres.STANDBY else Epoch()
    if peer is not None and peer.role is Role.ACTIVE and peer.epoch.number >= record.epoch.number:
        follow = peer.epoch
        holds_all = not peer.solo and peer.proven >= 0 and facts.lsn >= peer.proven
        if holds_all and facts.postgres is Postgres.STANDBY and facts.following.number == peer.epoch.number:
            record = Record(peer.epoch, Role.PASSIVE, in_sync=True)
    stop = Stop.FAST if seen.now is Role.ACTIVE else Stop.IMMEDIATE
    return Outcome(
        record, Want(0, Phase.PASSIVE, record.epoch, Postgres.STANDBY, stop=stop, follow=follow, because=because), Role.PASSIVE
    )
