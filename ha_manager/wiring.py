"""This server's Postgres, made from its configuration: the same for the daemon and for ``ha``.

Promise: nothing is changed; what doesn't fit raises ConfigError. The replication password is derived by both servers from
their keys and never travels. Source: docs/protocols.md ("No secret travels"); design §6.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ha_manager import sql
from ha_manager.cluster import Hints, PostgresConfig, find
from ha_manager.config import Reachable
from ha_manager.database import Database
from runtime.keys import Keys

log = logging.getLogger("ha_manager")

#: label of the derivation, the same on both servers
REPLICATION = "postgres replication"


def cluster_of(config: Reachable) -> PostgresConfig:
    """The Postgres that ha_manager.conf names, or the only one here, with our own paths."""
    host, paths = config.host.postgres, config.host.paths
    hints = Hints(
        cluster=host.cluster, bin_dir=host.bin_dir, data_dir=host.data_dir, config_file=host.config_file, port=host.port,
        socket_dir=host.socket_dir, user=host.user, log_file=host.log_file,
    )  # fmt: skip
    return replace(
        find(hints), state_dir=paths.state / "postgres", diverged_dir=paths.state / "diverged", run_dir=paths.run,
        slot_keep_mb=host.slot_keep, compression=host.compression, copy=host.copy, rejoin=host.rejoin,
    )  # fmt: skip


def replication_password(keys: Keys) -> str:
    return keys.derive(REPLICATION).hex()


def database_of(config: Reachable, cluster: PostgresConfig, keys: Keys | None) -> Database:
    """``peer_addresses``: on every link, because replication may run on any of them. ``keys`` None: it is only let go of, for
    which nobody logs in.
    """
    sql.forget_environment()
    return Database(
        cluster,
        config.node,
        config.peer,
        peer_addresses=tuple(peer for _, peer in config.links),
        password=replication_password(keys) if keys is not None else "",
        note=lambda sentence: log.info("%s", sentence),
    )
