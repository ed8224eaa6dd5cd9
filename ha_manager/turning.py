"""Turning HA on on this server: what ``ha start`` and ``ha restart`` do, and how heartbeat is asked.

Promise: ``start`` checks everything before it changes anything, and may be run again at any time. Each step is told through
``say``. ``ha stop`` is in ``turningoff``. Source: Trustwave §2.2.2; design §6.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_manager.cluster import PostgresConfig
from ha_manager.config import NEEDS_HA_START, Config, Reachable, load
from ha_manager.database import Database
from ha_manager.host import CONF
from ha_manager.local import addresses, interface_of
from ha_manager.site import MODULE_XML, Fence
from ha_manager.wiring import cluster_of, database_of
from heartbeat import fence_lines, haresources
from heartbeat.scripts import SCRIPT_FOLDERS, script_of
from manager.modulefile import role_enabled, set_role
from runtime import durable, hafiles, modulexml, pidfile
from runtime.commands import run
from runtime.control import Client
from runtime.errors import ConfigError, ControlError, HaError, Refused
from runtime.keys import Keys
from runtime.proctree import kill_tree

Say = Callable[[str], None]

HEARTBEAT_KEY = "heartbeat authkeys"
START_LIMIT = 60.0
#: for reading heartbeat's files (seconds)
CHECK_LIMIT = 10.0
#: how long ``start`` watches what becomes of it before it says what to expect (seconds)
WATCH = 15.0
ROLE = "HA"
#: in ha_manager's state folder while ``ha stop`` is at work: ``active`` or ``passive``
TURNING_OFF = "turning-off"


@dataclass(frozen=True)
class Checked:
    """Everything that HA on this server needs, checked."""

    config: Config
    cluster: PostgresConfig
    database: Database
    files: hafiles.HaFiles
    warnings: tuple[str, ...]


def check(module_xml: Path = MODULE_XML, conf: Path = CONF) -> Checked:
    """All configuration of this server, without changing anything. Raises ConfigError: file, line, remedy."""
    config = load(addresses(), module_xml=module_xml, conf=conf)
    keys = Keys(config.host.paths.keys)
    keys.show()
    pinned = keys.required_peer()
    if config.peer != pinned.node:
        remedy = f"correct its name in {config.module_xml}, or accept the key of the right server: `ha keys accept`"
        what = f"the pinned key belongs to {pinned.node}, the peer is called {config.peer}"
        raise ConfigError(what, file=config.host.paths.keys / "peer.pub", remedy=remedy)
    cluster = cluster_of(config)
    database = database_of(config, cluster, keys)
    warnings = tuple(database.check())
    for path in (config.host.paths.commander, passive_module()):
        role_enabled(path, ROLE)
    if on_linux_ha(config):
        _refuse_second_heartbeat()
    files = _files(config, cluster, keys.derive(HEARTBEAT_KEY).hex())
    _check_agents(config, files)
    return Checked(config, cluster, database, files, warnings + advice_on(config))


def unapplied(config: Config, cluster: PostgresConfig) -> str:
    """What of module.xml our heartbeat has not got, in words; only `ha start` brings it there. "" for nothing."""
    try:
        differs = not on_linux_ha(config) and hafiles.differ(_files(config, cluster, ""), config.host.paths.heartbeat_etc)
    except (HaError, OSError):
        return ""  # an address that is not here just now, say: others tell
    return NEEDS_HA_START if differs else ""


def _files(config: Config, cluster: PostgresConfig, key: str) -> hafiles.HaFiles:
    site = config.site
    first, second = (config.node, config.peer) if config.is_default_active else (config.peer, config.node)
    return hafiles.HaFiles(
        nodes=(first, second),
        links=tuple((interface_of(own), peer) for own, peer in config.links),
        key=key,
        virtual_ip=site.virtual_ip,
        resources=site.resources,
        ping_nodes=site.ping_nodes,
        ping_quorum=site.ping_quorum,
        profile=site.profile,
        timing=site.timing,
        synchronous=site.synchronous,
        solo=site.solo,
        maximum_lag=site.maximum_lag,
        boot_alone=site.boot_alone,
        vip_port=cluster.port,
        udp_port=config.host.heartbeat_port,
        fences=tuple((_runs(each, first, second), f"{each.agent} {each.options}".rstrip()) for each in site.fences),
        arp_check=site.arp_check,
        watchdog=site.watchdog,
    )


def _runs(fence: Fence, default_active: str, default_passive: str) -> str:
    """Who runs the agent: the server that it doesn't switch off."""
    return {"default_active": default_passive, "default_passive": default_active}.get(fence.of, "*")


def _check_agents(config: Config, files: hafiles.HaFiles) -> None:
    """Heartbeat refuses to start with an agent that isn't there; better to refuse before anything was changed."""
    lines = []
    for fence, (node, words) in zip(config.site.fences, files.fences, strict=True):
        agent, *options = words.split()
        lines.append(fence_lines.read_line(node, agent, options, str(config.module_xml), fence.line))
    fence_lines.agents(lines, str(config.module_xml), config.node, config.peer)


def also_there(peer: str) -> str:
    """What ha_manager warns of has just been done here."""
    return f"module.xml has changed: {peer} needs the same file, and `ha start` there"


def advice_on(config: Config) -> tuple[str, ...]:
    """What is no mistake and would be missed only when it is needed."""
    advice = []
    for word in config.site.resources:
        for resource in haresources.parse(f"node {word}")[0].resources:
            if haresources.virtual_address(resource) is None and not script_of(resource):
                advice.append(
                    f"there is no script {resource.script} in {', '.join(SCRIPT_FOLDERS)}: {word} can't be started here"
                )
    if config.site.watchdog and not Path(config.site.watchdog).exists():
        advice.append(
            f"there is no {config.site.watchdog} (`modprobe softdog` makes one): nothing watches over heartbeat's loop"
        )
    if not config.site.enabled:
        advice.append('HA is off for this pair (<ha enabled="0"/>): `ha start` refuses')
    if not config.site.ping_nodes:
        advice.append("module.xml has no ping_node: a server that lost its network can't tell that from a dead peer")
    if not config.site.links:
        advice.append("module.xml has no further link: one broken cable looks like a dead peer")
    return tuple(advice)


def passive_module() -> Path:
    return Path("/etc/Manager/commander_passive_module.xml")


def on_linux_ha(config: Reachable) -> bool:
    """A real Linux-HA heartbeat decides here; it is started, stopped and configured by others."""
    return bool(config.host.linux_ha.cl_status)


def _refuse_second_heartbeat(path: Path = Path("/etc/Manager/manager.conf.xml")) -> None:
    for process in modulexml.parse(path).children("role/process"):
        if process.text("name", "") == "heartbeat":
            what = "the Manager would start our heartbeat beside Linux-HA's ([linux-ha] in ha_manager.conf)"
            raise process.error(what, remedy="remove this <process …/>; Debian starts and stops its heartbeat itself")


# --- on ---------------------------------------------------------------------------------------------------------------------


def start(say: Say) -> None:
    """Check, configure, start. Raises HaError; ConfigError means that nothing was changed."""
    checked = check()
    config = checked.config
    if not config.site.enabled:
        remedy = 'turn HA on in the policy server and commit, or write <ha enabled="1"/>'
        raise ConfigError("<ha> attribute enabled: HA is off for this pair", file=config.module_xml, remedy=remedy)
    for warning in checked.warnings:
        say(f"warning: {warning}")
    say("configuration is in order")
    durable.remove_durably(config.host.paths.state / TURNING_OFF)
    changed = _heartbeat_files(checked, say)
    checked.database.configure()
    say("Postgres is configured for replication")
    for path in (config.host.paths.commander, passive_module()):
        set_role(path, ROLE, True)
    _start_manager(config, changed, say)
    _await_heartbeat(config)
    say("ha_manager runs" if on_linux_ha(config) else "heartbeat and ha_manager run")
    # One that ran before knows nothing of what has changed since, of a new key of the peer for instance.
    with Client(config.host.paths.run / "control", START_LIMIT, name="ha_manager") as client:
        for later in client.request("reload").get("later", []):
            say(also_there(config.peer) if later == NEEDS_HA_START else f"warning: {later}")
    _watch(config, say)


def _heartbeat_files(checked: Checked, say: Say) -> list[Path]:
    if on_linux_ha(checked.config):
        say("heartbeat is Linux-HA's: its files are left alone")
        return []
    folder = checked.config.host.paths.heartbeat_etc
    if (folder / "ha.cf").exists() and hafiles.is_ours(folder):
        # takes no restart: ha_manager tells heartbeat of it
        hafiles.set_fence(folder, *checked.config.fence)
    changed = hafiles.write(checked.files, folder)
    words = f"{', '.join(path.name for path in changed)} written" if changed else "files are as they should be"
    say(f"heartbeat: {words}")
    return changed


def _start_manager(config: Config, changed: list[Path], say: Say) -> None:
    control = config.host.paths.manager_run / "control"
    if pidfile.find(config.host.paths.manager_run / "manager.pid") is None:
        say("starting the Manager")
        run([*config.host.commands.manager_init, "start"], timeout=START_LIMIT)
    with Client(control, START_LIMIT, name="the Manager") as manager:
        if changed and _running(config):
            say("restarting heartbeat within its lease: its configuration has changed")
            restart_heartbeat(config)
        try:
            manager.request("reload", {"passive": manager.request("status").get("mode") == "passive"})
        except Refused as wrong:
            say(f"warning: the Manager says: {wrong}")  # some other role: that is not ours to judge
        manager.request("start", {"name": ROLE})


def _running(config: Reachable) -> bool:
    return pidfile.find(config.host.paths.heartbeat_run / "heartbeat.pid") is not None


def heartbeat_refuses(config: Reachable) -> str:
    """Why our own heartbeat, ended now, would not start again with what is in its files; "" if it would."""
    if pidfile.find(config.host.paths.heartbeat_run / "heartbeat.pid") is None:
        return ""
    done = run([sys.executable, "-P", "-m", "heartbeat.daemon", "--check"], timeout=CHECK_LIMIT, check=False)
    return done.stderr.strip() if done.code == 6 else ""


def restart_heartbeat(config: Reachable) -> None:
    """kill -9, as in the reference: it keeps its role if it is back within its lease. The Manager starts it again at once."""
    with (
        contextlib.suppress(ControlError),
        Client(config.host.paths.manager_run / "control", 2.0, name="the Manager") as manager,
    ):
        manager.request("expect", {"name": "heartbeat", "because": "ha restart"})  # else it would be an alarm
    found = pidfile.find(config.host.paths.heartbeat_run / "heartbeat.pid")
    if found is not None:
        kill_tree(found.pid, found.start)


def _await_heartbeat(config: Config) -> None:
    end = time.monotonic() + START_LIMIT
    for name in ("ha_manager",) if on_linux_ha(config) else ("heartbeat", "ha_manager"):
        folder = config.host.paths.heartbeat_run if name == "heartbeat" else config.host.paths.run
        while True:
            try:
                with Client(folder / "control", 2.0) as client:
                    client.request("ping")
                break
            except ControlError as wrong:
                if time.monotonic() > end:
                    raise HaError(f"{name} did not start: {wrong}; `manager-ctl status` and the system log say why") from wrong
                time.sleep(0.1)


def _watch(config: Config, say: Say) -> None:
    """For a few seconds: what becomes of it; then what to expect."""
    end, said = time.monotonic() + WATCH, ""
    while time.monotonic() < end:
        status = heartbeat(config, "status")
        text = outlook(config, status)
        if text != said:
            say(text)
            said = text
        if settled(status):
            return
        time.sleep(0.2)


def settled(status: dict[str, Any]) -> bool:
    """Nothing more is to be expected without somebody doing something."""
    if status["role"] == "active":
        return status["phase"] == "active" and not status["solo"]
    return bool(status["fit"])


def outlook(config: Config, status: dict[str, Any]) -> str:
    """One sentence: what this server is and what it waits for."""
    peer, state = config.peer, status["peer_state"]
    if status["role"] == "active":
        if not status["solo"]:
            return f"this server is active; every commit waits for {peer}"
        waits = (
            f"{peer} is not in sync yet" if state["contact"] else f"{peer} is not heard; `ha start` there makes it the passive"
        )
        return f"this server is active and runs solo: {waits}"
    if status["fit"]:
        return f"this server is passive and in sync: it takes over if {peer} dies"
    if not state["contact"]:
        return f"waiting for the peer {peer} (`ha start` there); if it is gone for good: ha activate"
    if state["phase"] in ("active", "preparing"):
        return f"this server is passive; {peer} is active, its database is being followed or copied"
    return f"{peer} is heard ({state['phase']}); the two decide who is active"


def heartbeat(config: Reachable, do: str, fields: dict[str, Any] | None = None, timeout: float = 5.0) -> dict[str, Any]:
    """Ask heartbeat directly; where Linux-HA's decides, ha_manager, in the same words. Raises HaError."""
    if on_linux_ha(config):
        return _linux_ha(config, do, fields, timeout)
    with Client(config.host.paths.heartbeat_run / "control", timeout) as client:
        return client.request(do, fields)


def _linux_ha(config: Reachable, do: str, fields: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    asked = {"status": "show", "standby": "failover", "activate": "activate"}.get(do)
    if asked is None:
        raise HaError(f"a Linux-HA heartbeat knows no {do}; its log, and `cl_status`, tell of it")
    with Client(config.host.paths.run / "control", max(timeout, 40.0), name="ha_manager") as client:
        answer = client.request(asked, fields)
    return dict(answer["heartbeat_says"]) if do == "status" else answer
