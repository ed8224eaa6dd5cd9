"""``ha show``: all of it, for an operator at three in the morning.

Promise: works with whatever still answers: a process that doesn't is named, and the rest is shown; so too while module.xml or
ha_manager.conf can't be used, which is then the first alarm. The first line says whether there is service and who could take
over; red means that somebody should look now, yellow that the pair is not redundant or that there is a note. Source: house
style, 11; docs/protocols.md.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from ha_manager import explaining
from ha_manager.config import Config, Reach
from ha_manager.local import role_line
from ha_manager.statusfile import NOTES
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError, NotPermitted

_NOTES = tuple(f"ha_manager: {name}" for name in NOTES)


def collect(config: Config | Reach) -> dict[str, Any]:
    """What heartbeat, ha_manager and the Manager say; ``errors`` holds those that don't answer."""
    host, paths = config.host, config.host.paths
    found: dict[str, Any] = {"node": config.node, "peer": config.peer, "virtual_ip": "", "errors": {}, "only_root": False}
    found["configuration"] = "" if isinstance(config, Config) else config.wrong
    line = role_line(paths.heartbeat_run)
    fresh = line is not None and line.expires > boottime()
    found["role"] = line.role if line is not None and fresh else "unknown"
    for name, folder, do in (
        ("heartbeat", paths.heartbeat_run, "status"),
        ("ha_manager", paths.run, "show"),
        ("manager", paths.manager_run, "status"),
    ):
        found[name] = _ask(folder, name, do, found)
    if not fresh:  # without room the role file can't be written; heartbeat says itself
        found["role"] = found["heartbeat"].get("role", "unknown")
    if host.linux_ha.cl_status:
        found["heartbeat"] = found["ha_manager"].get("heartbeat_says", {})
        found["errors"].pop("heartbeat", None)
    found |= {"virtual_ip": config.site.virtual_ip} if isinstance(config, Config) and config.peer else _named(found)
    explained = _ask(paths.heartbeat_run, "heartbeat", "explain", found | {"errors": {}})
    found["explain"] = explained.get("lines", [])
    alarms = _alarms(found)
    found["notes"] = {name: alarms.pop(name) for name in _NOTES if name in alarms}
    found["alarms"] = alarms
    found["replication"] = explaining.data(found)
    return found


def _named(found: dict[str, Any]) -> dict[str, str]:
    """Names and address as the daemons have them."""
    said = found["ha_manager"] or found["heartbeat"]
    named = {name: str(said[name]) for name in ("node", "peer", "virtual_ip") if said.get(name)}
    held = found["heartbeat"].get("vip", {}).get("address")
    return named if "virtual_ip" in named or not held else named | {"virtual_ip": str(held)}


def _ask(folder: Path, name: str, do: str, found: dict[str, Any]) -> dict[str, Any]:
    try:
        with Client(folder / "control", 3.0, name=name) as client:
            return client.request(do)
    except ControlError as wrong:
        found["errors"][name] = str(wrong)
        found["only_root"] = found["only_root"] or isinstance(wrong, NotPermitted)
        return {}


def _alarms(found: dict[str, Any]) -> dict[str, str]:
    alarms: dict[str, str] = {}
    for name in ("heartbeat", "ha_manager", "manager"):
        said = found[name].get("alarms")
        if isinstance(said, dict):
            alarms |= {f"{name}: {key}": str(text) for key, text in said.items()}
    return alarms


def is_off(found: dict[str, Any]) -> bool:
    """HA was turned off here: neither daemon runs, and the Manager does not want them to."""
    rows = {row["name"]: row for row in found["manager"].get("processes", [])}
    stopped = all(name in rows and not rows[name].get("wanted") for name in ("heartbeat", "ha_manager"))
    return stopped and not found["heartbeat"] and not found["ha_manager"]


def headline(found: dict[str, Any]) -> tuple[str, str]:
    """The sentence that matters most, and its colour."""
    node, peer, heartbeat = found["node"], found["peer"], found["heartbeat"]
    state = heartbeat.get("peer_state", {})
    if is_off(found):
        return f"HA is off on {node}; `ha start` turns it on", "yellow"
    known = f"what {node} is now is not known" if found["role"] == "unknown" else f"{node} is {found['role']}"
    if found.get("only_root"):
        return f"{known}; only root is told more", "yellow"
    if not heartbeat:
        return f"{known}, and its heartbeat does not answer", "red"
    if found["role"] == "active":
        if found["ha_manager"].get("postgres", "unknown") not in ("primary", "unknown"):
            return f"{node} is active, but its Postgres takes no writes now: no service", "red"
        if state.get("fit"):
            return f"{node} is active, {peer} is ready to take over", "green"
        return f"{node} is active, but {peer} could not take over", "yellow"
    if heartbeat.get("fit"):
        return f"{node} is passive, ready to take over from {peer}", "green"
    heard = state.get("contact") or "up" in heartbeat.get("links", {}).values()
    if not heard and "held" in heartbeat.get("alarms", {}):
        return f"{node} is not active; {peer} is not heard, but still serves", "yellow"
    if not heard:
        return f"{node} is not active, and hears no other server: there may be no service", "red"
    if state.get("phase") in _REIGNING:
        return f"{node} is passive, not ready to take over from {peer}", "yellow"
    return f"neither {node} nor {peer} is active now: no service", "red"


#: phases of a peer that serves, or is about to
_REIGNING = ("active", "preparing", "resuming", "opening", "promoting")


def print_all(found: dict[str, Any]) -> None:
    """In words, with colour where the terminal has it; broken to a terminal's width, whole lines into a pipe."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0

    def line(text: str, indent: str = "", hanging: int = 0, style: str = "") -> None:
        whole = indent + text
        if width > 40:
            whole = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=" " * hanging, break_on_hyphens=False)
        console.print(whole, style=style or None, markup=False)

    off = found | {"errors": {}, "alarms": {}} if is_off(found) else found
    troubles = _troubles(off)
    text, style = headline(found)
    if troubles:
        text += f"; {len(troubles)} alarm{'s' if len(troubles) != 1 else ''}"
    elif style == "green":
        text += "; all is well"
    line(text, style="bold red" if troubles else f"bold {style}")
    for trouble in troubles:
        line(trouble, "  ! ", 4, "red")
    for sentence in [] if is_off(found) else explaining.lines(found):
        if not sentence.startswith("Alarm:"):
            line(sentence, "  ", 4)
    rows = _rows(found)
    column = max(len(name) for name, _ in rows) + 4
    for name, value in rows:
        line(value, f"  {name}".ljust(column), column)
    for note in found["notes"].values():
        line(f"note: {note}", "  ", 4, "yellow")


def _troubles(found: dict[str, Any]) -> list[str]:
    """A configuration that can't be used, what doesn't answer, then the alarms. The Manager's are about one of its processes,
    which they don't name."""
    unusable = found.get("configuration", "")
    told = [
        f"{name.removeprefix('manager: ')}: {text}" if name.startswith("manager: ") else text
        for name, text in found["alarms"].items()
        if not (unusable and unusable in text)  # a daemon that was told to read it says the same
    ]
    wrong = [f"the configuration can't be used: {unusable}"] if unusable else []
    # What a server can't serve for is heartbeat's alarm and ha_manager's.
    silent = dict(found["errors"])
    if {"ha_manager", "manager"} <= silent.keys() and not found.get("only_root"):  # each starts the other one again, not itself
        silent["manager"] += "; `ha start` starts both, unless systemd has done so"
    return [*wrong, *silent.values(), *dict.fromkeys(told)]


_REPLICATION = {
    "synchronous": "synchronous: a commit is acknowledged when both servers have it",
    "asynchronous": "asynchronous: a commit is acknowledged before the passive has it",
    "streaming": "streaming",
    "waiting": "waiting for the other server",
    "copying": "the database is being copied from the active",
    "failed": "failed",
    "off": "off",
}


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    heartbeat, manager = found["heartbeat"], found["ha_manager"]
    rows = [("peer", _peer(found)), ("virtual IP", _vip(found))]
    if heartbeat.get("links"):
        heard = {"up": "up", "dead": "nothing is heard"}
        rows.append(("links", ", ".join(f"{name} {heard.get(state, state)}" for name, state in heartbeat["links"].items())))
    if heartbeat.get("ping_nodes"):
        answers = {"up": "answers", "dead": "does not answer"}
        rows.append(
            ("ping nodes", ", ".join(f"{name} {answers.get(state, state)}" for name, state in heartbeat["ping_nodes"].items()))
        )
    if manager:
        database = manager.get("database", {})
        timeline = f"timeline {database['timeline']}, " if database.get("timeline") else ""  # one that is down has not said
        rows.append(("Postgres", f"{manager['postgres']}, {timeline}{_disk(database)}"))
        session = manager.get("session", {})
        rows.append(("replication", _replication(manager, session, found["peer"])))
        rows.append(("peer's ha_manager", "connected" if session.get("connected") else f"not connected: {session.get('why')}"))
        left = [f"{name} {state}" + (f" ({error})" if error else "")
                for name, (state, error) in manager.get("plan", {}).get("steps", {}).items() if state != "done"]  # fmt: skip
        rows.append(("last role change", ", ".join(left) or "every step is done"))
    processes = found["manager"].get("processes", [])
    if processes:
        rows.append(("processes", ", ".join(_process(row) for row in processes)))
    return rows


def _replication(manager: dict[str, Any], session: dict[str, Any], peer: str) -> str:
    """What ha_manager says of it; how far a copy is, here or on the peer."""
    words = manager.get("copying") or _REPLICATION.get(manager["replication"], manager["replication"])
    if manager.get("database", {}).get("plain") and manager["replication"] in ("synchronous", "streaming"):
        words += "; without TLS (ssl is off on the active)"
    if manager["trouble"]:
        words += f": {manager['trouble']}"
    theirs = session.get("state", {}).get("copying", "") if session.get("connected") else ""
    return f"{words}; {peer} says: {theirs}" if theirs else str(words)


def _process(row: dict[str, Any]) -> str:
    rests = row["state"] == "stopped" and not row.get("wanted")
    return f"{row['name']} {'stopped (as it should be)' if rests else row['state']}"


def _peer(found: dict[str, Any]) -> str:
    state: dict[str, Any] = found["heartbeat"].get("peer_state", {})
    if not state:
        return found["peer"] or "not known yet: `ha keys accept` makes it known"
    ago = state.get("heard_ago")
    if ago is None:
        return f"{found['peer']}: not heard since heartbeat started here"
    if not state.get("contact") and state.get("phase") == "left":
        return f"{found['peer']}: its heartbeat was stopped {ago:.1f} s ago"
    if not state.get("contact"):
        return f"{found['peer']}: last heard {ago:.1f} s ago, it was {state.get('phase')}"
    words = f"{found['peer']}: {state.get('phase')}, in contact"
    if state.get("phase") != "passive":
        return words
    return f"{words}, {'fit' if state.get('fit') else 'not fit'} to take over"


def _vip(found: dict[str, Any]) -> str:
    if not found["virtual_ip"]:
        return "none"
    held = found["heartbeat"].get("vip", {}).get("held")
    if is_off(found):
        return f"{found['virtual_ip']}, not held here: HA is off"
    if held is None:
        return f"{found['virtual_ip']}, not known whether it is held here"
    return f"{found['virtual_ip']}, {'held here' if held else 'not held here'}"


def _disk(database: dict[str, Any]) -> str:
    free, total = database.get("disk_free", -1), database.get("disk_total", -1)
    if not free >= 0 < total:
        return "disk unknown"
    if free >= 2**30:
        return f"disk {free // 2**30} of {total // 2**30} GiB free"
    whole = f"{total // 2**30} GiB" if total >= 2**30 else f"{total // 2**20} MiB"
    return f"disk {free // 2**20} MiB of {whole} free"
