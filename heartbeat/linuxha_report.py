"""The state of a node next to Linux-HA in words and plain data: status, explain, alarms.

Promise: reads, never changes; the status has the fields that ``report.status`` has, so that whoever reads one reads the other.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from heartbeat.linuxha_hold import word
from heartbeat.model import SERVING, Phase

if TYPE_CHECKING:
    from heartbeat.linuxha_state import LinuxHaState

STANDING = (
    "this node runs next to Linux-HA (compatibility in ha.cf): no epochs, no fence around the data, split brain is possible;"
    " only the addresses are moved"
)


def alarms(core: LinuxHaState) -> dict[str, str]:
    """Every alarm by name; an empty text clears it."""
    site, peer, now = core.site, core.peer, core.now
    heard = peer.heard_at > -inf
    links = {
        f"link-{link}": f"{site.peer} is not heard on {link}"
        if peer.here and now - max(peer.links.get(link, -inf), core.started) >= core.timing.deadtime
        else ""
        for link in site.links
    }
    return {
        "linux-ha": STANDING,
        "peer-silent": f"{site.peer} is not heard on any link" if peer.status == "dead" else "",
        "not-connected": "no ping node answers" if not core.connected() and now - core.started > core.timing.ping_dead else "",
        "isolated": "neither the other node nor a ping node is heard: nothing is held here" if core.isolated else "",
        "two-actives": f"{site.peer} says that it holds the address too" if core.both_hold else "",
        "replayed": f"frames of an earlier run of {site.peer} are heard; they are ignored"
        if peer.inbox.replays and heard
        else "",
    } | links


def status(core: LinuxHaState, now: float) -> dict[str, object]:
    peer = core.peer
    alive = now - core.timing.deadtime
    return {
        "node": core.site.node,
        "peer": core.site.peer,
        "role": core.role,
        "phase": core.phase,
        "epoch": list(core.disk.epoch),
        "solo": False,
        "in_sync": False,
        "stood_down": False,
        "fit": core.stable and not core.holds_vip,
        "unfit_because": "" if core.stable else "it has not joined, or a change is under way",
        "suspended": False,
        "because": core.because,
        "peer_state": {
            "heard_ago": round(now - peer.heard_at, 3) if peer.heard_at > -inf else None,
            "contact": peer.here,
            "phase": _peer_phase(core),
            "epoch": [0, ""],
            "fit": peer.here and peer.stable,
            "in_sync": False,
            "data": "unknown",
        },
        "links": {link: "up" if peer.links.get(link, -inf) > alive else "dead" for link in core.site.links},
        "ping_nodes": {
            node: "up" if now - core.replied_at(node) < core.timing.ping_dead else "dead" for node in core.site.ping_nodes
        },
        "vip": {"held": core.phase in SERVING},
        "manager": "ok",
        "alarms": dict(core.alarms),
        "expires": round(core.now + core.timing.role_expiry, 2),
        "linux_ha": {
            "resources": core.resources,
            "status": core.announced,
            "generation": core.outbox.generation,
            "peer_status": peer.status,
            "peer_resources": word(peer.hold) if peer.stable else "transition",
            "peer_generation": peer.inbox.generation,
        },
    }


def _peer_phase(core: LinuxHaState) -> str:
    if not core.peer.here:
        return "unknown"
    if core.peer.status != "active":
        return Phase.WAITING
    return Phase.ACTIVE if core.peer_holds_vip else Phase.PASSIVE


def explain(core: LinuxHaState, now: float) -> list[str]:
    site, peer = core.site, core.peer
    lines = [f"{site.node} holds {word(core.hold)} resources ({core.resources}). What happened last: {core.because}."]
    lines.append(f"{site.peer} is {peer.status}" + (f" and holds {word(peer.hold)}." if peer.here else "."))
    patience = peer.patience or core.timing.deadtime
    if peer.here and not core.holds_vip:
        lines.append(
            f"If {site.peer} died now, this node would take everything after {patience:g} s, provided a ping is answered."
        )
    lines += [f"Alarm: {text}." for text in core.alarms.values()]
    return lines
