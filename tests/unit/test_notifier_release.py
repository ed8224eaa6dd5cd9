"""The notifier's decisions, event by event; then whole commits against devices that fail, hang and change their notifier."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.holding import Holding, Outdated, Release, Step, Unprepared, Version
from notifier.model import (
    Abandon,
    Changed,
    Commit,
    Connected,
    Device,
    Devices,
    Done,
    Effect,
    Event,
    Failed,
    Kind,
    Lost,
    Prepare,
    Prepared,
    Progress,
    Refused,
    Reign,
    Save,
    State,
    Switch,
    Switched,
    Tick,
    Told,
)
from notifier.release import LIMIT, Releases

POLICY = Device("vs-28", Kind.POLICY)
SCANNERS = (Device("scan-1"), Device("scan-2"))
DEVICES = (SCANNERS[0], POLICY, SCANNERS[1])


def release(number: int, digest: str = "", epoch: int = 1, node: str = "vs-166") -> Release:
    return Release(Version(epoch, node, number), digest or f"content {number}")


FIRST, SECOND = release(1), release(2)


def what(effects: list[Effect]) -> list[str]:
    """The effects that do something, in short."""
    short = []
    for effect in effects:
        match effect:
            case Save(targets):
                short.append("save " + ",".join(f"{name}={each.version.number}" for name, each in sorted(targets.items())))
            case Prepare(name, each):
                short.append(f"prepare {name} {each.version.number}")
            case Switch(name, each):
                short.append(f"switch {name} {each.version.number}")
            case Abandon(name):
                short.append(f"abandon {name}")
            case Done(token, failures):
                short.append(f"done {token}" + "".join(f" [{text}]" for text in failures))
    return short


class Bench:
    def __init__(self, devices: Iterable[Device] = DEVICES, width: int = 64) -> None:
        self.releases = Releases(devices, {}, width)
        self.now = 100.0

    def do(self, event: Event, after: float = 0.0) -> list[str]:
        self.now += after
        return what(self.releases.handle(event, self.now))

    def tick(self) -> list[str]:
        due = self.releases.deadline()
        assert due is not None
        self.now = max(self.now, due)
        return self.do(Tick())

    def state(self, name: str) -> State:
        return self.releases.entries[name].state


@pytest.fixture
def bench() -> Bench:
    """All are connected and hold the first release."""
    made = Bench()
    made.do(Commit(FIRST))
    for device in DEVICES:
        assert made.do(Connected(device.name, FIRST)) == []
    return made


def test_prepares_all_at_once_and_switches_the_policy_server_first(bench: Bench) -> None:
    assert bench.do(Commit(SECOND, token=7)) == [
        "save scan-1=2,scan-2=2,vs-28=2", "prepare vs-28 2", "prepare scan-1 2", "prepare scan-2 2",
    ]  # fmt: skip
    assert bench.do(Prepared("scan-1", SECOND)) == []
    assert bench.do(Prepared("vs-28", SECOND)) == ["switch vs-28 2"]
    assert bench.do(Prepared("scan-2", SECOND)) == []
    assert bench.do(Switched("vs-28", SECOND)) == ["switch scan-1 2", "switch scan-2 2"]
    assert bench.do(Switched("scan-2", SECOND)) == []
    assert bench.do(Switched("scan-1", SECOND)) == ["done 7"]


def test_nothing_switches_that_is_not_whole(bench: Bench) -> None:
    bench.do(Commit(SECOND))
    assert bench.do(Progress("vs-28")) == []
    assert bench.do(Switched("vs-28", SECOND)) == [], "it was not asked to"
    assert bench.do(Prepared("vs-28", FIRST)) == [], "that is another release"
    assert bench.state("vs-28") is State.PREPARING


def test_an_absent_policy_server_holds_nobody_up(bench: Bench) -> None:
    bench.do(Lost("vs-28", "power cut"))
    assert bench.do(Commit(SECOND, token=1))[1:] == ["prepare scan-1 2", "prepare scan-2 2"]
    assert bench.do(Prepared("scan-1", SECOND)) == ["switch scan-1 2"]
    bench.do(Switched("scan-1", SECOND))
    bench.do(Prepared("scan-2", SECOND))
    told = ["done 1 [vs-28: power cut; it gets the configuration when it is back]"]
    assert bench.do(Switched("scan-2", SECOND)) == told
    assert bench.do(Connected("vs-28", FIRST)) == ["prepare vs-28 2"]


@pytest.mark.parametrize("trouble", [Failed("vs-28", "disk full"), Lost("vs-28", "connection reset")])
def test_a_policy_server_in_trouble_lets_the_others_go_on(bench: Bench, trouble: Event) -> None:
    bench.do(Commit(SECOND))
    bench.do(Prepared("scan-1", SECOND))
    assert bench.do(trouble) == ["switch scan-1 2"]


def test_one_that_hangs_is_let_go(bench: Bench) -> None:
    bench.do(Commit(SECOND, token=1))
    bench.do(Prepared("scan-1", SECOND))
    assert bench.do(Progress("vs-28"), after=LIMIT - 1) == [], "a long transfer is no hang"
    assert bench.do(Prepared("scan-2", SECOND)) == []
    assert bench.tick() == ["abandon vs-28", "switch scan-1 2", "switch scan-2 2"]
    assert bench.state("vs-28") is State.ABSENT


def test_a_failed_one_is_tried_again_ever_later_and_at_once_with_a_new_commit(bench: Bench) -> None:
    bench.do(Commit(SECOND))
    waits = []
    for _ in range(8):
        bench.do(Failed("scan-1", "disk full"))
        before = bench.now
        bench.releases.entries["vs-28"].heard = bench.releases.entries["scan-2"].heard = bench.now + 100
        assert bench.tick() == ["prepare scan-1 2"]
        waits.append(bench.now - before)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    bench.do(Failed("scan-1", "disk full"))
    assert "prepare scan-1 3" in bench.do(Commit(release(3)))


def test_a_lost_answer_is_found_out_when_it_is_back(bench: Bench) -> None:
    bench.do(Commit(SECOND))
    bench.do(Prepared("vs-28", SECOND))
    bench.do(Lost("vs-28", "reset"))
    assert bench.do(Connected("vs-28", SECOND)) == [], "it had switched"
    bench.do(Lost("scan-1", "reset"))
    assert bench.do(Connected("scan-1", FIRST, staged=SECOND)) == ["switch scan-1 2"], "it had all of it"


def test_a_newer_commit_takes_the_place_of_one_under_way(bench: Bench) -> None:
    bench.do(Commit(SECOND, token=1))
    third = release(3)
    assert bench.do(Commit(third, token=2)) == ["save scan-1=3,scan-2=3,vs-28=3"]
    assert bench.do(Prepared("vs-28", SECOND)) == ["prepare vs-28 3"], "the older one is in nobody's interest any more"
    assert bench.do(Prepared("vs-28", third)) == ["switch vs-28 3"]


def test_a_switch_that_was_asked_for_is_waited_for(bench: Bench) -> None:
    bench.do(Commit(SECOND))
    bench.do(Prepared("vs-28", SECOND))
    assert "prepare vs-28 3" not in bench.do(Commit(release(3)))
    assert bench.do(Switched("vs-28", SECOND)) == ["prepare vs-28 3"]


def test_equal_content_moves_nothing(bench: Bench) -> None:
    again = release(2, FIRST.digest)
    assert bench.do(Commit(again, token=1)) == ["save scan-1=2,scan-2=2,vs-28=2", "switch vs-28 2"]
    assert bench.do(Switched("vs-28", again)) == ["switch scan-1 2", "switch scan-2 2"]


def test_one_that_does_not_hold_what_was_thought_is_prepared(bench: Bench) -> None:
    bench.do(Commit(release(2, FIRST.digest), frozenset({"vs-28"})))
    assert bench.do(Failed("vs-28", "release 2 was not prepared here")) == []
    assert bench.tick() == ["prepare vs-28 2"]


def test_scanners_wait_for_policy_servers_also_where_these_get_more(bench: Bench) -> None:
    part = release(2, "content 2 for scanners")
    bench.do(Commit(SECOND, scanning=part.digest))
    assert bench.do(Prepared("scan-1", part)) == []
    assert bench.do(Prepared("scan-2", SECOND)) == [], "that is not what a scanner gets"
    assert bench.do(Prepared("vs-28", SECOND)) == ["switch vs-28 2"]
    assert bench.do(Switched("vs-28", SECOND)) == ["switch scan-1 2"]
    bench.do(Switched("scan-1", part))
    assert bench.releases.entries["scan-1"].holds == part and bench.releases.entries["vs-28"].holds == SECOND


def test_only_chosen_devices(bench: Bench) -> None:
    assert bench.do(Commit(SECOND, frozenset({"scan-2"}), token=1)) == ["save scan-1=1,scan-2=2,vs-28=1", "prepare scan-2 2"]
    assert bench.do(Prepared("scan-2", SECOND)) == ["switch scan-2 2"], "policy servers have no part in it"
    assert bench.do(Switched("scan-2", SECOND)) == ["done 1"]
    assert bench.do(Connected("scan-1", FIRST)) == []


def test_not_too_many_at_once() -> None:
    bench = Bench(width=1)
    for device in DEVICES:
        bench.do(Connected(device.name))
    assert bench.do(Commit(FIRST))[1:] == ["prepare vs-28 1"]
    assert bench.do(Prepared("vs-28", FIRST)) == ["prepare scan-1 1", "switch vs-28 1"]


def test_who_obeys_another_is_left_alone(bench: Bench) -> None:
    bench.do(Commit(SECOND, token=1))
    assert bench.do(Refused("vs-28", Version(2, "vs-28", 1))) == []
    assert bench.do(Commit(release(3)))[1:] == []
    assert bench.state("vs-28") is State.FOREIGN
    assert bench.do(Prepared("scan-1", SECOND)) == ["prepare scan-1 3"]
    newest = release(1, epoch=3)
    assert "prepare vs-28 1" in bench.do(Commit(newest)), "this notifier's active is the newest again"


def test_nobody_waits_for_one_that_obeys_another_already(bench: Bench) -> None:
    bench.do(Refused("vs-28", Version(2, "vs-28", 1)))
    bench.do(Commit(SECOND, token=7))
    for name in ("scan-1", "scan-2"):
        bench.do(Prepared(name, SECOND))
    bench.do(Switched("scan-1", SECOND))
    assert bench.do(Switched("scan-2", SECOND)) == ["done 7 [vs-28: it obeys another notifier: release 1 of epoch 2/vs-28]"]


def test_who_obeys_another_no_more_gets_what_it_is_to_have(bench: Bench) -> None:
    bench.do(Commit(SECOND, token=1))
    bench.do(Refused("scan-1", Version(1, "vs-28", 9)))
    bench.do(Commit(release(3)))
    assert bench.do(Told("scan-1", FIRST)) == ["prepare scan-1 3"]
    assert bench.do(Told("scan-2", FIRST)) == [], "it always did"


def test_one_to_which_another_notifier_brought_something_is_given_its_own_again(bench: Bench) -> None:
    assert bench.do(Told("scan-1", FIRST)) == []
    assert bench.do(Told("scan-1", release(9, epoch=1, node="vs-28"))) == ["prepare scan-1 1"]
    assert bench.do(Told("scan-1", FIRST)) == [], "late: it is being prepared"


def test_the_next_epoch_of_the_same_active_moves_nothing_and_asks_nobody_anew(bench: Bench) -> None:
    bench.do(Commit(SECOND, frozenset({"scan-2"}), token=1))
    next_reign = Version(2, "vs-166", 3)
    assert bench.do(Reign(next_reign)) == ["save scan-1=3,scan-2=3,vs-28=3", "switch vs-28 3"]
    assert bench.do(Prepared("scan-2", SECOND)) == ["prepare scan-2 3"], "what it prepared is called otherwise now"
    assert bench.do(Switched("vs-28", Release(next_reign, FIRST.digest))) == ["switch scan-1 3"]
    assert bench.do(Switched("scan-1", Release(next_reign, FIRST.digest))) == []
    assert bench.do(Prepared("scan-2", Release(next_reign, SECOND.digest))) == ["switch scan-2 3"]
    assert bench.do(Switched("scan-2", Release(next_reign, SECOND.digest))) == ["done 1"]
    assert {name: each.holds.digest for name, each in bench.releases.entries.items() if each.holds} == {
        "scan-1": FIRST.digest, "scan-2": SECOND.digest, "vs-28": FIRST.digest,
    }  # fmt: skip


def test_who_only_waits_for_its_turn_changes_no_state(bench: Bench) -> None:
    """Hundreds wait for a policy server: each word of anybody must not go through all of them."""
    bench.do(Commit(release(2, FIRST.digest)))
    bench.now += 1
    changes = [each for each in bench.releases.handle(Progress("vs-28"), bench.now) if isinstance(each, Changed)]
    assert bench.state("scan-1") is State.PREPARED and changes == []


def test_targets_survive_the_notifier() -> None:
    bench = Bench()
    bench.releases = Releases(DEVICES, {"scan-1": SECOND})
    assert bench.do(Connected("scan-1", FIRST)) == ["prepare scan-1 2"]
    assert bench.do(Connected("scan-2", FIRST)) == [], "nothing was ever committed for it"


def test_a_device_that_left_is_forgotten_and_nobody_waits_for_it(bench: Bench) -> None:
    bench.do(Commit(SECOND, token=1))
    for name in ("scan-1", "scan-2"):
        bench.do(Prepared(name, SECOND))
    assert bench.do(Devices(SCANNERS)) == ["save scan-1=2,scan-2=2", "switch scan-1 2", "switch scan-2 2"]
    bench.do(Switched("scan-1", SECOND))
    assert bench.do(Switched("scan-2", SECOND)) == ["done 1"]


# --- the device's side ------------------------------------------------------------------------------------------------------


def test_a_device_switches_only_to_what_it_holds_whole() -> None:
    device = Holding(holds=FIRST)
    with pytest.raises(Unprepared):
        device.step(SECOND)
    device.prepare(SECOND)
    with pytest.raises(Unprepared):
        device.prepared(SECOND, "half of it")
    device.prepared(SECOND, SECOND.digest)
    assert device.step(SECOND) is Step.RENAME
    third = replace(SECOND, version=release(3).version)
    device.prepare(third)
    with pytest.raises(Unprepared):
        device.step(third)


def test_a_device_ignores_the_notifier_of_an_older_active() -> None:
    device = Holding(holds=FIRST)
    newer = release(1, FIRST.digest, epoch=2, node="vs-28")
    assert device.step(newer) is Step.NOTE
    device.switched(newer)
    for ask in (device.prepare, device.step):
        with pytest.raises(Outdated):
            ask(SECOND)


# --- whole commits ----------------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A device with a disk. ``content``: of its conf_ready; changes by Step.RENAME only."""

    holding: Holding = field(default_factory=Holding)
    content: str = ""
    versions: list[Version] = field(default_factory=list)
    on: bool = True


class World:
    """Two notifiers, one after the other or both at once, and devices that lose connections, answers and power."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.machines = {device.name: Machine() for device in DEVICES}
        self.notifiers = {node: Releases(DEVICES, {}) for node in ("vs-166", "vs-28")}
        self.saved: dict[str, dict[str, Release]] = {node: {} for node in self.notifiers}
        self.connected: set[tuple[str, str]] = set()
        self.pending: list[tuple[str, Prepare | Switch]] = []
        self.known = {""}
        self.numbers = dict.fromkeys(self.notifiers, 0)
        self.epochs = {"vs-166": 1, "vs-28": 2}

    def do(self, node: str, event: Event) -> None:
        for effect in self.notifiers[node].handle(event, self.now):
            match effect:
                case Save(targets):
                    self.saved[node] = dict(targets)
                case Prepare(name) | Switch(name):
                    assert (node, name) in self.connected, "asked without a connection"
                    self.pending.append((node, effect))
                case Abandon(name):
                    self.disconnect(node, name)

    def commit(self, node: str) -> None:
        self.numbers[node] += 1
        digest = f"{node} {self.numbers[node] // 2}"  # every other one changes nothing
        part = f"{digest} for scanners" if self.numbers[node] % 3 else ""
        self.known |= {digest, part}
        self.do(node, Commit(Release(Version(self.epochs[node], node, self.numbers[node]), digest), scanning=part))

    def connect(self, node: str, name: str) -> None:
        machine = self.machines[name]
        if machine.on and (node, name) not in self.connected:
            self.connected.add((node, name))
            self.do(node, Connected(name, machine.holding.holds, machine.holding.staged))

    def disconnect(self, node: str, name: str) -> None:
        if (node, name) in self.connected:
            self.connected.discard((node, name))
            self.pending = [(n, e) for n, e in self.pending if (n, e.name) != (node, name)]
            self.do(node, Lost(name, "reset"))

    def restart(self, node: str) -> None:
        """The notifier dies and begins anew with what it had saved."""
        self.connected = {pair for pair in self.connected if pair[0] != node}
        self.pending = [(n, e) for n, e in self.pending if n != node]
        self.notifiers[node] = Releases(DEVICES, self.saved[node])

    def progress(self, lost: bool) -> None:
        """Something that was asked is done; its answer may be lost with the connection."""
        if not self.pending:
            return
        node, effect = self.pending.pop(self.random.randrange(len(self.pending)))
        event = self.carry_out(self.machines[effect.name], effect)
        if lost:
            self.disconnect(node, effect.name)
        else:
            self.do(node, event)

    def carry_out(self, machine: Machine, effect: Prepare | Switch) -> Event:
        name, wanted = effect.name, effect.release
        try:
            if isinstance(effect, Prepare):
                machine.holding.prepare(wanted)
                if self.random.random() < 0.2:
                    return Failed(name, "disk full")
                machine.holding.prepared(wanted, wanted.digest)
                return Prepared(name, wanted)
            if machine.holding.step(wanted) is Step.RENAME:
                assert machine.holding.staged == wanted
                machine.content = wanted.digest
            machine.holding.switched(wanted)
            machine.versions.append(wanted.version)
            return Switched(name, wanted)
        except Outdated as outdated:
            return Refused(name, outdated.highest)
        except Unprepared as wrong:
            return Failed(name, str(wrong))

    def check(self) -> None:
        for name, machine in self.machines.items():
            assert machine.content in self.known, "half a configuration"
            assert machine.versions == sorted(machine.versions), f"{name} went back"
            if machine.holding.holds is not None:
                assert machine.holding.holds.digest == machine.content

    def step(self) -> None:
        node = self.random.choice(list(self.notifiers))
        name = self.random.choice(list(self.machines))
        match self.random.randrange(13):
            case 12 if node == "vs-28":
                self.epochs[node] += 1
                self.numbers[node] += 1
                self.do(node, Reign(Version(self.epochs[node], node, self.numbers[node])))
            case 0:
                self.commit(node)
            case 1:
                self.restart(node)
            case 2:
                self.disconnect(node, name)
            case 3 | 4:
                self.connect(node, name)
            case 5:
                self.now += self.random.choice([0.5, 2.0, LIMIT])
                self.do(node, Tick())
            case 6:
                self.machines[name].on = not self.machines[name].on
                if not self.machines[name].on:
                    for each in self.notifiers:
                        self.disconnect(each, name)
            case _:
                self.progress(lost=self.random.random() < 0.2)
        self.check()

    def heal(self, node: str) -> None:
        """Everything works from now on, and ``node`` commits."""
        for machine in self.machines.values():
            machine.on = True
        self.commit(node)
        self.random.random = lambda: 1.0  # type: ignore[method-assign]
        for _ in range(200):
            for name in self.machines:
                self.connect(node, name)
            self.progress(lost=False)
            self.now += 1.0
            self.do(node, Tick())
            self.check()


@given(st.integers(0, 2**32), st.integers(0, 150))
@settings(max_examples=200, deadline=None)
def test_every_device_holds_a_whole_release_and_in_the_end_the_newest(seed: int, steps: int) -> None:
    world = World(seed)
    for _ in range(steps):
        world.step()
    world.heal("vs-28")
    wanted = world.saved["vs-28"]
    assert set(wanted) == set(world.machines)
    for name, machine in world.machines.items():
        assert machine.holding.holds == wanted[name], f"{name} has not got the newest release"
        assert machine.content == wanted[name].digest
    # The old active's notifier changes nothing any more.
    world.commit("vs-166")
    for name in world.machines:
        world.connect("vs-166", name)
    for _ in range(50):
        world.progress(lost=False)
    assert all(machine.holding.holds == wanted[name] for name, machine in world.machines.items())
