"""Which pages differ, and what is asked of the active: the parts of ``comparing`` and ``fetching`` that need no Postgres."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ha_manager.comparing import Here
from ha_manager.differences import is_relation
from ha_manager.fetching import array, differing, in_order, portions
from runtime.errors import ReplicationError

PAGE, SMALL = 8192, 256 << 10


def digests(*pages: bytes) -> bytes:
    return b"".join(hashlib.sha256(page).digest()[:16] for page in pages)


A, B, C = (letter * PAGE for letter in (b"a", b"b", b"c"))
#: the active's pages, those here, the length of the span in bytes, and what is fetched: (offset, bytes), from 4 MiB on
SPANS = [
    ("the same", (A, B), (A, B), 2 * PAGE, []),
    ("one differs", (A, B, C), (A, C, C), 3 * PAGE, [(1, 1)]),
    ("neighbours are one", (A, B, C), (B, C, C), 3 * PAGE, [(0, 2)]),
    ("two apart", (A, B, C), (B, B, B), 3 * PAGE, [(0, 1), (2, 1)]),
    ("longer there", (A, B, C), (A,), 3 * PAGE, [(1, 2)]),
    ("shorter there", (A,), (A, B, C), 3 * PAGE, []),
    ("nothing here", (A, B), (), 2 * PAGE, [(0, 2)]),
]


@pytest.mark.parametrize("there, here, length, runs", [case[1:] for case in SPANS], ids=[case[0] for case in SPANS])
def test_what_differs_is_fetched(
    there: tuple[bytes, ...], here: tuple[bytes, ...], length: int, runs: list[tuple[int, int]]
) -> None:
    base = 4 << 20
    assert differing(digests(*there), digests(*here), base, length) == [(base + at * PAGE, n * PAGE) for at, n in runs]


def test_a_last_page_that_is_not_whole_is_fetched_as_long_as_it_is() -> None:
    assert differing(digests(A, b"rest"), digests(A), 0, PAGE + 4) == [(PAGE, 4)]


def test_digests_in_another_order_are_not_believed() -> None:
    told = [number.to_bytes(8, "big") + digests(page) for number, page in ((512, A), (513, B))]
    assert in_order(b"".join(told), 512 * PAGE) == digests(A, B)
    for wrong in (b"".join(reversed(told)), told[1], told[0] + told[0]):
        with pytest.raises(ReplicationError, match="out of order"):
            in_order(wrong, 512 * PAGE)


def test_names_are_quoted_as_postgres_reads_anarray() -> None:
    assert array(["base/5/1", 'a "b"\\c, {d}']) == '{"base/5/1","a \\"b\\"\\\\c, {d}"}'


def test_no_question_fetches_more_than_four_mebibytes() -> None:
    page, most = PAGE, 4 << 20
    assert list(portions([])) == []
    assert list(portions([(0, page), (5 * page, page)])) == [[(0, page), (5 * page, page)]]
    assert list(portions([(page, page), (8 * page, 2 * most)])) == [
        [(page, page), (8 * page, most - page)],
        [(7 * page + most, most)],
        [(7 * page + 2 * most, page)],
    ]
    assert list(portions([(0, most), (most, page)])) == [[(0, most)], [(most, page)]]


def test_what_is_said_once_more_by_the_log() -> None:
    assert [path for path in ("base/5/1259", "base/5/1259_vm", "global/1262", "pg_xact/0000", "base/5/pg_filenode.map")
            if is_relation(path)] == ["base/5/1259", "base/5/1259_vm", "global/1262"]  # fmt: skip


def test_digests_are_had_in_the_order_of_paths_and_skipped_where_the_active_has_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "pg_wal" / "log").write_bytes(b"x" * 2 * SMALL)
    for name, letter in (("a", b"a"), ("b", b"b"), ("d", b"d")):
        (tmp_path / name).write_bytes(letter * (SMALL + PAGE))
    (tmp_path / "small").write_bytes(b"s")
    here = Here(tmp_path)
    try:
        assert set(here.sizes) == {"a", "b", "d", "small"}
        pages = SMALL // PAGE + 1
        assert here.digests("a", 0) == digests(*[A] * pages)
        assert here.digests("c", 0) == b""  # the active's alone; b here alone
        assert here.digests("d", 0) == digests(*[b"d" * PAGE] * pages)
        assert here.digests("e", 0) == b"" and here.digests("f", 0) == b""
        assert here.whole("small") == hashlib.sha256(b"s").digest() and here.whole("none") == b""
    finally:
        here.close()


def test_a_comparison_that_ends_early_leaves_no_thread(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").write_bytes(bytes(2 * SMALL))
    here = Here(tmp_path)
    here.close()
    assert not here._thread.is_alive()
