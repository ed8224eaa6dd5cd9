"""/etc/ha_manager/ha_manager.conf: the facts of one host that module.xml, identical on both servers, can't hold.

Promise: every option has a default that suits Debian and the reference's paths; no file at all is fine; anything wrong raises
ConfigError with file, line, option and remedy. The result is frozen. Source: design §6 ("Site topology …").
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.syslog import FACILITIES

CONF = Path("/etc/ha_manager/ha_manager.conf")


@dataclass(frozen=True)
class PostgresHost:
    """Where this host's Postgres is; what is empty (or 0) is found: the only cluster that is installed here."""

    #: VERSION/NAME of Debian's layout
    cluster: str = ""
    bin_dir: str = ""
    data_dir: str = ""
    config_file: str = ""
    port: int = 0
    socket_dir: str = ""
    user: str = ""
    log_file: str = ""
    #: MiB of log that may be kept back for an absent passive; past it the passive is copied afresh. 0: as Postgres is set
    slot_keep: int = 4096
    #: MiB that must stay free where the database is; with less this server is not healthy
    free: int = 64
    #: of a copy on its way here: auto (by the link's speed), none, lz4, zstd, gzip; from Postgres 15 on
    compression: str = "auto"
    #: how a database comes here: whole (pg_basebackup), or only the differences to a stale one (slow links)
    copy: str = "whole"
    #: how one that diverged comes back: quickest (rewound, or copied where that takes less time), or rewound where possible
    rejoin: str = "quickest"


@dataclass(frozen=True)
class Commands:
    """The policy server's own commands; one that is empty has no step. Contract: docs/reference.md, "Commands of the host"."""

    policy_server_start: tuple[str, ...] = ()
    policy_server_stop: tuple[str, ...] = ()
    policy_server_status: tuple[str, ...] = ()
    active_request_cli: tuple[str, ...] = ()
    full_replicate: tuple[str, ...] = ()
    manager_ctl: tuple[str, ...] = ("/usr/bin/manager-ctl",)
    manager_init: tuple[str, ...] = ("/etc/init.d/manager",)
    #: seconds for each of the policy server's commands
    limit: int = 120


@dataclass(frozen=True)
class Paths:
    conf_ready: Path = Path("/var/wasp/conf_ready")
    base: Path = Path("/var/policyserver/configuration/base")
    etc: Path = Path("/etc/ha_manager")
    state: Path = Path("/var/lib/ha_manager")
    run: Path = Path("/run/ha_manager")
    heartbeat_etc: Path = Path("/etc/heartbeat")
    heartbeat_run: Path = Path("/run/heartbeat")
    manager_run: Path = Path("/run/manager")
    manager_state: Path = Path("/var/lib/manager")
    commander: Path = Path("/var/wasp/conf/Commander/current/module.xml")
    #: what the active sends of ``files_to_replicate`` lies here until this server becomes active
    staging: Path = Path("/opt/finjan/configuration/ha")

    @property
    def keys(self) -> Path:
        return self.etc / "keys"

    @property
    def hooks(self) -> Path:
        return self.etc / "hooks.d"


@dataclass(frozen=True)
class FilesHost:
    """Replicated files: how they leave this server."""

    #: KiB a second for directories and large files; 0: as fast as it goes
    bandwidth: int = 0
    #: hours between two comparisons of the whole content
    checksum: int = 24


@dataclass(frozen=True)
class LinuxHa:
    """Commands of a real Linux-HA heartbeat that decides here; an empty ``cl_status``: our own heartbeat does."""

    cl_status: tuple[str, ...] = ()
    hb_standby: tuple[str, ...] = ("/usr/share/heartbeat/hb_standby",)


@dataclass(frozen=True)
class Host:
    postgres: PostgresHost = PostgresHost()
    commands: Commands = Commands()
    paths: Paths = Paths()
    log_facility: str = "daemon"
    log_level: str = "info"
    #: UDP port of the heartbeats
    heartbeat_port: int = 694
    linux_ha: LinuxHa = LinuxHa()
    files: FilesHost = FilesHost()


def load_host(path: Path = CONF) -> Host:
    """Read ``path``; a missing file means defaults. Raises ConfigError."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Host()
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"can't be read: {wrong}", file=path, remedy="run as root, check its permissions") from wrong
    return _Reader(path, text).host()


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._parser = configparser.ConfigParser(interpolation=None, empty_lines_in_values=False, inline_comment_prefixes=None)
        try:
            self._parser.read_string(text, str(path))
        except configparser.DuplicateOptionError as wrong:
            what = f"[{wrong.section}] {wrong.option} stands twice"
            raise ConfigError(what, file=path, line=wrong.lineno, remedy="remove one of them") from wrong
        except configparser.DuplicateSectionError as wrong:
            raise ConfigError(f"[{wrong.section}] stands twice", file=path, line=wrong.lineno, remedy="join them") from wrong
        except configparser.MissingSectionHeaderError as wrong:
            remedy = "put it under one of " + ", ".join(f"[{name}]" for name in _SECTIONS)
            raise ConfigError("an option stands before any [section]", file=path, line=wrong.lineno, remedy=remedy) from wrong
        except configparser.ParsingError as wrong:
            line = wrong.errors[0][0] if wrong.errors else None
            raise ConfigError(
                "a line is neither [section] nor option = value", file=path, line=line, remedy="correct it"
            ) from wrong

    def host(self) -> Host:
        for section in self._parser.sections():
            if section not in _SECTIONS:
                known = ", ".join(f"[{name}]" for name in _SECTIONS)
                raise self._wrong(section, "", f"section [{section}] is unknown", f"known are {known}")
        values = {name: self._section(name, readers) for name, readers in _SECTIONS.items()}
        host, log = values["heartbeat"], values["log"]
        return Host(
            postgres=PostgresHost(**values["postgres"]),
            commands=Commands(**values["commands"]),
            paths=Paths(**values["paths"]),
            linux_ha=LinuxHa(**values["linux-ha"]),
            files=FilesHost(**values["files"]),
            **{f"log_{name}": value for name, value in log.items()},
            **{f"heartbeat_{name}": value for name, value in host.items()},
        )

    def _section(self, name: str, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        if not self._parser.has_section(name):
            return {}
        result = {}
        for option, text in self._parser.items(name):
            if option not in readers:
                raise self._wrong(name, option, f"[{name}] {option} is unknown", f"known are {', '.join(readers)}")
            try:
                result[option] = readers[option](text.strip())
            except ValueError as wrong:
                raise self._wrong(name, option, f"[{name}] {option} = {text}: {wrong}", "correct it or leave it out") from wrong
        return result

    def _wrong(self, section: str, option: str, what: str, remedy: str) -> ConfigError:
        return ConfigError(what, file=self._path, line=self._line(section, option), remedy=remedy)

    def _line(self, section: str, option: str) -> int | None:
        """configparser forgets where things stood: look for it again."""
        inside = False
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"\[([^]]+)\]", line.strip())
            if header:
                inside = header[1] == section
                if inside and not option:
                    return number
            elif inside and option and re.match(rf"{re.escape(option)}\s*[=:]", line.strip(), re.IGNORECASE):
                return number
        return None


def _path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("is not an absolute path")
    return Path(text)


def _path_text(text: str) -> str:
    return str(_path(text)) if text else ""


def _command(text: str) -> tuple[str, ...]:
    words = tuple(shlex.split(text))
    if words and not words[0].startswith("/"):
        raise ValueError("a command begins with an absolute path")
    return words


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or not low <= int(text) <= high:
            raise ValueError(f"is not a number between {low} and {high}")
        return int(text)

    return read


def _word(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*", text):
        raise ValueError("is not a name")
    return text


def _cluster(text: str) -> str:
    if text and not re.fullmatch(r"[0-9.]+/[A-Za-z0-9._-]+", text):
        raise ValueError("is not VERSION/NAME, as in 15/main")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text.lower()

    return read


_SECTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "postgres": {
        "cluster": _cluster, "bin_dir": _path_text, "data_dir": _path_text, "config_file": _path_text,
        "port": _number(1, 65535), "socket_dir": _path_text, "user": _word, "log_file": _path_text,
        "slot_keep": _number(0, 10**7), "free": _number(0, 10**6),
        "copy": _one_of("whole", "differences"), "rejoin": _one_of("quickest", "rewind"),
        "compression": _one_of("auto", "none", "lz4", "zstd", "gzip"),
    },
    "commands": {f.name: _number(1, 86400) if f.name == "limit" else _command for f in fields(Commands)},
    "paths": {f.name: _path for f in fields(Paths)},
    "heartbeat": {"port": _number(1, 65535)},
    "files": {"bandwidth": _number(0, 10**8), "checksum": _number(1, 8760)},
    "linux-ha": {f.name: _command for f in fields(LinuxHa)},
    "log": {
        "facility": _one_of(*sorted(FACILITIES)),
        "level": _one_of("debug", "info", "warning", "error"),
    },
}  # fmt: skip
