"""ha_manager's side of heartbeat, scripted: every want is answered at once, as a perfect database would.

Promise: what is measured or tested with it is heartbeat alone, over the same socket and with the same reports as the real one.
Source: docs/protocols.md, "heartbeat" (``want``, ``facts``).
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from pathlib import Path
from typing import Any

from runtime.control import LoopClient
from runtime.errors import HaError
from runtime.priority import hurry
from runtime.timing import Timing


class ScriptedManager(threading.Thread):
    """Connects again whenever heartbeat comes back; ``silent`` makes it hang."""

    def __init__(self, control: Path, timing: Timing | None = None) -> None:
        super().__init__(daemon=True)
        self._control = control
        self._period = (timing or Timing()).report_period
        self._state: dict[str, Any] = {}
        self.reset()
        self.silent = False
        self.stopping = False
        self.wants: list[dict[str, Any]] = []

    def reset(self) -> None:
        """The server was switched off: its database is a standby's again."""
        self._state = {
            "serial": 0, "postgres": "standby", "healthy": True, "because": "", "data": "ready", "lsn": 1000,
            "timeline": self._state.get("timeline", 1), "caught_up": True,
        }  # fmt: skip

    def run(self) -> None:
        hurry(inherited=False)  # this thread: it is never why heartbeat hears nothing, whatever else the machine does
        while not self.stopping:
            with contextlib.suppress(HaError, OSError):
                self._session()
            time.sleep(0.005)

    def _session(self) -> None:
        selector = selectors.DefaultSelector()
        client = LoopClient(self._control, selector, on_push=self._push, on_close=lambda why: None)
        self._client = client
        client.request("manager")
        while not client.closed and not self.stopping:
            for key, mask in selector.select(self._period):
                key.data(mask)
            self._report()
        selector.close()

    def _push(self, message: dict[str, Any]) -> None:
        want = message["want"]
        if not self.wants or self.wants[-1] != want:
            self.wants.append(want)
        state = self._state
        if want["postgres"] != "keep":
            state["postgres"] = want["postgres"]
        if want["phase"] == "promoting":
            state["timeline"] += 1
        follows = want["postgres"] == "standby" and want["follow"][0] > 0
        enforced = want["postgres"] == "primary" and want["names"] == "enforced"
        state |= {
            "serial": want["serial"], "following": want["follow"] if follows else [0, ""], "names": want["names"],
            "proven": 1000 if enforced else -1, "prepared": want["prepare"],
            "shutdown_lsn": 1000 if want["postgres"] == "stopped" else -1,
        }  # fmt: skip

    def _report(self) -> None:
        if not self.silent and not self._client.closed:
            self._client.request("facts", {"facts": self._state})
