"""Whether this server's notifier may bring configurations to devices, and in which epoch.

Promise: reads files only. Where heartbeat runs, or should, its word counts, and only while it is good (the role file expires);
without high availability the notifier acts, with the highest epoch that it has ever given or heard. ``because`` says why, in
words, for status and log. Source: design §7; docs/protocols.md ("Role file").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heartbeat.model import Phase, Role
from heartbeat.rolefile import RoleFile
from manager.holding import Version
from manager.modulefile import role_enabled
from runtime import modulexml
from runtime.clock import boottime
from runtime.errors import ConfigError

#: its epoch is on the disk and promoted: before, it may still be forgotten, and given to another server
_REIGNS = frozenset({Phase.ACTIVE, Phase.PREPARING})


@dataclass(frozen=True)
class Standing:
    acts: bool
    #: (number, node that opened it); meaningless unless it acts
    epoch: tuple[int, str]
    because: str


def look(role_file: Path, topology: Path, node: str, highest: Version | None, commander: Path | None = None) -> Standing:
    """``topology``: the pair's module.xml; ``commander``: the roles that run here. ``highest``: of all versions that were given
    or heard here.
    """
    if role_file.exists():
        return _of_heartbeat(role_file)
    if _enabled(topology) and (commander is None or _is_on(commander)):
        return Standing(False, (0, ""), "high availability is enabled and heartbeat has said nothing yet (`ha show`)")
    return Standing(True, _alone(node, highest), "there is no high availability here")


def _of_heartbeat(file: Path) -> Standing:
    line = RoleFile(file).read()
    if line is None:
        return Standing(False, (0, ""), f"{file} can't be read: heartbeat's word is not known")
    epoch = (line.epoch.number, line.epoch.node)
    if line.expires <= boottime():
        return Standing(False, epoch, "heartbeat does not renew its word (`ha show`)")
    if line.role is not Role.ACTIVE:
        return Standing(False, epoch, f"this server is {line.role}: the active one's notifier serves the devices")
    if line.phase not in _REIGNS:
        return Standing(False, epoch, f"this server is becoming active or letting go ({line.phase})")
    return Standing(True, epoch, f"this server is active in epoch {line.epoch.number}/{line.epoch.node}")


def _alone(node: str, highest: Version | None) -> tuple[int, str]:
    """An epoch in which versions of this node are above ``highest``."""
    if highest is None:
        return (0, node)
    return (highest.epoch, node) if highest.node <= node else (highest.epoch + 1, node)


def _enabled(topology: Path) -> bool:
    try:
        section = modulexml.parse(topology).child("init/ha")
        return section is not None and section.flag("enabled", False)
    except ConfigError:
        return False


def _is_on(commander: Path) -> bool:
    """`ha start` has turned it on here, and nobody off. The sample of module.xml says "enabled" before that, too."""
    try:
        return role_enabled(commander, "HA")
    except ConfigError:
        return commander.exists()
