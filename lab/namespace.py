"""A network namespace of its own, for what needs real packets and no machine around them.

Promise: ``with ns:`` moves the calling thread into the namespace; sockets made there stay there. One that was made here
vanishes with the last reference to it. Source: network_namespaces(7), setns(2).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


class Namespace:
    def __init__(self, of: int | None = None) -> None:
        """A new one, or that of a process."""
        self._before: list[int] = []
        if of is not None:
            self.fd = os.open(f"/proc/{of}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            return
        made: list[int] = []

        def make() -> None:
            assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        self.fd = made[0]
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def ip(self, *lines: str) -> str:
        return self.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")

    def run(self, argv: list[str], text: str = "") -> str:
        with self:
            return subprocess.run(argv, input=text, text=True, check=True, capture_output=True).stdout

    def __enter__(self) -> Namespace:
        self._before.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        assert _libc.setns(self.fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        return self

    def __exit__(self, *_: object) -> None:
        before = self._before.pop()
        assert _libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)

    def close(self) -> None:
        os.close(self.fd)
