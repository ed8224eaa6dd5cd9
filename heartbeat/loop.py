"""heartbeat's loop: everything that the daemon is made of, wired together.

Promise: one process, one loop, nothing in it that waits. Configuration is checked before anything is changed. After every
wake-up all links and pings that have something are drained before the core may judge a silence, so that a pause of this
process isn't taken for one of the peer. A kill -9 needs no care: the next start finds role file, lease and record. Source:
design §5; docs/protocols.md.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from heartbeat import config as configuration
from heartbeat.config import Config
from heartbeat.edge import Edge, Hands
from heartbeat.election import Core
from heartbeat.enforcer import Enforcer
from heartbeat.links import Links
from heartbeat.lookout import Lookout
from heartbeat.manager_link import ManagerLink
from heartbeat.model import SERVING, Boot, ForceStopped, Heard, HeardFrame, Leave, LinkChanged, Record, Replication, Tick
from heartbeat.ping import Pinger
from heartbeat.radio import PingGroups, Radio
from heartbeat.requests import Requests
from heartbeat.rolefile import RoleFile
from heartbeat.scripts import Services
from heartbeat.store import Store
from heartbeat.vip import NoAddress, ServiceAddress
from heartbeat.writer import Writer
from runtime import syslog
from runtime.arp import Announcer
from runtime.clock import boottime
from runtime.control import ControlServer
from runtime.errors import ConfigError, HaError
from runtime.lease import VipLease
from runtime.linkwatch import LinkWatch
from runtime.priority import hurry
from runtime.prolonging import Prolonger
from runtime.realtime import Collector, Timer, prepare
from runtime.rtnetlink import AddressSocket
from runtime.service import Service, run
from runtime.vipwatch import VipWatch

if TYPE_CHECKING:
    from heartbeat.linuxha import LinuxHaCore

log = logging.getLogger(__name__)

#: a stop that was asked for with SIGTERM ends after this time at the latest (seconds); the init script waits longer
STOP_LIMIT = 20.0
#: seconds between two looks at the room that is kept for the record
_ROOM_PERIOD = 10.0
#: of the configuration: what a running heartbeat doesn't change
_FIXED = ("site", "timing", "links", "ping_groups", "vips", "resources", "facility", "realtime", "priority", "fences",
          "fence_timeout", "watchdog")  # fmt: skip


@dataclass(frozen=True)
class Folders:
    """Where things are; others than these only in tests."""

    config: str = configuration.FOLDER
    state: str = "/var/lib/heartbeat"
    run: str = "/run/heartbeat"
    manager: str = "/run/ha_manager"


class Daemon:
    """Everything wired together. Made once the configuration is known to be good."""

    def __init__(self, service: Service, folders: Folders, config: Config, netlink: AddressSocket, store: Store) -> None:
        self._service = service
        self._folders = folders
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._netlink = netlink
        self._role_file = RoleFile(os.path.join(folders.run, "role"))
        record = store.read_record()
        generation = store.next_generation(time.time())
        self._writer = Writer(store)
        self._writer.settle(generation)
        self._enforcer = Enforcer(folders.manager)
        now = boottime()
        boot = Boot(generation, int.from_bytes(os.urandom(8)))
        self._store = store
        self.core = self._decide(boot, record, now)
        self._links = Links(config.links)
        self._radio = self._speak()
        self._pinger = Pinger([address for group in config.ping_groups.values() for address in group])
        self._pings = PingGroups(self._pinger, config.ping_groups)
        self._watch = LinkWatch()
        self._carrier: dict[str, bool] = {}
        self._vip_devices = {vip.device for vip in config.vips}
        self._services = Services(config.resources, self._selector, boottime, self._trouble)
        self._address = self._service_address()
        self._manager = ManagerLink(config.timing.keepalive, config.timing.allowance)
        self._lookout = Lookout(
            config, self._selector, self._radio, lambda event: self.edge.feed(event), self._trouble, boottime
        )
        hands = Hands(self._radio, self._pings, self._writer, self._address, self._role_file, self._manager, self,
                      self._lookout, self._push)  # fmt: skip
        self.edge = self._act(hands)
        vips = [(vip.address, vip.device) for vip in config.vips]
        self._vip_watch = VipWatch(vips, self._address, self._selector, self._trouble, boottime, peers=self._peers_mac)
        self.edge.changes.extend(store.read_history())
        requests = Requests(self.core, self.edge, self._manager, boottime, self._extra, lambda: self._config.parameters)
        self._control: ControlServer | None = None
        self._handlers = requests.handlers() | {"reload": lambda request: {"later": self._reload()}}
        self._timer = Timer()
        self._turned_at = now
        self._look_at = now
        self._stop_at = inf
        self._exit_code = 0
        self.refused_by_system: list[str] = []

    def _peers_mac(self, mac: bytes) -> str:
        return self._config.site.peer if mac in self._radio.peers_macs else ""

    # --- what ``linuxha_daemon`` has its own of

    def _decide(self, boot: Boot, record: Record, now: float) -> Core | LinuxHaCore:
        return Core(self._config.site, self._config.timing, boot, record, self._role_file.resume(now), now)

    def _speak(self) -> Radio:
        config = self._config
        nodes = 2 + len(config.ping_groups)
        return Radio(self._links, config.keyring, config.site.node, config.timing, nodes, boottime)

    def _act(self, hands: Hands) -> Edge:
        timing = self._config.timing
        # Silent for deadtime from then on, the passive is still fit: less than stale time after it was last called in sync.
        return Edge(self.core, hands, timing.role_expiry, boottime, (timing.stale - timing.deadtime) * 2 / 3)

    def _listen(self) -> Sequence[Heard | HeardFrame]:
        return self._radio.heard()

    def _service_address(self) -> ServiceAddress | NoAddress:
        config = self._config
        if config.vip is None:
            return NoAddress(self._services)
        lease = VipLease([vip.address for vip in config.vips], config.vip.port, config.peer_addresses)
        vips = [(vip.address, vip.device) for vip in config.vips]
        time, kernel = config.timing.lease, self._netlink
        prolonger = Prolonger(AddressSocket, self._hurry)
        prolonger.start()
        return ServiceAddress(vips, time, kernel, lease, Announcer, boottime, self._trouble, self._services, prolonger)

    def _hurry(self) -> None:
        """What keeps the addresses is as important as what decides on them."""
        if self._config.realtime:
            hurry(self._config.priority, inherited=False)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Guard the address, listen, and take the first decision."""
        self._address.setup()
        self._control = ControlServer(
            os.path.join(self._folders.run, "control"), self._selector, self._handlers, on_close=self._manager.closed
        )
        read = selectors.EVENT_READ
        for link in self._links:
            self._selector.register(link, read, _frames)
        self._selector.register(self._pinger, read, _replies)
        self._selector.register(self._timer, read, lambda mask: self._timer.fired())
        self._writer.replaced = self._watch_writer
        self._selector.register(self._writer, read, lambda mask: self._written())
        self._selector.register(self._watch, read, lambda mask: self._link_events())
        self._vip_watch.start()
        self._service.register(self._selector, self._signal)
        self._turned_at = boottime()
        self._link_events()
        self._lookout.tick(self._turned_at)
        if self._address.blocked:
            log.warning("an earlier heartbeat ended before it knew that Postgres had: Postgres is ended first, clients wait")
            self._end_postgres(with_manager=False)
        self.edge.feed(Tick())
        self._lookout.start(self._config, self._netlink.addresses())

    def loop(self) -> int:
        """Run until the core says that the process may end; returns the exit status."""
        collector = Collector()
        while not self.edge.ended:
            self._timer.at(self._due())
            ready = self._selector.select()
            self._turn(ready)
            collector.idle()
        return self._exit_code

    def close(self) -> None:
        """A clean end: whoever may resume finds the role file, nobody else does."""
        if self.core.leaving != "restart":
            self._role_file.remove()
            self._stop_services()
        if self._control is not None:
            self._control.close()
        self._lookout.close(clean=self.edge.ended)
        self._links.close()
        self._writer.close()

    def _stop_services(self) -> None:
        """The role is gone: let what moved with it finish stopping, within the time that a stop has."""
        now = boottime()
        until = now if self._exit_code else min(self._stop_at, now + STOP_LIMIT)
        self._services.finish(min(until, self._address.due))
        self._address.tick(boottime())
        self._services.finish(until)

    # --- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        now = boottime()
        gap = now - self._turned_at
        self._turned_at = now
        if gap > self._config.timing.keepalive + self._config.timing.delivery:
            self._manager.paused(gap)
        readable = {key.data for key, _ in ready}
        if _frames in readable:
            for heard in self._listen():
                self.edge.feed(heard)
        if _replies in readable:
            for reply in self._pings.replies():
                self.edge.feed(reply)
        for key, mask in ready:
            key.data(mask)
        self._lookout.listen()
        self._on_time(boottime())
        if self._pings.asked:  # a near ping node has answered by now: no need to be woken up for it
            for reply in self._pings.replies():
                self.edge.feed(reply)

    def _on_time(self, now: float) -> None:
        if now >= (self.core.deadline() or inf):
            self.edge.feed(Tick())
        if now >= self._address.due:
            self._address.tick(now)
        self._vip_watch.turn(*self._peer_heard(), now)
        if now >= self._services.due:
            self._services.tick()
        if now >= self._manager.due:
            lost = self._manager.tick(now)
            if lost is not None:
                self.edge.feed(lost)
        self._lookout.tick(now)
        if now >= self._look_at:  # a turn that something else brings about is early enough
            self._look_at = now + _ROOM_PERIOD
            self._writer.look()
        self._writer.tick(now)
        self._trouble("state-disk", self._writer.hangs)
        if now >= self._stop_at:
            self._stop_at = inf
            self._give_up_stopping()

    def _due(self) -> float:
        deadline = self.core.deadline()
        return min(
            deadline if deadline is not None else inf, self._address.due, self._services.due, self._manager.due,
            self._vip_watch.due, self._lookout.due, self._stop_at, boottime() + 1.0,
        )  # fmt: skip

    def _peer_heard(self) -> tuple[bool, bool]:
        """Whether the peer is in contact, and whether it serves too."""
        if not isinstance(self.core, Core):
            return False, False
        members = self.core.members
        return members.in_contact(), members.peer is not None and members.peer.phase in SERVING

    def _watch_writer(self) -> None:
        self._selector.unregister(self._writer)
        self._selector.register(self._writer, selectors.EVENT_READ, lambda mask: self._written())

    def _written(self) -> None:
        for answer in self._writer.answers():
            self.edge.feed(answer)
        self._trouble("state-folder", self._writer.no_room)

    def _link_events(self) -> None:
        """Carrier of the links and of the virtual address's interface; only changes are events."""
        relevant = {link.device for link in self._links} | self._vip_devices
        self._netlink.forget()
        for state in self._watch.read():
            up = state.up and not state.gone
            if state.interface not in relevant or self._carrier.get(state.interface) == up:
                continue
            first = state.interface not in self._carrier
            self._carrier[state.interface] = up
            carries_vip = state.interface in self._vip_devices
            if not (first and up):
                log.warning("interface %s is %s", state.interface, "up" if up else "without link")
                if carries_vip:
                    self._trouble(f"interface-{state.interface}", "" if up else _unlinked(state.interface))
                # one of several that comes back doesn't mean that all of them are
                all_up = all(self._carrier.get(device, True) for device in self._vip_devices)
                self.edge.feed(LinkChanged(state.interface, up, carries_vip and (all_up or not up)))
            if up and carries_vip:
                # What was announced while the link was down was heard by nobody.
                self._address.announce(boottime())

    # --- signals ------------------------------------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stop_at == inf:
                self._stop_at = boottime() + STOP_LIMIT
                self.edge.feed(Leave(f"signal {number.name}", "handover"))
        elif number is signal.SIGHUP:
            try:
                self._reload()
            except HaError as error:
                log.error("%s", error)

    def _give_up_stopping(self) -> None:
        """The core isn't done in time: let go of the address and end; ha_manager's own lease then ends Postgres."""
        log.error("still %s after %g s of stopping: ending anyway", self.core.phase, STOP_LIMIT)
        self._address.drop()
        self._exit_code = 1
        self.edge.ended = True

    def _reload(self) -> list[str]:
        """New keys and another data fence (rule 6) are used at once; returns what else has changed, which needs a restart.
        Raises HaError, changing nothing.
        """
        try:
            assigned = self._netlink.addresses()
            new = configuration.load(self._folders.config, self._config.site.node, assigned)
        except (HaError, OSError) as error:
            raise HaError(f"the configuration is left as it was: {error}") from error
        old, site = self._config, new.site
        running = replace(old.site, synchronous=site.synchronous, solo=site.solo, maximum_lag=site.maximum_lag)
        self._config = replace(
            old, keyring=new.keyring, debug=new.debug, warnings=new.warnings, parameters=new.parameters,
            site=running,
        )  # fmt: skip
        changed = [name for name in _FIXED if getattr(new, name) != getattr(self._config, name)]
        self._radio.keyring = new.keyring
        logging.getLogger().setLevel(_level(new.debug))
        log.info("ha.cf and keys were read again%s", f"; `ha restart` is needed for: {', '.join(changed)}" if changed else "")
        if isinstance(self.core, Core):
            self.edge.feed(Replication(site.synchronous, site.solo, site.maximum_lag))
        return changed

    # --- hands of the edge, and what the control socket tells besides ----------------------------------------------------

    def force_stop(self, because: str) -> None:
        self._end_postgres(with_manager=not self._manager.reporting)

    def _end_postgres(self, with_manager: bool) -> None:
        """Until it is known to have ended no client reaches it: also after a restart of heartbeat (the kernel remembers)."""
        if self._enforcer.running:
            return
        self._address.block(True)
        self._enforcer.start(with_manager)
        self._selector.register(self._enforcer.fileno(), selectors.EVENT_READ, lambda mask: self._force_stopped())

    def _force_stopped(self) -> None:
        self._selector.unregister(self._enforcer.fileno())
        if self._enforcer.finish():
            self._address.block(False)
            self.edge.feed(ForceStopped())
        else:
            self.force_stop("the enforcement was interrupted")

    def _trouble(self, name: str, text: str) -> None:
        self.edge.trouble(name, text)

    def _push(self, kind: str, fields: Any) -> None:
        if self._control is not None:
            self._control.push(kind, fields)

    def _extra(self) -> dict[str, Any]:
        """What the status says beside the core's own words."""
        config, address, vip = self._config, self._address, self._config.vip
        return {
            "vip": {"address": vip.address if vip else "", "device": vip.device if vip else "", "held": address.held,
                    "open": address.open},
            "vips": [{"address": vip.address, "device": vip.device} for vip in config.vips],
            "claimed": self._vip_watch.claims(),
            "resources": self._services.describe(),
            "link_states": self._links.states(),
            "refused": self._radio.counters(),
            "ping_groups": {name: list(addresses) for name, addresses in config.ping_groups.items()},
            "default_active": config.site.default_active,
            "manager_reporting": self._manager.reporting,
            "pid": os.getpid(),
            "refused_by_system": self.refused_by_system,
        }  # fmt: skip


def _frames(mask: int) -> None:
    """A link has something: ``_turn`` takes it before everything else."""


def _replies(mask: int) -> None:
    """A ping node answered: likewise."""


def _unlinked(interface: str) -> str:
    return f"interface {interface} has no link, so nobody reaches the virtual IP there: look at its cable and switch port"


def _level(debug: int) -> int:
    return logging.DEBUG if debug else logging.INFO


def _kind(config: Config) -> type[Daemon]:
    if not config.linux_ha:
        return Daemon
    from heartbeat.linuxha_daemon import LinuxHaDaemon

    return LinuxHaDaemon


def body(service: Service, folders: Folders) -> int:
    hurry(inherited=False)
    netlink = AddressSocket()
    config = configuration.load(folders.config, os.uname().nodename, netlink.addresses())
    syslog.configure(service.name, foreground=service.foreground, facility=config.facility, level=_level(config.debug))
    store = Store(folders.state)
    store.hold()
    daemon = _kind(config)(service, folders, config, netlink, store)
    for warning in config.warnings:
        log.warning("%s", warning)
    daemon.refused_by_system = prepare(config.realtime, config.priority)
    for refused in daemon.refused_by_system:
        log.warning("%s", refused)
    daemon.start()
    service.ready()
    log.info("heartbeat of %s runs: epoch %s, %s", config.site.node, daemon.core.disk.epoch, daemon.core.phase)
    try:
        return daemon.loop()
    finally:
        daemon.close()


def check(folders: Folders) -> int:
    """0 if a heartbeat could start with this configuration; else 6, and why, with file, line and remedy."""
    try:
        configuration.load(folders.config, os.uname().nodename, AddressSocket().addresses())
    except ConfigError as wrong:
        print(f"heartbeat: {wrong}", file=sys.stderr)
        return 6
    return 0


def serve(folders: Folders, foreground: bool) -> NoReturn:
    """Be the daemon; ends this process."""
    os.makedirs(folders.run, mode=0o755, exist_ok=True)
    pid_file = os.path.join(folders.run, "heartbeat.pid")
    run("heartbeat", pid_file, lambda service: body(service, folders), foreground=foreground)
