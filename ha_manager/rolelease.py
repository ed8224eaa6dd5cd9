"""For how long heartbeat's word on this server's role holds, and what holds beyond it.

Promise: reads the last word and the disk, from any thread; "alone" is answered only where nobody else can become active while
this process does nothing. Source: design §4 rules 5, 7.
"""

from __future__ import annotations

from collections.abc import Callable

from ha_manager.config import Config
from ha_manager.link import HeartbeatLink
from ha_manager.linuxha import LinuxHaLink
from ha_manager.local import role_line
from ha_manager.orders import Names, Phase, Postgres, Role
from runtime.clock import boottime


class RoleLease:
    def __init__(self, link: HeartbeatLink | LinuxHaLink, config: Callable[[], Config]) -> None:
        self._link = link
        self._config = config

    def until(self) -> float:
        """When it ends (CLOCK_BOOTTIME): heartbeat's last word, or its file after a restart of ours."""
        if self._link.role_until > boottime():
            return self._link.role_until
        line = role_line(self._config().host.paths.heartbeat_run)
        return max(self._link.role_until, line.expires if line else 0.0)

    def allowance(self) -> float:
        """Seconds for which a primary lives on after that: a heartbeat that restarts is back sooner."""
        return self._config().site.timing.allowance

    def late(self, now: float) -> float:
        """Seconds by which a primary has outlived both; not positive: it hasn't, or nobody wants one here."""
        want = self._link.want
        if want is None or want.postgres is not Postgres.PRIMARY:
            return 0.0
        return now - self.until() - self.allowance()

    def alone(self) -> bool:
        """The disk says "solo", and the names that would end that (design §4 rule 7) are not even wanted: nobody else can
        become active while this process does nothing. Where commits don't wait, that takes no names.
        """
        config, want = self._config(), self._link.want
        if want is None or want.phase is not Phase.ACTIVE or want.names is not Names.RELAXED:
            return False  # asked at each renewal: a pair in sync needs no look at the file
        if not isinstance(self._link, HeartbeatLink) or not config.site.synchronous:
            return False
        line = role_line(config.host.paths.heartbeat_run)
        return line is not None and line.solo and line.role == Role.ACTIVE.value and line.epoch == want.epoch
