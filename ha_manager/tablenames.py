"""Names of the tables whose files a log names, asked of this server's running Postgres.

Promise: best effort within a limit; a file that nobody knows (its table was rewritten, or never existed here) is left
out. Source: the manual on pg_filenode_relation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ha_manager import sql
from ha_manager.cluster import PostgresConfig
from ha_manager.divergence import File
from runtime.errors import ReplicationError

_LIMIT = 2.0


def of(config: PostgresConfig, files: Iterable[File]) -> dict[File, str]:
    """``database: schema.table`` of each file that is known; empty where Postgres does not run."""
    wanted = sorted(set(files), key=str)
    known: dict[File, str] = {}
    with contextlib.suppress(ReplicationError):
        for number, name in _databases(config).items():
            own = [file for file in wanted if file.database == number]
            if own:
                known |= _tables(config, name, own)
    return known


def _connect(config: PostgresConfig, database: str) -> sql.Session:
    info = sql.conninfo(host=str(config.socket_dir), port=config.port, user=config.user, dbname=database)
    return sql.Session(info, _LIMIT)


def _databases(config: PostgresConfig) -> dict[int, str]:
    with contextlib.closing(_connect(config, "postgres")) as session:
        rows = session.rows("SELECT oid::text, datname FROM pg_database WHERE datallowconn", _LIMIT)
    return {int(row[0] or 0): row[1] or "" for row in rows}


def _tables(config: PostgresConfig, database: str, files: list[File]) -> dict[File, str]:
    found: dict[File, str] = {}
    with contextlib.closing(_connect(config, database)) as session:
        for file in files:
            name = session.one("SELECT coalesce(pg_filenode_relation(0, $1::oid)::text, '')", _LIMIT, [str(file.number)])
            if name:
                found[file] = f"{database}: {name}"
    return found
