"""The watchdog's device is played by a terminal: a character device whose other end shows what was written.

No kernel watchdog is behind it (none was there to test with): what the ioctls do is not shown here.
"""

from __future__ import annotations

import os
import pty
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartbeat.watchdog import AGAIN, LEAST, Watchdog


@pytest.fixture
def device() -> Iterator[tuple[int, str]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


def seen(master: int) -> bytes:
    try:
        return os.read(master, 100)
    except BlockingIOError:
        return b""


def test_fed_while_the_loop_runs_and_told_of_a_clean_end(device: tuple[int, str]) -> None:
    master, name = device
    dog = Watchdog(name, 1.0)
    assert dog.due < 0 and dog.timeout == LEAST
    dog.feed(5.0)
    assert seen(master) == b"\0" and dog.due == 6.0 and dog.trouble == ""
    dog.feed(6.0)
    assert seen(master) == b"\0"
    dog.close(clean=True)
    assert seen(master) == b"V" and dog.due > 1e9


def test_an_end_that_was_not_meant_stays_armed(device: tuple[int, str]) -> None:
    master, name = device
    dog = Watchdog(name, 30.0)
    assert dog.timeout == 31
    dog.feed(5.0)
    dog.close(clean=False)
    assert seen(master) == b"\0"


def test_without_a_device_it_goes_on_says_so_and_tries_again(tmp_path: Path) -> None:
    missing = tmp_path / "watchdog"
    dog = Watchdog(str(missing), 1.0)
    dog.feed(5.0)
    assert "No such file" in dog.trouble and "modprobe softdog" in dog.trouble and dog.due == 5.0 + AGAIN
    missing.write_text("")
    dog.feed(15.0)
    assert "isn't a character device" in dog.trouble and missing.read_text() == ""
    dog.close(clean=True)
