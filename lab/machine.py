"""One machine of a lab: run programs in it, look at its disk, hurt its processes.

Promise: programs run in all of the machine's namespaces, so a power cut ends them too; with ``files="host"`` they keep this
machine's root (the checkout, its virtual environment) but have the node's network and die with it. Source: design §2;
nsenter(1).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from runtime import commands
from runtime.commands import Completed

from .store import LabError, NoSuchLab, Process, Store
from .topology import Machine

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: As the kernel does (path_resolution(7))
_MOST_LINKS = 40
Files = Literal["node", "host"]


class Node:
    def __init__(self, store: Store, machine: Machine) -> None:
        self._store = store
        self.machine = machine
        self.name = machine.name

    @property
    def process(self) -> Process | None:
        """Process 1; None when the power is off."""
        state = self._store.load()
        running = state.machines.get(self.name) if state else None
        return running if running is not None and running.alive else None

    @property
    def is_on(self) -> bool:
        return self.process is not None

    @property
    def pid(self) -> int:
        """Process id of its process 1 on this machine. Raises LabError when the power is off."""
        process = self.process
        if not self._store.path.exists():
            raise NoSuchLab(self._store.name)
        if process is None:
            raise LabError(f"{self.name} is off: python -m lab --name {self._store.name} power-on {self.name}")
        return process.pid

    def address(self, interface: str = "eth0") -> str:
        return next(card.ip for card in self.machine.interfaces if card.name == interface)

    # --- programs -----------------------------------------------------------------------------------------------------

    def argv(self, argv: Sequence[str], *, files: Files = "node", env: dict[str, str] | None = None) -> list[str]:
        """The command line that runs ``argv`` in the machine."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--pid"]
        enter += ["--mount", "--root", "--wd"] if files == "node" else []
        variables = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")} | (env or {})
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        timeout: float = 60.0,
        check: bool = True,
        files: Files = "node",
        env: dict[str, str] | None = None,
    ) -> Completed:
        """Run a program: stdout, stderr, code, seconds. Raises CommandFailed (out of time; with ``check`` also code ≠ 0)."""
        return commands.run(self.argv(argv, files=files, env=env), input=input, timeout=timeout, check=check)

    def sh(self, script: str, *, timeout: float = 60.0, check: bool = True) -> str:
        """Run a shell script; its standard output."""
        return self.run(["/bin/sh", "-c", script], timeout=timeout, check=check).stdout

    def popen(
        self, argv: Sequence[str], *, files: Files = "node", env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[Any]:
        """A program that runs on; when the returned process is terminated or killed, the program gets SIGTERM."""
        return subprocess.Popen(self.argv(["setpriv", "--pdeathsig", "TERM", *argv], files=files, env=env), **more)

    def exec(self, argv: Sequence[str]) -> None:
        """Become a program in the machine, with this terminal. Does not return."""
        words = self.argv(list(argv) or ["/bin/bash", "-l"])
        os.execvp(words[0], words)

    # --- files --------------------------------------------------------------------------------------------------------

    def path(self, path: str) -> Path:
        """The file as seen from this machine, links in the node followed. Off: what its disk holds (not what is as installed).

        Not for /proc, which answers to whoever looks.
        """
        process = self.process
        root = Path(f"/proc/{process.pid}/root") if process else self._store.disk(self.name) / "upper"
        return _inside(root, path)

    def read(self, path: str) -> str:
        return self.path(path).read_text(errors="replace")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, with the folders above it."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def log(self) -> str:
        """Its system log, also when it is off."""
        try:
            return self.read("/var/log/syslog")
        except FileNotFoundError:
            return ""

    # --- processes ----------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, list[str]]:
        """Process ids on this machine → command lines, of everything that runs in the node but its process 1."""
        mine = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            try:
                if (entry / "ns" / "pid").stat().st_ino == mine:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue
        return found

    def find(self, process: str) -> list[int]:
        """Ids, on this machine, of what ``process`` names: its pid file in /run, else a daemon's module or a program's name.

        Of a family of processes of one name (Postgres), the one at the top.
        """
        running = self.processes()
        by_file = self._from_pid_file(process, running)
        if by_file:
            return by_file
        matches = {pid for pid, argv in running.items() if _is(process, pid, argv)}
        return sorted(pid for pid in matches if _parent(pid) not in matches)

    def kill(self, process: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to what ``find`` finds. Raises LabError when there is nothing."""
        found = self.find(process)
        if not found:
            raise LabError(f"no {process!r} runs on {self.name}")
        for pid in found:
            os.kill(pid, number)
        if number != signal.SIGSTOP:
            wake_entrances({self.pid})
        return found

    def _from_pid_file(self, process: str, running: dict[int, list[str]]) -> list[int]:
        inside = set()
        for place in (f"run/{process}/{process}.pid", f"run/ha_manager/{process}.pid", f"run/{process}.pid"):
            text = self.path(place)
            if text.is_file():
                inside |= {int(word) for word in text.read_text().split()[:1] if word.isdigit()}
        return sorted(pid for pid in running if _inner(pid) in inside)


def wake_entrances(machines: set[int]) -> None:
    """Let every stopped nsenter into these machines (given by process 1) go on, so that it reaps its child.

    nsenter stops itself when its child is stopped; a child killed then would stay a zombie, and its machine with it.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if (
                words[:2] == ["nsenter", "--target"]
                and int(words[2]) in machines
                and _status(int(entry.name), "State")[0] == "T"
            ):
                os.kill(int(entry.name), signal.SIGCONT)
        except (OSError, ValueError, IndexError):
            continue


def _inside(root: Path, path: str) -> Path:
    """``path`` under ``root`` with every symbolic link resolved as if ``root`` were /, so that none leads out of it."""
    here, left, links = root, [part for part in path.split("/") if part], 0
    while left:
        part = left.pop(0)
        if part == "..":
            here = here if here == root else here.parent
            continue
        here = here / part
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise LabError(f"{path}: too many symbolic links")
            target = os.readlink(here)
            here = root if target.startswith("/") else here.parent
            left = [word for word in target.split("/") if word not in ("", ".")] + left
    return here


def _is(process: str, pid: int, argv: list[str]) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False
    return name == process or f"{process}.daemon" in argv or os.path.basename(argv[0] if argv else "") == process


def _status(pid: int, field: str) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[1:] for line in lines if line.startswith(field + ":")), [])


def _inner(pid: int) -> int:
    """The process id that the process has in its own namespace."""
    return int((_status(pid, "NSpid") or ["0"])[-1])


def _parent(pid: int) -> int:
    return int((_status(pid, "PPid") or ["0"])[0])
