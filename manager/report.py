"""What ``status`` says: the state of every process, for people and programs.

Promise: built from what is known, asks nobody, never fails. Source: docs/protocols.md, "Manager".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.durable import read_json
from runtime.errors import HaError

from .model import State
from .paths import Paths
from .roles import Entry

if TYPE_CHECKING:
    from .supervisor import Supervisor


def status(supervisor: Supervisor) -> dict[str, Any]:
    """``mode, leaving, refused, warnings, roles: [{name, enabled}], processes: […], alarms: {name: text}``."""
    configuration = supervisor.configuration
    entries = supervisor.roles.entries
    roles: dict[str, bool] = {}
    for entry in entries.values():
        roles[entry.process.role] = roles.get(entry.process.role, False) or entry.enabled
    return {
        "mode": str(configuration.mode) if configuration else "",
        "leaving": supervisor.roles.leaving,
        "refused": supervisor.refused,
        "warnings": list(configuration.warnings) if configuration else [],
        "roles": [{"name": name, "enabled": enabled} for name, enabled in roles.items()],
        "processes": [_process(supervisor, entry) for entry in entries.values()],
        "alarms": supervisor.alarms,
        "receiver": receiver(supervisor.paths),
    }


def receiver(paths: Paths) -> dict[str, Any]:
    """What it tells of itself; {} if it has not begun."""
    try:
        told = read_json(paths.receiver, {})
    except (HaError, OSError):
        return {}
    return told if isinstance(told, dict) else {}


def receiver_alarms(paths: Paths) -> dict[str, str]:
    told = receiver(paths)
    wrong = told.get("wrong")
    found = {"notifier": str(told.get("trouble", ""))}
    if isinstance(wrong, dict):
        found |= {f"applying {name}": str(text) for name, text in wrong.items()}
    return found


def _process(supervisor: Supervisor, entry: Entry) -> dict[str, Any]:
    now = supervisor.loop.now()
    return {
        "name": entry.process.name,
        "role": entry.process.role,
        "state": str(entry.state),
        "wanted": supervisor.roles.wants(entry),
        "enabled": entry.enabled,
        "stopped_by_operator": entry.held,
        "pid": entry.pid if entry.state in (State.RUNNING, State.STOPPING, State.KILLING) else 0,
        "seconds": round(now - entry.since, 3),
        "restarts": entry.restarts,
        "retry_in": round(max(0.0, entry.retry_at - now), 3) if entry.state is State.WAITING else None,
        "alarm": entry.alarm,
        "because": because(entry),
    }


def because(entry: Entry) -> str:
    """The sentence that explains the state; of an operator's stop also how it ends."""
    if entry.held and entry.state is State.STOPPED:
        again = f"until manager-ctl start {entry.process.name}, manager-ctl reload or the next boot"
        return f"stopped by an operator {again}"
    return entry.because
