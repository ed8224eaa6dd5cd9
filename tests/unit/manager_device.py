"""A device in a temporary folder for tests of the Manager: real init scripts, real daemons, the real Manager as a process.

Each toy daemon is a real ``runtime.service`` daemon with a control socket; its init script journals what it is asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import pidfile, proctree
from runtime.control import Client
from runtime.errors import ControlError, Refused

SOURCE = Path(__file__).parents[2]

#: Runs without site-packages, which it doesn't need: it is started often.
_TOY = """
import selectors, signal, sys
from runtime import service
from runtime.control import ControlServer
name, folder = sys.argv[1], sys.argv[2]
def body(me):
    import os
    ends = []
    selector = selectors.DefaultSelector()
    me.register(selector, ends.append)
    if os.path.exists(f"{folder}/{name}.refuses"):
        raise service.ConfigError("will not start today")
    if name != "plain":
        ControlServer(f"{folder}/{name}/control", selector, {})
    me.ready()
    while signal.SIGTERM not in ends or os.path.exists(f"{folder}/{name}.stays"):
        for key, mask in selector.select():
            key.data(mask)
    return 0
service.run(name, f"{folder}/{name}/pid", body, foreground=False)
"""

_SCRIPT = """#!/bin/sh
echo "$1 {name} ${{STOP_KIND:-}}" >> {folder}/journal
case "$1" in
start) PYTHONPATH={source} exec {python} -S {folder}/toy.py {name} {folder} ;;
stop)
    [ -e {folder}/{name}.stays ] && exit 0
    pid=$(cat {folder}/{name}/pid) || exit 0
    kill "$pid"
    while grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null; do sleep 0.01; done
    echo "stopped {name}" >> {folder}/journal ;;
esac
"""


class Device:
    """``processes``: rows of (role, name, start order, stop order, further attributes)."""

    def __init__(self, folder: Path, processes: list[tuple[str, str, int, int, str]]) -> None:
        self.folder = folder
        self.names = [row[1] for row in processes]
        self._children: list[subprocess.Popen[bytes]] = []
        (folder / "toy.py").write_text(_TOY)
        (folder / "journal").touch()
        for name in self.names:
            (folder / name).mkdir()
            script = folder / f"{name}.init"
            script.write_text(_SCRIPT.format(name=name, folder=folder, python=sys.executable, source=SOURCE))
            script.chmod(0o755)
        self.configure(processes)
        roles = {row[0] for row in processes}
        self.module("active", dict.fromkeys(roles, True))
        self.module("passive", {role: role == "HA" for role in roles})

    def configure(self, processes: list[tuple[str, str, int, int, str]]) -> None:
        roles: dict[str, list[str]] = {}
        for role, name, start, stop, more in processes:
            control = f'control="{self.folder}/{name}/control"' if name != "plain" else ""
            roles.setdefault(role, []).append(
                f'<process name="{name}" init_script="{self.folder}/{name}.init" pid_file="{self.folder}/{name}/pid" {control} '
                f'start_order="{start}" stop_order="{stop}" {more}/>'
            )
        text = "".join(f'<role name="{role}">{"".join(rows)}</role>' for role, rows in roles.items())
        self._write("etc/Manager/manager.conf.xml", f"<manager>{text}</manager>")

    def module(self, mode: str, roles: dict[str, bool]) -> None:
        path = "var/wasp/conf/Commander/current/module.xml" if mode == "active" else "etc/Manager/commander_passive_module.xml"
        rows = "".join(f'<role name="{name}" enabled="{int(on)}"/>' for name, on in roles.items())
        self._write(path, f'<module name="Commander" active="1"><init><roles>{rows}</roles></init></module>')

    def pair(self, elements: str) -> None:
        """The pair's module.xml: of it the Manager reads where device_uname is answered."""
        self._write("var/wasp/conf/ha/current/module.xml", f'<module name="HA"><init>{elements}</init></module>')

    def _write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    # --- the Manager ------------------------------------------------------------------------------------------------------

    def boot(self) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "manager.daemon", "--root", str(self.folder)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "manager.ctl", "--root", str(self.folder), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        with Client(self.folder / "run/manager/control", 60) as manager:
            return manager.request(do, fields)

    def refusal(self, do: str, **fields: Any) -> str:
        """The words of a refusal; fails if there is none."""
        try:
            answer = self.ask(do, **fields)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"{do} {fields} was not refused: {answer}")

    def process(self, name: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.ask("status")["processes"]
        return next(row for row in rows if row["name"] == name)

    @property
    def manager(self) -> int:
        return int((self.folder / "run/manager/manager.pid").read_text())

    def shut_down(self) -> None:
        pid = self.manager
        os.kill(pid, signal.SIGTERM)
        self.until(lambda: not proctree.alive(pid))

    # --- the processes ----------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        found = pidfile.find(self.folder / name / "pid")
        return found.pid if found else 0

    def answers(self, name: str) -> bool:
        try:
            with Client(self.folder / name / "control", 5) as client:
                client.request("ping")
        except ControlError:
            return False
        return True

    @property
    def journal(self) -> list[str]:
        return [line.strip() for line in (self.folder / "journal").read_text().splitlines()]

    def until(self, condition: Callable[[], object], limit: float = 60) -> float:
        """Seconds until ``condition`` holds; fails when it doesn't within ``limit``."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < limit, f"not within {limit} s: {self.journal}"
            time.sleep(0.002)
        return time.monotonic() - began

    def until_running(self, *names: str) -> None:
        def all_run() -> bool:
            states = {row["name"]: row["state"] for row in self.ask("status")["processes"]}
            return all(states[name] == "running" for name in names)

        self.until(all_run)

    def clean_up(self) -> None:
        """SIGKILL whatever was started here: by pid file, so nobody else's."""
        for path in [self.folder / "run/manager/manager.pid", *(self.folder / name / "pid" for name in self.names)]:
            if (found := pidfile.find(path)) is not None:
                proctree.kill_tree(found.pid, found.start)
