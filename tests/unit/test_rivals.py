"""Others that claim our address: when it is told, when it is answered, when it is over; and the packets it is learnt from."""

from __future__ import annotations

import os
import selectors
from collections.abc import Sequence

import pytest

from runtime.address import NetworkError
from runtime.arpwatch import Claim
from runtime.rivals import ASK_PERIOD, ASK_RIVAL_PERIOD, OVER_AFTER, Announce, Ask, Order, Rivals, Told
from runtime.vipwatch import VipWatch

VIP, MAC, OTHER = "10.0.0.9", "02:00:00:00:00:99", "02:00:00:00:00:98"


def holding(at: float = 0.0) -> Rivals:
    """Held since ``at``, the first question asked."""
    rivals = Rivals()
    rivals.held(True, at)
    assert rivals.tick(at) == [Ask()]
    return rivals


def run(rivals: Rivals, begin: float, end: float, claims: Sequence[float] = ()) -> list[tuple[float, Order]]:
    """What is done from ``begin`` to ``end``, with a claim at each of ``claims``."""
    done: list[tuple[float, Order]] = []
    for tenth in range(round(begin * 10), round(end * 10) + 1):
        now = tenth / 10
        if now in claims:
            done += [(now, order) for order in rivals.claimed(VIP, MAC, now)]
        if now >= rivals.deadline():
            done += [(now, order) for order in rivals.tick(now)]
    return done


def test_nobody_claims_it_and_it_is_asked_now_and_then() -> None:
    assert run(holding(), 0.1, 25) == [(ASK_PERIOD, Ask()), (2 * ASK_PERIOD, Ask())]


def test_who_does_not_hold_it_minds_nobody() -> None:
    """The peer is the one that claims it then."""
    rivals = Rivals()
    assert rivals.claimed(VIP, MAC, 1.0) == [] and rivals.rivals == {} and rivals.deadline() > 1e9


def test_a_claim_is_told_once_answered_after_a_second_and_over_when_nobody_repeats_it() -> None:
    done = run(holding(), 0.1, 16, claims=[3.0, 3.1])
    told = [(at, order) for at, order in done if not isinstance(order, Ask)]
    assert told == [
        (3.0, Told(VIP, f"{MAC} claims the virtual address {VIP}, which this server holds")),
        (4.0, Announce("another one claims the virtual address")),
        (told[2][0], Told(VIP, "")),
        (told[2][0], Announce("nobody else claims the virtual address any more")),
    ]
    # while it is there it is asked for more often
    assert [at for at, order in done if isinstance(order, Ask)][:3] == [5.0, 7.0, 9.0]
    assert 3.1 + OVER_AFTER <= told[2][0] <= 3.1 + OVER_AFTER + ASK_RIVAL_PERIOD


def test_who_insists_is_answered_every_ten_seconds_not_more() -> None:
    done = run(holding(), 0.1, 60, claims=[tenth / 10 for tenth in range(10, 600)])
    answered = [at for at, order in done if isinstance(order, Announce)]
    assert answered == [2.0, 12.0, 22.0, 32.0, 42.0, 52.0]
    assert len([order for _, order in done if isinstance(order, Told)]) == 1


def test_another_mac_is_told_again() -> None:
    rivals = holding()
    assert len(rivals.claimed(VIP, MAC, 1.0)) == 1 and rivals.claimed(VIP, MAC, 1.1) == []
    assert rivals.claimed(VIP, OTHER, 1.2) == [Told(VIP, f"{OTHER} claims the virtual address {VIP}, which this server holds")]


def test_the_other_server_is_called_by_its_name() -> None:
    """After a cut it may hold the address for a moment more: no stranger, for whom an administrator would search."""
    assert holding().claimed(VIP, MAC, 1.0, "vs-28") == [
        Told(VIP, f"vs-28 ({MAC}) claims the virtual address {VIP}, which this server holds")
    ]


def test_letting_go_ends_the_quarrel() -> None:
    """Above all: no announcement of what this server has no more."""
    rivals = holding()
    rivals.claimed(VIP, MAC, 1.0)
    assert rivals.held(False, 1.5) == [Told(VIP, "")] and rivals.rivals == {}
    assert run(rivals, 1.5, 30) == []


def test_the_peer_heard_again_is_a_reason_to_announce_unless_it_serves_too() -> None:
    rivals = holding()
    assert rivals.peer(False, True, 1.0) == [Announce("the other server is heard again")]
    assert rivals.peer(False, True, 2.0) == []
    assert rivals.peer(False, False, 3.0) == []
    assert rivals.peer(True, True, 4.0) == []  # two actives: the core decides first
    assert rivals.peer(False, True, 5.0) == [Announce("the other server is heard again")]


def test_what_the_peer_claimed_is_over_when_it_is_heard_to_be_passive() -> None:
    """After a heal of a cut nobody is to look for a quarrel that has ended; a stranger's goes on, and so does a new one."""
    rivals = holding()
    rivals.peer(True, True, 1.0)
    rivals.claimed(VIP, MAC, 1.0, "vs-28")
    rivals.claimed("fd00::9", OTHER, 1.0)
    assert rivals.peer(False, True, 1.5) == [Told(VIP, ""), Announce("the other server is heard again")]
    assert set(rivals.rivals) == {"fd00::9"}
    assert rivals.claimed(VIP, MAC, 2.0, "vs-28") != [] and rivals.peer(False, True, 2.1) == []


def test_whoever_holds_nothing_announces_nothing_on_contact() -> None:
    assert Rivals().peer(False, True, 1.0) == []


# --- the packets ----------------------------------------------------------------------------------------------------------


class Wire:
    """One interface's packets; readable like a socket."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.asked: list[str] = []
        self.down = False
        self.reading, self.writing = os.pipe()

    def fileno(self) -> int:
        return self.reading

    def drain(self) -> list[Claim]:
        os.read(self.reading, 100)
        claims, self.claims = self.claims, []
        return claims

    def hear(self, *claims: Claim) -> None:
        self.claims += claims
        os.write(self.writing, b"x")

    def probe(self, address: str) -> None:
        if self.down:
            raise NetworkError(f"cannot ask for {address}: Network is down")
        self.asked.append(address)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


class Scene:
    def __init__(self) -> None:
        self.wires = {"eth0": Wire(), "eth1": Wire()}
        self.held = True
        self.announced: list[float] = []
        self.troubles: dict[str, str] = {}
        self.now = 100.0
        self.selector = selectors.DefaultSelector()
        self.own = bytes.fromhex("020000000001")
        vips = [(VIP, "eth0"), ("fd00::9", "eth0"), ("10.1.0.9", "eth1")]
        told = self.troubles.__setitem__
        self.watch = VipWatch(
            vips, self, self.selector, told, lambda: self.now, self.listen, lambda device: self.own, self.named
        )

    def named(self, mac: bytes) -> str:
        return "vs-28" if mac == bytes.fromhex("020000000098") else ""

    def listen(self, device: str, addresses: Sequence[str]) -> Wire:
        if device not in self.wires:
            raise NetworkError(f"{device}: Operation not permitted")
        return self.wires[device]

    def announce(self, now: float) -> None:
        self.announced.append(now)

    def turn(self) -> None:
        for key, mask in self.selector.select(0):
            key.data(mask)
        self.watch.turn(False, False, self.now)


def test_every_address_is_asked_for_on_its_interface() -> None:
    scene = Scene()
    scene.watch.start()
    scene.turn()
    assert (scene.wires["eth0"].asked, scene.wires["eth1"].asked) == ([VIP, "fd00::9"], ["10.1.0.9"])
    scene.watch.close()


def test_our_own_packets_claim_nothing_and_anothers_are_an_alarm() -> None:
    scene = Scene()
    scene.watch.start()
    scene.turn()
    scene.wires["eth0"].hear(Claim(VIP, scene.own, "announcement"))
    scene.turn()
    assert scene.watch.claims() == {}
    scene.wires["eth0"].hear(*[Claim("fd00::9", bytes.fromhex("020000000099"), "answer")] * 50)
    scene.turn()
    assert scene.watch.claims() == {"fd00::9": MAC} and scene.troubles["claimed-fd00::9"].startswith(f"{MAC} claims")
    scene.wires["eth1"].hear(Claim("10.1.0.9", bytes.fromhex("020000000098"), "answer"))
    scene.turn()
    assert scene.troubles["claimed-10.1.0.9"].startswith(f"vs-28 ({OTHER}) claims")
    scene.now += 1.1
    scene.turn()
    assert scene.announced == [scene.now]
    scene.held = False
    scene.turn()
    assert scene.troubles["claimed-fd00::9"] == "" and scene.watch.due > 1e9
    scene.watch.close()


@pytest.mark.parametrize("how", ["down", "refused"])
def test_what_can_not_be_listened_to_is_an_alarm_and_nothing_more(how: str) -> None:
    scene = Scene()
    if how == "refused":
        scene.wires.pop("eth1").close()
    else:
        scene.wires["eth1"].down = True
    scene.watch.start()
    scene.turn()
    assert scene.troubles["vip-watch-eth1"] and not scene.troubles.get("vip-watch-eth0")
    assert scene.wires["eth0"].asked == [VIP, "fd00::9"]
    if how == "down":
        scene.wires["eth1"].down = False
        scene.now += ASK_PERIOD
        scene.turn()
        assert scene.troubles["vip-watch-eth1"] == ""
    scene.watch.close()
