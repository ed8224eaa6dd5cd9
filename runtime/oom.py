"""Who goes last when memory runs out: our daemons, and not what they start.

Promise: ``last`` protects this process, as far as it may (a container may forbid it); what is started within ``as_others``
begins without that protection, so that a policy server that eats all memory is the one that is killed. Source: proc(5),
/proc/PID/oom_score_adj, which children inherit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

_SCORE = Path("/proc/self/oom_score_adj")
_LAST, _ORDINARY = "-900", "0"
#: the score is the process's: one thread at a time changes it
_lock = threading.Lock()


def last() -> None:
    """Everybody else first."""
    with _lock, contextlib.suppress(OSError):
        _SCORE.write_text(_LAST)


@contextlib.contextmanager
def as_others() -> Iterator[None]:
    """For the moment in which a child is made: it begins like any other process."""
    with _lock:
        before = _read()
        if before == _ORDINARY:
            yield
            return
        try:
            with contextlib.suppress(OSError):
                _SCORE.write_text(_ORDINARY)
            yield
        finally:
            with contextlib.suppress(OSError):
                _SCORE.write_text(before)


def _read() -> str:
    try:
        return _SCORE.read_text().strip()
    except OSError:
        return _ORDINARY
