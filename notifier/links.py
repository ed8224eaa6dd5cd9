"""All devices at once: a connection to each, made again and again, and what the rules ask of it carried out.

Promise: everything here is called in the loop and never waits; what waits runs in a bounded number of threads, whatever the
number of devices. Each event is about the connection that stands: what an older one still says is dropped. A device that can't
be reached is tried again after 0.5, 1, 2 … 20 s. Source: design §7; house style, 1.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from manager import wire
from manager.holding import Outdated, Release, Version
from manager.manifest import Unusable
from notifier.devices import Listed
from notifier.line import Hello
from notifier.model import Connected, Event, Failed, Kind, Lost, Prepared, Progress, Refused, Switched, Told
from notifier.release import WIDTH
from runtime import clock
from runtime.errors import HaError
from runtime.loop import Loop, Timer
from runtime.version import package, together

log = logging.getLogger(__name__)

FIRST, MOST = 0.5, 20.0
#: each device is asked for its state so often, and answers within (seconds)
PERIOD, ANSWER = 10.0, 8.0
#: so often while it is not as it is to be: what was switched is not applied yet, or it obeys another (seconds)
SOON = 3.0
#: threads: one for each that may be prepared at the same time; those that switch; those that ask for the state; those that
#: connect, so that many devices that are away hold up no question to one that is there
PREPARERS, SWITCHERS, ASKERS, DIALLERS = WIDTH, 64, 16, 16
#: told to the rules at most so often (seconds)
_PROGRESS = 1.0


class Talker(Protocol):
    """``line.Line``; a recording one in tests."""

    hello: Hello

    def close(self) -> None: ...
    def status(self, version: Version, is_passive: bool, timeout: float) -> dict[str, Any]: ...
    def prepare(self, release: Release, holds: Release | None, staged: Release | None, told: Callable[[], None]) -> None: ...
    def switch(self, release: Release, told: Callable[[], None]) -> None: ...
    def when_ended(self, call: Callable[[str], None]) -> None: ...


@dataclass
class Link:
    """What is known of the connection to one device. Read-only outside of ``Links``."""

    listed: Listed
    #: of the present connection, or of the attempts to have one; an older one's words don't count
    generation: int = 0
    line: Talker | None = None
    because: str = "not tried yet"
    tries: int = 0
    timer: Timer | None = None
    #: wall clock: when the device said something last; None: never
    heard: float | None = None
    package: str = ""
    #: its answer to ``status``
    told: dict[str, Any] = field(default_factory=dict)
    asked: bool = False
    #: it obeys another notifier
    foreign: bool = False
    #: as the rules know it; and how often it was switched
    holds: Release | None = None
    switches: int = 0

    @property
    def settled(self) -> bool:
        """As far as it has said: it is as it is to be."""
        return not self.foreign and self.told.get("holds") == self.told.get("applied")


class Links:
    """``post`` takes events for the rules; ``dial`` opens a line (in a thread); ``version``: what is named to a
    device."""

    def __init__(
        self,
        loop: Loop,
        in_loop: Callable[[Callable[[], None]], None],
        post: Callable[[Event], None],
        dial: Callable[[Listed], Talker],
        own: str,
        version: Callable[[str], Version],
    ) -> None:
        self._loop, self._in_loop, self._post, self._dial = loop, in_loop, post, dial
        self._own, self._version = own, version
        self.links: dict[str, Link] = {}
        self._preparers = ThreadPoolExecutor(PREPARERS, "preparing")
        self._switchers = ThreadPoolExecutor(SWITCHERS, "switching")
        self._ask = ThreadPoolExecutor(ASKERS, "asking")
        self._diallers = ThreadPoolExecutor(DIALLERS, "connecting")
        self._asking: list[Callable[[], None]] = []

    def renew(self, devices: Iterable[Listed]) -> None:
        """From now on these. Who stays as he was keeps his connection."""
        wanted = {each.device.name: each for each in devices}
        for name in [name for name, link in self.links.items() if wanted.get(name) != link.listed]:
            self._end(self.links.pop(name), "it is not in devices.xml any more, or is another there")
        for name, listed in wanted.items():
            if name not in self.links:
                self.links[name] = Link(listed)
                self._connect(name)

    def close(self, because: str) -> None:
        for link in self.links.values():
            self._end(link, because)
        self.links = {}

    def shut_down(self) -> None:
        self.close("the notifier is stopping")
        for pool in (self._preparers, self._switchers, self._ask, self._diallers):
            pool.shutdown(wait=False, cancel_futures=True)

    def retry(self) -> None:
        """Now: something may have become possible (a key that was pinned)."""
        for name, link in self.links.items():
            if link.line is None and link.timer is not None and link.timer.pending:
                link.timer.cancel()
                self._connect(name)

    # --- connecting ---------------------------------------------------------------------------------------------------------

    def _connect(self, name: str) -> None:
        link = self.links[name]
        link.generation += 1
        self._diallers.submit(self._dialled, name, link.generation, link.listed)

    def _dialled(self, name: str, generation: int, listed: Listed) -> None:
        """In a thread."""
        try:
            line = self._dial(listed)
        except HaError as wrong:
            self._in_loop(partial(self._unreached, name, generation, str(wrong)))
        except Exception as bug:
            log.exception("%s: the connection failed", name)
            self._in_loop(partial(self._unreached, name, generation, f"{type(bug).__name__}: {bug}"))
        else:
            self._in_loop(partial(self._connected, name, generation, line))

    def _current(self, name: str, generation: int) -> Link | None:
        link = self.links.get(name)
        return link if link is not None and link.generation == generation else None

    def _unreached(self, name: str, generation: int, because: str) -> None:
        if (link := self._current(name, generation)) is None:
            return
        if because != link.because:
            log.info("%s: %s", name, because)
            self._post(Lost(name, because))
        link.because = because
        self._later(name, link)

    def _later(self, name: str, link: Link) -> None:
        wait = min(MOST, FIRST * 2.0**link.tries) * random.uniform(0.8, 1.2)
        link.tries = min(link.tries + 1, 16)
        link.timer = self._loop.call_after(wait, partial(self._connect_if_there, name, link.generation))

    def _connect_if_there(self, name: str, generation: int) -> None:
        if self._current(name, generation) is not None:
            self._connect(name)

    def _connected(self, name: str, generation: int, line: Talker) -> None:
        link = self._current(name, generation)
        if link is None:
            line.close()
            return
        hello = line.hello
        link.line, link.because, link.tries, link.package = line, "", 0, hello.package
        link.heard = clock.wall()
        log.info("%s: connected (%s)", name, hello.package or "unknown version")
        line.when_ended(lambda why: self._in_loop(partial(self._lost, name, generation, why)))
        self._post(Connected(name, hello.holds, hello.staged))
        link.foreign, link.holds = False, hello.holds
        if hello.obeys is not None:
            self._refused(name, link, hello.obeys)
        self._poll(name, generation)

    def _refused(self, name: str, link: Link, obeys: Version) -> None:
        link.foreign = True
        self._post(Refused(name, obeys))

    def _lost(self, name: str, generation: int, because: str) -> None:
        if (link := self._current(name, generation)) is None:
            return
        if link.line is not None:
            link.line.close()
        link.line, link.because, link.told, link.asked = None, because, {}, False
        log.info("%s: the connection ended: %s", name, because)
        link.generation += 1
        self._post(Lost(name, because))
        self._later(name, link)

    def _end(self, link: Link, because: str) -> None:
        link.generation += 1
        if link.timer is not None:
            link.timer.cancel()
        if link.line is not None:
            self._ask.submit(link.line.close)
        link.line, link.because = None, because

    # --- state ----------------------------------------------------------------------------------------------------------------

    def ask_all(self, then: Callable[[], None]) -> None:
        """Ask every connected device for its state now; ``then`` when all have answered, or have not in time."""
        self._asking.append(then)
        for name, link in self.links.items():
            if link.line is not None and not link.asked:
                self._ask_state(name, link)
        self._asked()

    def _asked(self) -> None:
        if not any(link.asked for link in self.links.values()):
            waiting, self._asking = self._asking, []
            for then in waiting:
                then()

    def _poll(self, name: str, generation: int) -> None:
        if (link := self._current(name, generation)) is None or link.line is None:
            return
        if not link.asked:
            self._ask_state(name, link)
        self._poll_in(PERIOD if link.settled else SOON, name, link)

    def _poll_in(self, seconds: float, name: str, link: Link) -> None:
        """Spread, so that hundreds don't answer at the same moment for ever."""
        if link.timer is not None:
            link.timer.cancel()
        link.timer = self._loop.call_after(seconds * random.uniform(0.8, 1.2), partial(self._poll, name, link.generation))

    def _ask_state(self, name: str, link: Link) -> None:
        assert link.line is not None
        link.asked = True
        self._ask.submit(self._state, name, link.generation, link.switches, link.line, self._is_passive(link))

    def _is_passive(self, link: Link) -> bool:
        """The pair's other policy server (Trustwave §2.3, 1.), unless its version is too far from ours to be one."""
        device = link.listed.device
        if device.kind is not Kind.POLICY or device.name == self._own:
            return False
        return not link.package or not together(package(), device.name, link.package, suspended=True)

    def _state(self, name: str, generation: int, switches: int, line: Talker, is_passive: bool) -> None:
        """In a thread."""
        try:
            told, error = line.status(self._version(name), is_passive, ANSWER), ""
        except HaError as wrong:
            told, error = {}, str(wrong)
        self._in_loop(partial(self._stated, name, generation, switches, told, error))

    def _stated(self, name: str, generation: int, switches: int, told: dict[str, Any], error: str) -> None:
        if (link := self._current(name, generation)) is not None:
            link.asked = False
            link.told = told or {"error": error}
            if told:
                link.heard = clock.wall()
                link.package = str(told.get("package", link.package))
                self._compare(name, link, switches == link.switches)
        self._asked()

    def _compare(self, name: str, link: Link, is_new: bool) -> None:
        """Does it listen to this notifier, and hold what the rules know? ``is_new``: not asked before it was switched last."""
        told = link.told
        try:
            obeys = wire.version(told["obeys"]) if told.get("obeys") is not None else None
            holds, staged = (wire.release(told[word]) if told.get(word) is not None else None for word in ("holds", "staged"))
        except Unusable as wrong:
            link.told = {"error": f"it says its state in another way than ours; other versions? ({wrong})"}
            return
        if obeys is not None and not link.foreign:
            self._refused(name, link, obeys)
        elif obeys is None and (link.foreign or (is_new and holds != link.holds)):
            link.foreign, link.holds = False, holds
            self._post(Told(name, holds, staged))

    # --- what the rules ask -------------------------------------------------------------------------------------------------

    def prepare(self, name: str, release: Release, holds: Release | None, staged: Release | None) -> None:
        done = Prepared(name, release)
        self._do(self._preparers, name, lambda line, told: line.prepare(release, holds, staged, told), done)

    def switch(self, name: str, release: Release) -> None:
        self._do(self._switchers, name, lambda line, told: line.switch(release, told), Switched(name, release))

    def abandon(self, name: str, because: str) -> None:
        link = self.links.get(name)
        if link is not None and link.line is not None:
            self._lost(name, link.generation, because)

    def _do(self, pool: ThreadPoolExecutor, name: str, act: Callable[[Talker, Callable[[], None]], None], done: Event) -> None:
        link = self.links.get(name)
        if link is not None and link.line is not None:
            pool.submit(self._acted, name, link.generation, link.line, act, done)

    def _acted(
        self, name: str, generation: int, line: Talker, act: Callable[[Talker, Callable[[], None]], None], done: Event
    ) -> None:
        """In a thread."""
        said = clock.boottime()

        def told() -> None:
            nonlocal said
            if clock.boottime() - said > _PROGRESS:
                said = clock.boottime()
                self._in_loop(partial(self._event, name, generation, Progress(name)))

        event = done
        try:
            act(line, told)
        except Outdated as outdated:
            event = Refused(name, outdated.highest)
        except (HaError, OSError) as wrong:
            event = Failed(name, str(wrong))
        except Exception as bug:
            log.exception("%s: it could not be given its configuration", name)
            event = Failed(name, f"{type(bug).__name__}: {bug}")
        self._in_loop(partial(self._event, name, generation, event))

    def _event(self, name: str, generation: int, event: Event) -> None:
        if (link := self._current(name, generation)) is not None:
            link.heard = clock.wall()
            if isinstance(event, Refused):
                link.foreign = True
            elif isinstance(event, Switched):
                link.holds, link.switches = event.release, link.switches + 1
                self._poll_in(SOON, name, link)
            self._post(event)
