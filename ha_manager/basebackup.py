"""pg_basebackup: how it is called, and whether what it sends is compressed.

Promise: the log needed meanwhile is kept (the passive's slot on the active is there before the copy, which uses it);
compression is what was set, else chosen by the speed of the link (``linkspeed``), and is left out where one of the two Postgres
can't. Source: manual, pg_basebackup; facts/postgres.md, "Floors"; the figures in docs/lab.md.
"""

from __future__ import annotations

from pathlib import Path

from ha_manager import tablespaces, transfer
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.copying import Copy
from ha_manager.observation import COPIES, Identity, slot_name
from ha_manager.replication import upstream_conninfo
from ha_manager.transfer import Watch
from runtime.errors import CommandFailed

#: The active compresses from this version on.
_SINCE = 15
_AUTO = "auto"
METHODS = (_AUTO, "none", "lz4", "zstd", "gzip")
#: MiB a second: on a faster link a copy is sooner done without lz4, which pg_basebackup unpacks into writes of 4 KiB; on a
#: slower one zstd's better ratio wins. Measured: docs/lab.md.
_FAST, _SLOW = 400.0, 4.0
_UNSUPPORTED = ("not supported by this build", "unrecognized compression algorithm")


def choose(setting: str, version: int, rate: float) -> str:
    """none | lz4 | zstd | gzip. ``rate``: MiB a second on the link, 0: not known."""
    if version < _SINCE:
        return "none"
    if setting != _AUTO:
        return setting
    if rate > _FAST:
        return "none"
    return "zstd" if 0 < rate < _SLOW else "lz4"


def run(copy: Copy, target: Path) -> None:
    """Into ``target``, which is not there yet; tablespaces and log folder into the sides of its label. Not synced."""
    config = copy.config
    info = upstream_conninfo(copy.upstream, f"{COPIES}{copy.node}", Paths(config.state_dir).passfile)
    rate = copy.link() if config.compression == _AUTO and config.version >= _SINCE else 0.0
    method = choose(config.compression, config.version, rate)
    sides = side_folders(config, copy.active, copy.label)
    for each in sides:
        tablespaces.make_side(config, each)
    argv = [*command(config, info, copy.node, target), *mapping(config, copy.active, copy.label)]
    watch = Watch(disks=[target.parent, *sides], written=[target, *sides])
    flag = [] if method == "none" else [f"--compress=server-{method}"]
    measured = f"; the link was measured at {rate:.0f} MiB/s" if rate else ""
    copy.note(f"copying with pg_basebackup {' '.join(flag) or 'without compression'}{measured}")
    try:
        transfer.run([*argv, *flag], config.user, copy.progress, copy.limit, watch)
    except CommandFailed as failed:
        if not flag or not any(word in failed.stderr for word in _UNSUPPORTED):
            raise
        copy.note(f"one of the two Postgres can't compress with {method}: copying without")
        transfer.run(argv, config.user, copy.progress, copy.limit, watch)


def command(config: PostgresConfig, info: str, node: str, target: Path) -> list[str]:
    return [
        *transfer.as_user(config.user), str(config.bin_dir / "pg_basebackup"), "-d", info, "-D", str(target), "-c", "fast",
        "-X", "stream", "-S", slot_name(node), "-P", "-w", "--no-manifest",
        "--no-sync",
    ]  # fmt: skip


def side_folders(config: PostgresConfig, active: Identity, label: str) -> list[Path]:
    """Everything that the copy named ``label`` makes outside its data directory."""
    found = [tablespaces.beside(Path(folder), label) for folder, _ in active.locations]
    log = tablespaces.log_folder(config.data_dir)
    return [*found, tablespaces.beside(log, label)] if log is not None else found


def mapping(config: PostgresConfig, active: Identity, label: str) -> list[str]:
    """Arguments that lead tablespaces and log into their folders here."""
    words = []
    for folder, _ in active.locations:
        there, here = folder.replace("=", "\\="), str(tablespaces.beside(Path(folder), label)).replace("=", "\\=")
        words.append(f"--tablespace-mapping={there}={here}")
    log = tablespaces.log_folder(config.data_dir)
    return [*words, f"--waldir={tablespaces.beside(log, label)}"] if log is not None else words
