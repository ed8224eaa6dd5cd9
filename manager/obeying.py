"""Which notifier a device listens to.

Promise: no input or output. A device takes what comes from the notifier of the highest version that it has heard (``holding``);
of two whose epochs have the same number, from one that is there.
A policy server listens to its own notifier until the other one's ``status`` says ``isPassive``; from then on to that one, until
its own speaks in a higher epoch, which it does only when this server has become the active one. Source: Trustwave §2 ("It stops
listening to the local Notifier when …"), §2.3; design §7.
"""

from __future__ import annotations

from dataclasses import dataclass

from manager.holding import Version


@dataclass(frozen=True)
class Standing:
    """``own``: this node; ``passive_of``: whose passive it was told to be ("": nobody's); ``active_in``: the epoch in which
    heartbeat says now that this server is the active one, None if it doesn't.
    """

    own: str
    highest: Version | None
    passive_of: str
    active_in: int | None = None
    #: whose notifiers have a session with this device
    present: frozenset[str] = frozenset()


def ignored(standing: Standing, caller: str, version: Version) -> str:
    """The node that is listened to instead; "" if ``caller`` is heard."""
    if caller != standing.own or not standing.passive_of:
        return ""
    raised = standing.highest is None or version.epoch > standing.highest.epoch
    return "" if raised else standing.passive_of


def outdated(standing: Standing, version: Version) -> Version | None:
    """What counts instead of ``version``, or None. While this server is the active one, only its own notifier counts, and one
    of a higher epoch.

    Two actives may have epochs of one number (both went on alone). A device that both reach obeys the one whose node is named
    higher, while that one has a session; a notifier whose server is not active any more ends its sessions.
    """
    active, highest = standing.active_in, standing.highest
    if active is not None and (version.epoch < active or (version.epoch == active and version.node != standing.own)):
        return max(highest or version, Version(active, standing.own, 0))
    if highest is None or version >= highest:
        return None
    rivals = version.epoch == highest.epoch and version.node != highest.node
    return None if rivals and highest.node not in standing.present else highest


def adopts(standing: Standing, caller: str, version: Version) -> bool:
    """Whether ``isPassive`` from ``caller`` makes this server its passive.

    Not while it is active itself; nor from an epoch before. In the same epoch, what only its own notifier has said gives way:
    so it is with two servers that have not been a pair yet.
    """
    if caller == standing.own or standing.active_in is not None:
        return False
    if standing.highest is None or version >= standing.highest:
        return True
    return standing.highest.node == standing.own and version.epoch >= standing.highest.epoch
