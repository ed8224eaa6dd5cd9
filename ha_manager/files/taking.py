"""The passive's half: who may write to the staging directory now, over the session and by rsync.

Promise: whoever wants to write is let in by what this server is at that moment; when it is passive no more, ``ended`` returns
when nobody writes any more. The main loop (methods that begin with ``on_``) waits for no disk. Source: docs/protocols.md
("Replicated files"); design §6.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_manager.config import Config
from ha_manager.files.direction import Epoch, Standing, why_not_take
from ha_manager.files.receiver import Receiver
from ha_manager.files.record import Record, Refusal, start_of_this_server
from ha_manager.files.staging import Staging
from runtime import sshd
from runtime.channel import Channel
from runtime.clock import boottime
from runtime.control import Request
from runtime.errors import HaError
from runtime.proctree import kill_tree

log = logging.getLogger(__name__)

#: transfers that run when this server becomes active have so long to end (seconds)
GATES = 5.0
SSHD_AGAIN = 2.0
POLL = 0.1


@dataclass
class _Gate:
    """A transfer by rsync that asks, or was let in."""

    pid: int
    entry: str
    is_open: bool = False


class Taking:
    """``own``: what this server is; ``post`` has a call done in the main loop; ``alarm`` is told there, by name, "": none."""

    def __init__(
        self,
        config: Callable[[], Config],
        own: Callable[[], Standing],
        post: Callable[[Callable[[], None]], None],
        alarm: Callable[[str, str], None],
    ) -> None:
        self._config, self._own, self._post, self._alarm = config, own, post, alarm
        paths = config().host.paths
        self._folder = paths.run / "files.d"
        self.staging = Staging(paths.staging)
        self.staging.prepare()
        self.staging.sweep(self.names())
        self.record = Record(self.staging, start_of_this_server())
        #: entry → when something of it came last (seconds since 1970)
        self.received: dict[str, float] = {}
        self._gates: dict[Channel, _Gate] = {}
        self._sshd: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.receiver = Receiver(paths.run / "files-in", self.staging, self)

    # --- over the session: what the receiver asks ---------------------------------------------------------------------------

    def admit(self, epoch: Epoch) -> None:
        try:
            self.record.admit(self._own(), epoch)
        except Refusal as why:
            raise Refusal(f"{self._config().node}: {why}") from why

    def greeting(self) -> dict[str, Any]:
        return {"entries": self.names(), "doubts": sorted(self.record.doubts())}

    def complete(self, entry: str, epoch: Epoch, took: float, by_content: bool) -> None:
        self.record.complete(entry, epoch, took, by_content=by_content)

    def took(self, path: str) -> None:
        if entry := self.entry_of(path):
            self.received[entry] = time.time()

    def names(self) -> list[str]:
        return [each.name for each in self._config().site.files]

    def entry_of(self, path: str) -> str:
        """The innermost that ``path`` lies in, "" for none."""
        return max((name for name in self.names() if path == name or path.startswith(name + "/")), key=len, default="")

    # --- by rsync -----------------------------------------------------------------------------------------------------------

    def on_gate(self, request: Request) -> Mapping[str, Any] | None:
        """rsync asks whether it may write: as long as this connection stands. Answered when that is written down."""
        number, node = request.fields["epoch"]
        path = str(request.fields["path"])
        gate = self._gates[request.channel] = _Gate(int(request.fields["pid"]), self.entry_of(path))
        self.took(path)
        threading.Thread(target=self._open, args=(request, gate, (int(number), str(node))), name="gate", daemon=True).start()
        return None

    def _open(self, request: Request, gate: _Gate, epoch: Epoch) -> None:
        try:
            self.admit(epoch)
            # A file by itself is flushed by its rsync.
            if gate.entry:
                self.record.opened(gate.entry)
        except (HaError, OSError) as wrong:
            self._post(lambda wrong=wrong: self._refused(request, str(wrong)))  # type: ignore[misc]
        else:
            self._post(lambda: self._admitted(request, gate))

    def _refused(self, request: Request, why: str) -> None:
        self._gates.pop(request.channel, None)
        request.refuse(why)

    def _admitted(self, request: Request, gate: _Gate) -> None:
        gate.is_open = bool(gate.entry)
        why = why_not_take(self._own(), self.record.held.epoch, self.record.held.epoch)
        if self._gates.get(request.channel) is gate and not why:
            request.answer({"staging": os.fspath(self.staging.root)})
            return
        self.on_gone(request.channel, gate)
        request.refuse(why)

    def on_gone(self, channel: Channel, gate: _Gate | None = None) -> None:
        """Its connection ended, and with it all that it wrote."""
        gate = self._gates.pop(channel, gate)
        if gate is not None and gate.is_open:
            gate.is_open = False
            self.record.closed(gate.entry)

    def on_stop(self) -> None:
        """Nobody may write any more: transfers are told, and end."""
        for channel in list(self._gates):
            channel.send({"push": "stop"})

    def ended(self) -> None:
        """Wait until nobody writes. Not for the main loop."""
        end = boottime() + GATES
        while self._gates and boottime() < end:
            time.sleep(0.02)
        for gate in list(self._gates.values()):
            log.warning("a transfer to this server did not end: killed")
            kill_tree(gate.pid, None)
        with self.receiver.writing:
            pass  # whoever wrote has ended; nobody begins any more

    # --- sshd ---------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """sshd, while this server is passive and there is anything to take. In a thread of its own."""
        while not self._ended:
            if not self._wants_sshd():
                self.end_sshd()
                time.sleep(POLL)
                continue
            said = self._run_sshd()
            if not self._ended and self._wants_sshd() and said:
                port = self._config().site.files_port
                self._tell(f"directories and large files can't be received here: sshd on port {port}: {said}")
                time.sleep(SSHD_AGAIN)

    def _wants_sshd(self) -> bool:
        return self._own().role == "passive" and bool(self._config().site.files)

    def _tell(self, text: str) -> None:
        self._post(lambda: self._alarm("files-sshd", text))

    def _run_sshd(self) -> str:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        locked = sshd.root_is_locked()
        argv = ["setpriv", "--pdeathsig=TERM", *sshd.argv(self._folder, locked=locked)]
        try:
            with open(self._folder / "sshd.log", "w+b") as output:
                self._sshd = child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
                )
                self._watch_sshd(child, locked)
                output.seek(0)
                said = output.read(4096).decode(errors="replace").strip().splitlines()
        except OSError as wrong:
            return str(wrong)
        ended = child.returncode in (0, -15, 255) and self._sshd is None
        self._sshd = None
        return "" if ended else (said[-1] if said else f"it ended with {child.returncode}")

    def _watch_sshd(self, child: subprocess.Popen[bytes], locked: bool) -> None:
        began, is_told, looked = boottime(), False, boottime()
        while child.poll() is None:
            if boottime() - looked > SSHD_AGAIN:
                looked = boottime()
                if sshd.root_is_locked() != locked:
                    self.end_sshd()  # another one follows
            if not self._wants_sshd():
                self.end_sshd()
            elif boottime() - began > SSHD_AGAIN and not is_told:
                is_told = True
                self._tell("")
            time.sleep(POLL)

    def end_sshd(self) -> None:
        child, self._sshd = self._sshd, None
        if child is not None and child.poll() is None:
            child.terminate()

    def end(self) -> None:
        self._ended = True
        self.on_stop()
        self.end_sshd()
        self.record.end()
        self.receiver.close()
