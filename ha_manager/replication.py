"""The active's side of replication: who must acknowledge a commit, and the proof of it; slot and role of the peer.

Promise: ``enforce`` returns a position X only when every commit after it waits for the standby of that epoch and everything
before it is flushed there; if anything goes wrong it relaxes again and raises. ``relax`` returns when no commit waits.

Why a proof (design §4 rule 7): commits look at a flag in shared memory that the checkpointer sets when it gets to it, while
pg_stat_replication already says ``sync``. All backends look at that one flag, so one probe that was *seen waiting* shows that
it is set for all. First the names hold one that nobody has: the probe must wait. X is read after that: a commit that
had passed the flag before lies below X. Then the names hold the peer's: from one list of names to the next the flag stays set.
The peer's standby releases the probe; a second one flushes everything up to X, and its flush position passes X.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path

from ha_manager import postmaster
from ha_manager.adoption import REPLICATION_ROLE
from ha_manager.observation import PLAIN, Upstream, lsn, lsn_text, slot_name, standby_name
from ha_manager.postgres import Server
from ha_manager.sql import Late, Session, conninfo
from runtime.errors import ReplicationError

_POLL = 0.001
#: For a question that must not fail because a limit ends while it is asked.
_GRACE = 0.1
#: A stopped checkpointer is woken when relaxing takes longer than this.
_WAKE_AFTER = 0.1
_PROBE = "SELECT pg_logical_emit_message(true, 'ha_manager', 'probe')"
_WAITING = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


class Clock:
    """What is left of a limit."""

    def __init__(self, limit: float) -> None:
        self._end = time.monotonic() + limit

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def need(self, what: str) -> float:
        """What is left; raises Late, naming ``what``, when nothing is."""
        if self.left <= 0:
            raise Late(f"no time left for: {what}")
        return self.left


def quoted(name: str) -> str:
    """A name in synchronous_standby_names."""
    return '"' + name.replace('"', '""') + '"'


def relax(server: Server, limit: float) -> None:
    """No names; nothing waits. Proof: a commit that would wait doesn't, and pg_stat_activity shows none that does."""
    clock = Clock(limit)
    server.change(names="")
    with server.session(clock.left) as look, server.session(clock.left, sync="on") as probe:
        probe.send(_PROBE)
        woken = time.monotonic() + _WAKE_AFTER
        while not (probe.done(_POLL) and look.one(_WAITING, clock.need("seeing who waits")) == "0"):
            if time.monotonic() > woken:
                postmaster.wake_stopped(postmaster.processes_of(server.config.data_dir))
                woken += _WAKE_AFTER
            if clock.left <= 0:
                raise ReplicationError(
                    f"commits still wait for the standby {limit:g} s after its name was taken away:"
                    " Postgres's checkpointer has not seen it (is the disk overloaded?)"
                )
        probe.fetch(clock.left)


def enforce(server: Server, epoch: int, peer: str, limit: float, note: Callable[[str], None]) -> int:
    """The position that the standby of ``peer`` is proven to hold, every commit after it waiting for it. See above."""
    name = standby_name(peer, epoch)
    clock = Clock(limit)
    before = server.dynamic().names
    with server.session(clock.left) as look:
        _require_streaming(look, name, clock)
        try:
            return _prove(server, look, name, epoch, clock)
        except ReplicationError as wrong:
            _take_back(server, before, quoted(name), note)
            raise ReplicationError(f"{name} can't be proven in sync: {wrong}") from wrong
        except BaseException:
            _take_back(server, before, quoted(name), note)
            raise


def _take_back(server: Server, before: str, wanted: str, note: Callable[[str], None]) -> None:
    """Relax again; but where names were enforced before (ha_manager or Postgres was restarted, perhaps amid a proof),
    they stay so: the peer may be fit, and only heartbeat decides to go solo (design §4 rule 6). Whoever is stopped and was in
    the way is woken for the next attempt.
    """
    postmaster.wake_stopped(postmaster.processes_of(server.config.data_dir))
    try:
        if before:
            server.change(names=wanted)
        else:
            relax(server, 5.0)
    except ReplicationError as wrong:
        note(f"taking a failed proof back: {wrong}")


def _prove(server: Server, look: Session, name: str, epoch: int, clock: Clock) -> int:
    with server.session(clock.need("a probe"), sync="on") as probe:
        server.change(names=quoted(f"ha_proof_{epoch}"))
        _see_waiting(look, probe, clock)
        position = lsn(look.one("SELECT pg_current_wal_insert_lsn()::text", clock.need("reading the position")))
        server.change(names=quoted(name))
        _see_released(look, probe, clock)
        # Commits with a position beyond X, so that X is flushed without waiting for the walwriter.
        probe.rows(_PROBE, clock.need("the standby's second acknowledgement"))
    while True:
        flushed, state = _flushed(look, name, clock)
        if state == "streaming" and flushed >= position:
            return position
        if clock.left <= 0:
            raise Late(f"it has flushed {lsn_text(max(0, flushed))}, not {lsn_text(position)}")
        time.sleep(_POLL)


def _see_waiting(look: Session, probe: Session, clock: Clock) -> None:
    """Commit probes until one is seen to wait: before the checkpointer applied the names, they don't."""
    pid = str(probe.pid)
    probe.send(_PROBE)
    while True:
        event = look.rows("SELECT wait_event FROM pg_stat_activity WHERE pid = $1::int", clock.left + _GRACE, [pid])
        if event and event[0][0] == "SyncRep":
            return
        if clock.left <= 0:
            raise Late("no commit was seen to wait: the checkpointer has not applied the names")
        if probe.done(_POLL):
            probe.fetch(_GRACE)
            probe.send(_PROBE)


def _see_released(look: Session, probe: Session, clock: Clock) -> None:
    """A walsender releases commits only when its standby says something: commits of our own, not waiting, make it speak."""
    while not probe.done(2 * _POLL):
        look.rows(_PROBE, clock.need("the standby's acknowledgement of the probe"))
    probe.fetch(_GRACE)


def _require_streaming(look: Session, name: str, clock: Clock) -> None:
    _, state = _flushed(look, name, clock)
    if state != "streaming":
        raise ReplicationError(f"{name} does not stream ({state or 'not connected'}), so nothing can be enforced")


def _flushed(look: Session, name: str, clock: Clock) -> tuple[int, str]:
    found = look.rows(
        "SELECT flush_lsn::text, state FROM pg_stat_replication WHERE application_name = $1 ORDER BY state = 'streaming' DESC",
        clock.left + _GRACE,
        [name],
    )
    return (lsn(found[0][0]), found[0][1] or "") if found else (-1, "")


# --- slot and role ------------------------------------------------------------------------------------------------------------


def ensure_slot(session: Session, peer: str, limit: float) -> None:
    """The peer's slot, reserving log from now on; one that Postgres has given up is replaced."""
    clock, name = Clock(limit), slot_name(peer)
    found = session.rows("SELECT wal_status, active::text FROM pg_replication_slots WHERE slot_name = $1", clock.left, [name])
    if found and found[0][0] == "lost" and found[0][1] == "false":
        session.rows("SELECT pg_drop_replication_slot($1)", clock.left, [name])
        found = []
    if not found:
        session.rows("SELECT pg_create_physical_replication_slot($1, true)", clock.left, [name])


def drop_slots(session: Session, limit: float) -> list[str]:
    """Drop the slots that this server held for its peer while it was active; they would keep log for ever."""
    clock = Clock(limit)
    found = session.rows(
        "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active AND slot_name LIKE 'ha\\_%'",
        clock.left,
    )
    names = [row[0] or "" for row in found]
    for name in names:
        session.rows("SELECT pg_drop_replication_slot($1)", clock.left, [name])
    return names


def ensure_role(session: Session, password: str, limit: float) -> None:
    """The replication role with this password. It goes to Postgres as a SCRAM verifier, and only if it isn't that already."""
    clock = Clock(limit)
    found = session.rows(
        "SELECT rolpassword,"
        " (rolreplication AND rolcanlogin AND coalesce(rolvaliduntil > now(), true) AND rolconnlimit = -1)::text"
        " FROM pg_authid WHERE rolname = $1",
        clock.left,
        [REPLICATION_ROLE],
    )
    if found and found[0][1] == "true" and verifies(found[0][0] or "", password):
        return
    verifier = session.native.encrypt_password(password.encode(), REPLICATION_ROLE.encode(), b"scram-sha-256").decode()
    word = "ALTER" if found else "CREATE"
    rights = "LOGIN REPLICATION CONNECTION LIMIT -1 VALID UNTIL 'infinity'"
    session.rows(f"{word} ROLE {REPLICATION_ROLE} {rights} PASSWORD '{verifier}'", clock.left)


def verifies(verifier: str, password: str) -> bool:
    """Is ``verifier`` (SCRAM-SHA-256$iterations:salt$stored:server, RFC 5803) that of ``password``?"""
    try:
        scheme, parameters, keys = verifier.split("$")
        iterations, salt = parameters.split(":")
        stored = base64.b64decode(keys.split(":")[0])
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    except ValueError:
        return False
    client = hmac.digest(salted, b"Client Key", "sha256")
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(hashlib.sha256(client).digest(), stored)


def upstream_conninfo(upstream: Upstream, name: str, passfile: Path) -> str:
    """primary_conninfo: a dead active is noticed within seconds; no password in it.

    Over TLS, and nothing else, unless the active itself said that it has none. Who is at the other end is proven without any
    authority: only the two servers know the password, SCRAM shows both that the other one does, and channel binding that no
    third one sits between (a relay would need the active's own certificate key). What lies in ~/.postgresql is not used: an
    authority's certificate there would be asked about the active's, another one's key be offered.
    """
    plain = {"sslmode": PLAIN}
    bound = {"sslmode": "require", "channel_binding": "require"}
    none = {name: str(passfile.with_name("none")) for name in ("sslrootcert", "sslcert")}
    return conninfo(
        host=upstream.host, port=upstream.port, user=REPLICATION_ROLE, application_name=name, passfile=str(passfile),
        connect_timeout=2, keepalives=1, keepalives_idle=1, keepalives_interval=1, keepalives_count=3, tcp_user_timeout=3000,
        gssencmode="disable", **(plain if upstream.tls is False else bound | none),
    )  # fmt: skip
