"""What the notifier tells operators: a row a device, and every state in words.

Promise: looks only. The reference's words for the states (§3.1): Sync, Connection, Committing, Replication, last connection
time. Whatever is not as it should be comes with why, and with what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from notifier.links import Link
from notifier.model import COMMITTING_STATUS, Kind, State
from notifier.process import Notifier
from notifier.release import Entry
from runtime import clock
from runtime.version import package

STABLE = "Stable"
#: of what a device says of itself, in bytes: a row has to fit into a line
_LONGEST = 32 * 1024
#: alarms of the Manager that say what ``applying_error`` says
_APPLYING = "applying "


def status(notifier: Notifier) -> dict[str, Any]:
    return {
        "acts": notifier.releases is not None,
        "because": notifier.standing.because,
        "node": notifier.node,
        "epoch": list(notifier.standing.epoch),
        "package": package(),
        "release": str(notifier.highest) if notifier.highest else "",
        "refused": notifier.refused,
    }


def rows(notifier: Notifier) -> list[dict[str, Any]]:
    """A row a device, in the order of devices.xml."""
    return [row(notifier, name) for name in notifier.links.links]


def row(notifier: Notifier, name: str) -> dict[str, Any]:
    link = notifier.links.links[name]
    entry = notifier.releases.entries.get(name) if notifier.releases is not None else None
    target = entry.target if entry else None
    return {
        "name": name,
        "type": link.listed.device.kind.value,
        "ip": link.listed.ip,
        "sync": sync(entry),
        "connection": "connected" if link.line is not None else "not connected",
        "committing": COMMITTING_STATUS.get(entry.state, STABLE) if entry else STABLE,
        "replication": replication(notifier, link) if link.listed.device.kind is Kind.POLICY else "",
        "last_connection": clock.stamp(link.heard)[:19] if link.heard is not None else "",
        "version": link.package,
        "release": str(entry.holds.version) if entry and entry.holds else "",
        "target": str(target.version) if target else "",
        "state": entry.state.value if entry else "absent",
        "because": because(entry, link) or left_out(notifier, entry),
        "told": link.told if len(json.dumps(link.told)) < _LONGEST else {},
    }


def sync(entry: Entry | None) -> str:
    if entry is None or entry.target is None:
        return "nothing committed"
    if entry.state is State.ABSENT and entry.holds is None:
        return "unknown"
    return "in sync" if entry.in_sync else "not in sync"


def because(entry: Entry | None, link: Link) -> str:
    """What stands beside the states."""
    if link.line is None:
        return link.because
    if entry is None or entry.state is State.STABLE:
        alarms = (f"{name}: {text}" for name, text in link.told.get("alarms", {}).items() if not name.startswith(_APPLYING))
        return str(link.told.get("applying_error") or link.told.get("error") or next(alarms, ""))
    return entry.because


def left_out(notifier: Notifier, entry: Entry | None) -> str:
    """Another device of its kind is to have something newer: a commit was limited."""
    if notifier.releases is None or entry is None or entry.target is None:
        return ""
    alike = [e.target for e in notifier.releases.entries.values() if e.target and e.device.kind is entry.device.kind]
    newest = max(alike, key=lambda target: target.version)
    if newest.digest == entry.target.digest:
        return ""
    return f"keeps release {entry.target.version}: that of {newest.version} was not for it (`commit --only`)"


def replication(notifier: Notifier, link: Link) -> str:
    if link.listed.device.name != notifier.node:
        told = link.told.get("replication")
        return str(told) if told else "unknown"
    return own_replication(notifier.paths.replication)


def own_replication(file: Path) -> str:
    """ha_manager's word (docs/protocols.md, "ha_manager_status")."""
    try:
        lines = dict(line.partition("=")[::2] for line in file.read_text().splitlines())
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return lines.get("replication", "unknown")


def explain(notifier: Notifier) -> list[str]:
    """The whole in sentences."""
    if notifier.releases is None:
        said = [f"This notifier asks nothing of any device: {notifier.standing.because}."]
        return said + ([f"It could not begin: {notifier.refused}"] if notifier.refused else [])
    said = [f"This notifier serves the devices: {notifier.standing.because}."]
    if notifier.refused:
        said.append(f"The newest list of devices is not in force: {notifier.refused}")
    if not notifier.listed:
        said.append(f"No device is listed in {notifier.paths.devices}.")
    if notifier.highest is None:
        said.append("Nothing was ever committed: `notifier-ctl commit`.")
    links = notifier.links.links
    said += [_sentence(name, e, links.get(name), left_out(notifier, e)) for name, e in notifier.releases.entries.items()]
    return said


def _held(entry: Entry) -> str:
    return str(entry.holds.version) if entry.holds else "?"


def _sentence(name: str, entry: Entry, link: Link | None, left: str) -> str:
    if link is None or link.line is None:
        owed = " It gets its configuration when it is back." if entry.target is not None and not entry.in_sync else ""
        return f"{name} is not connected: {link.because if link else 'not tried yet'}.{owed}"
    match entry.state:
        case State.FOREIGN:
            return f"{name}: {entry.because}. Is another server active (`ha show`)? A commit in a newer epoch takes it over."
        case State.STABLE if entry.target is None:
            return f"{name} is connected; nothing was committed for it yet."
        case State.STABLE:
            error = link.told.get("applying_error")
            if error:
                return f"{name} has release {_held(entry)}, but could not put all of it in place: {error}"
            return f"{name} {left}." if left else f"{name} has release {_held(entry)}."
    return f"{name}: {entry.because}."
