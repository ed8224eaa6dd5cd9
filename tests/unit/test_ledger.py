"""The ledger's record, what is concluded from it, and how a client behaves when the server doesn't.

Promise: the verdict finds every kind of wrong, and only that; an id is never given out twice. The real Postgres is in
tests/lab/test_ledger.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import pgbench
from bench.client import Either, Lost, Target
from bench.ledger import in_words, write
from bench.record import Count, Entry, Gap, Kind, Recorder, Verdict, complaints, gaps, is_dropped, judge, read


def acked(*ids: int, doubtful: tuple[int, ...] = ()) -> list[Entry]:
    entries = [Entry(float(id), Kind.SENT, id) for id in (*ids, *doubtful)]
    return entries + [Entry(id + 0.5, Kind.ACK, id) for id in ids]


@pytest.mark.parametrize(
    ("entries", "rows", "expected"),
    [
        (acked(1, 2, 3), [1, 2, 3], Verdict("c", 3, (), (), (), 0, 0)),
        (acked(1, 2, 3), [1, 3], Verdict("c", 3, (2,), (), (), 0, 0)),
        (acked(1, 2), [1, 2, 2, 2], Verdict("c", 2, (), (2,), (), 0, 0)),
        (acked(1, 9), [1, 7, 9, 10], Verdict("c", 2, (), (), (7,), 0, 0)),
        (acked(1, doubtful=(2, 3)), [1, 3], Verdict("c", 1, (), (), (), 1, 1)),
        ([], [], Verdict("c", 0, (), (), (), 0, 0)),
    ],
    ids=["all there", "one missing", "one twice", "one never sent, and a newer one", "in doubt", "nothing"],
)
def test_the_verdict(entries: list[Entry], rows: list[int], expected: Verdict) -> None:
    assert judge("c", entries, rows) == expected
    assert expected.holds == (not (expected.lost or expected.twice or expected.strange))


def test_a_commit_with_a_warning_is_in_doubt() -> None:
    entries = [Entry(1.0, Kind.SENT, 1), Entry(1.1, Kind.WARNED, 1, "canceling wait for synchronous replication")]
    assert judge("c", entries, []).lost == ()
    assert judge("c", entries, []).in_doubt_absent == 1
    assert Count.of(entries).acknowledged == 0


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0.0, 5.1), [Gap(2.0, 4.0), Gap(1.0, 2.0), Gap(4.0, 5.0)]),
        ((2.5, 3.0), [Gap(2.0, 4.0)]),
        ((4.2, 5.4), [Gap(4.0, 5.0)]),
        ((0.0, 0.5), []),
        ((4.5, 30.0), [Gap(5.0, None), Gap(4.0, 5.0)]),
    ],
    ids=["all", "inside one gap", "the end", "before", "never again"],
)
def test_gaps(window: tuple[float, float], expected: list[Gap]) -> None:
    assert gaps([1.0, 2.0, 4.0, 5.0], *window, least=0.5) == expected


def test_an_id_is_never_given_out_again(tmp_path: Path) -> None:
    path = tmp_path / "acks"
    first = Recorder(path)
    given = [first.next_id(), first.next_id()]
    first.close()
    with path.open("a") as file:
        file.write("123.4 se")  # killed in the middle of a line
    second = Recorder(path)
    given.append(second.next_id())
    assert given == [1, 2, 3]
    assert [entry.id for entry in read(path) if entry.kind is Kind.SENT] == [1, 2, 3]


class Server:
    """Answers as the script says, one word an insert or a connection."""

    settings = "scripted"

    def __init__(self, *script: str) -> None:
        self.script: Iterator[str] = iter(script)
        self.done = False
        self.sent: list[int] = []

    def _next(self) -> str:
        word = next(self.script, "")
        self.done = not word
        return word

    def connect(self) -> Server:
        if self._next() != "connect":
            raise Lost("refused")
        return self

    def insert(self, id: int) -> str:
        self.sent.append(id)
        word = self._next()
        if word in ("", "lose"):
            raise Lost("server closed the connection")
        return "not replicated" if word == "warn" else ""

    def close(self) -> None:
        pass


def test_it_goes_on_after_every_error(tmp_path: Path) -> None:
    server = Server("refuse", "connect", "ok", "lose", "connect", "warn", "ok", "lose", "refuse")
    write(server, Recorder(tmp_path / "acks"), 0.0, lambda: server.done)
    kinds = [(entry.kind, entry.id) for entry in read(tmp_path / "acks")]
    assert server.sent == [1, 2, 3, 4, 5]
    assert kinds == [
        (Kind.BEGUN, 0), (Kind.FAILED, 0), (Kind.CONNECTED, 0), (Kind.SENT, 1), (Kind.ACK, 1), (Kind.SENT, 2),
        (Kind.UNKNOWN, 2), (Kind.CONNECTED, 0), (Kind.SENT, 3), (Kind.WARNED, 3), (Kind.SENT, 4), (Kind.ACK, 4), (Kind.SENT, 5),
        (Kind.UNKNOWN, 5), (Kind.FAILED, 0), (Kind.FAILED, 0), (Kind.ENDED, 0),
    ]  # fmt: skip


def test_the_words_name_what_is_missing() -> None:
    assert "missing: 2, 9" in in_words(Verdict("c", 3, (2, 9), (), (), 0, 0))
    assert (
        in_words(Verdict("c", 3, (), (), (), 1, 1))
        == "c: 3 acknowledged, 0 of them missing; 2 cut off before the answer came (1 of them written)"
    )


TOLD = [
    ("server closed the connection unexpectedly This probably means the server terminated abnormally", True),
    ('connection to server at "192.168.120.187", port 5432 failed: Connection refused', True),
    ("no connection within its time limit", True),
    ("FATAL: terminating connection due to administrator command", True),
    ("FATAL: the database system is not yet accepting connections", True),
    ("SSL connection has been closed unexpectedly", True),
    ("SSL SYSCALL error: EOF detected", True),
    ("pgbench: error: could not create connection for setup", True),
    ("pgbench: error: client 2 aborted in command 4 (SQL) of script 0; perhaps the backend died while processing", True),
    ("ERROR: cannot execute INSERT in a read-only transaction", False),
    ("FATAL: remaining connection slots are reserved for non-replication superuser connections", False),
    ("ERROR: canceling statement due to conflict with recovery", False),
    ('ERROR: relation "ledger" does not exist', False),
]


@pytest.mark.parametrize(("text", "dropped"), TOLD)
def test_a_dropped_connection_is_told_from_other_errors(text: str, dropped: bool) -> None:
    assert is_dropped(text) is dropped
    assert (complaints([Entry(5.0, Kind.UNKNOWN, 1, text)]) == []) is dropped
    assert (pgbench.complaints(f"progress\n{text.replace('no connection', 'error: no connection')}\n") == []) is dropped


def test_a_warning_is_always_a_complaint_and_the_past_is_none() -> None:
    entries = [Entry(1.0, Kind.UNKNOWN, 1, "ERROR: x"), Entry(5.0, Kind.WARNED, 2, "the connection to server was lost")]
    assert complaints(entries, since=2.0) == ["warned: the connection to server was lost"]


def test_of_several_servers_each_has_its_turn() -> None:
    target = Target("a,b", port=5432)
    assert [each.host for each in target.each] == ["a", "b"]
    assert all("target_session_attrs=read-write" in each.conninfo() for each in (target, *target.each))
    assert "target_session_attrs" not in Target("a").conninfo()


def test_the_other_one_is_tried_after_a_failure() -> None:
    one, two = Choice("a", 1), Choice("b", 0)
    either = Either([one, two])  # type: ignore[list-item]
    for expected in ("a", "", "b", "b"):
        try:
            found = str(either.connect())
        except Lost:
            found = ""
        assert found == expected


class Choice:
    """One of ``Either``'s; lets ``often`` connections in before it refuses all (0: always)."""

    def __init__(self, name: str, often: int) -> None:
        self.name, self.left = name, often or 99

    def connect(self) -> str:
        if not self.left:
            raise Lost("refused")
        self.left -= 1
        return self.name
