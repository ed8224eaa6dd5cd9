"""The Postgres of this server: where it is, who runs it, and how it is put under HA and given back.

Promise: the administrator's files are read, never edited; what we add is one settings file, one hba and one ident file of our own,
used only by a Postgres that the keeper starts; ``ha stop`` gives back exactly what was there. Debian's layout
(/etc/postgresql/VERSION/NAME) and plain ones. Source: design §4 rule 11, §6; facts/postgres.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def find(hints: Hints = Hints()) -> PostgresConfig:
    """The cluster that ``hints`` name, or the only one here. Raises ConfigError: none, several, or a path that isn't there."""
    raise NotImplementedError
