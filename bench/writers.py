"""The ledger's clients of one lab: started, continued after a power cut, read, compared with the database.

Promise: their records lie outside the lab, so no power cut takes them; all of them end with the lab or with this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import arpwatch, record
from bench.record import Entry, Verdict, acknowledgements
from lab.api import Lab
from lab.machine import Node
from lab.topology import VIP
from runtime.clock import boottime
from runtime.errors import HaError

QUICK, PLAIN = "ledger", "plain"
TABLES = {QUICK: "ledger", PLAIN: "ledger_plain"}
_LOCAL = "ledger_local"
ALL_TABLES = (*TABLES.values(), _LOCAL)
#: A local client connects in vain for as long as its server is passive: seldom, so that it doesn't cost what is measured
_LOCAL_EVERY = 0.1
_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def local_name(node: str) -> str:
    """The client on ``node`` itself."""
    return f"on-{node}"


class Silent(HaError):
    """A client has had no acknowledgement in time."""


class Writers:
    def __init__(
        self, lab: Lab, folder: Path, seconds: float = 3600.0, host: str = VIP, names: Sequence[str] = tuple(TABLES),
        every: float = 0.005,
    ) -> None:  # fmt: skip
        """``host``: what the clients connect to, as ``bench.ledger`` takes it. ``names``: which of the two there are.
        ``every``: seconds between two inserts of each.
        """
        self._lab = lab
        self._host = host
        self._every = every
        self.names = tuple(names)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._seconds = seconds
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._local: dict[str, str] = {}
        self._tails: dict[str, record.Tail] = {}

    def start(self) -> None:
        """Both clients, and the one that watches who has the VIP."""
        node = self._lab.node("client")
        for name in self.names:
            self.start_client(name)
        if self._host != VIP:
            return
        arp = ["bench.arpwatch", "--address", VIP, "--file", str(self._folder / "arp"), "--seconds", f"{self._seconds:g}"]
        self._run(node, "arp", arp)

    def start_client(self, name: str) -> None:
        """One of the two; anew, if it runs."""
        plain = ["--plain"] if name == PLAIN else []
        words = self._ledger(name, self._host, TABLES[name], "--every", f"{self._every:g}", *plain)
        self._run(self._lab.node("client"), name, words)

    def start_local(self, node: str, every: float = _LOCAL_EVERY) -> None:
        """A client on a policy server itself, over its Unix socket; to be called again after its power came back."""
        name = local_name(node)
        if self.running(name):
            return
        self._local[name] = node
        socket_folder = f"/proc/{self._lab.node(node).pid}/root/run/postgresql"
        self._run(self._lab.node(node), name, self._ledger(name, socket_folder, _LOCAL, "--every", f"{every:g}"))

    def stop_local(self, node: str) -> None:
        self._end(local_name(node))

    def _ledger(self, name: str, host: str, table: str, *more: str) -> list[str]:
        where = ["--host", host, "--table", table, "--client", name, "--file", str(self.file(name))]
        return ["bench.ledger", "write", *where, "--seconds", f"{self._seconds:g}", "--while-stdin", *more]

    def _run(self, node: Node, name: str, words: list[str]) -> None:
        self._end(name)
        log = (self._folder / f"{name}.log").open("ab")
        with log:
            self._running[name] = node.popen(
                [sys.executable, "-m", *words],
                files="host",
                env=_ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def running(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def stop(self) -> None:
        for name in list(self._running):
            self._end(name)

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # --- what they wrote down ---------------------------------------------------------------------------------------------

    def file(self, name: str) -> Path:
        return self._folder / f"{name}.acks"

    def entries(self, name: str) -> list[Entry]:
        """All so far. Read on from where the last call ended: polling must not cost what is being measured."""
        return self._tails.setdefault(name, record.Tail(self.file(name))).entries()

    def claims(self) -> list[arpwatch.Claim]:
        return arpwatch.read(self._folder / "arp")

    def settings(self, name: str) -> str:
        return record.Count.of(self.entries(name)).settings

    def acknowledged_since(self, at: float, name: str, limit: float) -> None:
        """Wait until ``name`` has an acknowledgement later than ``at``. Raises Silent."""
        self.wait(name, lambda entries: acknowledgements(entries)[-1:] > [at], limit)

    def steady(self, limit: float = 20.0, count: int = 40) -> None:
        """Wait until both clients are being acknowledged: some more writes each, none of them slow."""
        since = boottime()
        for name in self.names:
            self.wait(name, lambda entries: sum(at > since for at in acknowledgements(entries)) >= count, limit)

    def wait(self, name: str, condition: Callable[[list[Entry]], bool], limit: float) -> list[Entry]:
        end = boottime() + limit
        while True:
            entries = self.entries(name)
            if condition(entries):
                return entries
            if boottime() > end:
                raise Silent(f"client {name!r} was not acknowledged within {limit:g} s: {self._last_words(name, entries)}")
            time.sleep(0.02)

    def _last_words(self, name: str, entries: list[Entry]) -> str:
        troubles = [f"{entry.kind} {entry.text}" for entry in entries if entry.text and entry.kind != record.Kind.BEGUN]
        log = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return (troubles or log or ["it said nothing"])[-1]

    def verdicts(self) -> list[Verdict]:
        """Every client's record compared with its table, read through the VIP. They may go on writing meanwhile."""
        words = [sys.executable, "-m", "bench.ledger", "verify", "--json", "--host", self._host]
        for name, table in [*((name, TABLES[name]) for name in self.names), *((name, _LOCAL) for name in self._local)]:
            words += ["--file", f"{table}={self.file(name)}"]
        done = self._lab.node("client").run(words, files="host", env=_ENVIRONMENT, check=False, timeout=60.0)
        if not done.stdout:
            raise HaError(f"the ledger can't be read back: {done.stderr.strip()}")
        return [Verdict.from_json(raw) for raw in json.loads(done.stdout)]
