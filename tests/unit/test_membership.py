"""Who is heard: replays, links of which one is dead, and how many ping nodes it takes."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from heartbeat.membership import Membership
from heartbeat.model import Alarm, Boot, Heard, Message, Tick
from tests.unit.server import SITE, TIMING, Server

PEER = Message("vs-28", Boot(3, 33), 5)
THREE = replace(SITE, ping_nodes=("a", "b", "c"), ping_quorum=2)


def members(**site: object) -> Membership:
    return Membership(replace(SITE, **site), TIMING, Boot(7, 77), 100.0)  # type: ignore[arg-type]


# --- replays --------------------------------------------------------------------------------------------------------------


def test_the_copy_on_the_second_link_shows_that_the_link_lives() -> None:
    m = members()
    assert m.heard("eth0", PEER) and not m.heard("eth1", PEER)
    assert set(m.links) == {"eth0", "eth1"}


@pytest.mark.parametrize(
    "again",
    [PEER, replace(PEER, seq=4), replace(PEER, boot=Boot(2, 22), seq=9), replace(PEER, boot=Boot(3, 34), seq=9),
     replace(PEER, node="vs-166", seq=9)],
    ids=["replayed", "older", "of an older run", "of another run of the same number", "of another node"],
)  # fmt: skip
def test_what_is_not_new_does_not_even_keep_its_link_alive(again: Message) -> None:
    m = members()
    m.heard("eth0", PEER)
    m.advance(100.1)
    before = (m.peer, m.heard_at, dict(m.links))
    assert not m.heard("eth0", again)
    assert (m.peer, m.heard_at, m.links) == before


# --- links ----------------------------------------------------------------------------------------------------------------


class Cables(Server):
    """The peer speaks on the links that are whole, each keepalive."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = ["eth0", "eth1"]
        self.alarms: dict[str, str] = {}
        self.changes = 0
        self._seq = 0

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += TIMING.keepalive / 2  # more than a keepalive would be a pause
            self._seq += 1
            for link in self.whole:
                self.give(Heard(link, Message("vs-28", Boot(3, 33), self._seq)))
                self._note()
            self.give(Tick())
            self._note()

    def _note(self) -> None:
        for effect in self.did:
            if isinstance(effect, Alarm) and effect.name.startswith("link-"):
                self.alarms[effect.name] = effect.text if effect.raised else ""
                self.changes += 1
        self.did.clear()


def test_a_dead_link_is_an_alarm_until_it_is_heard_again() -> None:
    pair = Cables()
    pair.pass_time(2)
    assert pair.alarms == {}
    pair.whole = ["eth0"]
    pair.pass_time(TIMING.deadtime + 0.4)
    assert pair.alarms == {"link-eth1": "vs-28 is not heard on eth1"}
    for pair.whole in ([], ["eth0"]):  # the peer dies and returns: that says nothing new about the link
        pair.pass_time(3)
        pair.whole = ["eth0"]
        pair.pass_time(0.2)
        assert pair.alarms == {"link-eth1": "vs-28 is not heard on eth1"}
    pair.whole = ["eth0", "eth1"]
    pair.pass_time(0.4)
    assert pair.alarms == {"link-eth1": ""} and pair.changes == 2


def test_a_peer_that_dies_and_returns_raises_no_alarm_about_links() -> None:
    pair = Cables()
    for _ in range(3):
        pair.whole = ["eth0", "eth1"]
        pair.pass_time(2)
        pair.whole = []
        pair.pass_time(5)
    assert pair.alarms == {}


def test_a_link_on_which_the_peer_was_never_heard_is_an_alarm_also_while_it_is_silent_everywhere() -> None:
    pair = Cables()
    pair.whole = []
    pair.pass_time(TIMING.initdead - 0.2)
    assert pair.alarms == {}
    pair.pass_time(0.4)
    never = {f"link-{link}": f"vs-28 has never been heard on {link}" for link in ("eth0", "eth1")}
    assert pair.alarms == never
    pair.whole = ["eth1"]
    pair.pass_time(2)
    assert pair.alarms == never | {"link-eth1": ""}


# --- ping nodes -----------------------------------------------------------------------------------------------------------


def answer(m: Membership, seq: int, *nodes: str) -> None:
    for node in THREE.ping_nodes:
        m.ping_sent(node, seq)
    for node in nodes:
        m.ping_reply(node, seq)


@pytest.mark.parametrize(
    ("quorum", "answering", "connected"),
    [(1, "a", True), (1, "", False), (2, "a", False), (2, "ac", True), (3, "ab", False), (3, "abc", True)],
)
def test_so_many_ping_nodes_must_answer(quorum: int, answering: str, connected: bool) -> None:
    m = members(ping_nodes=THREE.ping_nodes, ping_quorum=quorum)
    answer(m, 1, *answering)
    assert m.connected() is connected and m.answering() == len(answering)
    assert (m.answered_sent_at > -inf) is connected


def test_connection_ends_when_the_node_that_made_up_the_quorum_is_silent() -> None:
    m = members(ping_nodes=THREE.ping_nodes, ping_quorum=2)
    answer(m, 1, "a", "b")
    for seq in range(2, 10):
        m.advance(99.9 + 0.1 * seq)
        answer(m, seq, "a")
    assert not m.connected() and m.ping_silent_for() == pytest.approx(0.8)
    assert not m.pinged_since(m.run - 0.5) and m.pinged_since(m.run - 0.9)
    answer(m, 10, "a", "c")
    assert m.connected() and m.pinged_since(m.run - 0.1)


def test_a_confirmed_ping_is_one_that_enough_nodes_answered() -> None:
    """Rule 3: what the passive had heard before it sent that ping; one node that answers is not enough for two."""
    m = members(ping_nodes=THREE.ping_nodes, ping_quorum=2)
    m.heard("eth0", replace(PEER, seq=10))
    answer(m, 1, "a", "b")
    assert m.ping_after == 10
    m.heard("eth0", replace(PEER, seq=20))
    m.advance(100.05)
    answer(m, 2, "a")
    assert m.ping_after == 10
    m.ping_reply("c", 2)
    assert m.ping_after == 20


def test_a_node_that_answered_long_ago_confirms_nothing_to_the_peers_next_run() -> None:
    """Its newest answer belongs to a run of the peer whose numbers were higher."""
    m = members(ping_nodes=THREE.ping_nodes)
    m.heard("eth0", replace(PEER, seq=1000))
    answer(m, 1, "a")
    m.heard("eth0", Message("vs-28", Boot(4, 44), 1))
    m.advance(100.05)
    answer(m, 2, "b")
    assert m.ping_after == 1


def test_a_reply_to_what_was_never_asked_changes_nothing() -> None:
    m = members(ping_nodes=THREE.ping_nodes)
    answer(m, 1)
    for node, seq in (("a", 2), ("a", 0), ("z", 1)):
        m.ping_reply(node, seq)
    assert not m.connected()
