"""Turning HA off on this server: what ``ha stop`` does, and ``<ha enabled="0"/>``.

Promise: the peer is told first, so that it doesn't take over; the active is left with a plain, writable Postgres that nobody
replicates, the passive with a stopped one that starts read-only; Debian's autostart is as it was before HA. What this server
was is written down before anything is changed: killed at any line and run again, it ends the same, and ``ha start`` begins
anew from any of them. A server that may not be the active is never left writable. Each step is told through ``say``. Source:
Trustwave §2.2.2, §4 ("When disabling HA"); design §6.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ha_manager.config import Config, Reach, Reachable, load, reach
from ha_manager.database import Database
from ha_manager.local import addresses
from ha_manager.statusfile import StatusFile
from ha_manager.turning import ROLE, TURNING_OFF, heartbeat, on_linux_ha, passive_module
from ha_manager.wiring import cluster_of, database_of
from heartbeat.store import Store
from manager.modulefile import role_enabled, set_role
from runtime import durable
from runtime.commands import run
from runtime.control import Client
from runtime.errors import ConfigError, ControlError
from runtime.lease import lift_block

Say = Callable[[str], None]
STOP_LIMIT = 60.0
#: the reference's warning
ENSURE = "when disabling HA, ensure that the passive policy server is connected to the active policy server"


def stop(say: Say) -> None:
    """HA off on this server. The peer is told and doesn't take over. Raises HaError."""
    config = _config(say)
    database = database_of(config, cluster_of(config), None)  # keys that can't be used are no reason not to turn HA off
    mark = config.host.paths.state / TURNING_OFF
    if _is_off(config, database, mark):
        say("HA is off on this server already; nothing was changed. `ha start` turns it on")
        return
    active = _was_active(config, mark, say)
    for path in _role_files(config):
        set_role(path, ROLE, False)
    _stop_processes(config, say)
    # The keeper outlives ha_manager: it goes, with Postgres, when the database becomes plain again.
    if active:
        runs = database.unconfigure(start=True, writable=True)
        what = "runs on its own again" if runs else "is stopped (Debian's start.conf says disabled); started, it is on its own"
        say(f"Postgres {what}: writable, not replicated to {config.peer}. HA is off on this server")
        if not on_linux_ha(config):
            say("nobody has the virtual IP now; `ha start` here brings it back")
    elif database.unconfigure(start=False, writable=False):
        say("HA is off on this server; the Postgres that runs here was not started by ha_manager, and goes on")
    else:
        say("Postgres is stopped, its data kept (started by hand or at boot, it is read-only); HA is off on this server")
        say("`ha start` turns it on again")
    lift_block()
    StatusFile(config.host.paths.etc / "ha_manager_status").write(
        {"role": "off", "node": config.node, "peer": config.peer, "replication": "off"}
    )
    for name in ("active", "passive"):
        (config.host.paths.etc / name).unlink(missing_ok=True)
    durable.remove_durably(mark)


def _config(say: Say) -> Config | Reach:
    """A module.xml that can't be used is no reason not to turn HA off."""
    try:
        return load(addresses())
    except ConfigError as wrong:
        say(f"warning: {wrong}")
        return reach(wrong)


def _role_files(config: Reachable) -> tuple[Path, ...]:
    return (config.host.paths.commander, passive_module())


def _is_off(config: Reachable, database: Database, mark: Path) -> bool:
    if mark.exists() or database.configured():
        return False
    return not any(role_enabled(path, ROLE) for path in _role_files(config))


# --- what it was --------------------------------------------------------------------------------------------------------------


def _was_active(config: Reachable, mark: Path, say: Say) -> bool:
    """What this server is, on the disk before anything changes it; what an interrupted ``ha stop`` had found out."""
    said = (durable.read_bytes(mark) or b"").decode().strip()
    if said not in ("active", "passive"):
        said = "active" if _is_active(config, say) else "passive"
        durable.write_durably(mark, f"{said}\n")
    else:
        say(f"going on with an `ha stop` that was interrupted; this server was {said}")
    return said == "active"


def _is_active(config: Reachable, say: Say) -> bool:
    try:
        status = heartbeat(config, "status")
    except ControlError as wrong:
        return _by_record(config, str(wrong), say)
    active = status["role"] == "active"
    if not status["peer_state"]["contact"]:
        say(f"warning: {config.peer} is not connected; {ENSURE}")
        say(
            f"warning: if {config.peer} is alive, it may become active. Turn HA off there, too, before both are started again:"
            " of two databases that have gone on, `ha start` keeps and reports what only the older epoch's holds"
            if active
            else f"warning: {config.peer} does not hear that this server leaves: its commits wait until it goes on alone"
        )
    return bool(active)


def _by_record(config: Reachable, wrong: str, say: Say) -> bool:
    """Heartbeat is gone: its record says whether another server can have become active since."""
    if on_linux_ha(config):
        say(f"warning: ha_manager can't be asked ({wrong}); this server's marker file tells what it was")
        return (config.host.paths.etc / "active").exists()
    record = Store().read_record()
    say(f"warning: heartbeat can't be asked ({wrong}); its record tells what this server was")
    if record.active and not record.solo:
        say(
            f"warning: {config.peer} may have become active since, so Postgres is left stopped and read-only here; {ENSURE}."
            " `ha start` here finds out who is active; after that, `ha stop` again"
        )
    return record.active and record.solo


def _stop_processes(config: Reachable, say: Say) -> None:
    names = ("ha_manager",) if on_linux_ha(config) else ("heartbeat", "ha_manager")
    if "heartbeat" in names:
        say(f"telling {config.peer or 'the other server'} that HA is turned off here, and stopping heartbeat")
    control = config.host.paths.manager_run / "control"
    try:
        with Client(control, 5.0, name="the Manager") as manager:
            for name in names:
                manager.request("stop", {"name": name, "kind": "off"}, timeout=STOP_LIMIT)
    except ControlError as wrong:
        say(f"the Manager does not do it ({wrong}); stopping them directly")
        for name in names:
            run([f"/etc/init.d/{name}", "stop"], timeout=STOP_LIMIT + 10, env={"STOP_KIND": "off"})
    say(" and ".join(names) + (" are stopped" if len(names) > 1 else " is stopped; Linux-HA's heartbeat goes on"))


# --- <ha enabled="0"/> --------------------------------------------------------------------------------------------------------


def begin_elsewhere() -> None:
    """``ha stop`` in a process of its own, which outlives this one: it is what will stop this one."""
    line = "setsid /usr/bin/ha stop 2>&1 </dev/null | logger -p daemon.warning -t 'ha stop' &"
    subprocess.run(["/bin/sh", "-c", line], env={"PATH": os.defpath, "HOME": "/root", "LC_ALL": "C.UTF-8"}, check=False)
