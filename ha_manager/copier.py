"""The process of the replicated files (``ha_manager.files``), as ha_manager sees it: started, told its role, asked, forwarded
to.

Promise: nothing here waits for it: it is started again when it dies, woken when it is stopped, ended when it hangs, and either
is an alarm as long as it lasts; told anew what this server is whenever it connects, and what it says is a level. What the peer
sends it in the session is passed on, unread. Source: design §6; docs/protocols.md ("files").
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ha_manager.config import Config
from ha_manager.lanes import Token
from ha_manager.orders import Epoch, Role
from ha_manager.plan import Run
from runtime.control import Client, LoopClient
from runtime.errors import ControlError, HaError, NotRunning
from runtime.oom import as_others
from runtime.proctree import process
from runtime.pulse import wake

if TYPE_CHECKING:
    import paramiko

log = logging.getLogger(__name__)

#: the planner's states: role, epoch, each step's state and last error
Planned = tuple[str, str, Mapping[str, tuple[str, str]]]

#: pause before it is started again (seconds)
AGAIN = 1.0
#: it has so long to end by itself (seconds): a restart of ha_manager must fit into its allowance
END = 0.3
POLL = 0.05
#: whoever has just started waits so long for it before its absence is told (seconds)
STARTS = 5.0
_CHUNK = 1 << 16
ALARM = "files-process"


@dataclass(frozen=True)
class Patience:
    """Seconds: it is asked for a sign of life so often; silence for so long is an alarm; and after so long it hangs for good.
    (In between it may be beginning to watch a very large tree on a slow disk.)
    """

    ping: float = 2.0
    late: float = 15.0
    hung: float = 300.0


class Copier:
    """``alarm`` is called in the main loop, from which ``update`` is called, too."""

    def __init__(
        self, config: Callable[[], Config], alarm: Callable[[str, str], None], patience: Patience = Patience()
    ) -> None:
        self._config, self._alarm, self._patience = config, alarm, patience
        self._client: LoopClient | None = None
        #: what it was told last, and what ``update`` had been told then
        self._told: tuple[object, ...] = ()
        self._was: tuple[object, ...] = ()
        self._preparing = False
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._names: set[str] = set()
        #: why it ended last
        self._last = ""
        #: when it was asked last, and since when nothing has come of it
        self._asked, self._heard = 0.0, time.monotonic()
        #: one word on how it goes, for ha_manager_status
        self.summary = "none"
        #: one line an entry, on the active
        self.lines: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        return bool(self._config().site.files)

    @property
    def control(self) -> Path:
        return self._config().host.paths.run / "files"

    # --- the process ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Keep it running while module.xml names files. In a thread of its own."""
        while not self._ended.is_set():
            if not self.wanted:
                self._ended.wait(AGAIN)
                continue
            config = self._config()
            argv = [sys.executable, "-P", "-m", "ha_manager.files.daemon", str(config.module_xml), str(config.conf)]
            try:
                with as_others():
                    self._child = child = subprocess.Popen(argv, stdin=subprocess.PIPE, process_group=0, cwd="/")
            except OSError as wrong:
                self._last = f"it can't be started: {wrong}"
                log.error("the process of the replicated files: %s", self._last)
                self._ended.wait(AGAIN)
                continue
            child.wait()
            self._last = f"it ended with {child.returncode}; the system log says why"
            if child.stdin is not None:
                child.stdin.close()
            if not self._ended.is_set() and self.wanted:
                log.warning("the process of the replicated files ended (%s); it is started again", child.returncode)
                self._ended.wait(AGAIN)

    def end(self) -> None:
        self._ended.set()
        self._let_go()

    def _let_go(self) -> None:
        """Its standard input closes: it ends by itself, with all that it started."""
        child = self._child
        if child is None or child.poll() is not None or child.stdin is None:
            return
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(END)
        except subprocess.TimeoutExpired:
            child.kill()  # rsync and sshd have asked the kernel to end with it

    # --- the main loop ------------------------------------------------------------------------------------------------------

    def update(
        self, role: Role | None, epoch: Epoch, steps: Planned, preparing: bool, selector: selectors.BaseSelector
    ) -> None:
        """What this server is now. ``preparing``: to hand over, so what waits for its interval is copied before."""
        if not self.wanted:
            self._alive({})
            return
        self._look()
        if self._client is None:
            try:
                self._client = LoopClient(self.control, selector, on_push=self._said, on_close=self._closed, name="files")
            except ControlError:
                return
            self._was = self._told = ()
            self._client.request("subscribe", {}, self._said)
        if (role, epoch, steps) != self._was:
            self._tell(role, epoch, steps)
        if preparing and not self._preparing and self._client is not None:
            self._client.request("sync", {})
        self._preparing = preparing

    def _tell(self, role: Role | None, epoch: Epoch, steps: Planned) -> None:
        """The process need not hear of every step."""
        self._was = (role, epoch, steps)
        told = (role.value if role else "unknown", list(epoch), placed(role, epoch, steps))
        if told != self._told and self._client is not None:
            self._told = told
            self._client.request("role", dict(zip(("role", "epoch", "placed"), told, strict=True)))

    def _look(self) -> None:
        """Is it there, and does it answer?"""
        now = time.monotonic()
        silent, child = now - self._heard, self._child
        if self._client is not None and now - self._asked >= self._patience.ping:
            self._asked = now
            self._client.request("ping", {}, self._alive)
        if silent < 2 * self._patience.ping:
            return
        found = process(child.pid) if child is not None and child.poll() is None else None
        if found is not None and wake([found]):
            log.warning("the process of the replicated files (%d) was stopped: woken", found.pid)
        if silent < self._patience.late:
            return
        if found is None or child is None:
            self._alarm(ALARM, f"the process of the replicated files does not run, so nothing is copied: {self._last}")
            return
        self._alarm(
            ALARM, "the process of the replicated files does not answer: it hangs or is overloaded; it may copy nothing"
        )
        if silent > self._patience.hung:
            log.error("the process of the replicated files (%d) has not answered for %.0f s: killed", found.pid, silent)
            self._heard = now
            child.kill()

    def _alive(self, answer: Mapping[str, Any]) -> None:
        self._heard = time.monotonic()
        self._alarm(ALARM, "")

    def reload(self) -> None:
        """The configuration was read again."""
        if not self.wanted:
            threading.Thread(target=self._let_go, name="end of the files", daemon=True).start()  # it may take its time
        elif self._client is not None:
            self._client.request("reload", {})

    def _said(self, message: Mapping[str, Any]) -> None:
        alarms = message.get("alarms")
        if isinstance(alarms, dict):
            for name in self._names - set(alarms):
                self._alarm(name, "")
            self._names = set(alarms)
            for name, text in alarms.items():
                self._alarm(name, str(text))
        self.summary = str(message.get("summary", self.summary))
        self.lines = tuple(str(line) for line in message.get("lines", ()))

    def _closed(self, because: str) -> None:
        self._client = None
        self._said({"alarms": {}, "summary": "none" if not self.wanted else "off"})

    # --- becoming active ----------------------------------------------------------------------------------------------------

    def place(self, run: Run, token: Token) -> None:
        """The plan's step: returns when it is done; what could not be put in place is an alarm of its own."""
        epoch = run.change.epoch
        end = time.monotonic() + run.step.limit
        starts = time.monotonic() + STARTS
        while time.monotonic() < end:
            token.check()
            try:
                with Client(self.control, 5.0, name="the process of the replicated files") as client:
                    answer = client.request("place", {"epoch": list(epoch)})
            except NotRunning:
                if time.monotonic() > starts:
                    raise
                answer = {}
            if answer.get("done"):
                return
            time.sleep(POLL)
        raise HaError(f"not done within {run.step.limit:g} s; it goes on")

    # --- the session --------------------------------------------------------------------------------------------------------

    def forward(self, channel: paramiko.Channel) -> None:
        """What the peer opened for files goes to that process."""
        threading.Thread(target=self._forward, args=(channel,), name="files in", daemon=True).start()

    def _forward(self, channel: paramiko.Channel) -> None:
        with contextlib.closing(channel), socket.socket(socket.AF_UNIX) as inner:
            try:
                inner.connect(str(self._config().host.paths.run / "files-in"))
            except OSError:
                return
            back = threading.Thread(
                target=_pump, args=(inner.recv, channel.sendall, channel.close), name="files out", daemon=True
            )
            back.start()
            _pump(channel.recv, inner.sendall, lambda: inner.shutdown(socket.SHUT_RDWR))
            back.join(END)


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], object], over: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # whatever paramiko meets: the other direction ends, too
        while data := read(_CHUNK):
            write(data)
    with contextlib.suppress(Exception):
        over()


def placed(role: Role | None, epoch: Epoch, steps: Planned) -> bool:
    """What was staged here is in place, in this reign, or needn't be."""
    planned, of, states = steps
    if role is not Role.ACTIVE or (planned, of) != (role.value, str(epoch)):
        return False
    return states.get("place", ("done", ""))[0] == "done"
