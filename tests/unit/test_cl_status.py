"""Linux-HA's commands: outputs and exit statuses as facts/linux-ha-heartbeat.md lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from heartbeat.cl_status import move, run
from heartbeat.model import Phase
from runtime.errors import NotRunning, Refused

STATUS: dict[str, Any] = {
    "node": "vs-166", "peer": "vs-28", "phase": "active", "links": {"eth0": "up", "eth1": "dead"},
    "link_states": {"eth0": {"up": True}, "eth1": {"up": False}}, "ping_nodes": {"192.168.120.1": "up", "group1": "dead"},
    "peer_state": {"phase": "passive"}, "manager_reporting": True,
}  # fmt: skip


class Streams:
    def __init__(self) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []

    def out(self, text: str) -> None:
        self.stdout.append(text)

    def err(self, text: str) -> None:
        self.stderr.append(text)


class Answers:
    def __init__(self, **status: Any) -> None:
        self._status = STATUS | status
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refusal = ""

    def request(self, do: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self.asked.append((do, dict(fields or {})))
        if self.refusal:
            raise Refused(self.refusal)
        if do == "parameters":
            return {"parameters": {"deadtime": "30", "udpport": "694", "node": "vs-28"}}
        return {"text": "handing over"} if do in ("standby", "activate") else dict(self._status)


def call(*argv: str, **status: Any) -> tuple[str, int]:
    streams = Streams()
    code = run(argv, lambda: Answers(**status), streams)
    return "\n".join(streams.stdout), code


@pytest.mark.parametrize(
    ("command", "output", "code"),
    [
        ("hbstatus", "Heartbeat is running on this machine.", 0),
        ("listnodes", "vs-166\nvs-28\n192.168.120.1\ngroup1", 0),
        ("listnodes -p", "192.168.120.1\ngroup1", 0),
        ("listnodes -n", "vs-166\nvs-28", 0),
        ("listnodes -x", "", 11),
        ("nodestatus vs-166", "active", 0),
        ("nodestatus vs-28", "active", 0),
        ("nodestatus 192.168.120.1", "ping", 0),
        ("nodestatus group1", "dead", 1),
        ("nodestatus vs-3", "", 11),
        ("nodestatus VS-28", "", 11),
        ("nodestatus", "", 11),
        ("nodetype vs-28", "normal", 0),
        ("nodetype group1", "ping", 0),
        ("nodetype vs-3", "", 11),
        ("listhblinks vs-28", "\teth0\n\teth1", 0),
        ("listhblinks vs-166", "\teth0\n\teth1", 0),
        ("listhblinks 192.168.120.1", "\t192.168.120.1", 0),
        ("listhblinks vs-3", "", 13),
        ("hblinkstatus vs-28 eth0", "up", 0),
        ("hblinkstatus vs-28 eth1", "dead", 1),
        ("hblinkstatus vs-28 eth7", "", 13),
        ("hblinkstatus vs-3 eth0", "", 13),
        ("clientstatus vs-166 ha_manager", "online", 0),
        ("clientstatus vs-166 ha_manager 500", "online", 0),
        ("clientstatus vs-166 ipfail", "offline", 1),
        ("clientstatus vs-28 ha_manager", "offline", 1),
        ("clientstatus vs-166", "", 11),
        ("rscstatus", "all", 0),
        ("rscstatus -m", "This node is holding all resources.", 0),
        ("hbparameter -p deadtime", "30", 0),
        ("hbparameter -p hbversion", "3.0.6", 0),
        ("hbparameter -p watchdog", "", 1),
        ("hbparameter", "", 11),
        ("hbparameter deadtime", "", 11),
        ("frobnicate", "", 11),
        ("-m", "", 11),
        ("parameter -p deadtime", "", 11),
        ("hbparameter -p node", "", 1),
        ("rscstatus overlooked", "all", 0),
        ("listnodes -p -m", "The nodes are as follow:\n192.168.120.1\ngroup1", 0),
        ("nodetype vs-28 -m", "The node vs-28's type: normal", 0),
        ("listhblinks 192.168.120.1 -m", "\tthis node has the following heartbeat links:\n\t192.168.120.1", 0),
        ("hblinkstatus vs-28 eth0 -m", "The node vs-28's heartbeat link eth0 is up", 0),
        ("hbparameter -p deadtime -m", "Heartbeat parameter deadtime's value: 30", 0),
    ],
)
def test_the_table(command: str, output: str, code: int) -> None:
    assert call(*command.split()) == (output, code)


@pytest.mark.parametrize(
    ("phase", "held"),
    [("active", "all"), ("preparing", "all"), ("passive", "none"), ("waiting", "transition"), ("promoting", "transition"),
     ("standing-down", "transition"), ("detaching", "none")],
)  # fmt: skip
def test_what_a_node_holds(phase: str, held: str) -> None:
    assert call("rscstatus", phase=phase) == (held, 0)


def test_every_phase_has_a_word() -> None:
    for phase in Phase:
        output, code = call("rscstatus", phase=phase.value)
        assert output in ("all", "none", "transition") and code == 0


def test_a_silent_peer_is_dead_and_a_waiting_one_up() -> None:
    assert call("nodestatus", "vs-28", links={"eth0": "dead", "eth1": "dead"}) == ("dead", 1)
    assert call("nodestatus", "vs-28", peer_state={"phase": "waiting"}) == ("up", 0)
    assert call("nodestatus", "vs-166", phase="waiting") == ("up", 0)


def test_in_words_for_people() -> None:
    assert call("nodestatus", "-m", "vs-28") == ("The cluster node vs-28 is active", 0)


def _stopped() -> Answers:
    raise NotRunning("heartbeat is not running")


@pytest.mark.parametrize(
    "command", ["listnodes", "nodestatus vs-28", "rscstatus", "hbparameter -p deadtime", "listhblinks vs-28"]
)
def test_a_stopped_heartbeat(command: str) -> None:
    streams = Streams()
    assert run(command.split(), _stopped, streams) == 1
    assert (streams.stdout, streams.stderr) == ([], ["ERROR: Cannot signon with heartbeat"])


def test_hbstatus_of_a_stopped_heartbeat() -> None:
    streams = Streams()
    assert run(["hbstatus"], _stopped, streams) == 1
    assert (streams.stdout, streams.stderr) == (["Heartbeat is stopped on this machine."], [])


@pytest.mark.parametrize(("command", "do"), [("hb_standby", "standby"), ("hb_takeover", "activate")])
def test_moving_the_service(command: str, do: str) -> None:
    streams, answers = Streams(), Answers()
    assert move(command, ["all"], lambda: answers, streams) == 0
    assert answers.asked == [(do, {"by": command, "which": "all"})] and streams.stdout == []
    assert streams.stderr == ["handing over"]
    answers.refusal = "the passive is not fit"
    assert move(command, [], lambda: answers, streams) == 1
    assert streams.stderr[-1] == f"{command}: the passive is not fit"
    assert move(command, ["everything"], lambda: answers, streams) == 1
    assert answers.asked[-1][1]["which"] == "all"
    assert move(command, [], _stopped, streams) == 1


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_is_help(argv: list[str]) -> None:
    streams = Streams()
    assert run(argv, _stopped, streams) == 0
    assert "example: cl_status" in streams.stdout[0]


@pytest.mark.parametrize("held", ["all", "local", "foreign", "none", "transition"])
def test_next_to_linux_ha_it_says_what_a_linux_ha_node_would(held: str) -> None:
    told = {"resources": held, "status": "up", "peer_status": "unknown"}
    assert call("rscstatus", linux_ha=told) == (held, 0)
    assert call("nodestatus", "vs-166", linux_ha=told) == ("up", 0)
    assert call("nodestatus", "vs-28", linux_ha=told) == ("dead", 1)
    assert call("nodestatus", "192.168.120.1", linux_ha=told) == ("ping", 0)
