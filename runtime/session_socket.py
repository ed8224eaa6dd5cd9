"""What both ends of the session want of their TCP socket and of paramiko. See ``runtime.session``."""

from __future__ import annotations

import contextlib
import logging
import socket

import paramiko

#: paramiko wakes up so often while nothing comes (seconds); it asks for 0.1, which counts while it logs in
_IDLE = 2.0


def tune(sock: socket.socket, silence: float) -> None:
    """No delay for small lines; the kernel gives up on a vanished peer after ``silence`` seconds, also with data under way."""
    milliseconds = int(silence * 1000)
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    ):
        sock.setsockopt(level, option, value)


def rest(transport: paramiko.Transport) -> None:
    """The session is open: wait for what comes, and don't look ten times a second whether it does. ``end`` doesn't wait."""
    transport.sock.settimeout(_IDLE)


def end(transport: paramiko.Transport) -> None:
    """Close; its thread, and whoever writes, wakes up at once."""
    with contextlib.suppress(OSError):
        transport.sock.shutdown(socket.SHUT_RDWR)
    transport.close()


def quiet() -> None:
    """paramiko logs a traceback for every stranger that hangs up; what matters of it comes back as errors of ours."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
