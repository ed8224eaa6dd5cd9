"""cl_status, hb_standby and hb_takeover: the real ones and ours side by side, in one pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.api import Lab
from tests.lab.linuxha_pair import OURS, THEIRS, LinuxHaPair, until

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.linuxha_lab"]

#: asked of both nodes alike; what differs by nature (versions, order) is told below
QUESTIONS = """
hbstatus
hbstatus -m
listnodes
listnodes -p
listnodes -n
listnodes -n -m
listnodes -x
nodestatus vs-166
nodestatus vs-28
nodestatus vs-28 -m
nodestatus 192.168.120.1
nodestatus
nodestatus nobody
nodetype vs-28
nodetype vs-166 -m
nodetype 192.168.120.1
nodetype
nodetype nobody
listhblinks vs-28
listhblinks vs-166
listhblinks 192.168.120.1
listhblinks vs-28 -m
listhblinks nobody
hblinkstatus vs-28 eth0
hblinkstatus vs-166 eth1
hblinkstatus vs-28 eth0 -m
hblinkstatus 192.168.120.1 192.168.120.1
hblinkstatus vs-28 eth9
hblinkstatus nobody eth0
hblinkstatus vs-28
clientstatus
hbparameter -p keepalive
hbparameter -p deadtime -m
hbparameter -p udpport
hbparameter -p node
hbparameter -p ucast
hbparameter -p ping
hbparameter -p bogus
hbparameter
parameter -p keepalive
bogus
-m
""".strip().splitlines()


@pytest.fixture(scope="module")
def pair(linuxha: Lab) -> Iterator[LinuxHaPair]:
    pair = LinuxHaPair(linuxha, {"vs-166": THEIRS, "vs-28": OURS})
    pair.down()
    pair.configure()
    pair.ours.start()
    until("ours holds everything", pair.ours.has_vip)
    pair.theirs.start()
    pair.until_settled("vs-28")
    pair.ours.tool("hb_standby")
    pair.until_settled("vs-166")
    yield pair
    pair.down()


def test_every_question_gets_the_same_answer(pair: LinuxHaPair) -> None:
    differ = []
    for question in QUESTIONS:
        theirs, ours = (member.tool("cl_status", *question.split()) for member in (pair.theirs, pair.ours))
        # lists come in no particular order there
        said = [(done.code, sorted(done.stdout.splitlines()), bool(done.stderr)) for done in (theirs, ours)]
        if said[0] != said[1]:
            differ.append((question, *said))
    assert differ == []


def test_the_version_is_the_one_that_was_observed(pair: LinuxHaPair) -> None:
    theirs, ours = (member.tool("cl_status", "hbparameter", "-p", "hbversion") for member in (pair.theirs, pair.ours))
    assert theirs.stdout.split()[0] == ours.stdout.strip() == "3.0.6"


@pytest.mark.parametrize("command", ["hb_standby", "hb_takeover"])
def test_a_wrong_word_moves_nothing(pair: LinuxHaPair, command: str) -> None:
    theirs, ours = (member.tool(command, "bogus") for member in (pair.theirs, pair.ours))
    assert theirs.code == ours.code == 1
    assert pair.settled("vs-166")


def test_parts_are_moved_in_the_speakers_words(pair: LinuxHaPair) -> None:
    """The address is local to vs-166 and foreign to vs-28."""
    for by, command, which, words in (
        (pair.theirs, "hb_standby", "local", ("foreign", "foreign")),
        (pair.ours, "hb_standby", "foreign", ("local", "none")),
        (pair.ours, "hb_takeover", "foreign", ("none", "foreign")),
        (pair.theirs, "hb_takeover", "local", ("local", "none")),
    ):
        done = by.tool(command, which)
        assert (done.code, done.stdout) == (0, "")
        holder = "vs-28" if words[1] == "foreign" else "vs-166"
        until(f"{command} {which} by {by.name}: the address is at {holder}", lambda at=holder: pair.holders() == [at])
        until(f"{command} {which}: {pair.state()}", lambda: "transition" not in (m.resources() for m in pair.members.values()))


def test_a_stopped_heartbeat(pair: LinuxHaPair) -> None:
    pair.ours.stop()
    pair.theirs.stop()
    for question in ("hbstatus", "hbstatus -m", "rscstatus", "listnodes", "nodestatus vs-28", "hbparameter -p keepalive"):
        theirs, ours = (member.tool("cl_status", *question.split()) for member in (pair.theirs, pair.ours))
        assert (theirs.code, theirs.stdout) == (ours.code, ours.stdout), question
    assert pair.ours.tool("hb_standby").code == pair.ours.tool("hb_takeover").code == 1
