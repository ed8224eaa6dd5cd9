"""The device around the receiver: what its Manager, its heartbeat and its ha_manager say.

Promise: asks with a time limit, and never fails: what can't be had is told as such. Source: docs/protocols.md ("The session
with a device", "Role file").
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from manager.manifest import Manifest
from manager.paths import Paths
from manager.receiver.applying import Applying
from manager.receiver.trust import Trust
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ConfigError, ControlError
from runtime.modulexml import parse

#: seconds for the Manager's answer
LIMIT = 2.0
_SERVING = "active"
#: alarms of ha_manager about what notifiers bring; `ha show` tells the others
_OF_CONFIGURATION = ("configuration", "module.xml")


class Home:
    """``more``: for ``state``, of the process; ``present``: nodes that have a session."""

    def __init__(
        self,
        paths: Paths,
        trust: Trust,
        node: str,
        switched: Callable[[], None],
        more: Callable[[], Mapping[str, Any]],
        present: Callable[[], frozenset[str]],
    ) -> None:
        self.node = node
        self._paths, self._trust = paths, trust
        self._switched, self._more, self.present = switched, more, present
        self._applying = Applying(paths.conf, paths.state)
        self._began = boottime()

    def active_in(self) -> int | None:
        """Of the role file, unless it has expired."""
        try:
            role, number, _, expires, *_ = (self._paths.root / "run/heartbeat/role").read_text().split()
            return int(number) if role == _SERVING and float(expires) > boottime() else None
        except (OSError, ValueError):
            return None

    def policy_server(self) -> bool:
        """One on which the Manager can run high availability."""
        try:
            return any(role.text("name", "") == "HA" for role in parse(self._paths.configuration).children("role"))
        except ConfigError:
            return False

    def room(self, wanted: Manifest, device: str) -> int:
        if not on_one_disk(self._paths.conf, Path(os.path.realpath(self._paths.conf_ready)).parent):
            return 0
        return self._applying.room(wanted, device)

    def state(self) -> Mapping[str, Any]:
        try:
            told = _status(self._paths.control, "the Manager")
            mode, alarms = told.get("mode", ""), dict(told.get("alarms", {}))
        except ControlError as wrong:
            mode, alarms = "", {"Manager": str(wrong)}
        with contextlib.suppress(ControlError):  # it does not run: not this server's, or its Manager tells
            told = _status(self._paths.root / "run/ha_manager/control", "ha_manager")
            others = dict(told.get("alarms", {}))
            alarms |= {name: str(others[name]) for name in _OF_CONFIGURATION if name in others}
        return {
            "mode": mode,
            "alarms": alarms,
            "kind": "Management Server" if self.policy_server() else "Scanning Server",
            "replication": replication(self._paths.root / "etc/ha_manager/ha_manager_status"),
            "uptime": round(boottime() - self._began, 1),
            **self._more(),
        }

    def adopted(self, by: str) -> None:
        self._trust.adopt(by)

    def introduce(self, by: str, line: str) -> None:
        self._trust.introduce(line)

    def switched(self) -> None:
        self._switched()


def _status(control: Path, name: str) -> Mapping[str, Any]:
    """Raises ControlError."""
    with Client(control, LIMIT, name=name) as client:
        return client.request("status")


def on_one_disk(one: Path, other: Path) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError:
        return True


def replication(file: Path) -> str:
    """``replication`` of ha_manager's status file, "" if there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in file.read_text().splitlines():
            key, _, value = line.partition("=")
            if key == "replication":
                return value
    return ""
