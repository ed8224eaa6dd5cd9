"""What is said to the peer: the state of a core as one ``Message``, and when it is worth saying at once.

Promise: reads, never changes. A message says of the disk what is on the disk; only "in sync" counts as soon as it *might* reach
the disk, because the active goes solo on the strength of its absence (rule 6a).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from heartbeat.model import SERVING, Boot, Database, Epoch, Message, Mode, Names, Phase, Record

if TYPE_CHECKING:
    from heartbeat.state import Server


#: phases of a server that has let go
LET_GO = frozenset({Phase.STANDING_DOWN, Phase.PASSIVE, Phase.LEFT})


class Word(NamedTuple):
    """What is worth a message of its own when it changes; positions, counters and echoes alone aren't (see ``Message``)."""

    phase: Phase
    epoch: Epoch
    solo: bool
    in_sync: bool
    stood_down: bool
    returns: bool
    fit: bool
    asks_release: bool
    asks_ping: bool
    connected: bool
    pledged_to: Boot
    data: str
    vip: bool
    suspended: bool
    suspend_version: int
    leaving: str
    arp: bool
    fences: bool
    changes: int
    mode: Mode


def word(core: Server) -> Word:
    disk, phase = core.disk, core.phase
    reigns = phase is Phase.ACTIVE or phase is Phase.PREPARING
    records = [disk, *(record for record, _ in core.saves.values())] if core.saves else [disk]
    return Word(
        phase=phase,
        epoch=core.opening if phase is Phase.OPENING else disk.epoch,
        solo=disk.solo,
        # what might reach the disk counts as being there: the active goes solo only when it certainly does not
        in_sync=any(record.in_sync for record in records),
        stood_down=disk.stood_down and not core.saving,
        returns=core.returns and disk.stood_down and not core.saving,
        fit=core.rules.offers_itself(),
        asks_release=reigns and bool(core.ask_release_seq),
        asks_ping=reigns and bool(core.ask_ping_seq),
        connected=core.members.connected(),
        pledged_to=core.pledged_to if phase is Phase.PASSIVE else Boot(),
        data=core.rules.data(),
        vip=phase in SERVING,
        suspended=disk.suspended,
        suspend_version=disk.suspend_version,
        leaving=core.leaving,
        arp=reigns and core.site.arp_check and core.arp.usable,
        fences=core.site.fence,
        changes=core.restraint.count(core.now),
        mode=Mode(not core.site.synchronous, core.site.solo == "release", _lax(records)),
    )


def _held(core: Server) -> int:
    """Up to where this server's log is known. One that let go, or whose ha_manager is gone, may have written more than the last
    report says, of a primary or of one about to be: whoever follows it must not take that for the end."""
    facts = core.facts
    if core.manager_lost:
        return -1
    if facts.postgres is Database.STOPPED:
        return facts.shutdown_lsn
    before = facts.postgres is Database.PRIMARY or facts.serial < core.stop_serial
    return -1 if before and core.phase in LET_GO else facts.lsn


def _lax(records: list[Record]) -> bool:
    """A passive's word counts (the active relaxes on it), so it is true of whatever may be on its disk."""
    return all(record.lax for record in records if record.in_sync or not any(each.in_sync for each in records))


def calls_in_sync(core: Server) -> int:
    """The position that the passive must hold to be one that may take over from this active; -1: it can't be one."""
    if core.phase is not Phase.ACTIVE and core.phase is not Phase.PREPARING:
        return -1
    facts, want = core.facts, core.want
    if core.disk.solo or core.saving_solo or core.ask_release_seq:
        return -1
    if want.names is Names.ENFORCED and (facts.serial >= want.serial or facts.names is Names.ENFORCED) and facts.proven >= 0:
        return facts.proven
    lax = core.disk.lax and core.rules.lag_known() and core.rules.within_lag()
    return max(0, facts.lsn - core.site.maximum_lag) if lax else -1


def message(core: Server, said: Word) -> Message:
    echo_boot, echo_seq = core.members.echo
    return Message(
        node=core.site.node,
        boot=core.boot,
        seq=core.seq,
        echo_boot=echo_boot,
        echo_seq=echo_seq,
        highest=core.highest,
        calls_in_sync=calls_in_sync(core),
        ping_after=core.members.ping_after,
        lsn=_held(core),
        beyond=core.facts.beyond,
        times=core.times,
        **said._asdict(),
    )


def changed(core: Server) -> bool:
    """Something was said last time that is no longer so."""
    said = core.said
    if said is None or word(core) != core.word:
        return True
    asked = core.members.peer is not None and core.members.peer.asks_ping
    return (calls_in_sync(core) >= 0) != (said.calls_in_sync >= 0) or (asked and core.members.ping_after != said.ping_after)
