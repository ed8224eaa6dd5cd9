"""Why this server is what it is, what would happen if one of the two died now, and what would be lost: for people.

Promise: reads, never changes; complete sentences, each true of this moment and taken from the very rules that would decide.
Source: issue "heartbeat: right in every schedule of faults" ("explain"); design §4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heartbeat import report
from heartbeat.model import SERVING, Database, Phase
from heartbeat.signs import HOST

if TYPE_CHECKING:
    from heartbeat.state import Server

_IS = {
    Phase.WAITING: "has just started and waits to hear its peer",
    Phase.RESUMING: "was restarted as the active and waits for a word of its peer",
    Phase.PASSIVE: "is passive",
    Phase.DETACHING: "is about to take over (it can still be given up)",
    Phase.OPENING: "takes over: the virtual IP is here, its epoch is on its way to the disk",
    Phase.PROMOTING: "takes over: Postgres is being promoted",
    Phase.ACTIVE: "is active",
    Phase.PREPARING: "is active and about to hand over (a checkpoint comes first)",
    Phase.STANDING_DOWN: "lets go: the virtual IP is dropped, Postgres is being stopped",
    Phase.LEFT: "has left",
}


def explain(core: Server) -> list[str]:
    """The sentences, in the order in which they matter."""
    since = f"for {core.now - core.phase_since:.0f} s"
    lines = [f"{core.site.node} {_IS[core.phase]}, in epoch {core.disk.epoch}, {since}: {core.because}."]
    lines += _of_silence(core)
    match core.phase:
        case Phase.ACTIVE | Phase.PREPARING:
            lines += _serving(core)
        case Phase.WAITING | Phase.PASSIVE:
            lines += _passive(core)
        case Phase.DETACHING | Phase.OPENING | Phase.PROMOTING:
            lines += _taking_over(core)
        case Phase.STANDING_DOWN:
            lines += _letting_go(core)
        case Phase.RESUMING:
            lines += _resuming(core)
    return lines + [f"Alarm: {text}." for text in core.alarms.values()]


def _of_silence(core: Server) -> list[str]:
    """What is known of a peer that is not heard."""
    m, peer = core.members, core.site.peer
    if m.silent_for() < core.timing.deadtime:
        return [] if m.in_contact() or m.peer is None else [f"{peer} is heard, but does not hear this server."]
    heard = (
        f"{peer} has not been heard for {m.silent_for():.1f} s" if m.peer else f"{peer} has never been heard since the start"
    )
    if m.peer is not None and m.peer.phase is Phase.LEFT and not core.rules.served_lately():
        return [f"{report.why_silent(core)}, {m.silent_for():.1f} s ago; `ha start` there, or switching it on, brings it back."]
    if core.rules.served_lately():
        return [f"{heard}, but it still serves: {report.service_sign(core)}."]
    if host := core.signs.fresh(HOST):
        return [f"{heard} and shows no sign of service; its host lives ({host}), which holds no takeover."]
    return [f"{heard} and shows no sign of life."]


# --- the active -------------------------------------------------------------------------------------------------------------


def _serving(core: Server) -> list[str]:
    peer = core.site.peer
    if core.disk.solo:
        return [
            *_takes_no_writes(core),
            f"It runs solo: writes are on this server only. If {peer} died now, nothing would change here.",
            f"If this server died now, nobody would take over: {peer} does not hold everything. Service would wait for this"
            " server's return; nothing would be lost as long as its disk is not.",
        ]
    silent = core.members.silent_for() >= core.timing.deadtime and not core.rules.served_lately()
    commits = _waits_for_passive(core) if silent else _if_passive_died(core)
    return [*_takes_no_writes(core), commits, _if_active_died(core)]


def _takes_no_writes(core: Server) -> list[str]:
    """Of an active whose Postgres is down, or unknown."""
    if core.manager_lost:
        return [f"Whether Postgres takes writes here is not known: ha_manager is gone ({core.manager_lost})."]
    if core.facts.postgres is not Database.PRIMARY:
        because = "it is not promoted" if core.facts.healthy else core.facts.because
        return [f"Postgres takes no writes here now: {because}."]
    return []


def _if_passive_died(core: Server) -> str:
    peer = core.site.peer
    if core.disk.lax:
        return f"Commits don't wait for {peer} (asynchronous replication): if it died now, nothing would change here."
    if _takes_no_writes(core):
        alone = f", until it has been silent for {core.rules.solo():g} s{_backed(core, peer)}"
        return f"When it does, every commit waits for {peer}{'' if core.rules.release_only() else alone}."
    begin = f"Every commit waits for {peer}. If it died now, nothing would be lost; no write would be acknowledged"
    if core.rules.release_only():
        return f"{begin} until it is back (solo=release)."
    return f"{begin} for {core.rules.solo():g} s; then this server would go on alone{_backed(core, peer)}."


def _waits_for_passive(core: Server) -> str:
    """An active whose passive is silent: until when, or why it does not go on alone."""
    peer = core.site.peer
    if core.disk.lax:
        return f"Commits don't wait for {peer} (asynchronous replication)."
    waits = f"No write is acknowledged: every commit waits for {peer}"
    if core.rules.release_only():
        return f"{waits}, until it is back (solo=release). If it is certainly off: `ha activate --force`."
    if missing := core.members.unanswered():
        return f"{waits}; going on alone is out of the question while {missing} here."
    if core.unfenced:
        return f"{waits}; it could not be fenced ({core.unfenced}), which is tried again."
    if core.refused:
        return f"{waits}; the witnesses did not agree ({core.refused}) and are asked again."
    if core.rules.solo_by_silence() and not core.rules.entry_kept(core.rules.solo_silence_since()):
        return f"{waits}; the ping node's ARP entry of the virtual IP does not prove that it still points here."
    return f"{waits}; after {core.rules.solo():g} s of silence this server goes on alone{_backed(core, peer)}."


def _if_active_died(core: Server) -> str:
    peer, p = core.site.peer, core.members.peer
    if not (p is not None and p.fit and core.members.in_contact()):
        return (
            f"If this server died now, service would wait for its return: {peer} can't take over, because"
            f" {report.why_peer_unfit(core)}. Nothing would be lost as long as the disk here is not."
        )
    # How much that is, ha_manager says: two looks at what changes all the time would contradict each other.
    lost = "what it lacks then would be lost" if core.disk.lax else "nothing acknowledged would be lost"
    return f"If this server died now, {peer} would take over after {core.rules.deadtime():g} s; {lost}."


# --- on the way between the two ---------------------------------------------------------------------------------------------


def _taking_over(core: Server) -> list[str]:
    peer, forced = core.site.peer, "forced by" in core.takeover.because
    lost = f"what {peer} acknowledged beyond this database is lost" if forced else "nothing acknowledged is lost by it"
    going_on = f"If {peer} died now, this server would go on taking over; {lost}."
    if core.phase is Phase.PROMOTING:
        return [going_on, f"If this server died now, service would wait for its return: {peer} does not hold this epoch."]
    back = f"If {peer} showed now that it is active, this would be given up."
    waits = _takeover_waits(core)
    return [
        *([f"It waits: {waits}."] if waits else []),
        back if core.phase is Phase.DETACHING else f"{peer} is told that this server is about to be active.",
        going_on,
        "If this server died now, its epoch, never promoted, would be forgotten.",
    ]


def _takeover_waits(core: Server) -> str:
    """What a takeover waits for just now, beside Postgres and the disk; "" for nothing."""
    peer, rules, attempt = core.site.peer, core.rules, core.attempt
    if core.phase is Phase.DETACHING and attempt is not None and core.takeover.by_silence:
        if not rules.fenced():
            return f"the fence agent has not yet switched {peer} off"
        return "the witnesses have not answered yet" if core.site.witnesses and not rules.granted(attempt.asked) else ""
    if core.phase is Phase.OPENING and core.takeover.on_word and not rules.word_stands():
        return f"{peer}, which stood down, has not answered the announcement yet"
    if core.phase is Phase.OPENING and core.takeover.by_silence and not rules.entry_taken():
        return "the ping node does not answer the virtual IP here yet"
    return ""


def _letting_go(core: Server) -> list[str]:
    peer = core.site.peer
    then = (
        f"this server would become active again after {core.rules.solo():g} s of silence, once it has let go and Postgres here"
        f" is ready{_backed(core, peer)}"
        if core.rules.would_come_back() and not core.leaving
        else "service would wait for its return, or for an operator's `ha activate`"
    )
    return [
        f"As soon as Postgres has stopped and the disk says so, {peer} is told, and takes over if it is fit.",
        f"If {peer} died now, {then}; nothing acknowledged would be lost.",
    ]


def _resuming(core: Server) -> list[str]:
    peer, left = core.site.peer, max(0.0, core.resume.expires - core.now)
    return [
        f"It becomes active again if {peer} is heard to be passive within {left:.1f} s; otherwise it stands down.",
        f"If {peer} died now, service would wait for its return, or for an operator's `ha activate`; nothing acknowledged would"
        " be lost.",
    ]


# --- the passive ------------------------------------------------------------------------------------------------------------


def _passive(core: Server) -> list[str]:
    m, p = core.members, core.members.peer
    if p is not None and m.in_contact() and p.phase not in SERVING:
        return _nobody_active(core)
    unfit = core.rules.unfit()
    if not m.in_contact():
        return [
            _let_go(core) or f"It does not take over: {_held(core, unfit)}.",
            _operators_choice(core, "An operator may decide"),
        ]
    peer = core.site.peer
    if unfit:
        return [
            f"If {peer} died now, this server could not take over: {unfit}. Service would wait for {peer}'s return.",
            _operators_choice(core, "An operator could decide otherwise then"),
        ]
    asks = _backed(core, peer)
    line = f"If {peer} died now, this server would take over after {core.rules.deadtime():g} s of silence on every link{asks}"
    line += f"; {report.may_be_lost(core) or 'nothing acknowledged would be lost'}."
    own = _if_this_passive_died(core)
    if missing := core.members.unanswered():
        line += f" But not at this moment: {missing} here."
    return [line, own]


def _operators_choice(core: Server, begin: str) -> str:
    if (nothing := report.nothing_to_serve(core)) is not None:
        return f"An operator has no choice: {nothing}."
    return f"{begin}: {report.what_activation_risks(core)}."


def _if_this_passive_died(core: Server) -> str:
    peer = core.site.peer
    if core.rules.may_lack():
        return f"If this server died now, nothing would change on {peer}: its commits don't wait."
    if core.rules.release_only():
        return f"If this server died now, no write would be acknowledged on {peer} until it is back (solo=release)."
    alone = f"for {core.rules.solo():g} s; then it would go on alone"
    return f"If this server died now, no write would be acknowledged on {peer} {alone}."


def _let_go(core: Server) -> str:
    """A former active whose successor is not heard."""
    peer = core.site.peer
    if core.rules.comes_back():
        ready = "" if core.facts.data == "ready" and core.facts.healthy else ", once Postgres here is ready"
        return (
            f"It let go for {peer}, which was not heard to take over: after {core.rules.solo():g} s of silence this server"
            f" becomes active again by itself{ready}{_backed(core, peer)}."
        )
    if core.disk.stood_down and core.phase is Phase.PASSIVE:
        return (
            f"It let go for {peer}, which took over, or may have: what {peer} acknowledged since is not here, so this server"
            " waits for it."
        )
    return ""


def _held(core: Server, unfit: str) -> str:
    """Why a passive whose peer is not in contact is passive still."""
    if core.phase is Phase.WAITING:
        return f"it waits {core.timing.initdead:g} s from its start for a word of {core.site.peer}"
    if unfit:
        return unfit
    if missing := core.members.unanswered():
        return f"{missing} here"
    if core.rules.served_lately():
        return f"{core.site.peer} still serves"
    if core.unfenced:
        return f"{core.site.peer} could not be fenced ({core.unfenced}); it is tried again"
    if core.refused:
        return f"the witnesses did not agree ({core.refused}); they are asked again"
    return f"the silence has not lasted {core.rules.deadtime():g} s yet, or no ping was answered since"


def _nobody_active(core: Server) -> list[str]:
    p, peer = core.members.peer, core.site.peer
    assert p is not None
    outcome = core.rules.elect()
    if core.rules.gave_way() and not core.rules.unfit():
        return [f"Neither server is active: {peer} stood down, and this one takes over as soon as a ping node has answered."]
    if outcome == "mine":
        return [f"Neither server is active: this one is to serve, once {peer} has given way and Postgres here is healthy."]
    if outcome == "theirs":
        return [f"Neither server is active: {peer} is to serve, its database is the one that holds everything."]
    why = f"{peer} is {p.phase}, its database is {p.data} and of epoch {p.epoch}, the one here is {core.rules.data()}"
    if outcome == "nobody" and core.disk.lax and core.rules.their_end() < 0:
        why += f"; commits didn't wait, and where the log of {peer} ends is not known"
    if outcome == "":
        return [f"Neither server is active, and it is not decided yet who is to be: {why}."]
    return [f"Neither server is active: {why}. {_operators_choice(core, 'An operator has to decide')}"]


# --- both -------------------------------------------------------------------------------------------------------------------


def _backed(core: Server, peer: str) -> str:
    """What a decision by silence needs besides, as the end of a clause."""
    site = core.site
    needs = []
    if site.fence:
        needs.append(f"the fence agent has switched {peer} off")
    if site.witnesses:
        needs.append(f"{site.witnesses // 2 + 1} of {site.witnesses} witnesses grant it")
    if core.rules.asks_entry() and (core.phase in SERVING or (core.members.peer is not None and core.members.peer.arp)):
        needs.append("the ping node's ARP entry of the virtual IP points here")
    return f", if {' and '.join(needs)}" if needs else ""
