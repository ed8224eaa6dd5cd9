"""Why a Postgres did not start, and whether anybody is there: read from words that Postgres and libpq write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_manager.mending import last_words, size
from ha_manager.sql import Rejected

LOG = b"""2026-11-28 13:37:03.983 UTC [460] LOG:  starting PostgreSQL 15.20
2026-11-28 13:37:03.990 UTC [460] FATAL:  database files are incompatible with server
2026-11-28 13:37:03.990 UTC [460] DETAIL:  The database cluster was initialized with PG_CONTROL_VERSION 0
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOG, "FATAL: database files are incompatible with server"),
        (LOG + b"x [1] PANIC:  could not write\nx [1] LOG:  bye\n", "PANIC: could not write"),
        (
            b"postgres: could not access the server configuration file\n",
            "postgres: could not access the server configuration file",
        ),
        (
            b'postgres: could not find the database system\nExpected to find it in the directory "/x",\n'
            b'but could not open file "/x/global/pg_control": Permission denied\n',
            'could not open file "/x/global/pg_control": Permission denied',
        ),
        (
            LOG + b"x [2] FATAL:  the database system is starting up\n"
            b'x [3] FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "u", database "d", no encryption\n'
            b"x [4] FATAL:  terminating connection due to administrator command\n",
            "FATAL: database files are incompatible with server",
        ),
        (LOG + b"x [2] FATAL:  sorry, too many clients already\n" * 300, "FATAL: database files are incompatible with server"),
        (b"x [2] FATAL:  the database system is starting up\n", "x [2] FATAL: the database system is starting up"),
        (b"x" * 200000 + b"\n" + LOG, "FATAL: database files are incompatible with server"),
        (b"", ""),
    ],
)
def test_last_words_of_postgres(tmp_path: Path, text: bytes, words: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x [1] FATAL:  of the last time\n")
    began = size(log)
    log.write_bytes(log.read_bytes() + text)
    assert last_words(log, began) == words


def test_a_log_that_was_rotated_or_is_not_there(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert size(log) == 0 and last_words(log, 0) == ""
    log.write_bytes(LOG)
    assert last_words(log, 10**6).startswith("FATAL")


@pytest.mark.parametrize(
    ("words", "final"),
    [
        ('connection to server on socket "/run/x/.s.PGSQL.5432" failed: FATAL:  sorry, too many clients already', True),
        ('connection … failed: FATAL:  could not open file "global/pg_filenode.map": No such file or directory', True),
        ("connection … failed: FATAL:  Es sind schon zu viele Clients verbunden", True),
        ("connection … failed: FATAL:  the database system is starting up", False),
        ("connection … failed: FATAL:  the database system is shutting down", False),
        ("connection … failed: FATAL:  the database system is not yet accepting connections", False),
        (
            'connection to server on socket "/run/x/.s.PGSQL.5432" failed: No such file or directory Is the server running',
            False,
        ),
        ("connection … failed: Connection refused Is the server running locally", False),
    ],
)
def test_who_refuses_a_connection_for_good(words: str, final: bool) -> None:
    assert Rejected(words).final is final
    assert Rejected(words).crowded is ("too many clients" in words)
