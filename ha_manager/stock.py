"""Taking stock of what is installed beside the database, on both servers, now and then.

Promise: a thread of its own, which nothing waits for; what can't be looked at, or a peer that can't be asked, is tried again
and says nothing meanwhile: the alarms stay as they were. Source: ``inventory``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from math import inf
from typing import Any

from ha_manager.inventory import Inventory, aging, compare, loose, torn
from ha_manager.sql import Session
from runtime.errors import HaError

log = logging.getLogger(__name__)

#: seconds between two looks, and until the next attempt when one failed
PERIOD, AGAIN = 60.0, 5.0
_LIMIT = 5.0

_SERVER = """
SELECT (SELECT json_object_agg(name, versions) FROM
    (SELECT name, json_agg(version) AS versions FROM pg_available_extension_versions GROUP BY name) a)::text,
  current_setting('shared_preload_libraries')
"""
#: here and not with what is looked at every few seconds: before Postgres 15 it makes the statistics be written to a file
_TORN = "SELECT coalesce(sum(checksum_failures), 0)::text FROM pg_stat_database"
#: who keeps old rows from being removed for more than an hour; and how much of the 2^31 transactions is used
_OLD = """
SELECT pg_is_in_recovery()::text, (SELECT max(age(datfrozenxid))::text FROM pg_database),
  (SELECT format('the prepared transaction %s of %s, since %s', gid, owner, to_char(prepared, 'YYYY-MM-DD HH24:MI')) FROM
     pg_prepared_xacts WHERE prepared < now() - interval '1 hour' ORDER BY prepared LIMIT 1),
  (SELECT format('process %s of %s, idle in a transaction since %s', pid, usename, to_char(xact_start, 'YYYY-MM-DD HH24:MI'))
     FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND xact_start < now() - interval '1 hour'
     ORDER BY xact_start LIMIT 1)
"""
#: whose commits don't wait for the passive, whatever synchronous_standby_names says
_LOOSE = """
SELECT string_agg(concat_ws(' in ', 'role ' || rolname, 'database ' || datname), ', ' ORDER BY rolname, datname)
  FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
  WHERE EXISTS (SELECT FROM unnest(setconfig) one WHERE one ~* '^synchronous_commit=(off|of|local|false|no?|0)$')
"""
#: -2: one whose DROP was interrupted takes no connections
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname"
_USED = "SELECT extname || ' ' || extversion FROM pg_extension"
#: of the database itself (Postgres 15), of the locale that it was created with (before), and of columns that name another one
_DEFAULT_15 = """
SELECT CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END || ' ' || datcollate,
  pg_database_collation_actual_version(oid), datcollversion FROM pg_database WHERE datname = current_database()
"""
_DEFAULT_13 = """
SELECT 'libc ' || datcollate, pg_collation_actual_version(c.oid), NULL FROM pg_database d
  JOIN pg_collation c ON c.collprovider = 'c' AND c.collcollate = d.datcollate
  WHERE datname = current_database() LIMIT 1
"""
_COLUMNS = """
SELECT CASE collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END || ' ' || collname,
  pg_collation_actual_version(oid), collversion FROM pg_collation
  WHERE oid IN (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384 AND attcollation NOT IN (0, 100, 950, 951))
"""


def take(node: str, version: int, connect: Callable[[str], Session]) -> Inventory:
    """``connect`` opens a session with a database by its name. Raises ReplicationError."""
    used: dict[str, set[str]] = {}
    collations: dict[str, str] = {}
    recorded: dict[str, str] = {}
    session = connect("postgres")
    try:
        available, preloads = session.row(_SERVER, _LIMIT)
        torn = int(session.one(_TORN, _LIMIT))
        recovering, used_up, prepared, idle = session.row(_OLD, _LIMIT)
        unfenced = session.one(_LOOSE, _LIMIT)
        databases = [row[0] or "" for row in session.rows(_DATABASES, _LIMIT)]
    finally:
        session.close()
    for name in databases:
        session = connect(name)
        try:
            for row in session.rows(_USED, _LIMIT):
                used.setdefault(row[0] or "", set()).add(name)
            for query in (_DEFAULT_15 if version >= 15 else _DEFAULT_13, _COLUMNS):
                for which, here, built_with in session.rows(query, _LIMIT):
                    if here:
                        collations[which or ""] = here
                    if here and built_with:
                        recorded[which or ""] = built_with
        finally:
            session.close()
    return Inventory(
        node,
        {each: tuple(sorted(names)) for each, names in used.items()},
        {name: tuple(each) for name, each in json.loads(available or "{}").items()},
        collations,
        recorded,
        _listed(preloads or ""),
        torn,
        aging(recovering == "true", int(used_up or 0), tuple(each for each in (prepared, idle) if each)),
        loose(unfenced),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip().strip('"') for word in text.split(",") if word.strip())


class Stock:
    """``own`` is for the peer; from any thread."""

    def __init__(
        self,
        look: Callable[[], Inventory],
        ask: Callable[[], dict[str, Any] | None],
        report: Callable[[dict[str, str]], None],
        clock: Callable[[], float],
    ) -> None:
        """``ask``: the peer's inventory as it came, None while it can't be had; ``report`` gets the alarms."""
        self._take = look
        self._clock = clock
        self._taking = threading.Lock()
        self._taken_at = -inf
        self._ask = ask
        self._report = report
        self._wake = threading.Event()
        self._ended = False
        self._own = Inventory("")
        self._torn = -1

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def nudge(self) -> None:
        """The session is new, or somebody wants it looked at now."""
        self._wake.set()

    def run(self) -> None:
        while not self._ended:
            self._wake.wait(PERIOD if self.turn() else AGAIN)
            self._wake.clear()

    def own(self, age: float = 0.0) -> Inventory:
        """What is here, looked at no longer than ``age`` seconds ago. Raises ReplicationError."""
        with self._taking:
            if self._clock() - self._taken_at > age:
                self._own = self._take()
                self._taken_at = self._clock()
            return self._own

    def turn(self) -> bool:
        """True if both could be looked at."""
        try:
            own = self.own()
            self._torn = own.torn if self._torn < 0 else self._torn
            self._report({"torn": torn(own.torn - self._torn), "aging": own.aging, "loose": own.loose})
            if (said := self._ask()) is None:
                return False
            self._report(compare(own, Inventory.from_json(said)))
        except (HaError, KeyError, TypeError, ValueError, AttributeError) as wrong:
            log.debug("extensions and collations can't be compared: %s", wrong)
            return False
        return True
