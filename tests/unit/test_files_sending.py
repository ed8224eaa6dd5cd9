"""The active's half with both ends played: what is done again, and what is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ha_manager.config import Config
from ha_manager.files import rsync
from ha_manager.files.direction import Standing
from ha_manager.files.rsync import Pass
from ha_manager.files.sending import VANISHING, Sending
from ha_manager.host import Host
from ha_manager.site import ReplicatedFile, Server, Site
from runtime import frames
from runtime.clock import boottime
from tests.lab.postgres_pair import until


class Other:
    """The passive: answers every message, and does every pass of rsync, as it is told to."""

    def __init__(self) -> None:
        self.alive = True
        self.heard: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.passes: list[Pass] = []
        self.results: list[str] = []

    def exchange(self, messages: Sequence[bytes]) -> list[dict[str, Any]]:
        found = [header for message in messages for header, _ in frames.Reader().feed(message)]
        self.heard += found
        return [{"ok": True, "entries": []} | self.answers.get(each["do"], {}) for each in found]

    def close(self) -> None:
        self.alive = False

    def run(self, transfer: Pass, *_: Any) -> str:
        self.passes.append(transfer)
        return self.results.pop(0) if self.results else ""

    def cancel(self) -> None:
        pass


class Active:
    def __init__(self, root: Path) -> None:
        self.tree, self.other = root / "tree", Other()
        self.tree.mkdir()
        site = Site(True, Server("127.0.0.1"), Server("127.0.0.2"), files=(ReplicatedFile(str(self.tree), True, 60, ""),))
        config = Config(site, Host(), True, "vs-166", "vs-28")
        self.sending = Sending(lambda: config, self._dial, self.other, boottime)  # type: ignore[arg-type]
        self.threads = [threading.Thread(target=body, daemon=True) for body in (self.sending.run, self.sending.run_bulk)]

    def _dial(self, own: Standing) -> Any:
        self.other.alive = True
        return self.other

    def start(self) -> None:
        self.sending.standing(Standing("active", (3, "vs-166"), True))
        for thread in self.threads:
            thread.start()

    @property
    def account(self) -> Any:
        return self.sending.accounts[str(self.tree)]

    def completes(self) -> list[bool]:
        return [each["checksum"] for each in self.other.heard if each["do"] == "complete"]


@pytest.fixture
def active(tmp_path: Path) -> Iterator[Active]:
    made = Active(tmp_path)
    yield made
    made.sending.end()
    for thread in made.threads:
        thread.join(5.0)


def test_a_pass_during_which_something_vanished_is_done_again_a_few_times(active: Active) -> None:
    active.other.results = [rsync.VANISHED] * 10
    active.start()
    until(lambda: len(active.other.passes) == VANISHING + 1, 10.0, "it is done again", every=0.01)
    until(lambda: active.sending.backlog.behind(str(active.tree)) == 0.0, 5.0, "and then left to what is heard of it")
    assert active.account.error == "" and active.account.done == VANISHING + 1


def test_what_the_passive_doubts_is_compared_by_content(active: Active) -> None:
    active.other.answers["hello"] = {"entries": [str(active.tree)], "doubts": [str(active.tree)]}
    active.start()
    until(lambda: active.completes() == [True], 5.0, every=0.01)
    assert [each.checksum for each in active.other.passes] == [True]
    active.sending.sync([str(active.tree)])
    until(lambda: active.completes() == [True, False], 5.0, "once is enough", every=0.01)


def test_a_pass_that_the_passive_can_not_write_down_is_not_done(active: Active) -> None:
    active.other.answers["complete"] = {"ok": False, "error": "No space left on device"}
    active.start()
    until(lambda: "No space" in active.account.error, 5.0, every=0.01)
    assert active.account.done == 0 and active.sending.backlog.behind(str(active.tree)) > 0
    del active.other.answers["complete"]
    until(lambda: active.account.done > 0 and not active.account.error, 10.0, "it is done again", every=0.05)


def test_an_active_no_more_forgets_what_it_would_have_sent(active: Active) -> None:
    active.start()
    until(lambda: bool(active.completes()), 5.0, every=0.01)
    active.sending.standing(Standing("passive", (4, "vs-28")))
    active.sending.moved(str(active.tree), f"{active.tree}/x", False)
    assert active.sending.backlog.behind(str(active.tree)) == 0.0 and active.sending.alarms()["files"] == ""
