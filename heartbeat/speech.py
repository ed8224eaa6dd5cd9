"""What is said to the peer: the state of a core as one ``Message``, and when it is worth saying at once.

Promise: reads, never changes. A message says of the disk what is on the disk; only "in sync" counts as soon as it *might* reach
the disk, because the active goes solo on the strength of its absence (rule 6a).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from heartbeat.model import SERVING, Boot, Epoch, Message, Names, Phase

if TYPE_CHECKING:
    from heartbeat.state import Server


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


def word(core: Server) -> Word:
    disk, phase = core.disk, core.phase
    reigns = phase is Phase.ACTIVE or phase is Phase.PREPARING
    return Word(
        phase=phase,
        epoch=core.opening if phase is Phase.OPENING else disk.epoch,
        solo=disk.solo,
        # what might reach the disk counts as being there: the active goes solo only when it certainly does not
        in_sync=disk.in_sync or any(record.in_sync for record, _ in core.saves.values()),
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
    )


def calls_in_sync(core: Server) -> int:
    """The position that the passive must hold to be in sync with this active; -1: it isn't called that."""
    if core.phase is not Phase.ACTIVE and core.phase is not Phase.PREPARING:
        return -1
    steady = not core.disk.solo and not core.saving_solo and not core.ask_release_seq and core.site.synchronous
    if not steady or core.want.names is not Names.ENFORCED:
        return -1
    return core.facts.proven if core.facts.serial >= core.want.serial or core.facts.names is Names.ENFORCED else -1


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
        lsn=core.facts.lsn,
        beyond=core.facts.beyond,
        **said._asdict(),
    )


def changed(core: Server) -> bool:
    """Something was said last time that is no longer so."""
    said = core.said
    if said is None or word(core) != core.word:
        return True
    asked = core.members.peer is not None and core.members.peer.asks_ping
    return (calls_in_sync(core) >= 0) != (said.calls_in_sync >= 0) or (asked and core.members.ping_after != said.ping_after)
