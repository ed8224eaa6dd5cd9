"""A lab with a pair in it and clients that write: what the demo and the benchmarks run on.

Promise: whatever ends the block (an error, Ctrl-C, SIGTERM, SIGHUP), clients and lab are gone afterwards, unless it was
asked to stay and the block ended well. An error is shown with what both servers say about it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psycopg

from bench.drill import Drill
from bench.pair import SERVERS, Pair
from bench.screen import Screen
from bench.writers import QUICK, TABLES, Writers
from lab.api import Lab
from runtime.errors import HaError


class Ended(SystemExit):
    """A signal asked for the end."""


@contextlib.contextmanager
def stage(
    screen: Screen, name: str, *, profile: str, local: bool = False, keep: bool = False, segment: int = 16, every: float = 0.005
) -> Iterator[Drill]:
    """A pair in sync with both clients being acknowledged, which write every so many seconds. Raises HaError, explained on the
    screen already.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="ha-ledger-"))
    lab = Lab(name, progress=screen.say)
    drill: Drill | None = None
    stays = False
    try:
        screen.say("Booting two policy servers, a gateway and a client on this machine (namespaces; nothing outside changes)")
        lab.up(ephemeral=not keep)
        pair = Pair(lab, screen.say)
        pair.segment = segment
        drill = Drill(pair, Writers(lab, folder, every=every), local)
        with _explained(screen, drill):
            _set_up(screen, drill, profile, local)
            yield drill
        stays = keep
    finally:
        if drill is not None:
            drill.writers.stop()
        with _uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            if not stays:
                lab.down()


def _set_up(screen: Screen, drill: Drill, profile: str, local: bool) -> None:
    drill.pair.install(profile)
    seconds = drill.pair.start()
    screen.say(f"{drill.pair.active()} is active, the other in sync, {seconds:.1f} s after the first ha start")
    drill.writers.start()
    for node in SERVERS if local else ():
        drill.writers.start_local(node)
    drill.writers.steady()
    screen.say(f"The clients write: {len(drill.writers.entries(QUICK))} lines on record")
    screen.settings({name: drill.writers.settings(name) for name in TABLES})


@contextlib.contextmanager
def _explained(screen: Screen, drill: Drill) -> Iterator[None]:
    try:
        yield
    except (HaError, psycopg.Error) as wrong:
        screen.error(f"It did not hold: {wrong}")
        screen.plain(drill.pair.explain())
        raise


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(128 + number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C doesn't stop the cleaning up."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def need_root() -> None:
    if os.geteuid() != 0:
        sys.exit("root is needed: sudo")
