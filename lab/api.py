"""Labs for programs: the same verbs as ``python -m lab``.

    with Lab("mine") as lab:                      # up; taken down at the end, also if this process is killed
        lab.node("vs-166").run(["ha", "start"])
        cut_at = lab.power_off("vs-166")

Promise: a ``Lab`` holds no state of its own, everything is in ``store``; several processes may use one lab. Each verb returns
when its effect is there. Errors are LabError, ConfigError (a name that doesn't exist) or CommandFailed. Source: design §2.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from runtime.errors import ConfigError

from . import layer, network
from .launch import Launched, launch
from .machine import Node, wake_entrances
from .store import LabError, NoSuchLab, Process, State, Store, labs
from .topology import PAIR, Machine, Topology

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,19}")
#: A clean shutdown may take so long (seconds) before the power is cut
_SHUTDOWN_LIMIT = 75.0


class Lab:
    def __init__(
        self,
        name: str = "lab",
        topology: Topology = PAIR,
        progress: Callable[[str], None] = layer.say,
        packages: Sequence[str] = (),
    ) -> None:
        """Nothing happens yet. ``topology``, and ``packages`` of Debian's that the machines have besides, count for ``up``."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} can't name a lab", remedy="use up to 20 lower-case letters, digits and -")
        topology.check()
        self.name = name
        self._topology = topology
        self._progress = progress
        self._packages = tuple(packages)
        self._store = Store(name)

    def __enter__(self) -> Lab:
        return self.up(ephemeral=True)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    # --- the whole lab ------------------------------------------------------------------------------------------------

    def up(self, *, ephemeral: bool = False, owner: int | None = None) -> Lab:
        """Bring all machines up. ``ephemeral``: the lab goes down when process ``owner`` (this one by default) ends."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: sudo python -m lab up")
        with self._store.lock(create=True):
            before = self._store.load()
            if before is not None and before.anchor is not None and before.anchor.alive:
                raise LabError(f"lab {self.name!r} is up already: python -m lab --name {self.name} down")
            self._clear(before)
        with self._store.lock(create=True):
            try:
                self._bring_up(owner or os.getpid() if ephemeral else None)
            except BaseException:
                self._clear(self._store.load())
                raise
        return self

    def _bring_up(self, owner: int | None) -> None:
        state = State(self._topology)
        self._store.save(state)
        if owner is not None:
            state.watcher = _watch(self.name, owner)
            self._store.save(state)
        spec = layer.provide(self._store.merged.parent, self._progress, self._packages)
        state.layer = spec["layer"]
        anchor = launch("anchor.py", f"lab {self.name}", self.name, spec, self._store.path / "anchor.console")
        state.anchor = anchor.expect("ready")
        self._store.save(state)
        network.switch_up(state.anchor.pid, state.topology)
        self._start(state, list(state.topology.machines), wait=True)

    def down(self) -> None:
        """End every process of the lab and remove its directory. No complaint if there is no such lab."""
        if self.name not in labs():
            return
        with contextlib.suppress(NoSuchLab), self._store.lock():
            self._clear(self._loaded_or_nothing())

    def _loaded_or_nothing(self) -> State | None:
        try:
            return self._store.load()
        except LabError:
            return None

    def _clear(self, state: State | None) -> None:
        if state is not None:
            if state.anchor is not None and not _kill(state.anchor, state.machines.values()):
                raise LabError(
                    f"process {state.anchor.pid} of lab {self.name!r} doesn't end: python -m lab --name {self.name} down"
                )
            if state.watcher is not None and state.watcher.pid != os.getpid():
                state.watcher.end(signal.SIGTERM, 5.0)
        self._store.remove()

    @property
    def is_up(self) -> bool:
        state = self._store.load()
        return state is not None and state.anchor is not None and state.anchor.alive

    @property
    def topology(self) -> Topology:
        state = self._store.load()
        return state.topology if state else self._topology

    def status(self) -> dict[str, object]:
        """What ``python -m lab status --json`` prints."""
        state = self._store.load()
        if state is None:
            return {"name": self.name, "up": False}
        up = state.anchor is not None and state.anchor.alive
        machines = {
            machine.name: {
                "kind": machine.kind,
                "power": machine.name in state.machines and state.machines[machine.name].alive,
                "pid": state.machines[machine.name].pid if machine.name in state.machines else None,
                "interfaces": {card.name: f"{card.address} on {card.bridge}" for card in machine.interfaces},
            }
            for machine in state.topology.machines
        }
        return {"name": self.name, "up": up, "layer": state.layer, "machines": machines, "faults": state.faults.in_words()}

    # --- machines -----------------------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        return Node(self._store, self.topology.machine(name))

    @property
    def nodes(self) -> list[Node]:
        return [Node(self._store, machine) for machine in self.topology.machines]

    def power_off(self, name: str) -> float:
        """Cut the power: every cable goes dead in the same instant, then everything dies; the disk stays.

        Returns time.monotonic() from just before. Nothing the dying kernel would send gets out.
        """
        with self._changing() as state:
            machine = state.topology.machine(name)
            at = time.monotonic()
            self._darken(state, machine)
            running = state.machines.pop(name, None)
            if running is not None and not _kill(running, [running]):
                raise LabError(f"process 1 of {name} ({running.pid}) doesn't end")
            network.pull_out(_anchor(state).pid, [machine.port(card) for card in machine.interfaces])
            return at

    def power_on(self, name: str, *, wait: bool = True) -> float:
        """Boot it from its disk. ``wait``: until its boot services have been started. Returns time.monotonic() from before."""
        with self._changing() as state:
            machine = state.topology.machine(name)
            if name in state.machines and state.machines[name].alive:
                raise LabError(f"{name} is running already")
            at = time.monotonic()
            self._start(state, [machine], wait)
            return at

    def shutdown(self, name: str) -> None:
        """Press the power button and wait until it is off."""
        running = self._running(name)
        if not running.end(signal.SIGTERM, _SHUTDOWN_LIMIT):
            raise LabError(f"{name} did not shut down within {_SHUTDOWN_LIMIT:g} s: power-off {name}")
        with self._changing() as state:
            machine = state.topology.machine(name)
            state.machines.pop(name, None)
            self._darken(state, machine)
            network.pull_out(_anchor(state).pid, [machine.port(card) for card in machine.interfaces])

    def reboot(self, name: str) -> None:
        self.shutdown(name)
        self.power_on(name)

    def reinstall(self, name: str) -> None:
        """Cut the power, replace the disk by a new one as install.sh leaves it, and boot."""
        self.power_off(name)
        with self._changing() as state:
            state.topology.machine(name)
            self._store.erase(name)
        self.power_on(name)

    def _running(self, name: str) -> Process:
        with self._changing() as state:
            state.topology.machine(name)
            running = state.machines.get(name)
        if running is None or not running.alive:
            raise LabError(f"{name} is off: python -m lab --name {self.name} power-on {name}")
        return running

    def _darken(self, state: State, machine: Machine) -> None:
        state.faults.dark |= {machine.port(card) for card in machine.interfaces}
        network.apply(_anchor(state).pid, state.faults)

    def _start(self, state: State, machines: list[Machine], wait: bool) -> None:
        anchor = _anchor(state)
        booting: list[tuple[Machine, Launched]] = []
        try:
            booting = [(machine, self._boot(state, machine)) for machine in machines]
            ready = [(machine, launched.expect("root")) for machine, launched in booting]
            network.plug_in(anchor.pid, [(machine, process.pid) for machine, process in ready])
            ports = {machine.port(card) for machine in machines for card in machine.interfaces}
            state.faults.dark -= ports
            network.apply(anchor.pid, state.faults)
            network.carriers(anchor.pid, ports & state.faults.unplugged, up=False)
            for machine, process in ready:
                state.machines[machine.name] = process
            self._store.save(state)
            for _, launched in booting:
                launched.say("network")
            for _, launched in booting if wait else []:
                launched.expect("booted", limit=120.0)
        except BaseException:
            for machine, launched in booting:
                launched.give_up()
                state.machines.pop(machine.name, None)
            raise
        for _, launched in booting:
            launched.channel.close()

    def _boot(self, state: State, machine: Machine) -> Launched:
        disk = self._store.disk(machine.name)
        for folder in ("upper", "work", "root"):
            (disk / folder).mkdir(parents=True, exist_ok=True)
        spec = {
            "name": machine.name,
            "kind": machine.kind,
            "lower": str(self._store.merged),
            "upper": str(disk / "upper"),
            "work": str(disk / "work"),
            "root": str(disk / "root"),
            "hosts": _hosts(state.topology),
            "machine_id": uuid.uuid5(uuid.NAMESPACE_DNS, f"{machine.name}.{self.name}").hex,
        }
        return launch("init.py", machine.name, self.name, spec, self._store.console(machine.name), join=_anchor(state).pid)

    # --- cables -------------------------------------------------------------------------------------------------------

    def cut(self, link: str, *, one_way: str | None = None) -> float:
        """Lose all frames on a link; its carrier stays. Returns time.monotonic() from just before.

        ``link``: ``NODE:INTERFACE``, ``NODE:BRIDGE``, a whole ``BRIDGE``, or the paths between two machines, ``NODE/NODE`` or
        ``NODE/NODE:BRIDGE``. ``one_way``: "out", "in" (seen from the machine named first), or the machine that sends.
        """
        return self._lose(link, one_way, 100.0)

    def loss(self, link: str, percent: float, *, one_way: str | None = None) -> float:
        """Lose that share of the frames, each way by itself; on a whole bridge, of all that crosses it."""
        if not 0 < percent <= 100:
            raise ConfigError(f"a loss of {percent:g} % can't be", remedy="give a number above 0, up to 100; heal ends it")
        whole_bridge = ":" not in link and "/" not in link
        return self._lose(link, "out" if whole_bridge and one_way is None else one_way, percent)

    def _lose(self, link: str, one_way: str | None, percent: float) -> float:
        with self._changing() as state:
            state.faults.lost |= dict.fromkeys(state.topology.flows(link, one_way), percent)
            at = time.monotonic()
            network.apply(_anchor(state).pid, state.faults)
            return at

    def unplug(self, link: str) -> float:
        """Pull the cable: the machine's interface loses its carrier. Returns time.monotonic() from just before."""
        with self._changing() as state:
            ports = state.topology.ports(link)
            state.faults.unplugged |= set(ports)
            at = time.monotonic()
            network.carriers(_anchor(state).pid, ports, up=False)
            return at

    def heal(self, link: str | None = None) -> float:
        """Undo cut, unplug and loss on a link, or on all. Returns time.monotonic() from just before."""
        with self._changing() as state:
            topology, faults = state.topology, state.faults
            if link is None:
                flows, ports = tuple(faults.lost), tuple(machine.port(card) for machine, card in topology.cards())
            else:
                flows, ports = topology.flows(link), () if "/" in link else topology.ports(link)
            unplugged = [port for port in ports if port in faults.unplugged]
            faults.heal(flows, ports)
            at = time.monotonic()
            network.apply(_anchor(state).pid, faults)
            network.carriers(_anchor(state).pid, unplugged, up=True)
            return at

    @contextlib.contextmanager
    def _changing(self) -> Iterator[State]:
        with self._store.lock():
            state = self._store.load()
            if state is None or state.anchor is None or not state.anchor.alive:
                raise LabError(f"lab {self.name!r} is not up: python -m lab --name {self.name} up")
            yield state
            self._store.save(state)


def _anchor(state: State) -> Process:
    assert state.anchor is not None
    return state.anchor


def _kill(process: Process, machines: Iterable[Process]) -> bool:
    """SIGKILL the first process of a pid namespace; False when something in there can't be reaped."""
    if process.end(signal.SIGKILL, 1.0):
        return True
    wake_entrances({machine.pid for machine in machines})
    return process.end(signal.SIGKILL, 20.0)


def _hosts(topology: Topology) -> str:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{machine.interfaces[0].ip}\t{machine.name}" for machine in topology.machines]
    lines += [f"{address}\t{name}" for name, address in topology.names.items()]
    return "\n".join(lines) + "\n"


def _watch(name: str, owner: int) -> Process:
    argv = [sys.executable, str(Path(__file__).with_name("watch.py")), name, str(owner)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return Process.of(int(done.stdout))


__all__: Sequence[str] = ("Lab", "LabError", "Node", "labs")
