"""The first word to heartbeat, while the rest of a starting ha_manager is still being loaded.

Promise: within a tenth of a second heartbeat hears that ha_manager is back, and that it has seen nothing yet: "not healthy,
because it has just started", which counts against this server only after deadtime. So a restart of ha_manager fits into its
allowance although its libraries take longer to load. Few imports. Source: design §4 rule 5; docs/protocols.md ("facts": at
least every 100 ms).
"""

from __future__ import annotations

import json
import socket
import threading

from runtime.priority import REPORTER, hurry

PERIOD = 0.08
FACTS = {"serial": 0, "postgres": "unknown", "healthy": False, "because": "ha_manager has just started and looks at Postgres"}


class Greeting:
    """Reports ``FACTS`` in a thread of its own until ``end``; nothing happens if heartbeat can't be reached."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._over = threading.Event()
        threading.Thread(target=self._run, name="greeting", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def _run(self) -> None:
        hurry(REPORTER, inherited=False)
        try:
            with socket.socket(socket.AF_UNIX) as heartbeat:
                heartbeat.settimeout(1.0)
                heartbeat.connect(self._path)
                heartbeat.sendall(b'{"id":1,"do":"manager","greets":true}\n')
                line = json.dumps({"do": "facts", "facts": FACTS}).encode() + b"\n"
                while True:
                    heartbeat.sendall(line)
                    if self._over.wait(PERIOD):
                        return
        except OSError:
            return  # the link tries again for ever
