"""The connections to all devices: who is away holds up nobody who is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from manager.holding import Release, Version
from notifier.devices import Listed
from notifier.line import Hello
from notifier.links import DIALLERS, Links
from notifier.mailbox import Mailbox
from notifier.model import Connected, Device, Event, Refused, Told
from runtime.errors import PeerError
from runtime.loop import Loop

OWN = Version(2, "vs-166", 4)
RIVAL = [2, "vs-28", 1]


class Line:
    """A device that answers at once. ``obeys``: whom it says that it obeys."""

    def __init__(self) -> None:
        self.hello = Hello("there", "0.1.0")
        self.obeys: list[Any] | None = None
        self.holds: dict[str, Any] | None = None

    def close(self) -> None: ...
    def prepare(self, release: Release, holds: Release | None, staged: Release | None, told: Callable[[], None]) -> None: ...
    def switch(self, release: Release, told: Callable[[], None]) -> None: ...
    def when_ended(self, call: Callable[[str], None]) -> None: ...

    def status(self, version: Version, is_passive: bool, timeout: float) -> dict[str, Any]:
        return {"package": "0.1.0", "obeys": self.obeys, "holds": self.holds, "applied": self.holds}


class Lines:
    """Links in a loop of their own; whoever is called ``away…`` is being connected until ``end``."""

    def __init__(self) -> None:
        self.line, self.events, self._over = Line(), list[Event](), threading.Event()
        self.loop = Loop()
        self.mailbox = Mailbox(self.loop.selector)
        self.links = Links(self.loop, self.mailbox.put, self.events.append, self._dial, "vs-166", lambda name: OWN)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def _dial(self, listed: Listed) -> Line:
        if listed.device.name.startswith("away"):
            self._over.wait()
            raise PeerError("can't be reached")
        return self.line

    def connect(self, *names: str) -> None:
        self.mailbox.put(lambda: self.links.renew([Listed(Device(name), "192.168.120.9") for name in names]))
        self.until(Connected)

    def ask_all(self) -> None:
        asked = threading.Event()
        self.mailbox.put(lambda: self.links.ask_all(asked.set))
        assert asked.wait(5.0), "the question was not answered"

    def until(self, kind: type) -> Any:
        end = time.monotonic() + 5.0
        while not (found := [each for each in self.events if isinstance(each, kind)]):
            assert time.monotonic() < end, f"no {kind.__name__}"
            time.sleep(0.01)
        return found[0]

    def end(self) -> None:
        self._over.set()
        self.mailbox.put(self.loop.stop)
        self._thread.join()
        self.links.shut_down()
        self.mailbox.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    yield made
    made.end()


def test_many_that_are_away_hold_up_no_question(lines: Lines) -> None:
    lines.connect("there", *(f"away-{number}" for number in range(3 * DIALLERS)))
    lines.ask_all()
    assert lines.links.links["there"].told["package"] == "0.1.0"


def test_whom_a_device_obeys_is_asked_each_time(lines: Lines) -> None:
    lines.connect("there")
    lines.line.obeys = RIVAL
    lines.ask_all()
    assert lines.until(Refused) == Refused("there", Version(2, "vs-28", 1))
    assert not lines.links.links["there"].settled
    lines.line.obeys = None
    lines.ask_all()
    assert lines.until(Told) == Told("there")
    assert lines.links.links["there"].settled


def test_what_it_holds_is_compared_each_time(lines: Lines) -> None:
    lines.connect("there")
    another = Release(Version(2, "vs-28", 1), "0" * 64)
    lines.line.holds = {"version": RIVAL, "digest": another.digest}
    lines.ask_all()
    assert lines.until(Told) == Told("there", another)
    count = len(lines.events)
    lines.ask_all()
    assert len(lines.events) == count, "once for each change"


def test_a_state_that_makes_no_sense_is_told(lines: Lines) -> None:
    lines.connect("there")
    lines.line.obeys = ["nonsense"]
    lines.ask_all()
    assert "other versions" in lines.links.links["there"].told["error"]
