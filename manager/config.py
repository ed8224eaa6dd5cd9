"""The Manager's configuration: roles with their processes, and which roles are enabled.

Promise: a ``Configuration`` that ``read`` returns is complete and consistent; anything wrong is a ConfigError with file, line
and remedy. A role that is enabled but unknown here is a warning, not an error: the policy server's file names roles of other
products too. Source: design §7; the reference, 2 (manager.conf.xml, Commander/module.xml, commander_passive_module.xml).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.modulexml import Section, load

from .model import Mode, Process
from .paths import Paths

#: Failed tries in a row, unless the file says otherwise. What has a control socket (heartbeat, ha_manager) is never given up:
#: without it this server neither serves nor takes over.
GIVE_UP_AFTER = 10

_REMEDIES = {
    "role@name": 'give the role a name, such as name="HA"',
    "process@pid_file": "name the file in which the process leaves its number",
    "process@init_script": "name the script that starts and stops the process, such as /etc/init.d/heartbeat",
    "role@enabled": "write 1 or 0",
}


@dataclass(frozen=True)
class Configuration:
    """What manager.conf.xml defines and what one mode enables of it."""

    mode: Mode
    processes: tuple[Process, ...]
    #: names of enabled roles that are defined
    roles: frozenset[str]
    warnings: tuple[str, ...] = ()

    @property
    def enabled(self) -> frozenset[str]:
        """Names of the processes of the enabled roles."""
        return frozenset(p.name for p in self.processes if p.role in self.roles)

    def named(self, name: str) -> tuple[str, ...]:
        """The processes that ``name`` means: one process, or all of a role (any case); () if there is none."""
        wanted = name.casefold()
        exact = tuple(p.name for p in self.processes if p.name.casefold() == wanted)
        return exact or tuple(p.name for p in self.processes if p.role.casefold() == wanted)


def read(paths: Paths, mode: Mode, module: Path | None = None) -> Configuration:
    """The configuration for ``mode`` as it is on the disk now; ``module``: instead of its own. Raises ConfigError."""
    processes = load_processes(paths)
    known = {process.role for process in processes}
    enabled, warnings = [], []
    for role in load_enabled(module or paths.module(mode)):
        name = role.text("name")
        if name in known:
            enabled.append(name)
        else:
            warnings.append(f"{role.file}:{role.line}: role {name} is enabled, but {paths.configuration} does not define it")
    return Configuration(mode, processes, frozenset(enabled), tuple(warnings))


def load_enabled(path: Path) -> list[Section]:
    """The <role> elements with enabled="1" of a module file."""
    module = load(path, package="manager", schema="commander_module.xsd", remedies=_REMEDIES)
    if not module.flag("active", True):
        return []
    return [role for role in module.children("init/roles/role") if role.flag("enabled")]


def load_processes(paths: Paths) -> tuple[Process, ...]:
    """Every process of manager.conf.xml, in its order; raises ConfigError."""
    root = load(paths.configuration, package="manager", schema="manager.conf.xsd", remedies=_REMEDIES)
    processes: list[Process] = []
    taken: dict[str, Section] = {}
    for role in root.children("role"):
        for section in role.children("process"):
            process = _process(role, section, len(processes))
            for name in (process.name.casefold(), process.pid_file):
                if name in taken:
                    raise section.error(
                        f"{name} is used in line {taken[name].line} already", remedy="names and pid files must be different"
                    )
                taken[name] = section
            processes.append(process)
    return tuple(processes)


def _process(role: Section, section: Section, place: int) -> Process:
    """One <process>. Without orders of its own it starts in the file's order and stops in the reverse of it."""
    return Process(
        name=section.text("name"),
        role=role.text("name"),
        init_script=_path(section, "init_script"),
        pid_file=_path(section, "pid_file"),
        control=_path(section, "control") if section.has("control") else "",
        hang_limit=section.number("hang_limit", 3.0, least=0.2, most=600),
        start_limit=section.number("start_limit", 30.0, least=0.1, most=3600),
        stop_limit=section.number("stop_limit", 30.0, least=0.1, most=3600),
        start_order=section.whole("start_order", place),
        stop_order=section.whole("stop_order", -place),
        restart=_command(section),
        restart_after=section.number("restart_after", 0.0, least=0, most=3600),
        quiet=section.number("quiet", 10.0, least=0.1, most=86400),
        give_up_after=section.whole("give_up_after", 0 if section.has("control") else GIVE_UP_AFTER, least=0, most=1000),
    )


def _path(section: Section, attribute: str) -> str:
    path = section.text(attribute)
    if not path.startswith("/"):
        raise section.error(f"{path!r} is not an absolute path", attribute, remedy="begin it with /")
    return path


def _command(section: Section) -> tuple[str, ...]:
    if not section.has("restart"):
        return ()
    text = section.text("restart")
    try:
        words = tuple(shlex.split(text))
    except ValueError as wrong:
        raise section.error(f"{text!r} can't be cut into words: {wrong}", "restart", remedy="check its quotes") from None
    if not words[0].startswith("/"):
        raise section.error(f"{words[0]!r} is not an absolute path", "restart", remedy="begin the command with /")
    return words


def outline(wrong: ConfigError) -> str:
    """A refusal in one sentence for status and log."""
    return f"refused, the configuration before it stays in force: {wrong}"
