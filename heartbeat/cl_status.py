"""cl_status, hb_standby, hb_takeover: Linux-HA's commands, answered by our heartbeat.

Promise: sub-commands, outputs and exit statuses are those of heartbeat 3.0.6 (tests/lab/test_linuxha_commands.py asks both side
by side), so that what polls them goes on working. In a pair of ours ``rscstatus`` is ``all`` for an active, ``none`` for a
passive, ``transition`` on the way between them; next to a Linux-HA node it is what that one would say in this place.

    python -m heartbeat.cl_status SUB-COMMAND …      python -m heartbeat.cl_status --as hb_standby
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runtime.control import Client
from runtime.errors import ControlError, Refused

CONTROL = "/run/heartbeat/control"
OK, FAILED, BAD_PARAMETER, UNKNOWN = 0, 1, 11, 13
_TIMEOUT = 2.0
_VERSION = "3.0.6"

USAGE = """usage: cl_status SUB-COMMAND … [-m]      (-m: in a sentence)
  hbstatus                      is heartbeat running?
  listnodes [-p|-n]             all nodes; only ping nodes; only normal ones
  nodestatus NODE               active, up, ping or dead
  nodetype NODE                 normal or ping
  listhblinks NODE              heartbeat links to NODE
  hblinkstatus NODE LINK        up or dead
  clientstatus NODE CLIENT [MS] is a client of heartbeat online?
  rscstatus                     all, local, foreign, none or transition
  hbparameter -p PARAMETER      value of a directive of ha.cf
example: cl_status nodestatus vs-28"""


class Heartbeat(Protocol):
    """``runtime.control.Client``."""

    def request(self, do: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


class Output(Protocol):
    def out(self, text: str) -> None: ...
    def err(self, text: str) -> None: ...


class _Streams:
    def out(self, text: str) -> None:
        sys.stdout.write(text + "\n")

    def err(self, text: str) -> None:
        sys.stderr.write(text + "\n")


class _Exit(Exception):
    """The command ends with this status, and has said what there is to say."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


def run(argv: Sequence[str], connect: Callable[[], Heartbeat], output: Output) -> int:
    """One call of cl_status; returns the exit status. ``connect`` raises ControlError when heartbeat doesn't answer."""
    if not argv or argv[0] in ("-h", "--help"):
        output.out(USAGE)
        return OK
    command = _COMMANDS.get(argv[0])
    if command is None:
        output.err(f"ERROR: {argv[0]}: invalid sub-command.\n{USAGE}")
        return BAD_PARAMETER
    human = "-m" in argv
    words = [word for word in argv if word not in ("-m", "-v")]
    try:
        return command(_Question(words[1:], human, connect, output))
    except _Exit as end:
        if str(end):
            output.err(f"ERROR: {end}")
        return end.code


class _Question:
    """One question to heartbeat, with the words after the sub-command."""

    def __init__(self, words: Sequence[str], human: bool, connect: Callable[[], Heartbeat], output: Output) -> None:
        self.words = list(words)
        self.human = human
        self.output = output
        self._connect = connect
        self._status: dict[str, Any] | None = None

    def ask(self, do: str) -> dict[str, Any]:
        try:
            return self._connect().request(do)
        except ControlError as error:
            raise _Exit(FAILED, "Cannot signon with heartbeat") from error

    @property
    def status(self) -> dict[str, Any]:
        if self._status is None:
            self._status = self.ask("status")
        return self._status

    def say(self, plain: str, human: str = "") -> None:
        self.output.out(human if self.human and human else plain)

    def take(self, count: int, usage: str) -> list[str]:
        """The first ``count`` words; Linux-HA's command overlooks what comes after them."""
        if len(self.words) < count:
            raise _Exit(BAD_PARAMETER, f"usage: cl_status {usage}")
        return self.words[:count]

    @property
    def normal(self) -> list[str]:
        return [self.status["node"], self.status["peer"]]

    @property
    def pings(self) -> list[str]:
        return list(self.status["ping_nodes"])

    def known(self, node: str) -> str:
        if node not in self.normal + self.pings:
            raise _Exit(BAD_PARAMETER, f"{node} is no node of this pair")
        return node


def _hbstatus(q: _Question) -> int:
    try:
        q.ask("ping")
    except _Exit:
        q.say("Heartbeat is stopped on this machine.")
        return FAILED
    q.say("Heartbeat is running on this machine.")
    return OK


def _listnodes(q: _Question) -> int:
    kinds = {"-p": q.pings, "-n": q.normal} if q.words else {}
    if len(q.words) > 1 or (q.words and q.words[0] not in kinds):
        raise _Exit(BAD_PARAMETER, "usage: cl_status listnodes [-p|-n]")
    nodes = kinds[q.words[0]] if q.words else q.normal + q.pings
    if q.human:
        q.say("The nodes are as follow:")
    for node in nodes:
        q.say(node)
    return OK


def _nodestatus(q: _Question) -> int:
    node = q.known(q.take(1, "nodestatus NODE")[0])
    state = _state_of(q, node)
    q.say(state, f"The cluster node {node} is {state}")
    return FAILED if state == "dead" else OK


def _state_of(q: _Question, node: str) -> str:
    """Linux-HA's word: ``active`` is a member of the pair, whatever it serves; ``up``: heard, but not settled yet."""
    status = q.status
    next_to_linux_ha = status.get("linux_ha")
    if next_to_linux_ha and node in q.normal:
        state = next_to_linux_ha["status" if node == status["node"] else "peer_status"]
        return "dead" if state == "unknown" else str(state)
    if node in q.pings:
        return "ping" if status["ping_nodes"][node] == "up" else "dead"
    if node == status["node"]:
        return "up" if status["phase"] == "waiting" else "active"
    peer = status["peer_state"]
    if "up" not in status["links"].values():
        return "dead"
    return "up" if peer["phase"] in ("waiting", "unknown") else "active"


def _nodetype(q: _Question) -> int:
    node = q.known(q.take(1, "nodetype NODE")[0])
    kind = "ping" if node in q.pings else "normal"
    q.say(kind, f"The node {node}'s type: {kind}")
    return OK


def _links_of(q: _Question, node: str) -> dict[str, str]:
    if node in q.pings:
        return {node: q.status["ping_nodes"][node]}
    if node == q.status["node"]:
        return {name: "up" if state["up"] else "dead" for name, state in q.status["link_states"].items()}
    return dict(q.status["links"])


def _listhblinks(q: _Question) -> int:
    (node,) = q.take(1, "listhblinks NODE")
    if node not in q.normal + q.pings:
        raise _Exit(UNKNOWN, f"{node} is no node of this pair")
    if q.human:
        q.say("\tthis node has the following heartbeat links:")
    for link in _links_of(q, node):
        q.say(f"\t{link}")
    return OK


def _hblinkstatus(q: _Question) -> int:
    node, link = q.take(2, "hblinkstatus NODE LINK")
    found = _links_of(q, node) if node in q.normal + q.pings else {}
    if link not in found:
        raise _Exit(UNKNOWN, f"{link} is no heartbeat link of {node}")
    q.say(found[link], f"The node {node}'s heartbeat link {link} is {found[link]}")
    return OK if found[link] == "up" else FAILED


def _clientstatus(q: _Question) -> int:
    if len(q.words) not in (2, 3):
        raise _Exit(BAD_PARAMETER, "usage: cl_status clientstatus NODE CLIENT [TIMEOUT IN MS]")
    node, client = q.words[:2]
    online = q.known(node) == q.status["node"] and client == "ha_manager" and bool(q.status["manager_reporting"])
    q.say("online" if online else "offline", f"The client {client} on {node} is {'online' if online else 'offline'}.")
    return OK if online else FAILED


_HOLDS = {
    "active": "all", "preparing": "all", "passive": "none", "detaching": "none", "waiting": "transition",
    "resuming": "transition", "opening": "transition", "promoting": "transition", "standing-down": "transition", "left": "none",
}  # fmt: skip


def _rscstatus(q: _Question) -> int:
    q.take(0, "rscstatus")
    next_to_linux_ha = q.status.get("linux_ha")
    held = next_to_linux_ha["resources"] if next_to_linux_ha else _HOLDS.get(q.status["phase"], "transition")
    q.say(held, "This node is in a transition state." if held == "transition" else f"This node is holding {held} resources.")
    return OK


#: directives that may stand there several times have no one value
_SEVERAL = {
    "node",
    "bcast",
    "mcast",
    "mcast6",
    "ucast",
    "ucast6",
    "serial",
    "ping",
    "ping6",
    "ping_group",
    "respawn",
    "apiauth",
}


def _hbparameter(q: _Question) -> int:
    if len(q.words) < 2 or q.words[0] != "-p":
        raise _Exit(BAD_PARAMETER, "usage: cl_status hbparameter -p PARAMETER")
    name = q.words[1]
    value = _VERSION if name == "hbversion" else q.ask("parameters")["parameters"].get(name)
    if value is None or name in _SEVERAL:
        raise _Exit(FAILED, f"Cannot get parameter {name}'s value")
    q.say(value, f"Heartbeat parameter {name}'s value: {value}")
    return OK


_COMMANDS: dict[str, Callable[[_Question], int]] = {
    "hbstatus": _hbstatus, "listnodes": _listnodes, "nodestatus": _nodestatus, "nodetype": _nodetype,
    "listhblinks": _listhblinks, "hblinkstatus": _hblinkstatus, "clientstatus": _clientstatus, "rscstatus": _rscstatus,
    "hbparameter": _hbparameter,
}  # fmt: skip


# --- hb_standby and hb_takeover -------------------------------------------------------------------------------------------

_WHICH = ("all", "foreign", "local", "failback")


def move(command: str, argv: Sequence[str], connect: Callable[[], Heartbeat], output: Output) -> int:
    """hb_standby gives the service to the peer, hb_takeover takes it from one that is gone. Which resources: all there are."""
    if len(argv) > 1 or (argv and argv[0] not in _WHICH):
        output.err(f"usage: {command} [all|foreign|local|failback]\n  example: {command}")
        return OK if argv[0] in ("-h", "--help") else FAILED
    request = "standby" if command == "hb_standby" else "activate"
    try:
        answer = connect().request(request, {"by": command, "which": argv[0] if argv else "all"})
    except Refused as refused:
        output.err(f"{command}: {refused}")
        return FAILED
    except ControlError as error:
        output.err(f"ERROR: Cannot signon with heartbeat: {error}")
        return FAILED
    output.err(str(answer.get("text", "")))  # where Linux-HA's says it; its standard output is empty
    return OK


def main() -> None:
    argv = sys.argv[1:]

    def connect() -> Heartbeat:
        return Client(CONTROL, _TIMEOUT)

    if argv[:1] == ["--as"] and argv[1:2] and argv[1] in ("hb_standby", "hb_takeover"):
        sys.exit(move(argv[1], argv[2:], connect, _Streams()))
    sys.exit(run(argv, connect, _Streams()))


if __name__ == "__main__":
    main()
