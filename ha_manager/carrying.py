"""What both sides of the Postgres worker stand on: what is wanted, seen and carried out, and whom they tell.

Promise: everything here may be asked and told from any thread; ``carried`` is replaced as a whole, and whoever looks at it is
told when it is new. Nothing is decided here. Source: docs/protocols.md (wants); ``worker``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Protocol

from ha_manager.care import Remedy
from ha_manager.observation import Identity, Observation, Progress, Stopped, Upstream
from ha_manager.orders import Epoch, Want
from ha_manager.outlook import Carried, Look
from ha_manager.rejoin import Verdict
from runtime.errors import HaError, ReplicationError

#: what failed is tried again after so long, twice as long each time (seconds)
RETRY_FIRST, RETRY_MOST = 0.1, 2.0


class Postgreses(Protocol):
    """What the worker needs of ``database.Database``."""

    def make_stopped(self, *, immediate: bool, limit: float = 30.0) -> Stopped: ...
    def make_standby(self, follow: Upstream | None, limit: float = 60.0) -> None: ...
    def make_detached(self, limit: float = 1.0) -> int: ...
    def stand_by(self, limit: float = 1.0) -> None: ...
    def make_primary(self, epoch: int, limit: float = 30.0, *, hold: bool = False, sure: Callable[[], None] = ...) -> int: ...
    def settle_primary(self, epoch: int, limit: float = 10.0) -> None: ...
    def set_names_relaxed(self, limit: float = 5.0) -> None: ...
    def set_names_enforced(self, epoch: int, limit: float = 2.0) -> int: ...
    def prepare(self, limit: float = 60.0) -> None: ...
    def data(self) -> str: ...
    def judge(self, active: Identity, limit: float = 30.0) -> Verdict: ...
    def rejoin(self, verdict: Verdict, follow: Upstream, active: Identity, progress: Callable[[Progress], bool]) -> str: ...
    def why_not_following(self, follow: Upstream, limit: float = 2.0) -> str | None: ...
    def mend(self, remedy: Remedy) -> str: ...
    def stop_ahead(self) -> None: ...


class Active(Protocol):
    """The active, as a passive can learn of it."""

    def upstream(self, follow: Epoch) -> Upstream:
        """Where to connect: known from module.xml even while the session is down."""

    def identity(self, follow: Epoch) -> Identity | None:
        """The active's own word over the session, in this very epoch; None while it can't be asked."""

    def versions_apart(self) -> str:
        """Why this server is not to begin as the passive of that one: their versions differ; "" if it may."""


class Events(Protocol):
    """Whom the worker tells; called from its thread."""

    def changed(self) -> None:
        """``carried`` is new."""

    def proved(self, look: Look) -> None:
        """What a step has just proved: as good as a look, and later than any that began before."""

    def replication(self, event: str, text: str) -> None:
        """``started`` | ``initialised`` | ``kept`` | ``mended``: for log, status and hooks."""


class Obsolete(ReplicationError):
    """A newer want made the running one pointless."""


class Carrying:
    """Attributes are for the two sides, ``primary`` and ``following``, and for ``worker`` to read and write."""

    def __init__(self, database: Postgreses, active: Active, events: Events, clock: Callable[[], float]) -> None:
        self._db = database
        self._active = active
        self._events = events
        self._clock = clock
        self._condition = threading.Condition()
        self._newest: Want | None = None
        self._seen = Observation()
        self._again = False
        self._ended = False
        #: what is being carried out at this moment
        self._doing: Want | None = None
        self._proof: Observation | None = None
        self._retry_at = inf
        self.carried = Carried()

    def _publish(self, **changes: object) -> None:
        with self._condition:
            before, self.carried = self.carried, replace(self.carried, **changes)  # type: ignore[arg-type]
        if before != self.carried:
            self._events.changed()

    def _data(self) -> str:
        try:
            return self._db.data()
        except HaError:
            return "failed"

    def _current(self, want: Want) -> bool:
        return self._newest is want or (self._newest is not None and replace(self._newest, serial=want.serial) == want)

    def _is_now(self, state: str) -> None:
        """The next want may come before the next look, and would be carried out on what was seen before this one."""
        with self._condition:
            if self._seen.state != state:
                self._seen = replace(self._seen, state=state, answers=False)

    @property
    def busy(self) -> bool:
        """A step is being carried out. Any thread."""
        return self._doing is not None

    @contextmanager
    def _amid(self, want: Want) -> Iterator[None]:
        with self._condition:
            self._doing = want
        try:
            yield
        finally:
            with self._condition:
                self._doing = None
