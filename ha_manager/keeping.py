"""The log of a database that is to be replaced, kept by a thread of its own: at once, or beside the copy that replaces it.

Promise: after ``finish`` the log is kept, on the disk, and told; before that nothing may be replaced. What fails is raised to
whoever waits or copies meanwhile, within a moment. Nothing of it runs on after the ``with``. Source: design §4 rule 10.

A copy begins with the active's checkpoint, during which this server has nothing to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from ha_manager.divergence import Kept
from ha_manager.observation import Progress
from ha_manager.space import Need
from ha_manager.transfer import Cancelled, OnProgress
from runtime.clock import boottime

_LOOK = 0.2
#: keeps the log as long as what it is given says yes
Keep = Callable[[Callable[[], bool]], Kept]


class Keeping:
    """``room``: what it takes. All but ``keep`` runs in the caller's thread, ``tell`` as well."""

    def __init__(self, keep: Keep, tell: Callable[[Kept], None], room: Need) -> None:
        self._keep, self._tell, self.room = keep, tell, room
        self._thread: threading.Thread | None = None
        self._off = threading.Event()
        self._kept: Kept | None = None
        self._wrong: Exception | None = None
        self._told = False

    def begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="keeping", daemon=True)
            self._thread.start()

    def finish(self, progress: OnProgress) -> None:
        """Begin, if that was not done; return when it is kept and told. Raises Cancelled, or what it failed with."""
        self.begin()
        assert self._thread is not None
        began = boottime()
        while self._thread.is_alive():
            self._thread.join(_LOOK)
            if not progress(Progress(0, 0, boottime() - began, doing="keeping the log of the database here")):
                raise Cancelled("no longer wanted")
        self._look()

    def beside(self, progress: OnProgress) -> OnProgress:
        """``progress`` of what goes on meanwhile, which ends with what this failed with."""

        def looking(done: Progress) -> bool:
            self._look()
            return progress(done)

        return looking

    def _look(self) -> None:
        if self._wrong is not None:
            raise self._wrong
        if self._kept is not None and not self._told:
            self._told = True
            self._tell(self._kept)

    def _run(self) -> None:
        try:
            self._kept = self._keep(lambda: not self._off.is_set())
        except Exception as wrong:
            self._wrong = wrong

    def __enter__(self) -> Keeping:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._off.set()
        if self._thread is not None:
            self._thread.join()
