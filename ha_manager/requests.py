"""What ha_manager answers on its control socket, and what it says in its status file (docs/protocols.md, "ha_manager").

Promise: reading changes nothing; what is asked of heartbeat is answered with heartbeat's own words. Handlers run in the main
loop and never wait. Source: docs/protocols.md; Trustwave §3 (ha_manager_status).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ha_manager.observation import Observation, is_plain, standby_name
from ha_manager.orders import ROLE_OF, Epoch, Postgres, Role, Want, epoch_from, facts_to
from ha_manager.outlook import observed_state
from runtime.clock import boottime
from runtime.control import Handler, Request
from runtime.errors import HaError, Refused

if TYPE_CHECKING:
    from ha_manager.process import Daemon

_ASKED = ("failover", "suspend", "resume", "activate")


def why_not_reseed(want: Want | None, copying: str, peer: Mapping[str, Any], name: str) -> str:
    """Why no fresh copy is made now, and what to do; "" if it may be. ``peer``: what its ha_manager says, {} if it can't be
    asked. Only of a server that says itself that it is the active which is followed here, in that very epoch.
    """
    if want is None:
        return "heartbeat has not said yet what this server is; `ha show`"
    if ROLE_OF[want.phase] is not Role.PASSIVE or want.postgres is not Postgres.STANDBY:
        return f"this server is {want.phase.value}: its database is not to be replaced; only a passive's is, on that server"
    if want.follow == Epoch():
        return "no active is followed now, so there is nothing to copy; `ha show`"
    if copying:
        return f"{copying} (already; `ha show` tells how far it is)"
    if not peer:
        return f"ha_manager on {name} can't be asked, so that it is active isn't proven; `ha show` says why"
    if peer.get("epoch") != list(want.follow) or peer.get("phase") not in ("active", "preparing") or not peer.get("heartbeat"):
        return f"{name} does not say that it is the active of epoch {want.follow}; `ha show` there"
    return ""


class Requests:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": lambda request: self.status(),
            "show": lambda request: self.show(),
            "reload": self._reload,
            "failover": lambda request: self._heartbeat(request, "standby"),
            "suspend": lambda request: self._heartbeat(request, "suspend"),
            "resume": lambda request: self._heartbeat(request, "resume"),
            "activate": lambda request: self._heartbeat(request, "activate"),
            "reseed": self._reseed,
            "stop_ha": lambda request: self._heartbeat(request, "leave"),
        }

    def _reload(self, request: Request) -> Mapping[str, Any]:
        return {"later": self._daemon.reload()}

    def _heartbeat(self, request: Request, do: str) -> None:
        """Pass it on; heartbeat's words come back."""
        fields = {name: request.fields[name] for name in ("by", "force", "kind") if name in request.fields}

        def then(answer: dict[str, Any]) -> None:
            if answer.get("ok"):
                request.answer({"text": answer.get("text", "")})
            else:
                request.refuse(str(answer.get("error", "refused without a reason")))

        if not self._daemon.link.request(do, {"by": "ha"} | fields, then):
            raise Refused(f"heartbeat can't be asked: {self._daemon.link.why}; `ha start` starts it")

    def _reseed(self, request: Request) -> None:
        """What the active said last may be of its last epoch: a copy that has just been made gave it a new one."""
        daemon = self._daemon

        def decide() -> None:
            try:
                request.answer(self._reseed_now(request.fields))
            except Refused as why:
                request.refuse(str(why))

        if daemon.peer.connected:
            daemon.peer.ask(lambda: daemon.mail.post(decide))
        else:
            decide()

    def _reseed_now(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """``force`` false: only whether it may be done, and what it means."""
        daemon, active = self._daemon, self._daemon.config.peer
        want, carried = daemon.link.want, daemon.worker.carried
        why = why_not_reseed(want, carried.copying, daemon.peer.state if daemon.peer.connected else {}, active)
        if why:
            raise Refused(why)
        if fields.get("force") is True:
            by = str(fields.get("by", "an operator"))[:100]
            daemon.worker.reseed(f"asked for by {by}")
            return {"text": f"the database of {active} is copied; the one here is kept aside if there is room"}
        return {
            "text": f"The database here is replaced by a copy of {active}'s; what only the one here holds is kept. Until it is"
            " done nobody could take over"
        }

    # --- for the peer -----------------------------------------------------------------------------------------------------

    def hand_over(self, asker: str, because: str, within: float) -> Epoch:
        """Called from a session's thread: ask heartbeat to stand down, wait until it has."""
        daemon, decided = self._daemon, threading.Event()
        answer: dict[str, Any] = {}

        def ask() -> None:
            def then(said: dict[str, Any]) -> None:
                answer.update(said)
                decided.set()

            if not daemon.link.request("standby", {"by": asker, "force": False}, then):
                answer.update({"ok": False, "error": f"heartbeat can't be asked: {daemon.link.why}"})
                decided.set()

        end = boottime() + max(0.5, min(within, 10.0) - 0.2)
        daemon.mail.post(ask)
        if not decided.wait(max(0.1, end - boottime())):
            raise HaError("heartbeat has not answered")
        if not answer.get("ok"):
            raise Refused(str(answer.get("error", "refused without a reason")))
        pause = threading.Event()
        while boottime() < end:
            status = daemon.heartbeat_status
            if status.get("role") == "passive" and status.get("stood_down"):
                return epoch_from(status.get("epoch"))
            pause.wait(0.02)
        raise HaError(f"standing down, asked because {because}; not done yet")

    # --- reading ------------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        daemon = self._daemon
        want, carried, seen = daemon.link.want, daemon.worker.carried, daemon.look.observation
        return {
            "node": daemon.config.node,
            "peer": daemon.config.peer,
            "role": daemon.role.value if daemon.role else "unknown",
            "phase": want.phase.value if want else "unknown",
            "epoch": list(want.epoch) if want else [0, ""],
            "postgres": observed_state(seen, carried).value,
            "replication": self.replication(),
            "trouble": carried.trouble,
            "copying": carried.copying,
            "heartbeat": daemon.link.connected,
            "peer_session": daemon.peer.connected,
            "alarms": dict(daemon.messages.alarms),
        }

    def show(self) -> dict[str, Any]:
        """All of it, for ``ha show``."""
        daemon = self._daemon
        want, seen = daemon.link.want, daemon.look.observation
        plan_role, plan_epoch, steps = daemon.planner.states
        return self.status() | {
            "virtual_ip": daemon.config.site.virtual_ip,
            "want": {"postgres": want.postgres, "names": want.names, "because": want.because} if want else {},
            "facts": facts_to(daemon.facts()),
            "database": database(seen),
            "behind": self._behind(),
            "plan": {"role": plan_role, "epoch": plan_epoch, "steps": {n: list(s) for n, s in steps.items()}},
            "session": {"connected": daemon.peer.connected, "why": daemon.peer.why, "listening": daemon.peer.listening,
                        "state": dict(daemon.peer.state)},
            "heartbeat_says": daemon.heartbeat_says(),
        }  # fmt: skip

    def _behind(self) -> dict[str, Any] | None:
        """How far the peer's standby is behind this primary; None: it does not stream."""
        daemon = self._daemon
        want, seen = daemon.link.want, daemon.look.observation
        row = seen.standby(standby_name(daemon.config.peer, want.epoch.number)) if want else None
        if row is None or row.state != "streaming":
            return None
        behind = daemon.trail.behind(row.flushed)
        return asdict(behind) if behind is not None else None

    def replication(self) -> str:
        """One word for others: off | copying | waiting | streaming | synchronous | asynchronous | failed."""
        daemon = self._daemon
        facts, carried = daemon.facts(), daemon.worker.carried
        if carried.copying:
            return "copying"
        if carried.trouble or facts.data == "failed":
            return "failed"
        if facts.postgres is Postgres.PRIMARY:
            if facts.proven >= 0 and facts.stalled < daemon.config.site.timing.stall:
                return "synchronous"
            fence = daemon.heartbeat_says().get("replication")
            if isinstance(fence, Mapping) and fence.get("mode") == "asynchronous" and facts.behind >= 0:
                return "asynchronous"
            return "streaming" if facts.caught_up else "waiting"
        if facts.postgres is Postgres.STANDBY:
            return "streaming" if facts.following != Epoch() else "waiting"
        return "off"

    def last_lines(self) -> dict[str, object]:
        """The same for as long as no ha_manager runs: what it said before may not be true any more."""
        lines = {name: value for name, value in self.status_lines().items() if not name.startswith("file.")}
        return lines | {"role": "unknown", "replication": "unknown", "peer_connected": False, "files": "off"}

    def status_lines(self) -> dict[str, object]:
        """/etc/ha_manager/ha_manager_status: only what changes seldom."""
        daemon = self._daemon
        want = daemon.link.want
        return {
            "role": daemon.role.value if daemon.role else "unknown",
            "epoch": str(want.epoch) if want else "0/-",
            "node": daemon.config.node,
            "peer": daemon.config.peer,
            "replication": self.replication(),
            "peer_connected": daemon.peer.connected,
            "trouble": daemon.worker.carried.trouble,
            "files": daemon.copier.summary,
            **{f"file.{number}": line for number, line in enumerate(daemon.copier.lines, 1)},
        }


def database(seen: Observation) -> dict[str, Any]:
    """What ``ha show`` and ``ha explain`` are told of this server's Postgres."""
    return {
        "state": seen.state, "answers": seen.answers, "timeline": seen.timeline, "lsn": seen.lsn, "names": seen.names,
        "replayed": seen.replayed, "standbys": [asdict(row) for row in seen.standbys],
        "receiver": asdict(seen.receiver) if seen.receiver else None,
        "slots": [asdict(slot) for slot in seen.slots], "waiting": seen.waiting,
        "disk_free": seen.disk_free, "disk_total": seen.disk_total, "disks": [asdict(disk) for disk in seen.disks],
        "vitals": asdict(seen.vitals) if seen.vitals else None,
        "plain": is_plain(seen.primary_conninfo) if seen.in_recovery else seen.tls is False,
    }  # fmt: skip
