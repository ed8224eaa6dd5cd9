"""When what a role needs besides Postgres begins.

Promise: once for each role and epoch, when Postgres is where it belongs and its clients had a moment to come back, or after a
second. Files, commands and the journal want the same disk and processors as a failover, during which clients wait.
Source: design §6. Runs in the main loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ha_manager.orders import ROLE_OF, Epoch, Postgres, Role, Want
from ha_manager.outlook import Carried, Look, observed_state
from ha_manager.plan import Observed

#: they begin so long after the change at the latest (seconds)
POSTGRES_FIRST = 1.0
#: and so long after Postgres: its clients come back in that moment (seconds)
CLIENTS_FIRST = 0.1
#: where Postgres belongs; one that has only been stopped for a handover is not there yet, and the heir's clients wait
_PLACES = {Role.ACTIVE: (Postgres.PRIMARY,), Role.PASSIVE: (Postgres.STANDBY, Postgres.DETACHED), None: ()}


class Begins(Protocol):
    def role(self, role: Role, epoch: Epoch, because: str) -> None: ...
    def observed(self, seen: Observed) -> None: ...


class RoleChange:
    """``after`` calls back in the main loop, so many seconds later."""

    def __init__(self, planner: Begins, after: Callable[[float, Callable[[], None]], object]) -> None:
        self._planner = planner
        self._after = after
        #: of the newest change
        self._planned: tuple[Role, Epoch] | None = None
        #: the newest one whose plan has not begun
        self._pending: Want | None = None
        #: the newest one whose plan is to begin in a moment
        self._due: Want | None = None
        self._observed: Observed | None = None

    def forget(self) -> None:
        """Heartbeat began anew: what it wants is planned, though it be what the last one wanted."""
        self._planned = None

    def wanted(self, want: Want) -> bool:
        """True if it begins a role, or the same one in another epoch."""
        role = ROLE_OF[want.phase]
        if role is None or self._planned == (role, want.epoch):
            return False
        self._planned, self._pending = (role, want.epoch), want
        self._after(POSTGRES_FIRST, lambda: self._begin(want))
        return True

    def looked(self, look: Look, carried: Carried, wanted: Want | None) -> None:
        """Postgres, as it was seen."""
        checkpointed = wanted is not None and carried.checkpointed >= wanted.epoch.number > 0
        observed = Observed(observed_state(look.observation, carried), checkpointed=checkpointed)
        if observed != self._observed:
            self._observed = observed
            self._planner.observed(observed)
        pending = self._pending
        if pending is None or pending is self._due:
            return
        carried_out = look.link == carried.link and look.serial >= pending.serial
        if carried_out and observed.postgres in _PLACES[ROLE_OF[pending.phase]]:
            self._due = pending
            self._after(CLIENTS_FIRST, lambda: self._begin(pending))

    def _begin(self, want: Want) -> None:
        if self._pending is want:
            self._pending = None
            self._planner.role(ROLE_OF[want.phase] or Role.PASSIVE, want.epoch, want.because)
