"""Our heartbeat next to Debian's heartbeat 3.0.6: every sequence of facts/linux-ha-heartbeat.md, in both start orders.

The address is asked for with ARP all the time: in a hand-over nobody may see two servers answer. Figures belong to the bench.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from lab.api import Lab
from tests.lab.linuxha_pair import OURS, THEIRS, Answers, LinuxHaPair, Member, until

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.linuxha_lab"]


@pytest.fixture
def pair(linuxha: Lab) -> Iterator[LinuxHaPair]:
    """Ours on vs-28, Linux-HA on vs-166, which has the address by default; nothing runs yet."""
    pair = LinuxHaPair(linuxha, {"vs-166": THEIRS, "vs-28": OURS})
    yield from prepared(pair)


@pytest.fixture
def turned(linuxha: Lab) -> Iterator[LinuxHaPair]:
    """The other way round."""
    yield from prepared(LinuxHaPair(linuxha, {"vs-166": OURS, "vs-28": THEIRS}))


def prepared(pair: LinuxHaPair) -> Iterator[LinuxHaPair]:
    pair.lab.heal()
    pair.down()
    pair.configure()
    yield pair
    pair.lab.heal()
    pair.down()


def holding(first: Member, second: Member) -> None:
    """``first`` starts alone and takes everything; ``second`` joins it."""
    first.start()
    until(f"{first.name} holds everything", lambda: first.has_vip() and first.resources() == "all")
    second.start()
    first.pair.until_settled(first.name)


def every_sequence(first: Member, second: Member) -> None:
    pair = first.pair
    holding(first, second)
    answers = Answers(pair.lab)
    for by, command, holder in (
        (first, "hb_standby", second),
        (first, "hb_takeover", first),
        (second, "hb_takeover", second),
        (second, "hb_standby", first),
    ):
        done = by.tool(command)
        assert (done.code, done.stdout) == (0, ""), done
        pair.until_settled(holder.name)
    assert answers.twice() == 0
    second_generation = generation(pair)
    second.stop()
    until(f"{first.name} sees that it stopped", lambda: first.sees(second.name) == "dead")
    assert first.resources() == "all" and pair.holders() == [first.name]
    second.start()
    pair.until_settled(first.name)
    first.stop()  # with everything
    until(f"{second.name} takes over", lambda: second.has_vip() and second.resources() == "all")
    first.start()
    pair.until_settled(second.name)
    second.kill()
    until(f"{first.name} takes over from a dead node", lambda: first.has_vip() and first.resources() == "all")
    second.start()
    pair.until_settled(first.name)
    assert generation(pair) > second_generation
    complaints = [line for line in pair.theirs.node.log().splitlines() if any(word in line for word in COMPLAINTS)]
    assert complaints == []


#: of Linux-HA, about a peer that doesn't keep to the protocol
COMPLAINTS = (
    "Both machines own",
    "lost packet",
    "Can't find",
    "bad packet",
    "malformed",
    "returning after partition",
    "Gmain_timeout",
)


def generation(pair: LinuxHaPair) -> int:
    """Of ours: on its disk."""
    return int(pair.ours.node.read("/var/lib/heartbeat/generation"))


def test_ours_joins_linux_ha_and_gives_its_place_back(pair: LinuxHaPair) -> None:
    every_sequence(pair.theirs, pair.ours)
    pair.ours.stop()
    before = LinuxHaPair(pair.lab, {"vs-166": THEIRS, "vs-28": THEIRS})
    before["vs-28"].node.sh("sed -i /compatibility/d /etc/ha.d/ha.cf")
    before["vs-28"].start()  # its generation is above ours, so it isn't taken for a replay
    before.until_settled("vs-166")
    before.down()


def test_linux_ha_joins_ours(turned: LinuxHaPair) -> None:
    turned.configure(key="md5 a-secret-of-this-test")
    every_sequence(turned.ours, turned.theirs)


def test_both_start_together_with_crc_and_move_while_a_third_of_the_frames_is_lost(pair: LinuxHaPair) -> None:
    pair.configure(key="crc")
    pair.ours.start()
    pair.theirs.start()
    pair.until_settled("vs-166")
    assert pair.state() == {"vs-166": ("local", True), "vs-28": ("local", False)}
    for card in ("eth0", "eth1"):
        pair.lab.loss(f"vs-28:{card}", 33)
    pair.ours.tool("hb_takeover")
    pair.until_settled("vs-28", 40)
    pair.lab.heal()
    pair.theirs.tool("hb_takeover")
    pair.until_settled("vs-166")


def test_a_healed_partition_leaves_no_moment_without_the_address(turned: LinuxHaPair) -> None:
    holding(turned.ours, turned.theirs)
    for card in ("eth0", "eth1"):
        turned.lab.cut(f"vs-166/vs-28:{'lan' if card == 'eth0' else 'interconnect'}")
    until("Linux-HA took over, too", lambda: turned.holders() == ["vs-166", "vs-28"])
    answers = Answers(turned.lab)
    turned.lab.heal()
    until("one of them let go", lambda: turned.holders() == ["vs-166"])
    assert answers.silence() < 1.0  # Linux-HA on both sides: 16 to 45 s


def test_cut_off_alone_ours_leaves_and_comes_back(turned: LinuxHaPair) -> None:
    holding(turned.ours, turned.theirs)
    answers = Answers(turned.lab)
    for card in ("eth0", "eth1"):
        turned.lab.cut(f"vs-166:{card}")
    until("ours let go", lambda: not turned.ours.has_vip())
    assert turned.ours.resources() == "transition" and "isolated" in turned.ours.alarms()
    until("Linux-HA took over", lambda: turned.holders() == ["vs-28"])
    turned.lab.heal()
    turned.until_settled("vs-28")
    assert answers.silence() > 0.5  # the asker notices: ours can't be reached until Linux-HA calls it dead


def test_a_thawed_linux_ha_doesn_t_keep_what_ours_took(pair: LinuxHaPair) -> None:
    holding(pair.ours, pair.theirs)
    pair.ours.tool("hb_standby")
    pair.until_settled("vs-166")
    pair.theirs.signal(signal.SIGSTOP)
    until("ours took over", lambda: pair.ours.has_vip() and pair.ours.resources() == "all")
    pair.theirs.signal(signal.SIGCONT)
    until("one of them let go", lambda: len(pair.holders()) == 1, 40)
    pair.until_settled(pair.holders()[0])
