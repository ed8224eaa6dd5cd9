"""The kernel's watchdog: it restarts this machine when heartbeat's loop no longer runs.

Promise: the device is fed by the loop and by nothing else, so a hung or killed heartbeat that nobody starts again ends with a
restart of the machine; a clean end says so to the device ('V', "magic close") and nothing restarts. Without a usable device the
pair works as without the directive, as with Linux-HA, and that is a standing alarm. Source: Documentation/watchdog/
watchdog-api.rst of the kernel; ha.cf(5), ``watchdog``.

This is the last resort behind the leases of design §4 rule 5, which let go of the address and end Postgres within a second; the
watchdog's time is longer, so that a heartbeat that is started again at once doesn't cost the machine.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from math import ceil, inf

#: seconds without the loop after which the machine is to restart, at least; between two tries to open the device
LEAST, AGAIN = 10, 10.0
_SETTIMEOUT, _GETTIMEOUT = 0xC0045706, 0x80045707


class Watchdog:
    """``trouble`` says why the machine is not guarded; "" while it is."""

    def __init__(self, device: str, deadtime: float) -> None:
        self.device = device
        self.timeout = max(LEAST, ceil(deadtime) + 1)
        self.trouble = ""
        self._fd = -1
        self.due = -inf

    def feed(self, now: float) -> None:
        """To be called by the loop when ``due``; never waits."""
        if self._fd < 0 and not self._open():
            self.due = now + AGAIN
            return
        try:
            os.write(self._fd, b"\0")
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(error.strerror or str(error))
        self.due = now + min(1.0, self.timeout / 4)

    def close(self, clean: bool) -> None:
        """``clean``: this end was meant; else the machine restarts unless heartbeat is back in time."""
        self.due = inf
        if self._fd < 0:
            return
        try:
            if clean:
                os.write(self._fd, b"V")
        except OSError as error:
            self.trouble = f"{self.device}: {error.strerror}"
        os.close(self._fd)
        self._fd = -1

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        try:
            fd = os.open(self.device, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            busy = error.errno == 16
            remedy = "another program feeds it" if busy else "`modprobe softdog` makes one where the hardware has none"
            return self._failed(f"{error.strerror}; {remedy}")
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            return self._failed("isn't a character device; it is /dev/watchdog as a rule")
        self._fd, self.trouble = fd, ""
        self._set_timeout()
        return True

    def _set_timeout(self) -> None:
        """Ask for ours, and take what the device has: its driver may know only some."""
        for request, value in ((_SETTIMEOUT, self.timeout), (_GETTIMEOUT, 0)):
            try:
                answer = fcntl.ioctl(self._fd, request, struct.pack("=i", value))
            except OSError:
                continue
            self.timeout = max(1, struct.unpack("=i", answer)[0])

    def _failed(self, because: str) -> bool:
        self.trouble = f"the machine is not restarted if heartbeat hangs: {self.device}: {because}"
        return False
