"""What outlives a heartbeat, and the process that writes it: real files, a real fork."""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from heartbeat.model import Epoch, Persisted, PersistFailed, Record
from heartbeat.store import HISTORY, Store, record_from_json, record_to_json
from heartbeat.writer import Writer
from runtime.clock import boottime
from runtime.errors import ConfigError

FULL = Record(
    epoch=Epoch(7, "vs-28"), active=True, solo=True, in_sync=True, stood_down=True, tentative=True, previous=Epoch(6, "vs-166"),
    timeline=9, suspended=True, suspend_version=3, changes=2, lax=True,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state")
    store.hold()
    yield store
    os.close(store.lock)


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    writer = Writer(store)
    yield writer
    pid = writer.pid
    writer.close()
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)


def answers(writer: Writer, count: int) -> list[Persisted | PersistFailed]:
    """The next ``count`` answers; fewer after 30 s (each is an fsync, and others use the disk too)."""
    found: list[Persisted | PersistFailed] = []
    end = time.monotonic() + 30
    while len(found) < count and (left := end - time.monotonic()) > 0:
        select.select([writer], [], [], left)
        found += writer.answers()
    return found


def test_the_sample_differs_from_an_empty_record_in_every_field() -> None:
    assert [each.name for each in fields(Record) if getattr(FULL, each.name) == getattr(Record(), each.name)] == []


@pytest.mark.parametrize("record", [Record(), FULL])
def test_a_record_survives_its_document(record: Record) -> None:
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"version": None}, {"epoch": [1]}, {"epoch": [-1, "a"]}, {"epoch": [True, "a"]}, {"epoch": ["1", "a"]},
        {"epoch": "1/a"}, {"epoch": [1, 2]}, {"active": 1}, {"solo": "yes"}, {"timeline": 1.0}, {"timeline": -1}, {"more": 1},
    ],
)  # fmt: skip
def test_a_damaged_document_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="record of this node's epoch") as refused:
        record_from_json(record_to_json(FULL) | change, "/some/record")
    assert refused.value.file == "/some/record" and refused.value.remedy


def test_a_record_of_before_a_field_was_added_is_read() -> None:
    document = record_to_json(FULL)
    del document["changes"]
    assert record_from_json(document) == replace(FULL, changes=0)


@pytest.mark.parametrize("name", [*sorted({each.name for each in fields(Record)} - {"changes", "lax"}), "version"])
def test_no_field_may_be_missing(name: str) -> None:
    document = record_to_json(FULL)
    del document[name]
    with pytest.raises(ConfigError):
        record_from_json(document)


def test_no_file_is_a_new_node_and_nothing_else_is(store: Store) -> None:
    assert store.read_record() == Record()
    for damaged in (b"", b"{", b"[]", b"null", b"\xff", b"{}", json.dumps(record_to_json(FULL)).encode()[:-5], b" " * 100_000):
        store.record_file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="record"):
            store.read_record()


def test_a_record_that_can_not_be_read_is_not_empty(store: Store) -> None:
    store.record_file.mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        store.read_record()
    store.record_file.rmdir()
    store.record_file.symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="can't be read"):
        store.read_record()


def test_generations_grow_and_are_seeded_by_the_time(store: Store) -> None:
    assert [store.next_generation(1000.5), store.next_generation(2000.0), store.next_generation(5.0)] == [1001, 2001, 2002]


@pytest.mark.parametrize("content", ["rubbish", "", "-5", "17", "\x00\x00", "9" * 20, "9" * 4200, "1e9"])
def test_a_damaged_generation_never_begins_below_what_the_peer_has_heard(store: Store, content: str) -> None:
    """Nor above what a frame can carry: either way the peer would ignore this server for good."""
    heard = store.next_generation(2000.0)
    store.generation_file.write_text(content)
    assert heard < store.next_generation(2001.0) < 1 << 64


def test_a_second_heartbeat_is_refused_while_the_first_lives(store: Store) -> None:
    with pytest.raises(ConfigError, match="another heartbeat"):
        Store(store.folder).hold(limit=0.01)


def test_a_dead_heartbeats_last_write_is_waited_for(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.hold()
    writer = Writer(first)
    os.kill(writer.pid, signal.SIGSTOP)
    writer.persist(1, FULL)
    os.close(first.lock)
    writer.close()
    second = Store(tmp_path)
    with pytest.raises(ConfigError):
        second.hold(limit=0.01)
    os.kill(writer.pid, signal.SIGCONT)
    second.hold(limit=30)
    assert second.read_record() == FULL
    os.waitpid(writer.pid, 0)
    os.close(second.lock)


def test_records_are_written_and_answered_in_order(store: Store, writer: Writer) -> None:
    for serial in range(1, 6):
        writer.persist(serial, replace(FULL, timeline=serial))
    assert writer.pending
    assert answers(writer, 5) == [Persisted(serial) for serial in range(1, 6)]
    assert not writer.pending
    assert store.read_record() == replace(FULL, timeline=5)
    assert store.record_file.stat().st_mode & 0o777 == 0o600


def test_a_hung_writer_delays_nobody(store: Store, writer: Writer) -> None:
    os.kill(writer.pid, signal.SIGSTOP)
    for serial in range(1, 501):
        writer.persist(serial, FULL)
    assert writer.answers() == []
    os.kill(writer.pid, signal.SIGCONT)
    assert answers(writer, 500) == [Persisted(serial) for serial in range(1, 501)]


def test_a_stopped_writer_is_woken(writer: Writer) -> None:
    """Nobody else would: a hand-over waits for the record, and nobody serves meanwhile."""
    os.kill(writer.pid, signal.SIGSTOP)
    writer.persist(1, FULL)
    writer.tick(boottime())
    assert not select.select([writer], [], [], 0.2)[0] and not writer.hangs
    writer.tick(boottime() + 1.0)
    assert answers(writer, 1) == [Persisted(1)]
    writer.tick(boottime() + 100.0)
    assert not writer.hangs, "nothing is asked"


def test_a_writer_that_waits_for_the_disk_is_told(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(writer.pid, signal.SIGSTOP)
    monkeypatch.setattr("heartbeat.writer.os.kill", lambda pid, number: None)
    writer.look()
    writer.tick(boottime() + 4.0)
    assert "does not answer" in writer.hangs
    monkeypatch.undo()
    os.kill(writer.pid, signal.SIGCONT)
    select.select([writer], [], [], 30.0)
    writer.answers()
    writer.tick(boottime() + 4.0)
    assert not writer.hangs


def test_a_stopped_writer_does_not_keep_the_lock_of_a_heartbeat_that_died(store: Store) -> None:
    """No other heartbeat could start."""
    heartbeat = os.fork()
    if heartbeat == 0:
        writer = Writer(store)
        writer.persist(1, FULL)
        answers(writer, 1)
        os.kill(writer.pid, signal.SIGSTOP)
        writer.persist(2, Record(timeline=2))
        os._exit(0)
    os.waitpid(heartbeat, 0)
    os.close(store.lock)
    store.hold(limit=30)
    assert store.read_record() == Record(timeline=2)


def test_a_dead_writer_is_replaced_and_finishes_the_work(store: Store, writer: Writer) -> None:
    os.kill(writer.pid, signal.SIGSTOP)
    writer.persist(1, FULL)
    writer.persist(2, Record(timeline=2))
    dead, number = writer.pid, writer.fileno()
    os.kill(dead, signal.SIGKILL)
    assert answers(writer, 2) == [Persisted(1), Persisted(2)]
    assert writer.pid != dead and writer.fileno() == number
    assert store.read_record() == Record(timeline=2)


def test_the_successor_of_a_dead_writer_is_heard_as_heartbeat_hears_it(store: Store, writer: Writer) -> None:
    """epoll forgets a number behind which another socket is put: who hears nothing is silent after 10 s, for good."""
    with selectors.DefaultSelector() as selector:

        def watch_again() -> None:
            selector.unregister(writer)
            selector.register(writer, selectors.EVENT_READ)

        writer.replaced = watch_again
        selector.register(writer, selectors.EVENT_READ)
        os.kill(writer.pid, signal.SIGSTOP)
        writer.persist(1, FULL)
        os.kill(writer.pid, signal.SIGKILL)
        answered = []
        while not answered:
            assert selector.select(10.0), "nothing is heard of the successor"
            answered = writer.answers()
        assert answered == [Persisted(1)]


def test_a_record_that_kills_every_writer_is_answered_for(store: Store, writer: Writer) -> None:
    writer._store.record_file = Path("\0")  # what no system call takes: the writer ends with an error it doesn't expect
    os.kill(writer.pid, signal.SIGKILL)
    writer.persist(1, FULL)
    failed = answers(writer, 1)
    assert failed == [PersistFailed(1, "the writer died 3 times over it")]


def test_a_refusing_disk_is_told(store: Store, writer: Writer) -> None:
    store.record_file.mkdir()
    (store.record_file / "in the way").touch()
    writer.persist(1, FULL)
    (failed,) = answers(writer, 1)
    assert isinstance(failed, PersistFailed) and failed.serial == 1 and "record" in failed.error
    assert not writer.pending


def test_the_writer_ends_with_heartbeat(store: Store) -> None:
    writer = Writer(store)
    writer.persist(1, FULL)
    writer.close()
    _, status = os.waitpid(writer.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and store.read_record() == FULL


@pytest.mark.parametrize("answered", [0, 1], ids=["while it writes", "with an answer unread"])
def test_the_history_of_a_heartbeat_that_has_just_ended_is_whole(store: Store, answered: int) -> None:
    """Its last lines tell why it ended."""
    writer = Writer(store)
    if answered:
        writer.persist(1, FULL)
        assert select.select([writer], [], [], 30.0)[0]
    for number in range(20):
        writer.remember({"number": number})
    writer.close()
    _, status = os.waitpid(writer.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [change["number"] for change in store.read_history()] == list(range(20))


def test_history_and_generation(store: Store, writer: Writer) -> None:
    writer.settle(77)
    for number in range(1200):
        writer.remember({"before": "passive", "because": "x" * 60, "number": number})
    writer.persist(1, FULL)
    assert answers(writer, 1) == [Persisted(1)]
    assert store.generation_file.read_text() == "77\n"
    kept = store.read_history()
    assert len(kept) <= HISTORY and kept[-1]["number"] == 1199
    assert [change["number"] for change in kept] == list(range(1200 - len(kept), 1200))
    assert store.history_file.stat().st_size < 128 * 1024
    with open(store.history_file, "a") as file:
        file.write("rubbish\n[1]\n")
    assert store.read_history()[-1]["number"] == 1199
