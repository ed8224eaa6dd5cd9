"""The state of a core in words and plain data: status, explain, alarms.

Promise: reads, never changes. Every sentence says what is, why, and where a person can do something about it, what.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from heartbeat.model import SERVING, Phase, Times
from heartbeat.signs import STRANGER, VIP
from runtime.sizes import size

if TYPE_CHECKING:
    from heartbeat.model import Site
    from heartbeat.state import Server


def why_peer_unfit(core: Server) -> str:
    p = core.members.peer
    if p is None:
        return "it was never heard"
    if not core.members.in_contact():
        if p.phase is Phase.LEFT:
            return "its heartbeat was stopped (`ha stop`, or a shutdown)"
        silent = core.members.silent_for()
        return f"it was last heard {silent:.1f} s ago" if silent >= core.timing.deadtime else "it does not hear this server"
    if p.data == "failed":
        return "its database can't be used, or its ha_manager does not run; `ha show` there says more"
    if core.disk.solo:
        return f"it is not in sync (its database is {p.data})"
    if p.phase is not Phase.PASSIVE:
        return f"it is {p.phase}"
    if p.suspended:
        return "automatic changes are suspended; `ha resume` ends that"
    return f"it says that it is not fit (database {p.data}, in sync: {'yes' if p.in_sync else 'no'})"


def why_silent(core: Server) -> str:
    """Of a peer that is not heard: who was ended says so with its last words."""
    p, peer = core.members.peer, core.site.peer
    if p is not None and p.phase is Phase.LEFT:
        return f"{peer} has left: its heartbeat was stopped (`ha stop`, or a shutdown)"
    return f"{peer} is not heard on any link"


def why_not_in_sync(core: Server) -> str:
    """Of a passive whose own state is no reason for it."""
    p = core.members.peer
    if core.disk.epoch.number == 0:
        return "this server has never been in sync"
    if p is None or p.phase not in SERVING or not core.members.in_contact():
        return "this server was not in sync when the active was last heard"
    if p.calls_in_sync >= 0:
        return "this server does not hold yet all that the active wants it to hold before it calls it in sync"
    return "the active does not wait for this server's acknowledgement (not in sync)"


def why_suspended(core: Server) -> str:
    """Who suspended what, and how that ends; "" if nothing is suspended."""
    if core.disk.suspended:
        return "an operator suspended every takeover and failover; `ha resume` ends that"
    if core.rules.restrained():
        most, minutes = core.site.most_changes, core.site.quiet_window / 60
        return (
            f"more than {most} takeovers in {minutes:g} minutes suspended yields and planned failovers (not a takeover when"
            f" nobody is active); {core.restraint.ends_in(core.now):.0f} s without another one, or `ha resume`, end that"
        )
    return ""


def what_activation_risks(core: Server) -> str:
    """What an operator risks by making this passive active alone (rule 11)."""
    if (nothing := nothing_to_serve(core)) is not None:
        return nothing
    disk = core.disk
    held = f"this database belongs to epoch {disk.epoch}"
    if disk.epoch.number == 0:
        held = "this server has never been part of a pair"
    if disk.epoch.node == core.site.node:
        held = f"this server was itself active in epoch {disk.epoch} and holds every write of it"
        risk = f"if {core.site.peer} became active since, what it acknowledged then is lost"
    elif disk.in_sync and disk.lax:
        lost = may_be_lost(core)
        risk = f"{lost}; if that one went on alone, what it wrote then is lost, too" if lost else "nothing is lost"
    elif disk.in_sync:
        risk = "it was in sync when the active was last heard; if that one went on alone since, what it wrote then is lost"
    else:
        risk = "it was not in sync: everything that the other server acknowledged since is lost"
    if core.rules.higher_epoch_known():
        risk = f"epoch {core.heard_epoch} is known: what the other server acknowledged in it is lost"
    first = "see to it that Postgres starts here, then " if core.facts.data == "failed" and not core.manager_lost else ""
    return f"{held}; {risk}. If the other server is gone for good: {first}`ha activate --force`"


def nothing_to_serve(core: Server) -> str | None:
    """Why nobody can make this server active; None if that is a matter of what is lost."""
    if core.rules.data() not in ("none", "copying"):
        return None
    return f"there is no complete database here that could be served: {core.site.peer} has to come back"


def configured(site: Site) -> str:
    """Rule 6 in the words of module.xml."""
    if site.synchronous:
        return f'synchronous="on" solo="{site.solo}"'
    return f'synchronous="off" solo="{site.solo}" maximum_lag_on_failover="{size(site.maximum_lag)}"'


def mode(core: Server) -> str:
    """How commits are acknowledged now, by the active of this server's epoch: solo | synchronous | asynchronous."""
    return "solo" if core.disk.solo else "asynchronous" if core.disk.lax else "synchronous"


def may_be_lost(core: Server) -> str:
    """What a passive that takes over now may lack of what was acknowledged; "" if that is nothing."""
    p, peer = core.members.peer, core.site.peer
    if not core.rules.may_lack() or core.disk.active or core.disk.epoch.node == core.site.node:
        return ""
    if core.active_lsn < 0:
        return f"replication is asynchronous, and what {peer} acknowledged last may be lost"
    lag, ago = core.rules.lag(), core.members.run - core.active_heard_run
    if p is not None and p.stood_down and p.epoch == core.disk.epoch and core.let_go_lsn == core.active_lsn >= 0 and not lag:
        return "nothing is lost: this server holds all log up to its clean stop"
    held = f"lacks {size(lag)} of log that {peer} had" if lag else f"holds all log that {peer} had"
    return (
        f"asynchronous: this server {held} when last heard, {ago:.1f} s ago; {'that, and ' if lag else ''}what was acknowledged"
        " since, is lost"
    )


def alarms(core: Server) -> dict[str, str]:
    """The alarms that hold now, by name. Asked at every event: in the usual case, when there is none, no text is made."""
    m, t = core.members, core.timing
    quiet = m.silent_for()
    found: dict[str, str] = {}
    if quiet >= t.deadtime:
        found["peer-silent"] = why_silent(core)
        if core.phase is Phase.PASSIVE and core.rules.served_lately():
            found["held"] = f"{core.site.peer} is silent but still serves ({service_sign(core)}): no takeover"
    elif m.peer is not None and core.rules.rival():
        found["two-actives"] = f"{core.site.peer} is active too, in epoch {m.peer.epoch}"
    if m.run - core.started_run > t.ping_dead and (missing := m.unanswered()):
        found["not-connected"] = missing
    if core.disk.suspended:
        found["suspended"] = why_suspended(core)
    elif core.rules.restrained():
        found["flapping"] = why_suspended(core)
    _of_service(core, found)
    _of_modes(core, found)
    _of_links(core, found)
    _of_backing(core, found)
    return found


def _of_service(core: Server, found: dict[str, str]) -> None:
    """Alarms of Postgres and ha_manager. What is told already is not over because the phase changes."""
    deadtime, told = core.timing.deadtime, core.alarms
    late = core.now - core.phase_since > deadtime
    if core.phase in SERVING and core.disk.solo and (late or "solo" in told):
        found["solo"] = "every write is on this server only: the passive is not in sync"
    if core.phase is Phase.ACTIVE and core.facts.stalled >= deadtime:
        until = ", until it is back (solo=release)" if core.rules.release_only() else ""
        found["stalled"] = f"no write is acknowledged: commits wait for {core.site.peer}{until}"
    if core.now - core.unhealthy_since >= deadtime and core.facts.because:
        found["unhealthy"] = core.facts.because
    if core.manager_lost and (late or "ha-manager" in told):
        found["ha-manager"] = f"ha_manager is gone: {core.manager_lost}"


def _times_differ(own: Times, theirs: Times, peer: str) -> str:
    here = ", ".join(f"{name} {seconds:g} s" for name, seconds in own._asdict().items())
    there = ", ".join(f"{seconds:g} s" for seconds in theirs)
    longer = "the longer count"
    return (
        f"{here} are configured here, {there} on {peer}: {longer}; give both the same <timing> in module.xml, then `ha start`"
    )


def _of_modes(core: Server, found: dict[str, str]) -> None:
    """What the two servers' configuration and the state of replication have against each other."""
    site, p, peer = core.site, core.members.peer, core.site.peer
    if p is None:
        return
    if site.synchronous == p.mode.off and core.members.in_contact():
        own, theirs = ("on", "off") if site.synchronous else ("off", "on")
        found["mode-differs"] = f'synchronous="{own}" is configured here, "{theirs}" on {peer}: the stricter counts, "on"'
    if p.mode.release != (site.solo == "release"):
        theirs = "release" if p.mode.release else "silence"
        found["solo-differs"] = f'solo="{site.solo}" is configured here, "{theirs}" on {peer}: the stricter counts, "release"'
    if p.times not in (core.times, Times()) and core.members.in_contact():
        found["times-differ"] = _times_differ(core.times, p.times, peer)
    if core.phase is not Phase.ACTIVE or not core.disk.lax:
        return
    if not core.rules.asynchronous() and core.now - core.configured_at >= core.timing.deadtime:
        found["mode-pending"] = f"commits don't wait for {peer} yet, although they are to: it is not proven to hold everything"
    if core.rules.lagged_for() >= core.timing.deadtime:
        far = f"lacks more log than maximum_lag_on_failover ({size(site.maximum_lag)})"
        found["lag"] = f"{peer} could not take over: it {far if core.facts.behind >= 0 else 'does not stream'}"


def service_sign(core: Server) -> str:
    """What shows that a silent peer serves."""
    return core.signs.fresh(VIP) or core.facts.sign or "it did a moment ago"


def _of_backing(core: Server, found: dict[str, str]) -> None:
    """Alarms of what a decision by silence needs besides the silence."""
    site, p, deadtime = core.site, core.members.peer, core.timing.deadtime
    if stranger := core.signs.fresh(STRANGER):
        found["stranger"] = stranger
    if site.arp_check and core.arp.unusable:
        found["arp-check"] = f"{core.arp.unusable}: decisions by silence are taken without asking the ping node's ARP table"
    if core.unfenced and not core.members.in_contact():
        found["fence"] = f"{site.peer} could not be fenced: {core.unfenced}; it is tried again"
    if site.fence and p is not None and not p.fences:
        found["fence-one-sided"] = (
            f"a fence agent is configured here but not on {site.peer}: one that takes longer than"
            f" {core.timing.stale - deadtime:g} s helps nobody"
        )
    if core.refused and not core.members.in_contact():
        found["witnesses"] = f"the witnesses did not agree: {core.refused}"


def _of_links(core: Server, found: dict[str, str]) -> None:
    """One alarm a link: raised when the peer is heard on another one but not there, or never was; over when it is heard."""
    m, deadtime = core.members, core.timing.deadtime
    for link in core.site.links:
        at = m.links.get(link, -inf)
        if m.heard_at - at < deadtime:
            continue  # as lately as on any other link; a peer that is silent on all of them is an alarm of its own
        name, never = f"link-{link}", link not in m.links
        if m.heard_at - max(at, m.contact_since) >= deadtime or (never and m.run - core.started_run >= core.timing.initdead):
            found[name] = f"{core.site.peer} {'has never been' if never else 'is not'} heard on {link}"
        elif name in core.alarms:
            found[name] = core.alarms[name]


def status(core: Server, now: float) -> dict[str, object]:
    m, p = core.members, core.members.peer
    unfit = core.rules.unfit() if core.phase is Phase.PASSIVE else ""
    return {
        "node": core.site.node,
        "peer": core.site.peer,
        "role": core.role,
        "phase": core.phase,
        "epoch": list(core.disk.epoch),
        "solo": core.disk.solo,
        "in_sync": core.disk.in_sync,
        "stood_down": core.disk.stood_down and not core.returns,
        "returns": core.rules.comes_back(),
        "fit": core.phase is Phase.PASSIVE and not unfit,
        "unfit_because": unfit,
        "replication": {
            "mode": mode(core),
            "configured": {"synchronous": core.site.synchronous, "solo": core.site.solo, "maximum_lag": core.site.maximum_lag},
            "release_only": core.rules.release_only(),
            "solo_after": core.rules.solo(),
            "lag": core.facts.behind if core.phase in SERVING else core.rules.lag(),
        },
        "suspended": core.disk.suspended,
        "restrained": core.rules.restrained(),
        "because": core.because,
        "peer_state": {
            "heard_ago": round(m.silent_for(), 3) if p else None,
            "contact": m.in_contact(),
            "phase": p.phase if p else "unknown",
            "epoch": list(p.epoch) if p else [0, ""],
            "fit": bool(p and p.fit and m.in_contact()),
            "in_sync": bool(p and p.in_sync),
            "data": p.data if p else "unknown",
        },
        "links": {link: "up" if m.run - m.links.get(link, -inf) < core.timing.deadtime else "dead" for link in core.site.links},
        "ping_nodes": {
            node: "up" if m.run - m.replied_at.get(node, -inf) < core.timing.ping_dead else "dead"
            for node in core.site.ping_nodes
        },
        "vip": {"held": core.phase in SERVING},
        "manager": core.manager_lost or "ok",
        "alarms": dict(core.alarms),
        "expires": round(core.lease_at + core.timing.role_expiry, 2),
    }
