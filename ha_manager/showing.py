"""``ha show``: all of it, for an operator at three in the morning.

Promise: works with whatever still answers: a process that doesn't is named, and the rest is shown. The first line says
whether there is something to do. Source: house style, 11; docs/protocols.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ha_manager.config import Config
from ha_manager.local import role_line
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError


def collect(config: Config) -> dict[str, Any]:
    """What heartbeat, ha_manager and the Manager say; ``errors`` holds those that don't answer."""
    found: dict[str, Any] = {"node": config.node, "peer": config.peer, "virtual_ip": config.site.virtual_ip, "errors": {}}
    line = role_line(config.host.paths.heartbeat_run)
    fresh = line is not None and line.expires > boottime()
    found["role"] = line.role if line is not None and fresh else "unknown"
    for name, folder, do in (
        ("heartbeat", config.host.paths.heartbeat_run, "status"),
        ("ha_manager", config.host.paths.run, "show"),
        ("manager", config.host.paths.manager_run, "status"),
    ):
        found[name] = _ask(folder, name, do, found["errors"])
    explained = _ask(config.host.paths.heartbeat_run, "heartbeat", "explain", {})
    found["explain"] = explained.get("lines", [])
    found["alarms"] = _alarms(found)
    return found


def _ask(folder: Path, name: str, do: str, errors: dict[str, str]) -> dict[str, Any]:
    try:
        with Client(folder / "control", 3.0, name=name) as client:
            return client.request(do)
    except ControlError as wrong:
        errors[name] = str(wrong)
        return {}


def _alarms(found: dict[str, Any]) -> dict[str, str]:
    alarms: dict[str, str] = {}
    for name in ("heartbeat", "ha_manager", "manager"):
        said = found[name].get("alarms")
        if isinstance(said, dict):
            alarms |= {f"{name}: {key}": str(text) for key, text in said.items()}
    return alarms


def print_all(found: dict[str, Any]) -> None:
    """In words, with colour where the terminal has it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    troubles = [*found["errors"].values(), *found["alarms"].values()]
    state = f"{len(troubles)} thing{'s' if len(troubles) != 1 else ''} to look at" if troubles else "all is well"
    console.print(f"{found['node']} is {found['role']}; {state}", style="bold red" if troubles else "bold green")
    for text in troubles:
        console.print(f"  ! {text}", style="red", markup=False)
    for sentence in found["explain"]:
        if not sentence.startswith("Alarm:"):
            console.print(f"  {sentence}", markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _rows(found):
        table.add_row(f"  {name}", value)
    console.print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    heartbeat, manager = found["heartbeat"], found["ha_manager"]
    rows = [("peer", _peer(found)), ("virtual IP", _vip(found))]
    for title, key in (("links", "links"), ("ping nodes", "ping_nodes")):
        if heartbeat.get(key):
            rows.append((title, ", ".join(f"{name} {state}" for name, state in heartbeat[key].items())))
    if manager:
        database = manager.get("database", {})
        rows.append(("Postgres", f"{manager['postgres']}, timeline {database.get('timeline')}, {_disk(database)}"))
        rows.append(("replication", manager["replication"] + (f": {manager['trouble']}" if manager["trouble"] else "")))
        session = manager.get("session", {})
        rows.append(("peer's ha_manager", "connected" if session.get("connected") else f"not connected: {session.get('why')}"))
        left = [f"{name} {state}" + (f" ({error})" if error else "")
                for name, (state, error) in manager.get("plan", {}).get("steps", {}).items() if state != "done"]  # fmt: skip
        rows.append(("last role change", ", ".join(left) or "every step is done"))
    processes = found["manager"].get("processes", [])
    if processes:
        rows.append(("processes", ", ".join(f"{row['name']} {row['state']}" for row in processes)))
    return rows


def _peer(found: dict[str, Any]) -> str:
    state = found["heartbeat"].get("peer_state", {})
    if not state:
        return str(found["peer"])
    ago = state.get("heard_ago")
    heard = "never heard" if ago is None else ("in contact" if state.get("contact") else f"last heard {ago:.1f} s ago")
    return f"{found['peer']}: {state.get('phase')}, {heard}, {'fit' if state.get('fit') else 'not fit'} to take over"


def _vip(found: dict[str, Any]) -> str:
    if not found["virtual_ip"]:
        return "none"
    held = found["heartbeat"].get("vip", {}).get("held")
    return f"{found['virtual_ip']}, {'held here' if held else 'not held here'}"


def _disk(database: dict[str, Any]) -> str:
    free, total = database.get("disk_free", -1), database.get("disk_total", -1)
    return f"disk {free // 2**30} of {total // 2**30} GiB free" if free >= 0 < total else "disk unknown"
