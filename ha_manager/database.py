"""This server's Postgres, as the worker that carries out heartbeat's wants sees it.

Promise: each ``make_…`` brings Postgres where its name says and returns only with the proof, or raises ``ReplicationError`` (or
another ``HaError``) with the reason; each may be called again after a crash at any line, and does nothing where its state
holds already. Every call is bounded by its ``limit`` in seconds. Source: design §4 rules 5-7, 10, 11 and §6;
docs/protocols.md (the wants); facts/postgres.md.

Threads: all methods may be called from any thread. Those that change Postgres exclude each other; ``facts``, ``renew``,
``identity``, ``stop_ahead`` and ``kill`` never wait for them. Nothing is ever done in the background.
"""

from __future__ import annotations

import contextlib

from ha_manager import (
    adoption,
    keeper,
    logreserve,
    postmaster,
    receiving,
    replication,
    startfence,
)
from ha_manager.cluster import Paths
from ha_manager.replication import Clock
from ha_manager.wanted import Wanted
from runtime.errors import ControlError, HaError, ReplicationError, in_words


class Database(Wanted):
    """All of it (``underkeeper``, ``looking``, ``wanted``), with the beginning and the end of HA on this server."""

    def renew_password(self, password: str) -> bool:
        """The nodes' keys have changed; True if that changes the password. ``settle_primary`` gives it to the role."""
        changed, self._password = password != self._password, password
        return changed

    def check(self) -> list[str]:
        """Warnings about the administrator's settings; raises ConfigError for what can't work (file, line, remedy)."""
        return adoption.check(self.config)

    def configure(self, limit: float = 60.0) -> None:
        """HA is on: check, write our settings, take autostart away from Debian, stop a Postgres that isn't the keeper's.

        A Postgres run by a living keeper stays as it is; changed settings are reloaded.
        """
        with self._changing:
            for warning in adoption.check(self.config):
                self._note(warning)
            adoption.take_autostart(self.config)
            changed = self._write_files()
            if adoption.stop_foreign(self.config, keeper.living(self.config.run_dir), limit):
                self._note("stopped the Postgres that ran here; from now on ha_manager's keeper runs it")
            if receiving.has_data(self.config.data_dir) and not postmaster.processes_of(self.config.data_dir):
                startfence.up(self.config.data_dir, self.config.user)
            if changed and postmaster.postmaster_of(self.config.data_dir) is not None:
                self._server.reload()

    def unconfigure(self, *, start: bool = True, writable: bool | None = None, limit: float = 60.0) -> bool:
        """HA is off: stop Postgres and the keeper, remove our settings, give autostart back; ``start``: start plain Postgres,
        unless Debian's start.conf forbids it. ``writable``: a standby becomes a database of its own (on a new timeline);
        None: it stays read-only if it was one; False: whoever starts it finds a read-only one. Returns whether it runs. Does no
        harm when HA is off already, and may be called again after a crash at any line.
        """
        with self._changing:
            clock = Clock(limit)
            head = postmaster.postmaster_of(self.config.data_dir)
            if head is not None and head.parent != keeper.living(self.config.run_dir):
                # Not the keeper's: plain already, as after a second `ha stop`.
                self._give_back()
                return True
            if writable is None:
                writable = self._was_primary()
            if writable:
                self._bring_up(clock)
            self._release_slots(clock)
            self.make_stopped(immediate=False, limit=clock.need("stopping Postgres"))
            adoption.remove_slots(self.config)
            if receiving.has_data(self.config.data_dir):
                if writable:
                    startfence.down(self.config.data_dir)
                else:
                    startfence.up(self.config.data_dir, self.config.user)
                    self._leave_startable(clock)
            self._give_back()
            if start and adoption.may_start(self.config):
                adoption.start_plain(self.config, clock.left + 10)
                return True
            return False

    def _give_back(self) -> None:
        with contextlib.suppress(ControlError):
            self._orders.quit(2.0)
        logreserve.remove(self.config.data_dir)
        adoption.give_autostart_back(self.config)
        adoption.remove_files(self.config)

    def _leave_startable(self, clock: Clock) -> None:
        """By hand: with half a segment it would wait for the rest of it, and let nobody in."""
        try:
            self._remove_halves(clock)
        except (HaError, OSError) as wrong:
            self._note(f"started by hand, Postgres may wait for log that it has only in part: {in_words(wrong)}")

    def _bring_up(self, clock: Clock) -> None:
        """Only while it runs can its slots be dropped, and a standby get a timeline that can't pass for the active's later."""
        must = not self._was_primary()
        try:
            self.attach(min(5.0, clock.left))
            self.renew(clock.left + 5, 2.0)
            self.make_primary(self._book.read().epoch, clock.left)
        except HaError as wrong:
            if must:
                raise
            self._note(f"Postgres can't be made a primary, so slots of its peer may be left in it: {wrong}")

    def configured(self) -> bool:
        """Anything of ours is still there: settings, a keeper, Debian's autostart taken away."""
        paths = Paths(self.config.state_dir)
        return paths.settings.exists() or paths.autostart.exists() or bool(keeper.living(self.config.run_dir))

    def _release_slots(self, clock: Clock) -> None:
        """A slot that nobody will use again keeps log until the disk is full."""
        with contextlib.suppress(ReplicationError), self._server.session(min(2.0, clock.left)) as session:
            self._server.change(names="", conninfo="", slot="")
            for row in session.rows("SELECT pid::text FROM pg_stat_replication WHERE application_name LIKE 'ha\\_%'", 1.0):
                session.rows("SELECT pg_terminate_backend($1::int)", 1.0, row)
            replication.drop_slots(session, 2.0)

    def release(self) -> None:
        """ha_manager restarts: close connections, leave keeper and Postgres alone (the lease goes on)."""
        with self._looking:
            self._observer.close()
        self._server.disperse()
        self._orders.close()
        self._watch.close()
        self._lease.close()
