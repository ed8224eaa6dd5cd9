"""The phases of a rejoin and of a copy, read in a server's log."""

from __future__ import annotations

from datetime import datetime

import pytest

from bench.phases import phases, words

_DAY = "2026-11-29T07:19:"


def at(seconds: str) -> float:
    return datetime.fromisoformat(f"{_DAY}{seconds}+00:00").timestamp()


def log(*lines: tuple[str, str]) -> str:
    return "".join(f"{_DAY}{seconds}+00:00 vs-28 ha_manager[891]: {said}\n" for seconds, said in lines)


STOOD_DOWN = (
    ("02.366", "Postgres is stopped: asked for a immediate stop"),
    ("02.492", "copying the database of vs-166: the log here goes on beyond 0/7F09D080 on timeline 3"),
)
STARTED = (("08.100", "Postgres is starting: started"),)
COPIED = (
    ("02.600", "copying with pg_basebackup without compression; the link was measured at 700 MiB/s"),
    ("03.100", "the database of this server is replaced"),
    ("07.900", "copying the database of vs-166: 1345 of 1547 MiB, 88 %, 278 MiB/s, 1 s left"),
    ("08.000", "the active's checkpoint took 1.3 s, the copy 3.0 s, its way to the disk 0.8 s"),
)
COMPARED = "the pages of the database that differed from vs-166's were fetched (the active's checkpoint 0.7 s, comparing 1547"
CASES = [
    (
        COPIED,
        {
            "way": "copy", "standing down": 0.37, "judged": 0.13, "link measured": 0.11,
            "copied, with the active's checkpoint": 4.6, "writing to the disk": 0.8, "switched in and started": 0.1,
            "until it streams": 0.4,
        },
    ),
    (
        (("08.000", f"{COMPARED} MiB and fetching 97 of them 3.5 s, writing to the disk 0.4 s)"),),
        {
            "way": "comparison", "standing down": 0.37, "judged": 0.13, "log kept": 0.91, "active's checkpoint": 0.7,
            "comparing 1547 MiB and fetching 97 of them": 3.5, "writing to the disk": 0.4, "switched in and started": 0.1,
            "until it streams": 0.4,
        },
    ),
    (
        (("08.000", "the database was rewound to 0/7F09D080 by pg_rewind (crash recovery 1.7 s, pg_rewind 2.6 s)"),),
        {
            "way": "rewind", "standing down": 0.37, "judged": 0.13, "log kept": 1.21, "crash recovery": 1.7, "pg_rewind": 2.6,
            "switched in and started": 0.1, "until it streams": 0.4,
        },
    ),
    ((), {"way": "", "standing down": 0.37, "judged": 0.13, "switched in and started": 5.61, "until it streams": 0.4}),
]  # fmt: skip


@pytest.mark.parametrize("came, expected", CASES)
def test_phases_add_up(came: tuple[tuple[str, str], ...], expected: dict[str, str | float]) -> None:
    found = phases(log(*STOOD_DOWN, *came, *STARTED), at("02.000"), at("08.500"))
    assert found == expected
    assert sum(value for value in found.values() if isinstance(value, float)) == pytest.approx(6.5, abs=0.05)
    assert words(found).startswith(f"{expected['way'] or 'nothing came'}: standing down 0.37")


def test_what_was_before_and_what_is_no_line_is_no_phase() -> None:
    earlier = log(*STOOD_DOWN, *COPIED, *STARTED)
    assert phases(earlier + "nonsense\n", at("30.000"), at("31.000")) == {"way": "", "until it streams": 1.0}
