"""The system log, written by loops that must never wait for it.

Promise: a message is one non-blocking datagram to /dev/log in the form of RFC 3164; a missing or restarted /dev/log is tried
again with each message and gets what was missed (up to a bound; how much was dropped is said); no lock is taken, no thread is
needed.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque

#: RFC 3164 §4.1.1
FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21,
    "local6": 22, "local7": 23,
}  # fmt: skip

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST = 8000
_BACKLOG = 500


def severity(level: int) -> int:
    """RFC 3164's severity of a level of ``logging``."""
    for least, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return number
    return 7


class _NoLock:
    """Taken with ``acquire`` up to Python 3.12, with ``with`` from 3.13 on; ``None`` won't do there."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *raised: object) -> None:
        return None


class LockFree(logging.Handler):
    """A handler without ``logging``'s lock: daemons here have one thread that logs, or write in one system call."""

    def createLock(self) -> None:
        self.lock = _NoLock()  # type: ignore[assignment]

    def handleError(self, record: logging.LogRecord) -> None:
        """Whatever goes wrong with a log message must not end, or flood, the daemon."""


class SyslogHandler(LockFree):
    """Writes to the system log as ``tag[pid]``, one datagram a line."""

    def __init__(self, tag: str, facility: str = "daemon", path: str = "/dev/log") -> None:
        super().__init__()
        self._tag = tag
        self._facility = FACILITIES[facility]
        self._path = path
        self._socket: socket.socket | None = None
        self._missed: deque[bytes] = deque()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as wrong:
            text = f"{record.msg!r} can't be formatted: {wrong}"
        for line in text.splitlines():
            if line:
                self._put(self._datagram(severity(record.levelno), line))
        self._flush()

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _datagram(self, level: int, line: str) -> bytes:
        now = time.localtime()
        when = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        line = line.replace("\0", "")
        return f"<{self._facility * 8 + level}>{when} {self._tag}[{os.getpid()}]: {line}".encode(errors="replace")[:_LONGEST]

    def _put(self, datagram: bytes) -> None:
        if len(self._missed) >= _BACKLOG:
            self._missed.popleft()
            self._dropped += 1
        self._missed.append(datagram)

    def _flush(self) -> None:
        while self._missed:
            if self._dropped:
                notice = self._datagram(4, f"{self._dropped} messages could not be written to the system log and were dropped")
                if not self._send(notice):
                    return
                self._dropped = 0
            if not self._send(self._missed[0]):
                return
            self._missed.popleft()

    def _send(self, datagram: bytes) -> bool:
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = self._connect()
                self._socket.send(datagram)
                return True
            except BlockingIOError:
                return False
            except OSError:
                # Restarted: its old socket refuses. Connect anew, once.
                self._disconnect()
        return False

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class StderrHandler(LockFree):
    """For the foreground: one write to file descriptor 2 a message, milliseconds included."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, self.format(record).encode(errors="replace") + b"\n")
        except (OSError, ValueError, TypeError):
            self.handleError(record)


def configure(tag: str, *, foreground: bool, facility: str = "daemon", level: int = logging.INFO) -> None:
    """Make every logger of this process write to stderr (foreground) or to the system log, and nowhere else."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    handler: logging.Handler = StderrHandler() if foreground else SyslogHandler(tag, facility)
    if not foreground:
        handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = False
