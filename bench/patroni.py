"""Patroni on the lab's two servers, as fast as it may be set, measured like ours: power cut of the primary, planned switchover.

Promise: the version of ``VERSION`` from PyPI and Debian's etcd, both in folders of the bench's own; an etcd cluster of three
(the two servers and the gateway), synchronous replication as ours has it, and the least that Patroni accepts: ttl 20,
loop_wait 1, retry_timeout 3. There is no virtual IP: the clients know both servers, try them in turn, each with the same limits
as ours, and go on with the one that takes writes; this is the fastest that a client of Patroni's can be, without a proxy
between. A plain libpq client has no part in it: after a power cut it waits for minutes for an answer from an address that
nobody takes over. Source: issue "Postgres: no acknowledged write lost …"; facts/postgres.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import debian
from bench.drill import Measured, Result
from bench.ledger import tables
from bench.pair import SERVERS, NotSo, other
from bench.writers import ALL_TABLES, Silent, Writers
from lab.api import Lab
from lab.store import base
from runtime.clock import boottime
from runtime.errors import HaError

VERSION = "4.1.5"
_PACKAGES = (f"patroni[etcd3]=={VERSION}", "psycopg[binary]>=3.2,<4")
#: The least that Patroni accepts, and what makes it promise what ours does
SETTINGS = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": True}
_WITNESS = "gateway"
_LAN = "192.168.120.0/24"
_LIMIT = 90.0
#: Patroni looks for its Postgres in /proc (psutil), by its number in the machine, which is another process in this machine's
_OWN_PROC = ("unshare", "--mount", "--mount-proc")
_ASK = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=sys.argv[2].encode() if len(sys.argv) > 2 else None)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def provide(say: Callable[[str], None]) -> tuple[Path, Path]:
    """Python with Patroni, and etcd; installed once, below the lab's folder."""
    digest = hashlib.sha256(" ".join((*_PACKAGES, sys.version)).encode()).hexdigest()[:12]
    folder = base() / "bench" / f"patroni-{digest}"
    if not folder.is_dir():
        say(f"Installing Patroni {VERSION} from PyPI into a folder of its own (once)")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
        try:
            draft.chmod(0o755)
            _run([sys.executable, "-m", "venv", str(draft / "venv")])
            _run([str(draft / "venv/bin/python"), "-m", "pip", "install", "--quiet", *_PACKAGES])
            draft.rename(folder)  # programs in bin would still name the draft: only its python is used
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder / "venv/bin/python", debian.provide(("etcd-server",), say) / "usr/bin/etcd"


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise HaError(f"{' '.join(argv[1:])} failed:\n{(done.stdout + done.stderr).strip()[-1000:]}")


class Patroni:
    """The cluster: etcd on three machines, Patroni on two. Everything that they write is in ``folder``."""

    def __init__(self, lab: Lab, folder: Path, say: Callable[[str], None]) -> None:
        self._lab = lab
        self._folder = folder
        self.say = say
        self._python, self._etcd = provide(say)
        self._addresses = {node: lab.node(node).address() for node in (*SERVERS, _WITNESS)}

    def start(self) -> None:
        """A primary with its standby in sync, and the ledger's tables."""
        self.say(f"Starting etcd on {', '.join(self._addresses)} and Patroni on {' and '.join(SERVERS)}: {SETTINGS}")
        for node in self._addresses:
            self._start_etcd(node)
        for node in SERVERS:
            self._start_patroni(node)
        self.settle()
        statements = ["CREATE ROLE ledger LOGIN", "CREATE DATABASE policy_server"]
        self._sql("postgres", statements)
        grants = [f"GRANT SELECT, INSERT ON {table} TO ledger" for table in ALL_TABLES]
        self._sql("policy_server", [*tables(ALL_TABLES), *grants])

    def power_on(self, node: str) -> None:
        self._lab.power_on(node)
        self._start_etcd(node)
        self._start_patroni(node)

    def _start_etcd(self, node: str) -> None:
        cluster = ",".join(f"{name}=http://{address}:2380" for name, address in self._addresses.items())
        client, peer = f"http://{self._addresses[node]}:2379", f"http://{self._addresses[node]}:2380"
        argv = [
            str(self._etcd), "--name", node, "--data-dir", str(self._of(node) / "etcd"), "--initial-cluster", cluster,
            "--initial-advertise-peer-urls", peer, "--listen-peer-urls", peer,
            "--advertise-client-urls", client, "--listen-client-urls", client, "--log-level", "error",
        ]  # fmt: skip
        self._popen(node, "etcd", argv)

    def _start_patroni(self, node: str) -> None:
        folder = self._of(node)
        (folder / "patroni.yml").write_text(json.dumps(self._settings(node)))  # JSON is YAML
        argv = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
        self._popen(node, "patroni", [*_OWN_PROC, *argv, str(self._python), "-m", "patroni", str(folder / "patroni.yml")])

    def _popen(self, node: str, name: str, argv: list[str]) -> None:
        log = (self._of(node) / f"{name}.log").open("ab")
        with log:
            self._lab.node(node).popen(argv, files="host", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _of(self, node: str) -> Path:
        folder = self._folder / node
        if not folder.exists():
            user = pwd.getpwnam("postgres")
            for each in (folder, folder / "etcd"):
                each.mkdir(mode=0o700 if each.name == "etcd" else 0o755)
            os.chown(folder, user.pw_uid, user.pw_gid)
        return folder

    def _settings(self, node: str) -> dict[str, Any]:
        address, folder = self._addresses[node], self._of(node)
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[4]))[-1]
        return {
            "scope": "bench",
            "name": node,
            "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
            "etcd3": {"hosts": [f"{each}:2379" for each in self._addresses.values()]},
            "bootstrap": {
                "dcs": SETTINGS | {"postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on"}}},
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{address}:5432",
                "connect_address": f"{address}:5432",
                "data_dir": str(folder / "data"),
                "bin_dir": str(binaries),
                "pgpass": str(folder / "pgpass"),
                "pg_hba": [
                    "local all all trust",
                    "host all all 192.168.120.0/24 trust",
                    "host replication all 192.168.120.0/24 trust",
                ],
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
                # mmap: what a killed one leaves in this machine's /dev/shm would stay there, a megabyte each
                "parameters": {"unix_socket_directories": str(folder), "dynamic_shared_memory_type": "mmap"},
            },
        }

    # --- asking it --------------------------------------------------------------------------------------------------------

    def members(self) -> dict[str, Mapping[str, Any]]:
        """As any server that answers says; nothing if none does."""
        for node in SERVERS:
            try:
                return {str(one["name"]): one for one in json.loads(self._ask(node, "cluster")).get("members", [])}
            except (HaError, ValueError):
                continue
        return {}

    def _ask(self, node: str, path: str, body: Mapping[str, Any] | None = None) -> str:
        words = [sys.executable, "-I", "-c", _ASK, f"http://{self._addresses[node]}:8008/{path}"]
        words += [json.dumps(body)] if body is not None else []
        return self._lab.node("client").run(words, files="host", timeout=90.0).stdout

    def leader(self, members: Mapping[str, Mapping[str, Any]]) -> str:
        """The server that is primary while the other one follows in sync; "" if it is not so."""
        for node, one in members.items():
            mate = members.get(other(node), {})
            running = one.get("role") == "leader" and one.get("state") == "running"
            if running and mate.get("role") == "sync_standby" and mate.get("state") == "streaming":
                return node
        return ""

    def settle(self) -> str:
        """Wait for that. Raises NotSo."""
        end = boottime() + _LIMIT
        while not (leader := self.leader(members := self.members())):
            if boottime() > end:
                raise NotSo(f"Patroni is not in order after {_LIMIT:g} s: {members}\n{self.last_words()}")
            time.sleep(0.5)
        return leader

    def last_words(self) -> str:
        """Of every log of theirs."""
        logs = sorted(self._folder.glob("*/*.log"))
        return "\n".join(f"--- {log.parent.name} {log.name}\n{log.read_text(errors='replace')[-800:]}" for log in logs)

    def switchover(self, leader: str) -> None:
        self._ask(leader, "switchover", {"leader": leader, "candidate": other(leader)})

    def _sql(self, database: str, statements: list[str]) -> None:
        socket = self._of(self.settle())
        words = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(socket), "-U", "postgres", "-d", database]
        subprocess.run([*words, "-f", "-"], input=";\n".join(statements) + ";\n", text=True, check=True, timeout=60)

    @property
    def hosts(self) -> str:
        return ",".join(self._addresses[node] for node in SERVERS)


class PatroniDrill(Measured):
    """The same events, told by the same kind of clients."""

    def __init__(self, patroni: Patroni, writers: Writers) -> None:
        super().__init__(writers)
        self._patroni = patroni

    def round(self, lab: Lab) -> list[Result]:
        return [crash := self.crash(lab), self.rejoin(crash.node), self.switchover()]

    def crash(self, lab: Lab) -> Result:
        node = self._ready()
        self._patroni.say(f"Cutting the power of {node}, Patroni's primary")
        at = lab.power_off(node) + boottime() - time.monotonic()
        return self._resumed(Result("crash", f"Patroni: power cut of {node}, the primary", node, at=at), at)

    def rejoin(self, node: str) -> Result:
        at = boottime()
        self._patroni.power_on(node)
        self._patroni.settle()
        result = Result("rejoin", f"Patroni: return of {node}", node, at=at, seconds=boottime() - at)
        return self._resumed(result, at)

    def switchover(self) -> Result:
        node = self._ready()
        self._patroni.say(f"Patroni's switchover from {node}")
        at = boottime()
        self._patroni.switchover(node)
        self._patroni.settle()
        result = Result("switchover", f"Patroni: switchover from {node}", node, at=at, seconds=boottime() - at)
        return self._resumed(result, boottime())

    def _ready(self) -> str:
        leader = self._patroni.settle()
        self.writers.steady()
        return leader

    def _resumed(self, result: Result, since: float) -> Result:
        try:
            for name in self.writers.names:
                self.writers.acknowledged_since(since, name, _LIMIT)
            self.writers.steady(_LIMIT)
        except Silent as wrong:
            raise NotSo(f"{result.title}: {wrong}\n{self._patroni.members()}\n{self._patroni.last_words()}") from wrong
        self._outages(result)
        return self._finish(result)
