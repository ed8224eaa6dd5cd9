"""What of a Postgres is looked at only every few seconds: who takes its connections, what holds its replay up, its rights.

Promise: reads only, over a connection that is there already; a look that fails says nothing. Source: issue "Postgres: no
acknowledged write lost" (in-place care).
"""

from __future__ import annotations

import json

from ha_manager.adoption import REPLICATION_ROLE
from ha_manager.observation import Vitals
from ha_manager.sql import Row, Session

#: every so many seconds
PERIOD = 2.0

_LOOK = f"""
SELECT
  (SELECT json_build_object(
     'clients', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
     'places', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int,
     'busiest', (SELECT format('%s from %s', usename, coalesce(host(client_addr), 'this server'))
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        GROUP BY usename, client_addr ORDER BY count(*) DESC LIMIT 1),
     'between', pg_size_bytes(current_setting('max_wal_size')),
     'role', (SELECT rolreplication AND rolcanlogin AND coalesce(rolvaliduntil > now(), true) AND rolconnlimit = -1
        FROM pg_authid WHERE rolname = '{REPLICATION_ROLE}'),
     'archive', CASE WHEN current_setting('archive_mode') = 'always'
            OR current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery()
        THEN pg_size_bytes(current_setting('wal_segment_size')) * (SELECT count(*) FROM pg_ls_archive_statusdir()
            WHERE name LIKE '%.ready' AND modification < clock_timestamp() - interval '1 minute')
        ELSE 0 END,
     'replay', (SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
     'oldest', (SELECT format('process %s of %s, since %s', pid, usename, to_char(xact_start, 'HH24:MI:SS'))
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        ORDER BY xact_start LIMIT 1))::text)
"""


def look(session: Session, limit: float) -> Vitals:
    """Raises ReplicationError."""
    return read(session.row(_LOOK, limit))


def read(row: Row) -> Vitals:
    found = json.loads(row[0] or "{}")
    return Vitals(
        clients=int(found["clients"]),
        places=int(found["places"]),
        busiest=found["busiest"] or "",
        role=bool(found["role"]),
        replay_waits=found["replay"] or "",
        oldest=found["oldest"] or "",
        between_checkpoints=int(found["between"]),
        unarchived=int(found["archive"]),
    )
