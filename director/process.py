"""Everything that the director's process is made of, wired together.

Promise: see ``daemon``. A configuration that can't be used changes nothing, at the start and with SIGHUP. Source: design §8.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from director import config as configuration
from director.alarms import Alarms
from director.cluster import ProxyCluster
from director.instances import same_sockets
from director.model import State
from director.participant import Participant
from director.seam import Cluster, VrrpView
from director.settings import SCANNING, Config
from runtime import realtime
from runtime.control import ControlServer, Request
from runtime.errors import ConfigError, HaError
from runtime.linkwatch import LinkWatch
from runtime.loop import Loop
from runtime.priority import DIRECTOR
from runtime.removals import Removals
from runtime.rtnetlink import AddressSocket
from runtime.service import Service, run

log = logging.getLogger(__name__)

RUN = "/run/director"
_LATE = "at adverts of less than 100 ms a busy node may be taken for dead"
#: seconds after a clean stop in which packets on their way still find their node
_LINGER = 1.0
_COLLECT = 10.0


class Process:
    """``seam.Hooks`` for the clients' half, ``participant.Owner`` for the virtual routers."""

    def __init__(self, service: Service, config: Config, file: Path, run_dir: Path) -> None:
        self._service = service
        self._config = config
        self._file = file
        self._run_dir = run_dir
        self.loop = Loop()
        self.alarms = Alarms()
        self._kernel = AddressSocket()
        self._links = LinkWatch()
        self._removals = Removals()
        self._failed: tuple[str, ...] = ()
        self._successor = self._unfit = False
        self._refused: list[str] = []
        self._stopping = False
        self._rule_changes = 0
        self._participants = self._join(config)
        self._cluster: Cluster = cluster_of(config, self.loop, self)
        self._control: ControlServer | None = None

    def _join(self, config: Config) -> dict[int, Participant]:
        return {family: Participant(config, family, self.loop, self._kernel, self) for family in config.families}

    # --- life

    def start(self, refused: Sequence[str]) -> None:
        self._refused = list(refused)
        handlers = {"status": self._status, "reload": self._reload_asked} | dict(self._cluster.handlers())
        self._control = ControlServer(self._run_dir / "control", self.loop.selector, handlers)
        self._service.register(self.loop.selector, self._signal)
        self.loop.selector.register(self._links, selectors.EVENT_READ, self._links_changed)
        self._links.read()
        self.loop.selector.register(self._removals, selectors.EVENT_READ, self._addresses_removed)
        self._cluster.start()
        for participant in self._participants.values():
            participant.start()
        self._collect()

    def close(self) -> None:
        self._cluster.stop()
        if self._control is not None:
            self._control.close()
        self._links.close()
        self._removals.close()
        self._kernel.close()

    def stop(self, because: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        was_master = any(each.core.state is State.MASTER for each in self._participants.values())
        for participant in self._participants.values():
            participant.stop(because)
        self.loop.call_after(_LINGER if was_master else 0.0, self.loop.stop)

    def _collect(self) -> None:
        """Garbage is collected now and then, not in the middle of something."""
        gc.collect()
        self.loop.call_after(_COLLECT, self._collect)

    def _signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop(f"signal {number.name}")
        elif number is signal.SIGHUP:
            try:
                self._reload()
            except HaError as error:
                log.error("%s", error)

    def _links_changed(self, mask: int) -> None:
        names = {state.interface for state in self._links.read()}
        self._kernel.forget()
        if names:
            for participant in self._participants.values():
                participant.links_changed()

    def _addresses_removed(self, mask: int) -> None:
        if self._removals.read():
            self._kernel.forget()
            for participant in self._participants.values():
                participant.addresses_removed()

    # --- another configuration

    def _reload(self) -> list[str]:
        """Returns what has changed; raises HaError, changing nothing."""
        try:
            new = configuration.load(self._file)
        except (HaError, OSError) as error:
            raise HaError(f"the configuration is left as it was: {error}") from error
        if not new.enabled:
            log.info("the director is turned off in %s", self._file)
            self.stop("turned off")
            return ["enabled"]
        old, self._config = self._config, new
        changed = [name for name in old.__dataclass_fields__ if getattr(old, name) != getattr(new, name)]
        if same_sockets(old, new):
            for participant in self._participants.values():
                participant.configure(new)
        else:
            self._rejoin(new)
        self._cluster.apply(new)
        log.info("%s was read again; changed: %s", self._file, ", ".join(changed) or "nothing")
        return changed

    def _rejoin(self, config: Config) -> None:
        for participant in self._participants.values():
            participant.stop("configured anew")
        self.alarms.clear("")
        self._participants = self._join(config)
        for participant in self._participants.values():
            participant.start()
            participant.ports_failed(self._failed)
            participant.designate(self._successor)
            participant.unfit(self._unfit)

    def _reload_asked(self, request: Request) -> dict[str, Any]:
        return {"changed": self._reload()}

    # --- participant.Owner, seam.Hooks

    @property
    def _leading(self) -> Participant:
        """Of the virtual router whose master is the director."""
        return self._participants[min(self._participants)]

    def changed(self, family: int, state: State, previous: State, because: str) -> None:
        if family != min(self._participants):
            return
        master = state is State.MASTER
        if master or previous is State.MASTER:
            log.info("set lbnetwork %d", master)
            self._cluster.role(master, because)
        log.info("state=%s previous=%s", state.value, previous.value)

    def alarm(self, name: str, text: str) -> None:
        self.alarms.tell(name, text)

    def rules_changed(self) -> None:
        self._rule_changes += 1

    def rule_changes(self) -> int:
        return self._rule_changes

    def fitness(self, failed: Sequence[str]) -> None:
        self._failed = tuple(failed)
        for participant in self._participants.values():
            participant.ports_failed(failed)

    def unfit(self, on: bool) -> None:
        self._unfit = on
        for participant in self._participants.values():
            participant.unfit(on)

    def successor(self, designated: bool) -> None:
        self._successor = designated
        for participant in self._participants.values():
            participant.designate(designated)

    def vrrp(self) -> VrrpView:
        core = self._leading.core
        return VrrpView(core.state is State.MASTER, core.priority, core.instance.vrid, core.master)

    # --- status

    def _status(self, request: Request) -> dict[str, Any]:
        return {
            "node": os.uname().nodename,
            "role": self._leading.core.state.value,
            "priority": self._config.priority,
            "management_ip": self._config.management_ip,
            "lbid": self._config.balance.lbid,
            "lbid_from": self._config.balance.lbid_from,
            "routers": [participant.status() for participant in self._participants.values()],
            "alarms": self.alarms.status(),
            "alarms_raised": self.alarms.raised,
            "refused_by_system": self._refused,
            "pid": os.getpid(),
            "cluster": self._cluster.status(),
        }


def cluster_of(config: Config, loop: Loop, hooks: Process) -> Cluster:
    """What is done with the clients."""
    return ProxyCluster(config, loop, hooks)


def enabled(file: Path) -> Config:
    """The configuration of a director that is turned on. Raises ConfigError."""
    config = configuration.load(file)
    if not config.enabled:
        remedy = 'write enabled="1" into <director>, and check the addresses'
        raise ConfigError("the director is turned off", file=file, remedy=remedy)
    return config


def body(service: Service, file: Path, run_dir: Path) -> int:
    config = enabled(file)
    process = Process(service, config, file, run_dir)
    refused = realtime.prepare(config.vrrp.realtime, DIRECTOR, "the director", _LATE)
    for said in refused:
        log.warning("%s", said)
    process.start(refused)
    service.ready()
    kind = "scans only" if config.priority == SCANNING else f"has priority {config.priority}"
    log.info("director of %s runs: it %s", os.uname().nodename, kind)
    gc.collect()
    gc.freeze()
    gc.disable()
    process.loop.run()
    process.close()
    return 0


def check(file: str) -> int:
    """0 if a director could start with this configuration; else 6, and why, with file, line and remedy."""
    try:
        enabled(Path(file))
    except ConfigError as wrong:
        print(f"director: {wrong}", file=sys.stderr)
        return 6
    return 0


def serve(file: str, run_dir: str, foreground: bool) -> NoReturn:
    """Be the daemon; ends this process."""
    os.makedirs(run_dir, mode=0o755, exist_ok=True)
    pid_file = os.path.join(run_dir, "director.pid")
    run("director", pid_file, lambda service: body(service, Path(file).absolute(), Path(run_dir)), foreground=foreground)
