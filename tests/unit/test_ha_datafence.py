"""Heartbeat's data fence follows module.xml, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ha_manager.datafence import AGAIN, DataFence
from runtime.hafiles import HaFiles, write


class Home:
    """Threads and the main loop in one; heartbeat answers as it is told to."""

    def __init__(self, folder: Path) -> None:
        write(HaFiles(nodes=("a", "b"), links=(("eth0", "10.0.0.2"),), key="k" * 8), folder)
        paths = SimpleNamespace(heartbeat_etc=folder)
        self.config: Any = SimpleNamespace(fence=(True, "silence", 2**24), host=SimpleNamespace(paths=paths))
        self.alarms: dict[str, str] = {}
        self.asked = 0
        self.answer: dict[str, Any] = {"ok": True}

    def beside(self, name: str, body: Callable[[], None]) -> None:
        body()

    def soon(self, call: Callable[[], None]) -> None:
        call()

    def ask_heartbeat(self, do: str, then: Callable[[dict[str, Any]], None]) -> bool:
        assert do == "reload"
        self.asked += 1
        then(self.answer)
        return True

    def alarm(self, name: str, text: str) -> None:
        self.alarms[name] = text


def status(synchronous: bool, solo: str = "silence") -> dict[str, Any]:
    return {"replication": {"configured": {"synchronous": synchronous, "solo": solo, "maximum_lag": 2**24}}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_nothing_is_done_while_they_agree_or_nothing_is_known(home: Home) -> None:
    fence = DataFence(home)
    fence.look(status(True), 1.0)
    fence.look({}, 1.0)
    assert home.asked == 0


def test_the_file_is_written_and_heartbeat_asked_until_they_agree(home: Home, tmp_path: Path) -> None:
    fence = DataFence(home)
    home.config.fence = (False, "release", 2**20)
    fence.look(status(True), 1.0)
    text = (tmp_path / "ha.cf").read_text()
    assert "synchronous off\nsolo release\nmaximum_lag 1048576\n" in text and home.asked == 1
    fence.look(status(True), 1.1)
    assert home.asked == 1, "it needs a moment"
    fence.look(status(True), 1.1 + AGAIN)
    assert home.asked == 2 and not home.alarms.get("data-fence")
    home.config.fence = (True, "release", 2**20)
    fence.look(status(False, "release"), 1.2 + AGAIN)
    assert home.asked == 3, "changed again meanwhile: at once"


def test_what_stands_in_the_way_is_an_alarm_that_ends(home: Home, tmp_path: Path) -> None:
    fence = DataFence(home)
    home.answer = {"ok": False, "error": "the configuration is left as it was: authkeys"}
    fence.look(status(False), 1.0)
    assert "authkeys" in home.alarms["data-fence"]
    (tmp_path / "ha.cf").write_text("node a b\n")
    fence.look(status(False), 1.0 + AGAIN)
    assert "was not written by `ha start`" in home.alarms["data-fence"]
    fence.look(status(True), 9.0)
    assert home.alarms["data-fence"] == ""
