"""What is known of the staging directory survives a crash, and says what a crash may have damaged."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ha_manager.files import record as module
from ha_manager.files.direction import NONE, Standing
from ha_manager.files.record import Held, Record, Refusal, parse, start_of_this_server
from ha_manager.files.staging import Staging

PASSIVE, EPOCH = Standing("passive", (7, "vs-166")), (7, "vs-166")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    made = Staging(tmp_path / "staging")
    made.prepare()
    return made


def test_a_newer_epoch_is_written_down_and_an_older_one_refused_also_after_a_restart(staging: Staging) -> None:
    record = Record(staging, "one")
    record.admit(PASSIVE, EPOCH)
    record.complete("/e", EPOCH, 2.0, by_content=False)
    assert record.held.complete["/e"] == pytest.approx(time.time() - 2, abs=1)
    again = Record(staging, "one")
    assert again.held == record.held
    again.admit(PASSIVE, EPOCH)
    assert again.held.complete  # the same reign goes on
    again.admit(PASSIVE, (9, "vs-166"))
    assert again.held == Held((9, "vs-166")) == Record(staging, "one").held
    with pytest.raises(Refusal, match="is over"):
        again.admit(PASSIVE, (8, "vs-166"))
    with pytest.raises(Refusal, match="is over"):
        again.complete("/e", (8, "vs-166"), 0.0, by_content=False)
    with pytest.raises(Refusal, match="not passive"):
        again.admit(Standing("active", (9, "vs-28")), (9, "vs-166"))


@pytest.mark.parametrize("found", [{}, {"epoch": 7}, {"epoch": ["x", 1]}, {"complete": []}, {"unflushed": {"/e": 1}}])
def test_a_damaged_record_counts_as_none(found: dict[str, object]) -> None:
    assert parse(found) == Held(NONE)


def test_what_rsync_brought_is_in_doubt_after_a_loss_of_power_until_it_is_compared_by_content(staging: Staging) -> None:
    record = Record(staging, "one")
    record.admit(PASSIVE, EPOCH)
    record.opened("/e")
    record.closed("/e")
    assert record.doubts() == {} and Record(staging, "one").doubts() == {}  # the process alone was killed
    after = Record(staging, "two")
    assert after.doubts()["/e"] == pytest.approx(time.time(), abs=5)
    after.opened("/e")
    after.closed("/e")
    after.complete("/e", EPOCH, 0.0, by_content=False)
    after.admit(PASSIVE, (8, "vs-166"))
    assert set(after.doubts()) == {"/e"} == set(Record(staging, "three").doubts())
    after.complete("/e", (8, "vs-166"), 0.0, by_content=True)
    assert after.doubts() == {}
    assert set(Record(staging, "three").doubts()) == {"/e"}  # what repaired it is not flushed yet
    after.flush(["/e"])
    assert Record(staging, "three").doubts() == {}


def test_what_was_flushed_is_in_no_doubt(staging: Staging) -> None:
    record = Record(staging, "one", settle=0.05)
    thread = threading.Thread(target=record.run, daemon=True)
    thread.start()
    record.opened("/e")
    record.opened("/f")
    record.closed("/e")
    end = time.monotonic() + 10
    while set(Record(staging, "two").doubts()) != {"/f"} and time.monotonic() < end:
        time.sleep(0.01)
    assert set(Record(staging, "two").doubts()) == {"/f"}
    record.end()
    thread.join(5)
    assert not thread.is_alive()


def test_what_comes_during_a_flush_waits_for_the_next_one(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(staging, "one")
    record.opened("/e")
    record.closed("/e")

    def slow(path: Path) -> None:
        record.opened("/e")
        record.closed("/e")

    monkeypatch.setattr(module, "sync_file_system", slow)
    record.flush(["/e"])
    assert set(record.held.unflushed) == {"/e"}


def test_without_a_disk_to_write_the_mark_to_nothing_is_let_in(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(staging, "one")

    def full(state: dict[str, object]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "note", full)
    with pytest.raises(OSError, match="No space"):
        record.opened("/e")
    assert record.held.unflushed == {}


def test_each_start_of_a_server_has_a_name() -> None:
    assert start_of_this_server() == start_of_this_server() and len(start_of_this_server()) > 30
    module.sync_file_system(Path("/tmp"))
