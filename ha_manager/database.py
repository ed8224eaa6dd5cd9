"""This server's Postgres, as the worker that carries out heartbeat's wants sees it.

Promise: each ``make_…`` brings Postgres where its name says and returns only with the proof, or raises ``ReplicationError`` (or
another ``HaError``) with the reason; each may be called again after a crash at any line, and does nothing where its state
holds already. Every call is bounded by its ``limit`` in seconds. Source: design §4 rules 5-7, 10, 11 and §6;
docs/protocols.md (the wants); facts/postgres.md.

Threads: all methods may be called from any thread. Those that change Postgres exclude each other; ``facts``, ``renew``,
``identity`` and ``kill`` never wait for them. Nothing is ever done in the background.
"""

from __future__ import annotations

from collections.abc import Callable

from ha_manager.cluster import PostgresConfig
from ha_manager.observation import Identity, Observation, Progress, Stopped, Upstream
from ha_manager.rejoin import Verdict

#: Called about four times a second during a copy; returns False to cancel it.
OnProgress = Callable[[Progress], bool]


class Database:
    """Postgres of ``node``, whose peer is ``peer``. ``password`` is that of the replication role, derived from both nodes' keys.

    ``peer_addresses`` are those from which the peer may replicate; ``note`` gets sentences for the log.
    """

    def __init__(
        self,
        config: PostgresConfig,
        node: str,
        peer: str,
        *,
        peer_addresses: tuple[str, ...],
        password: str,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None: ...

    # --- life: once at the start and the end of HA on this server ---------------------------------------------------------

    def check(self) -> list[str]:
        """Warnings about the administrator's settings; raises ConfigError for what can't work (file, line, remedy)."""

    def configure(self, limit: float = 60.0) -> None:
        """HA is on: check, write our settings, take autostart away from Debian, stop a Postgres that isn't the keeper's.

        A Postgres run by a living keeper stays as it is; changed settings are reloaded.
        """

    def unconfigure(self, *, start: bool = True, writable: bool | None = None, limit: float = 60.0) -> None:
        """HA is off: stop Postgres and the keeper, remove our settings, give autostart back, start plain Postgres if it had
        been started at boot. ``writable``: a standby becomes a database of its own (on a new timeline); None: it stays
        read-only if it was a standby.
        """

    def attach(self, limit: float = 5.0) -> str:
        """Start the keeper, or find the running one again. Returns Postgres's state: stopped | starting | running | stopping."""

    def renew(self, ttl: float, limit: float = 0.2) -> None:
        """Postgres may run for ``ttl`` more seconds. Call it well before that; cheap (< 1 ms). Without: stopped at once."""

    def release(self) -> None:
        """ha_manager restarts: close connections, leave keeper and Postgres alone (the lease goes on)."""

    # --- the wants ---------------------------------------------------------------------------------------------------------

    def make_stopped(self, *, immediate: bool, limit: float = 30.0) -> Stopped:
        """No process of Postgres is left. A fast stop gets stricter after two thirds of ``limit``; ``immediate`` at once."""

    def make_standby(self, follow: Upstream | None, limit: float = 60.0) -> None:
        """In recovery, names cleared; following ``follow`` if given. Refuses to demote a running primary unless it was
        stopped first (``make_stopped``). Doesn't judge the data: ``judge`` and ``rejoin`` come before.
        """

    def make_detached(self, limit: float = 1.0) -> int:
        """In recovery, and nothing more is received or acknowledged, for good. Returns the position up to which log is flushed."""

    def make_primary(self, epoch: int, limit: float = 30.0) -> int:
        """Takes writes. In recovery: names cleared, promoted. Died in the same epoch: restarted in place, its names as they were.
        Returns the timeline. Call ``settle_primary`` next, when nobody waits any more.
        """

    def settle_primary(self, epoch: int, limit: float = 10.0) -> None:
        """After a promotion, and after going solo: writes down which epoch opened the timeline, makes role and slot of the peer."""

    def set_names_relaxed(self, limit: float = 5.0) -> None:
        """``synchronous_standby_names`` is empty and no commit waits: proven by a probe."""

    def set_names_enforced(self, epoch: int, limit: float = 2.0) -> int:
        """Every commit waits for the peer's standby of ``epoch``: proven by a probe that was seen waiting. Returns the position
        that the standby is proven to hold. Raises ReplicationError after relaxing again.
        """

    def prepare(self, limit: float = 60.0) -> None:
        """CHECKPOINT, so that a stop or a promotion that follows is short."""

    # --- looking -------------------------------------------------------------------------------------------------------------

    def facts(self, limit: float = 0.3) -> Observation:
        """Look now. Never raises for a Postgres that is down or hangs: then ``answers`` is False and ``because`` says why."""

    def identity(self, limit: float = 1.0) -> Identity:
        """On the active: what ``judge`` on the peer needs (the session's ``replication`` request)."""

    def data(self) -> str:
        """ready | none | copying | failed: can this database win an election (Message.data)."""

    # --- a database that must be replaced --------------------------------------------------------------------------------

    def judge(self, active: Identity, limit: float = 30.0) -> Verdict:
        """Postgres stopped: may this database follow ``active`` as it is? Reads, changes nothing."""

    def rejoin(self, verdict: Verdict, follow: Upstream, active: Identity, progress: OnProgress, limit: float = 3600.0) -> str:
        """Stopped → data that can follow: nothing to do, or what lies beyond the fork kept and reported, then a fresh copy.
        Returns the report in words ("" if nothing was replaced). Call ``make_standby(follow)`` next.
        """

    def why_not_following(self, follow: Upstream, limit: float = 2.0) -> str | None:
        """Following, but not streaming: the reason if only a fresh copy helps (log removed, forked off before, other database,
        slot lost); None if it may still come.
        """

    def kill(self) -> None:
        """Emergency: every process of this Postgres, now, with SIGKILL; returns when none is left."""
