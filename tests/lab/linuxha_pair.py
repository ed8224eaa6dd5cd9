"""Debian's own heartbeat 3.0.6 and ours as the two nodes of one pair, on machines of the lab.

Promise: both run as they would on a server: Linux-HA from its init script with /etc/ha.d, ours as installed in /opt/ha-manager
with /etc/heartbeat; what is asked of either is asked with its own commands. The Debian package ``heartbeat`` is put into the
lab's layer before ours is installed over it (``Lab(packages=…)``). The address is looked for where a client would: with an ARP
request from the client's machine, and on the interfaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from lab.api import Lab, Node
from lab.layer import PROJECT
from lab.topology import VIP
from runtime.commands import Completed

NUMBERS = {"vs-166": 166, "vs-28": 28}
OURS, THEIRS = "ours", "theirs"
_PYTHON = "/opt/ha-manager/venv/bin/python"
_ALARMS = """import json; from runtime.control import Client
print(json.dumps(Client("/run/heartbeat/control", 2).request("status")["alarms"]))"""
_THEIR_TOOLS = "/usr/share/heartbeat"
_OUR_TOOLS = "/opt/ha-manager/bin"

HA_CF = """logfacility local0
keepalive 200ms
warntime 600ms
deadtime {deadtime}
initdead 3
udpport 694
{media}
auto_failback off
ping 192.168.120.1
node vs-166
node vs-28
"""


def until(what: str, holds: Callable[[], bool], limit: float = 30.0) -> float:
    """Seconds until ``holds``; AssertionError after ``limit``."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit, f"not within {limit:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


class Member:
    """One node of the pair: Linux-HA's or ours."""

    def __init__(self, pair: LinuxHaPair, node: Node, kind: str) -> None:
        self.pair = pair
        self.node = node
        self.name = node.name
        self.kind = kind

    @property
    def theirs(self) -> bool:
        return self.kind == THEIRS

    def configure(self, ha_cf: str, key: str) -> None:
        folder = "/etc/ha.d" if self.theirs else "/etc/heartbeat"
        self.node.sh(f"rm -rf {'/var/lib/heartbeat/hb_*' if self.theirs else '/var/lib/heartbeat/[grhl]*'}")
        self.node.write(f"{folder}/ha.cf", ha_cf + ("" if self.theirs else "compatibility linux-ha\n"))
        self.node.write(f"{folder}/haresources", f"vs-166 {VIP}/24/eth0\n")
        self.node.write(f"{folder}/authkeys", f"auth 1\n1 {key}\n", 0o600)

    def configure_as(self, other: Member) -> None:
        """Of the same kind: the same files."""
        folder = "/etc/ha.d" if self.theirs else "/etc/heartbeat"
        for name, mode in (("ha.cf", 0o644), ("haresources", 0o644), ("authkeys", 0o600)):
            self.node.write(f"{folder}/{name}", other.node.read(f"{folder}/{name}"), mode)

    # --- life

    def start(self) -> None:
        if self.theirs:
            done = self.node.run(["/etc/init.d/heartbeat", "start"], timeout=60, check=False)
            assert done.code == 0, done
        else:
            self.node.run([_PYTHON, "-m", "heartbeat.daemon"], timeout=30)

    def stop(self) -> None:
        if self.theirs:
            self.node.run(["/etc/init.d/heartbeat", "stop"], timeout=60, check=False)
            return
        self.signal(signal.SIGTERM)
        until(f"{self.name} has stopped", lambda: not self.pids(), 25)

    def pids(self) -> list[int]:
        """Process ids on this machine, Linux-HA's master process first."""
        found = []
        for pid, argv in self.node.processes().items():
            line = " ".join(argv)
            ours = "heartbeat.daemon" in line
            if ours if not self.theirs else (line.startswith("heartbeat: ") or argv[:1] == ["/usr/lib/heartbeat/heartbeat"]):
                found.append(pid)
        return sorted(found)

    def signal(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Its processes die; Linux-HA's leave the address behind, which a dead server would not."""
        self.signal(signal.SIGKILL)
        until(f"{self.name}'s processes are gone", lambda: not self.pids(), 5)
        if self.theirs:
            self.node.sh(f"ip address del {VIP}/24 dev eth0 2>/dev/null || true")

    # --- questions, with the node's own commands

    def tool(self, name: str, *words: str) -> Completed:
        if self.theirs:
            path = "/usr/bin/cl_status" if name == "cl_status" else f"{_THEIR_TOOLS}/{name}"
        else:
            path = f"{_OUR_TOOLS}/{name}"
        return self.node.run([path, *words], check=False, timeout=20)

    def resources(self) -> str:
        return self.tool("cl_status", "rscstatus").stdout.strip()

    def sees(self, name: str) -> str:
        return self.tool("cl_status", "nodestatus", name).stdout.strip()

    def alarms(self) -> dict[str, str]:
        """Of ours."""
        said = self.node.run(["/opt/ha-manager/venv/bin/python", "-c", _ALARMS]).stdout
        return dict(json.loads(said))

    def has_vip(self) -> bool:
        return f"inet {VIP}/" in self.node.sh("ip -4 address show dev eth0")


class LinuxHaPair:
    """Two members; ``kinds`` maps the machine to whose heartbeat runs there."""

    def __init__(self, lab: Lab, kinds: dict[str, str]) -> None:
        self.lab = lab
        self.members = {name: Member(self, lab.node(name), kind) for name, kind in kinds.items()}

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    @property
    def theirs(self) -> Member:
        return next(each for each in self.members.values() if each.theirs)

    @property
    def ours(self) -> Member:
        return next(each for each in self.members.values() if not each.theirs)

    def other(self, member: Member) -> Member:
        return next(each for each in self.members.values() if each is not member)

    def configure(self, key: str = "sha1 a-secret-of-this-test", deadtime: float = 1.5, media: str = "") -> None:
        ucasts = "\n".join(f"ucast {card} {net}.{number}" for card, net in (("eth0", "192.168.120"), ("eth1", "10.120.0"))
                           for number in NUMBERS.values())  # fmt: skip
        text = HA_CF.format(deadtime=deadtime, media=media or ucasts)
        for member in self.members.values():
            member.configure(text, key)

    def down(self) -> None:
        for member in self.members.values():
            member.signal(signal.SIGCONT)
            member.kill()
            member.node.sh("nft list tables | while read -r t; do nft delete $t; done; true")
            member.node.sh(f"ip address del {VIP}/24 dev eth0 2>/dev/null || true")

    # --- what a client sees

    def holders(self) -> list[str]:
        return [name for name, member in self.members.items() if member.has_vip()]

    def state(self) -> dict[str, Any]:
        return {name: (member.resources(), member.has_vip()) for name, member in self.members.items()}

    def settled(self, holder: str) -> bool:
        """Everything is at ``holder``, the other one holds nothing of it, both see each other as active."""
        here, there = self[holder], self.other(self[holder])
        return (
            here.resources() in ("all", "local")
            and there.resources() in ("none", "local")
            and self.holders() == [holder]
            and here.sees(there.name) == there.sees(here.name) == "active"
        )

    def until_settled(self, holder: str, limit: float = 30.0) -> float:
        try:
            return until(f"everything is at {holder}", lambda: self.settled(holder), limit)
        except AssertionError as error:
            seen = {name: member.sees(self.other(member).name) for name, member in self.members.items()}
            logs = "".join(f"\n--- {name}\n{member.node.log()[-6000:]}" for name, member in self.members.items())
            raise AssertionError(f"{error}; it is {self.state()}, they see each other as {seen}{logs}") from None


class Answers:
    """Who answers for the address, asked from the client's machine every 20 ms: for how long nobody, and whether two did."""

    def __init__(self, lab: Lab) -> None:
        self._process: subprocess.Popen[str] = lab.node("client").popen(
            [sys.executable, "-m", "tests.lab.who_answers", VIP, "eth0"], files="host", env={"PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> list[tuple[float, frozenset[str]]]:
        """(time, who answered) of every question; ends the asking."""
        self._process.terminate()
        out, _ = self._process.communicate(timeout=10)
        found = []
        for line in out.splitlines():
            at, _, macs = line.partition(" ")
            found.append((float(at), frozenset(macs.split(",")) - {""}))
        assert found, "nothing was asked"
        return found

    def twice(self) -> int:
        """How often two answered."""
        return sum(len(macs) > 1 for _, macs in self.end())

    def silence(self) -> float:
        """The longest time without an answer (seconds)."""
        last, longest = None, 0.0
        for at, macs in self.end():
            last = at if last is None or macs else last
            longest = max(longest, at - last)
        return longest
