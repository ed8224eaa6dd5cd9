"""Directors and Debian's keepalived on one wire, each in namespaces of its own (network, host name, mounts), and a client.

``Tier`` has jupiter and nibiru (names and addresses of the reference's troubleshooting), scan1, scan2 and mars, whose root has
Debian's keepalived over this machine's, and a client with tcpdump and tshark. Nothing of this machine's own network or
folders is touched. For the tests that say ``pytest_plugins``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import debian
from director.config import MODULE_XML
from tests.lab.who_answers import longest

#: of Debian's: the peer, and who decodes what is on the wire
PACKAGES = ("keepalived", "tcpdump", "tshark")
VIP, VIP6 = "10.10.74.74", "fd00:74::74"
ADDRESSES = {
    "jupiter": "10.10.74.70", "nibiru": "10.10.74.86", "mars": "10.10.74.90", "scan1": "10.10.74.91", "scan2": "10.10.74.92",
    "client": "10.10.74.50",
}  # fmt: skip
#: those whose root has Debian's packages
_WITH_PACKAGES = ("mars", "client")
LIMIT = 20.0
#: private for each node: what is mounted over this machine's
_OWN = {"run": "/run/director", "etc": "/etc/director", "var": "/var/lib/director", "conf": str(MODULE_XML.parent)}


def six(name: str) -> str:
    return f"fd00:74::{ADDRESSES[name].rpartition('.')[2]}"


def ip(space: str, *lines: str) -> None:
    subprocess.run(["ip", "-n", space, "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)


@pytest.fixture(scope="module")
def proxies() -> Iterator[Tier]:
    tier = Tier()
    try:
        tier.up()
        yield tier
    finally:
        tier.down()


@pytest.fixture
def tier(proxies: Tier) -> Iterator[Tier]:
    """All machines on and all links whole; nobody is director or runs keepalived."""
    yield proxies
    proxies.clear()


class Machine:
    """One node. What it has in memory is gone after a power cut; its folder stays."""

    def __init__(self, tier: Tier, name: str) -> None:
        self.name = name
        self.folder = tier.folder / name
        self.space = f"{tier.tag}-{name}"
        self.switch = f"{tier.tag}-sw"
        self.director: subprocess.Popen[bytes] | None = None
        self.keepalived: subprocess.Popen[bytes] | None = None
        self._holder: subprocess.Popen[str] | None = None

    def plug(self) -> None:
        subprocess.run(["ip", "netns", "add", self.space], check=True)
        ip(
            self.switch,
            f"link add {self.name} type veth peer name eth0 netns {self.space}",
            f"link set {self.name} master sw0 up",
        )
        self.address()
        mounts = "".join(f"mkdir -p {place} && mount --bind {self.folder / own} {place} && " for own, place in _OWN.items())
        if self.name in _WITH_PACKAGES:
            mounts += f"{debian.root(self.folder)} && "
        argv = ["unshare", "--uts", "--mount", "--propagation", "private"]
        argv += ["sh", "-ec", f"hostname {self.name} && {mounts} echo ready && exec sleep infinity"]
        self._holder = subprocess.Popen(["ip", "netns", "exec", self.space, *argv], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "ready\n"

    def address(self) -> None:
        own = (f"addr replace {ADDRESSES[self.name]}/24 dev eth0", f"addr replace {six(self.name)}/64 dev eth0 nodad")
        ip(self.space, "link set lo up", "link set eth0 up", *own)

    def unplug(self) -> None:
        """A power cut: the cable first."""
        ip(self.switch, f"link set {self.name} down")
        for process in (self.director, self.keepalived, self._holder):
            if process is not None:
                process.kill()
                process.wait()
        self.director = self.keepalived = self._holder = None
        ip(self.switch, f"link del {self.name}")
        subprocess.run(["ip", "netns", "del", self.space], check=True)

    @property
    def is_on(self) -> bool:
        return self._holder is not None

    def argv(self, *words: str, chroot: bool = False) -> list[str]:
        assert self._holder is not None
        enter = ["nsenter", "--target", str(self._holder.pid), "--net", "--uts", "--mount"]
        return [*enter, "chroot", f"{self.folder}/root", *words] if chroot else [*enter, f"--wd={os.getcwd()}", *words]

    def run(self, *words: str, chroot: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*words, chroot=chroot), text=True, capture_output=True, timeout=60)

    def sh(self, script: str) -> str:
        done = self.run("sh", "-ec", script, chroot=self.name in _WITH_PACKAGES)
        assert done.returncode == 0, f"{self.name}: {script}: {done.stderr}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """In its own root."""
        argv = self.argv("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}", chroot=True)
        subprocess.run(argv, input=text, text=True, check=True)

    def director_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "director.cli", *words)

    def start(self) -> None:
        self.end()
        log = self.folder / "director.log"
        log.unlink(missing_ok=True)
        with log.open("ab") as output:
            argv = self.argv(sys.executable, "-m", "director.daemon", "--foreground")
            self.director = subprocess.Popen(argv, stdout=output, stderr=output)

    def end(self) -> None:
        if self.director is not None:
            self.director.terminate()
            self.director.wait(20)
            self.director = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.director is not None
        self.director.send_signal(number)
        if number == signal.SIGKILL:
            self.director.wait()
            self.director = None

    def log(self, of: str = "director") -> str:
        """What was said since the last start."""
        file = self.folder / f"{of}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def module_xml(self) -> Path:
        return self.folder / "conf" / "module.xml"


class Tier:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="directors-", dir="/var/tmp"))
        self.tag = f"dl{os.getpid()}"
        self.machines = {name: Machine(self, name) for name in ADDRESSES}
        self.client = self.machines["client"]

    def up(self) -> None:
        layer = debian.provide(PACKAGES, lambda text: None)
        subprocess.run(["ip", "netns", "add", f"{self.tag}-sw"], check=True)
        ip(f"{self.tag}-sw", "link set lo up", "link add name sw0 address 02:00:00:00:00:01 type bridge", "link set sw0 up")
        for name, machine in self.machines.items():
            for own in _OWN:
                (machine.folder / own).mkdir(parents=True)
            if name in _WITH_PACKAGES:
                debian.copy(layer, machine.folder)
            key = machine.folder / "etc" / "lb.key"
            key.touch(mode=0o600)
            key.write_text("0123456789abcdef" * 4 + "\n")
            machine.plug()

    def down(self) -> None:
        for machine in self.machines.values():
            if machine.is_on:
                machine.unplug()
        subprocess.run(["ip", "netns", "del", f"{self.tag}-sw"], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        for machine in self.machines.values():
            if not machine.is_on:
                machine.plug()
            machine.end()
        self.stop_keepalived("mars")

    def node(self, name: str) -> Machine:
        return self.machines[name]

    # --- cables

    def power_off(self, name: str) -> None:
        self.node(name).unplug()

    def power_on(self, name: str) -> None:
        self.node(name).plug()

    def cable(self, name: str, whole: bool) -> None:
        ip(f"{self.tag}-sw", f"link set {name} {'up' if whole else 'down'}")

    # --- our directors

    def write(self, name: str, priority: int, vrrp: str = "", *elements: str, vips: tuple[str, ...] = (f"{VIP}/24",)) -> None:
        lines = [
            f'<director priority="{priority}" management_ip="{ADDRESSES[name]}"/>',
            f"<vrrp {vrrp}/>",
            *(f'<virtual_ip ip="{vip}"/>' for vip in vips),
            *elements,
        ]
        file = self.node(name).module_xml
        file.touch(mode=0o600)
        file.write_text("<module><init>\n" + "\n".join(lines) + "\n</init></module>\n")

    def start(self, name: str, priority: int, vrrp: str = "", *elements: str, vips: tuple[str, ...] = (f"{VIP}/24",)) -> None:
        self.write(name, priority, vrrp, *elements, vips=vips)
        self.node(name).start()
        self.until(lambda: self.node(name).director_command("status").returncode == 0, f"the director of {name} runs")

    def stop(self, name: str) -> None:
        self.node(name).end()

    def status(self, name: str) -> dict[str, Any]:
        done = self.node(name).director_command("status", "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def router(self, name: str, family: int = 4) -> dict[str, Any]:
        return next(one for one in self.status(name)["routers"] if one["family"] == family)

    def alarms(self, name: str) -> list[str]:
        return [alarm["text"] for alarm in self.status(name)["alarms"]]

    # --- keepalived

    def keepalived(self, name: str, priority: int, *, version: int = 2, advert: str = "1", state: str = "BACKUP",
                   vips: tuple[str, ...] = (f"{VIP}/24",), more: str = "", general: str = "", before: str = "",
                   reload: bool = False) -> None:  # fmt: skip
        """``general``: of its global_defs; ``before``: other blocks. ``reload``: of the one that runs."""
        node = self.node(name)
        if not reload:
            self.stop_keepalived(name)
        addresses = "\n".join(f"  {vip}" if " dev " in vip else f"  {vip} dev eth0" for vip in vips)
        node.write("/etc/keepalived/keepalived.conf", (
            f"global_defs {{\n vrrp_version {version}\n {general}\n}}\n{before}\n"
            f"vrrp_instance VI_1 {{\n state {state}\n interface eth0\n virtual_router_id 51\n priority {priority}\n"
            f" advert_int {advert}\n {more}\n virtual_ipaddress {{\n{addresses}\n }}\n}}\n"
        ))  # fmt: skip
        if reload:
            assert node.keepalived is not None
            node.keepalived.send_signal(signal.SIGHUP)
            return
        with (node.folder / "keepalived.log").open("wb") as output:
            argv = node.argv("keepalived", "--vrrp", "--dont-fork", "--log-console", chroot=True)
            node.keepalived = subprocess.Popen(argv, stdout=output, stderr=output)

    def stop_keepalived(self, name: str) -> None:
        node = self.node(name)
        if node.keepalived is not None:
            node.keepalived.terminate()
            node.keepalived.wait(20)
            node.keepalived = None

    # --- what is seen

    def holds(self, name: str, vip: str = VIP) -> bool:
        said = subprocess.run(["ip", "-n", self.node(name).space, "addr", "show"], capture_output=True, text=True)
        return f" {vip}/" in said.stdout

    def answering(self, *vips: str) -> dict[str, list[str]]:
        """The MACs that answer the client's question for each of these."""
        done = self.client.run(sys.executable, "-m", "tests.lab.answering", "eth0", *vips)
        assert done.returncode == 0, done.stderr
        return {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines())}

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """The longest time (seconds) for which two machines answered for the address; known afterwards."""
        argv = self.client.argv(sys.executable, "-m", "tests.lab.who_answers", VIP, "eth0")
        asker = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        found: list[float] = []
        yield found
        asker.terminate()
        found.append(longest(asker.communicate()[0]))

    def holders(self, vip: str = VIP) -> list[str]:
        return [name for name, machine in self.machines.items() if machine.is_on and self.holds(name, vip)]

    def await_holder(self, name: str, vip: str = VIP) -> None:
        self.until(lambda: self.holders(vip) == [name], f"{name} alone holds {vip}")
        self.until(lambda: self.client.run("ping", "-c", "1", "-W", "1", vip).returncode == 0, f"{vip} answers the client")

    def until(self, holds: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        end = time.monotonic() + limit
        while not holds():
            logs = [f"\n--- {name}\n{machine.log()[-1500:]}" for name, machine in self.machines.items() if machine.log()]
            logs.append(f"\n--- keepalived\n{self.node('mars').log('keepalived')[-1500:]}")
            assert time.monotonic() < end, f"not within {limit:g} s: {what}; holders: {self.holders()}{''.join(logs)}"
            time.sleep(0.05)
