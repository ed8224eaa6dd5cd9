"""Active or passive, from what a real Linux-HA heartbeat says: the reference's table, completed.

Promise: pure; one function, ``decide``, for every combination of its four inputs. Used only on top of Linux-HA: with our own
heartbeat its role is the role. Source: Trustwave SWG 11.8, 2.1 (All, None, Local); for what that leaves open
facts/linux-ha-heartbeat.md ("cl_status": both started together say ``local``, and only the preferred node has the address).

| rscstatus       | default active | default passive                                                              |
|-----------------|----------------|------------------------------------------------------------------------------|
| all             | active         | active                                                                       |
| none            | passive        | passive                                                                      |
| local           | active         | passive if it was passive or the peer is active; active if it was active and |
|                 |                | the peer is passive; was active, peer not known: as it is; else passive      |
| foreign         | passive        | passive if the peer is active, else active: it holds what is the peer's      |
| transition      | as it is; passive if it was active and the peer is active                                     |
| no answer       | as for transition                                                                             |
"""

from __future__ import annotations

from enum import StrEnum

from ha_manager.orders import Role


class Holds(StrEnum):
    """``cl_status rscstatus``: whose resources this server holds; ``NO_ANSWER``: heartbeat can't be asked."""

    ALL = "all"
    NONE = "none"
    LOCAL = "local"
    FOREIGN = "foreign"
    TRANSITION = "transition"
    NO_ANSWER = "no answer"


def decide(holds: Holds, *, default_active: bool, before: Role | None, peer: Role | None) -> Role | None:
    """This server's role; None: as it is (a server that has just started has none, and waits).

    ``before``: what it was, None if nothing is known of that. ``peer``: what its ha_manager says that it is, None if it can't
    be asked.
    """
    match holds:
        case Holds.ALL:
            return Role.ACTIVE
        case Holds.NONE:
            return Role.PASSIVE
        case Holds.LOCAL if default_active:
            return Role.ACTIVE
        case Holds.LOCAL:
            return _local_on_the_default_passive(before, peer)
        case Holds.FOREIGN:
            return Role.PASSIVE if default_active or peer is Role.ACTIVE else Role.ACTIVE
        case Holds.TRANSITION | Holds.NO_ANSWER:
            return Role.PASSIVE if before is Role.ACTIVE and peer is Role.ACTIVE else None


def _local_on_the_default_passive(before: Role | None, peer: Role | None) -> Role | None:
    """Its heartbeat was killed and restarted before the peer's deadtime; or both were started together."""
    if before is not Role.ACTIVE or peer is Role.ACTIVE:
        return Role.PASSIVE
    return Role.ACTIVE if peer is Role.PASSIVE else None
