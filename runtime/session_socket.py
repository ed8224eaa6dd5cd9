"""What both ends of the session want of their TCP socket and of paramiko. See ``runtime.session``."""

from __future__ import annotations

import logging
import socket


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


def quiet() -> None:
    """paramiko logs a traceback for every stranger that hangs up; what matters of it comes back as errors of ours."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
