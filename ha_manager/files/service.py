"""The process of the replicated files: its parts wired together, and what it answers on its control socket.

Promise: the main loop waits for nothing that can hang; this server's role is what ha_manager said last, and until it has said
anything, nothing is sent and nothing taken. Ends when ha_manager does. Source: docs/protocols.md ("files"); design §6.
"""

from __future__ import annotations

import logging
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ha_manager.config import Config
from ha_manager.files import placing, transport
from ha_manager.files.bulk import Transfer
from ha_manager.files.direction import NONE, Epoch, Standing, why_not_send, why_not_take
from ha_manager.files.line import Line
from ha_manager.files.placing import Outcome, Placing, Wanted
from ha_manager.files.receiver import Receiver, Refusal
from ha_manager.files.sending import Sending
from ha_manager.files.staging import Staging
from ha_manager.files.watching import Watcher
from ha_manager.mailbox import Mailbox
from ha_manager.schedule import Schedule
from runtime.channel import Channel
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
#: transfers that run when this server becomes active have so long to end (seconds)
GATES = 5.0
SSHD_AGAIN = 2.0


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
        self.staging = Staging(paths.staging)
        self.staging.prepare()
        self._gates: dict[Channel, int] = {}
        self._received: dict[str, float] = {}
        self._placed: tuple[Epoch, Outcome | None, str] = (NONE, None, "")
        self._placing: Epoch = NONE
        self._alarms: dict[str, str] = {}
        self._said: Mapping[str, Any] = {}
        self._sshd: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.transfer = Transfer(self._folder)
        self.sending = Sending(lambda: self.config, self._dial, self.transfer, boottime)
        self.watcher = Watcher(self.sending)
        self.loop.selector.register(self.watcher.fd, selectors.EVENT_READ, lambda mask: self.watcher.read())
        self.receiver = Receiver(paths.run / "files-in", self.staging, self._admit, self._names, self._complete, self._took)
        self.schedule = Schedule()
        self.control = ControlServer(
            self._control_path,
            self.loop.selector,
            {
                "role": self.on_role, "status": lambda request: self.status(), "sync": self.on_sync, "place": self.on_place,
                "reload": self.on_reload, "gate": self.on_gate, "subscribe": self.on_subscribe,
            },
            on_close=self.on_gone,
        )  # fmt: skip

    # --- life -------------------------------------------------------------------------------------------------------------

    def run(self, lifeline: int) -> None:
        """Until ``lifeline``, which ha_manager holds the other end of, is closed."""
        self.loop.selector.register(lifeline, selectors.EVENT_READ, lambda mask: self.loop.stop())
        self._write_transport()
        for name, body in (("sending", self.sending.run), ("rsync", self.sending.run_bulk), ("sshd", self._serve_rsync)):
            threading.Thread(target=self._work, args=(name, body), name=name, daemon=True).start()
        self._start_schedule()
        self._tick()
        self.loop.run()
        self._ended = True
        self.sending.end()
        self.on_ended_gates()
        self._end_sshd()
        self.receiver.close()
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
            self.on_ended_gates()
        if own.role == "passive" and before.role != "passive":
            self._alarms = {}
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
        self._end_sshd()  # another one follows
        self.receiver.hang_up()
        self.sending.renew()
        self._start_schedule()
        self._watch()
        return {}

    def on_sync(self, request: Request) -> Mapping[str, Any]:
        path = str(request.fields.get("path", ""))
        names = self._names()
        found = [name for name in names if not path or path == name or path.startswith(name + "/")]
        if not found:
            raise HaError(f"{path} is not below a path that module.xml names: {', '.join(names) or 'it names none'}")
        return {"tickets": self.sending.sync([max(found, key=len)] if path else found)}

    def status(self) -> dict[str, Any]:
        own, state = self._own, self.staging.state()
        epoch, outcome, label = self._placed
        complete = state.get("complete")
        return {
            "role": own.role, "epoch": list(own.epoch), "connected": not self.sending.why, "why": self.sending.why,
            "peer": self.config.peer, "entries": [account.as_json(behind) for account, behind in self.sending.rows()],
            "staged": {"epoch": state.get("epoch", list(NONE)), "complete": complete if isinstance(complete, dict) else {},
                       "received": dict(self._received)},
            "placed": {"epoch": list(epoch), "kept": label, **(vars(outcome) if outcome else {})},
            "watches": len(self.watcher), "alarms": self.alarms(), "summary": self.sending.summary(),
        }  # fmt: skip

    # --- taking files -------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [each.name for each in self.config.site.files]

    def _admit(self, epoch: Epoch) -> None:
        """Raises Refusal. A newer epoch is noted before its first file is taken."""
        state = self.staging.state()
        found = state.get("epoch")
        newest: Epoch = (int(found[0]), str(found[1])) if isinstance(found, list) and len(found) == 2 else NONE
        if why := why_not_take(self._own, newest, epoch):
            raise Refusal(f"{self.config.node}: {why}")
        if epoch != newest:
            self.staging.note({"epoch": list(epoch), "complete": {}})
            self._received = {}

    def _complete(self, entry: str, epoch: Epoch, took: float) -> None:
        """A full pass of ``entry`` has ended that took so long: what is not staged did not exist when it began."""
        state = self.staging.state()
        complete = state.get("complete")
        known = complete if isinstance(complete, dict) else {}
        self.staging.note({"epoch": list(epoch), "complete": known | {entry: time.time() - max(0.0, took)}})

    def _took(self, path: str) -> None:
        entry = max((name for name in self._names() if path == name or path.startswith(name + "/")), key=len, default="")
        if entry:
            self._received[entry] = time.time()

    def on_gate(self, request: Request) -> Mapping[str, Any]:
        """rsync asks whether it may write: as long as this connection stands."""
        number, node = request.fields["epoch"]
        self._admit((int(number), str(node)))
        self._gates[request.channel] = int(request.fields["pid"])
        self._took(str(request.fields["path"]))
        return {"staging": os.fspath(self.staging.root)}

    def on_gone(self, channel: Channel) -> None:
        self._gates.pop(channel, None)

    def on_ended_gates(self) -> None:
        for channel in list(self._gates):
            channel.send({"push": "stop"})

    def _serve_rsync(self) -> None:
        """sshd, while this server is passive and there is anything to take."""
        while not self._ended:
            if self._own.role != "passive" or not self.config.site.files:
                self._end_sshd()
                time.sleep(TICK)
                continue
            said = self._run_sshd()
            if not self._ended and self._own.role == "passive" and said:
                text = f"directories and large files can't be received here: sshd on port {self.config.site.files_port}: {said}"
                self.mail.post(lambda text=text: self._alarms.update({"files-sshd": text}))  # type: ignore[misc]
                time.sleep(SSHD_AGAIN)

    def _run_sshd(self) -> str:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        argv = ["setpriv", "--pdeathsig=TERM", *transport.server_argv(self._folder)]
        try:
            with open(self._folder / "sshd.log", "w+b") as output:
                self._sshd = child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
                )
                began = boottime()
                while child.poll() is None:
                    if self._own.role != "passive":
                        self._end_sshd()
                    elif boottime() - began > SSHD_AGAIN:
                        self._alarms.pop("files-sshd", None)
                    time.sleep(TICK)
                output.seek(0)
                said = output.read(4096).decode(errors="replace").strip().splitlines()
        except OSError as wrong:
            return str(wrong)
        ended = child.returncode in (0, -15, 255) and self._sshd is None
        self._sshd = None
        return "" if ended else (said[-1] if said else f"it ended with {child.returncode}")

    def _end_sshd(self) -> None:
        child, self._sshd = self._sshd, None
        if child is not None and child.poll() is None:
            child.terminate()

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
            self._await_gates()
            with self.receiver.writing:
                pass  # whoever wrote has ended; nobody begins any more
            state = self.staging.state().get("complete")
            complete = state if isinstance(state, dict) else {}
            entries = [Wanted(each.name, each.owner, complete.get(each.name)) for each in self.config.site.files]
            label = f"{epoch[0]}-{epoch[1]}-{time.strftime('%Y%m%dT%H%M%S')}"
            kept = self.config.host.paths.state / "replaced"
            outcome = Placing(self.staging.root, kept / label, lambda: None).run(entries)
            placing.prune(kept)
        except Exception as wrong:
            log.exception("replicated files can't be put in place")
            outcome, label = Outcome(wrong=[f"replicated files can't be put in place: {wrong}"]), ""
        self.mail.post(lambda: self.on_placed(epoch, outcome, label))

    def _await_gates(self) -> None:
        end = boottime() + GATES
        while self._gates and boottime() < end:
            time.sleep(0.02)
        for pid in list(self._gates.values()):
            log.warning("a transfer to this server did not end: killed")
            os.kill(pid, 9)

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
