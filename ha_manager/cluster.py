"""The Postgres of this server: where it is, who runs it, and how it is put under HA and given back.

Promise: the administrator's files are read, never edited. Debian's layout (/etc/postgresql/VERSION/NAME), plain ones, and the
reference's place. What is done with it is in ``adoption``. Source: design §6; facts/postgres.md.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ha_manager import settings
from ha_manager.settings import Setting
from runtime.errors import ConfigError

#: The reference keeps its database here (Trustwave SWG, 2.4.1).
REFERENCE_DATA = Path("/opt/finjan/configuration/data/postgresql/main")


@dataclass(frozen=True)
class PostgresConfig:
    """Where the cluster is. ``config_file`` is the administrator's postgresql.conf; everything of ours is in ``state_dir``."""

    version: int
    bin_dir: Path
    data_dir: Path
    config_file: Path
    port: int
    socket_dir: Path
    name: str = "main"
    user: str = "postgres"
    log_file: Path = Path("/var/log/postgresql/postgresql-main.log")
    #: Debian's start.conf; None outside Debian's layout
    start_conf: Path | None = None
    state_dir: Path = Path("/var/lib/ha_manager/postgres")
    #: what a rejoin replaced
    diverged_dir: Path = Path("/var/lib/ha_manager/diverged")
    run_dir: Path = Path("/run/ha_manager")
    #: MB of log kept for an absent peer before its slot is given up; 0: as the administrator set it
    slot_keep_mb: int = 4096
    #: of what pg_basebackup sends: auto | none | lz4 | zstd | gzip
    compression: str = "auto"
    #: how a database is copied here: whole | differences
    copy: str = "whole"
    #: what a database that diverged comes back by: quickest (a rewind or a whole copy) | rewind
    rejoin: str = "quickest"


@dataclass(frozen=True)
class Hints:
    """What /etc/ha_manager/ha_manager.conf says about Postgres; empty: found out. ``cluster`` is ``VERSION/NAME``."""

    cluster: str = ""
    bin_dir: str = ""
    data_dir: str = ""
    config_file: str = ""
    port: int = 0
    socket_dir: str = ""
    user: str = ""
    log_file: str = ""


@dataclass(frozen=True)
class Paths:
    """Our own files for one cluster, all below ``state_dir``."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "postgresql.conf"

    @property
    def dynamic(self) -> Path:
        return self.root / "role.conf"

    @property
    def hba(self) -> Path:
        return self.root / "pg_hba.conf"

    @property
    def ident(self) -> Path:
        return self.root / "pg_ident.conf"

    @property
    def passfile(self) -> Path:
        return self.root / "pgpass"

    @property
    def lineage(self) -> Path:
        return self.root / "lineage"

    @property
    def kept(self) -> Path:
        """The administrator's settings, as they could be used last."""
        return self.root / "administrator.conf"

    @property
    def autostart(self) -> Path:
        """What start.conf said before."""
        return self.root / "start.conf.before"


# --- finding it ---------------------------------------------------------------------------------------------------------------


def find(hints: Hints = Hints(), root: Path = Path("/")) -> PostgresConfig:
    """The cluster that ``hints`` name, or the only one here. Raises ConfigError: none, several, or a path that isn't there."""
    clusters = sorted((root / "etc/postgresql").glob("*/*/postgresql.conf"), key=_version_of)
    if hints.data_dir or hints.config_file:
        # Debian starts its clusters whatever they are called by here.
        ours = [path for path in clusters if _is_named(path, hints)]
        return _debian(ours[0], hints) if ours else _plain(hints)
    if hints.cluster:
        clusters = [path for path in clusters if f"{path.parent.parent.name}/{path.parent.name}" == hints.cluster]
        if not clusters:
            raise ConfigError(f"there is no Postgres cluster {hints.cluster}", remedy="pg_lsclusters lists those that exist")
    if len(clusters) > 1:
        named = ", ".join(f"{path.parent.parent.name}/{path.parent.name}" for path in clusters)
        raise ConfigError(f"there are several Postgres clusters here: {named}", remedy="name one as cluster = VERSION/NAME")
    if clusters:
        return _debian(clusters[0], hints)
    if (REFERENCE_DATA / "PG_VERSION").exists():
        return _plain(replace(hints, data_dir=str(REFERENCE_DATA)))
    raise ConfigError("there is no Postgres cluster here", remedy="install postgresql, or name data_dir and bin_dir")


def _is_named(config_file: Path, hints: Hints) -> bool:
    if hints.config_file:
        return Path(hints.config_file).resolve() == config_file.resolve()
    try:
        return _data_dir(config_file, read_settings(config_file)) == Path(hints.data_dir).resolve()
    except ConfigError:
        return False  # somebody else's cluster


def _version_of(path: Path) -> tuple[int, str]:
    name = path.parent.parent.name
    return (int(name) if name.isdigit() else 0, path.parent.name)


def _debian(config_file: Path, hints: Hints) -> PostgresConfig:
    folder = config_file.parent
    version, name = folder.parent.name, folder.name
    found = read_settings(config_file)
    data_dir = Path(hints.data_dir).resolve() if hints.data_dir else _data_dir(config_file, found)
    link = folder / "log"
    log_file = os.readlink(link) if link.is_symlink() else f"/var/log/postgresql/postgresql-{version}-{name}.log"
    return PostgresConfig(
        version=int(version),
        bin_dir=_existing(hints.bin_dir or f"/usr/lib/postgresql/{version}/bin", "bin_dir"),
        data_dir=data_dir,
        config_file=config_file,
        port=hints.port or _port(found),
        socket_dir=_socket_dir(found, hints),
        name=name,
        user=hints.user or _owner(data_dir) or "postgres",
        log_file=Path(hints.log_file or log_file),
        start_conf=folder / "start.conf",
    )


def _plain(hints: Hints) -> PostgresConfig:
    config_file = Path(hints.config_file or f"{hints.data_dir}/postgresql.conf")
    found = read_settings(config_file)
    data_dir = Path(hints.data_dir or _text(found, "data_directory") or str(config_file.parent)).resolve()
    version = _data_version(data_dir)
    return PostgresConfig(
        version=version,
        bin_dir=_existing(hints.bin_dir or f"/usr/lib/postgresql/{version}/bin", "bin_dir"),
        data_dir=data_dir,
        config_file=config_file,
        port=hints.port or _port(found),
        socket_dir=_socket_dir(found, hints),
        user=hints.user or _owner(data_dir) or "postgres",
        log_file=Path(hints.log_file or f"/var/log/postgresql/postgresql-{version}-main.log"),
    )


def _data_version(data_dir: Path) -> int:
    try:
        return int((data_dir / "PG_VERSION").read_text().strip())
    except (OSError, ValueError) as wrong:
        raise ConfigError(
            f"{data_dir} holds no Postgres database", remedy="correct data_dir, or create it with initdb"
        ) from wrong


def _data_dir(config_file: Path, found: dict[str, Setting]) -> Path:
    """Where it is, links followed: a fresh copy must lie on the same file system."""
    default = f"/var/lib/postgresql/{config_file.parent.parent.name}/{config_file.parent.name}"
    return Path(_text(found, "data_directory") or default).resolve()


def _port(found: dict[str, Setting]) -> int:
    text = _text(found, "port") or "5432"
    if not text.isdigit():
        raise ConfigError(f"port is no number: {text!r}", file=found["port"].file, line=found["port"].line, remedy="correct it")
    return int(text)


def _socket_dir(found: dict[str, Setting], hints: Hints) -> Path:
    """The first folder; ha_manager's own connections go through it."""
    name = "unix_socket_directories"
    folders = [word.strip().strip('"') for word in _text(found, name).split(",")] if name in found else ["/var/run/postgresql"]
    usable = [folder for folder in folders if folder.startswith("/")]
    if not hints.socket_dir and not usable:
        what = "unix_socket_directories names no folder; ha_manager speaks to Postgres over such a socket"
        raise ConfigError(what, file=found[name].file, line=found[name].line, remedy="name one, as /var/run/postgresql")
    return Path(hints.socket_dir or usable[0])


def _owner(path: Path) -> str:
    try:
        name = path.owner()
    except (OSError, KeyError):
        return ""
    return "" if name == "root" else name


def _existing(path: str, what: str) -> Path:
    if not Path(path).is_dir():
        raise ConfigError(f"{what} {path} does not exist", remedy=f"set {what} to where it is")
    return Path(path)


def _text(found: dict[str, Setting], name: str) -> str:
    return found[name].value if name in found else ""


# --- reading what the administrator wrote -------------------------------------------------------------------------------------


def read_settings(path: Path, looked_at: list[Path] | None = None) -> dict[str, Setting]:
    """All settings of a configuration file; raises ConfigError. ``looked_at`` gets each file and folder that was read."""
    looked = [] if looked_at is None else looked_at

    def file(path: Path) -> str | None:
        looked.append(path)
        return _read_file(path)

    def folder(path: Path) -> list[str]:
        looked.append(path)
        return _list_folder(path)

    return settings.read(path, file, folder)


def usable_settings(config: PostgresConfig) -> dict[str, Setting]:
    """The administrator's, or where these can't even be read, our copy of what could be used last. Raises ConfigError."""
    kept = Paths(config.state_dir).kept
    try:
        return read_settings(config.config_file)
    except ConfigError:
        if not kept.exists():
            raise
        return read_settings(kept)


def read_auto(data_dir: Path) -> dict[str, Setting]:
    """What ALTER SYSTEM wrote; it wins over every file."""
    path = data_dir / "postgresql.auto.conf"
    return read_settings(path) if path.exists() else {}


def _read_file(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as wrong:
        raise ConfigError(f"can't be read: {wrong.strerror}", file=path) from wrong


def _list_folder(path: Path) -> list[str]:
    try:
        return [name for name in os.listdir(path) if not (path / name).is_dir()]
    except OSError:
        return []


# --- the keeper's instructions ------------------------------------------------------------------------------------------------


def launch_of(config: PostgresConfig) -> dict[str, Any]:
    """What the keeper must know to start it (postgres_child.Launch)."""
    folders = [[str(config.socket_dir), 0o2775]]
    statistics = _text(usable_settings(config), "stats_temp_directory")
    if statistics.startswith("/"):
        folders.append([statistics, 0o750])
    return {
        "postgres": str(config.bin_dir / "postgres"),
        "data_dir": str(config.data_dir),
        "config_file": str(Paths(config.state_dir).settings),
        "user": config.user,
        "log_file": str(config.log_file),
        "environment": _environment(config),
        "folders": folders,
        "locks": [str(config.socket_dir / f".s.PGSQL.{config.port}.lock")],
    }


def _environment(config: PostgresConfig) -> dict[str, str]:
    """Debian's ``environment`` file: NAME = 'value'."""
    text = _read_file(config.config_file.parent / "environment") if config.start_conf is not None else None
    found = re.findall(r"(?m)^\s*([A-Za-z_]\w*)\s*=\s*(?:'([^'\n]*)'|([^#\n]*?))\s*(?:#.*)?$", text or "")
    return {name: quoted or bare for name, quoted, bare in found}
