"""One node next to a Linux-HA node: what it answers to the sequences that were recorded of two real ones, and two of ours
under seeded faults.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from heartbeat.linuxha import LinuxHaCore
from heartbeat.model import (
    Activate,
    DropVip,
    Effect,
    Exit,
    HeardFrame,
    Leave,
    NewRun,
    Phase,
    Ping,
    PingReply,
    Record,
    Reply,
    Role,
    SendFrame,
    Site,
    Standby,
    Suspend,
    TakeVip,
    Tick,
)
from heartbeat.timing import Timing

TIMING = replace(
    Timing(),
    keepalive=0.5,
    warntime=1.0,
    ping_period=0.5,
    ping_dead=2.0,
    deadtime=3.0,
    initdead=6.0,
    lease=2.0,
    role_expiry=1.5,
)
PING = "192.0.2.1"


class Bench:
    """One core (node a) and a scripted peer (node b)."""

    def __init__(self, preferred: str = "a", pings: bool = True) -> None:
        site = Site("a", "b", preferred, (PING,) if pings else (), ("eth0",))
        self.now = 100.0
        self.core = LinuxHaCore(site, TIMING, 7, Record(), self.now)
        self.answers = True
        self.done: list[Effect] = []
        self.generation, self.seq = 50, 0
        self.vip = False
        self.feed(Tick())

    def feed(self, event: object) -> list[Effect]:
        out = self.core.handle(event, self.now)  # type: ignore[arg-type]
        self.done += out
        for effect in out:
            if isinstance(effect, TakeVip):
                self.vip = True
            elif isinstance(effect, DropVip):
                self.vip = False
        if self.answers and any(isinstance(effect, Ping) for effect in out):
            self.feed(PingReply(PING, 0))
        return out

    def hear(self, kind: str, **fields: str) -> list[str]:
        """The peer says this; what this node says to it at once."""
        self.seq += 1
        before = len(self.done)
        self.feed(HeardFrame("eth0", {"t": kind, "src": "b", **fields, "seq": f"{self.seq:x}", "hg": f"{self.generation:x}"}))
        return self.said(before)

    def said(self, since: int = 0) -> list[str]:
        """Everything but what only repeats that this node lives, in short."""
        lines = []
        for effect in self.done[since:]:
            if isinstance(effect, SendFrame):
                words = [str(value) for name, value in effect.fields.items() if name not in {"seq", "hg", "protocol", "dt"}]
                if words[0] not in ("status", "NS_ackmsg") or words[1] in ("init", "up"):
                    lines.append(" ".join(words))
        return lines

    def run(self, seconds: float, peer: bool = True) -> list[str]:
        """Let time pass; ``peer``: the other one goes on saying that it lives."""
        since, end = len(self.done), self.now + seconds
        while self.now < end:
            self.now = round(self.now + 0.1, 3)
            self.feed(Tick())
            if peer and round(self.now * 10) % 5 == 0:
                self.hear("status", st="active", dt="bb8")
        return self.said(since)

    def join(self, holds: str = "all") -> None:
        """The peer is there and holds something."""
        self.hear("status", st="active", dt="bb8")
        assert "reqnodes b" in self.run(1.1)
        self.hear("repnodes", dest="a", nodelist="b a ", delnodelist=" ")
        self.hear("resource", rsc_hold=holds, rtype="full", isstable="1")

    def alone(self) -> None:
        self.run(6.2, peer=False)


def reply(effects: list[Effect]) -> Reply:
    return next(effect for effect in effects if isinstance(effect, Reply))


def test_it_joins_a_node_that_holds_everything_and_holds_nothing() -> None:
    bench = Bench()
    assert bench.said()[:2] == ["status init", "status up"]
    bench.hear("status", st="active", dt="bb8")
    assert bench.run(0.2) == []  # asked at once, above
    assert bench.hear("repnodes", dest="a", nodelist="b a ", delnodelist=" ") == ["starting", "resource none full 0"]
    assert bench.hear("resource", rsc_hold="all", rtype="full", isstable="1") == ["resource none full 1"]
    assert (bench.core.phase, bench.core.resources, bench.vip) == (Phase.PASSIVE, "none", False)


def test_alone_it_takes_everything_after_initdead_and_not_before() -> None:
    bench = Bench()
    bench.run(5.8, peer=False)
    assert bench.core.resources == "transition" and not bench.vip
    assert "resource all full 1 req_our_resources()" in bench.run(0.4, peer=False)
    assert (bench.core.phase, bench.core.role, bench.vip) == (Phase.ACTIVE, Role.ACTIVE, True)


def test_alone_and_without_a_ping_node_that_answers_it_takes_nothing() -> None:
    bench = Bench()
    bench.answers = False
    bench.alone()
    assert not bench.vip and "isolated" in bench.core.alarms
    bench.answers = True
    bench.run(1.0, peer=False)
    assert bench.vip and "isolated" not in bench.core.alarms


@pytest.mark.parametrize(("preferred", "vip"), [("a", True), ("b", False)])
def test_when_both_start_each_takes_its_own_after_ten_seconds(preferred: str, vip: bool) -> None:
    bench = Bench(preferred)
    bench.hear("status", st="up", dt="1388")
    bench.hear("repnodes", dest="a", nodelist="a b ", delnodelist=" ")
    bench.hear("starting")
    bench.hear("resource", rsc_hold="none", rtype="full", isstable="0")
    bench.run(9.8)
    assert bench.core.resources == "transition"
    assert "resource local full 1" in bench.run(0.4)
    assert bench.vip is vip


def test_it_tells_a_starting_peer_which_nodes_there_are_and_what_it_holds() -> None:
    bench = Bench()
    bench.alone()
    bench.hear("status", st="init", dt="1388")
    assert bench.hear("reqnodes", dest="a") == ["repnodes b a b   "]
    assert bench.hear("starting") == ["resource all full 1"]
    assert bench.hear("resource", rsc_hold="none", rtype="full", isstable="1") == []
    assert bench.vip


def test_hb_standby_gives_when_the_peer_has_answered_and_lets_go_before_it_says_so() -> None:
    bench = Bench()
    bench.join("none")
    assert bench.vip
    since = len(bench.done)
    assert reply(bench.feed(Standby("hb_standby"))).text == "Going standby [all]."
    assert bench.said(since) == ["ask_resources all me"] and bench.vip
    assert bench.hear("ask_resources", rsc_hold="all", info="other") == [
        "resource none full 0 standby",
        "ask_resources all done",
    ]
    names = [type(effect).__name__ for effect in bench.done[since:]]
    assert names.index("DropVip") < names.index("SendFrame", names.index("DropVip"))
    assert not bench.vip and bench.core.resources == "transition"
    bench.hear("resource", rsc_hold="all", rtype="full", isstable="1")
    assert bench.core.resources == "none"
    bench.hear("ask_resources", rsc_hold="all", info="done")
    assert not bench.vip


def test_hb_standby_ends_without_an_answer_and_nothing_was_moved() -> None:
    bench = Bench()
    bench.join("none")
    bench.feed(Standby("hb_standby"))
    bench.run(10.2)
    assert bench.vip and "standby" in bench.core.alarms
    assert bench.hear("ask_resources", rsc_hold="all", info="other") == []  # too late
    assert bench.vip


def test_it_takes_what_the_peer_gives() -> None:
    bench = Bench()
    bench.join()
    assert bench.hear("ask_resources", rsc_hold="all", info="me") == ["ask_resources all other"]
    bench.hear("resource", rsc_hold="none", rtype="full", isstable="0", info="standby")
    assert not bench.vip  # it is still stopping
    assert bench.hear("ask_resources", rsc_hold="all", info="done") == ["resource all full 1", "ask_resources all done"]
    assert bench.vip


@pytest.mark.parametrize(("preferred", "given", "mine"), [("a", "foreign", "local"), ("b", "local", "foreign")])
def test_local_and_foreign_are_in_the_giver_s_words(preferred: str, given: str, mine: str) -> None:
    bench = Bench(preferred)
    bench.join()
    bench.hear("ask_resources", rsc_hold=given, info="me")
    bench.hear("resource", rsc_hold=mine, rtype="full", isstable="0", info="standby")
    said = bench.hear("ask_resources", rsc_hold=given, info="done")
    assert said == [f"resource {mine} full 1", f"ask_resources {given} done"] and bench.vip


@pytest.mark.parametrize(("wanted", "asked"), [("all", "all"), ("local", "foreign"), ("foreign", "local"), ("failback", "all")])
def test_hb_takeover_of_the_peer_makes_this_node_give(wanted: str, asked: str) -> None:
    bench = Bench()
    bench.join("none")
    assert bench.hear("hb_takeover", rsc_hold=wanted) == [f"ask_resources {asked} me"]


def test_hb_takeover_asks_a_peer_that_is_there_and_takes_from_one_that_is_not() -> None:
    bench = Bench()
    bench.join()
    since = len(bench.done)
    assert reply(bench.feed(Activate("hb_takeover"))).ok
    assert bench.said(since) == ["hb_takeover all"] and not bench.vip
    bench.answers = False
    bench.run(3.5, peer=False)
    assert bench.core.isolated and not bench.vip
    assert reply(bench.feed(Activate("hb_takeover"))).ok and bench.vip  # an operator knows


def test_what_can_t_be_given_is_refused_in_words() -> None:
    bench = Bench()
    bench.alone()
    assert "nobody to hand over to" in reply(bench.feed(Standby("hb_standby"))).text
    assert "bogus" in reply(bench.feed(Standby("hb_standby", which="bogus"))).text
    assert not reply(bench.feed(Suspend("ha", True))).ok


def test_a_peer_that_stops_leaves_everything_at_its_last_word() -> None:
    bench = Bench()
    bench.join()
    bench.hear("resource", rsc_hold="none", rtype="full", isstable="0", info="shutdown")
    assert not bench.vip
    assert bench.hear("shutdone", st="dead") == ["resource all full 1 req_our_resources()"]
    assert bench.vip
    bench.hear("status", st="active", dt="80e8")  # a Linux-HA node that restarts itself goes on talking
    assert bench.core.peer.status == "dead"
    bench.generation, bench.seq = 51, 0
    bench.hear("status", st="init", dt="1388")
    assert bench.core.peer.status == "init" and bench.vip


def test_a_dead_peer_s_resources_are_taken_after_the_time_that_it_named() -> None:
    bench = Bench()
    bench.join()
    bench.hear("status", st="active", dt="1388")
    bench.run(4.8, peer=False)
    assert not bench.vip
    assert "resource all full 1 req_our_resources()" in bench.run(0.4, peer=False)
    assert bench.vip


def test_cut_off_with_the_address_it_leaves_keeps_silent_and_comes_back_as_a_new_run() -> None:
    bench = Bench()
    bench.join("none")
    bench.answers = False
    assert bench.run(3.2, peer=False) == ["resource none full 0 shutdown", "shutdone dead"]
    assert not bench.vip and bench.core.isolated
    quiet = len(bench.done)
    bench.run(5.0, peer=False)
    assert not any(isinstance(effect, SendFrame) for effect in bench.done[quiet:])
    assert bench.core.deadline() > bench.now  # type: ignore[operator]
    bench.answers = True
    since = len(bench.done)
    bench.hear("status", st="active", dt="bb8")
    assert NewRun(8) in bench.done[since:] and bench.said(since)[:2] == ["status init", "status up"]
    bench.join()
    assert bench.core.resources == "none"


def test_cut_off_and_back_it_waits_initdead_for_a_peer_that_may_have_taken_over() -> None:
    bench = Bench()
    bench.join("none")
    bench.answers = False
    bench.run(3.2, peer=False)
    bench.answers = True
    bench.run(5.0, peer=False)
    assert not bench.vip and NewRun(8) in bench.done
    bench.run(2.0, peer=False)
    assert bench.vip


def test_one_that_did_not_run_is_a_new_run() -> None:
    bench = Bench()
    bench.join("none")
    bench.now += 2.6
    bench.feed(Tick())
    assert NewRun(8) in bench.done and not bench.vip
    bench.join()
    assert bench.core.resources == "none"


def test_a_short_pause_keeps_everything() -> None:
    bench = Bench()
    bench.join("none")
    bench.now += 2.0
    bench.feed(Tick())
    assert bench.vip and not any(isinstance(effect, NewRun) for effect in bench.done)


def test_a_peer_that_returns_with_the_address_is_told_and_if_it_keeps_it_this_node_lets_go() -> None:
    bench = Bench("b")
    bench.join("all")
    bench.run(3.2, peer=False)
    assert bench.vip
    assert "resource all full 1" in bench.hear("status", st="active", dt="bb8")
    assert "two-actives" in bench.core.alarms
    bench.run(7.8)
    assert bench.vip
    bench.run(0.4)
    assert not bench.vip and NewRun(8) in bench.done


def test_a_peer_that_returns_with_the_address_is_asked_to_hand_it_over() -> None:
    bench = Bench()
    bench.join("all")
    bench.run(3.2, peer=False)
    bench.hear("status", st="active", dt="bb8")
    assert bench.run(2.8) == []
    assert bench.run(0.4) == ["hb_takeover all"]
    assert bench.hear("ask_resources", rsc_hold="all", info="me") == ["ask_resources all other"]
    bench.hear("resource", rsc_hold="none", rtype="full", isstable="0", info="standby")
    bench.hear("ask_resources", rsc_hold="all", info="done")
    bench.run(12.0)
    assert bench.vip and "two-actives" not in bench.core.alarms
    assert not any(isinstance(effect, NewRun) for effect in bench.done)


def test_what_the_peer_holds_is_what_it_said_last_and_what_it_added() -> None:
    bench = Bench()
    bench.join("local")
    bench.hear("resource", rsc_hold="foreign", info="mach_down")  # no rtype: more than before
    assert bench.core.status(bench.now)["linux_ha"]["peer_resources"] == "all"  # type: ignore[index]
    bench.hear("resource", rsc_hold="none")
    assert bench.core.status(bench.now)["linux_ha"]["peer_resources"] == "none"  # type: ignore[index]
    bench.hear("resource", rsc_hold="all", rtype="full", isstable="1")
    bench.hear("starting")  # holds nothing until it says so
    assert bench.core.status(bench.now)["linux_ha"]["peer_resources"] == "transition"  # type: ignore[index]
    assert not bench.core.peer_holds_vip


def test_who_has_just_started_asks_for_two_seconds_more_patience() -> None:
    bench = Bench()
    bench.run(6.0)
    asked = [str(e.fields["dt"]) for e in bench.done if isinstance(e, SendFrame) and e.fields["t"] == "status"]
    assert asked[0] == "1388" and asked[-1] == "bb8" and set(asked) == {"1388", "bb8"}


def test_an_address_that_nobody_has_is_taken() -> None:
    bench = Bench("b")
    bench.join("local")
    assert not bench.vip
    bench.hear("starting")
    bench.hear("resource", rsc_hold="none", rtype="full", isstable="1")
    bench.run(2.2)
    assert bench.vip


def test_stopping_lets_go_says_so_and_ends() -> None:
    bench = Bench()
    bench.join("none")
    since = len(bench.done)
    bench.feed(Leave("SIGTERM", "handover"))
    assert bench.said(since) == ["resource none full 0 shutdown", "shutdone dead"]
    assert not bench.vip and isinstance(bench.done[-1], Exit)
    since = len(bench.done)
    bench.hear("hb_takeover", rsc_hold="all")
    assert bench.done[since:] == []


def test_what_the_peer_missed_is_said_again() -> None:
    bench = Bench()
    bench.join()
    since = len(bench.done)
    bench.feed(HeardFrame("eth0", {"t": "NS_rexmit", "src": "b", "dest": "a", "firstseq": "1", "lastseq": "2", "hg": "32"}))
    repeated = [effect.fields for effect in bench.done[since:] if isinstance(effect, SendFrame)]
    assert [(frame["t"], frame["seq"], frame.get("st")) for frame in repeated] == [
        ("status", "1", "init"),
        ("status", "2", "up"),
    ]


def test_what_this_node_missed_is_asked_for_and_every_tenth_is_acknowledged() -> None:
    bench = Bench()
    bench.join()
    bench.seq += 2
    bench.run(1.0)
    frames = [effect.fields for effect in bench.done if isinstance(effect, SendFrame)]
    asked = [frame for frame in frames if frame["t"] == "NS_rexmit"]
    assert asked and asked[0]["dest"] == "b" and int(str(asked[0]["lastseq"])) - int(str(asked[0]["firstseq"])) == 1
    bench.run(20.0)
    frames = [effect.fields for effect in bench.done if isinstance(effect, SendFrame)]
    assert [str(frame["ackseq"]) for frame in frames if frame["t"] == "NS_ackmsg"][:3] == ["a", "14", "1e"]


def test_strangers_replays_and_rubbish_change_nothing() -> None:
    bench = Bench()
    bench.join()
    before = bench.core.status(bench.now)
    since = len(bench.done)
    for fields in (
        {"t": "shutdone", "st": "dead", "src": "c", "seq": "99", "hg": "99"},
        {"t": "shutdone", "st": "dead", "src": "b", "seq": "99", "hg": "1"},
        {"t": "shutdone", "st": "dead", "src": "b", "seq": "99"},
        {"t": "resource", "src": "b", "rsc_hold": b"none", "isstable": "x", "seq": f"{bench.seq + 1:x}", "hg": "32"},
        {"t": "ask_resources", "src": "b", "rsc_hold": "bogus", "info": "me", "seq": f"{bench.seq + 2:x}", "hg": "32"},
        {"t": "NS_rexmit", "src": "b", "dest": "a", "firstseq": "-1", "lastseq": "x", "hg": "32"},
        {"t": "NS_rexmit", "src": "b", "dest": "c", "firstseq": "1", "lastseq": "2", "hg": "32"},
        {"src": "b", "hg": "32", "seq": f"{bench.seq + 3:x}"},
        {},
    ):  # fmt: skip
        bench.feed(HeardFrame("eth0", fields))  # type: ignore[arg-type]
    after = bench.core.status(bench.now)
    assert bench.said(since) == [] and not bench.vip
    assert after["linux_ha"] == before["linux_ha"]
    assert "replayed" in bench.core.alarms


def test_the_standing_alarm_and_the_words_of_the_status() -> None:
    bench = Bench()
    bench.join("none")
    status = bench.core.status(bench.now)
    assert "split brain is possible" in bench.core.alarms["linux-ha"]
    assert status["linux_ha"] == {
        "resources": "all", "status": "active", "generation": 7, "peer_status": "active", "peer_resources": "none",
        "peer_generation": 50,
    }  # fmt: skip
    assert any("holds all resources" in line for line in bench.core.explain(bench.now))


# --- two of ours, under faults --------------------------------------------------------------------------------------------


class World:
    """Two cores, one link, a gateway; faults by seed. Time goes in steps of 50 ms."""

    STEP = 0.05

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.generations = {"a": 10, "b": 10}
        self.cores: dict[str, LinuxHaCore | None] = {"a": None, "b": None}
        self.vip = {"a": False, "b": False}
        self.leased_until = {"a": 0.0, "b": 0.0}
        self.asleep_until = {"a": 0.0, "b": 0.0}
        self.deaf = {"a": False, "b": False}
        self.pingless = {"a": False, "b": False}
        self.loss = 0.0
        self.mail: list[tuple[float, str, HeardFrame]] = []
        self.trace: list[str] = []

    def start(self, name: str) -> None:
        self.generations[name] += 1
        site = Site(name, "b" if name == "a" else "a", "a", (PING,), ("eth0",))
        self.vip[name] = False
        self.cores[name] = LinuxHaCore(site, TIMING, self.generations[name], Record(), self.now)
        self.asleep_until[name] = 0.0

    def kill(self, name: str) -> None:
        self.cores[name] = None
        self.vip[name] = False

    def step(self) -> None:
        self.now = round(self.now + self.STEP, 3)
        due = [mail for mail in self.mail if mail[0] <= self.now]
        self.mail = [mail for mail in self.mail if mail[0] > self.now]
        for mail in due:
            _, name, event = mail
            if self.asleep_until[name] > self.now:
                self.mail.append(mail)
            else:
                self.give(name, event)
        for name in ("a", "b"):
            self.give(name, Tick())

    def give(self, name: str, event: object) -> None:
        core = self.cores[name]
        if core is None or self.asleep_until[name] > self.now:
            return
        for effect in core.handle(event, self.now):  # type: ignore[arg-type]
            match effect:
                case TakeVip():
                    self.vip[name] = True
                    self.leased_until[name] = self.now + TIMING.lease
                    self.trace.append(f"{self.now:.2f} {name} takes: {core.because}")
                case DropVip():
                    self.vip[name] = False
                case SendFrame(fields):
                    self.send(name, HeardFrame("eth0", dict(fields) | {"src": name}))
                case Ping() if not self.pingless[name]:
                    self.give(name, PingReply(PING, 0))
                case NewRun(generation):
                    self.generations[name] = generation
                    self.trace.append(f"{self.now:.2f} {name} runs anew: {core.because}")
                case _:
                    if type(effect).__name__ == "RefreshLease":
                        self.leased_until[name] = self.now + TIMING.lease

    def send(self, name: str, frame: HeardFrame) -> None:
        to = "b" if name == "a" else "a"
        if not self.deaf[to] and self.random.random() >= self.loss:
            self.mail.append((self.now + self.random.choice((0.0, 0.0, 0.05, 0.15)), to, frame))

    def holders(self) -> list[str]:
        return [name for name in ("a", "b") if self.vip[name] and self.leased_until[name] > self.now]

    def fault(self) -> None:
        name = self.random.choice("ab")
        core = self.cores[name]
        match self.random.randrange(8):
            case 0:
                self.kill(name)
            case 1 if core is None:
                self.start(name)
            case 2:
                self.asleep_until[name] = self.now + self.random.uniform(0.2, 6.0)
            case 3:
                self.deaf[name] = not self.deaf[name]
            case 4:
                self.pingless[name] = not self.pingless[name]
            case 5:
                self.loss = self.random.choice((0.0, 0.2, 0.4))
            case 6:
                self.give(name, self.random.choice((Standby("x"), Activate("x"))))
            case _:
                self.give(name, Leave("x", "handover"))
                self.kill(name)

    def mend(self) -> None:
        self.loss = 0.0
        for name in ("a", "b"):
            self.deaf[name] = self.pingless[name] = False
            self.asleep_until[name] = 0.0
            if self.cores[name] is None:
                self.start(name)


@pytest.mark.parametrize("block", range(4))
def test_two_of_ours_end_with_one_holder_whatever_happened(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        world = World(seed)
        world.start("a")
        world.start("b")
        for _ in range(world.random.randrange(1, 7)):
            for _ in range(world.random.randrange(20, 400)):
                world.step()
            world.fault()
            world.trace.append(f"{world.now:.2f} fault")
        for _ in range(world.random.randrange(20, 200)):
            world.step()
        world.mend()
        world.trace.append(f"{world.now:.2f} mended")
        for _ in range(int(40 / World.STEP)):
            world.step()
        for _ in range(int(5 / World.STEP)):
            world.step()
            assert len(world.holders()) == 1, (
                seed,
                world.trace,
                [core.status(world.now) for core in world.cores.values() if core],
            )
