"""What is said to the peer: the state of a core as one ``Message``, and when it is worth saying at once.

Promise: reads, never changes. A message says of the disk what is on the disk; only "in sync" counts as soon as it *might* reach
the disk, because the active goes solo on the strength of its absence (rule 6a).
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING

from heartbeat.model import SERVING, Boot, Message, Names, Phase

if TYPE_CHECKING:
    from heartbeat.state import Server

#: what may change without being worth a message of its own
_QUIET = {"seq", "echo_boot", "echo_seq", "lsn", "beyond", "highest", "calls_in_sync", "ping_after"}
_worth_saying = attrgetter(*(f.name for f in fields(Message) if f.name not in _QUIET))


def message(core: Server) -> Message:
    echo_boot, echo_seq = core.members.echo
    opening = core.phase is Phase.OPENING
    pending = [record for record, _ in core.saves.values()]
    calls = -1
    reigns = core.phase in {Phase.ACTIVE, Phase.PREPARING}
    steady = reigns and not core.disk.solo and not core.saving_solo
    if steady and not core.ask_release_seq and core.site.synchronous and core.want.names is Names.ENFORCED:
        calls = core.facts.proven if core.facts.serial >= core.want.serial or core.facts.names is Names.ENFORCED else -1
    return Message(
        node=core.site.node,
        boot=core.boot,
        seq=core.seq,
        echo_boot=echo_boot,
        echo_seq=echo_seq,
        phase=core.phase,
        epoch=core.opening if opening else core.disk.epoch,
        highest=core.highest,
        solo=core.disk.solo,
        # what might reach the disk counts as being there: the active goes solo only when it certainly does not
        in_sync=core.disk.in_sync or any(r.in_sync for r in pending),
        stood_down=core.disk.stood_down and not core.saving,
        fit=core.rules.offers_itself(),
        calls_in_sync=calls,
        asks_release=reigns and bool(core.ask_release_seq),
        asks_ping=reigns and bool(core.ask_ping_seq),
        ping_after=core.members.ping_after,
        connected=core.members.connected(),
        pledged_to=core.pledged_to if core.phase is Phase.PASSIVE else Boot(),
        data=core.rules.data(),
        lsn=core.facts.lsn,
        beyond=core.facts.beyond,
        vip=core.phase in SERVING,
        suspended=core.disk.suspended,
        suspend_version=core.disk.suspend_version,
        leaving=core.leaving,
        arp=reigns and core.site.arp_check and core.arp.usable,
        fences=core.site.fence,
        changes=core.restraint.count(core.now),
    )


def changed(core: Server) -> bool:
    """Something was said last time that is no longer so; positions, counters and echoes alone don't count."""
    said = core.said
    if said is None:
        return True
    new = message(core)
    asked = core.members.peer is not None and core.members.peer.asks_ping
    return (
        _worth_saying(new) != _worth_saying(said)
        or (new.calls_in_sync >= 0) != (said.calls_in_sync >= 0)
        or (asked and new.ping_after != said.ping_after)
    )
