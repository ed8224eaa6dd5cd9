"""This server's Postgres as it is seen: by the monitor, by the peer that asks for its identity, by an election.

Promise: nothing here waits for whoever changes Postgres, and nothing is changed, but that the administrator's own changes of
who is let in are taken over. Every call is bounded by its ``limit`` in seconds. Source: facts/postgres.md; docs/protocols.md.
"""

from __future__ import annotations

import json
from dataclasses import replace

from ha_manager import (
    adoption,
    controldata,
    receiving,
    rewinding,
    seeding,
    stock,
)
from ha_manager.inventory import Inventory
from ha_manager.observation import NOTHING, Identity, Observation, lsn
from ha_manager.replication import Clock
from ha_manager.underkeeper import UnderKeeper
from runtime.clock import boottime
from runtime.errors import ConfigError, ControlError, HaError

#: What the keeper said so long ago still holds (seconds): its lease is renewed as often, and a change it tells at once
TOLD = 0.35


class Looking(UnderKeeper):
    """What is, not what ought to be."""

    def facts(self, limit: float = 0.3) -> Observation:
        """Look now. Never raises for a Postgres that is down or hangs: then ``answers`` is False and ``because`` says why."""
        if not self._looking.acquire(timeout=limit):
            return replace(NOTHING, at=boottime(), because="another look at Postgres has not ended yet")
        try:
            state, ended, own = self._keeper_says(limit / 3, TOLD)
            seen = self._observer.look(limit, own, self._beyond, ending=state == "stopping")
            if state != "running" or not seen.answers:
                state, ended, _ = self._keeper_says(limit / 3)  # it may have changed in this very moment
        finally:
            self._looking.release()
        if self._copying:
            seen = replace(seen, foreign=0)  # pg_rewind runs one for a moment
        if state != "running":
            seen = replace(seen, state=state, answers=False, because=seen.because or f"Postgres is {state}: {ended}")
        self._follow_reload(seen)
        return seen if seen.state == state else replace(seen, state=state)

    def _keeper_says(self, limit: float, within: float = 0.0) -> tuple[str, str, int]:
        """Postgres's state, why, and its process id; asked for, unless the keeper said so ``within`` so many seconds."""
        try:
            status = self._keeper.within(within) or self._watch.status(limit)
            return str(status["state"]), str(status["because"]), int(status["pid"])
        except ControlError as wrong:
            return "unknown", str(wrong), -1

    def _beyond(self, counter: int) -> int:
        try:
            base = self._book.read().base
        except ConfigError:
            return 0
        return max(0, counter - base) if base >= 0 and counter >= 0 else 0

    def identity(self, limit: float = 1.0) -> Identity:
        """On the active: what ``judge`` on the peer needs (the session's ``replication`` request)."""
        clock = Clock(limit)
        with self._server.session(clock.left) as session:
            row = session.row(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()),"
                " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), pg_current_wal_insert_lsn()::text,"
                " (SELECT sum(pg_database_size(oid))::text FROM pg_database),"
                " (SELECT sum(size)::text FROM pg_ls_waldir()),"
                " (SELECT json_agg(json_build_array(pg_tablespace_location(oid), pg_tablespace_size(oid)))::text"
                "  FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'),"
                " (SELECT count(*)::text FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'),"
                " (SELECT bytes_per_wal_segment::text FROM pg_control_init())",
                clock.left,
            )
        timeline = int(row[1] or "0", 16)
        return Identity(
            system_identifier=row[0] or "",
            timeline=timeline,
            history=controldata.history(self.config.data_dir, timeline),
            lineage=self._book.read().known(timeline),
            lsn=lsn(row[2]),
            size=int(row[3] or 0),
            tablespaces=int(row[6] or 0),
            version=self.config.version,
            segment=int(row[7] or 0),
            locations=tuple((str(folder), int(size)) for folder, size in json.loads(row[5] or "[]")),
            wal=int(row[4] or 0),
        )

    def inventory(self) -> Inventory:
        """Extensions and collations, of every database; a moment for each."""
        return stock.take(self._node, self.config.version, self._server.connect)

    def data(self) -> str:
        """ready | none | copying | failed: can this database win an election (Message.data). Raises ConfigError when the note
        of its promotions is damaged: it could not be promoted.
        """
        if self._copying:
            return "copying"
        if not receiving.has_data(self.config.data_dir):
            return "none"
        self._book.read()
        unusable = seeding.in_progress(self.config.data_dir) or rewinding.interrupted(self.config)
        return "failed" if unusable or controldata.missing(self.config.data_dir) else "ready"

    def _follow_reload(self, seen: Observation) -> None:
        """The administrator may have reloaded: who is let in, and whether over TLS, follows what Postgres has now."""
        if seen.tls is None or seen.loaded == self._loaded:
            return
        self._loaded = seen.loaded
        try:
            if adoption.write_access(self.config, self._addresses, seen.tls, fsync=False):
                self._note("pg_hba.conf, pg_ident.conf or ssl has changed: taken over")
                self._server.reload()
        except (HaError, OSError) as wrong:
            self._note(f"the administrator's changes are not taken over: {wrong}")
