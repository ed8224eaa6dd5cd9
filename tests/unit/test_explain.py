"""What `ha explain` says: complete sentences, each true of the state it is asked in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from heartbeat.model import Database, Epoch, Fenced, ManagerLost, Phase, Record, Sign, Standby, Suspend
from tests.unit.server import PEER_ACTIVE, PEER_PASSIVE, SITE, Server, active_in_sync, let_go, passive_in_sync
from tests.unit.test_backing import active, passive
from tests.unit.test_lax import lagging, lax_passive


def solo() -> Server:
    server = active_in_sync()
    server.facts = replace(server.facts, caught_up=False)
    server.hear(in_sync=False, fit=False, data="copying")
    server.run(0.1)
    server.hear()
    return server


def silent(server: Server, seconds: float = 1.5, manager: bool = True) -> Server:
    server.peer_speaks, server.manager = False, manager
    server.run(seconds)
    return server


def hearing(server: Server, **fields: object) -> Server:
    server.hear(**fields)
    server.run(0.1)
    return server


def replicating(server: Server) -> Server:
    server.facts = replace(server.facts, sign_age=0.05, sign="the standby's status messages still arrive")
    server.run(0.1)
    return server


def with_sign(kind: str, text: str) -> Server:
    server = passive_in_sync()
    server.hear(asks_release=True, calls_in_sync=-1)
    silent(server, 1.2)
    server.give(Sign(kind, "eth1", text))
    return server


def left_by_the_passive() -> Server:
    server = active_in_sync()
    server.hear(phase=Phase.LEFT, in_sync=False, fit=False)
    return silent(server)


def unfenced() -> Server:
    server = passive(fence=True)
    silent(hearing(server, fences=True), 2.0)
    server.give(Fenced(False, "no route to the power switch"))
    return server


def suspended() -> Server:
    server = active_in_sync()
    server.give(Suspend("root", True))
    return server


def flapping() -> Server:
    return hearing(active_in_sync(), changes=99)


def electing(outcome: str) -> Server:
    server = Server(Record(Epoch(4, "vs-28"), in_sync=True))
    server.facts = replace(server.facts, lsn=100)
    server.hear(**PEER_PASSIVE | {"epoch": Epoch(4, "vs-28"), "lsn": 90 if outcome == "mine" else 110})
    server.disk = False
    server.run(0.02)
    server.hear()
    server.core.saves.clear()
    return server


def unconnected() -> Server:
    server = passive_in_sync()
    server.pings = False
    server.run(0.8)
    return server


def postgres_down(server: Server) -> Server:
    server.manager = False
    server.facts = replace(server.facts, postgres=Database.UNKNOWN, healthy=False, because="Postgres is starting")
    server.give(server.facts)
    return server


def manager_gone(server: Server) -> Server:
    server.manager = False
    server.give(ManagerLost("its connection is closed"))
    return server


def unfit(epoch: int = 4, healthy: bool = True, calls_in_sync: int = -1) -> Server:
    """A passive that is not in sync, of an active that is heard."""
    server = Server(Record(Epoch(epoch, "vs-28" if epoch else "")))
    because = "" if healthy else "Postgres is starting"
    server.facts = replace(server.facts, healthy=healthy, because=because, following=Epoch(4, "vs-28"), lsn=1000)
    server.hear(**PEER_ACTIVE | {"calls_in_sync": calls_in_sync})
    server.run(0.3)
    return server


def copying(because: str = "the database is being copied from vs-28", data: str = "copying") -> Server:
    server = unfit()
    server.facts = replace(server.facts, healthy=False, because=because, data=data)
    server.run(0.1)
    return server


NOT_FIT = "If vs-28 died now, this server could not take over"
FIT_PASSIVE = "If vs-28 died now, this server would take over after 1 s of silence on every link"
NO_WRITE = "no write would be acknowledged"
CASES: list[tuple[str, Callable[[], Server], tuple[str, ...]]] = [
    ("in sync", active_in_sync, (
        "vs-166 is active, in epoch 4/vs-166, for ",
        f"Every commit waits for vs-28. If it died now, nothing would be lost; {NO_WRITE} for 3.5 s; then this server would",
        "If this server died now, vs-28 would take over after 1 s; nothing acknowledged would be lost.")),
    ("in sync, with witnesses and a fence", lambda: active(fence=True, witnesses=3), (
        "then this server would go on alone, if the fence agent has switched vs-28 off and 2 of 3 witnesses grant it.",)),
    ("in sync, with the ARP check", lambda: active(arp_check=True), (
        "go on alone, if the ping node's ARP entry of the virtual IP points here.",)),
    ("in sync, solo=release", lambda: active(solo="release"), (f"{NO_WRITE} until it is back (solo=release).",)),
    ("the passive silent, solo=release", lambda: silent(active(solo="release")), (
        "every commit waits for vs-28, until it is back (solo=release). If it is certainly off: `ha activate --force`.",)),
    ("asynchronous", lambda: lagging(2048), (
        "Commits don't wait for vs-28 (asynchronous replication): if it died now, nothing would change here.",
        "vs-28 would take over after 1 s; what it lacks then would be lost.")),
    ("asynchronous here only", lambda: active(synchronous=False), (
        "Every commit waits for vs-28.", 'synchronous="off" is configured here, "on" on vs-28: the stricter counts, "on".')),
    ("fit, asynchronous", lambda: lax_passive(lacks=2048), (
        f"{FIT_PASSIVE}; asynchronous: this server lacks 2 KiB of log that vs-28 had when last heard, 0.0 s ago; that, and what"
        " was acknowledged since, is lost.",
        "If this server died now, nothing would change on vs-28: its commits don't wait.")),
    ("in sync, Postgres down", lambda: postgres_down(active_in_sync()), (
        "Postgres takes no writes here now: Postgres is starting.",
        "When it does, every commit waits for vs-28, until it has been silent for 3.5 s.")),
    ("in sync, solo=release, ha_manager gone", lambda: manager_gone(active(solo="release")), (
        "Whether Postgres takes writes here is not known: ha_manager is gone (its connection is closed).",
        "When it does, every commit waits for vs-28.")),
    ("solo, ha_manager gone", lambda: manager_gone(solo()), (
        "Whether Postgres takes writes here is not known: ha_manager is gone (its connection is closed).",
        "It runs solo: ")),
    ("solo", solo, (
        "It runs solo: writes are on this server only. If vs-28 died now, nothing would change here.",
        "If this server died now, nobody would take over: vs-28 does not hold everything.")),
    ("the passive unfit", lambda: hearing(active_in_sync(), fit=False), (
        "If this server died now, service would wait for its return: vs-28 can't take over, because it says that it is not",)),
    ("the passive's database or ha_manager gone", lambda: hearing(active_in_sync(), fit=False, data="failed"), (
        "can't take over, because its database can't be used, or its ha_manager does not run; `ha show` there says more.",)),
    ("the passive deaf", lambda: deaf(active_in_sync()), (
        "vs-28 is heard, but does not hear this server.", "vs-28 can't take over, because it does not hear this server.")),
    ("the passive silent", lambda: silent(active_in_sync()), (
        "vs-28 has not been heard for 1.5 s and shows no sign of life.",
        "No write is acknowledged: every commit waits for vs-28; after 3.5 s of silence this server goes on alone.",
        "vs-28 can't take over, because it was last heard 1.5 s ago.")),
    ("the passive has left", left_by_the_passive, (
        "was stopped (`ha stop`, or a shutdown), 1.5 s ago; `ha start` there, or switching it on, brings it back.",
        "vs-28 can't take over, because its heartbeat was stopped (`ha stop`, or a shutdown).",
        "Alarm: vs-28 has left: its heartbeat was stopped (`ha stop`, or a shutdown).")),
    ("the passive silent, replication goes on", lambda: replicating(silent(active_in_sync())), (
        "but it still serves: the standby's status messages still arrive.",
        "Every commit waits for vs-28. If it died now, nothing would be lost;")),
    ("the passive silent, entry unknown", lambda: silent(active(arp_check=True), 4.5), (
        "the ping node's ARP entry of the virtual IP does not prove that it still points here.",)),
    ("fit", passive_in_sync, (
        "vs-166 is passive, in epoch 4/vs-28, for ", f"{FIT_PASSIVE}; nothing acknowledged would be lost.")),
    ("fit, with a fence", lambda: passive(fence=True), (
        f"{FIT_PASSIVE}, if the fence agent has switched vs-28 off; nothing acknowledged would be lost.",)),
    ("fit, unconnected", unconnected, (
        f"{FIT_PASSIVE}; nothing acknowledged would be lost. But not at this moment: no ping node answers here.",)),
    ("unfit", lambda: hearing(passive_in_sync(), asks_release=True, calls_in_sync=-1), (
        "If vs-28 died now, this server could not take over: the active does not wait for this server's acknowledgement",
        "Service would wait for vs-28's return.",
        "everything that the other server acknowledged since is lost. If the other server is gone for good: `ha activate")),
    ("never in sync", lambda: unfit(epoch=0), (f"{NOT_FIT}: this server has never been in sync. ",)),
    ("unfit, its own Postgres down", lambda: unfit(healthy=False), (f"{NOT_FIT}: Postgres is starting. ",)),
    ("unfit, its ha_manager gone", lambda: manager_gone(unfit()), (
        f"{NOT_FIT}: ha_manager is gone: its connection is closed. ",)),
    ("waited for, not in sync yet", lambda: unfit(calls_in_sync=2000), (
        f"{NOT_FIT}: this server does not hold yet all that the active wants it to hold before it calls it in sync. ",)),
    ("half a copy, the active silent", lambda: silent(copying()), (
        "An operator has no choice: there is no complete database here that could be served: vs-28 has to come back.",)),
    ("can't start, the active silent", lambda: silent(copying("Postgres did not come up", "failed")), (
        "If the other server is gone for good: see to it that Postgres starts here, then `ha activate --force`",)),
    ("not in sync, the active silent", lambda: silent(unfit()), (
        "It does not take over: this server was not in sync when the active was last heard.",)),
    ("heard by nobody", lambda: hearing_nothing(), ("vs-28 is heard, but does not hear this server.",)),
    ("silent, serving", lambda: with_sign("vip", "vs-28's MAC answers for 192.168.120.187"), (
        "but it still serves: vs-28's MAC answers for 192.168.120.187 (eth1).",)),
    ("silent, its host lives", lambda: with_sign("host", "vs-28 answers ping"), (
        "shows no sign of service; its host lives (vs-28 answers ping (eth1)), which holds no takeover.",
        "It does not take over: this server was not in sync when the active was last heard.")),
    ("not fenced", unfenced, (
        "It does not take over: vs-28 could not be fenced (no route to the power switch); it is tried again.",
        "An operator may decide: ")),
    ("taking over", lambda: silent(passive_in_sync(), 1.3, manager=False), (
        "vs-166 is about to take over (it can still be given up), in epoch 4/vs-28",)),
    ("let go, its successor silent", lambda: silent(let_go()), (
        "It let go for vs-28, which was not heard to take over: after 3.5 s of silence this server becomes active again by"
        " itself.", "An operator may decide: ")),
    ("let go, its successor dead", lambda: silent(hearing(let_go(), phase=Phase.OPENING, epoch=Epoch(5, "vs-28"))), (
        "It let go for vs-28, which took over, or may have: what vs-28 acknowledged since is not here, so this server waits",)),
    ("just started", Server, (
        "vs-166 has just started and waits to hear its peer, in epoch 0/-",
        "It does not take over: it waits 3 s from its start for a word of vs-28.")),
    ("electing, mine", lambda: electing("mine"), ("Neither server is active: this one is to serve, once vs-28 has given way",)),
    ("electing, theirs", lambda: electing("theirs"), ("Neither server is active: vs-28 is to serve",)),
    ("suspended", suspended, ("Alarm: an operator suspended every takeover and failover; `ha resume` ends that.",)),
    ("flapping", flapping, (
        "Alarm: more than 10 takeovers in 10 minutes suspended yields and planned failovers (not a takeover when nobody is"
        " active); 600 s without another one, or `ha resume`, end that.",)),
]  # fmt: skip


def hearing_nothing() -> Server:
    return deaf(passive_in_sync())


def deaf(server: Server) -> Server:
    """The peer speaks on, and hears nothing from here."""
    server.peer_hears = False
    for _ in range(14):
        server.peer = replace(server.peer, echo_seq=0)  # type: ignore[type-var]
        server.hear()
        server.run(0.1)
    return server


@pytest.mark.parametrize("make,said", [pytest.param(make, said, id=name) for name, make, said in CASES])
def test_it_is_said_in_complete_sentences(make: Callable[[], Server], said: tuple[str, ...]) -> None:
    server = make()
    lines = server.core.explain(server.now)
    told = "\n".join(lines)
    for sentence in said:
        assert sentence in told, told
    for line in lines:
        assert line[0].isupper() or line.startswith((SITE.node, SITE.peer)), line
        assert line.endswith((".", "--force`.", "`")) and ".." not in line.replace("…", ""), line
        assert "None" not in line and "Phase." not in line and "Epoch(" not in line, line


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_is_explained(phase: Phase) -> None:
    server = passive_in_sync()
    server.core.phase = phase
    lines = server.core.explain(server.now)
    assert lines[0].startswith("vs-166 ")
    assert phase is Phase.LEFT or any("died now" in line or "if it died now" in line for line in lines), lines


def lets_go() -> Server:
    server = active_in_sync()
    server.give(Standby("root"))
    server.facts = replace(server.facts, prepared=True)
    while server.core.phase is not Phase.STANDING_DOWN:
        server.run(0.02)
        server.disk = False
    return server


def lets_go_unheard() -> Server:
    """What came last did not echo this server's latest: it may have been missed, and the other one be about to take over."""
    server = lets_go()
    server.peer_hears = False
    server.run(0.7)
    return server


def opening() -> Server:
    server = passive_in_sync()
    server.peer_hears = False
    server.hear(phase=Phase.PASSIVE, stood_down=True, returns=True, calls_in_sync=-1, vip=False)
    server.run(0.3)
    return server


def fencing() -> Server:
    server = passive(fence=True)
    return silent(hearing(server, fences=True), 2.0)


@pytest.mark.parametrize(
    ("make", "sentences"),
    [
        (
            lets_go,
            ("would become active again after 3.5 s of silence, once it has let go and Postgres here is ready; nothing",),
        ),
        (
            lets_go_unheard,
            ("If vs-28 died now, service would wait for its return, or for an operator's `ha activate`; nothing",),
        ),
        (opening, ("It waits: vs-28, which stood down, has not answered the announcement yet.", "would be forgotten.")),
        (fencing, ("It waits: the fence agent has not yet switched vs-28 off.", "this would be given up.")),
    ],
)
def test_what_a_change_waits_for_is_said(make: Callable[[], Server], sentences: tuple[str, ...]) -> None:
    server = make()
    told = "\n".join(server.core.explain(server.now))
    assert all(sentence in told for sentence in sentences), told
