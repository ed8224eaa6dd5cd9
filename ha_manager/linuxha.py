"""The link to a real Linux-HA heartbeat: its role is asked for with ``cl_status``, ours is told to nobody but the peer.

Promise: the same interface as ``link.HeartbeatLink``; ``cl_status`` is asked every ``heartbeat_cmd_interval`` in a thread of
its own, so that one that hangs delays neither the main loop nor Postgres; a record is on the disk before anything follows from
it, and if it can't be written nothing follows. What is decided, ``reign`` decides. Source: design §6; Trustwave SWG 11.8, 2.1.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from ha_manager.config import Config
from ha_manager.link import Listener, alike
from ha_manager.mailbox import Mailbox
from ha_manager.orders import Facts, Phase, Role, Want, epoch_from
from ha_manager.reign import STANDING, Outcome, Pair, PeerWord, Record, Seen, step
from ha_manager.role import Holds
from runtime.clock import boottime
from runtime.commands import run
from runtime.durable import read_json, write_durably, write_json
from runtime.errors import ConfigError, HaError

log = logging.getLogger(__name__)

ASK_LIMIT, STANDBY_LIMIT = 5.0, 30.0
#: while a hand-over is under way it is asked so often (seconds)
QUICK = 0.5
#: what is wanted holds for so long (seconds) beyond two intervals, should this thread hang
PATIENCE = 20.0

Then = Callable[[dict[str, Any]], None]


class LinuxHaLink:
    """``word``: the peer's, None while it can't be asked. ``alarm(name, text)`` is called in the main loop."""

    def __init__(
        self,
        config: Callable[[], Config],
        mail: Mailbox,
        listener: Listener,
        facts: Callable[[], Facts],
        word: Callable[[], PeerWord | None],
        alarm: Callable[[str, str], None],
    ) -> None:
        self._config, self._mail, self._listener = config, mail, listener
        self._facts, self._word, self._alarm = facts, word, alarm
        host = config().host
        self._file = host.paths.state / "linuxha.json"
        self._role_file = host.paths.heartbeat_run / "role"
        self._wake = threading.Event()
        self._ended = False
        self._latest = Facts()
        self._force: tuple[str, Then] | None = None
        #: until when a hand-over that was asked for may be under way
        self._giving_until = 0.0
        # the thread's own
        self._holds, self._said = Holds.NO_ANSWER, "not asked yet"
        self._outcome: Outcome | None = None
        self._wanted: Want | None = None
        # for everybody
        self.record = Record()
        self.want: Want | None = None
        self.role_until = 0.0
        self.heard_at = 0.0
        self.connected = False
        #: what Linux-HA's heartbeat hears, it doesn't tell
        self.silent = False

    @property
    def why(self) -> str:
        return "" if self.connected else self._said

    def start(self) -> None:
        self.record = load(self._file)
        threading.Thread(target=self._run, name="cl_status", daemon=True).start()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def report(self) -> None:
        """Main loop: something may have changed that decides."""
        facts = self._facts()
        if not alike(facts, self._latest) or facts.lsn != self._latest.lsn:
            self._latest = facts
            self._wake.set()

    @property
    def _giving(self) -> bool:
        active = self._outcome is not None and self._outcome.role is Role.ACTIVE
        return active and boottime() < self._giving_until

    # --- the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asked_at = -inf
        while not self._ended:
            period = QUICK if self._giving else self._config().site.heartbeat_cmd_interval
            try:
                if boottime() >= asked_at + period:
                    asked_at = boottime()
                    self._ask()
                self.turn()
            except Exception:
                log.exception("asking cl_status")
            # Facts come ten times a second while the passive catches up: once a tick is enough.
            self._wake.wait(max(0.05, asked_at + period - boottime()))
            self._wake.clear()

    def _ask(self) -> None:
        try:
            done = run([*self._config().host.linux_ha.cl_status, "rscstatus"], timeout=ASK_LIMIT, check=False)
            self._holds, self._said = Holds(done.stdout.strip()), ""
        except (HaError, ValueError) as wrong:
            self._holds = Holds.NO_ANSWER
            self._said = str(wrong) if isinstance(wrong, HaError) else (done.stderr.strip() or f"it said {done.stdout!r}")
        self.heard_at = boottime() if self._holds is not Holds.NO_ANSWER else self.heard_at

    def turn(self) -> None:
        """Decide once, note it, hand it on."""
        config, force = self._config(), self._force
        pair = Pair(config.node, config.peer, config.is_default_active)
        now = self._outcome.role if self._outcome is not None else None
        forced = force[0] if force is not None else ""
        seen = Seen(self._holds, self._latest, self._word(), self._wanted, now, forced)
        outcome = step(pair, self.record, seen)
        alarms = self._alarms(outcome)
        if outcome.record != self.record:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                save(self._file, outcome.record)
            except OSError as wrong:
                text = f"{self._file} can't be written: {wrong}"
                self._mail.post(lambda: self._alarm("linux-ha-record", text))
                return
            log.warning("%s -> %s: %s", _words(self.record), _words(outcome.record), outcome.want.because)
            self.record = outcome.record
        self._outcome = outcome
        self._wanted = numbered(outcome.want, self._wanted)
        self.role_until = boottime() + 2 * config.site.heartbeat_cmd_interval + PATIENCE
        self._write_role(outcome, config)
        wanted = self._wanted
        self._mail.post(lambda: self._deliver(wanted, alarms))
        if force is not None:
            self._force = None
            self._mail.post(lambda: force[1](_forced(outcome, self._holds)))

    def _alarms(self, outcome: Outcome) -> dict[str, str]:
        silent = f"heartbeat does not say who it is: {self._said}" if self._holds is Holds.NO_ANSWER else ""
        return {"linux-ha": STANDING, "linux-ha-role": outcome.alarm, "linux-ha-status": silent, "linux-ha-record": ""}

    def _write_role(self, outcome: Outcome, config: Config) -> None:
        """For ``ha amIactive``, as our own heartbeat writes it; good for two intervals."""
        role, epoch = outcome.role, outcome.record.epoch
        expires = boottime() + 2 * config.site.heartbeat_cmd_interval + ASK_LIMIT
        flags = f"{int(role is Role.ACTIVE)} {int(outcome.record.solo)}"
        try:
            if role is None:
                self._role_file.unlink(missing_ok=True)
            else:
                line = f"{role} {epoch.number} {epoch.node or '-'} {expires:.2f} {outcome.want.phase} {flags}\n"
                self._role_file.parent.mkdir(parents=True, exist_ok=True)
                write_durably(self._role_file, line, durable=False)
        except OSError as wrong:
            log.warning("%s can't be written: %s", self._role_file, wrong)

    # --- the main loop --------------------------------------------------------------------------------------------------------

    def _deliver(self, want: Want, alarms: Mapping[str, str]) -> None:
        if self._ended:
            return
        if not self.connected:
            self.connected = True
            self._listener.linked()
        for name, text in alarms.items():
            self._alarm(name, text)
        if want != self.want:
            self.want = want
            self._listener.wanted(want)

    def request(self, do: str, fields: Mapping[str, Any], then: Then) -> bool:
        """What our own heartbeat is asked for. Main loop."""
        match do:
            case "status":
                then({"ok": True} | self.status())
            case "standby":
                self._standby(bool(fields.get("force")), then)
            case "activate":
                self._activate(fields, then)
            case _:
                then({"ok": False, "error": f"a Linux-HA heartbeat knows no {do}"})
        return True

    def _activate(self, fields: Mapping[str, Any], then: Then) -> None:
        if not fields.get("force"):
            epoch = self.record.epoch
            then(
                {
                    "ok": False,
                    "error": f"what another server acknowledged beyond epoch {epoch}, as it is here, is lost; --force does it",
                }
            )
            return
        self._force = (f"forced by {fields.get('by', 'an operator')}", then)
        self._wake.set()

    def _standby(self, force: bool, then: Then) -> None:
        outcome = self._outcome
        if outcome is None or outcome.role is not Role.ACTIVE:
            then({"ok": False, "error": "this server is not active"})
        elif outcome.record.solo and not force:
            then({"ok": False, "error": outcome.alarm or "the passive is not in sync"})
        else:
            threading.Thread(target=self._hb_standby, args=(then,), name="hb_standby", daemon=True).start()

    def _hb_standby(self, then: Then) -> None:
        answer: dict[str, Any] = {"ok": True, "text": "hb_standby was accepted"}
        self._giving_until = boottime() + STANDBY_LIMIT
        self._wake.set()
        try:
            run(self._config().host.linux_ha.hb_standby, timeout=STANDBY_LIMIT)
        except HaError as wrong:
            self._giving_until = 0.0
            answer = {"ok": False, "error": str(wrong)}
        self._mail.post(lambda: then(answer))

    def status(self) -> dict[str, Any]:
        """In the form of our own heartbeat's status; what only that one knows is left out."""
        outcome, word = self._outcome, self._word()
        phase, role = (outcome.want.phase, outcome.role) if outcome is not None else (Phase.WAITING, None)
        because = outcome.want.because if outcome is not None else self._said
        if self._giving:
            phase, because = Phase.PREPARING, f"hb_standby was asked for; rscstatus is {self._holds}"
        peer = (word.role or "waiting") if word is not None else "unknown"
        return {
            "node": self._config().node, "peer": self._config().peer, "role": role or "passive", "phase": phase.value,
            "epoch": list(self.record.epoch), "solo": self.record.solo, "in_sync": self.record.in_sync,
            "fit": self.record.in_sync, "stood_down": role is Role.PASSIVE, "because": because,
            "rscstatus": self._holds.value, "alarms": {}, "links": {}, "ping_nodes": {}, "vip": {},
            # the session stands for heartbeat's contact here: its age is what keeps ha_manager from asking ten times a second
            "peer_state": {"contact": word is not None, "phase": peer, "heard_ago": 0.0,
                           "fit": role is Role.ACTIVE and not self.record.solo and self._latest.stalled == 0},
        }  # fmt: skip


def numbered(want: Want, before: Want | None) -> Want:
    """With the serial of the one before if it is the same, else with the next one."""
    serial = before.serial if before is not None else 0
    same = replace(want, serial=serial)
    return same if same == before else replace(want, serial=serial + 1)


def _forced(outcome: Outcome, holds: Holds) -> dict[str, Any]:
    if outcome.role is Role.ACTIVE and not outcome.alarm.startswith("Linux-HA made"):
        return {"ok": True, "text": "this server writes alone"}
    return {"ok": False, "error": f"Linux-HA has not made this server active (rscstatus {holds}): hb_takeover does"}


def _words(record: Record) -> str:
    flags = [name for name in ("solo", "in_sync") if getattr(record, name)]
    return " ".join([record.role or "new", f"epoch {record.epoch}", *flags])


def save(file: Path, record: Record) -> None:
    """On the disk when this returns. Raises OSError."""
    write_json(
        file,
        {"epoch": list(record.epoch), "role": record.role, "solo": record.solo, "in_sync": record.in_sync},
        mode=0o600,
    )


def load(file: Path) -> Record:
    """What was noted last; raises ConfigError for a damaged file: an empty answer could promote old data."""
    value = read_json(file)
    if value is None:
        return Record()
    try:
        role = Role(value["role"]) if value["role"] else None
        return Record(epoch_from(value["epoch"]), role, bool(value["solo"]), bool(value["in_sync"]))
    except (KeyError, TypeError, ValueError) as wrong:
        remedy = "compare both databases; remove it on the server whose database may be replaced"
        raise ConfigError(f"is damaged: {wrong}", file=file, remedy=remedy) from wrong


def peer_word(state: Mapping[str, Any], told_at: float, limit: float, roles: Mapping[Phase, Role | None]) -> PeerWord | None:
    """What the session's ``state`` answer says; None if it is too old, or of a server that runs our own heartbeat."""
    if boottime() - told_at > limit or state.get("decider") != "linux-ha":
        return None
    try:
        epoch = epoch_from(state.get("epoch"))
        return PeerWord(
            roles[Phase(str(state.get("phase")))], epoch, bool(state.get("solo", True)), int(state.get("proven", -1))
        )
    except (ValueError, TypeError, KeyError):
        return None
