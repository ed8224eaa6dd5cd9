"""Who may write on top of a real Linux-HA heartbeat: each situation, and two servers through random schedules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pytest

from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Role, Want
from ha_manager.reign import Outcome, Pair, PeerWord, Record, Seen, step
from ha_manager.role import Holds

A, B = Pair("vs-166", "vs-28", True), Pair("vs-28", "vs-166", False)
NOTHING = Record()
E1, E2 = Epoch(1, "vs-166"), Epoch(2, "vs-28")
REIGNING = Record(E1, Role.ACTIVE)
IN_SYNC = Record(E1, Role.PASSIVE, in_sync=True)


def look(pair: Pair, record: Record, holds: Holds, **more: object) -> Outcome:
    return step(pair, record, Seen(holds, **({"facts": Facts()} | more)))  # type: ignore[arg-type]


def test_the_first_start_is_the_default_actives() -> None:
    first = look(A, NOTHING, Holds.ALL)
    assert first.record == Record(E1, Role.ACTIVE, solo=True) and first.want.names is Names.RELAXED
    other = look(B, NOTHING, Holds.ALL)
    assert (other.want.postgres, other.role) == (Postgres.STANDBY, Role.PASSIVE) and "may lack" in other.alarm


def test_nothing_is_done_before_anything_is_known() -> None:
    waiting = look(A, REIGNING, Holds.NO_ANSWER)
    assert (waiting.want.phase, waiting.want.postgres, waiting.role) == (Phase.WAITING, Postgres.KEEP, None)
    assert look(A, REIGNING, Holds.NO_ANSWER, now=Role.ACTIVE).want.postgres is Postgres.PRIMARY


def test_one_in_sync_takes_over_solo_in_an_epoch_of_its_own() -> None:
    over = look(B, IN_SYNC, Holds.ALL)
    assert over.record == Record(E2, Role.ACTIVE, solo=True) and over.want.epoch == E2


@pytest.mark.parametrize(
    "record", [Record(E1, Role.PASSIVE), replace(IN_SYNC, in_sync=False), Record(Epoch(3, "vs-166"), Role.PASSIVE)]
)
def test_one_that_is_not_in_sync_writes_nothing_and_says_so(record: Record) -> None:
    refused = look(B, record, Holds.ALL)
    assert refused.want.postgres is Postgres.STANDBY and "`ha activate`" in refused.alarm and refused.record == record
    forced = look(B, record, Holds.ALL, forced="forced by ha activate")
    assert forced.want.postgres is Postgres.PRIMARY and forced.record.epoch == Epoch(record.epoch.number + 1, "vs-28")


def test_being_in_sync_ends_with_a_higher_epoch_heard_and_with_a_copy() -> None:
    word = PeerWord(Role.ACTIVE, Epoch(2, "vs-166"))
    assert not look(B, IN_SYNC, Holds.NONE, peer=word).record.in_sync
    assert not look(B, IN_SYNC, Holds.NONE, facts=Facts(data="copying")).record.in_sync
    assert look(B, IN_SYNC, Holds.NONE, peer=replace(word, epoch=E1)).record.in_sync


def test_newer_data_on_the_other_server_wins_over_the_address() -> None:
    for role in (Role.ACTIVE, Role.PASSIVE):
        yields = look(A, REIGNING, Holds.ALL, peer=PeerWord(role, E2), now=Role.ACTIVE)
        assert yields.want.postgres is Postgres.STANDBY and "vs-28 has newer data" in yields.alarm
        assert yields.want.follow == (E2 if role is Role.ACTIVE else Epoch())


def test_the_way_into_sync_and_the_wait_for_ever() -> None:
    solo = Record(E1, Role.ACTIVE, solo=True)
    one = look(A, solo, Holds.ALL, now=Role.ACTIVE, facts=Facts(postgres=Postgres.PRIMARY, caught_up=True))
    assert one.want.names is Names.ENFORCED and one.record.solo, "asked for, not proven yet"
    carried = replace(one.want, serial=4)
    late = Facts(serial=3, postgres=Postgres.PRIMARY, caught_up=True, proven=99)
    assert look(A, solo, Holds.ALL, now=Role.ACTIVE, want=carried, facts=late).record.solo, "a proof of an earlier want"
    two = look(A, solo, Holds.ALL, now=Role.ACTIVE, want=carried, facts=replace(late, serial=4))
    assert not two.record.solo
    gone = Facts(serial=4, postgres=Postgres.PRIMARY, proven=99, names=Names.ENFORCED, stalled=9.0)
    three = look(A, two.record, Holds.ALL, now=Role.ACTIVE, want=carried, facts=gone)
    assert three.want.names is Names.ENFORCED and "no write is acknowledged" in three.alarm
    alone = look(A, two.record, Holds.ALL, now=Role.ACTIVE, want=carried, facts=gone, forced="forced by ha activate")
    assert alone.record == Record(Epoch(2, "vs-166"), Role.ACTIVE, solo=True) and alone.want.names is Names.RELAXED


def test_the_passive_is_in_sync_when_it_holds_what_was_proven() -> None:
    word = PeerWord(Role.ACTIVE, E1, solo=False, proven=100)
    held = Facts(postgres=Postgres.STANDBY, following=E1, lsn=100)
    record = Record(Epoch(), Role.PASSIVE)
    assert look(B, record, Holds.NONE, peer=word, facts=held).record == IN_SYNC
    for less in (replace(held, lsn=99), replace(held, following=Epoch()), replace(held, postgres=Postgres.DETACHED)):
        assert not look(B, record, Holds.NONE, peer=word, facts=less).record.in_sync
    for doubtful in (replace(word, solo=True), replace(word, proven=-1), replace(word, role=Role.PASSIVE)):
        assert not look(B, record, Holds.NONE, peer=doubtful, facts=held).record.in_sync


def test_a_role_that_was_let_go_comes_back_only_when_the_peer_says_that_it_never_had_it() -> None:
    yielded = look(A, REIGNING, Holds.NONE, now=Role.ACTIVE).record
    assert yielded == Record(E1, Role.PASSIVE)
    assert look(A, yielded, Holds.ALL).want.postgres is Postgres.STANDBY
    back = look(A, yielded, Holds.ALL, peer=PeerWord(Role.PASSIVE, E1))
    assert back.record == REIGNING and back.want.names is Names.ENFORCED, "and what waited goes on waiting"


# --- random schedules ---------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server with its disk, and a database that acknowledges a write when its rules allow it."""

    pair: Pair
    record: Record = Record()
    now: Role | None = None
    want: Want = Want(0, Phase.WAITING, Epoch(), Postgres.KEEP)
    names: Names = Names.RELAXED
    primary: bool = False
    following: Epoch = Epoch()
    proven: int = -1
    serial: int = 0
    data: list[int] = field(default_factory=list)
    on: bool = True
    session: bool = True
    holds: Holds = Holds.NO_ANSWER


class World:
    """Linux-HA is an adversary here: it gives the address to anybody at any time, also to both."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.servers = [Server(A), Server(B)]
        self.acknowledged: list[int] = []
        self.trace: list[str] = []
        self.writes = 0

    def other(self, server: Server) -> Server:
        return self.servers[1 - self.servers.index(server)]

    def word(self, server: Server) -> PeerWord | None:
        peer = self.other(server)
        if not (peer.on and server.session and peer.now):
            return None
        return PeerWord(peer.now, peer.record.epoch, peer.record.solo, peer.proven)

    def streams(self, server: Server) -> bool:
        """``server`` receives from its peer, under the peer's epoch: what is waited for."""
        peer = self.other(server)
        return (
            server.on and peer.on and peer.primary and not server.primary and server.following == peer.record.epoch != Epoch()
        )

    def look(self, server: Server) -> None:
        if not server.on:
            return
        peer = self.other(server)
        facts = Facts(
            serial=server.serial, postgres=Postgres.PRIMARY if server.primary else Postgres.STANDBY, lsn=len(server.data),
            following=server.following if self.streams(server) else Epoch(), proven=server.proven, data="ready",
            caught_up=server.primary and self.streams(peer), names=server.names,
        )  # fmt: skip
        out = step(server.pair, server.record, Seen(server.holds, facts, self.word(server), server.want, server.now))
        server.record, server.now = out.record, out.role
        server.want = replace(
            out.want, serial=server.want.serial + (replace(out.want, serial=server.want.serial) != server.want)
        )
        self.trace.append(f"{server.pair.node} {server.holds}: {out.record} {out.want.postgres} {out.want.names} {out.alarm}")

    def carry(self, server: Server) -> None:
        """ha_manager brings Postgres where it is wanted."""
        want = server.want
        if not server.on or want.postgres is Postgres.KEEP:
            return
        if want.postgres is Postgres.PRIMARY:
            if not server.primary:
                server.primary, server.names, server.following = True, want.names, Epoch()
            peer = self.other(server)
            if want.names is Names.RELAXED:
                server.names, server.proven = Names.RELAXED, -1
            elif self.streams(peer):
                server.names = Names.ENFORCED
                peer.data = list(server.data)
                server.proven = len(server.data)
            elif server.proven < 0:
                return  # tried again
        else:
            server.primary, server.proven, server.following = False, -1, want.follow
            peer = self.other(server)
            if self.streams(server):
                server.data = list(peer.data)  # caught up, or copied afresh
        server.serial = want.serial

    def write(self, server: Server) -> None:
        if not (server.on and server.primary):
            return
        self.writes += 1
        server.data.append(self.writes)
        peer = self.other(server)
        if self.streams(peer) and len(peer.data) == len(server.data) - 1:
            peer.data.append(self.writes)
        elif server.names is Names.ENFORCED:
            return  # waits
        self.acknowledged.append(self.writes)

    def crash(self, server: Server) -> None:
        server.on = not server.on
        server.now, server.primary, server.proven, server.serial = None, False, -1, 0
        server.want = Want(0, Phase.WAITING, Epoch(), Postgres.KEEP)

    def turn(self) -> None:
        server, chance = self.random.choice(self.servers), self.random.random()
        if chance < 0.02:
            server.holds, self.other(server).holds = Holds.ALL, Holds.NONE
            self.trace.append(f"{server.pair.node} gets the address")
        elif chance < 0.03:
            server.holds = self.random.choice(list(Holds))
            self.trace.append(f"{server.pair.node} gets {server.holds}")
        elif chance < 0.04 or (chance < 0.1 and not server.on):
            self.crash(server)
            self.trace.append(f"{server.pair.node} {'on' if server.on else 'off'}")
        elif chance < 0.05 or (chance < 0.1 and not server.session):
            server.session = not server.session
        elif chance < 0.4:
            self.write(server)
        elif chance < 0.7:
            self.look(server)
        else:
            self.carry(server)

    def check(self) -> None:
        """Whoever writes now, and would be acknowledged, holds everything that ever was."""
        for server in self.servers:
            alone = server.primary and server.on and (server.names is Names.RELAXED or self.streams(self.other(server)))
            if alone:
                missing = set(self.acknowledged) - set(server.data)
                assert not missing, "\n".join([*self.trace[-40:], f"{server.pair.node} lacks {missing}"])


@pytest.mark.parametrize("seed", range(300))
def test_nothing_acknowledged_is_ever_missing_where_more_is_acknowledged(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        world.turn()
        world.check()


def test_the_schedules_do_acknowledge_and_take_over() -> None:
    worlds = [World(seed) for seed in range(60)]
    for world in worlds:
        for _ in range(400):
            world.turn()
    assert sum(len(world.acknowledged) for world in worlds) > 1000
    assert max(server.record.epoch.number for world in worlds for server in world.servers) >= 3
