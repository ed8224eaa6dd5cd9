"""Large transfers: a few at a time; who waits for a turn is not taken for hung, and leaves when the session has ended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from notifier.line import AT_ONCE, Library
from notifier.store import Store
from runtime.errors import PeerError


def test_no_more_at_once_than_that_and_all_in_the_end(tmp_path: Path) -> None:
    library = Library(Store(tmp_path / "state", tmp_path / "base", tmp_path / "stable"))
    lock, together, most, words = threading.Lock(), 0, 0, 0
    full, go = threading.Event(), threading.Event()

    def told() -> None:
        nonlocal words
        with lock:
            words += 1
        go.set()

    def transfer() -> None:
        nonlocal together, most
        with library.turn(told, lambda: True):
            with lock:
                together += 1
                most = max(most, together)
                if together == AT_ONCE:
                    full.set()
            go.wait(20)
            with lock:
                together -= 1

    threads = [threading.Thread(target=transfer) for _ in range(3 * AT_ONCE)]
    for each in threads:
        each.start()
    assert full.wait(20)
    for each in threads:
        each.join(20)
        assert not each.is_alive()
    assert most == AT_ONCE and words > 0


def test_who_has_no_session_any_more_waits_no_longer(tmp_path: Path) -> None:
    library = Library(Store(tmp_path / "state", tmp_path / "base", tmp_path / "stable"))
    turns = [library.turn(lambda: None, lambda: True) for _ in range(AT_ONCE)]
    for each in turns:
        each.__enter__()
    with pytest.raises(PeerError, match="before it was its turn"), library.turn(lambda: None, lambda: False):
        pass
    for each in turns:
        each.__exit__(None, None, None)
    with library.turn(lambda: None, lambda: False):
        pass
