"""Life of a daemon: start, readiness, signals, end.

Promise: whoever starts a daemon learns whether it started: the parent returns 0 when the daemon has called ``ready``,
otherwise it prints the daemon's own words on stderr and exits with a status other than 0. One process a pid file. Signals come
as events of a selector, never in the middle of something. The pid file goes with a clean stop only, so that a crash can be told
from one.

Exit status: 0 stopped as asked; 1 failed; 6 not configured (LSB).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import oom, syslog
from .errors import ConfigError, HaError
from .pidfile import PidFile

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

_READY = b"ready"

FAILED = 1
NOT_CONFIGURED = 6


class Service:
    """What the body of a daemon is given."""

    def __init__(self, name: str, foreground: bool, report: int | None) -> None:
        self.name = name
        self.foreground = foreground
        self.is_ready = False
        self._report = report
        self._wakeup, self._signalled = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Readable when a signal has arrived; for a selector."""
        return self._wakeup.fileno()

    def signals(self) -> list[signal.Signals]:
        """The signals that have arrived since the last call, each once, in order of arrival."""
        try:
            arrived = self._wakeup.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in dict.fromkeys(arrived) if number in SIGNALS]

    def register(self, selector: selectors.BaseSelector, on_signal: Callable[[signal.Signals], None]) -> None:
        """Call ``on_signal`` from the selector's loop (whose keys' data are callables that take the event mask)."""

        def arrived(mask: int) -> None:
            for number in self.signals():
                on_signal(number)

        selector.register(self, selectors.EVENT_READ, arrived)

    def ready(self) -> None:
        """The daemon serves: release whoever waits for its start."""
        if self.is_ready:
            return
        self.is_ready = True
        notify("READY=1")
        if self._report is not None:
            _detach_output()
            _tell(self._report, _READY)
            self._report = None

    def failed(self, text: str, code: int = FAILED) -> None:
        """The daemon can't start: hand its words, and the exit status, to whoever started it."""
        if self._report is not None:
            _tell(self._report, f"{code} {text}".encode(errors="replace"))
            self._report = None
        else:
            with contextlib.suppress(OSError):
                os.write(2, f"{self.name}: {text}\n".encode(errors="replace"))


#: Runs the daemon until it is to end; its value is the exit status.
Body = Callable[[Service], int]


def run(
    name: str,
    pid_file: str | os.PathLike[str],
    body: Body,
    *,
    foreground: bool,
    facility: str = "daemon",
    level: int = logging.INFO,
) -> NoReturn:
    """Be the daemon ``name``: detach unless in the foreground, claim the pid file, run ``body``, exit."""
    report = None if foreground else _detach(name)
    syslog.configure(name, foreground=foreground, facility=facility, level=level)
    oom.last()
    code = _live(Service(name, foreground, report), Path(pid_file), body)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: a thread or an exit handler of some library must not keep a daemon that has ended.
    os._exit(code)


def _live(service: Service, pid_file: Path, body: Body) -> int:
    held: PidFile | None = None
    try:
        held = PidFile.claim(pid_file)
        code = body(service)
    except (HaError, OSError) as wrong:
        log.error("%s", wrong)
        code = NOT_CONFIGURED if isinstance(wrong, ConfigError) else FAILED
        _failed(service, held, str(wrong), code)
    except Exception as bug:
        log.exception("ends because of an internal error")
        code = FAILED
        _failed(service, held, f"internal error: {type(bug).__name__}: {bug}", code)
    else:
        notify("STOPPING=1")
        held.release()
        if not service.is_ready:
            service.failed("ended before it was ready", code or FAILED)
    return code


def _failed(service: Service, held: PidFile | None, text: str, code: int) -> None:
    if service.is_ready:
        return
    # First the file, then the words: whoever hears them must not find the file of a daemon that is about to end.
    if held is not None:
        held.release()
    service.failed(text, code)


def _detach(name: str) -> int:
    """Become a daemon; returns, in the daemon only, where to report. The parent waits for that report and exits."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if (child := os.fork()) > 0:
        os.close(writing)
        os.waitpid(child, 0)
        _await(name, reading)
    os.close(reading)
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.umask(0o022)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return writing


def _await(name: str, reading: int) -> NoReturn:
    said = bytearray()
    while data := os.read(reading, 65536):
        said += data
    if bytes(said) == _READY:
        os._exit(0)
    code, _, text = said.decode(errors="replace").partition(" ")
    text = text or "ended before it was ready; the system log may say why"
    os.write(2, f"{name}: {text}\n".encode())
    os._exit(int(code) if code.isdigit() else FAILED)


def _tell(report: int, text: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(report, text)
    os.close(report)


def _detach_output() -> None:
    """Only now, so that what goes wrong before is seen; and before the report, so that no reader of a pipe waits for us."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


def notify(state: str) -> None:
    """Tell systemd (sd_notify), if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
