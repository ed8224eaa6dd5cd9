"""What the passive may lack: nothing is forgotten on the way, whatever fails, and what rsync may undo is looked at again."""

from __future__ import annotations

import pytest

from ha_manager.files.backlog import Backlog, Taken
from ha_manager.files.changes import Change
from ha_manager.files.copyplan import Ask


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backlog(clock: Clock) -> Backlog:
    return Backlog(clock)


def test_it_is_behind_by_its_oldest_change_until_that_has_landed(backlog: Backlog, clock: Clock) -> None:
    backlog.moved("/e", "/e/a")
    clock.now += 3
    backlog.moved("/e", "/e/b")
    assert (backlog.behind("/e"), backlog.behind("/other")) == (3.0, 0.0)
    taken = backlog.take()
    assert [change.path for change in taken.due["/e"]] == ["/e/a", "/e/b"]
    clock.now += 2
    assert backlog.behind("/e") == 5.0 and not backlog.take()


def test_what_could_not_be_sent_is_due_again_as_old_as_it_was(backlog: Backlog, clock: Clock) -> None:
    backlog.moved("/e", "/e/a")
    backlog.full("/f")
    before = backlog.take()
    clock.now += 7
    backlog.give_back()
    assert (backlog.behind("/e"), backlog.behind("/f")) == (7.0, 7.0)
    assert backlog.take() == before
    backlog.landed()
    assert (backlog.behind("/e"), backlog.behind("/f")) == (0.0, 0.0)


def test_a_pass_by_rsync_is_behind_while_it_waits_and_while_it_runs(backlog: Backlog, clock: Clock) -> None:
    backlog.ask("/e", Ask(90.0, None, at=101.0))
    assert backlog.take_pass() is None and backlog.asked("/e") and backlog.behind("/e") == 10.0
    clock.now = 101.0
    assert backlog.take_pass() is not None and not backlog.asked("/e") and backlog.behind("/e") == 11.0
    backlog.compared("/e")
    assert backlog.behind("/e") == 0.0 and backlog.take_pass() is None


NAMED = {path: Change(path, 1.0) for path in ("/e/d/f", "/e/x")}


@pytest.mark.parametrize(
    "changes, path, is_again",
    [
        (None, "/e/any", True),  # the whole entry
        (NAMED, "/e/x", True),
        (NAMED, "/e/x/below", True),
        (NAMED, "/e/d", True),  # rsync sets the attributes of directories above, too
        (NAMED, "/e/d/g", False),
        (NAMED, "/e/xx", False),
    ],
)
def test_what_went_beside_rsync_is_looked_at_again_only_where_rsync_was(
    backlog: Backlog, changes: dict[str, Change] | None, path: str, is_again: bool
) -> None:
    backlog.ask("/e", Ask(1.0, dict(changes) if changes else None))
    assert backlog.take_pass()
    backlog.went("/e", [Change(path, 2.0)])
    backlog.went("/elsewhere", [Change("/elsewhere/a", 2.0)])
    assert not backlog.take()
    backlog.compared("/e")
    assert backlog.take() == (Taken({"/e": [Change(path, 2.0)]}) if is_again else Taken())
    backlog.went("/e", [Change(path, 3.0)])
    backlog.landed()
    assert not backlog.take()


def test_nothing_is_left_of_what_was_under_way_when_this_server_is_active_no_more(backlog: Backlog) -> None:
    backlog.moved("/e", "/e/a")
    backlog.take()
    backlog.ask("/e", Ask(1.0, None))
    backlog.take_pass()
    backlog.forget()
    backlog.give_back()
    backlog.compared("/e")
    assert backlog.behind("/e") == 0.0 and not backlog.take() and backlog.take_pass() is None
