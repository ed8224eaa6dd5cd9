"""Members of a proxy group with real daemons, each in namespaces of its own (network, host name, mounts), and forty clients.

``with Daemons() as group:`` jupiter (priority 99), nibiru (89), mars, scan1 and scan2 on one bridge, each with a proxy on 9090
and 2121; configuration, key, pid file and control socket are where they belong, for each node alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.proxy_clients import Clients, Served
from bench.proxy_group import CLIENTS, VIP, VIP6, Group
from director.config import MODULE_XML

PRIORITIES = {"jupiter": 99, "nibiru": 89, "mars": 0, "scan1": 0, "scan2": 0}
MEMBERS = list(PRIORITIES)
ADDRESSES = {name: f"10.9.0.{number}" for number, name in enumerate(MEMBERS, start=1)}
SOURCES = CLIENTS
#: of what must come true some time; a slow machine takes a while to move a thousand buckets five times
LIMIT = 60.0
#: private for each node: what is mounted over this machine's
_OWN = {"run": "/run/director", "etc": "/etc/director", "var": "/var/lib/director", "conf": str(MODULE_XML.parent)}
_ELEMENTS = """<port_redirect protocol="http" ports="80,443" to="9090" comment="web">
 <check kind="http" interval="0.5"/>
</port_redirect>
<port_redirect protocol="ftp" ports="21" to="2121"><check interval="0.5"/></port_redirect>"""


class Machine:
    """One node: its daemon, its commands, its log."""

    def __init__(self, group: Daemons, name: str, number: int) -> None:
        self.name, self.group = name, group
        self.wire = group.wires.nodes[number - 1]
        self.folder = group.folder / name
        self.daemon: subprocess.Popen[bytes] | None = None
        self._holder: subprocess.Popen[str] | None = None
        self._proxies: dict[int, subprocess.Popen[str]] = {}

    def boot(self) -> None:
        for own in _OWN:
            (self.folder / own).mkdir(parents=True)
        mounts = "".join(f"mkdir -p {place} && mount --bind {self.folder / own} {place} && " for own, place in _OWN.items())
        script = f"hostname {self.name} && {mounts} echo ready && exec sleep infinity"
        with self.wire.ns:
            argv = ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-ec", script]
            self._holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "ready\n"
        self.configure(PRIORITIES[self.name])
        self.key("a key of all members")
        for port in (9090, 2121):
            self.serve(port)
        self.start()

    def configure(self, priority: int) -> None:
        text = f"""<module><init><director priority="{priority}" management_ip="{self.wire.ip}"/>
<vrrp version="3" advert="0.1"/><virtual_ip ip="{VIP}/16"/><virtual_ip ip="{VIP6}/64"/>
{_ELEMENTS}
<load_balancing buckets="{self.group.count}"/></init></module>"""
        (self.folder / "conf" / "module.xml").write_text(text)

    def key(self, text: str) -> None:
        file = self.folder / "etc" / "lb.key"
        file.touch(mode=0o600)
        file.write_text(text)

    def argv(self, module: str, *words: str) -> list[str]:
        assert self._holder is not None
        enter = ["nsenter", "--target", str(self._holder.pid), "--net", "--uts", "--mount", f"--wd={os.getcwd()}"]
        return [*enter, sys.executable, "-m", module, *words]

    def start(self, *before: str) -> None:
        """``before``: of a command line that runs another."""
        argv = self.argv("director.daemon", "--foreground")
        at = argv.index(sys.executable)
        with (self.folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen([*argv[:at], *before, *argv[at:]], stdout=log, stderr=log)

    def end(self, hard: bool = False) -> None:
        """Stop the daemon, or kill it."""
        if self.daemon is None:
            return
        (self.daemon.kill if hard else self.daemon.terminate)()
        self.daemon.wait(20)
        self.daemon = None

    def run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(f"director.{module}", *words), text=True, capture_output=True, timeout=60)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def serve(self, port: int) -> None:
        argv = [sys.executable, "-m", "bench.scanning_node", self.name, str(port)]
        with self.wire.ns:
            server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        self._proxies[port] = server

    def end_proxy(self, port: int) -> None:
        server = self._proxies.pop(port)
        server.terminate()
        server.wait()

    def lose_interface(self) -> None:
        self.group.wires.switch.ip(f"link del p{MEMBERS.index(self.name) + 1}")

    def regain_interface(self) -> None:
        """Another one of the same name."""
        number = MEMBERS.index(self.name) + 1
        self.group.wires.switch.ip(
            f"link add p{number} index {100 + number} type veth peer name eth0"
            f" address {self.wire.mac} netns {self.wire.ns.path}",
            f"link set p{number} master lan up",
        )
        self.wire.up()

    def deafen(self, on: bool) -> None:
        """Nothing reaches it, and everybody hears it."""
        table = f"bridge deaf-{self.name}"
        chain = f'type filter hook postrouting priority 0; oifname "p{MEMBERS.index(self.name) + 1}" drop;'
        self.group.wires.switch.run(
            ["nft", f"add table {table} {{ chain out {{ {chain} }}; }}" if on else f"delete table {table}"]
        )

    def power_off(self) -> None:
        """Its cable goes first."""
        self.group.wires.switch.ip(f"link set p{MEMBERS.index(self.name) + 1} down")
        self.end(hard=True)

    def close(self) -> None:
        self.end()
        for server in self._proxies.values():
            server.kill()
            server.wait()
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()


class Daemons(Served):
    sources = SOURCES

    def __init__(self, buckets: int = 1024) -> None:
        """Five directors that move 1024 buckets take two cores of one machine for a quarter of a minute."""
        self.count = buckets
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-group-"))
        self.wires = Group(len(MEMBERS), proxies=False)
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> Daemons:
        self.wires.__enter__()
        self.clients = Clients(self.wires.client, VIP)
        for number, name in enumerate(MEMBERS, start=1):
            self.machines[name] = Machine(self, name, number)
            self.machines[name].boot()
        self.await_director("jupiter")
        self.await_even()
        return self

    def __exit__(self, *_: object) -> None:
        self.clients.close()
        for machine in self.machines.values():
            machine.close()
        self.wires.__exit__()
        shutil.rmtree(self.folder)

    def node(self, name: str) -> Machine:
        return self.machines[name]

    # --- what they say

    def status(self, on: str) -> dict[str, Any]:
        done = self.node(on).run("cli", "status", "--json")
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def cluster(self, on: str) -> dict[str, Any]:
        try:
            cluster: dict[str, Any] = self.status(on)["cluster"]
        except AssertionError:
            return {"director": None, "services": [], "members": []}  # it is still starting
        return cluster

    def alarms(self, on: str) -> list[str]:
        return [alarm["text"] for alarm in self.status(on)["alarms"]]

    def buckets(self, on: str, key: str = "tcp 80,443") -> dict[str, int]:
        return next((dict(each["buckets"]) for each in self.cluster(on)["services"] if each["key"] == key), {})

    def member(self, on: str, name: str) -> dict[str, Any]:
        member: dict[str, Any] = next(one for one in self.cluster(on)["members"] if one["name"] == name)
        return member

    def await_director(self, name: str) -> None:
        """All that run say so, and the client sees it."""
        up = [each.name for each in self.machines.values() if each.daemon is not None]
        wanted = {"name": name, "ip": ADDRESSES[name]}
        self.until(lambda: all(self.cluster(each)["director"] == wanted for each in up), f"{name} directs")

    def await_even(self, on: str = "jupiter") -> None:
        self.until(lambda: sorted(self.buckets(on).values()) == self.even(len(MEMBERS)), "all five share evenly")

    def even(self, members: int) -> list[int]:
        """Shares of so many, the smallest first."""
        share, more = divmod(self.count, members)
        return [share] * (members - more) + [share + 1] * more

    def until(self, holds: Callable[[], object], what: str) -> None:
        end = time.monotonic() + LIMIT
        while not holds():
            logs = "".join(f"\n{each.name}: {each.log()[-1500:]}" for each in self.machines.values())
            assert time.monotonic() < end, f"not within {LIMIT:g} s: {what}{logs}"
            time.sleep(0.05)
