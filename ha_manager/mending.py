"""What is done to a Postgres in place: the hands of ``care``.

Promise: each remedy may be applied again and does nothing where it isn't needed; nothing here gives up an acknowledged write.
Postgres's own means are used (ALTER SYSTEM RESET, signals), no file of the administrator's is edited. Source: ``care``.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from ha_manager import adoption, cluster, keeper, postmaster, replication, settings
from ha_manager.care import Remedy
from ha_manager.cluster import PostgresConfig
from ha_manager.postgres import Server
from ha_manager.replication import Clock
from ha_manager.sql import Session
from runtime.errors import DidNotStart

_LIMIT = 5.0
#: so long after SIGTERM a walreceiver counts as frozen
_PATIENCE = 0.5
_POLL = 0.01


#: what an operator reads of a Postgres that was started by hand
FOREIGN = "a Postgres that somebody started on this server's data by hand was ended; ha_manager runs it again"


def apply(server: Server, remedy: Remedy) -> str:
    """What was done in words, if an operator should read them. Raises ReplicationError and its like."""
    data_dir = server.config.data_dir
    match remedy:
        case Remedy.END_FOREIGN:
            if adoption.end_foreign(server.config, keeper.living(server.config.run_dir), _LIMIT):
                return FOREIGN
        case Remedy.RESET:
            return _reset(server)
        case Remedy.RELEASE_LOG:
            with server.session(_LIMIT) as session:
                dropped = replication.drop_slots(session, _LIMIT)
            return (
                "the log of changes that was kept back for the other server was given up: the disk was nearly full"
                if dropped
                else ""
            )
        case Remedy.WAKE:
            postmaster.wake_stopped(postmaster.processes_of(data_dir))
        case Remedy.END_RECEIVER:
            _end_receiver(data_dir)
    return ""


def _reset(server: Server) -> str:
    names = settings.overridden(cluster.read_auto(server.config.data_dir))
    if not names:
        return ""
    with server.session(_LIMIT) as session:
        for name in names:
            session.rows(f"ALTER SYSTEM RESET {name}", _LIMIT)
    server.reload()
    return f"ALTER SYSTEM had set {', '.join(names)}, which ha_manager decides: it was taken back"


def _end_receiver(data_dir: Path) -> None:
    found = postmaster.receivers(postmaster.processes_of(data_dir))
    for each in found:
        postmaster.send(each.pid, signal.SIGTERM)
    postmaster.wake_stopped(found)
    end = time.monotonic() + _PATIENCE
    pids = {each.pid for each in found}
    while pids & {each.pid for each in postmaster.receivers(postmaster.processes_of(data_dir))}:
        if time.monotonic() > end:
            # Postgres takes this for a crash, and recovers anew.
            for pid in pids:
                postmaster.send(pid, signal.SIGKILL)
            return
        time.sleep(_POLL)


def let_replay_go_on(session: Session, limit: float) -> bool:
    """A pause of replay ends; True if there was one. One that Postgres made for want of a setting ends with Postgres: it is
    started again with what the active has.
    """
    clock = Clock(limit)
    paused = session.one("SELECT pg_is_wal_replay_paused()::text", clock.left) == "true"
    if paused:
        session.rows("SELECT pg_wal_replay_resume()", clock.left)
    return paused


# --- why it did not start ----------------------------------------------------------------------------------------------------


def size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def did_not_start(config: PostgresConfig, because: str, log_began: int) -> DidNotStart:
    """With Postgres's own reason: the last line of weight that it wrote since ``log_began``."""
    words = last_words(config.log_file, log_began)
    said = f": {words}" if words else ""
    return DidNotStart(f"Postgres did not come up ({because}){said}; its log is {config.log_file}", words)


_TAIL = 65536
#: clients are told so meanwhile, many times: nothing of it is why Postgres ended
_TO_CLIENTS = (
    "the database system is", "too many clients", "connection slots", "terminating connection", "authentication failed",
    "no pg_hba.conf entry",
)  # fmt: skip


def last_words(log: Path, began: int) -> str:
    """Without time stamp and process id; the last PANIC or FATAL that wasn't for a client, else the last line, which may end a
    sentence ("but …").
    """
    try:
        with open(log, "rb") as file:
            end = file.seek(0, 2)
            file.seek(max(began if began <= end else 0, end - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line[line.index(word) :] for line in lines for word in ("PANIC: ", "FATAL: ") if word in line]
    said = [words for words in said if not any(known in words for known in _TO_CLIENTS)]
    return " ".join((said or lines or [""])[-1].split()).removeprefix("but ")[:300]
