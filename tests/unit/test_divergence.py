"""What a replaced database held: read from pg_waldump's lines, listed, newest, removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_manager.divergence import Committed, Kept, Rows, listed, newest, remove, words, write
from runtime.errors import HaError


def record(manager: str, transaction: int, what: str) -> str:
    place = "lsn: 0/03000100, prev 0/030000C8"
    return f"rmgr: {manager:<11} len (rec/tot):     54/    54, tx: {transaction:>10}, {place}, desc: {what}"


TABLE = "blkref #0: rel 1663/5/16384 blk 0"
LOGS: list[tuple[str, list[str], int, dict[str, dict[str, int]]]] = [
    ("nothing", ["pg_waldump: error: garbage", ""], 0, {}),
    (
        "committed rows count, of Postgres 15 and 17",
        [
            record("Heap", 735, f"INSERT off 3 flags 0x00, {TABLE}"),
            record("Heap", 735, f"HOT_UPDATE off: 1, flags: 0x20, old_xmax: 735, new_off: 2, {TABLE}"),
            record("Heap2", 735, f"MULTI_INSERT+INIT 38 tuples flags 0x02, {TABLE}"),
            record("Heap2", 735, f"MULTI_INSERT ntuples: 4, flags: 0x02, offsets: [1, 2, 3, 4], {TABLE}"),
            record("Heap", 735, f"DELETE off 1 flags 0x00 KEYS_UPDATED , {TABLE}"),
            record("Btree", 735, "INSERT_LEAF off 3, blkref #0: rel 1663/5/16390 blk 1"),
            record("Transaction", 735, "COMMIT 2026-01-01 00:00:00.000000 UTC"),
        ],
        1,
        {"5/16384": {"inserted": 43, "updated": 1, "deleted": 1}},
    ),
    (
        "an aborted one and one under way don't",
        [
            record("Heap", 735, f"INSERT off 3 flags 0x00, {TABLE}"),
            record("Transaction", 735, "ABORT 2026-01-01 00:00:00.000000 UTC"),
            record("Heap", 736, f"INSERT off 4 flags 0x00, {TABLE}"),
        ],
        0,
        {},
    ),
    (
        "a subtransaction counts with its parent",
        [
            record("Heap", 737, f"INSERT off 3 flags 0x00, {TABLE}"),
            record("Transaction", 736, "COMMIT 2026-01-01 00:00:00.000000 UTC; subxacts: 737 738"),
        ],
        1,
        {"5/16384": {"inserted": 1}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "count", "found"), [row[1:] for row in LOGS], ids=[row[0] for row in LOGS])
def test_rows_changed_by_what_was_committed(lines: list[str], count: int, found: dict[str, dict[str, int]]) -> None:
    committed = Committed()
    for line in lines:
        committed.see(line)
    rows = Rows(committed)
    for line in lines:
        rows.see(line)
    assert committed.transactions == count and rows.by_file() == found


def test_transactions_of_a_huge_log_take_a_bit_each() -> None:
    committed = Committed()
    for number in (3, 65535, 65536, 4294967295):
        committed.see(record("Transaction", number, "COMMIT 2026-01-01 00:00:00.000000 UTC"))
    assert [each for each in (2, 3, 4, 65535, 65536, 65537, 4294967295) if each in committed] == [3, 65535, 65536, 4294967295]
    assert sum(map(len, committed._pages.values())) == 3 * 8192


def test_the_words_say_what_is_known_and_what_is_not_yet() -> None:
    kept = Kept("7-20260101T000000", because="it forked", timeline=2, fork="0/3000000", counted=False)
    assert "is being counted" in words(kept, Path("/d")) and "-s 0/3000000" in words(kept, Path("/d"))
    assert "holds 8 transactions beyond that up to 0/4" in words(Kept("x", fork="0/3", transactions=8, end="0/4"), Path("/d"))
    assert "at most 8 transactions" in words(Kept("x", transactions=8), Path("/d"))
    assert "an unknown number" in words(Kept("x", fork="0/3"), Path("/d"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "main").mkdir()
    return tmp_path / "main"


def test_lists_logs_and_directories_oldest_first(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "diverged"
    for label in ("9-20260101T000000", "10-20260102T000000", "notours"):
        (folder / label).mkdir(parents=True)
    tables = {"5/1": {"inserted": 2}}
    kept = Kept("10-20260102T000000", timeline=3, fork="0/3000000", transactions=2, acknowledged="no", tables=tables)
    write(folder / kept.label, kept)
    data.with_name("main.diverged-11-20260103T000000").mkdir()
    (data / "kept").touch()
    first, second, third = listed(folder, data)
    assert (first.label, first.transactions, first.folder) == ("9-20260101T000000", -1, str(folder / "9-20260101T000000"))
    assert second.as_json() == kept.as_json() and "holds 2 transactions" in second.text and second.directory == ""
    assert third.directory == str(data.with_name("main.diverged-11-20260103T000000")) and third.folder == ""


def test_a_damaged_report_is_no_reason_to_hide_what_is_kept(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "diverged/9-20260101T000000"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"fork": 1}', '{"stranger": 1, "fork": ""}'):
        (folder / "report.json").write_text(text)
        assert [kept.label for kept in listed(tmp_path / "diverged", data)] == ["9-20260101T000000"]


def test_removes_what_is_named_and_nothing_else(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "diverged"
    for label in ("9-20260101T000000", "10-20260102T000000"):
        (folder / label / "pg_wal").mkdir(parents=True)
        data.with_name(f"main.diverged-{label}").mkdir()
    remove(listed(folder, data)[0], data)
    assert [kept.label for kept in listed(folder, data)] == ["10-20260102T000000"]
    assert data.exists()
    with pytest.raises(HaError, match="can't be removed"):
        remove(Kept("x", folder="/proc/self/fd"), data)


def test_one_line_tells_of_the_newest_and_where_to_read_on(tmp_path: Path) -> None:
    folder = tmp_path / "diverged"
    assert newest(folder) == ""
    for label, count, word in (("10-20260102T000000", 1, "no"), ("9-20260103T000000", 7, "yes")):
        (folder / label).mkdir(parents=True)
        write(folder / label, Kept(label, transactions=count, acknowledged=word))
    told = "the database that was replaced here held 7 transactions, acknowledged to clients, beyond the fork"
    assert newest(folder) == f"{told}: `ha diverged show 9-20260103T000000`"
    (folder / "9-20260103T000000/report.json").write_text("{")
    assert "an unknown number of transactions beyond" in newest(folder)
