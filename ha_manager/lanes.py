"""Lanes: what carries out the plan's steps, each lane one after the other, all of them side by side.

Promise: a step ends at its time limit, or at once when its plan is cancelled, with every process it started; its outcome
reaches ``ended`` exactly once. Source: design §6 ("queues of their own: a hung peer or a 1 GB copy never delays a
promotion").
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ha_manager.plan import Ended, Lane, Run
from runtime.commands import environment, kill_group
from runtime.errors import CommandFailed, HaError, in_words
from runtime.oom import as_others
from runtime.proctree import kill_tree

log = logging.getLogger(__name__)

_OUTPUT = 64 * 1024


class Cancelled(HaError):
    """The plan of this step was superseded."""

    def __init__(self) -> None:
        super().__init__("superseded by a newer change of role")


class Stop(HaError):
    """A hook asks that the rest of the plan is not carried out."""


class Token:
    """Whether one plan is still wanted. Whoever waits for something else can wait for its end too: ``ending``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self.cancelled = False

    @contextlib.contextmanager
    def ending(self) -> Iterator[int]:
        """A descriptor that becomes readable when the plan is cancelled; only within the block, so that none is left open."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with self._lock:
                self._waiting.add(event)
                if self.cancelled:
                    os.eventfd_write(event, 1)
            yield event
        finally:
            with self._lock:
                self._waiting.discard(event)
            os.close(event)

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            for event in self._waiting:
                os.eventfd_write(event, 1)

    def check(self) -> None:
        """Raises Cancelled; for steps of our own, between two parts of their work."""
        if self.cancelled:
            raise Cancelled()


#: Does the step and proves it; raises HaError or OSError.
Action = Callable[[Run, Token], None]


class Lanes:
    """One thread a lane. ``actions``: by the name of the step."""

    def __init__(self, actions: Callable[[str], Action], ended: Callable[[Ended], None]) -> None:
        self._actions = actions
        self._ended = ended
        self._tokens: dict[int, Token] = {}
        self._lock = threading.Lock()
        self._queues: dict[Lane, queue.SimpleQueue[Run | None]] = {}
        for lane in Lane:
            self._queues[lane] = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(self._queues[lane],), name=f"lane-{lane}", daemon=True).start()

    def run(self, run: Run) -> None:
        self._queues[run.step.lane].put(run)

    def cancel(self, plan: int) -> None:
        self._token(plan).cancel()

    def end(self) -> None:
        with self._lock:
            for token in self._tokens.values():
                token.cancel()
        for each in self._queues.values():
            each.put(None)

    def _token(self, plan: int) -> Token:
        with self._lock:
            return self._tokens.setdefault(plan, Token())

    def _work(self, steps: queue.SimpleQueue[Run | None]) -> None:
        while (run := steps.get()) is not None:
            self._ended(self._outcome(run, self._token(run.plan)))

    def _outcome(self, run: Run, token: Token) -> Ended:
        try:
            token.check()
            self._actions(run.step.name)(run, token)
        except Stop as stop:
            return Ended(run.plan, run.step.name, False, str(stop), abort=True)
        except (HaError, OSError) as wrong:
            return Ended(run.plan, run.step.name, False, in_words(wrong))
        except Exception as bug:
            log.exception("step %s", run.step.name)
            return Ended(run.plan, run.step.name, False, f"internal error: {type(bug).__name__}: {bug}")
        return Ended(run.plan, run.step.name, True)


def command(argv: Sequence[str], token: Token, *, limit: float, env: Mapping[str, str]) -> None:
    """Run one of the host's commands until it ends with 0. Raises CommandFailed, or Cancelled when the plan is superseded.

    Unlike ``runtime.commands.run`` it can be cancelled; its output goes to a file that holds its end for the message.
    """
    with open(os.memfd_create("output", os.MFD_CLOEXEC), "w+b") as output:
        try:
            with as_others():
                child = subprocess.Popen(
                    list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(env), process_group=0
                )
        except OSError as wrong:
            raise CommandFailed(argv, None, "", because=f"could not be started: {wrong.strerror}") from wrong
        because = _wait(child, token, time.monotonic() + limit)
        if because:
            # As in runtime.commands: some make groups of their own (timeout(1)), some leave theirs behind.
            kill_tree(child.pid, None, limit=0)
            kill_group(child.pid)
            child.wait()
        if token.cancelled and because:
            raise Cancelled()
        if because or child.returncode != 0:
            output.seek(max(0, output.tell() - _OUTPUT))
            said = output.read().decode(errors="replace")
            raise CommandFailed(argv, None if because else child.returncode, said, because=because or None)


def _wait(child: subprocess.Popen[bytes], token: Token, end: float) -> str:
    """ "" when the child has ended by itself, else why it must be ended."""
    gone = os.pidfd_open(child.pid)
    try:
        with token.ending() as cancelled, selectors.DefaultSelector() as selector:
            selector.register(gone, selectors.EVENT_READ)
            selector.register(cancelled, selectors.EVENT_READ)
            while child.poll() is None:
                if token.cancelled:
                    return "was superseded"
                left = end - time.monotonic()
                if left <= 0:
                    return "did not end within its time limit and was killed"
                selector.select(left)
    finally:
        os.close(gone)
    return ""
