"""Pairs that hold nothing but a virtual address: two of our heartbeats, and two of Linux-HA's as Debian packages it.

Promise: both have the same networks, ping node, keepalive and deadtime, both are started and asked by their own commands, and
neither moves anything but the address (ours asks a scripted ha_manager, which answers at once). Source: issue "heartbeat: right
in every schedule of faults …" ("Held to"); facts/linux-ha-heartbeat.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.debian import copy, root
from bench.namespace_pair import NamespacePair
from bench.scripted import ScriptedManager
from bench.wires import GATEWAY, NODES, VIP, Wires, other
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import HaError
from runtime.timing import PROFILES, Timing

#: seconds after its start from which a Linux-HA node is as quick as it ever gets (facts: ``dt``)
_STEADY = 8.0
_SECRET = "a-secret-of-this-bench"


@dataclass(frozen=True)
class Times:
    """Milliseconds. ``profile``: instead of them, for ours only."""

    keepalive: int = 200
    deadtime: int = 1000
    profile: str = ""

    def __str__(self) -> str:
        return f"profile {self.profile}" if self.profile else f"keepalive {self.keepalive} ms, deadtime {self.deadtime} ms"


class VipPair(NamespacePair):
    """Two nodes of one kind. The folders and namespaces are gone after ``down``."""

    def __init__(self, times: Times) -> None:
        super().__init__(tuple(NODES), "vip-pair-")
        self.times = times
        self.wires = Wires(f"{self.kind[:2]}{times.profile[:2]}{os.getpid()}", self.folder)

    def space(self, node: str) -> str:
        return self.wires.space(node)

    def lay_wires(self) -> None:
        self.wires.up()

    def take_wires_down(self) -> None:
        self.wires.down()

    def power_cut(self, node: str) -> float:
        """CLOCK_BOOTTIME from just before."""
        at = self.wires.cut(node)
        self._end(node)
        self.wires.unplug(node)
        return at

    def power_on(self, node: str) -> None:
        self.wires.plug(node)
        self.start(node)

    def settle(self, limit: float = 60.0) -> tuple[str, str]:
        """Wait for one node that holds the address and another one that would take over: (active, passive)."""
        self.until(self.settled, limit, "the pair to settle")
        active = self.wires.holders()[0]
        return active, other(active)

    def processes_of(self, node: str) -> list[int]:
        """All processes of the heartbeat, of this node."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._belongs(pid, node)]

    @abstractmethod
    def settled(self) -> bool: ...
    @abstractmethod
    def hand_over(self, node: str) -> None:
        """Ask the active ``node`` to give the address to the other one."""

    @abstractmethod
    def _belongs(self, pid: int, node: str) -> bool: ...


class Ours(VipPair):
    kind = "ours"

    def __init__(self, times: Times) -> None:
        super().__init__(times)
        # /run is a tmpfs on a server
        self._run = Path(tempfile.mkdtemp(prefix="vip-pair-", dir="/dev/shm"))
        self.managers = {node: ScriptedManager(self._run / node / "control", self._timing()) for node in NODES}

    def _timing(self) -> Timing:
        return PROFILES[self.times.profile or "recommended"]

    def up(self) -> None:
        for manager in self.managers.values():
            manager.start()
        super().up()

    def down(self) -> None:
        for manager in self.managers.values():
            manager.stopping = True
        super().down()
        shutil.rmtree(self._run, ignore_errors=True)

    def configure(self, node: str) -> None:
        t = self.times
        speed = f"profile {t.profile}\n" if t.profile else f"keepalive {t.keepalive}ms\ndeadtime {t.deadtime}ms\n"
        _write_configuration(self.folder / node, node, f"{speed}initdead 3\n", "sha256")

    def start(self, node: str) -> None:
        folder, run = self.folder / node, self._run / node
        shutil.rmtree(run, ignore_errors=True)
        command = (
            f"hostname {node} && exec {sys.executable} -m heartbeat.daemon --foreground --config-dir {folder}"
            f" --state-dir {folder}/state --run-dir {run} --manager-dir {folder}/manager"
        )
        self.managers[node].reset()
        self._spawn(node, "unshare", "--uts", "sh", "-c", command)

    def status(self, node: str) -> dict[str, Any]:
        return self._ask(node, "status")

    def changes(self, node: str) -> list[dict[str, Any]]:
        """Changes of role that the node remembers, oldest first."""
        answer = self._ask(node, "history")
        if not answer:
            raise HaError(f"{self.kind}: heartbeat on {node} doesn't answer\n{self.explain()}")
        changes: list[dict[str, Any]] = answer["changes"]
        return changes

    def _ask(self, node: str, do: str, **fields: str) -> dict[str, Any]:
        try:
            with Client(self._run / node / "control", 2.0) as client:
                return client.request(do, fields)
        except (HaError, OSError):
            return {}

    def settled(self) -> bool:
        seen = [self.status(node) for node in NODES]
        active = [status for status in seen if status.get("phase") == "active"]
        ready = [status for status in seen if status.get("phase") == "passive" and status.get("fit")]
        return len(active) == len(ready) == 1 and not active[0]["solo"] and bool(active[0]["peer_state"]["fit"])

    def hand_over(self, node: str) -> None:
        with Client(self._run / node / "control", 2.0) as client:
            client.request("standby", {"by": "bench"})

    def _belongs(self, pid: int, node: str) -> bool:
        try:
            return os.getpgid(pid) == self.processes[node].pid
        except ProcessLookupError:
            return False


class LinuxHa(VipPair):
    """``layer``: where Debian's package is installed (``debian.provide``)."""

    kind = "linux_ha"

    def __init__(self, times: Times, layer: Path) -> None:
        super().__init__(times)
        self._layer = layer
        self._quiet_since = self._started_at = boottime()

    def configure(self, node: str) -> None:
        t = self.times
        speed = f"keepalive {t.keepalive}ms\ndeadtime {t.deadtime}ms\nwarntime {t.deadtime // 2}ms\ninitdead 3\n"
        speed += "logfile /var/log/ha-log\ncrm no\n"
        copy(self._layer, self.folder / node)
        etc = self.folder / node / "disk" / "etc" / "ha.d"
        _write_configuration(etc, node, speed, "sha1")

    def start(self, node: str) -> None:
        folder = self.folder / node
        command = (
            f"hostname {node} && {root(folder)} && mkdir -p {folder}/root/run/lock"
            f" && chroot {folder}/root /etc/init.d/heartbeat start; exec sleep infinity"
        )
        self._started_at = boottime()
        flags = ("--uts", "--ipc", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
        self._spawn(node, "unshare", *flags, "sh", "-c", command)

    def settled(self) -> bool:
        """Each calls the other active, one holds the address, no resource has been on its way for a second, and neither has
        just started: for some five seconds a node asks its peer for two more before it is to be called dead.
        """
        alive = all(self._cl_status(node, "nodestatus", other(node)) == "active" for node in NODES)
        states = [self._cl_status(node, "rscstatus") for node in NODES]
        if not alive or "transition" in states or "" in states or len(self.wires.holders()) != 1:
            self._quiet_since = boottime()
        return boottime() - self._quiet_since > 1.0 and boottime() - self._started_at > _STEADY

    def hand_over(self, node: str) -> None:
        self._run_in(node, "/usr/share/heartbeat/hb_standby", "all")

    def log(self, node: str) -> Path:
        return self.folder / node / "disk" / "var" / "log" / "ha-log"

    def _cl_status(self, node: str, *words: str) -> str:
        return self._run_in(node, "/usr/bin/cl_status", *words).strip()

    def _run_in(self, node: str, *words: str) -> str:
        inside = self._first(node)
        enter = ["nsenter", "-t", str(inside), "-m", "-p", "-n", "-u", "-i", "chroot", f"{self.folder}/{node}/root"]
        return subprocess.run([*enter, *words], capture_output=True, text=True).stdout if inside else ""

    def _first(self, node: str) -> int:
        """Process 1 of the node, by the number it has outside; 0 while there is none."""
        pid = self.processes[node].pid
        with contextlib.suppress(OSError):
            return int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0])
        return 0

    def _belongs(self, pid: int, node: str) -> bool:
        with contextlib.suppress(OSError):
            ours = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self._first(node)}/ns/pid")
            return ours and "heartbeat" in Path(f"/proc/{pid}/cmdline").read_text()
        return False


def _write_configuration(folder: Path, node: str, speed: str, method: str) -> None:
    """The same three files for both kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    number = NODES[other(node)]
    (folder / "ha.cf").write_text(
        f"{speed}udpport 694\nauto_failback off\nping {GATEWAY}\nucast eth0 192.168.120.{number}\n"
        f"ucast eth1 10.120.0.{number}\nnode vs-166\nnode vs-28\n"
    )
    (folder / "haresources").write_text(f"vs-166 {VIP}/24/eth0\n")
    keys = folder / "authkeys"
    keys.write_text(f"auth 1\n1 {method} {_SECRET}\n")
    keys.chmod(0o600)
