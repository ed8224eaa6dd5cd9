"""The process of the replicated files: its parts wired together, and what it answers on its control socket.

Promise: the main loop waits for nothing that can hang; this server's role is what ha_manager said last, and until it has said
anything, nothing is sent and nothing taken. Ends when ha_manager does. Source: docs/protocols.md ("files"); design §6.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ha_manager.config import Config
from ha_manager.files import placing, transport
from ha_manager.files.bulk import Transfer
from ha_manager.files.direction import NONE, Epoch, Standing, why_not_send
from ha_manager.files.line import Line
from ha_manager.files.placing import Outcome, Placing, Wanted
from ha_manager.files.sending import Sending
from ha_manager.files.taking import Taking
from ha_manager.files.watching import Watcher
from ha_manager.mailbox import Mailbox
from ha_manager.schedule import Schedule
from runtime.clock import boottime
from runtime.control import ControlServer, Request
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.loop import Loop

log = logging.getLogger(__name__)

TICK = 0.5
#: every entry that is watched is compared all the same (seconds)
COMPARE = 600.0
#: one that can't be watched
UNWATCHED = 60.0


class Service:
    """Methods whose names begin with ``on_`` run in the main loop. ``load`` reads the configuration anew."""

    def __init__(self, load: Callable[[], Config]) -> None:
        self._load = load
        self.config = load()
        paths = self.config.host.paths
        self._folder = paths.run / "files.d"
        self._control_path = paths.run / "files"
        self._keys = Keys(paths.keys)
        self.loop = Loop()
        self.mail = Mailbox(self.loop.selector)
        self._own = Standing()
        self._placed: tuple[Epoch, Outcome | None, str] = (NONE, None, "")
        self._placing: Epoch = NONE
        self._alarms: dict[str, str] = {}
        self._said: Mapping[str, Any] = {}
        self._ended = False
        self.transfer = Transfer(self._folder)
        self.sending = Sending(lambda: self.config, self._dial, self.transfer, boottime)
        self.watcher = Watcher(self.sending)
        self.loop.selector.register(self.watcher.fd, selectors.EVENT_READ, lambda mask: self.watcher.read())
        self.taking = Taking(lambda: self.config, lambda: self._own, self.mail.post, self._alarms.__setitem__)
        self.schedule = Schedule()
        self.control = ControlServer(
            self._control_path,
            self.loop.selector,
            {
                "role": self.on_role, "status": lambda request: self.status(), "sync": self.on_sync, "place": self.on_place,
                "reload": self.on_reload, "gate": self.taking.on_gate, "subscribe": self.on_subscribe,
            },
            on_close=self.taking.on_gone,
        )  # fmt: skip

    # --- life -------------------------------------------------------------------------------------------------------------

    def run(self, lifeline: int) -> None:
        """Until ``lifeline``, which ha_manager holds the other end of, is closed."""
        self.loop.selector.register(lifeline, selectors.EVENT_READ, lambda mask: self.loop.stop())
        self._write_transport()
        bodies = {
            "sending": self.sending.run, "rsync": self.sending.run_bulk, "sshd": self.taking.run,
            "flushing": self.taking.record.run,
        }  # fmt: skip
        for name, body in bodies.items():
            threading.Thread(target=self._work, args=(name, body), name=name, daemon=True).start()
        self._start_schedule()
        self._tick()
        self.loop.run()
        self._ended = True
        self.sending.end()
        self.taking.end()
        self.control.close()

    def _work(self, name: str, body: Callable[[], None]) -> None:
        """As ha_manager's: a thread that a bug ended is told, and begins again."""
        while not self._ended:
            try:
                body()
            except Exception:
                log.exception("the thread %s ended because of an internal error; it begins again", name)
                time.sleep(1.0)

    def _start_schedule(self) -> None:
        jobs: dict[str, tuple[float, Callable[[], None]]] = {}
        for entry in self.config.site.files:
            every = COMPARE if entry.inotify else float(entry.interval)
            jobs[entry.name] = (every, lambda path=entry.name: self.sending.due(path))  # type: ignore[misc]
        if jobs:
            hours = self.config.host.files.checksum
            jobs["*unwatched"] = (UNWATCHED, self._compare_unwatched)
            jobs["*checksum"] = (3600.0 * hours, self._compare_content)
        self.schedule.end()
        self.schedule.start(jobs)

    def _compare_unwatched(self) -> None:
        for name, account in list(self.sending.accounts.items()):
            if account.unwatched:
                self.sending.due(name)

    def _compare_content(self) -> None:
        for name in list(self.sending.accounts):
            self.sending.due(name, checksum=True)

    def _tick(self) -> None:
        self._say()
        self.loop.call_after(TICK, self._tick)

    def _say(self) -> None:
        """To ha_manager, when it is new."""
        said = self._in_short()
        if said != self._said:
            self._said = said
            self.control.push("files", said)

    def _in_short(self) -> dict[str, Any]:
        lines = [account.line(behind) for account, behind in self.sending.rows()] if self._own.role == "active" else []
        return {"alarms": self.alarms(), "summary": self.sending.summary(), "lines": lines}

    def alarms(self) -> dict[str, str]:
        return self.sending.alarms() | self._alarms

    # --- requests -----------------------------------------------------------------------------------------------------------

    def on_subscribe(self, request: Request) -> Mapping[str, Any]:
        request.subscribe()
        return self._in_short()

    def on_role(self, request: Request) -> Mapping[str, Any]:
        number, node = request.fields["epoch"]
        self._become(Standing(str(request.fields["role"]), (int(number), str(node)), bool(request.fields["placed"])))
        return {}

    def _become(self, own: Standing) -> None:
        if own == self._own:
            return
        before, self._own = self._own, own
        if why_not_send(own) != why_not_send(before):
            log.info("replicated files: %s", why_not_send(own) or "sending")
        if own.role != "passive":
            self.taking.on_stop()
        if own.role == "passive" and before.role != "passive":
            for name in ("files-place", "files-newer", "files-removed"):
                self._alarms.pop(name, None)
        self.sending.standing(own)
        # Watched before the first pass, so that nothing falls between the two.
        self._watch()
        self._say()

    def _watch(self) -> None:
        """What inotify is configured for, while this server sends."""
        sends = not why_not_send(self._own)
        self.watcher.watch([each.name for each in self.config.site.files if each.inotify] if sends else [])

    def on_reload(self, request: Request) -> Mapping[str, Any]:
        """Raises ConfigError, changing nothing."""
        self.config = self._load()
        self._write_transport()
        self.taking.end_sshd()  # another one follows
        self.taking.receiver.hang_up()
        self.sending.renew()
        self._start_schedule()
        self._watch()
        return {}

    def on_sync(self, request: Request) -> Mapping[str, Any]:
        path = str(request.fields.get("path", ""))
        names = self.taking.names()
        found = [name for name in names if not path or path == name or path.startswith(name + "/")]
        if not found:
            raise HaError(f"{path} is not below a path that module.xml names: {', '.join(names) or 'it names none'}")
        return {"tickets": self.sending.sync([max(found, key=len)] if path else found)}

    def status(self) -> dict[str, Any]:
        own, record = self._own, self.taking.record
        epoch, outcome, label = self._placed
        return {
            "role": own.role, "epoch": list(own.epoch), "connected": not self.sending.why, "why": self.sending.why,
            "peer": self.config.peer, "entries": [account.as_json(behind) for account, behind in self.sending.rows()],
            "staged": record.held.as_json() | {"received": dict(self.taking.received), "doubts": record.doubts()},
            "placed": {"epoch": list(epoch), "kept": label, **(vars(outcome) if outcome else {})},
            "watches": len(self.watcher), "alarms": self.alarms(), "summary": self.sending.summary(),
        }  # fmt: skip

    # --- putting in place -----------------------------------------------------------------------------------------------------

    def on_place(self, request: Request) -> Mapping[str, Any]:
        """Begin, or tell how far it is: asked again until ``done``."""
        number, node = request.fields["epoch"]
        epoch: Epoch = (int(number), str(node))
        done, outcome, _ = self._placed
        if done == epoch and outcome is not None:
            return {"done": True, "words": _words(outcome)}
        if self._placing != epoch:
            self._placing = epoch
            self._become(Standing("active", epoch, placed=False))
            threading.Thread(target=self._place, args=(epoch,), name="placing", daemon=True).start()
        return {"done": False}

    def _place(self, epoch: Epoch) -> None:
        try:
            self.taking.ended()
            complete, doubts = self.taking.record.held.complete, self.taking.record.doubts()
            entries = [
                Wanted(each.name, each.owner, complete.get(each.name), doubts.get(each.name)) for each in self.config.site.files
            ]
            label = f"{epoch[0]}-{epoch[1]}-{time.strftime('%Y%m%dT%H%M%S')}"
            kept = self.config.host.paths.state / "replaced"
            outcome = Placing(self.taking.staging.root, kept / label, lambda: None).run(entries)
            placing.prune(kept)
        except Exception as wrong:
            log.exception("replicated files can't be put in place")
            outcome, label = Outcome(wrong=[f"replicated files can't be put in place: {wrong}"]), ""
        self.mail.post(lambda: self.on_placed(epoch, outcome, label))

    def on_placed(self, epoch: Epoch, outcome: Outcome, label: str) -> None:
        self._placing, self._placed = NONE, (epoch, outcome, label)
        log.info("replicated files: %s", _words(outcome))
        for text in (*outcome.wrong, *outcome.newer):
            log.warning("replicated files: %s", text)
        self._alarms["files-place"] = _first(outcome.wrong)
        self._alarms["files-newer"] = _first(outcome.newer)
        gone = f"{outcome.removed} files that only this server had were taken away, as they are not on the other one"
        self._alarms["files-removed"] = f"{gone}: `ha files restore {label}` brings them back" if outcome.removed else ""
        self._say()

    # --- the other server ---------------------------------------------------------------------------------------------------

    def _dial(self, own: Standing) -> Line:
        config = self.config
        return Line(config.peer_ip, config.site.port, self._keys, own.epoch)

    def _write_transport(self) -> None:
        config = self.config
        ends = transport.Ends(config.own_ip, config.peer_ip, config.peer, config.site.files_port)
        try:
            transport.write(self._folder, self._keys, ends, self._control_path)
        except ConfigError as wrong:
            self._alarms["files-keys"] = f"files can't be copied by rsync: {wrong}"
        else:
            self._alarms.pop("files-keys", None)


def _first(texts: list[str]) -> str:
    return texts[0] + (f" (and {len(texts) - 1} more: `ha files`)" if len(texts) > 1 else "") if texts else ""


def _words(outcome: Outcome) -> str:
    parts = [f"{outcome.placed} put in place", f"{outcome.same} were the same"]
    parts += [f"{outcome.removed} removed, as on the other server"] if outcome.removed else []
    parts += [f"{len(outcome.newer)} kept, newer here"] if outcome.newer else []
    parts += [f"{len(outcome.wrong)} failed"] if outcome.wrong else []
    return ", ".join(parts)
