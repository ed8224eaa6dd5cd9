"""The receiver's process: listens once this node has keys, applies what was switched, tells what it does.

Promise: a failure of one thing (a port that is taken, a module that can't be applied, `ha start` that is refused) is told in
``/run/manager/receiver.json``, which the Manager shows, and tried again; it ends nothing else. Source: design §7.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from manager import wire
from manager.modulefile import COMMANDER, HA
from manager.paths import Paths
from manager.receiver.applying import Applied, Applying, Outcome
from manager.receiver.bulk import Bulk
from manager.receiver.home import Home
from manager.receiver.memory import Store
from manager.receiver.service import Receiver
from manager.receiver.trees import Trees
from manager.receiver.trust import Mark, Trust
from runtime import pidfile
from runtime.commands import environment
from runtime.control import Client
from runtime.durable import write_json
from runtime.errors import ControlError, HaError
from runtime.keys import PublicKey
from runtime.session import Limits, serve

if TYPE_CHECKING:
    from runtime.session_server import SessionServer

log = logging.getLogger(__name__)

#: as at the notifier: hundreds of devices, and nobody's service depends on it
LIMITS = replace(Limits(), keepalive=10.0, silence=25.0)
#: seconds until what could not be applied is tried again: the first, and the longest
RETRY_FIRST, RETRY_MOST = 2.0, 60.0
#: for the Manager to run what is enabled; for `ha start` (seconds)
RELOAD_LIMIT, START_LIMIT = 300.0, 180.0


@dataclass(frozen=True)
class Settings:
    paths: Paths
    addresses: tuple[str, ...] = ("0.0.0.0",)
    port: int = 4592
    bulk_port: int = 4593
    #: "": of the keys
    name: str = ""
    #: what turns high availability on
    ha: tuple[str, ...] = ("/usr/bin/ha",)


class Process:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        paths = settings.paths
        self._trust = Trust(paths.keys)
        self._applying = Applying(paths.conf, paths.state)
        self._trees = Trees(paths.conf_ready, paths.state)
        self._home = Home(paths, self._trust, self._node(), self._wake, self._told, self._present)
        trees = (self._trees.staging, self._trees.front)
        self._bulk = Bulk(paths.receiver.with_name("bulk"), self._trust, settings.addresses, settings.bulk_port, trees)
        self.receiver = Receiver(self._trees, Store(paths.state), self._home, self._bulk)
        self._server: SessionServer | None = None
        self._mark: Mark = ()
        self._own_key: PublicKey | None = None
        self._accepts: list[str] = []
        self._woken = threading.Event()
        self._ended = False
        #: "": it listens
        self.trouble = ""
        #: what could not be applied, in words; and the digest of what is applied
        self._wrong: dict[str, str] = {}
        self._applied = self._applying.last().whole
        self._written: Mapping[str, Any] = {}

    def begin(self) -> None:
        """Raises HaError, OSError."""
        self.receiver.begin()
        threading.Thread(target=self._apply_for_ever, name="applying", daemon=True).start()
        self._wake()

    def turn(self) -> bool:
        """Now and then: listen, if that was not possible before; see to it that the keys are those that there are. False: this
        node has another one, and all is to be begun anew."""
        if (mark := self._trust.mark()) != self._mark:
            self._mark, self._accepts = mark, self._accepted()
            own, self._own_key = self._own_key, self._key()
            if self._server is not None and self._own_key != own:
                log.warning("this node was given another key: the receiver begins anew with it")
                return False
            if self._server is not None:
                self._end_untrusted(self._server)
        if self._server is None:
            self._listen()
        self._bulk.turn()
        self._write()
        return True

    def _key(self) -> PublicKey | None:
        with contextlib.suppress(HaError):
            return self._trust.keys.show()
        return None

    def _end_untrusted(self, server: SessionServer) -> None:
        if gone := server.end_untrusted():
            log.warning("no key of %s is accepted any more: its sessions are ended", ", ".join(gone))
            self._bulk.close()  # its rsync, too; another's begins again

    def end(self) -> None:
        self._ended = True
        if self._server is not None:
            self._server.close()
        self._bulk.close()

    def _accepted(self) -> list[str]:
        """Whose notifiers would be let in, beside this node's own."""
        with contextlib.suppress(HaError):
            return [key.node for key in self._trust.all() if key.node != self._home.node]
        return []

    def _present(self) -> frozenset[str]:
        return self._server.nodes() if self._server is not None else frozenset()

    @property
    def port(self) -> int:
        return self._server.port if self._server is not None else 0

    def _node(self) -> str:
        if self._settings.name:
            return self._settings.name
        return self._trust.keys.show().node

    def _listen(self) -> None:
        from manager.receiver.contents import SUBSYSTEM, opener

        try:
            self._server = serve(
                self._trust.keys,
                self.receiver.handlers(),
                self._settings.addresses,
                port=self._settings.port,
                limits=LIMITS,
                subsystems={SUBSYSTEM: opener(self.receiver)},
                trusted=self._trust.all,
                show_key=True,
            )
            trouble = ""
        except HaError as wrong:
            trouble = str(wrong)
        if trouble != self.trouble:
            log.error("no notifier can reach this device: %s; it is tried again", trouble) if trouble else log.info("listens")
        self.trouble = trouble

    # --- applying -----------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._woken.set()

    def _apply_for_ever(self) -> None:
        delay: float | None = None
        while not self._ended:
            self._woken.wait(delay)
            self._woken.clear()
            try:
                self._wrong = self._apply()
                self.receiver.settle()
            except (HaError, OSError) as wrong:
                log.error("what was received can't be applied: %s", wrong)
                self._wrong = {"applying": str(wrong)}
            except Exception as wrong:
                log.exception("applying")
                self._wrong = {"applying": f"{type(wrong).__name__}: {wrong}"}
            delay = min(RETRY_MOST, (delay or RETRY_FIRST / 2) * 2) if self._wrong else None
            self._write()

    def _apply(self) -> dict[str, str]:
        """What is wrong, in words."""
        with self.receiver.reading() as (held, device):
            if held is None:
                return {}
            outcome = self._applying.run(self._trees.front, held, device)
        wrong = dict(outcome.wrong)
        self._tell(outcome)
        self.turn_on(outcome, wrong)
        if not wrong:
            self._applied = held.digest
        return wrong

    def _tell(self, outcome: Outcome) -> None:
        if COMMANDER in outcome.changed:
            try:
                with Client(self._settings.paths.control, RELOAD_LIMIT, name="the Manager") as manager:
                    manager.request("reload", timeout=RELOAD_LIMIT)
            except ControlError as no:  # it says which process does not start; it tries by itself
                log.warning("the Manager: %s", no)
        if HA in outcome.changed:
            found = pidfile.find(self._settings.paths.root / "run/ha_manager/ha_manager.pid")
            if found is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found.pid, signal.SIGHUP)

    def turn_on(self, outcome: Outcome, wrong: dict[str, str]) -> None:
        """High availability, the first time that a configuration wants it; what an operator does later is left alone."""
        last = self._applying.last()
        unclear = {COMMANDER, HA} & {name.casefold() for name in wrong}
        if last.ha == outcome.ha or unclear or not self._home.policy_server():
            return
        if outcome.ha and (no := self._ha_start()):
            wrong["HA"] = f"high availability is committed, and can't be started here: {no}"
            return
        self._applying.remember(Applied(last.modules, outcome.ha, last.whole))

    def _ha_start(self) -> str:
        """ "" or why not. Its own process group: what it has begun is not broken off because this process ends."""
        log.info("the configuration turns high availability on: ha start")
        try:
            done = subprocess.run(
                [*self._settings.ha, "start"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment(),
                start_new_session=True,
                timeout=START_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as no:
            return str(no)
        for line in done.stdout.splitlines():
            log.info("ha start: %s", line)
        if done.returncode == 0:
            return ""
        said = "; ".join(line.removeprefix("ha: ").strip() for line in done.stderr.splitlines() if line.strip())
        log.error("ha start: %s", said)
        return said or f"ha start ended with exit status {done.returncode}"

    # --- telling ------------------------------------------------------------------------------------------------------------

    def _told(self) -> Mapping[str, Any]:
        """For ``status``."""
        held = self.receiver.memory.holding.holds
        applied = held is not None and held.digest == self._applied
        return {
            "applied": wire.of_release(held) if applied else None,
            "applying_error": "; ".join(self._wrong.values()),
        }

    def _write(self) -> None:
        held = self.receiver.memory.holding
        told = {
            "trouble": self.trouble,
            "wrong": self._wrong,
            "applied": self._applied,
            "holds": wire.of_release(held.holds),
            "highest": wire.of_version(held.highest),
            "passive_of": self.receiver.memory.passive_of,
            "sessions": self._server.sessions() if self._server is not None else 0,
            "port": self.port,
            "accepts": self._accepts,
        }
        if told != self._written:
            try:
                write_json(self._settings.paths.receiver, told, durable=False)
                self._written = told
            except OSError as wrong:
                log.warning("%s can't be written: %s", self._settings.paths.receiver, wrong)
