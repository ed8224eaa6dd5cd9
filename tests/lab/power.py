"""A power switch for lab nodes, out of the nodes' reach by network: what a fence agent speaks to."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class PowerSwitch:
    """``off[plug]`` cuts a plug's power; who doesn't say the password, or names no plug, is refused."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.off: Mapping[str, Callable[[], None]] = {}
        #: plugs whose power is cut, and everything that was asked, passwords left out
        self.dark: set[str] = set()
        self.asked: list[str] = []
        self.broken = False

    def ask(self, line: str) -> str:
        password, _, request = line.partition(" ")
        self.asked.append(request)
        action, _, plug = request.partition(" ")
        if password != self.password:
            return "wrong password"
        if self.broken:
            return "the switch is broken"
        if action == "monitor":
            return "done"
        if plug not in self.off:
            return "no such plug"
        if action == "off":
            self.off[plug]()
            self.dark.add(plug)
            return "done"
        return "off" if plug in self.dark else "on"


@contextmanager
def power_switch(socket: Path, password: str) -> Iterator[PowerSwitch]:
    switch = PowerSwitch(password)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write((switch.ask(self.rfile.readline().decode().strip()) + "\n").encode())

    with socketserver.UnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield switch
        finally:
            server.shutdown()
            thread.join()
