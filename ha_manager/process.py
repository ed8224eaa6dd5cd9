"""The process of ha_manager: makes true what heartbeat wants of this server.

Promise: one decider, heartbeat; this process carries out and reports. The main loop waits for nothing: Postgres, the peer,
files, commands and the disk have threads of their own, wired together here. Source: design §6; docs/protocols.md.

    heartbeat ◄─ link (main loop) ─► worker ─► Postgres ◄─ monitor, lease
                     │                                        │
                     ├─► planner ─► lanes (files, Manager, policy server, hooks)
                     └─► peer (session, both ends)      control socket ◄─ ha
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ha_manager import __version__, divergence, turningoff
from ha_manager.care import Care, Findings
from ha_manager.cluster import PostgresConfig
from ha_manager.config import NEEDS_HA_START, NEEDS_THE_PEER, Config, load
from ha_manager.copier import Copier
from ha_manager.database import Database
from ha_manager.datafence import DataFence
from ha_manager.files.line import SUBSYSTEM
from ha_manager.greeting import Greeting
from ha_manager.host import CONF
from ha_manager.journal import JournalFile
from ha_manager.link import HeartbeatLink
from ha_manager.linuxha import LinuxHaLink, peer_word
from ha_manager.local import addresses
from ha_manager.mailbox import Mailbox
from ha_manager.managerwatch import ManagerWatch
from ha_manager.monitor import CALM, Lease, Monitor
from ha_manager.observation import Identity
from ha_manager.orders import ROLE_OF, Epoch, Facts, Phase, Postgres, Role, Stop, Want
from ha_manager.outlook import MIB, Look, Outlook, is_calm, observed_state
from ha_manager.peer import Own, Peer, lacks_standby
from ha_manager.planner import Planner
from ha_manager.punctual import Punctual
from ha_manager.reign import PeerWord
from ha_manager.requests import Requests
from ha_manager.rolechange import RoleChange
from ha_manager.rolelease import RoleLease
from ha_manager.schedule import Schedule
from ha_manager.site import MODULE_XML
from ha_manager.statusfile import Messages, StatusFile
from ha_manager.steps import Steps
from ha_manager.stock import Stock
from ha_manager.threads import Threads
from ha_manager.trail import Trail
from ha_manager.turning import unapplied
from ha_manager.wiring import cluster_of, database_of, replication_password
from ha_manager.worker import Worker
from runtime import service
from runtime.clock import boottime
from runtime.control import ControlServer
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.loop import Loop

log = logging.getLogger("ha_manager")

TICK = 0.15
#: heartbeat's status, for operators, is asked for so often while nothing changes (seconds)
STATUS_PERIOD = 1.0
STOP_LIMIT = 20.0
#: the sizes of all files of a large database are asked for (seconds); the peer waits for 3
IDENTITY_LIMIT = 2.5
#: what the peer is told of extensions and collations is no older (seconds)
FRESH = 2.0


class Daemon:
    """The wiring. Methods whose names begin with ``on_`` run in the main loop; the others say where."""

    def __init__(self, config: Config, cluster: PostgresConfig, database: Database, keys: Keys, greeting: Greeting) -> None:
        self._greeting = greeting
        self._keys = keys
        self.config = config
        self.cluster = cluster
        self.database = database
        self.loop = Loop()
        self.punctual = Punctual(boottime)
        self.threads = Threads(self.punctual)
        self.mail = Mailbox(self.loop.selector)
        self.messages = Messages()
        paths = config.host.paths
        self.outlook = Outlook(config.node, config.peer, config.host.postgres.free * MIB)
        self.look = Look()
        #: what heartbeat was told last; read from any thread
        self.told = Facts()
        self.care = Care(config.peer, config.host.postgres.free * MIB)
        self._looking = threading.Lock()
        self.role: Role | None = None
        self.heartbeat_status: dict[str, object] = {}
        self.alive_at = boottime()
        self._asked_at = 0.0
        self._was_silent = self._was_calm = False
        self._findings = Findings({})
        #: of a look that told nothing new
        self._unseen: Findings | None = None
        self._primary: bool | None = None
        self._fenced = False
        self.link: HeartbeatLink | LinuxHaLink = (
            LinuxHaLink(lambda: self.config, self.mail, self, self.facts, self.peer_word, self.messages.alarm)
            if config.host.linux_ha.cl_status
            else HeartbeatLink(
                paths.heartbeat_run / "control", self.loop, self, self.facts, lambda: self.config.site.timing.report_period
            )
        )
        self.role_lease = RoleLease(self.link, lambda: self.config)
        self.copier = Copier(lambda: self.config, self.messages.alarm)
        self.peer = Peer(lambda: self.config, keys, self, boottime, {SUBSYSTEM: self.copier.forward})
        self.worker = Worker(database, self.peer, self, boottime)
        self.monitor = Monitor(database, lambda: self.worker.carried, self.seen, self.calm, lambda: self.worker.busy, boottime)
        self.lease = Lease(
            database,
            loop_alive=lambda: self.alive_at,
            role_until=self.role_lease.until,
            allowance=self.role_lease.allowance,
            primary=lambda: self._primary,
            alone=self.role_lease.alone,
            report=lambda text: self.mail.post(lambda: self.messages.alarm("fence", text)),
            clock=boottime,
        )
        self.planner = Planner(
            JournalFile(paths.state / "journal"), Steps(lambda: self.config, self.copier.place), self, boottime
        )
        self.role_change = RoleChange(self.planner, self.loop.call_after)
        self.manager_watch = ManagerWatch(lambda: self.config.host, self._alarm_soon("manager"), boottime)
        self.stock = Stock(
            lambda: self.database.inventory(),
            self.peer.inventory,
            lambda alarms: self.mail.post(lambda: self._alarms(alarms)),
            boottime,
        )
        self.data_fence = DataFence(self)
        self.trail = Trail()
        self.status_file = StatusFile(paths.etc / "ha_manager_status")
        self.schedule = Schedule()
        self.requests = Requests(self)
        self.control = ControlServer(paths.run / "control", self.loop.selector, self.requests.handlers())

    # --- life -------------------------------------------------------------------------------------------------------------

    def run(self, own: service.Service) -> int:
        own.register(self.loop.selector, self.on_signal)
        self.threads.be_on_time()
        self.database.attach()
        self.lease.turn()
        self.database.reports.told = lambda text: self.replication("kept", text)
        self.database.count_reports()
        for name, body in (
            ("worker", self.worker.run),
            ("monitor", self.monitor.run),
            ("keeper watch", self.monitor.watch),
            ("lease", self.lease.run),
            ("planner", self.planner.run),
            ("manager watch", self.manager_watch.run),
        ):
            self.threads.start(name, body)
        self.loop.call_after(0.0, self._tick if isinstance(self.link, LinuxHaLink) else self.turned)
        gc.freeze()  # what has been loaded stays: it is not looked through again and again
        self.link.start()
        self.loop.call_after(0.0, own.ready)
        # The session's libraries take 0.1 s to load: heartbeat hears of us first.
        self.loop.call_after(0.3, self._start_peer)
        self.loop.call_after(1.0, self._obey)
        self.loop.run()
        self._end()
        return 0

    def _obey(self) -> None:
        """What of module.xml `ha start` alone does is told. ``<ha enabled="0"/>``: `ha stop`, in a process of its own, ends
        this one, too."""
        self.messages.alarm("module.xml", unapplied(self.config, self.cluster))
        if not self.config.site.enabled:
            log.warning("module.xml says that HA is off for this pair: it is turned off on this server")
            self.beside("turning off", turningoff.begin_elsewhere)

    def _start_peer(self) -> None:
        self.threads.start("peer", self.peer.run)
        self.threads.start("peer server", self.peer.listen)
        self.threads.start("stock", self.stock.run)
        self.threads.start("files", self.copier.run)
        self.threads.start("schedule", self._start_schedule)
        self.loop.call_after(2.0, gc.freeze)

    def _start_schedule(self) -> None:
        site = self.config.site
        self.schedule.start(
            {
                "heartbeat": (site.heartbeat_cmd_interval, lambda: self.mail.post(self.on_poll)),
                "passive": (site.passive_status_interval, self.peer.wake),
            }
        )

    def _end(self) -> None:
        """A restart leaves keeper and Postgres alone; without heartbeat nobody will come back for them: stop."""
        orphaned = not self.link.connected
        self.link.end()
        self.status_file.write(self.requests.last_lines())
        self.control.close()
        for part in (
            self.worker,
            self.monitor,
            self.lease,
            self.planner,
            self.manager_watch,
            self.peer,
            self.schedule,
            self.stock,
            self.copier,
        ):
            part.end()
        try:
            if orphaned:
                self.database.make_stopped(immediate=False, limit=STOP_LIMIT)
            self.database.release()
        except HaError as wrong:
            log.error("at the end: %s", wrong)

    # --- the main loop ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Linux-HA's link has no beat of its own; that to our heartbeat has one, connected or not."""
        self.loop.call_after(TICK, self._tick)
        self.turned()

    def turned(self) -> None:
        """link.Listener: whoever is awake looks around, too."""
        self.alive_at = now = boottime()
        want = self.link.want
        if want is not None and not self._fenced and (late := self.role_lease.late(now)) > 0:
            self._fence(want, late)
        self.peer.silent(self.link.silent)
        if self.link.silent and not self._was_silent:
            self.monitor.nudge()  # what replication still delivers is a sign of service, or none
        self._was_silent = self.link.silent
        if self._unseen is not None:
            findings, self._unseen = self._unseen, None
            self._note_look(findings)
            if isinstance(self.link, LinuxHaLink):
                self.link.report()  # it has no beat of its own that would tell what changes meanwhile
        self.punctual.look()
        if self.link.connected and now - self._asked_at >= (STATUS_PERIOD if self._was_calm and not self.link.silent else TICK):
            self._asked_at = now
            self.link.request("status", {}, self.on_status)
        phase, epoch = (want.phase, want.epoch) if want else (Phase.WAITING, Epoch())
        self.copier.update(self.role, epoch, self.planner.states, phase is Phase.PREPARING, self.loop.selector)

    def calm(self) -> bool:
        """Nothing changes here, and the peer is heard: everything may be looked at less often. Any thread."""
        want = self.link.want
        heard = self.link.connected and not self.link.silent and self.config.site.timing.warntime >= CALM
        return heard and want is not None and is_calm(want, self.worker.carried, self.look.observation, self.config.peer)

    def _fence(self, want: Want, late: float) -> None:
        """Heartbeat is silent beyond its allowance: a primary ends, and is started again only when heartbeat says so."""
        self._fenced = True
        because = f"heartbeat is silent, {late * 1000:.0f} ms beyond its role lease and the restart allowance"
        self.messages.alarm("heartbeat", f"{because}: Postgres is stopped")
        self.worker.want(Want(0, Phase.WAITING, want.epoch, Postgres.STOPPED, stop=Stop.IMMEDIATE, because=because))
        self.link.want = None

    def on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP:
                try:
                    self.reload()
                except HaError as wrong:
                    refused = f"the new configuration is refused, the old one stays: {wrong}"
                    if self.messages.alarms.get("configuration") == refused:
                        log.warning("%s", refused)  # asked again, and told again
                    self.messages.alarm("configuration", refused)
            case signal.SIGUSR1:
                asked = self.link.request("standby", {"by": "SIGUSR1", "force": False}, self._on_failover)
                if not asked:
                    log.error("no failover: %s", self.link.why)
            case _:
                self.loop.stop()

    def _on_failover(self, answer: dict[str, object]) -> None:
        log.warning("failover asked by SIGUSR1: %s", answer.get("text") or answer.get("error"))

    def reload(self) -> list[str]:
        """Read everything again; apply what differs. Returns what only a restart applies. Raises HaError, changing nothing."""
        new = load(addresses(), module_xml=self.config.module_xml, conf=self.config.conf)
        renewed = self.database.renew_password(replication_password(self._keys))
        old, self.config = self.config, new
        self.messages.alarm("configuration", "")
        if renewed or (old.peer_ip, old.site.port, old.peer) != (new.peer_ip, new.site.port, new.peer):
            self.peer.reset()
        if renewed:
            self.worker.settle_again()
        self.stock.nudge()
        self.copier.reload()
        if old.site != new.site:
            self.threads.start("schedule", self._start_schedule)
        self._obey()
        later = [NEEDS_THE_PEER] if old.fence != new.fence else []
        if old.of_heartbeat != new.of_heartbeat:
            later.append(NEEDS_HA_START)
        if _fixed(old) != _fixed(new):
            later.append("paths, names, Postgres's place and [linux-ha] need `/etc/init.d/ha_manager restart`")
        log.info("configuration read again: %s", "; ".join(later) or ("applied" if old != new else "nothing has changed"))
        return later

    # --- link.Listener ------------------------------------------------------------------------------------------------------

    def linked(self) -> None:
        self._greeting.end()
        self.worker.new_link()
        self.messages.alarm("heartbeat", "")
        self.role_change.forget()

    def unlinked(self, because: str) -> None:
        log.warning("no link to heartbeat: %s", because)

    def wanted(self, want: Want) -> None:
        if self._fenced:
            self._fenced = False
            self.messages.alarm("heartbeat", "")
            self.messages.alarm("fence", "")
        if want.postgres is Postgres.PRIMARY:
            self._primary = True
        self._was_calm = False
        self.worker.want(want)
        self.lease.nudge()
        self.peer.ask_stand_down(want.ask_stand_down)
        role = ROLE_OF[want.phase]
        if role is not None and self.role_change.wanted(want):
            if role is not self.role:
                self.messages.role(role.value, want.because)
            self.role = role
        self.write_status()

    def facts(self) -> Facts:
        """In the main loop; what it said last is ``told``."""
        self.told = self.outlook.facts(
            self.link.want, self.worker.carried, self.look, self.peer.signs, boottime(), self.lease.trouble
        )
        return self.told

    def on_status(self, answer: dict[str, object]) -> None:
        if answer.get("ok"):
            self.heartbeat_status = answer
            self.data_fence.look(answer, boottime())

    def heartbeat_says(self) -> dict[str, object]:
        """The latest status of whoever decides; Linux-HA's is put together here."""
        said = self.link.status() if isinstance(self.link, LinuxHaLink) else self.heartbeat_status
        return {name: value for name, value in said.items() if name not in ("id", "ok")}

    def on_poll(self) -> None:
        """Every heartbeat_cmd_interval (Trustwave §2.1): what only changes slowly."""
        self.write_status()

    # --- monitor, worker and peer: called from their threads ------------------------------------------------------------------

    def seen(self, look: Look) -> None:
        with self._looking:
            if look.at < self.look.at:
                return  # begun before what a step has proved meanwhile
            self.look = look
            self._take(look)

    def _take(self, look: Look) -> None:
        observation = look.observation
        if observation.state == "running" and observation.answers:
            want = self.link.want
            promoting = want is not None and want.postgres is Postgres.PRIMARY
            self._primary = promoting or not observation.in_recovery
        elif observation.state == "stopped":
            self._primary = False
        wanted = self.link.want
        carried_out = wanted is not None and look.link == self.worker.carried.link and look.serial >= wanted.serial
        findings = self.care.look(wanted, look.proven if carried_out else -1, observation, boottime())
        self.worker.look(observation, findings.remedies)
        same, self._findings = findings == self._findings, findings
        if same and self._was_calm and self.calm():
            self._unseen = findings  # nothing new: no reason to wake the main loop up, which turns in a moment
        else:
            self.mail.post(lambda: self._on_look(findings))

    def _on_look(self, findings: Findings) -> None:
        self._unseen = None
        self._note_look(findings)
        self.link.report()
        was, self._was_calm = self._was_calm, self.calm()
        if not (was and self._was_calm):
            self.write_status()

    def _note_look(self, findings: Findings) -> None:
        seen = self.look.observation
        self._alarms(findings.alarms)
        if seen.answers and not seen.in_recovery:
            self.trail.note(seen.at, seen.lsn, seen.beyond)
        else:
            self.trail.forget()
        self.role_change.looked(self.look, self.worker.carried, self.link.want)

    def _alarms(self, alarms: dict[str, str]) -> None:
        for name, text in alarms.items():
            self.messages.alarm(name, text)

    def proved(self, look: Look) -> None:
        """worker.Events."""
        self.seen(look)

    def changed(self) -> None:
        """worker.Events."""
        self.monitor.soon(1.0)
        self.mail.post(self._on_changed)

    def _on_changed(self) -> None:
        self.link.report()
        self.write_status()

    def replication(self, event: str, text: str) -> None:
        """worker.Events."""
        match event:
            case "started":
                self.mail.post(lambda: self.messages.replication_started(text))
            case "initialised":
                self.mail.post(lambda: self.messages.replication_initialised(text))
            case "kept":
                note = divergence.newest(self.cluster.diverged_dir) or text
                if note != text:
                    log.warning("%s", text)
                self.mail.post(lambda: self.messages.alarm("diverged", note))
            case "mended":
                self.mail.post(lambda: self.messages.alarm("mended", text))
            case _:
                log.info("%s", text)

    def report(self, text: str, alarm: str, raised: bool) -> None:
        """planner.Reporter."""
        if not alarm:
            log.info("%s", text)
            return
        self.mail.post(lambda: self.messages.alarm(alarm, text if raised else ""))

    def _alarm_soon(self, name: str) -> Callable[[str], None]:
        return lambda text: self.mail.post(lambda: self.messages.alarm(name, text))

    # --- peer.Home: called from the session's threads -------------------------------------------------------------------------

    def own(self) -> Own:
        want = self.link.want
        epoch, phase = (want.epoch, want.phase) if want else (Epoch(), Phase.WAITING)
        alive = self.link.connected and boottime() < self.role_lease.until()
        postgres = observed_state(self.look.observation, self.worker.carried).value
        own = Own(
            self.config.node, epoch, phase, alive, postgres, __version__, copying=self.worker.carried.copying,
            tls=self.look.observation.tls, because=self.told.because if not self.told.healthy else "",
        )  # fmt: skip
        if isinstance(self.link, HeartbeatLink):
            return own
        solo = self.link.record.solo
        return replace(own, solo=solo, proven=-1 if solo else self.worker.carried.proven, decider="linux-ha")

    def lacks_standby(self) -> bool:
        return lacks_standby(self.told, self.heartbeat_status)

    def peer_word(self) -> PeerWord | None:
        """For ``linuxha``. Any thread."""
        limit = 3.0 * self.config.site.passive_status_interval + 3.0
        return peer_word(self.peer.state, self.peer.told_at, limit, ROLE_OF)

    def identity(self) -> Identity:
        return self.database.identity(IDENTITY_LIMIT)

    def inventory(self) -> dict[str, Any]:
        return self.stock.own(FRESH).as_json()

    def port(self) -> int:
        return self.cluster.port

    def hand_over(self, asker: str, because: str, within: float) -> Epoch:
        return self.requests.hand_over(asker, because, within)

    def signs_changed(self) -> None:
        self.mail.post(self.link.report)

    def reachable(self, why: str) -> None:
        if not why:
            self.stock.nudge()
            self.worker.try_again()
        self.mail.post(self.write_status)
        if self.role is Role.ACTIVE:
            self.mail.post(lambda: self.messages.passive_unreachable(why))

    # --- datafence.Home ------------------------------------------------------------------------------------------------------

    def beside(self, name: str, body: Callable[[], None]) -> None:
        self.threads.start(name, body)

    def soon(self, call: Callable[[], None]) -> None:
        self.mail.post(call)

    def ask_heartbeat(self, do: str, then: Callable[[dict[str, object]], None]) -> bool:
        return self.link.request(do, {}, then)

    def alarm(self, name: str, text: str) -> None:
        self.messages.alarm(name, text)

    # --- for others -----------------------------------------------------------------------------------------------------------

    def write_status(self) -> None:
        self.status_file.write(self.requests.status_lines())


def _fixed(config: Config) -> tuple[object, ...]:
    return (config.host.postgres, config.host.paths, bool(config.host.linux_ha.cl_status), config.node, config.peer)


def body(own: service.Service, greeting: Greeting, module_xml: Path = MODULE_XML, conf: Path = CONF) -> int:
    """Everything from reading the configuration to the end of the process. Raises ConfigError."""
    for handler in logging.getLogger().handlers:
        handler.lock = threading.RLock()  # this daemon logs from several threads
    for library in ("apscheduler", "paramiko"):
        logging.getLogger(library).setLevel(logging.WARNING)
    config = load(addresses(), module_xml=module_xml, conf=conf)
    if not config.peer:
        remedy = "exchange keys: `ha keys show` there, `ha keys accept` with that line here; or name it in module.xml"
        raise ConfigError("the peer's name is not known", file=config.host.paths.keys / "peer.pub", remedy=remedy)
    keys = Keys(config.host.paths.keys)
    cluster = cluster_of(config)
    return Daemon(config, cluster, database_of(config, cluster, keys), keys, greeting).run(own)
